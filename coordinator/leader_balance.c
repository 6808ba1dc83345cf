/* leader_balance.c - when the balancer is asked, and what becomes of its
 * answer.
 *
 * A target is kept until there is a better one or the rack's nodes change, also
 * after it was reached: it is why a unit has more holders than it must have.  A
 * leader that has none (it is new, or nodes came or went) asks before anything
 * is planned, for the planner alone would take such holders for remains of
 * moves.  If heat says nothing, who holds something keeps it until heat does:
 * an idle rack does not lose its copies of hot experts to a change of leaders,
 * and remains of moves cost only memory, which the planner takes where it is
 * needed.  Otherwise two runs in a row have to say that a change pays, and
 * giving up spare copies alone has to pay for a while. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "coordinator/leader_internal.h"
#include "engine/err.h"

#define FAILED_MS 8000 /* until the balancer is asked again */

/* ---- the rack as it is ---- */

static bool stays(const planner_node *n) {
    return (n->live || n->missing) && !n->draining;
}

static uint64_t digest_members(const planner_input *in) {
    const planner_model *m = in->model;
    uint64_t h = XXH3_64bits_withSeed(m->model, sizeof(m->model),
                                      leader_units(m) + m->min_replicas);
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        const planner_node *n = &in->nodes[i];
        if (stays(n)) h = XXH3_64bits_withSeed(n->name, strlen(n->name), h);
    }
    return h;
}

static uint64_t units_of(const planner_input *in, uint32_t node) {
    int32_t place = rack_placement_node(in->now, in->nodes[node].name);
    return place >= 0 ? rack_placement_units(in->now, place) : 0;
}

/* Are there layers whose first placement is still to be written? */
static bool is_unfinished(const planner_input *in) {
    if (in->now == NULL) return true;
    for (uint32_t l = 0; l < in->model->n_layers; l++) {
        if (in->model->slices[l] > 0 &&
            rack_placement_layer(in->now, l) == NULL) {
            return true;
        }
    }
    return false;
}

/* All that stay are there and hold what they should. */
static bool is_at_rest(const planner_input *in) {
    uint64_t epoch = rack_placement_epoch(in->now);
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        const planner_node *n = &in->nodes[i];
        if (n->missing) return false;
        if (!stays(n) || n->ready_epoch >= epoch) continue;
        if (units_of(in, i) > 0) return false;
    }
    return true;
}

/* Somebody has nothing yet: it gets its part although little may be gained. */
static bool somebody_is_new(const planner_input *in) {
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        const planner_node *n = &in->nodes[i];
        if (n->live && stays(n) && n->memory_bytes > 0 &&
            units_of(in, i) == 0) {
            return true;
        }
    }
    return false;
}

/* Has one less than half of its part by memory?  It is new, or came while
 * another leader led. */
static bool somebody_has_little(const planner_input *in) {
    double units = 0, memory = 0, all = leader_units(in->model);
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        if (!stays(&in->nodes[i])) continue;
        units += (double)units_of(in, i);
        memory += (double)in->nodes[i].memory_bytes;
    }
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        const planner_node *n = &in->nodes[i];
        if (!n->live || !stays(n) || n->memory_bytes == 0) continue;
        double part = units * (double)n->memory_bytes / memory;
        if (part > all) part = all;
        if (2 * (double)units_of(in, i) < part) return true;
    }
    return false;
}

/* ---- targets ---- */

static void drop_target(leader_balance *b) {
    balance_map_fini(&b->target);
    b->number++;
    b->reached = true;
    b->done_without = false;
    b->pays_since_ms = b->spare_since_ms = 0;
}

void leader_balance_forget(leader *l) {
    leader_balance *b = &l->balance;
    drop_target(b);
    b->members = 0;
    b->next_ms = b->failed_until_ms = 0;
    b->asked = b->has_report = false;
    free(b->report.moves);
    b->report = (leader_report){0};
    b->figures = (leader_figures){0};
}

void leader_balance_fini(leader *l) {
    balance_map_fini(&l->balance.target);
    free(l->balance.report.moves);
}

