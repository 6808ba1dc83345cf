/* member.c - see member.h.
 *
 * Whatever happens ends in step(): take results in, ask the keeper what to do,
 * do it, until it has to wait.  The keeper decides, this carries out.
 *
 * The model comes first (member_model.c). */
#include "expert_node/member.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/pool.h"
#include "engine/util.h"
#include "expert_node/damaged.h"
#include "expert_node/member_internal.h"
#include "expert_node/memory.h"

#define WHY_SIZE 512
#define MEMORY_LEAST ((uint64_t)1 << 20)
#define MAX_LOADS 8       /* some are loaded, the others are on their way */
#define LOG_EVERY_MS 1000 /* failures of loads */
#define TICK_MS 1000      /* between two steps, at most */
#define LATE_MS 1000      /* a tick that is later than that: we were stopped */

/* ---- what etcd says ---- */

/* Is a placement about this node's model?  Not only by its fingerprint: what
 * follows goes by its numbers. */
static bool fits_model(const shard *s, const epoch_record *head, char *why,
                       size_t why_size) {
    fingerprint theirs;
    char hex[FINGERPRINT_HEX_SIZE];
    memcpy(theirs.bytes, head->model, sizeof(theirs.bytes));
    if (!fingerprint_equal(&theirs, &s->print)) {
        snprintf(why, why_size,
                 "the rack works with another model (fingerprint %.16s) than "
                 "this node has",
                 fingerprint_hex(&theirs, hex));
        return false;
    }
    if (head->n_layers == s->model.n_layers &&
        head->n_experts == s->model.n_experts) {
        return true;
    }
    snprintf(why, why_size,
             "the placement is of %u layers of %u experts, the model has %u "
             "of %u",
             head->n_layers, head->n_experts, s->model.n_layers,
             s->model.n_experts);
    return false;
}

static void take_placement(member *m, const rack_placement *p,
                           uint64_t now_ms) {
    const epoch_record *head = rack_placement_head(p);
    int rc = keeper_placement(m->keeper, now_ms, p);
    m->placement_due = rc < 0;
    if (rc < 0) {
        log_error("placement %" PRIu64 ".%" PRIu64 " cannot be taken up: %s",
                  head->incarnation, head->epoch, err_text(rc));
        return;
    }
    keeper_figures now;
    keeper_look(m->keeper, &now);
    if (now.waiting > 0) member_begin_assignment(m, now_ms);
    log_info("placement %" PRIu64 ".%" PRIu64 ": %u units here, %u to load, "
             "%u to give up",
             head->incarnation, head->epoch, now.assigned, now.waiting,
             now.leaving);
}

static void follow_placement(member *m, const rack_view *view,
                             uint64_t now_ms) {
    const rack_placement *p = rack_view_placement(view);
    const shard *s = service_shard(m->config.service);
    if (p == NULL || s == NULL) return;
    char why[WHY_SIZE];
    if (!fits_model(s, rack_placement_head(p), why, sizeof(why))) {
        if (!m->said_out) log_warn("%s: it stays out", why);
        m->said_out = true;
        return;
    }
    m->said_out = false;
    keeper_figures before;
    keeper_look(m->keeper, &before);
    if (rack_placement_epoch(p) > before.epoch) take_placement(m, p, now_ms);
}

/* Take up what etcd says, as far as it is known. */
static void follow_view(member *m) {
    const rack_view *view = member_view(m);
    if (view == NULL) return;
    member_follow_sources(m, view);
    follow_placement(m, view, now_ms());
}

/* ---- loading ---- */

static int load_unit(void *ctx, uint32_t layer, uint32_t unit, char *why,
                     size_t why_size) {
    return shard_load(ctx, layer, unit, why, why_size);
}

/* Are the units of this layer what the placement takes them for? */
static int check_layer(const member *m, uint32_t layer, char *why,
                       size_t why_size) {
    const shard *s = service_shard(m->config.service);
    const rack_placement *p = rack_view_placement(member_view(m));
    const layer_map *map = p != NULL ? rack_placement_layer(p, layer) : NULL;
    /* A newer one comes with the next revision, or is of another model. */
    if (map == NULL || m->said_out) return 0;
    uint32_t units = expert_store_units(s->store, layer);
    if (map->n_units == units) return 0;
    return err_why(why, why_size, ERR_RANGE,
                   "layer %u has %u units in the placement, %u in the model",
                   layer, map->n_units, units);
}

