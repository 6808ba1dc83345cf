/* sim_cluster.c - one run: the cluster is set up, events take their turn, and
 * what must hold is looked at. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

/* Without progress nothing may go on longer than this: the wait for admission,
 * the request's own timeout, the step it is in, and a process that stood still.
 */
#define HANG_US                                                                \
    ((SIM_QUEUE_MS + SIM_TIMEOUT_MS) * 1000ull +                               \
     4ull * SIM_LAYERS * SIM_PATIENCE_US + 1000000)
#define AT_ONCE_MOST 10000 /* events without time passing */
#define SETTLE_US (4ull * SIM_PATIENCE_US)

/* ---- processes ---- */

static void start(sim *s, uint32_t process) {
    sim_process *p = &s->processes[process];
    p->alive = true;
    p->frozen = false;
    p->boot_id = sim_random(s) | 1;
    if (process < SIM_COORDINATORS) {
        sim_coord_start(s, process);
    } else {
        sim_node_hold(s, process - SIM_COORDINATORS);
        sim_node_start(s, process - SIM_COORDINATORS);
    }
}

static void stop(sim *s, uint32_t process) {
    sim_process *p = &s->processes[process];
    p->alive = false;
    p->life++;
    p->died_us = s->now_us;
    if (process < SIM_COORDINATORS) {
        sim_coord_stop(s, process);
    } else {
        sim_node_stop(s, process - SIM_COORDINATORS);
    }
}

void sim_kill(sim *s, uint32_t process) {
    if (!s->processes[process].alive) return;
    stop(s, process);
    sim_thaw(s, process); /* what it did not read is gone with it */
    for (uint32_t i = 0; process < SIM_COORDINATORS && i < s->n_requests; i++) {
        sim_request *r = &s->requests[i];
        if (r->coordinator != process || !r->submitted) continue;
        if (r->outcomes == 0) sim_outcome(s, r, ERR_CLOSED);
    }
}

void sim_revive(sim *s, uint32_t process) {
    if (!s->processes[process].alive) start(s, process);
}

void sim_freeze(sim *s, uint32_t process) {
    if (s->processes[process].alive) s->processes[process].frozen = true;
}

void sim_thaw(sim *s, uint32_t process) {
    s->processes[process].frozen = false;
    sim_release_held(s, process);
}

/* ---- clients ---- */

sim_request *sim_find_request(sim *s, uint64_t id) {
    return &s->requests[id - 1];
}

/* The ways in which a request may fail. */
static bool is_expected(int code) {
    return code == ERR_UNAVAILABLE || code == ERR_DEADLINE ||
           code == ERR_OVERLOADED || code == ERR_CLOSED;
}

void sim_outcome(sim *s, sim_request *r, int code) {
    sim_trace(s, "request %llu ends: %s", (unsigned long long)r->id,
              code == 0 ? "finished" : err_name(code));
    if (++r->outcomes > 1) {
        sim_fail(s, "request %llu ends twice", (unsigned long long)r->id);
    }
    r->code = code;
    if (code == 0) {
        s->result->finished++;
    } else if (code == ERR_CANCELLED) {
        s->result->cancelled++;
    } else {
        s->result->failed++;
        if (code == ERR_UNAVAILABLE) s->result->unavailable++;
        if (!is_expected(code)) {
            sim_fail(s, "request %llu fails oddly: %s",
                     (unsigned long long)r->id, err_name(code));
        }
        /* A client that does not take its output brings this on itself. */
        bool own_fault = r->held && code != ERR_CLOSED;
        if (s->strict && !own_fault) {
            sim_fail(s, "request %llu fails: %s", (unsigned long long)r->id,
                     err_name(code));
        }
    }
}

static void make_request(sim *s, uint32_t i) {
    sim_request *r = &s->requests[i];
    r->id = i + 1;
    r->coordinator = (uint32_t)sim_below(s, SIM_COORDINATORS);
    r->n_prompt = 1 + (uint32_t)sim_below(s, 14);
    r->n_new = 1 + (uint32_t)sim_below(s, SIM_POSITIONS - r->n_prompt);
    r->n_tokens = r->n_prompt;
    for (uint32_t t = 0; t < r->n_prompt; t++) {
        r->tokens[t] = (uint32_t)sim_below(s, 1000);
    }
    sim_reference(r->tokens, r->n_prompt, r->n_new, r->expected);

    uint64_t at_us = 50000 + sim_below(s, 1200000);
    sim_after(s, at_us, EVENT_SUBMIT, -1, r->id);
    if (sim_chance(s, 15)) {
        sim_after(s, at_us + sim_below(s, 60000), EVENT_CANCEL, -1, r->id);
    }
    if (sim_chance(s, 15)) {
        uint64_t hold_us = at_us + sim_below(s, 30000);
        sim_after(s, hold_us, EVENT_HOLD, -1, r->id);
        if (!sim_chance(s, 20)) {
            sim_after(s, hold_us + sim_below(s, 200000), EVENT_RELEASE, -1,
                      r->id);
        }
    }
}

static void on_client(sim *s, const sim_event *e) {
    sim_request *r = sim_find_request(s, e->number);
    const sim_process *p = &s->processes[r->coordinator];
    sim_command what = COMMAND_SUBMIT;

    if (p->frozen) { /* its connection waits with it */
        sim_after(s, 1000, e->kind, -1, e->number);
        return;
    }
    if (e->kind == EVENT_CANCEL) what = COMMAND_CANCEL;
    if (e->kind == EVENT_HOLD) what = COMMAND_HOLD;
    if (e->kind == EVENT_RELEASE) what = COMMAND_RELEASE;
    if (what == COMMAND_SUBMIT) {
        r->submitted = true;
        r->moved_us = s->now_us;
        if (!p->alive) {
            sim_outcome(s, r, ERR_CLOSED);
            return;
        }
    }
    if (!p->alive || r->outcomes > 0 || !r->submitted) return;
    if (what == COMMAND_HOLD) r->held = true;
    if (what == COMMAND_RELEASE) r->held = false;
    sim_coord_command(s, r->coordinator, r->id, what);
}

