/* model.c - the table of architectures, and the questions that a config
 * answers. */
#include "engine/model.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>
#include "engine/architecture.h"
#include "engine/err.h"
#include "engine/util.h"

/* clang-format off */
static const architecture *const architectures[] = {
    &arch_bailingmoe2,
    &arch_dbrx,
    &arch_deepseek,
    &arch_deepseek2,
    &arch_dots1,
    &arch_ernie4_5_moe,
    &arch_glm4moe,
    &arch_gpt_oss,
    &arch_granitemoe,
    &arch_grok,
    &arch_hunyuan_moe,
    &arch_llama,
    &arch_llama4,
    &arch_minimax_m2,
    &arch_olmoe,
    &arch_phimoe,
    &arch_qwen2moe,
    &arch_qwen3moe,
};
/* clang-format on */

/* ---- the name ---- */

/* C0, DEL and C1: what a terminal may obey. */
static bool is_control(utf8proc_int32_t c) {
    return c < 0x20 || (c >= 0x7f && c <= 0x9f);
}

/* Names travel in messages and logs: whole UTF-8 characters only, and no
 * control characters. */
static void copy_name(char *out, const char *data, size_t len) {
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)data;
    size_t used = 0;
    for (size_t i = 0; i < len;) {
        utf8proc_int32_t character;
        utf8proc_ssize_t n =
            utf8proc_iterate(at + i, (utf8proc_ssize_t)(len - i), &character);
        bool bad = n <= 0 || is_control(character);
        size_t bytes = n > 0 ? (size_t)n : 1;
        if (used + (bad ? 1 : bytes) > MODEL_NAME_MAX) break;
        if (bad) {
            out[used++] = '?';
        } else {
            memcpy(out + used, data + i, bytes);
            used += bytes;
        }
        i += bytes;
    }
    out[used] = '\0';
}

static void read_name(model_config *c, const gguf *g) {
    gguf_string name;
    if (gguf_get_string(g, "general.name", &name, NULL, 0) == 0 &&
        name.len > 0) {
        copy_name(c->name, name.data, name.len);
        return;
    }
    const char *path = gguf_file_path(g, 0), *slash = strrchr(path, '/');
    const char *stem = slash != NULL ? slash + 1 : path;
    const char *dot = strrchr(stem, '.');
    bool cut = dot != NULL && dot != stem;
    copy_name(c->name, stem, cut ? (size_t)(dot - stem) : strlen(stem));
}

/* ---- the whole ---- */

static int find_architecture(const gguf *g, const architecture **out, char *why,
                             size_t why_size) {
    gguf_string name;
    int rc = gguf_get_string(g, "general.architecture", &name, why, why_size);
    if (rc == ERR_NOT_HERE) {
        return err_why(why, why_size, ERR_FORMAT,
                       "general.architecture is missing");
    }
    if (rc < 0) return rc;
    for (size_t i = 0; i < ARRAY_LEN(architectures); i++) {
        if (strlen(architectures[i]->name) != name.len) continue;
        if (memcmp(architectures[i]->name, name.data, name.len) != 0) continue;
        *out = architectures[i];
        return 0;
    }
    return err_why(why, why_size, ERR_UNSUPPORTED,
                   "general.architecture = '%s' is not supported",
                   gguf_quote(name).text);
}

/* The vocabulary is as large as the embedding table. */
static int read_vocab(model_config *c, const gguf *g, char *why,
                      size_t why_size) {
    const gguf_tensor *t = gguf_find_tensor(g, "token_embd.weight");
    uint64_t n = t != NULL ? t->dims[1] : 1;
    int rc = model_tensor_named(g, "token_embd.weight", c->n_embd, n, 0, &t,
                                why, why_size);
    if (rc < 0) return rc;
    if (n > INT32_MAX) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor token_embd.weight has %" PRIu64 " rows", n);
    }
    c->n_vocab = (uint32_t)n;
    return 0;
}

int model_read(model_config *c, const gguf *g, char *why, size_t why_size) {
    memset(c, 0, sizeof(*c));
    read_name(c, g);
    const architecture *arch = NULL;
    int rc = find_architecture(g, &arch, why, why_size);
    if (rc < 0) return rc;
    snprintf(c->arch, sizeof(c->arch), "%s", arch->name);

    model_keys keys = {g, arch->name, arch->takes, why, why_size};
    rc = arch->read(c, &keys);
    if (rc < 0) return rc;
    assert(c->n_experts > 0 ? c->expert_dim > 0 : c->ffn_dim > 0);
    if (c->n_experts > 0 && model_n_moe(c) == 0) {
        return err_why(
            why, why_size, ERR_FORMAT,
            "%s.expert_count = %u, but none of %u layers has experts", c->arch,
            c->n_experts, c->n_layers);
    }

    rc = read_vocab(c, g, why, why_size);
    if (rc < 0) return rc;
    return model_check_tensors(c, g, why, why_size);
}

int model_check_context(const model_config *c, uint32_t context, char *why,
                        size_t why_size) {
    if (c->most_context == 0 || context <= c->most_context) return 0;
    return err_why(why, why_size, ERR_UNSUPPORTED,
                   "a context of %u is not supported: this %s model is "
                   "computed up to %u positions",
                   context, c->arch, c->most_context);
}

/* ---- questions ---- */

bool model_is_moe(const model_config *c, uint32_t layer) {
    if (c->n_experts == 0 || layer < c->first_moe_layer) return false;
    return c->moe_period <= 1 || (layer + 1) % c->moe_period == 0;
}

uint32_t model_n_moe(const model_config *c) {
    uint32_t n = 0;
    for (uint32_t layer = 0; layer < c->n_layers; layer++) {
        n += model_is_moe(c, layer);
    }
    return n;
}

bool model_is_dense(const model_config *c, uint32_t layer) {
    return c->dense_beside_experts || !model_is_moe(c, layer);
}

/* Is it the last layer of every `period`? */
static bool is_last_of(uint32_t layer, uint32_t period) {
    return period > 0 && (layer + 1) % period == 0;
}

bool model_has_rope(const model_config *c, uint32_t layer) {
    return !is_last_of(layer, c->attention.no_rope_period);
}

uint32_t model_first_key(const model_config *c, uint32_t layer,
                         uint32_t position) {
    const attention_rule *a = &c->attention;
    if (a->window > 0 && !is_last_of(layer, a->window_period)) {
        return position < a->window ? 0 : position - a->window + 1;
    }
    if (a->chunk > 0 && model_has_rope(c, layer)) {
        return position - position % a->chunk;
    }
    return 0;
}