static void note_load_error(member *m, const char *why, uint64_t now_ms) {
    snprintf(m->load_error, sizeof(m->load_error), "%s", why);
    if (m->load_error_ms != 0 && now_ms - m->load_error_ms < LOG_EVERY_MS) {
        return;
    }
    m->load_error_ms = now_ms;
    log_warn("cannot load: %s", why);
}

static void order_load(member *m, const keeper_action *a, uint64_t now_ms) {
    const loader_job j = {.run = load_unit,
                          .ctx = service_shard(m->config.service),
                          .layer = a->layer,
                          .unit = a->unit,
                          .kind = JOB_LOAD};
    char why[WHY_SIZE] = "the loader is busy";
    int rc = check_layer(m, a->layer, why, sizeof(why));
    if (rc == 0) {
        member_ahead(m, a->layer, a->unit);
        rc = loader_push(m->loader, &j);
        if (rc == 0) return;
        member_not_ahead(m, a->layer, a->unit);
    }
    note_load_error(m, why, now_ms);
    keeper_loaded(m->keeper, now_ms, a->layer, a->unit, rc);
}

static void on_loaded(member *m, const loader_result *r, uint64_t now_ms) {
    shard *s = service_shard(m->config.service);
    keeper_loaded(m->keeper, now_ms, r->job.layer, r->job.unit, r->rc);
    if (r->rc == 0) {
        holdings_add(&s->held, r->job.layer, r->job.unit);
        member_unit_loaded(m, r->job.layer, r->job.unit);
    } else if (!m->closing) {
        note_load_error(m, r->why[0] != '\0' ? r->why : err_text(r->rc),
                        now_ms);
    }
}

static void take_results(member *m, uint64_t now_ms) {
    loader_result r;
    while (loader_take(m->loader, &r)) {
        if (r.job.kind == JOB_MODEL) {
            if (member_learned(m, &r) == 0) follow_view(m);
        } else {
            on_loaded(m, &r, now_ms);
        }
    }
}

/* ---- unloading ---- */

/* The keeper hands out no more than the worker takes (ORDERS_MAX_DROPS). */
static void order_drop(member *m, const keeper_action *a) {
    shard *s = service_shard(m->config.service);
    holdings_remove(&s->held, a->layer, a->unit);
    member_unit_dropped(m, a->layer, a->unit);
    m->drops[m->drops_given++ % ORDERS_MAX_DROPS] =
        (drop_order){a->layer, a->unit};
    int rc = worker_drop(service_worker(m->config.service), a->layer, a->unit);
    assert(rc == 0);
    (void)rc;
}

static void take_drops(member *m, uint64_t now_ms) {
    const worker *w = service_worker(m->config.service);
    if (w == NULL || m->drops_done == m->drops_given) return;
    worker_counts now;
    worker_read_counts(w, &now);
    if (now.drops == m->drops_done) return;
    for (; m->drops_done < now.drops; m->drops_done++) {
        const drop_order *d = &m->drops[m->drops_done % ORDERS_MAX_DROPS];
        keeper_unloaded(m->keeper, now_ms, d->layer, d->unit);
    }
    /* The memory is to be seen as free by everybody, not by us alone. */
    if (m->drops_done == m->drops_given) malloc_trim(0);
}

static void take_damaged(member *m, uint64_t now_ms) {
    scrub_find f;
    while (damaged_take(m->config.service, "loaded again", &f))
        keeper_lost(m->keeper, now_ms, f.layer, f.unit);
}

/* ---- the keeper's other actions ---- */

