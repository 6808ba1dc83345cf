/* conductor.c - see conductor.h.
 *
 * Everything happens in one place, take_up(), after every change that the
 * registry reports: the nodes get the newest placement, the owner hears whether
 * we may serve, the leader machine sees the picture and acts.  A timer calls it
 * when the leader machine wants to be looked after. */
#include "coordinator/conductor.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/conductor_homeless.h"
#include "coordinator/conductor_stranded.h"
#include "coordinator/conductor_internal.h"
#include "coordinator/conductor_recover.h"
#include "coordinator/nodes_held.h"
#include "coordinator/nodes_load.h"
#include "discovery/slice_choice.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define AGAIN_MS 500     /* after a lack of memory */
#define IDLE_LOOK_MS 200 /* is the last request over? */

/* ---- the model, as the planner sees it ---- */

static void rack_model_free(rack_model *m) {
    if (m == NULL) return;
    model_cut_fini(&m->cut);
    free(m);
}

static int rack_model_new(rack_model **out, const conductor *c,
                          uint32_t max_slices, char *why, size_t why_size) {
    const model_config *model = c->config.model;
    *out = NULL;
    rack_model *m = calloc(1, sizeof(*m));
    if (m == NULL) return -ENOMEM;
    int rc = model_cut_init(&m->cut, c->config.file, model, max_slices, why,
                            why_size);
    if (rc < 0) {
        free(m);
        return rc;
    }
    m->plan = (planner_model){.n_layers = model->n_layers,
                              .n_experts = model->n_experts,
                              .slices = m->cut.slices,
                              .unit_bytes = m->cut.unit_bytes,
                              .max_slices = max_slices,
                              .min_replicas = c->config.min_replicas};
    memcpy(m->plan.model, c->config.self->model.bytes, RECORD_MODEL);
    *out = m;
    return 0;
}

/* ---- our own record ---- */

static void copy_profile(record_profile *to, const profile *p) {
    to->version = p->version;
    snprintf(to->activation, sizeof(to->activation), "%s", p->activation);
    snprintf(to->rows, sizeof(to->rows), "%s", p->rows);
    snprintf(to->kv, sizeof(to->kv), "%s", p->kv);
    snprintf(to->mla, sizeof(to->mla), "%s", p->mla);
    snprintf(to->blas, sizeof(to->blas), "%s", p->blas);
}

static void fill_record(conductor *c) {
    const conductor_config *f = &c->config;
    coordinator_record *r = &c->own;
    *r = (coordinator_record){.boot = f->self->boot_id,
                              .protocol = PROTOCOL_VERSION,
                              .has_model = true};
    snprintf(r->name, sizeof(r->name), "%s", f->self->name);
    snprintf(r->client, sizeof(r->client), "%s", f->client);
    snprintf(r->weights, sizeof(r->weights), "%s", f->weights);
    snprintf(r->version, sizeof(r->version), "%s", ROSTER_VERSION);
    memcpy(r->model, f->self->model.bytes, sizeof(r->model));
    copy_profile(&r->profile, f->profile);
}

/* ---- is the rack's placement ours? ---- */

const rack_placement *conductor_placement(conductor *c, const rack_view *view) {
    const rack_placement *p = rack_view_placement(view);
    const model_config *m = c->config.model;
    c->conflict[0] = '\0';
    if (p == NULL) return NULL;
    const epoch_record *head = rack_placement_head(p);
    bool same = memcmp(head->model, c->config.self->model.bytes,
                       sizeof(head->model)) == 0;
    if (same && head->n_layers == m->n_layers &&
        head->n_experts == m->n_experts) {
        return p;
    }
    fingerprint theirs;
    char hex[FINGERPRINT_HEX_SIZE], own[FINGERPRINT_HEX_SIZE];
    memcpy(theirs.bytes, head->model, sizeof(theirs.bytes));
    snprintf(c->conflict, sizeof(c->conflict),
             "the placement of cluster '%s' is for another model (%.16s..., "
             "written by '%s'); this coordinator serves %.16s...",
             c->config.self->cluster, fingerprint_hex(&theirs, hex),
             head->writer, fingerprint_hex(&c->config.self->model, own));
    return NULL;
}

