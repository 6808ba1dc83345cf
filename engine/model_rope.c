/* model_rope.c - the keys of rotary position embedding. */
#include <stdio.h>
#include <string.h>
#include "engine/architecture.h"
#include "engine/err.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define SHORT_FACTORS "rope_factors_short.weight"

/* How angles are stretched beyond the context of training. */
typedef enum {
    SCALING_LINEAR, /* also what files without a type have */
    SCALING_NONE,
    SCALING_LONGROPE, /* by tables of factors, of which the row takes one */
    SCALING_YARN
} scaling_type;

static int read_type(const model_keys *k, scaling_type *out) {
    static const char *const names[] = {[SCALING_LINEAR] = "linear",
                                        [SCALING_NONE] = "none",
                                        [SCALING_LONGROPE] = "longrope",
                                        [SCALING_YARN] = "yarn"};
    char key[96];
    gguf_string type;
    *out = SCALING_LINEAR;
    snprintf(key, sizeof(key), "%s.rope.scaling.type", k->arch);
    if (!gguf_has(k->g, key)) return 0;
    int rc = gguf_get_string(k->g, key, &type, k->why, k->why_size);
    if (rc < 0) return rc;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (type.len != strlen(names[i]) ||
            memcmp(type.data, names[i], type.len) != 0) {
            continue;
        }
        *out = (scaling_type)i;
        if (i != SCALING_LONGROPE || model_has_tensor(k, SHORT_FACTORS)) {
            return 0;
        }
    }
    return err_why(k->why, k->why_size, ERR_UNSUPPORTED,
                   "%s = '%s' is not supported", key, gguf_quote(type).text);
}

/* What angles are divided by; 1 if the file has nothing to say. */
static int read_scale(const model_keys *k, float *out) {
    float old; /* what the key was called in old files */
    int rc = model_read_factor(k, "rope.scale_linear", 1.0f, &old);
    if (rc < 0) return rc;
    return model_read_factor(k, "rope.scaling.factor", old, out);
}

static int read_yarn(rope_config *r, const model_config *c,
                     const model_keys *k) {
    float fast, slow;
    uint32_t context;
    int rc = model_key_u32_or(k, "rope.scaling.original_context_length",
                              &context, c->n_context);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "rope.scaling.original_context_length", context, 1,
                         UINT32_MAX);
    if (rc < 0) return rc;
    rc = model_read_factor(k, "rope.scaling.yarn_beta_fast", 32.0f, &fast);
    if (rc < 0) return rc;
    rc = model_read_factor(k, "rope.scaling.yarn_beta_slow", 1.0f, &slow);
    if (rc < 0) return rc;
    if (!(r->base > 1.0)) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.rope.freq_base = %g makes no sense with "
                       "%s.rope.scaling.type = 'yarn'",
                       k->arch, r->base, k->arch);
    }
    r->yarn = (rope_yarn){(double)context, (double)fast, (double)slow};
    r->magnitude *= rope_yarn_magnitude(r->scale);
    if (r->magnitude > 0.0) return 0;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.rope.scaling.factor = %g makes no sense with "
                   "%s.rope.scaling.type = 'yarn'",
                   k->arch, r->scale, k->arch);
}

static int read_scaling(rope_config *r, const model_config *c,
                        const model_keys *k) {
    scaling_type type;
    float scale = 1.0f, magnitude;
    int rc = read_type(k, &type);
    if (rc < 0) return rc;
    rc = model_read_factor(k, "rope.scaling.attn_factor", 1.0f, &magnitude);
    if (rc < 0) return rc;
    if (type == SCALING_LINEAR || type == SCALING_YARN) {
        rc = read_scale(k, &scale);
        if (rc < 0) return rc;
    }
    r->scale = (double)scale;
    r->magnitude = (double)magnitude;
    return type == SCALING_YARN ? read_yarn(r, c, k) : 0;
}

int model_read_rope(model_config *c, const model_keys *k) {
    rope_config *r = &c->rope;
    int rc =
        model_key_u32_or(k, "rope.dimension_count", &r->n_dims, c->key_dim);
    if (rc < 0) return rc;
    if (r->n_dims == 0 || r->n_dims % 2 != 0 || r->n_dims > c->key_dim) {
        return err_why(
            k->why, k->why_size, ERR_FORMAT,
            "%s.rope.dimension_count = %u is not an even number in 2 "
            "to the %u of a head",
            k->arch, r->n_dims, c->key_dim);
    }
    float base;
    rc = model_key_f32_or(k, "rope.freq_base", &base, 10000.0f);
    if (rc < 0) return rc;
    rc = model_check_positive(k, "rope.freq_base", base);
    if (rc < 0) return rc;
    r->base = (double)base;
    c->rope_factors = "rope_freqs.weight";
    return read_scaling(r, c, k);
}
