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
#include "engine/log.h"
#include "engine/util.h"

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

/* *wanted is initialized by it; its bits may name dense layers, too. */
static int plan_holdings(const model_config *c, const shard_plan *plan,
                         holdings *wanted, char *why, size_t why_size) {
    int rc = holdings_init(wanted, c->n_layers, c->n_experts);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    if (c->n_experts == 0) {
        log_warn("%s is a dense model: this node has nothing to hold", c->name);
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

static void show_progress(progress *p, uint64_t bytes) {
    uint64_t now = now_us();
    p->n_done++;
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
        if (!model_is_moe(&s->model, layer)) continue;
        for (uint32_t expert = 0; expert < s->model.n_experts; expert++)
            n += holdings_has(wanted, layer, expert);
    }
    return n;
}

static int load_experts(shard *s, const holdings *wanted, char *why,
                        size_t why_size) {
    progress p = {
        .n_wanted = count_wanted(s, wanted),
        .began_us = now_us(),
        .terminal = isatty(STDERR_FILENO) != 0,
    };
    p.said_us = p.began_us;
    for (uint32_t layer = 0; layer < s->model.n_layers; layer++) {
        if (!model_is_moe(&s->model, layer)) continue;
        for (uint32_t expert = 0; expert < s->model.n_experts; expert++) {
            if (!holdings_has(wanted, layer, expert)) continue;
            int rc = expert_store_load(s->store, layer, expert, why, why_size);
            if (rc < 0) {
                end_progress(&p);
                return rc;
            }
            holdings_add(&s->held, layer, expert);
            show_progress(&p, expert_store_bytes(s->store));
        }
    }
    log_info("holds %" PRIu64 " of %" PRIu64 " experts of %s: %.1f MiB, "
             "loaded in %.1f s",
             p.n_done,
             (uint64_t)(s->model.n_layers - s->model.first_moe_layer) *
                 s->model.n_experts,
             s->model.name, (double)expert_store_bytes(s->store) / (1 << 20),
             (double)(now_us() - p.began_us) / 1e6);
    return 0;
}

/* Everything that needs the open file. */
static int fill(shard *s, const gguf *g, const shard_plan *plan, char *why,
                size_t why_size) {
    manifest *checks = NULL;
    holdings wanted = {0};
    int rc = model_read(&s->model, g, why, why_size);
    if (rc < 0) return rc;
    rc = plan_holdings(&s->model, plan, &wanted, why, why_size);
    if (rc < 0) goto done;
    rc = manifest_open(&checks, g, true, why, why_size);
    if (rc < 0) goto done;
    rc = fingerprint_of(g, checks, &s->print);
    if (rc < 0) {
        err_why(why, why_size, rc, "the model's fingerprint: %s", err_text(rc));
        goto done;
    }
    const expert_store_config store = {
        .g = g, .model = &s->model, .checks = checks};
    rc = expert_store_new(&s->store, &store, why, why_size);
    if (rc < 0) goto done;
    rc = holdings_init(&s->held, s->model.n_layers, s->model.n_experts);
    if (rc < 0) {
        err_why(why, why_size, rc, "%s", err_text(rc));
        goto done;
    }
    rc = load_experts(s, &wanted, why, why_size);

done:
    manifest_close(checks);
    holdings_fini(&wanted);
    return rc;
}

int shard_open(shard **out, const shard_plan *plan, char *why,
               size_t why_size) {
    *out = NULL;
    shard *s = calloc(1, sizeof(*s));
    if (s == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");

    gguf *g = NULL;
    int rc = gguf_open(&g, plan->model, why, why_size);
    if (rc == 0) rc = fill(s, g, plan, why, why_size);
    gguf_close(g);
    malloc_trim(0); /* what loading needed beside the experts */
    if (rc < 0) {
        shard_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void shard_close(shard *s) {
    if (s == NULL) return;
    expert_store_free(s->store);
    holdings_fini(&s->held);
    free(s);
}