/* Another store and another worker, whose counters begin at 0. */
static int cut_store(member *m, uint32_t slices, uint64_t *unit_bytes,
                     char *why, size_t why_size) {
    shard *s = service_shard(m->config.service);
    int rc = service_cut(m->config.service, slices, why, why_size);
    m->drops_given = m->drops_done = 0;
    m->config.on_served(m->config.ctx);
    for (uint32_t i = 0; i < s->model.n_layers && rc == 0; i++)
        unit_bytes[i] = expert_store_unit_bytes(s->store, i);
    return rc;
}

static void order_cut(member *m, uint32_t slices, uint64_t now_ms) {
    const shard *s = service_shard(m->config.service);
    char why[WHY_SIZE] = "";
    uint64_t *unit_bytes = calloc(s->model.n_layers + 1, sizeof(*unit_bytes));
    int rc = unit_bytes != NULL
                 ? cut_store(m, slices, unit_bytes, why, sizeof(why))
                 : -ENOMEM;
    if (rc < 0) {
        note_load_error(m, why[0] != '\0' ? why : err_text(rc), now_ms);
    } else if (slices > 1) {
        log_info("experts are cut into %u slices", slices);
    }
    keeper_cut(m->keeper, now_ms, rc, unit_bytes);
    free(unit_bytes);
}

static void report(member *m, const keeper_action *a, uint64_t now_ms) {
    const shard *s = service_shard(m->config.service);
    const ready_record r = {
        .boot = m->config.boot_id,
        .incarnation = epoch_incarnation(a->epoch),
        .epoch = epoch_number(a->epoch),
        .digest = a->digest,
        .bytes = expert_store_bytes(s->store),
        .units = a->units,
        .waiting = a->waiting,
    };
    if (a->waiting == 0) {
        m->load_error[0] = '\0';
        member_end_assignment(m, now_ms);
        log_info("placement %" PRIu64 ".%" PRIu64 ": all is resident, %u "
                 "units, %.1f MiB",
                 r.incarnation, r.epoch, r.units, (double)r.bytes / (1 << 20));
    }
    int rc = registry_set_ready(m->registry, &r);
    if (rc < 0) log_error("cannot report: %s", err_text(rc));
}

static void set_stale(member *m, uint64_t peer, bool stale) {
    worker *w = service_worker(m->config.service);
    if (stale) {
        log_warn("coordinator %016" PRIx64 " uses an old placement for too "
                 "long: it is refused until it has caught up",
                 peer);
    } else {
        log_info("coordinator %016" PRIx64 " is served again", peer);
    }
    if (w != NULL && worker_set_stale(w, peer, stale) < 0) {
        log_error("too many coordinators are refused");
    }
}

/* Does etcd answer, and with the placement that we go by? */
static bool has_what_we_know(const member *m) {
    const rack_view *view = member_view(m);
    return view != NULL && !rack_view_rolled_back(view) &&
           registry_live_since(m->registry) != 0;
}

/* Carry out what the keeper says; when it wants to be asked again. */
static uint64_t follow_keeper(member *m, uint64_t now_ms) {
    keeper_can_learn(m->keeper, now_ms, has_what_we_know(m));
    if (member_view(m) != NULL) keeper_others(m->keeper, member_view(m));
    for (;;) {
        keeper_action a;
        keeper_next(m->keeper, now_ms, &a);
        switch (a.kind) {
        case KEEPER_CUT:
            order_cut(m, a.slices, now_ms);
            break;
        case KEEPER_LOAD:
            order_load(m, &a, now_ms);
            break;
        case KEEPER_UNLOAD:
            order_drop(m, &a);
            break;
        case KEEPER_REPORT:
            report(m, &a, now_ms);
            break;
        case KEEPER_STALE:
        case KEEPER_UNSTALE:
            set_stale(m, a.peer, a.kind == KEEPER_STALE);
            break;
        case KEEPER_WAIT:
            return a.wake_ms;
        }
    }
}

/* ---- the loop ---- */

static void on_timer(uv_timer_t *t) {
    member_step(t->data);
}

static void wake_at(member *m, uint64_t now_ms, uint64_t wake_ms) {
    if (wake_ms == UINT64_MAX) {
        uv_timer_stop(&m->timer);
        return;
    }
    uint64_t wait = wake_ms > now_ms ? wake_ms - now_ms : 1;
    uv_update_time(m->config.loop);
    uv_timer_start(&m->timer, on_timer, wait, 0);
}