/* From the job's numbers to the peers'. */
static int take_target(leader *l, const leader_job *j) {
    const balance_map *from = &j->result.target;
    leader_balance *b = &l->balance;
    uint32_t holders = from->first[from->n_units], n = j->input.n_nodes;
    uint32_t *peer_of = calloc((size_t)n + 1, sizeof(*peer_of));
    balance_map map = {0};
    int rc = peer_of != NULL ? 0 : -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        rc = leader_peers_number(&l->peers, j->names[i], &peer_of[i]);
    if (rc == 0) rc = balance_map_init(&map, from->n_units, holders);
    if (rc == 0) {
        memcpy(map.first, from->first,
               ((size_t)from->n_units + 1) * sizeof(*map.first));
        for (uint32_t i = 0; i < holders; i++)
            map.nodes[i] = (uint16_t)peer_of[from->nodes[i]];
        drop_target(b);
        b->target = map;
    }
    free(peer_of);
    return rc;
}

/* All that hold something and stay, in the peers' numbers. */
static void name_holders(const planner_input *in, const uint32_t *peer_at,
                         balance_map *out) {
    uint32_t unit = 0, at = 0;
    for (uint32_t l = 0; l < in->model->n_layers; l++) {
        const layer_map *map = rack_placement_layer(in->now, l);
        uint32_t units = in->model->n_experts * in->model->slices[l];
        for (uint32_t u = 0; u < units; u++) {
            uint32_t n;
            const uint16_t *places = layer_map_holders(map, u, &n);
            out->first[unit++] = at;
            for (uint32_t i = 0; i < n; i++) {
                uint32_t peer = peer_at[places[i]];
                if (peer != UINT32_MAX) out->nodes[at++] = (uint16_t)peer;
            }
        }
    }
    out->first[unit] = at;
}

static uint32_t count_holders(const planner_input *in) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < in->model->n_layers; l++) {
        const layer_map *map = rack_placement_layer(in->now, l);
        if (map != NULL) n += map->first[map->n_units];
    }
    return n;
}

/* What is there is the target; every layer has a placement. */
static int keep_holders(leader *l, const planner_input *in) {
    balance_map map = {0};
    uint32_t *peer_at = calloc(RECORD_NODES_MAX, sizeof(*peer_at));
    int rc = peer_at != NULL ? 0 : -ENOMEM;
    if (peer_at != NULL)
        memset(peer_at, 0xff, RECORD_NODES_MAX * sizeof(*peer_at));
    for (uint32_t i = 0; rc == 0 && i < in->n_nodes; i++) {
        const planner_node *n = &in->nodes[i];
        int32_t place = rack_placement_node(in->now, n->name);
        if (place < 0 || !stays(n)) continue;
        rc = leader_peers_number(&l->peers, n->name, &peer_at[place]);
    }
    if (rc == 0) {
        rc = balance_map_init(&map, leader_units(in->model), count_holders(in));
    }
    if (rc == 0) {
        name_holders(in, peer_at, &map);
        drop_target(&l->balance);
        l->balance.target = map;
    }
    free(peer_at);
    return rc;
}

int leader_balance_target(leader *l, const planner_input *in,
                          balance_map *out) {
    const balance_map *from = &l->balance.target;
    *out = (balance_map){0};
    if (from->n_units == 0) return 0;

    uint32_t *node_of = calloc((size_t)l->peers.n + 1, sizeof(*node_of));
    int rc = balance_map_init(out, from->n_units, from->first[from->n_units]);
    if (rc < 0 || node_of == NULL) {
        free(node_of);
        balance_map_fini(out);
        return -ENOMEM;
    }
    memset(node_of, 0xff, ((size_t)l->peers.n + 1) * sizeof(*node_of));
    for (uint32_t i = 0; rc == 0 && i < in->n_nodes; i++) {
        uint32_t peer;
        rc = leader_peers_number(&l->peers, in->nodes[i].name, &peer);
        if (rc == 0) node_of[peer] = i;
    }
    uint32_t at = 0;
    for (uint32_t u = 0; rc == 0 && u < from->n_units; u++) {
        out->first[u] = at;
        for (uint32_t i = from->first[u]; i < from->first[u + 1]; i++) {
            uint32_t node = node_of[from->nodes[i]];
            if (node != UINT32_MAX) out->nodes[at++] = (uint16_t)node;
        }
    }
    out->first[from->n_units] = at;
    free(node_of);
    if (rc < 0) balance_map_fini(out);
    return rc;
}

