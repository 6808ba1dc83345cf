/* member.c - see member.h.
 *
 * Whatever happens ends in step(): take results in, ask the keeper what to do,
 * do it, until it has to wait.  The keeper decides, this carries out.
 *
 * The model comes first.  A node with a file of its own reads it; one without
 * waits until a coordinator is registered, and takes the model of the placement
 * or, if there is none yet, of the first coordinator.  Only then it registers,
 * since what it registers says which model it can work for. */
#include "expert_node/member.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/registry.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/pool.h"
#include "engine/util.h"
#include "expert_node/loader.h"
#include "expert_node/memory.h"

#define WHY_SIZE 512
#define MEMORY_LEAST ((uint64_t)1 << 20)
#define MAX_LOADS 2 /* one is loaded, one is ready to be */
#define PULL_RETRY_MS 500
#define PULL_RETRY_MOST_MS 10000
#define LOG_EVERY_MS 1000 /* failures of loads */

typedef enum { JOB_MODEL, JOB_LOAD } job_kind;

struct member {
    member_config config;
    uint64_t memory_bytes;
    registry *registry;
    keeper *keeper;
    loader *loader;
    fetch *fetch; /* NULL: the model is in a file of our own */
    uv_timer_t timer;
    bool closing, failed;

    shard *learned; /* by the loader, not yet adopted */
    bool learning, known;
    uint64_t pull_at_ms, pull_wait_ms;
    fingerprint wanted; /* the model that coordinators serve */
    bool has_wanted;
    bool said_waiting, said_other;

    /* Orders to drop that the worker has, oldest first. */
    drop_order drops[ORDERS_MAX_DROPS];
    uint64_t drops_given, drops_done;

    char load_error[LOADER_WHY]; /* the last one; "" since all was well */
    uint64_t load_error_ms;

    void (*on_closed)(void *ctx);
    void *closed_ctx;
    int open_handles; /* until on_closed */
};

static const char *own_path(const member *m) {
    return m->config.config->model;
}

static const rack_view *view_of(const member *m) {
    return m->registry != NULL ? registry_view(m->registry) : NULL;
}

/* ---- the model ---- */

static int learn_model(void *ctx, uint32_t layer, uint32_t unit, char *why,
                       size_t why_size) {
    member *m = ctx;
    (void)layer;
    (void)unit;
    const char *path = own_path(m);
    return path != NULL ? shard_open(&m->learned, path, why, why_size)
                        : shard_pull(&m->learned, m->fetch, why, why_size);
}

static void start_learning(member *m) {
    const loader_job j = {.run = learn_model, .ctx = m, .kind = JOB_MODEL};
    m->learning = loader_push(m->loader, &j) == 0;
}

/* A node without a file: as soon as somebody has the model. */
static void learn_if_due(member *m, uint64_t now_ms) {
    if (m->known || m->learning || m->closing || m->fetch == NULL) return;
    if (!m->has_wanted) {
        if (view_of(m) != NULL && !m->said_waiting) {
            log_info("waiting for a coordinator to fetch the model from");
            m->said_waiting = true;
        }
        return;
    }
    if (now_ms >= m->pull_at_ms) start_learning(m);
}

static node_record own_record(const member *m) {
    const node_config *c = m->config.config;
    const shard *s = service_shard(m->config.service);
    const profile p = profile_of_node(c->exact);
    node_record r = {
        .boot = m->config.boot_id,
        .memory_bytes = m->memory_bytes,
        .threads = c->threads != 0 ? c->threads : pool_cpus(),
        .protocol = PROTOCOL_VERSION,
        .has_model = true,
        .profile = {.version = p.version},
    };
    snprintf(r.name, sizeof(r.name), "%s", c->name);
    snprintf(r.control, sizeof(r.control), "%s", m->config.control_endpoint);
    snprintf(r.zone, sizeof(r.zone), "%s", c->zone);
    snprintf(r.cpu, sizeof(r.cpu), "%s", cpu_name(cpu_current()));
    snprintf(r.version, sizeof(r.version), "%s", ROSTER_VERSION);
    snprintf(r.profile.activation, sizeof(r.profile.activation), "%s",
             p.activation);
    snprintf(r.profile.rows, sizeof(r.profile.rows), "%s", p.rows);
    memcpy(r.model, s->print.bytes, sizeof(r.model));
    return r;
}

