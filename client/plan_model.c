/* plan_model.c - see plan.h: does a model fit a rack, and what if a node is
 * lost?
 *
 * Experts alone are counted, packed as nodes hold them; what a node needs
 * beside them is little and does not grow with the model. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "client/plan.h"
#include "engine/err.h"
#include "engine/expert_store.h"

typedef struct {
    const plan_config *config;
    model_config model;
    uint32_t slices[MODEL_MAX_LAYERS];
    uint64_t unit_bytes[MODEL_MAX_LAYERS];
    balance_node nodes[PLAN_NODES_MAX];
    balance_input in;
    uint64_t bytes; /* of all experts, once */

    uint64_t used[PLAN_NODES_MAX];
    uint64_t units, unplaced, short_of; /* without a holder; without enough */
    bool survives; /* any one node's loss leaves every unit a holder */
    bool recovers; /* and the others have room for all copies again */
} model_plan;

/* ---- the model ---- */

static int measure_experts(model_plan *p, const gguf *g, char *why,
                           size_t why_size) {
    expert_store *store = NULL;
    expert_store_config s = {
        .g = g, .model = &p->model, .slices = p->config->slices};
    int rc = expert_store_new(&store, &s, why, why_size);
    for (uint32_t l = 0; rc == 0 && l < p->model.n_layers; l++) {
        p->slices[l] = expert_store_slices(store, l);
        p->unit_bytes[l] = expert_store_unit_bytes(store, l);
        p->bytes += expert_store_units(store, l) * p->unit_bytes[l];
    }
    expert_store_free(store);
    return rc;
}

static int read_model(model_plan *p, char *why, size_t why_size) {
    gguf *g;
    int rc = gguf_open(&g, p->config->model, why, why_size);
    if (rc < 0) return rc;
    rc = model_read(&p->model, g, why, why_size);
    if (rc == 0 && p->model.n_experts == 0) {
        rc = err_why(why, why_size, ERR_UNSUPPORTED,
                     "%s has no experts to be placed", p->config->model);
    }
    if (rc == 0) rc = measure_experts(p, g, why, why_size);
    gguf_close(g);
    return rc;
}

/* ---- the rack ---- */

static int place(model_plan *p, balance_result *r) {
    p->in = (balance_input){.n_layers = p->model.n_layers,
                            .n_experts = p->model.n_experts,
                            .slices = p->slices,
                            .unit_bytes = p->unit_bytes,
                            .min_replicas = p->config->min_replicas,
                            .max_replicas = p->config->min_replicas,
                            .nodes = p->nodes,
                            .n_nodes = p->config->nodes};
    return balance(&p->in, r);
}

static void look_at(model_plan *p, const balance_map *m) {
    uint32_t unit = 0;
    p->survives = true;
    for (uint32_t l = 0; l < p->model.n_layers; l++) {
        uint32_t n = p->model.n_experts * p->slices[l];
        for (uint32_t u = 0; u < n; u++, unit++) {
            uint32_t holders = m->first[unit + 1] - m->first[unit];
            for (uint32_t i = m->first[unit]; i < m->first[unit + 1]; i++)
                p->used[m->nodes[i]] += p->unit_bytes[l];
            p->units++;
            if (holders == 0) p->unplaced++;
            if (holders < p->config->min_replicas) p->short_of++;
            if (holders < 2) p->survives = false;
        }
    }
}

static uint32_t fullest(const model_plan *p) {
    uint32_t most = 0;
    for (uint32_t i = 1; i < p->config->nodes; i++) {
        if (p->used[i] > p->used[most]) most = i;
    }
    return most;
}

/* Have the others room for all copies when the fullest node is gone? */
static bool could_recover(const model_plan *p) {
    uint32_t lost = fullest(p);
    uint64_t room = 0;
    for (uint32_t i = 0; i < p->config->nodes; i++) {
        uint64_t memory = p->nodes[i].memory_bytes;
        if (i != lost) room += memory < p->bytes ? memory : p->bytes;
    }
    return p->config->nodes > p->config->min_replicas &&
           room / p->config->min_replicas >= p->bytes;
}

/* ---- printing ---- */

static int print_json(const model_plan *p) {
    json_t *nodes = json_array();
    for (uint32_t i = 0; i < p->config->nodes; i++) {
        uint64_t memory = p->nodes[i].memory_bytes;
        json_array_append_new(
            nodes, json_pack("{s:I, s:I, s:I}", "memory", (json_int_t)memory,
                             "bytes", (json_int_t)p->used[i], "spare",
                             (json_int_t)(memory - p->used[i])));
    }
    json_t *root = json_pack(
        "{s:s, s:b, s:I, s:i, s:I, s:I, s:I, s:b, s:b, s:o}", "model",
        p->model.name, "fits", p->short_of == 0, "expert_bytes",
        (json_int_t)p->bytes, "min_replicas", (int)p->config->min_replicas,
        "units", (json_int_t)p->units, "unplaced", (json_int_t)p->unplaced,
        "short", (json_int_t)p->short_of, "survives_largest", p->survives,
        "recovers", p->recovers, "nodes", nodes);
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (text == NULL) return -ENOMEM;
    int rc = cli_write(text, strlen(text));
    if (rc == 0) rc = cli_write("\n", 1);
    free(text);
    return rc;
}

static void print_verdict(const model_plan *p) {
    char bytes[32];
    cli_format_bytes(p->bytes, bytes, sizeof(bytes));
    printf("%s: %s of experts, %" PRIu64 " units, %u of each\n", p->model.name,
           bytes, p->units, p->config->min_replicas);
    if (p->short_of == 0) {
        printf("It fits.\n");
    } else if (p->unplaced == 0) {
        printf("It fits with fewer copies: %" PRIu64 " units have less than "
               "%u.\n",
               p->short_of, p->config->min_replicas);
    } else {
        printf("It does not fit: %" PRIu64 " units have no place.\n",
               p->unplaced);
    }
    printf("The loss of the fullest node: %s\n",
           !p->survives  ? "some experts would be lost."
           : p->recovers ? "nothing is lost, and all copies can be made again."
                         : "nothing is lost, but not all copies can be made "
                           "again.");
}

static int print_table(const model_plan *p) {
    print_verdict(p);
    printf("\n  node      memory     experts       spare\n");
    for (uint32_t i = 0; i < p->config->nodes; i++) {
        char memory[32], used[32], spare[32];
        uint64_t bytes = p->nodes[i].memory_bytes;
        cli_format_bytes(bytes, memory, sizeof(memory));
        cli_format_bytes(p->used[i], used, sizeof(used));
        cli_format_bytes(bytes - p->used[i], spare, sizeof(spare));
        printf("  %4u  %10s  %10s  %10s\n", i, memory, used, spare);
    }
    return fflush(stdout) == 0 ? 0 : -errno;
}

int plan_model_run(const plan_config *c, char *why, size_t why_size) {
    balance_result r = {0};
    model_plan *p = calloc(1, sizeof(*p));
    if (p == NULL) return -ENOMEM;
    p->config = c;
    int rc = plan_rack_read(p->nodes, c, why, why_size);
    if (rc == 0) rc = read_model(p, why, why_size);
    if (rc == 0) rc = place(p, &r);
    if (rc == 0) {
        look_at(p, &r.target);
        p->recovers = p->survives && could_recover(p);
        rc = c->json ? print_json(p) : print_table(p);
    }
    if (rc < 0 && why[0] == '\0')
        err_why(why, why_size, rc, "%s", err_text(rc));
    balance_result_fini(&r);
    free(p);
    return rc;
}
