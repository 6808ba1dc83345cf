/* member_weights.c - where a rack's node has its weights from, and whom it
 * gives them to: the fetch, the cache and the unit server of a member. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/cache_place.h"
#include "expert_node/member_internal.h"

#define TELL_EVERY_MS 10000

/* ---- opening and closing ---- */

static int open_server(member *m, char *why, size_t why_size) {
    const node_config *c = m->config.config;
    char listen[ENDPOINT_MAX + 32];
    if (c->weights_listen != NULL) {
        snprintf(listen, sizeof(listen), "%s", c->weights_listen);
    } else {
        endpoint any = c->control;
        any.port = 0;
        endpoint_format(&any, listen, sizeof(listen));
    }
    const unit_server_config u = {
        .loop = m->config.loop,
        .cluster = c->cluster,
        .boot_id = m->config.boot_id,
        .links = {.zmq = m->config.zmq, .insecure = c->insecure},
        .listen = listen,
    };
    return unit_server_open(&m->units, &u, why, why_size);
}

int member_open_weights(member *m, char *why, size_t why_size) {
    const node_config *c = m->config.config;
    const fetch_config f = {
        .cluster = c->cluster,
        .boot_id = m->config.boot_id,
        .insecure = c->insecure,
    };
    if (member_path(m) == NULL) {
        int rc = fetch_new(&m->fetch, &f);
        if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
        m->cache = cache_place_open(c, m->memory_bytes);
    }
    return open_server(m, why, why_size);
}

void member_serve_weights(member *m) {
    int rc =
        unit_server_serve(m->units, service_shard(m->config.service), m->cache);
    if (rc < 0) log_error("weights are not given to others: %s", err_text(rc));
}

void member_close_weights(member *m, void (*on_idle)(void *ctx)) {
    if (m->fetch != NULL) fetch_stop(m->fetch);
    unit_server_close(m->units, on_idle, m);
}

/* The loader has ended, and the service's shard, which reads through the fetch,
 * loads nothing any more. */
void member_free_weights(member *m) {
    shard *s = service_shard(m->config.service);
    if (s != NULL) shard_detach(s);
    unit_server_free(m->units);
    fetch_free(m->fetch);
    unit_cache_close(m->cache);
}

/* ---- units on their way ---- */

/* Nodes that the placement lists for a unit and that give units away, beginning
 * with another one in every process. */
static size_t list_holders(const member *m, uint32_t layer, uint32_t unit,
                           const char *out[FETCH_MAX_HOLDERS]) {
    const rack_view *view = member_view(m);
    const rack_placement *p = view != NULL ? rack_view_placement(view) : NULL;
    const layer_map *map = p != NULL ? rack_placement_layer(p, layer) : NULL;
    uint32_t n = 0;
    size_t count = 0;
    if (map == NULL || unit >= map->n_units) return 0;
    const uint16_t *holders = layer_map_holders(map, unit, &n);
    const epoch_record *head = rack_placement_head(p);
    for (uint32_t i = 0; i < n && count < FETCH_MAX_HOLDERS; i++) {
        uint32_t at = holders[(i + m->config.boot_id) % n];
        const node_record *r =
            at < head->n_nodes ? rack_view_node(view, head->nodes[at]) : NULL;
        if (r == NULL || r->weights[0] == '\0' ||
            r->boot == m->config.boot_id) {
            continue;
        }
        out[count++] = r->weights;
    }
    return count;
}

void member_ahead(member *m, uint32_t layer, uint32_t unit) {
    shard *s = service_shard(m->config.service);
    if (s->reader == NULL) return;
    const char *holders[FETCH_MAX_HOLDERS];
    size_t n = list_holders(m, layer, unit, holders);
    unit_reader_ahead(s->reader, layer, unit,
                      expert_store_slices(s->store, layer), holders, n);
}

void member_not_ahead(member *m, uint32_t layer, uint32_t unit) {
    shard *s = service_shard(m->config.service);
    if (s->reader != NULL) unit_reader_forget(s->reader, layer, unit);
}

/* What is resident is kept on disk for longest. */
static void pin(member *m, uint32_t layer, uint32_t unit, bool pinned) {
    const shard *s = service_shard(m->config.service);
    unit_key key;
    uint64_t bytes;
    if (m->cache == NULL || s->reader == NULL) return;
    if (unit_reader_key(s->reader, layer, unit,
                        expert_store_slices(s->store, layer), &key,
                        &bytes) == 0) {
        (void)unit_cache_pin(m->cache, &key, pinned);
    }
}