/* The loader has learned the model: from now on the node can work. */
static int adopt(member *m, char *why, size_t why_size) {
    shard *s = m->learned;
    int rc = shard_cut(s, 1, why, why_size);
    if (rc < 0) return rc;
    m->learned = NULL;
    m->known = true;
    service_adopt(m->config.service, s);
    if (m->fetch != NULL) fetch_expect(m->fetch, &s->print);
    char hex[FINGERPRINT_HEX_SIZE];
    log_info("the model is %s, fingerprint %.16s; %" PRIu64
             " MiB are offered for experts",
             s->model.name, fingerprint_hex(&s->print, hex),
             m->memory_bytes >> 20);
    m->config.on_served(m->config.ctx);

    const node_record r = own_record(m);
    rc = registry_set_node(m->registry, &r);
    return rc < 0
               ? err_why(why, why_size, rc, "cannot register: %s", err_text(rc))
               : 0;
}

static void follow_view(member *m);

static void on_learned(member *m, const loader_result *r) {
    char why[WHY_SIZE];
    int rc = r->rc;
    m->learning = false;
    snprintf(why, sizeof(why), "%s", r->why);
    if (m->closing) return;
    if (rc == 0) rc = adopt(m, why, sizeof(why));
    if (rc == 0) {
        follow_view(m);
        return;
    }
    if (m->fetch == NULL || m->known) {
        m->failed = true;
        m->config.on_failed(m->config.ctx, rc, why);
        return;
    }
    shard_close(m->learned);
    m->learned = NULL;
    m->pull_wait_ms = size_min(size_max(2 * m->pull_wait_ms, PULL_RETRY_MS),
                               PULL_RETRY_MOST_MS);
    m->pull_at_ms = now_ms() + m->pull_wait_ms;
    log_warn("cannot fetch the model: %s; trying again in %" PRIu64 " ms", why,
             m->pull_wait_ms);
}

/* ---- what etcd says ---- */

/* The model that this rack works with, as far as can be told. */
static bool choose_model(const rack_view *view, fingerprint *out) {
    const rack_placement *p = rack_view_placement(view);
    if (p != NULL) {
        memcpy(out->bytes, rack_placement_head(p)->model, sizeof(out->bytes));
        return true;
    }
    size_t n;
    const coordinator_record *c = rack_view_coordinators(view, &n);
    for (size_t i = 0; i < n; i++) {
        if (!c[i].has_model || c[i].weights[0] == '\0') continue;
        memcpy(out->bytes, c[i].model, sizeof(out->bytes));
        return true;
    }
    return false;
}

/* Coordinators that serve the model, for the fetch. */
static size_t list_sources(const rack_view *view, const fingerprint *model,
                           const char *out[FETCH_MAX_SOURCES]) {
    size_t n, count = 0;
    const coordinator_record *c = rack_view_coordinators(view, &n);
    for (size_t i = 0; i < n && count < FETCH_MAX_SOURCES; i++) {
        if (!c[i].has_model || c[i].weights[0] == '\0' ||
            memcmp(c[i].model, model->bytes, sizeof(model->bytes)) != 0) {
            continue;
        }
        out[count++] = c[i].weights;
    }
    return count;
}

static void follow_sources(member *m, const rack_view *view) {
    const shard *s = service_shard(m->config.service);
    fingerprint model;
    if (m->fetch == NULL) return;
    if (s != NULL) {
        model = s->print;
    } else if (!choose_model(view, &model)) {
        m->has_wanted = false;
        fetch_set_sources(m->fetch, NULL, 0);
        return;
    }
    const char *sources[FETCH_MAX_SOURCES];
    size_t n = list_sources(view, &model, sources);
    fetch_expect(m->fetch, &model);
    fetch_set_sources(m->fetch, sources, n);
    m->wanted = model;
    m->has_wanted = n > 0;
}

