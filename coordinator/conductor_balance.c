/* conductor_balance.c - see conductor_balance.h.
 *
 * Plans of large racks take tens of milliseconds, and clients' tokens pass
 * through this loop: so the machine's jobs, which have copies of all that they
 * need, run in the loop's thread pool.  One comes back through take_up(), like
 * everything that happens, so that the machine sees the present first. */
#include "coordinator/conductor_balance.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include "coordinator/conductor_internal.h"
#include "coordinator/nodes_load.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define FEED_MS 1000

/* ---- thinking ---- */

typedef struct {
    uv_work_t work;
    conductor *owner;
    leader_job *job;
} thought;

static void run_job(uv_work_t *work) {
    thought *t = work->data;
    leader_job_run(t->job);
}

static void give_back(conductor *c, leader_job *j) {
    if (c->closing) {
        leader_job_free(j);
        return;
    }
    c->balance.thought = j;
    conductor_think_again(c);
}

static void on_thought(uv_work_t *work, int status) {
    thought *t = work->data;
    conductor *c = t->owner;
    leader_job *j = t->job;
    (void)status; /* nobody cancels it */
    free(t);
    give_back(c, j);
}

void conductor_think(conductor *c, leader_job *j) {
    thought *t = malloc(sizeof(*t));
    int rc = -ENOMEM;
    if (t != NULL) {
        *t = (thought){.owner = c, .job = j};
        t->work.data = t;
        rc = uv_queue_work(c->config.loop, &t->work, run_job, on_thought);
    }
    if (rc == 0) return;
    free(t);
    leader_job_run(j); /* a hiccup is better than no plan */
    int failed = leader_thought(c->leader, now_ms(), j);
    if (failed < 0) log_error("cannot plan: %s", err_text(failed));
}

/* ---- what the machine hears ---- */

static void feed_speeds(conductor *c) {
    uint64_t now = now_ms();
    nodes *n = c->config.nodes;
    if (now < c->balance.fed_ms + FEED_MS) return;
    c->balance.fed_ms = now;
    for (uint32_t i = 0; i < nodes_count(n); i++) {
        const char *name = nodes_name(n, i);
        if (name == NULL) continue;
        int rc = leader_set_speed(c->leader, now, name, nodes_speed(n, i));
        if (rc == 0) continue;
        log_error("cannot note the speed of %s: %s", name, err_text(rc));
        return;
    }
}

void conductor_balance_feed(conductor *c) {
    leader_job *j = c->balance.thought;
    feed_speeds(c);
    if (j == NULL) return;
    c->balance.thought = NULL;
    int rc = leader_thought(c->leader, now_ms(), j);
    if (rc < 0) log_error("cannot plan: %s", err_text(rc));
}

/* ---- log lines ---- */

static void log_targets(conductor *c, const leader_figures *f) {
    conductor_balance *b = &c->balance;
    if (f->started > b->started) {
        log_info(
            "rebalancing: imbalance %.2f is to become %.2f (worst layer "
            "%.2f, %.2f); %llu units to load, %.1f MiB, %llu to give up",
            f->target_before.rack, f->target_after.rack, f->target_before.worst,
            f->target_after.worst, (unsigned long long)f->to_load,
            (double)f->bytes_left / (1 << 20), (unsigned long long)f->to_drop);
    }
    if (f->reached > b->reached) {
        nodes_evenness now;
        nodes_measure(c->config.nodes, &now);
        log_info("rebalanced: the placement is as predicted for an imbalance "
                 "of %.2f; measured of late: %.2f",
                 f->target_after.rack, now.imbalance);
    }
    b->started = f->started; /* of a term: may go back */
    b->reached = f->reached;
}

/* ---- an operator's question ---- */

static json_t *figure(double x) {
    return json_real(round(x * 1000) / 1000);
}

static json_t *figures_json(const balance_figures *f) {
    return json_pack("{s:o, s:o, s:i}", "imbalance", figure(f->rack), "worst",
                     figure(f->worst), "worst_layer", (int)f->worst_layer);
}

static json_t *move_json(const conductor *c, const leader_move *m) {
    const planner_model *model = &c->model->plan;
    uint32_t slices = m->layer < model->n_layers ? model->slices[m->layer] : 0;
    if (slices == 0) slices = 1;
    return json_pack("{s:i, s:i, s:i, s:s}", "layer", (int)m->layer, "expert",
                     (int)(m->unit / slices), "slice", (int)(m->unit % slices),
                     m->added ? "to" : "from", m->node);
}

static char *report_text(const conductor *c, const leader_report *r) {
    json_t *moves = json_array();
    for (uint32_t i = 0; i < r->n_moves; i++)
        json_array_append_new(moves, move_json(c, &r->moves[i]));
    json_t *root = json_pack(
        "{s:s, s:b, s:o, s:o, s:o, s:I, s:I, s:I, s:b, s:b}", "leader",
        c->config.self->name, "dry_run", r->dry_run, "before",
        figures_json(&r->before), "after", figures_json(&r->after), "moves",
        moves, "added", (json_int_t)r->added, "removed", (json_int_t)r->removed,
        "bytes", (json_int_t)r->moved_bytes, "pays", r->pays, "started",
        r->started);
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return text;
}

