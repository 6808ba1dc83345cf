/* sim_node.c - an expert node's data path: the real job queue, with compute
 * time instead of computing; and the network. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "tests/sim/sim.h"

#define MAX_JOBS 8
#define MAX_REPLY_ROWS 40

static const job_limits limits = {
    .max_jobs = MAX_JOBS,
    .max_reply_bytes = MAX_REPLY_ROWS * SIM_ROW_BYTES,
    .max_merge_pairs = 12,
};

/* ---- network ---- */

void sim_message_done(sim *s, sim_message *m) {
    m->next = s->messages;
    s->messages = m;
}

static void deliver(sim *s, const sim_message *m, const sim_path *path) {
    sim_message *copy = s->messages;
    if (copy != NULL) {
        s->messages = copy->next;
    } else {
        copy = sim_memory(sizeof(*copy));
    }
    *copy = *m;
    uint64_t us = 50 + sim_below(s, 200) + path->delay_us;
    if (path->jitter_us > 0) us += sim_below(s, path->jitter_us);
    sim_after(s, us, EVENT_MESSAGE, (int)m->to, 0)->data = copy;
}

void sim_send(sim *s, const sim_message *m) {
    bool to_node = m->to >= SIM_COORDS;
    uint32_t coord = to_node ? m->from : m->to;
    uint32_t node = (to_node ? m->to : m->from) - SIM_COORDS;
    const sim_path *path = &s->paths[coord][node];

    sim_trace(s, "%s -> %s kind %d request %llu layer %u pairs %u code %d%s",
              s->members[m->from].name, s->members[m->to].name, (int)m->kind,
              (unsigned long long)m->request_id, m->layer, m->n_pairs, m->code,
              path->cut ? " (cut)" : "");
    if (path->cut || sim_chance(s, path->lose_percent)) return;
    deliver(s, m, path);
    if (sim_chance(s, path->double_percent)) deliver(s, m, path);
}

/* ---- its life ---- */

void sim_node_start(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
    if (job_queue_new(&n->queue, &limits) < 0) abort();
    n->n_computing = 0;
    n->progress = 0;
    memset(n->computed, 0, sizeof(n->computed));
    sim_store_open(s, node);
}

void sim_node_stop(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
    sim_store_close(s, node);
    while (n->batches != NULL) {
        sim_batch *b = n->batches;
        n->batches = b->next;
        free(b);
    }
    job_queue_free(n->queue);
    n->queue = NULL;
}

/* ---- answers ---- */

static sim_message answer_to(const sim *s, uint32_t node,
                             const sim_message *asked, sim_message_kind kind) {
    uint32_t self = sim_node_member(node);
    return (sim_message){
        .kind = kind,
        .from = self,
        .to = asked->from,
        .boot = s->members[self].boot,
        .to_boot = asked->boot,
        .connection = asked->connection,
        .request_id = asked->request_id,
        .layer = asked->layer,
        .n_pairs = asked->n_pairs,
    };
}

static void refuse(sim *s, uint32_t node, const sim_message *asked, int code) {
    sim_message m = answer_to(s, node, asked, MESSAGE_ERROR);
    m.code = code;
    sim_send(s, &m);
}

static void drop_batch(sim_node *n, sim_batch *b) {
    sim_batch **at = &n->batches;
    while (*at != b)
        at = &(*at)->next;
    *at = b->next;
    free(b);
}

static bool holds_all(const sim_node *n, const sim_message *m) {
    for (uint32_t i = 0; i < m->n_pairs; i++) {
        if (!unit_set_has(&n->resident, m->layer, m->units[i])) return false;
    }
    return true;
}

/* What is not there cannot be computed with; what is damaged computes wrongly.
 */
static void compute(sim *s, uint32_t node, const sim_message *asked,
                    uint32_t pair, float *y) {
    sim_node *n = &s->nodes[node];
    uint32_t layer = asked->layer, unit = asked->units[pair];
    if (!unit_set_has(&n->resident, layer, unit)) {
        sim_fail(s, "node %u computes unit %u of layer %u, which it dropped",
                 node, unit, layer);
    }
    sim_expert(layer, unit, s->slices, asked->rows[pair], y);
    if (unit_set_has(&n->wrong, layer, unit)) y[0] += 1.0f;
    n->computed[layer][unit] += s->pair_weight;
}

static void reply(sim *s, uint32_t node, sim_batch *b) {
    sim_message m = answer_to(s, node, &b->asked, MESSAGE_ROWS);
    for (uint32_t i = 0; i < m.n_pairs; i++)
        compute(s, node, &b->asked, i, m.rows[i]);
    sim_send(s, &m);
    drop_batch(&s->nodes[node], b);
}

/* ---- computing ---- */

static void check_bounds(sim *s, uint32_t node) {
    const sim_node *n = &s->nodes[node];
    if (job_queue_waiting(n->queue) > limits.max_jobs) {
        sim_fail(s, "node %u has %u jobs waiting", node,
                 job_queue_waiting(n->queue));
    }
    if (job_queue_reply_bytes(n->queue) > limits.max_reply_bytes) {
        sim_fail(s, "node %u owes %llu bytes", node,
                 (unsigned long long)job_queue_reply_bytes(n->queue));
    }
}

