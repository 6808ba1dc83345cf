/* model_tensors.c - the tensors that a model must have, may have, must not.
 *
 * What is needed is looked up by name and its shape checked.  What nobody looks
 * up (a bias, a norm of another architecture, a layer beyond the last) would
 * change the result if it were skipped, so the whole table is walked once and
 * every name in it has to be known for its layer. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/model.h"
#include "engine/util.h"

#define NAME_MAX_BYTES 160

int model_tensor_named(const gguf *g, const char *name, uint64_t cols,
                       uint64_t rows, uint64_t slabs, const gguf_tensor **out,
                       char *why, size_t why_size) {
    const gguf_tensor *t = gguf_find_tensor(g, name);
    if (t == NULL) {
        return err_why(why, why_size, ERR_FORMAT, "tensor %s is missing", name);
    }
    uint64_t want[3] = {cols, rows == 0 ? 1 : rows, slabs == 0 ? 1 : slabs};
    if (t->dims[0] != want[0] || t->dims[1] != want[1] ||
        t->dims[2] != want[2] || t->dims[3] != 1) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor %s is [%" PRIu64 ", %" PRIu64 ", %" PRIu64
                       ", %" PRIu64 "], not [%" PRIu64 ", %" PRIu64 ", %" PRIu64
                       ", 1]",
                       name, t->dims[0], t->dims[1], t->dims[2], t->dims[3],
                       want[0], want[1], want[2]);
    }
    *out = t;
    return 0;
}

int model_tensor(const gguf *g, uint32_t layer, const char *name, uint64_t cols,
                 uint64_t rows, uint64_t slabs, const gguf_tensor **out,
                 char *why, size_t why_size) {
    char full[NAME_MAX_BYTES];
    snprintf(full, sizeof(full), "blk.%u.%s.weight", layer, name);
    return model_tensor_named(g, full, cols, rows, slabs, out, why, why_size);
}

int model_experts(const model_config *c, const gguf *g, uint32_t layer,
                  expert_tensors *out, char *why, size_t why_size) {
    int rc = model_tensor(g, layer, "ffn_gate_exps", c->n_embd, c->expert_dim,
                          c->n_experts, &out->gate, why, why_size);
    if (rc < 0) return rc;
    rc = model_tensor(g, layer, "ffn_up_exps", c->n_embd, c->expert_dim,
                      c->n_experts, &out->up, why, why_size);
    if (rc < 0) return rc;
    return model_tensor(g, layer, "ffn_down_exps", c->expert_dim, c->n_embd,
                        c->n_experts, &out->down, why, why_size);
}

uint64_t model_expert_bytes(const expert_tensors *t, uint32_t n_experts) {
    return (t->gate->bytes + t->up->bytes + t->down->bytes) / n_experts;
}

/* ---- every name is known ---- */

typedef enum { ANY_LAYER, NORMED_LAYER, DENSE_LAYER, MOE_LAYER } layer_kind;

static const struct {
    const char *name; /* after "blk.<layer>." */
    layer_kind kind;
} layer_tensors[] = {
    {"attn_norm.weight", ANY_LAYER},
    {"attn_q.weight", ANY_LAYER},
    {"attn_k.weight", ANY_LAYER},
    {"attn_v.weight", ANY_LAYER},
    {"attn_output.weight", ANY_LAYER},
    {"attn_q_norm.weight", NORMED_LAYER},
    {"attn_k_norm.weight", NORMED_LAYER},
    {"ffn_norm.weight", ANY_LAYER},
    {"ffn_gate.weight", DENSE_LAYER},
    {"ffn_up.weight", DENSE_LAYER},
    {"ffn_down.weight", DENSE_LAYER},
    {"ffn_gate_inp.weight", MOE_LAYER},
    {"ffn_gate_exps.weight", MOE_LAYER},
    {"ffn_up_exps.weight", MOE_LAYER},
    {"ffn_down_exps.weight", MOE_LAYER},
    /* a table of angles that some old files carry and nobody needs */
    {"attn_rot_embd", ANY_LAYER},
    {"attn_rot_embd.weight", ANY_LAYER},
};

static const char *const model_wide[] = {
    "token_embd.weight",
    "output_norm.weight",
    "output.weight",
    "rope_freqs.weight",
};

static bool same(gguf_string s, const char *text) {
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

/* Split "blk.<layer>.<rest>"; the number as a writer would print it.  false for
 * a name of another form. */
static bool split_name(gguf_string name, uint64_t *layer, gguf_string *rest) {
    if (name.len < 4 || memcmp(name.data, "blk.", 4) != 0) return false;
    size_t at = 4;
    *layer = 0;
    for (; at < name.len && name.data[at] >= '0' && name.data[at] <= '9';
         at++) {
        if (at - 4 >= 10) return false;
        *layer = *layer * 10 + (uint64_t)(name.data[at] - '0');
    }
    bool padded = at > 5 && name.data[4] == '0';
    if (at == 4 || padded || at == name.len || name.data[at] != '.') {
        return false;
    }
    *rest = (gguf_string){name.data + at + 1, name.len - at - 1};
    return true;
}

static int unknown(const model_config *c, gguf_string name, char *why,
                   size_t why_size) {
    return err_why(why, why_size, ERR_UNSUPPORTED,
                   "tensor %s is not supported by architecture %s",
                   gguf_quote(name).text, c->arch);
}

static int check_layer_tensor(const model_config *c, gguf_string name,
                              uint64_t layer, gguf_string rest, char *why,
                              size_t why_size) {
    size_t i = 0;
    while (i < ARRAY_LEN(layer_tensors) && !same(rest, layer_tensors[i].name))
        i++;
    if (i == ARRAY_LEN(layer_tensors)) return unknown(c, name, why, why_size);
    if (layer >= c->n_layers) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor %s is of a layer that %s.block_count = %u does "
                       "not have",
                       gguf_quote(name).text, c->arch, c->n_layers);
    }
    layer_kind kind = layer_tensors[i].kind;
    bool moe = model_is_moe(c, (uint32_t)layer);
    if (kind == NORMED_LAYER && !c->qk_norm) {
        return unknown(c, name, why, why_size);
    }
    if ((kind == DENSE_LAYER && moe) || (kind == MOE_LAYER && !moe)) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor %s is in a layer that by %s.expert_count = %u "
                       "has %s experts",
                       gguf_quote(name).text, c->arch, c->n_experts,
                       moe ? "only" : "no");
    }
    return 0;
}

int model_check_tensors(const model_config *c, const gguf *g, char *why,
                        size_t why_size) {
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        gguf_string name = gguf_tensor_at(g, i)->name, rest;
        uint64_t layer;
        if (split_name(name, &layer, &rest)) {
            int rc = check_layer_tensor(c, name, layer, rest, why, why_size);
            if (rc < 0) return rc;
            continue;
        }
        size_t k = 0;
        while (k < ARRAY_LEN(model_wide) && !same(name, model_wide[k]))
            k++;
        if (k == ARRAY_LEN(model_wide)) return unknown(c, name, why, why_size);
    }
    return 0;
}