void conductor_tell_refusal(conductor *c) {
    int code = 0;
    const char *text = "";
    if (c->conflict[0] != '\0') {
        code = ERR_WRONG_MODEL;
        text = c->conflict;
    } else if (!c->listed) {
        code = ERR_CLOSED;
        text =
            "this coordinator has not heard from etcd yet: it knows no nodes";
    } else if (c->stranded) {
        code = ERR_CLOSED;
        text = CONDUCTOR_STRANDED;
    } else if (c->drained) {
        code = ERR_CLOSED;
        text = "this coordinator is drained: it takes no new requests";
    }
    if (code == c->told_code && strcmp(text, c->told) == 0) return;
    c->told_code = code;
    snprintf(c->told, sizeof(c->told), "%s", text);
    if (code == ERR_WRONG_MODEL) log_error("%s", text);
    c->config.on_refuse(c->config.ctx, code, c->told);
}

/* ---- the placement that we know ---- */

/* Our record says it, so that whoever leads an etcd that has forgotten it does
 * not go on from there: the nodes that could tell may all be away just then. */
static void tell_known(conductor *c, const rack_view *view) {
    const rack_placement *known = rack_view_placement(view);
    coordinator_record *own = &c->own;
    if (known == NULL || own->placement == rack_placement_sum(known)) return;
    const epoch_record *head = rack_placement_head(known);
    coordinator_record before = *own;
    own->incarnation = head->incarnation;
    own->epoch = head->epoch;
    own->placement = rack_placement_sum(known);
    int rc = registry_set_coordinator(c->registry, own);
    if (rc == 0) return;
    *own = before; /* another look tries again */
    log_error("cannot change our record: %s", err_text(rc));
}

/* ---- drain of this coordinator ---- */

/* Others learn from our record that we have nothing left to do. */
static void see_idle(conductor *c) {
    bool empty = c->drained && c->config.is_idle(c->config.ctx);
    if (empty == (c->own.drained != 0)) return;
    c->own.drained = empty;
    int rc = registry_set_coordinator(c->registry, &c->own);
    if (rc == 0) return;
    c->own.drained = !empty; /* another look tries again */
    log_error("cannot change our record: %s", err_text(rc));
}

static void on_idle_timer(uv_timer_t *timer) {
    see_idle(timer->data);
}

static void see_own_drain(conductor *c, const rack_view *view) {
    bool drained = rack_view_drain(view, c->config.self->name) != NULL;
    if (drained == c->drained) {
        if (!drained) see_idle(c); /* if that could not be said at once */
        return;
    }
    c->drained = drained;
    if (drained) {
        log_info("drained: new requests are refused, running ones go on");
        registry_resign(c->registry);
        uv_timer_start(&c->idle_timer, on_idle_timer, 0, IDLE_LOOK_MS);
    } else {
        log_info("in use again: the drain was undone");
        registry_campaign(c->registry);
        uv_timer_stop(&c->idle_timer);
        see_idle(c);
    }
}

/* ---- leading ---- */

static void take_up(conductor *c);

static leader_outcome outcome_of(etcd_code code) {
    switch (code) {
    case ETCD_OK:
        return LEADER_DONE;
    case ETCD_FALSE:
    case ETCD_REFUSED:
    case ETCD_NO_SPACE:
    case ETCD_NO_MEMORY:
        return LEADER_NOT;
    default:
        return LEADER_UNKNOWN;
    }
}

static void on_written(void *ctx, etcd_code code, const char *why,
                       int64_t revision) {
    conductor *c = ctx;
    (void)revision;
    if (c->closing) return;
    if (code != ETCD_OK) {
        log_warn("a placement was not written: %s%s%s", etcd_code_text(code),
                 why[0] != '\0' ? ": " : "", why);
    }
    leader_wrote(c->leader, now_ms(), outcome_of(code));
    take_up(c);
}