/* ---- the turn of events ---- */

static void on_message(sim *s, sim_event *e) {
    uint32_t process = (uint32_t)e->process;
    if (process < SIM_COORDINATORS) {
        sim_coord_message(s, process, e->message);
    } else {
        sim_node_message(s, process - SIM_COORDINATORS, e->message);
        free(e->message);
    }
}

static void run_event(sim *s, sim_event *e) {
    if (e->process >= 0) {
        const sim_process *p = &s->processes[e->process];
        /* A message finds whoever lives there now; other events die with the
         * process that they belong to. */
        bool gone =
            !p->alive || (e->kind != EVENT_MESSAGE && e->life != p->life);
        if (gone) {
            free(e->message);
            return;
        }
        if (p->frozen) {
            sim_hold_event(s, e);
            return;
        }
    }
    switch (e->kind) {
    case EVENT_MESSAGE:
        on_message(s, e);
        break;
    case EVENT_COMPUTED:
        sim_node_computed(s, (uint32_t)e->process - SIM_COORDINATORS);
        break;
    case EVENT_ASSIGN:
        sim_node_assign(s, (uint32_t)e->process - SIM_COORDINATORS, e->number);
        break;
    case EVENT_SUBMIT:
    case EVENT_CANCEL:
    case EVENT_HOLD:
    case EVENT_RELEASE:
        on_client(s, e);
        break;
    case EVENT_FAULT_BEGIN:
        sim_fault_begin(s, (uint32_t)e->number);
        break;
    case EVENT_FAULT_END:
        sim_fault_end(s, (uint32_t)e->number);
        break;
    default:
        sim_coord_event(s, (uint32_t)e->process, e);
    }
}

static bool all_ended(const sim *s) {
    for (uint32_t i = 0; i < s->n_requests; i++) {
        if (s->requests[i].outcomes == 0) return false;
    }
    return true;
}

static void check_hang(sim *s) {
    for (uint32_t i = 0; i < s->n_requests; i++) {
        const sim_request *r = &s->requests[i];
        if (!r->submitted || r->outcomes > 0) continue;
        if (s->now_us > r->moved_us + HANG_US) {
            sim_fail(s, "request %llu hangs", (unsigned long long)r->id);
        }
    }
}

static void check_end(sim *s) {
    for (uint32_t i = 0; i < s->n_requests; i++) {
        if (s->requests[i].outcomes != 1) {
            sim_fail(s, "request %u has %u outcomes", i + 1,
                     s->requests[i].outcomes);
        }
    }
    for (uint32_t i = 0; i < SIM_COORDINATORS; i++)
        sim_coord_check_end(s, i);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (job_queue_waiting(s->nodes[i].queue) != 0 ||
            job_queue_reply_bytes(s->nodes[i].queue) != 0) {
            sim_fail(s, "node %u has work left", i);
        }
    }
}

static void run_events(sim *s) {
    uint64_t settle_us = UINT64_MAX, look_us = 0, last_us = 0;
    uint32_t at_once = 0;
    sim_event e;

    while (s->result->ok && sim_next_event(s, &e)) {
        s->result->events++;
        run_event(s, &e);
        at_once = s->now_us == last_us ? at_once + 1 : 0;
        last_us = s->now_us;
        if (at_once > AT_ONCE_MOST) sim_fail(s, "time stands still");
        if (s->now_us < look_us) continue;
        look_us = s->now_us + 10000;
        check_hang(s);
        if (s->now_us > SIM_END_US) sim_fail(s, "the run does not end");
        bool over = all_ended(s) && s->now_us > s->faults_end_us;
        if (over && settle_us == UINT64_MAX) settle_us = s->now_us + SETTLE_US;
        if (s->now_us > settle_us) break;
    }
    if (s->result->ok) check_end(s);
}

/* ---- a run ---- */

static void set_up(sim *s) {
    s->n_nodes = 2 + (uint32_t)sim_below(s, SIM_NODES - 1);
    s->slices = 1u << sim_below(s, 4);
    sim_faults_choose(s);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        s->nodes[i].us_per_pair =
            (50 + (uint32_t)sim_below(s, 250)) / s->slices;
        for (uint32_t c = 0; c < SIM_COORDINATORS; c++) {
            s->paths[c][i].double_percent = 1;
        }
    }
    for (uint32_t i = 0; i < SIM_COORDINATORS + s->n_nodes; i++)
        start(s, i);
    s->n_requests = 12 + (uint32_t)sim_below(s, SIM_REQUESTS - 11);
    for (uint32_t i = 0; i < s->n_requests; i++)
        make_request(s, i);
}

static void tear_down(sim *s) {
    for (uint32_t i = 0; i < SIM_COORDINATORS + s->n_nodes; i++) {
        if (s->processes[i].alive) stop(s, i);
    }
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        holdings_fini(&s->nodes[i].held);
        holdings_fini(&s->nodes[i].shown);
    }
    sim_drop_events(s);
}

void sim_run(const sim_options *options, sim_result *result) {
    static sim s; /* large, and one at a time */
    memset(&s, 0, sizeof(s));
    *result = (sim_result){.ok = true, .hash = options->seed};
    s.options = *options;
    s.result = result;
    s.random = options->seed * 0x2545F4914F6CDD1Du;

    set_up(&s);
    run_events(&s);
    tear_down(&s);
}