/* ---- what comes beside the target ---- */

static bool is_holder(const leader *l, uint32_t layer, uint32_t unit,
                      uint32_t peer) {
    const rack_placement *now = l->history.seen;
    int32_t place = rack_placement_node(now, l->peers.items[peer].name);
    return place >= 0 && rack_placement_assigns(now, place, layer, unit);
}

static void adopt(leader *l, uint32_t layer, uint32_t unit,
                  const leader_change *c) {
    leader_balance *b = &l->balance;
    const uint32_t *first = b->target.first + c->unit;
    uint16_t *nodes = b->target.nodes, *absent = NULL;
    if (!is_holder(l, layer, unit, c->peer)) return; /* it went */
    for (uint32_t i = first[0]; i < first[1]; i++) {
        if (nodes[i] == c->peer) return;
        if (!is_holder(l, layer, unit, nodes[i])) absent = &nodes[i];
    }
    if (absent == NULL) return;
    *absent = (uint16_t)c->peer;
    b->number++;
}

/* A unit that has no holder left goes where there is room at once, though the
 * target may name a node that has none yet.  There it stays: to move it on
 * would be a move undone. */
void leader_balance_adopt(leader *l) {
    const planner_model *m = l->picture.model;
    const leader_history *h = &l->history;
    uint32_t base = 0, layer = 0;
    if (l->balance.target.n_units == 0 || m == NULL ||
        l->balance.target.n_units != leader_units(m)) {
        return;
    }
    for (uint32_t i = h->fresh; i < h->n; i++) {
        const leader_change *c = &h->items[i];
        if (c->unit >= l->balance.target.n_units) continue;
        if (c->unit < base) base = layer = 0;
        while (c->unit - base >= m->n_experts * m->slices[layer])
            base += m->n_experts * m->slices[layer++];
        adopt(l, layer, c->unit - base, c);
    }
}

/* ---- asking ---- */

static int ask(leader *l, uint64_t now_ms, const planner_input *in, bool must,
               leader_job **job) {
    leader_balance *b = &l->balance;
    leader_job *j;
    int rc = leader_job_new(&j, LEADER_JOB_BALANCE, in);
    if (rc < 0) return rc;
    rc = leader_question(l, now_ms, j);
    if (rc < 0) {
        leader_job_free(j);
        return rc;
    }
    j->must = must;
    j->asked = b->asked;
    j->dry_run = b->asked_dry_run;
    j->question.forced = (j->asked && !must) || (must && somebody_is_new(in));
    *job = j;
    return 0;
}

int leader_balance_before(leader *l, uint64_t now_ms, const planner_input *in,
                          leader_next_step *out, leader_job **job,
                          uint64_t *wake_ms) {
    leader_balance *b = &l->balance;
    uint64_t members = digest_members(in);
    *out = LEADER_GO;
    if (members != b->members) {
        drop_target(b);
        b->members = members;
    }
    bool decided = b->target.n_units > 0 || b->done_without;
    if (decided || is_unfinished(in)) return 0;

    if (!l->config.no_balance && l->picture.heat != NULL) {
        uint64_t until_ms = leader_watching_since(l) + l->config.heat_wait_ms;
        if (leader_has_heat(l)) {
            *out = LEADER_ASK;
            return ask(l, now_ms, in, true, job);
        }
        if (now_ms < until_ms) {
            *out = LEADER_HOLD;
            *wake_ms = until_ms;
            return 0;
        }
        if (!somebody_has_little(in)) return keep_holders(l, in);
    }
    b->done_without = true;
    return 0;
}

static void note_reached(leader_balance *b) {
    if (b->reached) return;
    b->reached = true;
    b->figures.reached++;
}