/* While this process is stopped, nobody's pings are heard: that must not pass
 * for their silence. */
static void notice_pause(member *m, uint64_t now_ms) {
    uint64_t gap = now_ms - m->stepped_ms;
    if (m->stepped_ms != 0 && gap > TICK_MS + LATE_MS) {
        log_warn("this process did not run for %.1f s",
                 (double)(gap - TICK_MS) / 1000);
        keeper_paused(m->keeper, now_ms, gap - TICK_MS);
    }
    m->stepped_ms = now_ms;
}

static uint64_t heat_of(void *ctx, uint32_t layer, uint32_t unit) {
    const member *m = ctx;
    return member_heat_of(&m->heat, service_shard(m->config.service), layer,
                          unit);
}

/* What is kept on disk goes beside the units. */
static void remember_heat(member *m, uint64_t now_ms) {
    const shard *s = service_shard(m->config.service);
    if (!m->remembers && s != NULL && m->cache != NULL) {
        heat_memory_config c = {.dir = unit_cache_dir(m->cache),
                                .cluster = m->config.config->cluster,
                                .name = m->config.config->name,
                                .n_layers = s->model.n_layers,
                                .n_experts = s->model.n_experts};
        memcpy(c.model, s->print.bytes, sizeof(c.model));
        member_heat_open(&m->heat, &c);
        m->remembers = true;
    }
    member_heat_look(&m->heat, m->config.service, now_ms);
}

/* The model is known: do what the rack wants; when to look again. */
static uint64_t follow_rack(member *m, uint64_t now_ms) {
    notice_pause(m, now_ms);
    remember_heat(m, now_ms);
    member_tell_progress(m, now_ms);
    if (m->placement_due) follow_placement(m, member_view(m), now_ms);
    return size_min(follow_keeper(m, now_ms), now_ms + TICK_MS);
}

void member_step(member *m) {
    uint64_t now = now_ms(), wake = UINT64_MAX;
    if (m->failed || m->loader == NULL) return;
    take_damaged(m, now);
    take_results(m, now);
    take_drops(m, now);
    if (m->closing) return;
    member_learn_if_due(m, now);
    if (m->known) {
        wake = follow_rack(m, now);
    } else if (m->has_source && !m->learning) {
        wake = m->pull_at_ms;
    }
    wake_at(m, now, wake);
}

static void on_view(void *ctx) {
    member *m = ctx;
    if (m->closing) return;
    follow_view(m);
    member_step(m);
}

/* ---- opening ---- */

static int open_registry(member *m, char *why, size_t why_size) {
    const node_config *c = m->config.config;
    const registry_config r = {
        .loop = m->config.loop,
        .etcd = etcd_options_config(&c->etcd),
        .cluster = c->cluster,
        .name = c->name,
        .role = REGISTRY_NODE,
        .boot = m->config.boot_id,
        .ttl_s = etcd_options_ttl_s(&c->etcd),
        .on_change = on_view,
        .ctx = m,
    };
    return registry_open(&m->registry, &r, why, why_size);
}

static int open_parts(member *m) {
    const node_config *c = m->config.config;
    const keeper_config k = {
        .name = c->name,
        .memory_bytes = m->memory_bytes,
        .max_loads = MAX_LOADS,
        .max_unloads = ORDERS_MAX_DROPS,
        .heat = heat_of,
        .ctx = m,
    };
    int rc = keeper_new(&m->keeper, &k);
    if (rc < 0) return rc;
    /* What is fetched comes unit by unit. */
    size_t threads = member_path(m) != NULL ? pool_cpus() : 1;
    return loader_start(&m->loader,
                        (uint32_t)size_min(threads, LOADER_MAX_THREADS),
                        m->config.on_news, m->config.ctx);
}

/* Reading it all comes later, and a wrong name should not be found then. */
static int check_file(const member *m, char *why, size_t why_size) {
    const char *path = member_path(m);
    if (path == NULL || access(path, R_OK) == 0) return 0;
    int rc = -errno;
    return err_why(why, why_size, rc, "%s: cannot open: %s", path,
                   err_text(rc));
}

