/* perplexity.h - how well a model predicts a text: e to the mean of
 * -log(probability of the token that comes).
 *
 * The measure is that of llama-perplexity, so figures can be compared: the
 * text's tokens are cut into windows of ctx, each evaluated by itself; in a
 * vocabulary that begins texts with BOS, BOS stands in the place of a window's
 * first token.  The first half of a window gives context and is not scored;
 * row j from there on is scored by the token at j + 1.  What is left behind the
 * last whole window is not used.  Sums are made in the order of the text, in
 * doubles. */
#ifndef CLIENT_PERPLEXITY_H
#define CLIENT_PERPLEXITY_H

#include <stddef.h>
#include <stdint.h>

#define PERPLEXITY_CTX_LEAST 4

typedef struct {
    double sum, squares; /* of -log(probability) */
    uint64_t n_scored;
} perplexity;

/* Tokens that a text must have, at least: two windows. */
size_t perplexity_needs(uint32_t ctx);
/* Is row j of a window scored? */
int perplexity_scores(uint32_t ctx, uint32_t j);

/* Score one row of logits by the token that comes.  ERR_RANGE if the
 * vocabulary does not have it, or a logit is not a finite number. */
int perplexity_add(perplexity *p, const float *logits, uint32_t n_vocab,
                   uint32_t token);

/* Of what was added, at least one row; and its standard error. */
double perplexity_value(const perplexity *p);
double perplexity_error(const perplexity *p);

#endif
