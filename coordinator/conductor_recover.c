/* conductor_recover.c - see conductor_recover.h.
 *
 * One job at a time, in phases; a timer looks at it every LOOK_MS, and writes
 * come back by callbacks.
 *
 *   SPACE    ask etcd for alarms; unless it is a dry run, do away with them
 *   LEAD     until this coordinator leads, or another one does: then refuse
 *   WRITE    the transactions, one after the other
 *   SEE      until our own view shows what was written */
#include "coordinator/conductor_recover.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/conductor_internal.h"
#include "coordinator/nodes_held.h"
#include "coordinator/recovery.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define LOOK_MS 50
#define LEAD_MS 10000 /* two leases of the usual length */
#define SEE_MS 5000
#define WHY_SIZE 400

typedef enum { SPACE, LEAD, WRITE, SEE } phase;

struct recover_job {
    conductor *owner;
    phase phase;
    bool dry_run, writing;
    char by[RECORD_NAME];
    uint64_t until_ms; /* of the phase */
    recovery plan;
    uint32_t written; /* transactions */
    int64_t revision; /* that the next one replaces */
    json_t *steps, *space;
    conductor_recovered done;
    void *ctx;
};

static void epoch_text(uint64_t packed, char out[64]) {
    out[0] = '\0';
    if (packed == 0) return;
    snprintf(out, 64, "%" PRIu64 ".%" PRIu64, epoch_incarnation(packed),
             epoch_number(packed));
}

__attribute__((format(printf, 2, 3))) static void
add_step(recover_job *j, const char *format, ...) {
    char text[WHY_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    json_array_append_new(j->steps, json_string(text));
    if (!j->dry_run) log_warn("recovery: %s", text);
}

/* ---- the end ---- */

static json_t *report_of(const recover_job *j) {
    static const char *const sources[] = {[RECOVERY_NOTHING] = "",
                                          [RECOVERY_MEMORY] = "memory",
                                          [RECOVERY_NODES] = "nodes"};
    const recovery *p = &j->plan;
    char was[64], becomes[64];
    epoch_text(p->was, was);
    epoch_text(p->becomes, becomes);
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:O, s:O}",
                     "was", was, "becomes", becomes, "why", p->why, "from",
                     sources[p->source], "layers", (json_int_t)p->layers,
                     "units", (json_int_t)p->units, "holders",
                     (json_int_t)p->holders, "transactions",
                     (json_int_t)(p->begins_anew ? 1 : p->n_steps), "dry_run",
                     j->dry_run, "space", j->space, "steps", j->steps);
}

static void job_free(recover_job *j) {
    recovery_fini(&j->plan);
    json_decref(j->steps);
    json_decref(j->space);
    free(j);
}

static void end(recover_job *j, int code, const char *why) {
    conductor *c = j->owner;
    c->recovering = NULL;
    if (!c->closing) uv_timer_stop(&c->recover_timer);
    json_t *report = code == 0 ? report_of(j) : NULL;
    if (code == 0 && report == NULL) code = -ENOMEM;
    if (code < 0) log_error("recovery, asked for by %s: %s", j->by, why);
    j->done(j->ctx, code, code < 0 && why[0] == '\0' ? err_text(code) : why,
            report);
    json_decref(report);
    /* A write or a reclaim still has the job: its callback lets go of it. */
    if (j->writing) {
        j->done = NULL;
        return;
    }
    job_free(j);
}