/* What asks for units that were dropped while it waited. */
static void refuse_dropped(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
    size_t kept = 0;
    for (size_t i = 0; i < n->n_computing; i++) {
        sim_batch *b = n->computing[i].payload;
        if (holds_all(n, &b->asked)) {
            n->computing[kept++] = n->computing[i];
            continue;
        }
        job_queue_finish(n->queue, &n->computing[i]);
        refuse(s, node, &b->asked, ERR_NOT_HERE);
        drop_batch(n, b);
    }
    n->n_computing = kept;
}

static void compute_next(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
    if (n->n_computing > 0 || n->stuck) return;

    job late[MAX_JOBS];
    size_t n_late =
        job_queue_expired(n->queue, s->clock.now_us, late, MAX_JOBS);
    for (size_t i = 0; i < n_late; i++) {
        sim_batch *b = late[i].payload;
        refuse(s, node, &b->asked, ERR_DEADLINE);
        drop_batch(n, b);
    }
    do {
        n->n_computing =
            job_queue_take(n->queue, s->clock.now_us, n->computing, 8);
        if (n->n_computing == 0) return;
        refuse_dropped(s, node);
    } while (n->n_computing == 0);

    uint64_t us = 20;
    for (size_t i = 0; i < n->n_computing; i++) {
        us += (uint64_t)n->computing[i].n_pairs * n->us_per_pair;
    }
    if (n->slow) us *= 20;
    sim_after(s, us, EVENT_COMPUTED, (int)sim_node_member(node), 0);
}

void sim_node_computed(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
    if (n->stuck) return; /* goes on when it is unstuck */
    n->progress++;
    for (size_t i = 0; i < n->n_computing; i++) {
        job_queue_finish(n->queue, &n->computing[i]);
        reply(s, node, n->computing[i].payload);
    }
    n->n_computing = 0;
    check_bounds(s, node);
    compute_next(s, node);
}

void sim_node_unstick(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
    n->stuck = false;
    if (!s->members[sim_node_member(node)].alive) return;
    if (n->n_computing > 0) {
        sim_node_computed(s, node);
    } else {
        compute_next(s, node);
    }
}

/* ---- messages ---- */

static int accept_batch(sim *s, uint32_t node, const sim_message *m) {
    sim_node *n = &s->nodes[node];
    if (m->to_boot != s->members[m->to].boot) return ERR_WRONG_BOOT;
    if (n->refuse != 0) return n->refuse;
    if (sim_store_is_stale(s, node, m->boot)) return ERR_STALE;
    if (!holds_all(n, m)) return ERR_NOT_HERE;
    sim_batch *b = malloc(sizeof(*b));
    if (b == NULL) abort();
    *b = (sim_batch){.next = n->batches, .asked = *m};
    const job j = {
        .peer = m->boot,
        .request_id = m->request_id,
        .layer = m->layer,
        .n_pairs = m->n_pairs,
        .reply_bytes = (uint64_t)m->n_pairs * SIM_ROW_BYTES,
        .expires_us = s->clock.now_us + m->remaining_us,
        .payload = b,
    };
    int rc = job_queue_push(n->queue, &j);
    if (rc < 0) {
        free(b);
        return rc;
    }
    n->batches = b;
    return 0;
}

static void answer_control(sim *s, uint32_t node, const sim_message *m) {
    sim_node *n = &s->nodes[node];
    bool hello = m->kind == MESSAGE_HELLO;
    bool served = sim_store_hears(s, node, m);
    if (hello && !served) return; /* too many coordinators */
    sim_message answer =
        answer_to(s, node, m, hello ? MESSAGE_WELCOME : MESSAGE_PONG);
    if (!served) answer.kind = MESSAGE_TOO_OLD;
    keeper_figures known;
    keeper_look(n->keeper, &known);
    answer.epoch = known.epoch;
    answer.version = keeper_version(n->keeper);
    answer.progress = n->progress;
    answer.queued = job_queue_waiting(n->queue) + (uint32_t)n->n_computing;
    if (hello) answer.holds = sim_store_holds(s, node);
    sim_send(s, &answer);
}

static void answer_load(sim *s, uint32_t node, const sim_message *m) {
    sim_node *n = &s->nodes[node];
    sim_message answer = answer_to(s, node, m, MESSAGE_LOAD);
    answer.loads = sim_copy(n->computed, sizeof(n->computed));
    sim_send(s, &answer);
}

void sim_node_message(sim *s, uint32_t node, const sim_message *m) {
    switch (m->kind) {
    case MESSAGE_HELLO:
    case MESSAGE_PING:
        answer_control(s, node, m);
        break;
    case MESSAGE_LOAD_ASKED:
        answer_load(s, node, m);
        break;
    case MESSAGE_BATCH: {
        int rc = accept_batch(s, node, m);
        if (rc < 0 && rc != -EALREADY) refuse(s, node, m, rc);
        check_bounds(s, node);
        compute_next(s, node);
        break;
    }
    default:
        sim_fail(s, "node %u got a message %d", node, (int)m->kind);
    }
}
