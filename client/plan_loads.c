/* plan_loads.c - see plan.h: a file of loads, [[of layer 0's experts], ...],
 * and who should hold what by a policy. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "client/plan.h"
#include "engine/err.h"

#define LAYERS_MAX 1024
#define EXPERTS_MAX 65536
#define BYTES_MAX ((size_t)64 << 20)

typedef struct {
    uint32_t n_layers, n_experts;
    double *loads; /* [n_layers * n_experts] */
} load_table;

/* ---- files ---- */

static int read_json(json_t **out, const char *path, char *why,
                     size_t why_size) {
    json_error_t error;
    char *text = NULL;
    *out = NULL;
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        return err_why(why, why_size, -errno, "%s: %s", path, strerror(errno));
    }
    text = malloc(BYTES_MAX + 1);
    size_t n = text != NULL ? fread(text, 1, BYTES_MAX + 1, f) : 0;
    int rc = text == NULL ? -ENOMEM : ferror(f) != 0 ? -EIO : 0;
    fclose(f);
    if (rc == 0 && n > BYTES_MAX) rc = ERR_TOO_LARGE;
    if (rc < 0) {
        free(text);
        return err_why(why, why_size, rc, "%s: %s", path, err_text(rc));
    }
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (*out != NULL) return 0;
    return err_why(why, why_size, ERR_FORMAT, "%s: line %d: %s", path,
                   error.line, error.text);
}

/* A layer's experts; all layers have as many. */
static int read_layer(load_table *t, const json_t *row, uint32_t layer,
                      const char *path, char *why, size_t why_size) {
    if (!json_is_array(row) || json_array_size(row) != t->n_experts) {
        return err_why(why, why_size, ERR_FORMAT,
                       "%s: layer %u: expected an array of %u numbers", path,
                       layer, t->n_experts);
    }
    for (uint32_t e = 0; e < t->n_experts; e++) {
        const json_t *number = json_array_get(row, e);
        double load = json_number_value(number);
        if (!json_is_number(number) || !isfinite(load) || load < 0) {
            return err_why(why, why_size, ERR_FORMAT,
                           "%s: layer %u, expert %u: expected a number that "
                           "is not negative",
                           path, layer, e);
        }
        t->loads[(size_t)layer * t->n_experts + e] = load;
    }
    return 0;
}

static int fill_table(load_table *t, const json_t *root, const char *path,
                      char *why, size_t why_size) {
    size_t layers = json_is_array(root) ? json_array_size(root) : 0;
    const json_t *first = json_array_get(root, 0);
    size_t experts = json_is_array(first) ? json_array_size(first) : 0;
    if (layers == 0 || layers > LAYERS_MAX || experts == 0 ||
        experts > EXPERTS_MAX) {
        return err_why(why, why_size, ERR_FORMAT,
                       "%s: expected an array of layers, each an array of its "
                       "experts' loads",
                       path);
    }
    t->n_layers = (uint32_t)layers;
    t->n_experts = (uint32_t)experts;
    t->loads = calloc(layers * experts, sizeof(*t->loads));
    if (t->loads == NULL) return -ENOMEM;
    for (uint32_t l = 0; l < layers; l++) {
        int rc = read_layer(t, json_array_get(root, l), l, path, why, why_size);
        if (rc < 0) return rc;
    }
    return 0;
}

static int read_table(load_table *t, const char *path, char *why,
                      size_t why_size) {
    json_t *root;
    *t = (load_table){0};
    int rc = read_json(&root, path, why, why_size);
    if (rc == 0) rc = fill_table(t, root, path, why, why_size);
    json_decref(root);
    return rc;
}

/* ---- printing ---- */

/* Takes the object. */
static int print_json(json_t *root, char *why, size_t why_size) {
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (text == NULL) return -ENOMEM;
    int rc = cli_write(text, strlen(text));
    if (rc == 0) rc = cli_write("\n", 1);
    free(text);
    if (rc == 0) return 0;
    return err_why(why, why_size, rc, "cannot write: %s", err_text(rc));
}

/* ---- the published policy ---- */