static void on_compacted(void *ctx, etcd_code code, const char *why,
                         int64_t revision) {
    (void)ctx;
    if (code == ETCD_OK || code == ETCD_CANCELLED) return;
    log_debug("etcd was not compacted before %lld: %s", (long long)revision,
              why);
}

static void write_step(conductor *c, const leader_action *a) {
    const planner_step *s = a->step;
    const layer_map *layers[PLANNER_STEP_LAYERS];
    assert(s->n_layers <= PLANNER_STEP_LAYERS);
    for (uint32_t i = 0; i < s->n_layers; i++)
        layers[i] = &s->layers[i];
    placement_write w = {.head = &s->head,
                         .layer_numbers = s->numbers,
                         .layers = layers,
                         .n_layers = s->n_layers,
                         .term = a->term,
                         .expected_revision = a->expected_revision};
    log_info("placement %llu.%llu: %llu holders more, %llu less, in %u layers",
             (unsigned long long)s->head.incarnation,
             (unsigned long long)s->head.epoch, (unsigned long long)s->added,
             (unsigned long long)s->removed, s->n_layers);
    int rc = registry_write_placement(c->registry, &w, on_written, c);
    if (rc == 0) return;
    log_warn("a placement cannot be written: %s", err_text(rc));
    leader_wrote(c->leader, now_ms(), LEADER_NOT);
}

static void on_timer(uv_timer_t *timer) {
    take_up(timer->data);
}

void conductor_think_again(conductor *c) {
    if (!c->closing) uv_timer_start(&c->timer, on_timer, 0, 0);
}

/* Do what the leader machine wants, and come back when it says. */
static void lead(conductor *c) {
    leader_action a;
    conductor_balance_feed(c);
    for (;;) {
        int rc = leader_next(c->leader, now_ms(), &a);
        if (rc < 0) log_error("cannot plan: %s", err_text(rc));
        if (a.kind == LEADER_WAIT) break;
        if (a.kind == LEADER_THINK) conductor_think(c, a.job);
        if (a.kind == LEADER_WRITE) write_step(c, &a);
        if (a.kind == LEADER_COMPACT) {
            registry_compact(c->registry, a.revision, on_compacted, c);
        }
    }
    uint64_t due_ms = conductor_balance_deadline(c);
    if (due_ms < a.wake_ms) a.wake_ms = due_ms;
    if (a.wake_ms == UINT64_MAX) {
        uv_timer_stop(&c->timer);
    } else {
        uint64_t now = now_ms();
        uv_timer_start(&c->timer, on_timer,
                       a.wake_ms > now ? a.wake_ms - now : 1, 0);
    }
    conductor_balance_tell(c); /* may answer somebody who asks again at once */
}

/* ---- what has changed ---- */

static void log_changes(conductor *c, const rack_placement *p) {
    uint64_t epoch = p != NULL ? rack_placement_epoch(p) : 0;
    if (epoch != c->epoch) {
        log_info("placement %llu.%llu is in force",
                 (unsigned long long)epoch_incarnation(epoch),
                 (unsigned long long)epoch_number(epoch));
        c->epoch = epoch;
    }
    int64_t term = registry_term(c->registry);
    if (term != c->term) {
        log_info(term != 0 ? "leading the rack, term %lld"
                           : "not leading the rack any more (term %lld)",
                 (long long)(term != 0 ? term : c->term));
        c->term = term;
    }
    const char *why = leader_why(c->leader);
    if (strcmp(why, c->why_not) == 0) return;
    snprintf(c->why_not, sizeof(c->why_not), "%s", why);
    if (why[0] != '\0') log_warn("placement is frozen: %s", why);
}

