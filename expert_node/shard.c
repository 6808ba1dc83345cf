/* shard.c - see shard.h. */
#include "expert_node/shard.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/expert_bulk.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/skeleton.h"

#define AHEAD 4 /* units on their way while one is packed */
#define LOG_EVERY_US (10 * 1000000u) /* a line of progress, if no terminal */

/* ---- what to hold ---- */

/* One spec from the items of --experts.  On the command line each item is a
 * whole spec; environment and file cut at the commas within one, which shows in
 * a first part that has no colon of its own. */
static char *join_specs(const option_list *items) {
    size_t room = 1;
    for (size_t i = 0; i < items->count; i++)
        room += strlen(items->items[i]) + 1;
    char *spec = calloc(room, 1);
    if (spec == NULL) return NULL;

    char *at = spec;
    bool complete = false; /* the part in hand has its colon */
    for (size_t i = 0; i < items->count; i++) {
        const char *item = items->items[i], *last = strrchr(item, ';');
        bool begins = item[strcspn(item, ":;")] == ':';
        if (i > 0) *at++ = complete && begins ? ';' : ',';
        at = stpcpy(at, item);
        complete = strchr(last != NULL ? last : item, ':') != NULL ||
                   (last == NULL && complete);
    }
    return spec;
}

static int add_specs(holdings *wanted, const option_list *items, char *why,
                     size_t why_size) {
    char *spec = join_specs(items);
    if (spec == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");

    char detail[256] = "";
    int rc = holdings_add_spec(wanted, spec, detail, sizeof(detail));
    free(spec);
    if (rc < 0) err_why(why, why_size, rc, "--experts: %s", detail);
    return rc;
}

static int add_share(holdings *wanted, const char *text, char *why,
                     size_t why_size) {
    uint32_t index = 0, n_nodes = 1, replicas = 1;
    if (text != NULL) {
        char detail[256] = "";
        int rc = holdings_parse_share(text, &index, &n_nodes, &replicas, detail,
                                      sizeof(detail));
        if (rc < 0) return err_why(why, why_size, rc, "--share: %s", detail);
    }
    int rc = holdings_add_share(wanted, index, n_nodes, replicas);
    return rc < 0 ? err_why(why, why_size, rc, "--share: %s", err_text(rc)) : 0;
}

/* An empty set of the store's units. */
static int empty_holdings(const shard *s, holdings *out) {
    const model_config *c = &s->model;
    int rc = holdings_init_slices(out, c->n_layers, c->n_experts, s->slices);
    for (uint32_t layer = 0; layer < c->n_layers && rc == 0; layer++) {
        uint32_t slices = expert_store_slices(s->store, layer);
        if (slices > 0) holdings_cut(out, layer, slices);
    }
    return rc;
}

/* *wanted is initialized by it; its bits may name dense layers, too. */
static int plan_holdings(const shard *s, const shard_plan *plan,
                         holdings *wanted, char *why, size_t why_size) {
    int rc = empty_holdings(s, wanted);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    if (s->model.n_experts == 0) {
        log_warn("%s is a dense model: this node has nothing to hold",
                 s->model.name);
        return 0;
    }
    if (plan->experts != NULL && plan->experts->count > 0) {
        return add_specs(wanted, plan->experts, why, why_size);
    }
    return add_share(wanted, plan->share, why, why_size);
}

/* ---- loading ---- */

typedef struct {
    uint64_t n_wanted, n_done, began_us, said_us;
    bool terminal;
} progress;

typedef struct {
    progress *progress;
    const expert_store *store;
} bulk_progress;

static void show_progress(progress *p, uint64_t bytes) {
    uint64_t now = now_us();
    bool last = p->n_done == p->n_wanted;
    if (p->terminal) {
        if (!last && now - p->said_us < 100000) return;
        fprintf(stderr,
                "\rloading experts: %" PRIu64 " of %" PRIu64 ", %" PRIu64
                " MiB%s",
                p->n_done, p->n_wanted, bytes >> 20, last ? "\n" : "");
    } else {
        if (last || now - p->said_us < LOG_EVERY_US) return;
        log_info("loading: %" PRIu64 " of %" PRIu64 " experts", p->n_done,
                 p->n_wanted);
    }
    p->said_us = now;
}

/* What follows on stderr begins a line of its own. */
static void end_progress(const progress *p) {
    if (p->terminal && p->said_us != p->began_us && p->n_done < p->n_wanted)
        fputc('\n', stderr);
}

static uint64_t count_wanted(const shard *s, const holdings *wanted) {
    uint64_t n = 0;
    for (uint32_t layer = 0; layer < s->model.n_layers; layer++) {
        uint32_t units = expert_store_units(s->store, layer);
        for (uint32_t unit = 0; unit < units; unit++)
            n += holdings_has(wanted, layer, unit);
    }
    return n;
}

static uint64_t count_units(const shard *s) {
    uint64_t n = 0;
    for (uint32_t layer = 0; layer < s->model.n_layers; layer++)
        n += expert_store_units(s->store, layer);
    return n;
}

int shard_load(shard *s, uint32_t layer, uint32_t unit, char *why,
               size_t why_size) {
    return s->reader != NULL
               ? unit_reader_load(s->reader, s->store, layer, unit, why,
                                  why_size)
               : expert_store_load(s->store, layer, unit, why, why_size);
}

/* The units of the layer that come next are brought meanwhile. */
static void look_ahead(shard *s, uint32_t layer, uint32_t unit,
                       const holdings *wanted) {
    uint32_t units = expert_store_units(s->store, layer);
    uint32_t slices = expert_store_slices(s->store, layer);
    if (s->reader == NULL) return;
    for (uint32_t n = 0; unit < units && n < AHEAD; unit++) {
        if (!holdings_has(wanted, layer, unit)) continue;
        unit_reader_ahead(s->reader, layer, unit, slices, NULL, 0);
        n++;
    }
}

/* Unit after unit, while the next ones are fetched. */
static int fetch_wanted(shard *s, const holdings *wanted, progress *p,
                        const expert_unit *units, size_t n, char *why,
                        size_t why_size) {
    for (size_t i = 0; i < n; i++) {
        const expert_unit *u = &units[i];
        look_ahead(s, u->layer, u->unit, wanted);
        int rc = shard_load(s, u->layer, u->unit, why, why_size);
        if (rc < 0) return rc;
        p->n_done = i + 1;
        show_progress(p, expert_store_bytes(s->store));
    }
    return 0;
}

static void on_loaded(void *ctx, size_t n_loaded) {
    bulk_progress *b = ctx;
    b->progress->n_done = n_loaded;
    show_progress(b->progress, expert_store_bytes(b->store));
}

/* With all threads: nothing is computed yet. */
static int read_wanted(shard *s, uint32_t threads, progress *p,
                       const expert_unit *units, size_t n, char *why,
                       size_t why_size) {
    bulk_progress shown = {p, s->store};
    expert_bulk bulk = {.store = s->store,
                        .units = units,
                        .n_units = n,
                        .progress = on_loaded,
                        .ctx = &shown};
    int rc = pool_new(&bulk.threads, threads);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    rc = expert_bulk_load(&bulk, why, why_size);
    pool_free(bulk.threads);
    if (rc == 0 && p->n_done < n) on_loaded(&shown, n);
    return rc;
}

/* The wanted units, in the store's order; free() it.  NULL: no memory. */
static expert_unit *list_wanted(const shard *s, const holdings *wanted,
                                size_t n) {
    expert_unit *units = calloc(n + 1, sizeof(*units));
    if (units == NULL) return NULL;
    size_t at = 0;
    for (uint32_t layer = 0; layer < s->model.n_layers; layer++) {
        for (uint32_t u = 0; u < expert_store_units(s->store, layer); u++) {
            if (holdings_has(wanted, layer, u))
                units[at++] = (expert_unit){layer, u};
        }
    }
    return units;
}

static int load_units(shard *s, const holdings *wanted, uint32_t threads,
                      progress *p, char *why, size_t why_size) {
    size_t n = (size_t)p->n_wanted;
    expert_unit *units = list_wanted(s, wanted, n);
    if (units == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    int rc = s->reader != NULL
                 ? fetch_wanted(s, wanted, p, units, n, why, why_size)
                 : read_wanted(s, threads, p, units, n, why, why_size);
    for (size_t i = 0; i < n; i++) {
        if (expert_store_get(s->store, units[i].layer, units[i].unit) != NULL)
            holdings_add(&s->held, units[i].layer, units[i].unit);
    }
    free(units);
    return rc;
}

static int load_wanted(shard *s, const holdings *wanted, uint32_t threads,
                       char *why, size_t why_size) {
    progress p = {
        .n_wanted = count_wanted(s, wanted),
        .began_us = now_us(),
        .terminal = isatty(STDERR_FILENO) != 0,
    };
    p.said_us = p.began_us;
    int rc = load_units(s, wanted, threads, &p, why, why_size);
    if (rc < 0) {
        end_progress(&p);
        return rc;
    }
    log_info("holds %" PRIu64 " of %" PRIu64 " %s of %s: %.1f MiB, "
             "loaded in %.1f s",
             p.n_done, count_units(s),
             s->slices > 1 ? "slices of experts" : "experts", s->model.name,
             (double)expert_store_bytes(s->store) / (1 << 20),
             (double)(now_us() - p.began_us) / 1e6);
    return 0;
}

void shard_detach(shard *s) {
    unit_reader_free(s->reader);
    s->reader = NULL;
}

/* Nothing will be loaded any more. */
static void settle(shard *s) {
    shard_detach(s);
    manifest_close(s->checks);
    gguf_close(s->g);
    s->checks = NULL;
    s->g = NULL;
    malloc_trim(0); /* what loading needed beside the experts */
}

int shard_fill(shard *s, const shard_plan *plan, char *why, size_t why_size) {
    holdings wanted = {0};
    int rc = plan_holdings(s, plan, &wanted, why, why_size);
    if (rc == 0) rc = load_wanted(s, &wanted, plan->threads, why, why_size);
    holdings_fini(&wanted);
    settle(s);
    return rc;
}

/* ---- opening ---- */

/* One that has to be computed is computed by all CPUs. */
static int open_manifest(shard *s, char *why, size_t why_size) {
    int rc = manifest_open_kept(&s->checks, s->g, why, why_size);
    if (rc != ERR_NOT_HERE) return rc;
    pool *threads;
    rc = pool_new(&threads, 0);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    rc = manifest_open_with(&s->checks, s->g, true, threads, why, why_size);
    pool_free(threads);
    return rc;
}

static int describe_file(shard *s, const char *path, char *why,
                         size_t why_size) {
    int rc = gguf_open(&s->g, path, why, why_size);
    if (rc < 0) return rc;
    rc = open_manifest(s, why, why_size);
    if (rc < 0) return rc;
    rc = fingerprint_of(s->g, s->checks, &s->print);
    if (rc == 0) return 0;
    return err_why(why, why_size, rc, "the model's fingerprint: %s",
                   err_text(rc));
}

static int describe_pulled(shard *s, const shard_origin *from, char *why,
                           size_t why_size) {
    skeleton k;
    const skeleton_place place = {
        .dir = from->cache != NULL ? unit_cache_dir(from->cache) : NULL,
        .wanted = from->wanted,
    };
    int rc = skeleton_open(&k, from->fetch, &place, why, why_size);
    if (rc < 0) return rc;
    s->g = k.g;
    s->checks = k.checks;
    s->print = k.print;
    return 0;
}

static int open_reader(shard *s, const shard_origin *from, char *why,
                       size_t why_size) {
    const unit_reader_config c = {.fetch = from->fetch,
                                  .cache = from->cache,
                                  .g = s->g,
                                  .model = &s->model,
                                  .checks = s->checks};
    int rc = unit_reader_new(&s->reader, &c);
    return rc < 0 ? err_why(why, why_size, rc, "%s", err_text(rc)) : 0;
}

/* From `path`, or, if that is NULL, from elsewhere. */
static int describe(shard **out, const char *path, const shard_origin *from,
                    char *why, size_t why_size) {
    *out = NULL;
    shard *s = calloc(1, sizeof(*s));
    if (s == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");

    int rc = path != NULL ? describe_file(s, path, why, why_size)
                          : describe_pulled(s, from, why, why_size);
    if (rc == 0) rc = model_read(&s->model, s->g, why, why_size);
    if (rc == 0 && path == NULL) rc = open_reader(s, from, why, why_size);
    malloc_trim(0);
    if (rc < 0) {
        shard_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

int shard_open(shard **out, const char *path, char *why, size_t why_size) {
    return describe(out, path, NULL, why, why_size);
}

int shard_pull(shard **out, const shard_origin *from, char *why,
               size_t why_size) {
    return describe(out, NULL, from, why, why_size);
}

int shard_cut(shard *s, uint32_t slices, char *why, size_t why_size) {
    expert_store_free(s->store);
    s->store = NULL;
    holdings_fini(&s->held);
    s->held = (holdings){0};
    s->slices = slices;

    expert_store_config c = {
        .g = s->g,
        .model = &s->model,
        .checks = s->checks,
        .slices = slices,
    };
    if (s->reader != NULL)
        c.source = (expert_source){unit_reader_read, s->reader};
    int rc = expert_store_new(&s->store, &c, why, why_size);
    if (rc < 0) return rc;
    rc = empty_holdings(s, &s->held);
    if (rc == 0) return 0;
    expert_store_free(s->store);
    s->store = NULL;
    return err_why(why, why_size, rc, "%s", err_text(rc));
}

void shard_close(shard *s) {
    if (s == NULL) return;
    expert_store_free(s->store);
    holdings_fini(&s->held);
    shard_detach(s);
    manifest_close(s->checks);
    gguf_close(s->g);
    free(s);
}