static void answer(conductor *c, int code, const char *text) {
    conductor_reported done = c->balance.asked;
    c->balance.asked = NULL;
    if (done != NULL) done(c->balance.asked_ctx, code, text);
}

static void answer_if_due(conductor *c) {
    if (c->balance.asked == NULL) return;
    const leader_report *r = leader_answer(c->leader);
    if (r != NULL) {
        char *text = report_text(c, r);
        answer(c, text != NULL ? 0 : -ENOMEM, text != NULL ? text : "");
        free(text);
    } else if (!leader_is_asked(c->leader)) {
        answer(c, ERR_NOT_LEADER, "this coordinator does not lead any more");
    } else if (now_ms() >= c->balance.asked_until_ms) {
        leader_unask(c->leader);
        answer(c, ERR_DEADLINE,
               "the rack is not settled: nodes come and go, load or drop");
    }
}

static int refuse(const conductor *c, int code, char *why, size_t why_size) {
    char reason[200];
    const rack_view *view = registry_view(c->registry);
    const leader_record *l = view != NULL ? rack_view_leader(view) : NULL;
    if (code != ERR_NOT_LEADER || l == NULL ||
        l->boot == c->config.self->boot_id) {
        return code;
    }
    snprintf(reason, sizeof(reason), "%s", why);
    return err_why(why, why_size, code, "%s; the leader is '%s'", reason,
                   l->name);
}

int conductor_rebalance(conductor *c, bool dry_run, conductor_reported done,
                        void *ctx, char *why, size_t why_size) {
    if (c->closing) return ERR_CLOSED;
    if (c->balance.asked != NULL) {
        return err_why(why, why_size, ERR_OVERLOADED,
                       "another rebalance is being answered");
    }
    const rack_view *view = registry_view(c->registry);
    const rack_placement *p =
        view != NULL ? conductor_placement(c, view) : NULL;
    int rc = conductor_show(c, view, p);
    if (rc == 0) rc = leader_rebalance(c->leader, dry_run, why, why_size);
    if (rc < 0) return refuse(c, rc, why, why_size);
    c->balance.asked = done;
    c->balance.asked_ctx = ctx;
    c->balance.asked_until_ms = now_ms() + REBALANCE_WAIT_MS;
    conductor_think_again(c);
    return 0;
}

void conductor_balance_tell(conductor *c) {
    leader_figures f;
    leader_look_at(c->leader, now_ms(), &f);
    log_targets(c, &f);
    answer_if_due(c);
}

uint64_t conductor_balance_deadline(const conductor *c) {
    return c->balance.asked != NULL ? c->balance.asked_until_ms : UINT64_MAX;
}

void conductor_balance_end(conductor *c) {
    leader_job_free(c->balance.thought);
    c->balance.thought = NULL;
    answer(c, ERR_CLOSED, "the coordinator is ending");
}

/* ---- status ---- */

/* The last run of the balancer here; null on who has not led. */
static json_t *last_json(const leader_figures *f, uint64_t now) {
    if (f->at_ms == 0) return json_null();
    return json_pack("{s:I, s:b, s:o, s:o, s:I, s:I}", "ms_ago",
                     (json_int_t)(now > f->at_ms ? now - f->at_ms : 0), "pays",
                     f->pays, "before", figures_json(&f->before), "after",
                     figures_json(&f->after), "started", (json_int_t)f->started,
                     "reached", (json_int_t)f->reached);
}

/* What the nodes are at, and on the leader also what is still to be assigned.
 */
static json_t *moves_json(conductor *c, const leader_figures *f, uint64_t now) {
    nodes_moves m;
    nodes_count_moves(c->config.nodes, c->model->plan.unit_bytes, &m);
    if (f->moving) {
        m.to_load += f->to_load;
        m.to_drop += f->to_drop;
        m.bytes_left += f->bytes_left;
    }
    uint64_t *since = &c->balance.moving_since_ms;
    bool moving = m.to_load + m.to_drop > 0 || f->moving;
    if (!moving) {
        *since = 0;
    } else if (*since == 0) {
        *since = f->moving && f->since_ms != 0 ? f->since_ms : now;
    }
    uint64_t ms = *since != 0 && now > *since ? now - *since : 0;
    return json_pack("{s:b, s:I, s:I, s:I, s:I}", "moving", moving, "to_load",
                     (json_int_t)m.to_load, "to_drop", (json_int_t)m.to_drop,
                     "bytes_left", (json_int_t)m.bytes_left, "since_ms",
                     (json_int_t)ms);
}

int conductor_balance_status(conductor *c, json_t *into) {
    leader_figures f;
    uint64_t now = now_ms();
    json_t *balance = json_object_get(into, "balance");
    if (balance == NULL) {
        balance = json_object();
        if (json_object_set_new(into, "balance", balance) < 0) return -ENOMEM;
    }
    leader_look_at(c->leader, now, &f);
    const balance_figures *p = f.pays || f.moving ? &f.after : &f.before;
    int rc = json_object_set_new(balance, "predicted",
                                 f.at_ms != 0 ? figure(p->rack) : json_null());
    rc |= json_object_set_new(balance, "last", last_json(&f, now));
    rc |= json_object_set_new(balance, "moves", moves_json(c, &f, now));
    return rc == 0 ? 0 : -ENOMEM;
}
