/* member_model.c - which model a rack's node works with, and how it comes by
 * it.
 *
 * A node with a file of its own reads it.  One without waits until a
 * coordinator is registered, and takes the model of the placement or, if there
 * is none yet, of the first coordinator.  Only then it registers, since what it
 * registers says which model it can work for. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/pool.h"
#include "engine/util.h"
#include "expert_node/member_internal.h"
#include "expert_node/skeleton.h"

#define WHY_SIZE 512
#define PULL_RETRY_MS 500
#define PULL_RETRY_MOST_MS 10000

/* ---- learning ---- */

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

static int learn_model(void *ctx, uint32_t layer, uint32_t unit, char *why,
                       size_t why_size) {
    member *m = ctx;
    (void)layer;
    (void)unit;
    const char *path = member_path(m);
    if (path != NULL) return shard_open(&m->learned, path, why, why_size);
    const shard_origin from = {
        .fetch = m->fetch,
        .cache = m->cache,
        .wanted = m->learns_wanted ? &m->learned_print : NULL,
    };
    return shard_pull(&m->learned, &from, why, why_size);
}

void member_learn(member *m) {
    m->learns_wanted = m->has_wanted;
    m->learned_print = m->wanted;
    const loader_job j = {.run = learn_model, .ctx = m, .kind = JOB_MODEL};
    m->learning = loader_push(m->loader, &j) == 0;
}

void member_learn_if_due(member *m, uint64_t now_ms) {
    if (m->known || m->learning || m->closing || m->fetch == NULL) return;
    if (!m->has_source) {
        if (member_view(m) != NULL && !m->said_waiting) {
            log_info("waiting for a coordinator to fetch the model from");
            m->said_waiting = true;
        }
        return;
    }
    if (now_ms < m->pull_at_ms) return;
    log_info("learning the model, %s",
             m->kept ? "which was kept here" : "from a coordinator");
    member_learn(m);
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
    snprintf(r.weights, sizeof(r.weights), "%s",
             unit_server_endpoint(m->units));
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
    member_serve_weights(m);
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

/* A pull takes a while, in which the rack can have settled for another model
 * than the one that was pulled. */
static int check_wanted(const member *m, char *why, size_t why_size) {
    fingerprint wanted;
    if (m->fetch == NULL || !choose_model(member_view(m), &wanted) ||
        fingerprint_equal(&wanted, &m->learned->print)) {
        return 0;
    }
    return err_why(why, why_size, ERR_WRONG_MODEL,
                   "the rack works with another model by now");
}

int member_learned(member *m, const loader_result *r) {
    char why[WHY_SIZE];
    int rc = r->rc;
    m->learning = false;
    snprintf(why, sizeof(why), "%s", r->why);
    if (m->closing) return ERR_CLOSED;
    if (rc == 0) rc = check_wanted(m, why, sizeof(why));
    if (rc == 0) rc = adopt(m, why, sizeof(why));
    if (rc == 0) return 0;
    if (m->fetch == NULL || m->known) {
        m->failed = true;
        m->config.on_failed(m->config.ctx, rc, why);
        return rc;
    }
    shard_close(m->learned);
    m->learned = NULL;
    m->pull_wait_ms = size_min(size_max(2 * m->pull_wait_ms, PULL_RETRY_MS),
                               PULL_RETRY_MOST_MS);
    m->pull_at_ms = now_ms() + m->pull_wait_ms;
    log_warn("cannot fetch the model: %s; trying again in %" PRIu64 " ms", why,
             m->pull_wait_ms);
    return rc;
}

/* ---- who has it ---- */

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

void member_follow_sources(member *m, const rack_view *view) {
    const shard *s = service_shard(m->config.service);
    fingerprint model;
    if (m->fetch == NULL) return;
    if (s != NULL) {
        model = s->print;
    } else if (!choose_model(view, &model)) {
        m->has_source = m->has_wanted = false;
        fetch_set_sources(m->fetch, NULL, 0);
        return;
    }
    const char *sources[FETCH_MAX_SOURCES];
    size_t n = list_sources(view, &model, sources);
    fetch_expect(m->fetch, &model);
    fetch_set_sources(m->fetch, sources, n);
    m->has_wanted = true;
    m->wanted = model;
    m->kept =
        m->cache != NULL && skeleton_is_kept(unit_cache_dir(m->cache), &model);
    m->has_source = n > 0 || m->kept;
}
