/* perplexity.c - see perplexity.h. */
#include "client/perplexity.h"

#include <assert.h>
#include <math.h>
#include "engine/err.h"

size_t perplexity_needs(uint32_t ctx) {
    return 2 * (size_t)ctx;
}

int perplexity_scores(uint32_t ctx, uint32_t j) {
    return j >= ctx / 2 && j + 1 < ctx;
}

int perplexity_add(perplexity *p, const float *logits, uint32_t n_vocab,
                   uint32_t token) {
    if (token >= n_vocab) return ERR_RANGE;

    double most = -INFINITY, sum = 0.0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (!isfinite(logits[i])) return ERR_RANGE;
        most = fmax(most, (double)logits[i]);
    }
    for (uint32_t i = 0; i < n_vocab; i++)
        sum += exp((double)logits[i] - most);
    double loss = log(sum) - ((double)logits[token] - most);
    p->sum += loss;
    p->squares += loss * loss;
    p->n_scored++;
    return 0;
}

double perplexity_value(const perplexity *p) {
    assert(p->n_scored > 0);
    return exp(p->sum / (double)p->n_scored);
}

double perplexity_error(const perplexity *p) {
    assert(p->n_scored > 0);
    double n = (double)p->n_scored, mean = p->sum / n;
    double variance = p->squares / n - mean * mean;
    if (p->n_scored < 2 || !(variance > 0)) return 0.0;
    return sqrt(variance / (n - 1)) * exp(mean);
}