static json_t *slots_json(const load_table *t, const uint32_t *slots,
                          uint32_t n_replicas) {
    json_t *layers = json_array();
    for (uint32_t l = 0; l < t->n_layers; l++) {
        json_t *row = json_array();
        for (uint32_t i = 0; i < n_replicas; i++) {
            json_array_append_new(
                row, json_integer(slots[(size_t)l * n_replicas + i]));
        }
        json_array_append_new(layers, row);
    }
    return json_pack("{s:o}", "slots", layers);
}

static int run_eplb(const plan_config *c, const load_table *t, char *why,
                    size_t why_size) {
    uint32_t devices = c->devices != 0 ? c->devices : c->nodes;
    uint32_t groups = c->groups != 0 ? c->groups : 1;
    if (c->replicas < t->n_experts || c->replicas > 16 * EXPERTS_MAX) {
        return err_why(why, why_size, ERR_USAGE,
                       "--replicas %u: expected as many as there are experts "
                       "(%u), or more",
                       c->replicas, t->n_experts);
    }
    uint32_t *slots = calloc((size_t)t->n_layers * c->replicas, sizeof(*slots));
    if (slots == NULL) return -ENOMEM;
    int rc = balance_eplb(t->loads, t->n_layers, t->n_experts, c->replicas,
                          groups, c->nodes, devices, slots);
    if (rc == 0) {
        rc = print_json(slots_json(t, slots, c->replicas), why, why_size);
    } else if (rc == ERR_RANGE) {
        err_why(why, why_size, ERR_USAGE,
                "%u replicas of %u experts in %u groups do not divide among %u "
                "devices of %u nodes",
                c->replicas, t->n_experts, groups, devices, c->nodes);
        rc = ERR_USAGE;
    }
    free(slots);
    return rc;
}

/* ---- our own ---- */

typedef struct {
    balance_input in;
    balance_node nodes[PLAN_NODES_MAX];
    uint32_t slices[LAYERS_MAX];
    uint64_t bytes[LAYERS_MAX];
    balance_map now;
} question;

static int compare_nodes(const void *a, const void *b) {
    return *(const uint16_t *)a - *(const uint16_t *)b;
}

/* An expert's holders; the map has room for all nodes. */
static int read_holders(question *q, const json_t *list, uint32_t unit,
                        const char *path, char *why, size_t why_size) {
    uint32_t at = q->now.first[unit];
    size_t n = json_is_array(list) ? json_array_size(list) : SIZE_MAX;
    bool good = n <= q->in.n_nodes;
    for (size_t i = 0; good && i < n; i++) {
        const json_t *node = json_array_get(list, i);
        json_int_t number = json_integer_value(node);
        good = json_is_integer(node) && number >= 0 && number < q->in.n_nodes;
        q->now.nodes[at + i] = (uint16_t)number;
    }
    if (good) qsort(q->now.nodes + at, n, sizeof(uint16_t), compare_nodes);
    for (size_t i = 1; good && i < n; i++)
        good = q->now.nodes[at + i] != q->now.nodes[at + i - 1];
    if (!good) {
        return err_why(why, why_size, ERR_FORMAT,
                       "%s: layer %u, expert %u: expected an array of "
                       "different nodes below %u",
                       path, unit / q->in.n_experts, unit % q->in.n_experts,
                       q->in.n_nodes);
    }
    q->now.first[unit + 1] = at + (uint32_t)n;
    return 0;
}

static int fill_now(question *q, const json_t *root, const char *path,
                    char *why, size_t why_size) {
    uint32_t layers = q->in.n_layers, experts = q->in.n_experts;
    for (uint32_t l = 0; l < layers; l++) {
        const json_t *row = json_array_get(root, l);
        if (json_array_size(root) != layers ||
            json_array_size(row) != experts) {
            return err_why(why, why_size, ERR_FORMAT,
                           "%s: expected %u layers of %u experts' holders",
                           path, layers, experts);
        }
        for (uint32_t e = 0; e < experts; e++) {
            int rc = read_holders(q, json_array_get(row, e), l * experts + e,
                                  path, why, why_size);
            if (rc < 0) return rc;
        }
    }
    q->in.now = &q->now;
    return 0;
}