/* Of a first placement. */
static uint32_t first_slices(const conductor *c, const rack_view *view) {
    if (c->config.slices != 0) return c->config.slices;
    if (c->model == NULL || view == NULL) return 1;
    const model_config *model = c->config.model;
    const model_cut *cut = &c->model->cut;
    slice_question q = {.n_used = model->n_used,
                        .most = SLICE_CHOICE_MOST,
                        .row_bytes = model->n_embd * sizeof(float)};
    size_t n_nodes;
    (void)rack_view_nodes(view, &n_nodes);
    q.n_nodes = (uint32_t)n_nodes;
    for (uint32_t l = 0; l < model->n_layers; l++) {
        uint64_t bytes = cut->unit_bytes[l] * cut->slices[l];
        if (bytes > q.expert_bytes) q.expert_bytes = bytes;
    }
    return slice_choice(&q);
}

/* The model that the machine saw last stays until it has seen the new one. */
int conductor_show(conductor *c, const rack_view *view,
                   const rack_placement *p) {
    char why[200] = "";
    uint32_t slices =
        p != NULL ? rack_placement_head(p)->slices : first_slices(c, view);
    rack_model *old = NULL;
    if (c->model == NULL || c->model->plan.max_slices != slices) {
        rack_model *new;
        int rc = rack_model_new(&new, c, slices, why, sizeof(why));
        if (rc < 0) {
            log_error("cannot measure the experts: %s",
                      why[0] != '\0' ? why : err_text(rc));
            return rc;
        }
        old = c->model;
        c->model = new;
    }
    leader_picture picture = {
        .view = view,
        .term = registry_term(c->registry),
        .live_since_ms = registry_live_since(c->registry),
        .model = &c->model->plan,
        .heat = nodes_heat(c->config.nodes),
        .told_epoch = nodes_told_epoch(c->config.nodes),
        .n_groups = c->config.model->routing.n_groups,
    };
    int rc = leader_look(c->leader, now_ms(), &picture);
    if (rc < 0) {
        rack_model_free(old != NULL ? c->model : NULL);
        if (old != NULL) c->model = old;
        return rc;
    }
    rack_model_free(old);
    return 0;
}

static void take_up(conductor *c) {
    if (c->closing) return;
    const rack_view *view = registry_view(c->registry);
    const rack_placement *p = NULL;
    int rc = 0;
    if (view != NULL) {
        c->listed = true;
        p = conductor_placement(c, view);
        see_own_drain(c, view);
        tell_known(c, view);
        conductor_tell_refusal(c);
        rc = nodes_set(c->config.nodes, view, p);
    }
    if (rc == 0) rc = conductor_show(c, view, p);
    if (rc < 0) {
        log_error("cannot take up what etcd says: %s", err_text(rc));
        uv_timer_start(&c->timer, on_timer, AGAIN_MS, 0);
        return;
    }
    lead(c);
    log_changes(c, p);
    c->config.on_view(c->config.ctx);
}

static void on_change(void *ctx) {
    take_up(ctx);
}

/* ---- draining ---- */

typedef struct {
    conductor_done done;
    void *ctx;
} drain_job;

static void on_drained(void *ctx, etcd_code code, const char *why,
                       int64_t revision) {
    drain_job *j = ctx;
    (void)revision;
    int rc = 0;
    switch (code) {
    case ETCD_OK:
        break;
    case ETCD_NO_MEMORY:
        rc = -ENOMEM;
        break;
    case ETCD_CANCELLED:
        rc = ERR_CLOSED;
        break;
    default:
        rc = ERR_NOT_LEADER;
        break;
    }
    j->done(j->ctx, rc, rc == 0 ? "" : why);
    free(j);
}

/* Somebody who is registered, has work, or is drained already. */
static bool is_known(const rack_view *view, const char *name) {
    size_t n;
    const coordinator_record *all = rack_view_coordinators(view, &n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(all[i].name, name) == 0) return true;
    }
    const rack_placement *p = rack_view_placement(view);
    return rack_view_node(view, name) != NULL ||
           rack_view_drain(view, name) != NULL ||
           (p != NULL && rack_placement_node(p, name) >= 0);
}

