/* rope.c - see rope.h.
 *
 * The inverse frequencies are computed once per model; a position's table costs
 * N/2 sines and cosines and is shared by all heads and layers of its token. */
#include "engine/rope.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/rope_internal.h"
#include "engine/vmath.h"

struct rope {
    rope_style style;
    uint32_t n_pairs;
    double scale;
    const float *factors; /* [n_pairs] or NULL, borrowed */
    double frequency[];   /* [n_pairs] base^(-2i/N) */
};

static int check(const rope_config *c) {
    if (c->style != ROPE_NORM && c->style != ROPE_NEOX) return ERR_UNSUPPORTED;
    if (c->n_dims == 0 || c->n_dims % 2 != 0) return ERR_RANGE;
    if (!(c->base > 0) || !isfinite(c->base)) return ERR_RANGE;
    if (!(c->scale > 0) || !isfinite(c->scale)) return ERR_RANGE;
    if (c->factors == NULL) return 0;
    for (uint32_t i = 0; i < c->n_dims / 2; i++) {
        if (!(c->factors[i] > 0) || !isfinite(c->factors[i])) return ERR_RANGE;
    }
    return 0;
}

int rope_new(rope **out, const rope_config *config) {
    *out = NULL;
    int rc = check(config);
    if (rc < 0) return rc;

    uint32_t n_pairs = config->n_dims / 2;
    rope *r = calloc(1, sizeof(*r) + n_pairs * sizeof(r->frequency[0]));
    if (r == NULL) return -ENOMEM;

    r->style = config->style;
    r->n_pairs = n_pairs;
    r->scale = config->scale;
    r->factors = config->factors;
    for (uint32_t i = 0; i < n_pairs; i++) {
        double exponent = -2.0 * (double)i / (double)config->n_dims;
        r->frequency[i] = vm_pow(config->base, exponent);
    }
    *out = r;
    return 0;
}

void rope_free(rope *r) {
    free(r);
}

void rope_table(const rope *r, uint32_t position, float *table) {
    float *cosines = table, *sines = table + r->n_pairs;

    for (uint32_t i = 0; i < r->n_pairs; i++) {
        double angle = (double)position * r->frequency[i];
        if (r->factors != NULL) angle = angle / (double)r->factors[i];
        angle = angle / r->scale;

        double s, c;
        vm_sincos(angle, &s, &c);
        cosines[i] = (float)c;
        sines[i] = (float)s;
    }
}

/* The reference, which the vector levels repeat. */
static void turn_scalar(rope_style style, size_t n_pairs, const float *table,
                        size_t n_heads, size_t head_dim, float *x) {
    const float *c = table, *s = table + n_pairs;

    for (size_t head = 0; head < n_heads; head++, x += head_dim) {
        for (size_t i = 0; i < n_pairs; i++) {
            size_t a = style == ROPE_NORM ? 2 * i : i;
            size_t b = style == ROPE_NORM ? 2 * i + 1 : i + n_pairs;
            rope_turn_pair(&x[a], &x[b], c[i], s[i]);
        }
    }
}

void rope_apply(const rope *r, const float *table, size_t n_heads,
                size_t head_dim, float *x) {
    static const rope_turn by_level[CPU_LEVELS] = {
        [CPU_SCALAR] = turn_scalar,
        [CPU_AVX2] = rope_turn_avx2,
        [CPU_AVX512] = rope_turn_avx512,
    };
    assert(head_dim >= 2 * (size_t)r->n_pairs);
    by_level[cpu_current()](r->style, r->n_pairs, table, n_heads, head_dim, x);
}
