/* expert_tensors.c - finds the stacked tensors of a layer's experts.
 *
 * Writers put gate and up into two tensors or into one, gate's rows first; a
 * layer that has them both ways would have two answers, and is refused. */
#include <stdio.h>
#include "engine/err.h"
#include "engine/model.h"

#define NAME_MAX_BYTES 64

typedef struct {
    const model_config *config;
    const gguf *g;
    uint32_t layer;
    const char *suffix; /* ".weight", ".bias" */
    char *why;
    size_t why_size;
} finder;

static bool has(const finder *f, const char *name) {
    char full[NAME_MAX_BYTES];
    snprintf(full, sizeof(full), "blk.%u.%s%s", f->layer, name, f->suffix);
    return gguf_find_tensor(f->g, full) != NULL;
}

/* n_experts matrices [cols, rows], or, with 0 cols, vectors of `rows`. */
static int find(const finder *f, const char *name, uint64_t cols, uint64_t rows,
                const gguf_tensor **out) {
    uint64_t n = f->config->n_experts;
    char full[NAME_MAX_BYTES];
    snprintf(full, sizeof(full), "blk.%u.%s%s", f->layer, name, f->suffix);
    if (cols == 0) {
        return model_tensor_named(f->g, full, rows, n, 0, out, f->why,
                                  f->why_size);
    }
    return model_tensor_named(f->g, full, cols, rows, n, out, f->why,
                              f->why_size);
}

static int find_gate_and_up(const finder *f, uint64_t cols,
                            const gguf_tensor **gate, const gguf_tensor **up) {
    static const char *const merged = "ffn_gate_up_exps";
    static const char *const split[] = {"ffn_gate_exps", "ffn_up_exps"};
    uint64_t width = f->config->expert_dim;
    if (!has(f, merged)) {
        int rc = find(f, split[0], cols, width, gate);
        return rc < 0 ? rc : find(f, split[1], cols, width, up);
    }
    for (size_t i = 0; i < 2; i++) {
        if (!has(f, split[i])) continue;
        return err_why(f->why, f->why_size, ERR_FORMAT,
                       "layer %u has both %s%s and %s%s", f->layer, merged,
                       f->suffix, split[i], f->suffix);
    }
    int rc = find(f, merged, cols, 2 * width, gate);
    *up = *gate;
    return rc;
}

/* Biases are added as they are: a format of blocks has no use there. */
static int check_bias(const finder *f, const gguf_tensor *t) {
    const weight_format *format;
    int rc = matrix_format(t, &format, f->why, f->why_size);
    if (rc < 0 || format->block_len == 1) return rc;
    return err_why(f->why, f->why_size, ERR_UNSUPPORTED,
                   "tensor %s: a bias in format %s is not supported",
                   gguf_quote(t->name).text, format->name);
}

static int find_biases(const finder *f, expert_tensors *out) {
    int rc = find_gate_and_up(f, 0, &out->gate_bias, &out->up_bias);
    if (rc < 0) return rc;
    rc = find(f, "ffn_down_exps", 0, f->config->n_embd, &out->down_bias);
    if (rc == 0) rc = check_bias(f, out->gate_bias);
    if (rc == 0) rc = check_bias(f, out->up_bias);
    if (rc == 0) rc = check_bias(f, out->down_bias);
    return rc;
}

int model_experts(const model_config *c, const gguf *g, uint32_t layer,
                  expert_tensors *out, char *why, size_t why_size) {
    finder f = {c, g, layer, ".weight", why, why_size};
    *out = (expert_tensors){0};
    int rc = find_gate_and_up(&f, c->n_embd, &out->gate, &out->up);
    if (rc < 0) return rc;
    rc = find(&f, "ffn_down_exps", c->expert_dim, c->n_embd, &out->down);
    if (rc < 0 || !c->expert_bias) return rc;

    f.suffix = ".bias";
    return find_biases(&f, out);
}

uint64_t model_expert_bytes(const expert_tensors *t, uint32_t n_experts) {
    uint64_t bytes = t->gate->bytes + t->down->bytes;
    if (t->up != t->gate) bytes += t->up->bytes;
    if (t->gate_bias != NULL) {
        bytes += t->gate_bias->bytes;
        if (t->up_bias != t->gate_bias) bytes += t->up_bias->bytes;
    }
    return bytes / n_experts;
}