int conductor_drain(conductor *c, const char *name, bool undo,
                    conductor_done done, void *ctx, char *why,
                    size_t why_size) {
    const rack_view *view = registry_view(c->registry);
    if (view == NULL || registry_live_since(c->registry) == 0) {
        return err_why(why, why_size, ERR_NOT_LEADER, "etcd is away");
    }
    if (!record_is_name(name) || !is_known(view, name)) {
        return err_why(why, why_size, ERR_RANGE,
                       "no node or coordinator is called '%s'", name);
    }
    drain_job *j = malloc(sizeof(*j));
    if (j == NULL) return -ENOMEM;
    *j = (drain_job){done, ctx};
    int rc = registry_drain(c->registry, name, undo, on_drained, j);
    if (rc < 0) free(j);
    return rc;
}

/* ---- opening and closing ---- */

static int open_registry(conductor *c, char *why, size_t why_size) {
    registry_config r = {
        .loop = c->config.loop,
        .etcd = etcd_options_config(c->config.etcd),
        .cluster = c->config.self->cluster,
        .name = c->config.self->name,
        .role = REGISTRY_COORDINATOR,
        .boot = c->config.self->boot_id,
        .ttl_s = etcd_options_ttl_s(c->config.etcd),
        .on_change = on_change,
        .ctx = c,
    };
    return registry_open(&c->registry, &r, why, why_size);
}

int conductor_open(conductor **out, const conductor_config *config, char *why,
                   size_t why_size) {
    *out = NULL;
    conductor *c = calloc(1, sizeof(*c));
    if (c == NULL) return -ENOMEM;
    c->config = *config;
    uv_timer_init(config->loop, &c->timer);
    uv_timer_init(config->loop, &c->idle_timer);
    uv_timer_init(config->loop, &c->recover_timer);
    uv_timer_init(config->loop, &c->homeless_timer);
    uv_timer_init(config->loop, &c->stranded_timer);
    c->recover_timer.data = c->homeless_timer.data = c;
    c->stranded_timer.data = c;
    c->timer.data = c->idle_timer.data = c;
    *out = c; /* also on failure: handles of the loop need closing */

    leader_config l = {.name = config->self->name,
                       .replace_after_ms = config->replace_after_ms,
                       .no_balance = config->no_balance,
                       .balance_every_ms = config->balance_every_ms};
    copy_profile(&l.profile, config->profile);
    int rc = leader_new(&c->leader, &l);
    if (rc == 0) rc = conductor_homeless_begin(c);
    if (rc == 0) {
        rc = rack_model_new(&c->model, c, first_slices(c, NULL), why, why_size);
    }
    if (rc == 0) rc = open_registry(c, why, why_size);
    fill_record(c);
    if (rc == 0) rc = registry_set_coordinator(c->registry, &c->own);
    if (rc == 0) {
        conductor_tell_refusal(c);
        conductor_stranded_begin(c);
    }
    return rc;
}

static void on_closed(void *ctx) {
    (void)ctx;
}

void conductor_close(conductor *c) {
    if (c == NULL || c->closing) return;
    c->closing = true;
    uv_close((uv_handle_t *)&c->timer, NULL);
    uv_close((uv_handle_t *)&c->idle_timer, NULL);
    uv_close((uv_handle_t *)&c->recover_timer, NULL);
    uv_close((uv_handle_t *)&c->homeless_timer, NULL);
    uv_close((uv_handle_t *)&c->stranded_timer, NULL);
    conductor_recover_end(c);
    conductor_balance_end(c);
    /* It frees itself; callbacks that are still due find us closing. */
    registry_close(c->registry, on_closed, NULL);
}

void conductor_free(conductor *c) {
    if (c == NULL) return;
    leader_free(c->leader);
    homeless_free(c->homeless);
    rack_model_free(c->model);
    free(c);
}

bool conductor_listed(const conductor *c) {
    return c->listed;
}

bool conductor_drained(const conductor *c) {
    return c->drained;
}

const rack_view *conductor_view(const conductor *c) {
    return registry_view(c->registry);
}
