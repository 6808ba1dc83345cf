/* leader.c - see leader.h.
 *
 * The machine has no states of its own but a write under way and what it waits
 * for after one; everything else is read off the last picture.  A plan is made
 * again only when what it depends on has changed: large racks take a while, and
 * most looks show nothing new. */
#include "coordinator/leader.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "coordinator/leader_internal.h"
#include "engine/err.h"

#define SETTLE_MS 1000
#define SETTLE_MAX_MS 5000
#define REPLACE_AFTER_MS 15000
#define UNKNOWN_MS 10000
#define BEHIND_MS 3000
#define COMPACT_MS 300000
#define RETRY_MS 500 /* after a write that was refused; doubles */
#define RETRY_MOST_MS 8000
#define BALANCE_EVERY_MS 2000
#define HEAT_WAIT_MS 4000
#define STILL_MS 60000

static uint32_t or_default(uint32_t value, uint32_t otherwise) {
    return value != 0 ? value : otherwise;
}

int leader_new(leader **out, const leader_config *c) {
    *out = NULL;
    leader *l = calloc(1, sizeof(*l));
    if (l == NULL) return -ENOMEM;

    leader_config *own = &l->config;
    *own = *c;
    own->settle_ms = or_default(c->settle_ms, SETTLE_MS);
    own->settle_max_ms = or_default(c->settle_max_ms, SETTLE_MAX_MS);
    own->replace_after_ms = or_default(c->replace_after_ms, REPLACE_AFTER_MS);
    own->unknown_ms = or_default(c->unknown_ms, UNKNOWN_MS);
    own->behind_ms = or_default(c->behind_ms, BEHIND_MS);
    own->compact_ms = or_default(c->compact_ms, COMPACT_MS);
    own->balance_every_ms = or_default(c->balance_every_ms, BALANCE_EVERY_MS);
    own->heat_wait_ms = or_default(c->heat_wait_ms, HEAT_WAIT_MS);
    own->still_ms = or_default(c->still_ms, STILL_MS);
    snprintf(l->name, sizeof(l->name), "%s", c->name);
    own->name = l->name;
    l->retry_ms = RETRY_MS;
    l->why = "";
    l->balance.reached = true;
    *out = l;
    return 0;
}

void leader_free(leader *l) {
    if (l == NULL) return;
    planner_step_fini(&l->step);
    leader_nodes_fini(&l->nodes);
    leader_balance_fini(l);
    leader_history_fini(&l->history);
    leader_peers_fini(&l->peers);
    free(l);
}

/* ---- looking ---- */