__attribute__((format(printf, 3, 4))) static void
refuse(recover_job *j, int code, const char *format, ...) {
    char why[WHY_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    end(j, code, why);
}

/* In a callback: is the job still wanted? */
static bool returned(recover_job *j) {
    j->writing = false;
    if (j->done != NULL) return true;
    job_free(j);
    return false;
}

void conductor_recover_end(conductor *c) {
    if (c->recovering == NULL) return;
    end(c->recovering, ERR_CLOSED, "this coordinator is ending");
}

/* ---- writing ---- */

static void write_next(recover_job *j);

static void on_written(void *ctx, etcd_code code, const char *why,
                       int64_t revision) {
    recover_job *j = ctx;
    (void)revision;
    if (!returned(j)) return;
    switch (code) {
    case ETCD_OK:
        j->written++;
        j->revision = 0; /* the head went with the first */
        write_next(j);
        return;
    case ETCD_FALSE:
        refuse(j, ERR_NOT_LEADER,
               "another coordinator leads now, or somebody wrote a placement "
               "meanwhile: look at the status, then try again");
        return;
    case ETCD_UNKNOWN:
        refuse(j, ERR_DEADLINE,
               "nobody knows whether it was written (%s): look at the status, "
               "then try again",
               why);
        return;
    default:
        refuse(j, ERR_NOT_LEADER, "it was not written: %s", why);
        return;
    }
}

static void fill_audit(const recover_job *j, recovered_record *audit) {
    *audit = (recovered_record){0};
    snprintf(audit->by, sizeof(audit->by), "%s", j->by);
    record_time(audit->at);
    epoch_text(j->plan.was, audit->was);
    epoch_text(j->plan.becomes, audit->became);
    snprintf(audit->writer, sizeof(audit->writer), "%s",
             j->owner->config.self->name);
}

/* The layers of the next transaction; with the last one, the head. */
static int write_step(recover_job *j, int64_t term) {
    recovery *p = &j->plan;
    uint32_t numbers[PLANNER_STEP_LAYERS];
    const layer_map *maps[PLANNER_STEP_LAYERS];
    recovered_record audit;
    placement_write w = {.layer_numbers = numbers,
                         .layers = maps,
                         .term = term,
                         .expected_revision = j->revision};
    if (!p->begins_anew) {
        const recovery_step *s = &p->steps[j->written];
        for (uint32_t l = s->first; l < s->end; l++) {
            assert(w.n_layers < PLANNER_STEP_LAYERS);
            numbers[w.n_layers] = l;
            maps[w.n_layers++] = p->maps[l];
        }
        if (j->written + 1 == p->n_steps) {
            snprintf(p->head.writer, sizeof(p->head.writer), "%s",
                     j->owner->config.self->name);
            p->head.term = term;
            fill_audit(j, &audit);
            w.head = &p->head;
            w.audit = &audit;
        }
    }
    return registry_write_placement(j->owner->registry, &w, on_written, j);
}

static void begin_to_see(recover_job *j) {
    j->phase = SEE;
    j->until_ms = now_ms() + SEE_MS;
}

static void write_next(recover_job *j) {
    conductor *c = j->owner;
    if (j->written == (j->plan.begins_anew ? 1 : j->plan.n_steps)) {
        begin_to_see(j);
        return;
    }
    int64_t term = registry_term(c->registry);
    int rc = term != 0 ? write_step(j, term) : ERR_NOT_LEADER;
    if (rc < 0) {
        refuse(j, rc, "not written: %s", err_text(rc));
        return;
    }
    j->writing = true;
}

/* ---- planning ---- */

static int make_plan(recover_job *j, char *why, size_t why_size) {
    conductor *c = j->owner;
    const rack_view *view = registry_view(c->registry);
    recovery_node *held;
    uint32_t n_held;
    /* The model is to be cut as the view's placement is. */
    int rc = conductor_show(c, view, conductor_placement(c, view));
    if (rc == 0) rc = nodes_held(c->config.nodes, &held, &n_held);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));

    const recovery_input in = {.view = view,
                               .nodes_epoch = leader_known_epoch(c->leader),
                               .at_odds = leader_at_odds(c->leader),
                               .model = &c->model->plan,
                               .nodes = held,
                               .n_nodes = n_held};
    rc = recovery_plan(&j->plan, &in, why, why_size);
    free(held);
    return rc;
}

static void tell_plan(recover_job *j) {
    const recovery *p = &j->plan;
    char was[64], becomes[64];
    epoch_text(p->was, was);
    epoch_text(p->becomes, becomes);
    if (p->begins_anew) {
        add_step(j,
                 "%s, and nobody knows one: it is deleted, and a first one "
                 "is made",
                 p->why);
    } else {
        add_step(j,
                 "%s: %s becomes %s, from %s: %" PRIu64 " units in %u "
                 "layers, %" PRIu64 " holders",
                 p->why, was, becomes,
                 p->source == RECOVERY_MEMORY ? "this coordinator's memory"
                                              : "what the nodes hold",
                 p->units, p->layers, p->holders);
    }
    if (p->unheld == 0) return;
    add_step(j,
             "%" PRIu64 " of these units are held by nobody who is there, and "
             "are placed anew%s%s%s: nodes that start now, and still hold "
             "them, would drop them; wait for such",
             p->unheld, p->n_away > 0 ? "; '" : "", p->away,
             p->n_away > 1   ? "' and others had some"
             : p->n_away > 0 ? "' had some"
                             : "");
}

static void plan_and_write(recover_job *j) {
    conductor *c = j->owner;
    char why[WHY_SIZE] = "";
    int rc = make_plan(j, why, sizeof(why));
    if (rc < 0) {
        end(j, rc, why);
        return;
    }
    if (j->plan.why[0] == '\0') {
        add_step(j, "etcd has the placement that is in force: nothing is to "
                    "be written");
        end(j, 0, "");
        return;
    }
    tell_plan(j);
    if (j->dry_run) {
        end(j, 0, "");
        return;
    }
    log_error("etcd is recovered at the word of %s: %s", j->by, j->plan.why);
    j->phase = WRITE;
    j->revision = rack_view_epoch_revision(registry_view(c->registry));
    write_next(j);
}

/* ---- leading ---- */

/* A coordinator that is registered and has the leader key, and is not us. */
static const coordinator_record *find_other(const conductor *c) {
    const rack_view *view = registry_view(c->registry);
    const leader_record *l = rack_view_leader(view);
    size_t n;
    const coordinator_record *all = rack_view_coordinators(view, &n);
    if (l == NULL || l->boot == c->config.self->boot_id) return NULL;
    for (size_t i = 0; i < n; i++) {
        if (all[i].boot == l->boot) return &all[i];
    }
    return NULL;
}