void member_unit_loaded(member *m, uint32_t layer, uint32_t unit) {
    const shard *s = service_shard(m->config.service);
    unit_server_mark(m->units, layer, unit,
                     expert_store_slices(s->store, layer));
    pin(m, layer, unit, true);
}

void member_unit_dropped(member *m, uint32_t layer, uint32_t unit) {
    pin(m, layer, unit, false);
}

/* ---- reports ---- */

static double mib(uint64_t bytes) {
    return (double)bytes / (1 << 20);
}

void member_begin_assignment(member *m, uint64_t now_ms) {
    if (m->fetch == NULL) return;
    fetch_figures f;
    fetch_look(m->fetch, &f);
    m->assigned_ms = m->told_ms = now_ms;
    m->fetched_before = f.fetched_bytes;
    m->cached_before = f.cached_bytes;
    m->told_bytes = 0;
}

static void tell(member *m, const char *what, uint64_t now_ms) {
    fetch_figures f;
    fetch_look(m->fetch, &f);
    uint64_t fetched = f.fetched_bytes - m->fetched_before;
    uint64_t cached = f.cached_bytes - m->cached_before;
    size_t from = 0;
    for (size_t i = 0; i < f.n_sources; i++)
        from += f.sources[i].pieces > 0;
    if (fetched + cached == m->told_bytes) return;
    m->told_bytes = fetched + cached;
    log_info("weights: %s %.1f MiB fetched from %zu source%s, %.1f MiB had "
             "been kept; %.1f s",
             what, mib(fetched), from, from == 1 ? "" : "s", mib(cached),
             (double)(now_ms - m->assigned_ms) / 1000);
}

void member_end_assignment(member *m, uint64_t now_ms) {
    if (m->fetch == NULL || m->assigned_ms == 0) return;
    tell(m, "all is here,", now_ms);
    m->assigned_ms = 0;
}

void member_tell_progress(member *m, uint64_t now_ms) {
    if (m->fetch == NULL || m->assigned_ms == 0 ||
        now_ms - m->told_ms < TELL_EVERY_MS) {
        return;
    }
    m->told_ms = now_ms;
    tell(m, "so far,", now_ms);
}

static json_int_t number(uint64_t n) {
    return n < INT64_MAX ? (json_int_t)n : INT64_MAX;
}

static json_t *sources_json(const fetch_figures *f) {
    json_t *all = json_array();
    for (size_t i = 0; i < f->n_sources && all != NULL; i++) {
        const fetch_source_figures *s = &f->sources[i];
        json_t *one = json_pack(
            "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "endpoint", s->endpoint,
            "role", s->listed ? "coordinator" : "node", "state",
            s->resting     ? "resting"
            : s->connected ? "connected"
                           : "idle",
            "bytes", number(s->bytes), "pieces", number(s->pieces), "refusals",
            number(s->refusals), "damaged", number(s->damaged), "failures",
            number(s->failures));
        json_array_append_new(all, one);
    }
    return all;
}

static json_t *cache_json(const member *m) {
    if (m->cache == NULL) return NULL;
    unit_cache_stats s = unit_cache_look(m->cache);
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "dir",
                     unit_cache_dir(m->cache), "bytes", number(s.bytes),
                     "max_bytes", number(s.max_bytes), "hits", number(s.hits),
                     "kept", number(s.kept), "evicted", number(s.evicted),
                     "damaged", number(s.damaged), "skipped", number(s.skipped),
                     "trouble", s.trouble < 0 ? err_text(s.trouble) : "");
}

json_t *member_weights_json(const member *m) {
    bulk_server_stats given = unit_server_look(m->units);
    fetch_figures f = {0};
    if (m->fetch != NULL) fetch_look(m->fetch, &f);
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o*}", "endpoint",
        unit_server_endpoint(m->units), "wanted_bytes", number(f.wanted_bytes),
        "fetched_bytes", number(f.fetched_bytes), "cached_bytes",
        number(f.cached_bytes), "resumed_bytes", number(f.resumed_bytes),
        "damaged", number(f.damaged), "given_pieces", number(given.pieces),
        "given_bytes", number(given.bytes), "given_refusals",
        number(given.refusals), "sources", sources_json(&f), "cache",
        cache_json(m));
}

const char *member_source(const member *m, char out[FETCH_SOURCE_SIZE]) {
    fetch_figures f;
    out[0] = '\0';
    if (m->fetch == NULL) return out;
    fetch_look(m->fetch, &f);
    for (size_t i = 0; i < f.n_sources; i++) {
        if (!f.sources[i].connected || f.sources[i].pieces == 0) continue;
        strcpy(out, f.sources[i].endpoint);
        break;
    }
    return out;
}