static void say_other_model(member *m, const rack_placement *p) {
    if (m->said_other) return;
    m->said_other = true;
    fingerprint theirs;
    char hex[FINGERPRINT_HEX_SIZE];
    memcpy(theirs.bytes, rack_placement_head(p)->model, sizeof(theirs.bytes));
    log_warn("the rack works with another model (fingerprint %.16s) than this "
             "node has: it stays out",
             fingerprint_hex(&theirs, hex));
}

static void follow_placement(member *m, const rack_view *view,
                             uint64_t now_ms) {
    const rack_placement *p = rack_view_placement(view);
    const shard *s = service_shard(m->config.service);
    if (p == NULL || s == NULL) return;
    const epoch_record *head = rack_placement_head(p);
    if (memcmp(head->model, s->print.bytes, sizeof(head->model)) != 0) {
        say_other_model(m, p);
        return;
    }
    m->said_other = false;
    keeper_figures before, after;
    keeper_look(m->keeper, &before);
    if (rack_placement_epoch(p) <= before.epoch) return;
    int rc = keeper_placement(m->keeper, now_ms, p);
    if (rc < 0) {
        log_error("placement %" PRIu64 ".%" PRIu64 " cannot be taken up: %s",
                  head->incarnation, head->epoch, err_text(rc));
        return;
    }
    keeper_look(m->keeper, &after);
    log_info("placement %" PRIu64 ".%" PRIu64 ": %u units here, %u to load, "
             "%u to give up",
             head->incarnation, head->epoch, after.assigned, after.waiting,
             after.leaving);
}

/* Take up what etcd says, as far as it is known. */
static void follow_view(member *m) {
    const rack_view *view = view_of(m);
    if (view == NULL) return;
    follow_sources(m, view);
    follow_placement(m, view, now_ms());
}

/* ---- loading ---- */

static int load_unit(void *ctx, uint32_t layer, uint32_t unit, char *why,
                     size_t why_size) {
    return expert_store_load(ctx, layer, unit, why, why_size);
}

/* Are the units of this layer what the placement takes them for? */
static int check_layer(const member *m, uint32_t layer, char *why,
                       size_t why_size) {
    const shard *s = service_shard(m->config.service);
    const rack_placement *p = rack_view_placement(view_of(m));
    const layer_map *map = p != NULL ? rack_placement_layer(p, layer) : NULL;
    if (map == NULL) return 0; /* a newer one comes with the next revision */
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
                          .ctx = service_shard(m->config.service)->store,
                          .layer = a->layer,
                          .unit = a->unit,
                          .kind = JOB_LOAD};
    char why[WHY_SIZE] = "the loader is busy";
    int rc = check_layer(m, a->layer, why, sizeof(why));
    if (rc == 0) rc = loader_push(m->loader, &j);
    if (rc == 0) return;
    note_load_error(m, why, now_ms);
    keeper_loaded(m->keeper, now_ms, a->layer, a->unit, rc);
}

static void on_loaded(member *m, const loader_result *r, uint64_t now_ms) {
    shard *s = service_shard(m->config.service);
    keeper_loaded(m->keeper, now_ms, r->job.layer, r->job.unit, r->rc);
    if (r->rc == 0) {
        holdings_add(&s->held, r->job.layer, r->job.unit);
    } else if (!m->closing) {
        note_load_error(m, r->why[0] != '\0' ? r->why : err_text(r->rc),
                        now_ms);
    }
}

