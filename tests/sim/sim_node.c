/* sim_node.c - an expert node: the real job queue, with compute time instead of
 * computing. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define MAX_JOBS 8
#define MAX_REPLY_ROWS 30

static const job_limits limits = {
    .max_jobs = MAX_JOBS,
    .max_reply_bytes = MAX_REPLY_ROWS * SIM_ROW_BYTES,
    .max_merge_pairs = 12,
};

static void hold_share(sim *s, uint32_t node, holdings *h, uint32_t replicas) {
    holdings_fini(h);
    if (holdings_init_slices(h, SIM_LAYERS, SIM_EXPERTS, s->slices) < 0 ||
        holdings_add_share(h, node, s->n_nodes, replicas) < 0) {
        abort();
    }
}

void sim_node_hold(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
    uint32_t replicas = s->replicas;
    if (replicas < s->n_nodes && sim_chance(s, 30)) replicas++;

    n->replicas = replicas;
    hold_share(s, node, &n->held, replicas);
    hold_share(s, node, &n->shown, replicas);
}

/* Does a coordinator still send what is no longer shown? */
static bool in_use(const sim *s, uint32_t node) {
    for (uint32_t i = 0; i < SIM_COORDINATORS; i++) {
        if (s->processes[i].alive && sim_coord_uses(s, i, node)) return true;
    }
    return false;
}

/* A share more is loaded, then shown; hidden again, then dropped when nobody
 * uses it.  Where requests may fail it is now and then dropped too early, as
 * for a coordinator that lags. */
void sim_node_assign(sim *s, uint32_t node, uint64_t step) {
    static const struct {
        bool shown, more;
        uint32_t rest_us; /* until the next step, at most */
    } steps[] = {{false, true, 5000},
                 {true, true, 150000},
                 {true, false, 3000},
                 {false, false, 150000}};
    sim_node *n = &s->nodes[node];
    uint32_t at = (uint32_t)(step % ARRAY_LEN(steps));
    uint32_t most = n->replicas < s->n_nodes ? n->replicas + 1 : n->replicas;

    if (at == 3 && in_use(s, node) && (s->strict || sim_chance(s, 90))) {
        sim_after(s, 500, EVENT_ASSIGN, (int)sim_node_process(node), step);
        return;
    }
    hold_share(s, node, steps[at].shown ? &n->shown : &n->held,
               steps[at].more ? most : n->replicas);
    for (uint32_t i = 0; i < SIM_COORDINATORS && steps[at].shown; i++) {
        if (!s->processes[i].alive) continue;
        sim_after(s, sim_below(s, 2000), EVENT_RACK, (int)i, 0);
    }
    sim_after(s, 1 + sim_below(s, steps[at].rest_us), EVENT_ASSIGN,
              (int)sim_node_process(node), step + 1);
}

void sim_node_start(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
    if (job_queue_new(&n->queue, &limits) < 0) abort();
    n->n_computing = 0;
    n->progress = 0;
    sim_after(s, sim_below(s, 300000), EVENT_ASSIGN,
              (int)sim_node_process(node), 0);
}

void sim_node_stop(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
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
    uint32_t self = sim_node_process(node);
    return (sim_message){
        .kind = kind,
        .from = self,
        .to = asked->from,
        .boot_id = s->processes[self].boot_id,
        .to_boot_id = asked->boot_id,
        .connection = asked->connection,
        .request_id = asked->request_id,
        .layer = asked->layer,
        .n_pairs = asked->n_pairs,
    };
}

static void refuse(sim *s, uint32_t node, const sim_message *asked, int code) {
    sim_message m = answer_to(s, node, asked, SIM_ERROR);
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
        if (!holdings_has(&n->held, m->layer, m->units[i])) return false;
    }
    return true;
}

static void reply(sim *s, uint32_t node, sim_batch *b) {
    sim_message m = answer_to(s, node, &b->asked, SIM_ROWS);
    for (uint32_t i = 0; i < m.n_pairs; i++) {
        sim_expert(m.layer, b->asked.units[i], s->slices, b->asked.rows[i],
                   m.rows[i]);
    }
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
    size_t n_late = job_queue_expired(n->queue, sim_now(s), late, MAX_JOBS);
    for (size_t i = 0; i < n_late; i++) {
        sim_batch *b = late[i].payload;
        refuse(s, node, &b->asked, ERR_DEADLINE);
        drop_batch(n, b);
    }
    do {
        n->n_computing = job_queue_take(n->queue, sim_now(s), n->computing, 8);
        if (n->n_computing == 0) return;
        refuse_dropped(s, node);
    } while (n->n_computing == 0);

    uint64_t us = 20;
    for (size_t i = 0; i < n->n_computing; i++) {
        us += (uint64_t)n->computing[i].n_pairs * n->us_per_pair;
    }
    if (n->slow) us *= 50;
    sim_after(s, us, EVENT_COMPUTED, (int)sim_node_process(node), 0);
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
    if (!s->processes[sim_node_process(node)].alive) return;
    if (n->n_computing > 0) {
        sim_node_computed(s, node);
    } else {
        compute_next(s, node);
    }
}

/* ---- messages ---- */

static int accept_batch(sim *s, uint32_t node, const sim_message *m) {
    sim_node *n = &s->nodes[node];
    if (m->to_boot_id != s->processes[m->to].boot_id) return ERR_WRONG_BOOT;
    if (n->refuse != 0) return n->refuse;
    if (!holds_all(n, m)) return ERR_NOT_HERE;
    sim_batch *b = malloc(sizeof(*b));
    if (b == NULL) abort();
    *b = (sim_batch){.next = n->batches, .asked = *m};
    const job j = {
        .peer = m->boot_id,
        .request_id = m->request_id,
        .layer = m->layer,
        .n_pairs = m->n_pairs,
        .reply_bytes = (uint64_t)m->n_pairs * SIM_ROW_BYTES,
        .expires_us = sim_now(s) + m->remaining_us,
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

void sim_node_message(sim *s, uint32_t node, const sim_message *m) {
    sim_node *n = &s->nodes[node];
    sim_message answer;

    switch (m->kind) {
    case SIM_HELLO:
        answer = answer_to(s, node, m, SIM_WELCOME);
        sim_send(s, &answer);
        break;
    case SIM_PING:
        answer = answer_to(s, node, m, SIM_PONG);
        answer.progress = n->progress;
        answer.queued_jobs =
            job_queue_waiting(n->queue) + (uint32_t)n->n_computing;
        sim_send(s, &answer);
        break;
    case SIM_BATCH_ASKED: {
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
