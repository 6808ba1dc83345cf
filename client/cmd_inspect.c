/* cmd_inspect.c - `roster inspect`: what a model file holds, what a token uses
 * of it and what a rack would need, from the file's headers alone. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/inspect.h"
#include "client/plan.h"
#include "engine/census.h"
#include "engine/err.h"
#include "engine/model.h"
#include "engine/util.h"

#define NAME "roster inspect"
#define CACHE_VALUE_BYTES 2 /* f16, what a coordinator caches by default */

/* ---- reading ---- */

/* Whether this program can run the model is worth a line, not a failure. */
static void try_model(inspection *i, const gguf *g) {
    char why[sizeof(i->why_not)] = "";
    int rc = model_read(&i->model, g, why, sizeof(why));
    i->runs = rc == 0;
    if (rc < 0)
        snprintf(i->why_not, sizeof(i->why_not), "%s",
                 why[0] != '\0' ? why : err_text(rc));
}

static int look_at(inspection *i, const char *path, char *why,
                   size_t why_size) {
    gguf *g;
    char what[CLI_WHY] = "";

    int rc = gguf_open(&g, path, why, why_size);
    if (rc < 0) return rc;
    rc = census_take(&i->census, g, what, sizeof(what));
    if (rc < 0) {
        err_why(why, why_size, rc, "%s: %s", path,
                what[0] != '\0' ? what : err_text(rc));
    } else {
        i->n_files = gguf_n_files(g);
        i->cache_bytes = i->census.n_cache_values * CACHE_VALUE_BYTES;
        try_model(i, g);
    }
    gguf_close(g);
    return rc;
}

/* ---- JSON ---- */

/* Whole numbers, in this order. */
static int put_numbers(json_t *root, const inspection *i) {
    const census *c = &i->census;
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        {"total_params", c->total.params},
        {"active_params", c->active_params},
        {"shared_params", c->shared.params},
        {"expert_params", c->expert.params},
        {"layers", c->n_layers},
        {"moe_layers", c->n_moe_layers},
        {"experts", c->n_experts},
        {"experts_used", c->n_used},
        {"total_bytes", c->total.bytes},
        {"shared_bytes", c->shared.bytes},
        {"expert_bytes", c->expert.bytes},
        {"decode_bytes", c->decode_bytes},
        {"kv_bytes_per_token", i->cache_bytes},
        {"files", i->n_files},
    };
    for (size_t n = 0; n < ARRAY_LEN(numbers); n++) {
        json_t *value = json_integer((json_int_t)numbers[n].value);
        if (json_object_set_new(root, numbers[n].name, value) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int put_words(json_t *root, const inspection *i) {
    int rc = json_object_set_new(root, "active_ratio",
                                 json_real(inspect_ratio(&i->census)));
    if (rc == 0) rc = json_object_set_new(root, "runs", json_boolean(i->runs));
    if (rc == 0 && !i->runs)
        rc = json_object_set_new(root, "why_not", json_string(i->why_not));
    if (rc == 0 && i->n_nodes > 0) {
        uint64_t bytes = census_node_bytes(&i->census, i->n_nodes);
        rc = json_object_set_new(root, "nodes", json_integer(i->n_nodes));
        if (rc == 0)
            rc = json_object_set_new(root, "bytes_per_node",
                                     json_integer((json_int_t)bytes));
    }
    return rc < 0 ? -ENOMEM : 0;
}

static int print_json(const inspection *i) {
    json_t *root = json_pack("{s:s, s:s}", "name", i->model.name,
                             "architecture", i->census.arch);
    int rc = root != NULL ? put_numbers(root, i) : -ENOMEM;
    if (rc == 0) rc = put_words(root, i);
    char *text = rc == 0 ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (text == NULL) return -ENOMEM;
    rc = cli_write(text, strlen(text));
    if (rc == 0) rc = cli_write("\n", 1);
    free(text);
    return rc;
}

/* ---- the command ---- */

static int run(inspection *i, const char *path, bool json, char *why,
               size_t why_size) {
    int rc = look_at(i, path, why, why_size);
    if (rc < 0) return rc;
    rc = json ? print_json(i) : inspect_print(i);
    return rc < 0 ? err_why(why, why_size, rc, "cannot write to stdout: %s",
                            err_text(rc))
                  : 0;
}

int cmd_inspect(int argc, char **argv) {
    bool json = false;
    uint32_t nodes = 0;
    const option table[] = {
        {"json", 0, OPTION_FLAG, &json, NULL, "Print one JSON object."},
        {"nodes", 0, OPTION_U32, &nodes, "N",
         "Say, too, what each of N nodes would hold."},
    };
    const option_set set = {
        .program = NAME,
        .usage = "MODEL [options]",
        .about = "Says how many parameters the GGUF file MODEL has and how "
                 "many of them a token uses, what is read for it, and how "
                 "large its caches are. Only headers are read, so the size of "
                 "the file does not matter; of a split model the first file is "
                 "named.",
        .table = table,
        .count = ARRAY_LEN(table),
    };
    options *o;
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(&o, &set, argc, argv, 1, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    if (nodes > PLAN_NODES_MAX || (nodes == 0 && options_given(o, "nodes"))) {
        options_free(o);
        return cli_usage(NAME, "--nodes: expected 1 to %d", PLAN_NODES_MAX);
    }
    inspection *i = calloc(1, sizeof(*i));
    int rc = i != NULL ? 0 : err_why(why, sizeof(why), -ENOMEM, "no memory");
    if (rc == 0) {
        i->n_nodes = nodes;
        rc = run(i, args[0], json, why, sizeof(why));
    }
    free(i);
    options_free(o);
    return rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
}