static int read_now(question *q, const char *path, char *why, size_t why_size) {
    json_t *root;
    uint32_t units = q->in.n_layers * q->in.n_experts;
    if (path == NULL) return 0;
    if ((uint64_t)units * q->in.n_nodes > UINT32_MAX) return ERR_TOO_LARGE;
    int rc = read_json(&root, path, why, why_size);
    if (rc == 0) rc = balance_map_init(&q->now, units, units * q->in.n_nodes);
    if (rc == 0) rc = fill_now(q, root, path, why, why_size);
    json_decref(root);
    return rc;
}

static int make_question(question *q, const plan_config *c, const load_table *t,
                         char *why, size_t why_size) {
    int rc = plan_rack_read(q->nodes, c, why, why_size);
    if (rc < 0) return rc;
    uint64_t bytes = c->expert_bytes != 0 ? c->expert_bytes : 1;
    uint64_t copies = c->replicas > t->n_experts ? c->replicas : t->n_experts;
    uint64_t share = (copies + c->nodes - 1) / c->nodes * t->n_layers;
    uint64_t memory;
    share *= c->min_replicas;
    if (__builtin_mul_overflow(share, bytes, &memory)) return ERR_TOO_LARGE;
    for (uint32_t l = 0; l < t->n_layers; l++) {
        q->slices[l] = 1;
        q->bytes[l] = bytes;
    }
    for (uint32_t i = 0; c->memory == NULL && i < c->nodes; i++)
        q->nodes[i].memory_bytes = memory;
    q->in = (balance_input){.n_layers = t->n_layers,
                            .n_experts = t->n_experts,
                            .slices = q->slices,
                            .unit_bytes = q->bytes,
                            .n_groups = c->groups,
                            .min_replicas = c->min_replicas,
                            .max_replicas = 64,
                            .nodes = q->nodes,
                            .n_nodes = c->nodes,
                            .load = t->loads,
                            .forced = true};
    return read_now(q, c->now, why, why_size);
}

static json_t *holders_json(const load_table *t, const balance_map *m) {
    json_t *layers = json_array();
    for (uint32_t l = 0; l < t->n_layers; l++) {
        json_t *row = json_array();
        for (uint32_t e = 0; e < t->n_experts; e++) {
            uint32_t unit = l * t->n_experts + e;
            json_t *list = json_array();
            for (uint32_t i = m->first[unit]; i < m->first[unit + 1]; i++)
                json_array_append_new(list, json_integer(m->nodes[i]));
            json_array_append_new(row, list);
        }
        json_array_append_new(layers, row);
    }
    return layers;
}

static int run_roster(const plan_config *c, const load_table *t, char *why,
                      size_t why_size) {
    balance_result r = {0};
    question *q = calloc(1, sizeof(*q));
    if (q == NULL) return -ENOMEM;
    int rc = make_question(q, c, t, why, why_size);
    if (rc == 0) {
        rc = balance(&q->in, &r);
        if (rc < 0) err_why(why, why_size, rc, "%s", err_text(rc));
    }
    if (rc == 0) {
        json_t *before =
            q->in.now != NULL ? json_real(r.before.rack) : json_null();
        rc = print_json(
            json_pack("{s:o, s:o, s:f, s:f, s:I, s:I, s:I}", "holders",
                      holders_json(t, &r.target), "before", before, "after",
                      r.after.rack, "worst", r.after.worst, "moves",
                      (json_int_t)r.added, "removed", (json_int_t)r.removed,
                      "bytes", (json_int_t)r.moved_bytes),
            why, why_size);
    }
    balance_result_fini(&r);
    balance_map_fini(&q->now);
    free(q);
    return rc;
}

int plan_loads_run(const plan_config *c, char *why, size_t why_size) {
    load_table t;
    bool eplb = strcmp(c->policy, "eplb") == 0;
    if (!eplb && strcmp(c->policy, "roster") != 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--policy %s: expected eplb or roster", c->policy);
    }
    int rc = read_table(&t, c->loads, why, why_size);
    if (rc == 0) {
        rc = eplb ? run_eplb(c, &t, why, why_size)
                  : run_roster(c, &t, why, why_size);
    }
    free(t.loads);
    if (rc < 0 && why[0] == '\0')
        err_why(why, why_size, rc, "%s", err_text(rc));
    return rc;
}