static void wait_to_lead(recover_job *j) {
    conductor *c = j->owner;
    bool live = registry_live_since(c->registry) != 0;
    if (live && (j->dry_run || registry_term(c->registry) != 0)) {
        plan_and_write(j);
        return;
    }
    const coordinator_record *other = live ? find_other(c) : NULL;
    if (other != NULL) {
        refuse(j, ERR_NOT_LEADER,
               "coordinator '%s' leads this rack, and only the leader writes: "
               "ask it at %s",
               other->name, other->client);
    } else if (now_ms() >= j->until_ms) {
        refuse(j, ERR_NOT_LEADER,
               "this coordinator could not get the leader key within %d s",
               LEAD_MS / 1000);
    }
}

static void look(uv_timer_t *timer) {
    conductor *c = timer->data;
    recover_job *j = c->recovering;
    assert(j != NULL);
    if (j->phase == LEAD) {
        wait_to_lead(j);
        return;
    }
    if (j->phase != SEE) return;

    const rack_view *view = registry_view(c->registry);
    const rack_placement *p = rack_view_placement(view);
    bool seen = j->plan.begins_anew ||
                (p != NULL && rack_placement_epoch(p) >= j->plan.becomes);
    if (seen) {
        end(j, 0, "");
    } else if (now_ms() >= j->until_ms) {
        refuse(j, ERR_DEADLINE,
               "it was written, but etcd does not show it yet: look at the "
               "status");
    }
}

/* ---- space ---- */

static void begin_to_lead(recover_job *j) {
    j->phase = LEAD;
    j->until_ms = now_ms() + LEAD_MS;
}

static void on_space(void *ctx, etcd_code code, const char *why,
                     const registry_space *found) {
    recover_job *j = ctx;
    if (!returned(j)) return;
    j->space = json_pack("{s:I, s:I, s:I, s:I, s:I}", "alarms",
                         (json_int_t)found->alarms, "compacted",
                         (json_int_t)found->compacted, "defragmented",
                         (json_int_t)found->defragmented, "not_defragmented",
                         (json_int_t)found->not_defragmented, "disarmed",
                         (json_int_t)found->disarmed);
    bool only_seen = j->dry_run && code == ETCD_NO_SPACE;
    if (code != ETCD_OK && !only_seen) {
        refuse(j, ERR_NOT_LEADER, "%s%s%s", etcd_code_text(code),
               why[0] != '\0' ? ": " : "", why);
        return;
    }
    if (only_seen) {
        add_step(j, "etcd is out of space: it would be compacted, "
                    "defragmented and its alarm disarmed");
    } else if (found->alarms > 0) {
        add_step(j,
                 "etcd was out of space: compacted up to revision %" PRId64
                 ", %u endpoints defragmented, %u alarms disarmed",
                 found->compacted, found->defragmented, found->disarmed);
    }
    begin_to_lead(j);
}

/* ---- beginning ---- */

static int job_new(recover_job **out, conductor *c, bool dry_run,
                   const char *by) {
    *out = NULL;
    recover_job *j = calloc(1, sizeof(*j));
    if (j == NULL) return -ENOMEM;
    j->owner = c;
    j->dry_run = dry_run;
    snprintf(j->by, sizeof(j->by), "%s", by[0] != '\0' ? by : "somebody");
    make_printable(j->by);
    j->steps = json_array();
    if (j->steps == NULL) {
        free(j);
        return -ENOMEM;
    }
    *out = j;
    return 0;
}

static int check(const conductor *c, char *why, size_t why_size) {
    if (c->recovering != NULL) {
        return err_why(why, why_size, ERR_OVERLOADED,
                       "a recovery is under way already");
    }
    if (registry_view(c->registry) == NULL ||
        registry_live_since(c->registry) == 0) {
        return err_why(why, why_size, ERR_NOT_LEADER, "etcd is away");
    }
    if (c->conflict[0] != '\0') {
        return err_why(why, why_size, ERR_WRONG_MODEL, "%s", c->conflict);
    }
    if (!c->drained) return 0;
    return err_why(why, why_size, ERR_NOT_LEADER,
                   "this coordinator is drained and does not lead");
}

int conductor_recover(conductor *c, bool dry_run, const char *by,
                      conductor_recovered done, void *ctx, char *why,
                      size_t why_size) {
    int rc = check(c, why, why_size);
    if (rc < 0) return rc;
    recover_job *j;
    rc = job_new(&j, c, dry_run, by);
    if (rc == 0) {
        rc = registry_reclaim(c->registry, dry_run, on_space, j);
        if (rc < 0) job_free(j);
    }
    if (rc == -EBUSY) { /* for some ms, every few seconds */
        return err_why(why, why_size, ERR_NOT_LEADER,
                       "etcd is just being asked for its space: try again");
    }
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    log_warn("a recovery of etcd is asked for by %s%s", j->by,
             dry_run ? " (dry run)" : "");
    j->writing = true; /* the registry has it */
    j->done = done;
    j->ctx = ctx;
    c->recovering = j;
    uv_timer_start(&c->recover_timer, look, LOOK_MS, LOOK_MS);
    return 0;
}
