/* rope.c - see rope.h.
 *
 * The inverse frequencies are computed once per model; a position's table costs
 * N/2 sines and cosines and is shared by all heads and layers of its token. */
#include "engine/rope.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/rope_internal.h"
#include "engine/vmath.h"

struct rope {
    rope_style style;
    uint32_t n_pairs;
    double scale, magnitude;
    const float *factors; /* [n_pairs] or NULL, borrowed */
    double *kept;         /* [n_pairs] m_i: the part that is not scaled */
    double frequency[];   /* [n_pairs] base^(-2i/N), then kept */
};

#define TWO_PI 0x1.921fb54442d18p+2

static bool positive(double x) {
    return x > 0 && isfinite(x);
}

static int check(const rope_config *c) {
    if (c->style != ROPE_NORM && c->style != ROPE_NEOX) return ERR_UNSUPPORTED;
    if (c->n_dims == 0 || c->n_dims % 2 != 0) return ERR_RANGE;
    if (!positive(c->base) || !positive(c->scale)) return ERR_RANGE;
    if (c->magnitude != 0 && !positive(c->magnitude)) return ERR_RANGE;
    if (c->yarn.original_context != 0 &&
        !(positive(c->yarn.original_context) && positive(c->yarn.beta_fast) &&
          positive(c->yarn.beta_slow) && c->base > 1)) {
        return ERR_RANGE;
    }
    if (c->factors == NULL) return 0;
    for (uint32_t i = 0; i < c->n_dims / 2; i++) {
        if (!(c->factors[i] > 0) || !isfinite(c->factors[i])) return ERR_RANGE;
    }
    return 0;
}

/* The pair, as a fraction, that turns r times within the original context. */
static double pair_that_turns(const rope_config *c, double r) {
    double context = c->yarn.original_context;
    return (double)c->n_dims * vm_log(context / (TWO_PI * r)) /
           (2.0 * vm_log(c->base));
}

double rope_yarn_magnitude(double scale) {
    return 1.0 + 0.1 * vm_log(scale);
}

/* Pairs below lo turn often enough to be kept as they are, those above hi are
 * scaled, and in between it changes gradually. */
static void ramp(const rope_config *c, uint32_t n_pairs, double *kept) {
    double lo = floor(pair_that_turns(c, c->yarn.beta_fast));
    double hi = ceil(pair_that_turns(c, c->yarn.beta_slow));
    if (lo < 0.0) lo = 0.0;
    if (hi > (double)c->n_dims - 1.0) hi = (double)c->n_dims - 1.0;
    double width = hi - lo > 0.001 ? hi - lo : 0.001;

    for (uint32_t i = 0; i < n_pairs; i++) {
        double y = ((double)i - lo) / width;
        kept[i] = 1.0 - (y < 0.0 ? 0.0 : y > 1.0 ? 1.0 : y);
    }
}

int rope_new(rope **out, const rope_config *config) {
    *out = NULL;
    int rc = check(config);
    if (rc < 0) return rc;

    uint32_t n_pairs = config->n_dims / 2;
    rope *r = calloc(1, sizeof(*r) + 2 * n_pairs * sizeof(r->frequency[0]));
    if (r == NULL) return -ENOMEM;

    r->style = config->style;
    r->n_pairs = n_pairs;
    r->scale = config->scale;
    r->magnitude = config->magnitude != 0 ? config->magnitude : 1.0;
    r->kept = r->frequency + n_pairs;
    r->factors = config->factors;
    for (uint32_t i = 0; i < n_pairs; i++) {
        double exponent = -2.0 * (double)i / (double)config->n_dims;
        r->frequency[i] = vm_pow(config->base, exponent);
    }
    if (config->yarn.original_context != 0) ramp(config, n_pairs, r->kept);
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
        /* Without YaRN nothing is kept, and adding 0 changes nothing. */
        double kept = r->kept[i];
        angle = angle / r->scale * (1.0 - kept) + angle * kept;

        double s, c;
        vm_sincos(angle, &s, &c);
        cosines[i] = (float)(c * r->magnitude);
        sines[i] = (float)(s * r->magnitude);
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