static void take_results(member *m, uint64_t now_ms) {
    loader_result r;
    while (loader_take(m->loader, &r)) {
        if (r.job.kind == JOB_MODEL) {
            on_learned(m, &r);
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

/* ---- the keeper's other actions ---- */

static void cut(member *m, uint32_t slices, uint64_t now_ms) {
    shard *s = service_shard(m->config.service);
    char why[WHY_SIZE] = "";
    uint64_t *bytes = calloc(s->model.n_layers + 1, sizeof(*bytes));
    int rc = bytes != NULL
                 ? service_cut(m->config.service, slices, why, sizeof(why))
                 : -ENOMEM;
    if (rc == 0) {
        for (uint32_t i = 0; i < s->model.n_layers; i++)
            bytes[i] = expert_store_unit_bytes(s->store, i);
        if (slices > 1) log_info("experts are cut into %u slices", slices);
    } else {
        note_load_error(m, why[0] != '\0' ? why : err_text(rc), now_ms);
    }
    m->drops_given = m->drops_done = 0;
    m->config.on_served(m->config.ctx);
    keeper_cut(m->keeper, now_ms, rc, rc == 0 ? bytes : NULL);
    free(bytes);
}

static void report(member *m, const keeper_action *a) {
    const shard *s = service_shard(m->config.service);
    const ready_record r = {
        .boot = m->config.boot_id,
        .incarnation = a->epoch >> EPOCH_BITS,
        .epoch = a->epoch & (((uint64_t)1 << EPOCH_BITS) - 1),
        .digest = a->digest,
        .bytes = expert_store_bytes(s->store),
        .units = a->units,
        .waiting = a->waiting,
    };
    if (a->waiting == 0) {
        m->load_error[0] = '\0';
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

/* Carry out what the keeper says; when it wants to be asked again. */
static uint64_t follow_keeper(member *m, uint64_t now_ms) {
    for (;;) {
        keeper_action a;
        keeper_next(m->keeper, now_ms, &a);
        switch (a.kind) {
        case KEEPER_CUT:
            cut(m, a.slices, now_ms);
            break;
        case KEEPER_LOAD:
            order_load(m, &a, now_ms);
            break;
        case KEEPER_UNLOAD:
            order_drop(m, &a);
            break;
        case KEEPER_REPORT:
            report(m, &a);
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

void member_step(member *m) {
    uint64_t now = now_ms(), wake = UINT64_MAX;
    if (m->failed || m->loader == NULL) return;
    take_results(m, now);
    take_drops(m, now);
    if (m->closing) return;
    learn_if_due(m, now);
    if (m->known) {
        wake = follow_keeper(m, now);
    } else if (m->has_wanted && !m->learning) {
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
    };
    const fetch_config f = {
        .cluster = c->cluster,
        .boot_id = m->config.boot_id,
        .insecure = c->insecure,
    };
    int rc = keeper_new(&m->keeper, &k);
    if (rc == 0 && c->model == NULL) rc = fetch_new(&m->fetch, &f);
    if (rc == 0) {
        rc = loader_start(&m->loader, m->config.on_news, m->config.ctx);
    }
    return rc;
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
    int rc = choose_memory(m, why, why_size);
    if (rc == 0) {
        rc = open_parts(m);
        if (rc < 0) err_why(why, why_size, rc, "%s", err_text(rc));
    }
    if (rc == 0) rc = open_registry(m, why, why_size);
    if (rc < 0) {
        member_free(m);
        return rc;
    }
    rc = uv_timer_init(c->loop, &m->timer);
    assert(rc == 0); /* it only fills the handle in */
    m->timer.data = m;
    if (m->fetch == NULL) start_learning(m);
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
             k.epoch >> EPOCH_BITS,
             k.epoch & (((uint64_t)1 << EPOCH_BITS) - 1));
    if (m->fetch != NULL) fetch_source(m->fetch, source);
    const char *from = own_path(m) != NULL ? own_path(m) : source;
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:s, s:s, s:I,"
        " s:o?}",
        "epoch", epoch, "assigned", number(k.assigned), "resident",
        number(k.resident), "loading", number(k.loading), "unloading",
        number(k.unloading), "leaving", number(k.leaving), "waiting",
        number(k.waiting), "failed", number(k.failed), "no_room", k.no_room,
        "stale_coordinators", number(k.stale), "load_error", m->load_error,
        "source", from, "memory_bytes", number(m->memory_bytes), "etcd",
        m->registry != NULL ? registry_status(m->registry) : NULL);
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

void member_close(member *m, void (*on_closed)(void *ctx), void *ctx) {
    if (m->closing) return;
    m->closing = true;
    m->on_closed = on_closed;
    m->closed_ctx = ctx;
    if (m->fetch != NULL) fetch_stop(m->fetch);
    m->open_handles = 2;
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
    fetch_free(m->fetch);
    free(m);
}