int leader_balance_after(leader *l, uint64_t now_ms, const planner_input *in,
                         leader_next_step *out, leader_job **job,
                         uint64_t *wake_ms) {
    leader_balance *b = &l->balance;
    *out = LEADER_GO;
    *wake_ms = UINT64_MAX;
    if (is_unfinished(in) || !is_at_rest(in)) return 0;
    note_reached(b);

    bool by_itself = !l->config.no_balance && l->picture.heat != NULL;
    if (!b->asked) {
        if (!by_itself) return 0;
        *wake_ms = b->next_ms;
        if (now_ms < b->next_ms) return 0;
        b->next_ms = now_ms + l->config.balance_every_ms;
        *wake_ms = b->next_ms;
        if (!leader_has_heat(l)) {
            b->pays_since_ms = b->spare_since_ms = 0;
            return 0;
        }
    } else if (now_ms < b->failed_until_ms) {
        *wake_ms = b->failed_until_ms;
        return 0;
    }
    *out = LEADER_ASK;
    return ask(l, now_ms, in, false, job);
}

/* ---- answers ---- */

/* Has it paid for long enough? */
static bool is_convincing(leader *l, uint64_t now_ms, const balance_result *r) {
    leader_balance *b = &l->balance;
    bool pays = r->pays && r->added > 0;
    bool spare = r->pays && r->added == 0 && r->removed > 0;
    uint64_t pays_since_ms = b->pays_since_ms;

    b->pays_since_ms = 0;
    if (pays) b->pays_since_ms = pays_since_ms != 0 ? pays_since_ms : now_ms;
    if (!spare) b->spare_since_ms = 0;
    if (spare && b->spare_since_ms == 0) b->spare_since_ms = now_ms;
    if (pays) return pays_since_ms != 0;
    return spare && now_ms >= b->spare_since_ms + l->config.still_ms / 2;
}

static void note_figures(leader_balance *b, uint64_t now_ms,
                         const balance_result *r) {
    b->figures.at_ms = now_ms;
    b->figures.pays = r->pays;
    b->figures.before = r->before;
    b->figures.after = r->after;
}

static void note_report(leader_balance *b, uint64_t now_ms, leader_job *j,
                        bool started) {
    free(b->report.moves);
    b->report = j->report;
    j->report.moves = NULL;
    b->report.at_ms = now_ms;
    b->report.started = started;
    b->asked = false;
    b->has_report = true;
}

/* What was asked for in the meantime is asked again. */
static bool is_what_was_asked(const leader_balance *b, const leader_job *j) {
    return j->asked && b->asked && j->dry_run == b->asked_dry_run && !j->must;
}

int leader_balance_thought(leader *l, uint64_t now_ms, leader_job *j) {
    leader_balance *b = &l->balance;
    const balance_result *r = &j->result;
    bool asked = is_what_was_asked(b, j);
    b->next_ms = now_ms + l->config.balance_every_ms;
    if (j->rc < 0) {
        b->next_ms = b->failed_until_ms = now_ms + FAILED_MS;
        if (j->must) b->done_without = true;
        return j->rc;
    }
    note_figures(b, now_ms, r);
    bool changes = r->added + r->removed > 0, take = j->must;
    if (asked) {
        take = changes && !j->dry_run;
    } else if (!j->must && !j->asked) {
        take = is_convincing(l, now_ms, r);
    }
    if (take) {
        int rc = take_target(l, j);
        if (rc < 0) return rc;
        b->reached = !changes;
        if (changes) {
            b->figures.started++;
            b->figures.since_ms = now_ms;
            b->figures.target_before = r->before;
            b->figures.target_after = r->after;
        }
    }
    if (asked) note_report(b, now_ms, j, take);
    return 0;
}

/* ---- for people ---- */