static int choose_memory(member *m, char *why, size_t why_size) {
    m->memory_bytes = m->config.config->memory_bytes;
    if (m->memory_bytes == 0) m->memory_bytes = memory_offer("");
    if (m->memory_bytes >= MEMORY_LEAST) return 0;
    return err_why(why, why_size, ERR_USAGE,
                   "%" PRIu64 " bytes of memory are too few for experts; "
                   "see --memory",
                   m->memory_bytes);
}

int member_open(member **out, const member_config *c, char *why,
                size_t why_size) {
    *out = NULL;
    member *m = calloc(1, sizeof(*m));
    if (m == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    m->config = *c;
    int rc = check_file(m, why, why_size);
    if (rc == 0) rc = choose_memory(m, why, why_size);
    if (rc == 0) {
        rc = open_parts(m);
        if (rc < 0) err_why(why, why_size, rc, "%s", err_text(rc));
    }
    if (rc == 0) rc = member_open_weights(m, why, why_size);
    if (rc == 0) rc = open_registry(m, why, why_size);
    if (rc < 0) {
        member_free(m);
        return rc;
    }
    rc = uv_timer_init(c->loop, &m->timer);
    assert(rc == 0); /* it only fills the handle in */
    m->timer.data = m;
    if (m->fetch == NULL) member_learn(m);
    *out = m;
    return 0;
}

/* ---- reports ---- */

keeper *member_keeper(member *m) {
    return m->keeper;
}

bool member_reading(const member *m) {
    return m->learning && m->fetch == NULL;
}

static json_int_t number(uint64_t n) {
    return n < INT64_MAX ? (json_int_t)n : INT64_MAX;
}

json_t *member_status(const member *m) {
    keeper_figures k;
    keeper_look(m->keeper, &k);
    char epoch[48], source[FETCH_SOURCE_SIZE] = "";
    snprintf(epoch, sizeof(epoch), "%" PRIu64 ".%" PRIu64,
             epoch_incarnation(k.epoch), epoch_number(k.epoch));
    const char *from =
        member_path(m) != NULL ? member_path(m) : member_source(m, source);
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:s, s:s, s:I,"
        " s:o?, s:o, s:o}",
        "epoch", epoch, "assigned", number(k.assigned), "resident",
        number(k.resident), "loading", number(k.loading), "unloading",
        number(k.unloading), "leaving", number(k.leaving), "waiting",
        number(k.waiting), "failed", number(k.failed), "no_room", k.no_room,
        "stale_coordinators", number(k.stale), "load_error", m->load_error,
        "source", from, "memory_bytes", number(m->memory_bytes), "etcd",
        m->registry != NULL ? registry_status(m->registry) : NULL, "scrub",
        damaged_json(m->config.service), "weights", member_weights_json(m));
}

/* ---- closing ---- */

static void one_closed(member *m) {
    assert(m->open_handles > 0);
    if (--m->open_handles == 0) m->on_closed(m->closed_ctx);
}

static void on_timer_closed(uv_handle_t *handle) {
    one_closed(handle->data);
}

static void on_registry_closed(void *ctx) {
    one_closed(ctx);
}

static void on_weights_idle(void *ctx) {
    one_closed(ctx);
}

void member_close(member *m, void (*on_closed)(void *ctx), void *ctx) {
    if (m->closing) return;
    m->closing = true;
    m->on_closed = on_closed;
    m->closed_ctx = ctx;
    m->open_handles = 3;
    member_close_weights(m, on_weights_idle);
    uv_close((uv_handle_t *)&m->timer, on_timer_closed);
    registry *r = m->registry;
    m->registry = NULL;
    registry_close(r, on_registry_closed, m);
}

void member_free(member *m) {
    if (m == NULL) return;
    if (m->fetch != NULL) fetch_stop(m->fetch);
    loader_stop(m->loader);
    shard_close(m->learned);
    keeper_free(m->keeper);
    member_heat_close(&m->heat);
    member_free_weights(m);
    free(m);
}
