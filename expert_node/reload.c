/* reload.c - see reload.h.
 *
 * One unit at a time, in the order of layers; one that fails waits for the next
 * attempt, without holding up the others.  The file is opened by the first job,
 * since reading it can take long, and stays open until all were tried: it may
 * be another file by the next attempt.  A unit is read and packed into an empty
 * store of the same cut and handed over whole, so the store that is served
 * needs no file. */
#include "expert_node/reload.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/loader.h"

#define RETRY_MS 60000

struct reload {
    reload_config config;
    holdings lost, failed; /* to be loaded; of those, tried in vain */
    loader *loader;        /* NULL: nothing was lost yet */
    bool loading;          /* a job is under way, and has `source` */
    shard *source;         /* NULL: the file is closed */
    uv_async_t news;
    uv_timer_t retry;
    bool closing;
};

/* ---- on the loader's thread ---- */

static int open_source(reload *r, char *why, size_t why_size) {
    const shard *held = r->config.held;
    shard *s;
    int rc = shard_open(&s, r->config.path, why, why_size);
    if (rc < 0) return rc;
    if (!fingerprint_equal(&s->print, &held->print)) {
        rc = err_why(why, why_size, ERR_WRONG_MODEL,
                     "%s is not the model any more that this node serves",
                     r->config.path);
    }
    if (rc == 0) rc = shard_cut(s, held->slices, why, why_size);
    if (rc < 0) {
        shard_close(s);
        return rc;
    }
    r->source = s;
    return 0;
}

static int load(void *ctx, uint32_t layer, uint32_t unit, char *why,
                size_t why_size) {
    reload *r = ctx;
    int rc = r->source == NULL ? open_source(r, why, why_size) : 0;
    if (rc == 0) rc = shard_load(r->source, layer, unit, why, why_size);
    if (rc < 0) return rc;
    expert_store_take(r->config.held->store, r->source->store, layer, unit);
    return 0;
}

static void on_done(void *ctx) {
    reload *r = ctx;
    uv_async_send(&r->news);
}

/* ---- on the loop's ---- */

/* The next unit to be tried; false: all were. */
static bool find_lost(const reload *r, uint32_t *layer, uint32_t *unit) {
    const holdings *h = &r->lost;
    uint32_t end = h->n_experts * h->slices;
    for (*layer = 0; *layer < h->n_layers; (*layer)++) {
        *unit = holdings_next(h, *layer, 0, end);
        while (*unit < end && holdings_has(&r->failed, *layer, *unit))
            *unit = holdings_next(h, *layer, *unit + 1, end);
        if (*unit < end) return true;
    }
    return false;
}

static void close_source(reload *r) {
    assert(!r->loading);
    shard_close(r->source);
    r->source = NULL;
}

static void on_retry(uv_timer_t *timer);

/* The next attempt for all that is lost; what is lost until then has its first
 * one at once. */
static void come_back(reload *r) {
    close_source(r);
    if (reload_waiting(r) > 0 && !uv_is_active((uv_handle_t *)&r->retry))
        uv_timer_start(&r->retry, on_retry, r->config.retry_ms, 0);
}

static void load_next(reload *r) {
    loader_job j = {.run = load, .ctx = r};
    if (r->loading || r->closing) return;
    if (!find_lost(r, &j.layer, &j.unit)) {
        come_back(r);
        return;
    }
    int rc = loader_push(r->loader, &j);
    assert(rc == 0); /* one job, and it has room for several */
    (void)rc;
    r->loading = true;
}

static void on_retry(uv_timer_t *timer) {
    reload *r = timer->data;
    memset(r->failed.bits, 0, holdings_bytes(&r->failed));
    load_next(r);
}

/* It may have been lost once more before we were told that it is there. */
static void take_back(reload *r, uint32_t layer, uint32_t unit) {
    shard *held = r->config.held;
    if (expert_store_get(held->store, layer, unit) == NULL) return;
    log_info("layer %u, unit %u is loaded again", layer, unit);
    holdings_remove(&r->lost, layer, unit);
    holdings_add(&held->held, layer, unit);
    r->config.on_back(r->config.ctx);
}

/* Without the file that is true of all that is lost. */
static void set_aside(reload *r, uint32_t layer, uint32_t unit) {
    holdings_add(&r->failed, layer, unit);
    if (r->source != NULL) return;
    memcpy(r->failed.bits, r->lost.bits, holdings_bytes(&r->lost));
}

static void on_news(uv_async_t *handle) {
    reload *r = handle->data;
    loader_result done;
    if (r->closing || !loader_take(r->loader, &done)) return;

    const loader_job *j = &done.job;
    r->loading = false;
    if (done.rc == 0) {
        take_back(r, j->layer, j->unit);
    } else {
        log_error("layer %u, unit %u cannot be loaded again, and stays "
                  "refused: %s",
                  j->layer, j->unit,
                  done.why[0] != '\0' ? done.why : err_text(done.rc));
        set_aside(r, j->layer, j->unit);
    }
    load_next(r);
}

int reload_add(reload *r, uint32_t layer, uint32_t unit) {
    if (r->closing) return ERR_CLOSED;
    int rc = r->loader == NULL ? loader_start(&r->loader, 1, on_done, r) : 0;
    if (rc < 0) return rc;
    holdings_add(&r->lost, layer, unit);
    load_next(r);
    return 0;
}

uint64_t reload_waiting(const reload *r) {
    return holdings_count(&r->lost);
}

/* ---- opening and closing ---- */

int reload_new(reload **out, const reload_config *c) {
    *out = NULL;
    reload *r = calloc(1, sizeof(*r));
    if (r == NULL) return -ENOMEM;
    r->config = *c;
    if (r->config.retry_ms == 0) r->config.retry_ms = RETRY_MS;
    r->news.data = r->retry.data = r;
    const holdings *h = &c->held->held;
    int rc =
        holdings_init_slices(&r->lost, h->n_layers, h->n_experts, h->slices);
    if (rc == 0) {
        rc = holdings_init_slices(&r->failed, h->n_layers, h->n_experts,
                                  h->slices);
    }
    if (rc == 0) rc = uv_async_init(c->loop, &r->news, on_news);
    if (rc < 0) {
        reload_free(r);
        return rc;
    }
    uv_timer_init(c->loop, &r->retry);
    *out = r;
    return 0;
}

void reload_close(reload *r) {
    r->closing = true;
    loader_stop(r->loader);
    r->loader = NULL;
    r->loading = false;
    uv_close((uv_handle_t *)&r->news, NULL);
    uv_close((uv_handle_t *)&r->retry, NULL);
}

void reload_free(reload *r) {
    if (r == NULL) return;
    shard_close(r->source);
    holdings_fini(&r->lost);
    holdings_fini(&r->failed);
    free(r);
}