int leader_rebalance(leader *l, bool dry_run, char *why, size_t why_size) {
    leader_balance *b = &l->balance;
    const leader_picture *p = &l->picture;
    if (p->term == 0) {
        return err_why(why, why_size, ERR_NOT_LEADER,
                       "this coordinator does not lead the rack");
    }
    if (p->view == NULL || p->model == NULL || p->live_since_ms == 0) {
        return err_why(why, why_size, ERR_NOT_LEADER, "etcd is away");
    }
    if (l->why[0] != '\0') {
        return err_why(why, why_size, ERR_NOT_LEADER, "%s", l->why);
    }
    b->asked = true;
    b->asked_dry_run = dry_run;
    b->has_report = false;
    return 0;
}

void leader_unask(leader *l) {
    l->balance.asked = l->balance.has_report = false;
}

const leader_report *leader_answer(const leader *l) {
    return l->balance.has_report ? &l->balance.report : NULL;
}

bool leader_is_asked(const leader *l) {
    return l->balance.asked || l->balance.has_report;
}

/* ---- what is left to do ---- */

static bool has_peer(const uint16_t *peers, uint32_t n, uint32_t peer) {
    for (uint32_t i = 0; i < n; i++) {
        if (peers[i] == peer) return true;
    }
    return false;
}

static void count_unit(leader_figures *f, const uint16_t *now, uint32_t n_now,
                       const uint16_t *goal, uint32_t n_goal, uint64_t bytes) {
    for (uint32_t i = 0; i < n_goal; i++) {
        if (has_peer(now, n_now, goal[i])) continue;
        f->to_load++;
        f->bytes_left += bytes;
    }
    for (uint32_t i = 0; i < n_now; i++) {
        if (!has_peer(goal, n_goal, now[i])) f->to_drop++;
    }
}

static void count_left(leader_figures *f, const balance_map *t,
                       const rack_placement *now, const planner_model *m,
                       const uint16_t *peer_at) {
    uint32_t unit = 0;
    for (uint32_t l = 0; l < m->n_layers; l++) {
        const layer_map *map = rack_placement_layer(now, l);
        uint32_t units = m->n_experts * m->slices[l];
        for (uint32_t u = 0; u < units; u++, unit++) {
            uint16_t peers[LAYER_MAP_MAX_HOLDERS];
            uint32_t n = 0;
            const uint16_t *places =
                map != NULL ? layer_map_holders(map, u, &n) : NULL;
            for (uint32_t i = 0; i < n; i++)
                peers[i] = peer_at[places[i]];
            count_unit(f, peers, n, t->nodes + t->first[unit],
                       t->first[unit + 1] - t->first[unit], m->unit_bytes[l]);
        }
    }
}

static void count_moves(leader *l, const rack_placement *now) {
    leader_balance *b = &l->balance;
    const epoch_record *head = rack_placement_head(now);
    uint16_t *peer_at = calloc((size_t)head->n_nodes + 1, sizeof(*peer_at));
    b->figures.to_load = b->figures.to_drop = b->figures.bytes_left = 0;
    if (peer_at == NULL) return; /* figures can wait */
    for (uint32_t i = 0; i < head->n_nodes; i++) {
        uint32_t peer = UINT16_MAX;
        if (head->nodes[i][0] != '\0') {
            (void)leader_peers_number(&l->peers, head->nodes[i], &peer);
        }
        peer_at[i] = (uint16_t)peer;
    }
    count_left(&b->figures, &b->target, now, l->picture.model, peer_at);
    free(peer_at);
    b->counted_epoch = rack_placement_epoch(now);
    b->counted_number = b->number;
}

void leader_look_at(leader *l, uint64_t now_ms, leader_figures *out) {
    leader_balance *b = &l->balance;
    const leader_picture *p = &l->picture;
    const rack_placement *now =
        p->view != NULL ? rack_view_placement(p->view) : NULL;
    (void)now_ms;
    bool comparable = now != NULL && p->model != NULL && !b->reached &&
                      b->target.n_units == leader_units(p->model);
    if (!comparable) {
        b->figures.to_load = b->figures.to_drop = b->figures.bytes_left = 0;
        b->counted_number = 0;
    } else if (b->counted_number != b->number ||
               b->counted_epoch != rack_placement_epoch(now)) {
        count_moves(l, now);
    }
    *out = b->figures;
    out->moving = comparable && out->to_load + out->to_drop > 0;
}
