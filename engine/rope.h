/* rope.h - rotary position embedding, with angles computed once per position.
 *
 * Angle of pair i at position p: theta = p * base^(-2i/N), divided by the
 * model's rope_freqs factor i if it has them; N = rotated dims.  With a scale s
 * it is theta / s, or with YaRN (Peng et al. 2023)
 *   theta / s * (1 - m_i) + theta * m_i,
 *   m_i = 1 - clamp((i - lo) / max(0.001, hi - lo), 0, 1),
 *   lo = max(0, floor(d(beta_fast))),  hi = min(N - 1, ceil(d(beta_slow))),
 *   d(r) = N * ln(original_context / (2 pi r)) / (2 ln base).
 * Angles, sines and cosines are computed in double by vmath; sines and cosines
 * are multiplied by the magnitude and rounded to f32 once.  NORM turns pairs
 * (2i, 2i+1), NEOX pairs (i, i + N/2).  Dims beyond N stay. */
#ifndef ENGINE_ROPE_H
#define ENGINE_ROPE_H

#include <stddef.h>
#include <stdint.h>

typedef enum { ROPE_NORM, ROPE_NEOX } rope_style;

typedef struct {
    double original_context; /* of training, in positions; 0: no YaRN */
    double beta_fast, beta_slow;
} rope_yarn;

typedef struct {
    rope_style style;
    uint32_t n_dims; /* N, even */
    double base;
    double scale; /* s; 1 = none */
    rope_yarn yarn;
    double magnitude;     /* of the turned pairs; 0 or 1: kept */
    const float *factors; /* [N/2] or NULL; borrowed while the rope lives */
} rope_config;

/* What YaRN multiplies sines and cosines by, unless the model says otherwise:
 * 1 + 0.1 ln s. */
double rope_yarn_magnitude(double scale);

typedef struct rope rope;
int rope_new(rope **out, const rope_config *config);
void rope_free(rope *r);

/* cos and sin of the N/2 pairs at a position, written as [N/2] cos, [N/2] sin
 * into `table` (N floats). */
void rope_table(const rope *r, uint32_t position, float *table);

/* Turn `n_heads` heads of head_dim floats that stand one after the other:
 *   (a, b) -> (a cos - b sin, a sin + b cos)
 * as a*cos, b*cos rounded, then fmaf(-b, sin, a*cos), fmaf(a, sin, b*cos). */
void rope_apply(const rope *r, const float *table, size_t n_heads,
                size_t head_dim, float *x);

#endif