static uint64_t newer(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static uint64_t shown_epoch(const rack_view *v) {
    const rack_placement *now = rack_view_placement(v);
    return now != NULL ? rack_placement_epoch(now) : 0;
}

/* Is there a newer placement than the view shows?  Our own writes, and what
 * nodes answer, come by other ways than the watch. */
static void note_behind(leader *l, uint64_t now_ms, const leader_picture *p) {
    uint64_t known = newer(l->written_epoch, p->told_epoch);
    bool live = p->view != NULL && p->live_since_ms != 0;
    if (!live || p->term == 0 || known <= shown_epoch(p->view)) {
        l->behind_since_ms = 0;
    } else if (l->behind_since_ms == 0) {
        l->behind_since_ms = now_ms;
    }
}

/* Why the leader may not write; "" if it may, or is none. */
static const char *find_obstacle(const leader *l, uint64_t now_ms,
                                 const leader_picture *p) {
    if (p->term == 0 || p->view == NULL || p->model == NULL) return "";
    const rack_placement *now = rack_view_placement(p->view);
    int64_t revision = rack_view_epoch_revision(p->view);
    bool lost = l->behind_since_ms != 0 &&
                now_ms >= l->behind_since_ms + l->config.behind_ms;

    if (rack_view_rolled_back(p->view)) {
        return "etcd's placement is older than the one in force: nothing is "
               "changed until an operator recovers it";
    }
    if (lost || leader_nodes_epoch(p->view) > shown_epoch(p->view)) {
        return "the rack knows a newer placement than etcd has: nothing is "
               "changed until an operator recovers it";
    }
    if (leader_nodes_at_odds(p->view)) {
        return "the rack knows another placement under the number that etcd "
               "has: nothing is changed until an operator recovers it";
    }
    int64_t accepted = now != NULL ? rack_placement_head(now)->mod_revision : 0;
    if (accepted != revision) {
        return "the placement in etcd cannot be used: nothing is written over "
               "it";
    }
    if (now != NULL && memcmp(rack_placement_head(now)->model, p->model->model,
                              RECORD_MODEL) != 0) {
        return "the placement in etcd is of another model";
    }
    return "";
}

/* Etcd that is back may be another store, which knows of the others what it
 * knew long ago: they get the time to say what they know now. */
static void note_usable(leader *l, uint64_t now_ms, uint64_t live_since_ms) {
    uint64_t usable = leader_nodes_usable(&l->nodes);
    if (usable == l->usable && live_since_ms == l->picture.live_since_ms)
        return;
    l->usable = usable;
    l->changed_ms = now_ms;
    if (!l->unsettled) l->changing_since_ms = now_ms;
    l->unsettled = true;
}

/* Far more names than a rack has: begin anew. */
static void forget_peers(leader *l) {
    leader_balance_forget(l);
    leader_history_fini(&l->history);
    leader_peers_fini(&l->peers);
}

int leader_look(leader *l, uint64_t now_ms, const leader_picture *p) {
    bool readable = p->view != NULL && p->model != NULL;
    if (l->peers.n > LEADER_PEERS_MAX / 2) forget_peers(l);
    if (readable && p->live_since_ms != 0) {
        int rc = leader_nodes_read(&l->nodes, now_ms, p->view, p->model,
                                   &l->config.profile);
        if (rc < 0) return rc;
        note_usable(l, now_ms, p->live_since_ms);
    }
    if (readable) {
        int rc = leader_history_look(&l->history, &l->peers, now_ms,
                                     l->config.still_ms,
                                     rack_view_placement(p->view));
        if (rc < 0) return rc;
    }
    if (p->term != l->picture.term) {
        l->term_since_ms = now_ms;
        l->mark_ms = 0;
        l->retry_ms = RETRY_MS;
        leader_balance_forget(l);
    }
    l->picture = *p;
    if (readable) leader_balance_adopt(l);
    note_behind(l, now_ms, p);
    l->why = find_obstacle(l, now_ms, p);
    return 0;
}

int leader_set_speed(leader *l, uint64_t now_ms, const char *name,
                     double speed) {
    uint32_t number;
    int rc = leader_peers_number(&l->peers, name, &number);
    if (rc < 0) return rc;
    leader_peer_set_speed(&l->peers.items[number], now_ms, speed);
    return 0;
}

uint64_t leader_watching_since(const leader *l) {
    uint64_t live = l->picture.live_since_ms;
    return live > l->term_since_ms ? live : l->term_since_ms;
}

const planner_input *leader_input(leader *l, uint64_t now_ms) {
    const leader_picture *p = &l->picture;
    if (p->view == NULL || p->model == NULL) return NULL;
    planner_node *nodes =
        leader_nodes_give(&l->nodes, now_ms, leader_watching_since(l),
                          l->config.replace_after_ms);
    for (uint32_t i = 0; i < l->nodes.n; i++) {
        uint32_t number;
        int rc = leader_peers_number(&l->peers, nodes[i].name, &number);
        if (rc == 0) nodes[i].speed = l->peers.items[number].speed;
    }
    l->input = (planner_input){.model = p->model,
                               .now = rack_view_placement(p->view),
                               .nodes = nodes,
                               .n_nodes = l->nodes.n,
                               .incarnation = 1};
    return &l->input;
}

const char *leader_why(const leader *l) {
    return l->why;
}

uint64_t leader_known_epoch(const leader *l) {
    const leader_picture *p = &l->picture;
    uint64_t reported = p->view != NULL ? leader_nodes_epoch(p->view) : 0;
    return newer(reported, newer(l->written_epoch, p->told_epoch));
}

bool leader_at_odds(const leader *l) {
    const rack_view *view = l->picture.view;
    return view != NULL && leader_nodes_at_odds(view);
}

/* ---- after a write ---- */

/* The revision that was written over stands no more, or etcd was listed anew,
 * or time is up. */
static bool is_held(leader *l, uint64_t now_ms) {
    const leader_picture *p = &l->picture;
    if (!l->held) return false;
    l->held = now_ms < l->held_until_ms &&
              rack_view_epoch_revision(p->view) == l->written_over &&
              p->live_since_ms <= l->held_since_ms;
    return l->held;
}

void leader_wrote(leader *l, uint64_t now_ms, leader_outcome o) {
    assert(l->writing);
    l->writing = false;
    if (o == LEADER_DONE) {
        uint64_t epoch =
            epoch_pack(l->step.head.incarnation, l->step.head.epoch);
        l->written_epoch = newer(l->written_epoch, epoch);
    }
    planner_step_fini(&l->step);
    l->held = true;
    l->held_since_ms = now_ms;
    l->held_until_ms = now_ms + l->config.unknown_ms;
    if (o == LEADER_DONE) l->retry_ms = RETRY_MS;
    if (o != LEADER_NOT) return;
    l->held_until_ms = now_ms + l->retry_ms;
    l->retry_ms *= 2;
    if (l->retry_ms > RETRY_MOST_MS) l->retry_ms = RETRY_MOST_MS;
}

/* ---- compacting ---- */

static int64_t later(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* The newest revision that the view shows.  Deletions are not seen here: it may
 * be a little old, never too new. */
static int64_t newest_revision(const rack_view *v) {
    int64_t newest = rack_view_epoch_revision(v);
    size_t n;
    const node_record *nodes = rack_view_nodes(v, &n);
    for (size_t i = 0; i < n; i++) {
        const ready_record *ready = rack_view_ready(v, nodes[i].name);
        newest = later(newest, nodes[i].mod_revision);
        if (ready != NULL) newest = later(newest, ready->mod_revision);
    }
    const coordinator_record *coordinators = rack_view_coordinators(v, &n);
    for (size_t i = 0; i < n; i++)
        newest = later(newest, coordinators[i].mod_revision);
    return newest;
}

/* The revision to compact now; 0: none. */
static int64_t revision_to_compact(leader *l, uint64_t now_ms) {
    if (l->mark_ms != 0 && now_ms < l->mark_ms + l->config.compact_ms) {
        return 0;
    }
    int64_t newest = newest_revision(l->picture.view);
    int64_t due = l->mark_ms != 0 ? l->mark_revision : 0;
    /* An etcd whose revisions went back has other ones now. */
    if (due > newest) due = 0;
    l->mark_ms = now_ms;
    l->mark_revision = newest;
    return due;
}

/* ---- planning ---- */

/* All that a plan depends on. */
static uint64_t digest_input(const leader *l, const planner_input *in) {
    const uint64_t rest[] = {(uint64_t)(uintptr_t)in->model, l->balance.number,
                             (uint64_t)l->picture.term};
    uint64_t h = XXH3_64bits(rest, sizeof(rest));
    if (in->now != NULL) h ^= rack_placement_epoch(in->now);
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        const planner_node *n = &in->nodes[i];
        const uint64_t figures[] = {n->memory_bytes, n->ready_epoch, n->live,
                                    n->missing, n->draining};
        h = XXH3_64bits_withSeed(n->name, strlen(n->name), h);
        h = XXH3_64bits_withSeed(figures, sizeof(figures), h);
    }
    return h;
}

static int make_plan_job(leader *l, const planner_input *in, uint64_t digest,
                         leader_job **out) {
    leader_job *j;
    int rc = leader_job_new(&j, LEADER_JOB_PLAN, in);
    if (rc < 0) return rc;
    rc = leader_balance_target(l, in, &j->target);
    if (rc < 0) {
        leader_job_free(j);
        return rc;
    }
    if (j->target.n_units > 0) j->input.target = &j->target;
    j->digest = digest;
    *out = j;
    return 0;
}

/* A plan came back, for the picture as it is. */
static int take_plan(leader *l, uint64_t now_ms, leader_job *j) {
    l->retry_at_ms = 0;
    if (j->rc < 0) {
        l->retry_at_ms = now_ms + RETRY_MOST_MS;
        return j->rc;
    }
    if (j->step.n_layers == 0) {
        l->planned = true;
        l->planned_for = j->digest;
        return 0;
    }
    l->step = j->step;
    j->step = (planner_step){0};
    l->has_step = true;
    l->step_for = j->digest;
    return 0;
}

/* ---- the next thing to do ---- */

static uint64_t sooner(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static bool may_write(const leader *l) {
    const leader_picture *p = &l->picture;
    return p->term != 0 && p->view != NULL && p->model != NULL &&
           p->live_since_ms != 0 && l->behind_since_ms == 0 &&
           l->why[0] == '\0';
}

/* When the set of nodes will have been still for long enough. */
static uint64_t settled_at(const leader *l) {
    return sooner(l->changed_ms + l->config.settle_ms,
                  l->changing_since_ms + l->config.settle_max_ms);
}

static void write_step(leader *l, leader_action *out) {
    snprintf(l->step.head.writer, sizeof(l->step.head.writer), "%s", l->name);
    l->step.head.term = l->picture.term;
    l->has_step = false;
    l->writing = true;
    l->written_over = rack_view_epoch_revision(l->picture.view);
    out->kind = LEADER_WRITE;
    out->step = &l->step;
    out->term = l->picture.term;
    out->expected_revision = l->written_over;
}

static void think(leader *l, leader_job *j, uint64_t digest,
                  leader_action *out) {
    j->digest = digest;
    l->thinking = true;
    out->kind = LEADER_THINK;
    out->job = j;
}

/* What a step was planned for is not so any more. */
static void drop_stale_step(leader *l, uint64_t digest) {
    if (!l->has_step || l->step_for == digest) return;
    planner_step_fini(&l->step);
    l->has_step = false;
}

/* Ask, plan, write, or ask again; or nothing, but when to come back. */
static int next_step(leader *l, uint64_t now_ms, leader_action *out) {
    const planner_input *in = leader_input(l, now_ms);
    leader_job *job = NULL;
    leader_next_step step;
    uint64_t wake_ms = UINT64_MAX;

    int rc = leader_balance_before(l, now_ms, in, &step, &job, &wake_ms);
    uint64_t digest = digest_input(l, in);
    drop_stale_step(l, digest);
    if (rc < 0) return rc;
    if (step == LEADER_GO && l->has_step) {
        write_step(l, out);
        return 0;
    }
    if (step == LEADER_GO) {
        if (!l->planned || digest != l->planned_for) {
            rc = make_plan_job(l, in, digest, &job);
        } else {
            rc = leader_balance_after(l, now_ms, in, &step, &job, &wake_ms);
        }
        if (rc < 0) return rc;
    }
    if (job != NULL) think(l, job, digest, out);
    out->wake_ms = sooner(out->wake_ms, wake_ms);
    return 0;
}

int leader_next(leader *l, uint64_t now_ms, leader_action *out) {
    *out = (leader_action){.kind = LEADER_WAIT, .wake_ms = UINT64_MAX};
    if (l->behind_since_ms != 0 && l->why[0] == '\0') {
        out->wake_ms = l->behind_since_ms + l->config.behind_ms;
    }
    if (l->writing || !may_write(l)) return 0;

    out->revision = revision_to_compact(l, now_ms);
    if (out->revision != 0) {
        out->kind = LEADER_COMPACT;
        return 0;
    }
    out->wake_ms = l->mark_ms + l->config.compact_ms;
    if (l->thinking) return 0;
    if (is_held(l, now_ms)) {
        out->wake_ms = sooner(out->wake_ms, l->held_until_ms);
        return 0;
    }
    if (l->unsettled && now_ms < settled_at(l)) {
        out->wake_ms = sooner(out->wake_ms, settled_at(l));
        return 0;
    }
    l->unsettled = false;
    if (now_ms < l->retry_at_ms) {
        out->wake_ms = sooner(out->wake_ms, l->retry_at_ms);
        return 0;
    }
    int rc = next_step(l, now_ms, out);
    if (rc < 0) {
        l->retry_at_ms = now_ms + RETRY_MOST_MS;
        out->wake_ms = sooner(out->wake_ms, l->retry_at_ms);
    }
    out->wake_ms =
        sooner(out->wake_ms, leader_nodes_deadline(&l->nodes, now_ms,
                                                   leader_watching_since(l),
                                                   l->config.replace_after_ms));
    return rc;
}

int leader_thought(leader *l, uint64_t now_ms, leader_job *j) {
    int rc = 0;
    assert(l->thinking);
    l->thinking = false;
    const planner_input *in = may_write(l) ? leader_input(l, now_ms) : NULL;
    if (in != NULL && digest_input(l, in) == j->digest) {
        rc = j->kind == LEADER_JOB_PLAN ? take_plan(l, now_ms, j)
                                        : leader_balance_thought(l, now_ms, j);
    }
    leader_job_free(j);
    return rc;
}
