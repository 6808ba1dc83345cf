/* model_keys.c - an architecture's keys, and settings that are refused.
 *
 * A file may ask for arithmetic that we do not have.  Running it all the same
 * would give text that looks right and is not, so what could change a result is
 * listed by who reads the architecture and refused by name and value. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "engine/architecture.h"
#include "engine/err.h"

#define KEY_MAX 160

typedef struct {
    char text[KEY_MAX];
} key_text;

static key_text full_key(const model_keys *k, const char *rest) {
    key_text key;
    snprintf(key.text, sizeof(key.text), "%s.%s", k->arch, rest);
    return key;
}

static int missing(const model_keys *k, int rc, const char *key) {
    if (rc != ERR_NOT_HERE) return rc;
    return err_why(k->why, k->why_size, ERR_FORMAT, "%s is missing", key);
}

int model_key_u32(const model_keys *k, const char *rest, uint32_t *out) {
    key_text key = full_key(k, rest);
    int rc = gguf_get_u32(k->g, key.text, out, k->why, k->why_size);
    return missing(k, rc, key.text);
}

int model_key_u32_or(const model_keys *k, const char *rest, uint32_t *out,
                     uint32_t absent) {
    key_text key = full_key(k, rest);
    *out = absent;
    if (!gguf_has(k->g, key.text)) return 0;
    return gguf_get_u32(k->g, key.text, out, k->why, k->why_size);
}

int model_key_f32(const model_keys *k, const char *rest, float *out) {
    key_text key = full_key(k, rest);
    int rc = gguf_get_f32(k->g, key.text, out, k->why, k->why_size);
    return missing(k, rc, key.text);
}

int model_key_f32_or(const model_keys *k, const char *rest, float *out,
                     float absent) {
    key_text key = full_key(k, rest);
    *out = absent;
    if (!gguf_has(k->g, key.text)) return 0;
    return gguf_get_f32(k->g, key.text, out, k->why, k->why_size);
}

int model_key_bool_or(const model_keys *k, const char *rest, bool *out,
                      bool absent) {
    key_text key = full_key(k, rest);
    *out = absent;
    if (!gguf_has(k->g, key.text)) return 0;
    return gguf_get_bool(k->g, key.text, out, k->why, k->why_size);
}

bool model_has_tensor(const model_keys *k, const char *name) {
    return gguf_find_tensor(k->g, name) != NULL;
}

/* The one value of an array that has it once for each layer. */
static int uniform(const model_keys *k, const char *key, uint32_t n_layers,
                   uint32_t *out) {
    int32_t *values = calloc(n_layers, sizeof(*values));
    if (values == NULL) {
        return err_why(k->why, k->why_size, -ENOMEM, "%s: no memory", key);
    }
    int rc = gguf_array_i32(k->g, key, values, n_layers, k->why, k->why_size);
    for (uint32_t i = 0; i < n_layers && rc == 0; i++) {
        if (values[i] < 0) {
            rc = err_why(k->why, k->why_size, ERR_FORMAT, "%s[%u] is %d", key,
                         i, values[i]);
        } else if (values[i] != values[0]) {
            rc = err_why(k->why, k->why_size, ERR_UNSUPPORTED,
                         "%s differs by layer (%d in layer 0, %d in layer %u), "
                         "which is not supported",
                         key, values[0], values[i], i);
        }
    }
    if (rc == 0) *out = (uint32_t)values[0];
    free(values);
    return rc;
}

int model_key_layers_or(const model_keys *k, const char *rest,
                        uint32_t n_layers, uint32_t *out, uint32_t absent) {
    key_text key = full_key(k, rest);
    gguf_type element;
    uint64_t n;
    if (gguf_get_array(k->g, key.text, &element, &n, NULL, 0) < 0) {
        return model_key_u32_or(k, rest, out, absent);
    }
    return uniform(k, key.text, n_layers, out);
}

int model_check_u32(const model_keys *k, const char *rest, uint32_t value,
                    uint32_t least, uint32_t most) {
    if (value >= least && value <= most) return 0;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.%s is %u, not in %u to %u", k->arch, rest, value, least,
                   most);
}

int model_check_positive(const model_keys *k, const char *rest, float value) {
    if (value > 0.0f && isfinite(value)) return 0;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.%s = %g is not a positive number", k->arch, rest,
                   (double)value);
}

/* A flag counts as 0 or 1. */
static int read_number(const model_keys *k, const char *key, double *out) {
    bool flag;
    float real;
    uint64_t integer;
    if (gguf_get_bool(k->g, key, &flag, NULL, 0) == 0) {
        *out = flag ? 1.0 : 0.0;
        return 0;
    }
    if (gguf_get_f32(k->g, key, &real, NULL, 0) == 0) {
        *out = (double)real;
        return 0;
    }
    int rc = gguf_get_u64(k->g, key, &integer, k->why, k->why_size);
    if (rc == 0) *out = (double)integer;
    return rc;
}

int model_refuse(const model_keys *k, const model_setting *settings, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const model_setting *s = &settings[i];
        key_text key = full_key(k, s->rest);
        if (!gguf_has(k->g, key.text)) continue;

        double value = 0.0;
        int rc = read_number(k, key.text, &value);
        if (rc < 0) return rc;
        if (value == s->neutral || value == s->also_neutral) continue;
        return err_why(k->why, k->why_size, ERR_UNSUPPORTED,
                       "%s = %.9g is not supported", key.text, value);
    }
    return 0;
}
