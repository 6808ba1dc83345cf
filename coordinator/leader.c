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
#include "coordinator/leader_nodes.h"
#include "engine/err.h"

#define SETTLE_MS 1000
#define SETTLE_MAX_MS 5000
#define REPLACE_AFTER_MS 15000
#define UNKNOWN_MS 10000
#define COMPACT_MS 300000
#define RETRY_MS 500 /* after a write that was refused; doubles */
#define RETRY_MOST_MS 8000

struct leader {
    leader_config config;
    char name[RECORD_NAME];
    leader_picture picture;
    const char *why;
    leader_nodes nodes;
    planner_input input;

    uint64_t term_since_ms;

    /* Usable nodes come and go. */
    uint64_t usable; /* a digest of their set */
    bool unsettled;
    uint64_t changing_since_ms, changed_ms;

    /* The write under way, and what is waited for after it. */
    bool writing;
    planner_step step;
    int64_t written_over; /* the revision that it replaces */
    bool held;
    uint64_t held_since_ms, held_until_ms;
    uint32_t retry_ms;

    /* The last plan said that there is nothing to do. */
    bool planned;
    uint64_t planned_for; /* a digest of what it depends on */
    uint64_t retry_at_ms; /* after a plan that failed; 0: it did not */

    /* What is compacted next, and when it was the newest. */
    int64_t mark_revision;
    uint64_t mark_ms;
};

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
    own->compact_ms = or_default(c->compact_ms, COMPACT_MS);
    snprintf(l->name, sizeof(l->name), "%s", c->name);
    own->name = l->name;
    l->retry_ms = RETRY_MS;
    l->why = "";
    *out = l;
    return 0;
}

void leader_free(leader *l) {
    if (l == NULL) return;
    planner_step_fini(&l->step);
    leader_nodes_fini(&l->nodes);
    free(l);
}

/* ---- looking ---- */

/* Why the leader may not write; "" if it may, or is none. */
static const char *find_obstacle(const leader_picture *p) {
    if (p->term == 0 || p->view == NULL || p->model == NULL) return "";
    const rack_placement *now = rack_view_placement(p->view);
    int64_t revision = rack_view_epoch_revision(p->view);

    if (rack_view_rolled_back(p->view)) {
        return "etcd's placement is older than the one in force: nothing is "
               "changed until an operator recovers it";
    }
    if (leader_nodes_epoch(p->view) >
        (now != NULL ? rack_placement_epoch(now) : 0)) {
        return "nodes know a newer placement than etcd has: nothing is changed "
               "until an operator recovers it";
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

static void note_usable(leader *l, uint64_t now_ms) {
    uint64_t usable = leader_nodes_usable(&l->nodes);
    if (usable == l->usable) return;
    l->usable = usable;
    l->changed_ms = now_ms;
    if (!l->unsettled) l->changing_since_ms = now_ms;
    l->unsettled = true;
}

int leader_look(leader *l, uint64_t now_ms, const leader_picture *p) {
    bool readable = p->view != NULL && p->model != NULL;
    if (readable && p->live_since_ms != 0) {
        int rc = leader_nodes_read(&l->nodes, now_ms, p->view, p->model,
                                   &l->config.profile);
        if (rc < 0) return rc;
        note_usable(l, now_ms);
    }
    if (p->term != l->picture.term) {
        l->term_since_ms = now_ms;
        l->mark_ms = 0;
        l->retry_ms = RETRY_MS;
    }
    l->picture = *p;
    l->why = find_obstacle(p);
    return 0;
}

/* From when on a node's absence counts: nobody knows what happened before. */
static uint64_t watching_since(const leader *l) {
    uint64_t live = l->picture.live_since_ms;
    return live > l->term_since_ms ? live : l->term_since_ms;
}

const planner_input *leader_input(leader *l, uint64_t now_ms) {
    const leader_picture *p = &l->picture;
    if (p->view == NULL || p->model == NULL) return NULL;
    l->input = (planner_input){
        .model = p->model,
        .now = rack_view_placement(p->view),
        .nodes = leader_nodes_give(&l->nodes, now_ms, watching_since(l),
                                   l->config.replace_after_ms),
        .n_nodes = l->nodes.n,
        .incarnation = 1};
    return &l->input;
}

const char *leader_why(const leader *l) {
    return l->why;
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
static uint64_t digest_input(const planner_input *in) {
    uint64_t h = (uint64_t)(uintptr_t)in->model;
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

/* Into l->step; true if there is something to write. */
static bool plan(leader *l, uint64_t now_ms, int *rc) {
    const planner_input *in = leader_input(l, now_ms);
    uint64_t digest = digest_input(in);
    *rc = 0;
    if (l->planned && digest == l->planned_for) return false;
    l->planned = false;
    l->retry_at_ms = 0;

    *rc = planner_next(in, &l->step);
    if (*rc < 0) {
        l->retry_at_ms = now_ms + RETRY_MOST_MS;
        return false;
    }
    if (l->step.n_layers == 0) {
        planner_step_fini(&l->step);
        l->planned = true;
        l->planned_for = digest;
        return false;
    }
    snprintf(l->step.head.writer, sizeof(l->step.head.writer), "%s", l->name);
    l->step.head.term = l->picture.term;
    return true;
}

/* ---- the next thing to do ---- */

static uint64_t sooner(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static bool may_write(const leader *l) {
    const leader_picture *p = &l->picture;
    return p->term != 0 && p->view != NULL && p->model != NULL &&
           p->live_since_ms != 0 && l->why[0] == '\0';
}

/* When the set of nodes will have been still for long enough. */
static uint64_t settled_at(const leader *l) {
    return sooner(l->changed_ms + l->config.settle_ms,
                  l->changing_since_ms + l->config.settle_max_ms);
}

static void write_step(leader *l, leader_action *out) {
    l->writing = true;
    l->written_over = rack_view_epoch_revision(l->picture.view);
    out->kind = LEADER_WRITE;
    out->step = &l->step;
    out->term = l->picture.term;
    out->expected_revision = l->written_over;
}

int leader_next(leader *l, uint64_t now_ms, leader_action *out) {
    *out = (leader_action){.kind = LEADER_WAIT, .wake_ms = UINT64_MAX};
    if (l->writing || !may_write(l)) return 0;

    out->revision = revision_to_compact(l, now_ms);
    if (out->revision != 0) {
        out->kind = LEADER_COMPACT;
        return 0;
    }
    out->wake_ms = l->mark_ms + l->config.compact_ms;
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
    int rc;
    if (plan(l, now_ms, &rc)) {
        write_step(l, out);
        return 0;
    }
    if (l->retry_at_ms != 0) {
        out->wake_ms = sooner(out->wake_ms, l->retry_at_ms);
    }
    out->wake_ms =
        sooner(out->wake_ms,
               leader_nodes_deadline(&l->nodes, now_ms, watching_since(l),
                                     l->config.replace_after_ms));
    return rc;
}
