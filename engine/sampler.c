/* sampler.c - the next token from logits.
 *
 * Everything that decides is IEEE arithmetic in a fixed order and the project's
 * own exp, so that the same logits give the same token on every machine.  The
 * filters narrow a list of candidates; nothing sorts the vocabulary: top-k
 * keeps the k best in a heap, top-p takes the best ones from a heap until they
 * make up its share.  The draw then walks what is kept by ascending id. */
#include "engine/sampler.h"
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define GLANCE 256 /* logits that are passed over at a time */

typedef struct {
    float logit;
    float weight; /* exp((logit - best) / temperature): the best has 1 */
    int32_t id;
} candidate;

struct sampler {
    size_t n_vocab;
    candidate *items; /* [n_vocab] */
};

/* ---- parameters ---- */

/* NaN fails every comparison. */
static bool within(float x, float low, float high) {
    return x >= low && x <= high;
}

int sampler_check(const sampler_params *p, char *why, size_t why_size) {
    if (!(p->temperature >= 0.0f && isfinite(p->temperature)))
        return err_why(why, why_size, ERR_RANGE,
                       "temperature is %g, it must be 0 or more",
                       (double)p->temperature);
    if (!within(p->top_p, 0.0f, 1.0f))
        return err_why(why, why_size, ERR_RANGE,
                       "top_p is %g, it must be between 0 and 1",
                       (double)p->top_p);
    if (!within(p->min_p, 0.0f, 1.0f))
        return err_why(why, why_size, ERR_RANGE,
                       "min_p is %g, it must be between 0 and 1",
                       (double)p->min_p);
    return 0;
}

int sampler_new(sampler **out, size_t n_vocab) {
    *out = NULL;
    if (n_vocab == 0 || n_vocab > INT32_MAX) return ERR_RANGE;

    sampler *s = calloc(1, sizeof(*s));
    if (s == NULL) return -ENOMEM;
    s->n_vocab = n_vocab;
    s->items = calloc(n_vocab, sizeof(*s->items));
    if (s->items == NULL) {
        free(s);
        return -ENOMEM;
    }
    *out = s;
    return 0;
}

void sampler_free(sampler *s) {
    if (s == NULL) return;
    free(s->items);
    free(s);
}

/* ---- the generator ---- */

enum { PHILOX_ROUNDS = 10 };

/* Philox4x32 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
 * 1, 2, 3", 2011), the first of its four words. */
static uint32_t philox(uint64_t key, uint64_t low, uint64_t high) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)low, c1 = (uint32_t)(low >> 32);
    uint32_t c2 = (uint32_t)high, c3 = (uint32_t)(high >> 32);

    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)c0 * 0xD2511F53u;
        uint64_t p1 = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

float sampler_uniform(uint64_t seed, uint32_t choice, uint64_t position) {
    return (float)(philox(seed, position, choice) >> 8) * 0x1p-24f;
}

/* ---- heaps of candidates ---- */

static bool is_better(const candidate *a, const candidate *b) {
    if (a->logit != b->logit) return a->logit > b->logit;
    return a->id < b->id;
}

static bool is_worse(const candidate *a, const candidate *b) {
    return is_better(b, a);
}

typedef bool (*ordering)(const candidate *, const candidate *);

/* Let items[at] sink until no child comes before it. */
static void sift_down(candidate *items, size_t n, size_t at, ordering before) {
    candidate moving = items[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && before(&items[child + 1], &items[child])) child++;
        if (!before(&items[child], &moving)) break;
        items[at] = items[child];
        at = child;
    }
    items[at] = moving;
}

static void make_heap(candidate *items, size_t n, ordering before) {
    for (size_t i = n / 2; i-- > 0;)
        sift_down(items, n, i, before);
}

static int by_id(const void *a, const void *b) {
    int32_t x = ((const candidate *)a)->id, y = ((const candidate *)b)->id;
    return (x > y) - (x < y);
}

/* ---- candidates ---- */

/* The first `most` numbers; *next is where another one stands, or n_vocab. */
static size_t collect(sampler *s, const float *logits, size_t most,
                      size_t *next) {
    size_t n = 0, i = 0;
    for (; i < s->n_vocab; i++) {
        if (isnan(logits[i])) continue;
        if (n == most) break;
        s->items[n++] =
            (candidate){.logit = logits[i], .weight = 0.0f, .id = (int32_t)i};
    }
    *next = i;
    return n;
}

/* The k best of the numbers from `next` on and of the k that were collected:
 * the root of the heap is the worst that is kept.  Most blocks have nothing
 * above it, which one look at their maximum tells.  Of equals the one that was
 * there stays: its id is lower. */
static void keep_top_k(sampler *s, const float *logits, size_t next, size_t k) {
    candidate *items = s->items;
    make_heap(items, k, is_worse);
    while (next < s->n_vocab) {
        size_t from = next;
        next = size_min(from + GLANCE, s->n_vocab);
        if (!(vm_max(next - from, logits + from) > items[0].logit)) continue;
        for (size_t i = from; i < next; i++) {
            if (!(logits[i] > items[0].logit)) continue;
            items[0] = (candidate){.logit = logits[i], .id = (int32_t)i};
            sift_down(items, k, 0, is_worse);
        }
    }
}

/* ---- filters: each leaves items[0..n) and returns the new n ---- */

/* The fewest best ones that have `share` of the weight, at least one. */
static size_t keep_top_p(candidate *items, size_t n, float share) {
    if (share >= 1.0f) return n;

    double total = 0.0, taken = 0.0;
    for (size_t i = 0; i < n; i++)
        total += (double)items[i].weight;

    /* The heap shrinks from the front to items[0..left); what was taken is
     * stored behind it, the best last. */
    make_heap(items, n, is_better);
    size_t left = n;
    while (left > 0 && (left == n || taken < (double)share * total)) {
        candidate best = items[0];
        taken += (double)best.weight;
        left--;
        items[0] = items[left];
        if (left > 0) sift_down(items, left, 0, is_better);
        items[left] = best;
    }
    for (size_t i = left; i < n; i++)
        items[i - left] = items[i];
    return n - left;
}

static size_t keep_min_p(candidate *items, size_t n, float least) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (items[i].weight >= least) items[kept++] = items[i];
    }
    return kept;
}

/* ---- choosing ---- */

static size_t best_of(const candidate *items, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (is_better(&items[i], &items[best])) best = i;
    }
    return best;
}

/* Weights relative to the best.  Equal to the best is 1 by definition: the
 * difference of two infinities is not a number. */
static void weigh(candidate *items, size_t n, float temperature) {
    float best = items[best_of(items, n)].logit;
    for (size_t i = 0; i < n; i++) {
        float below = items[i].logit - best;
        items[i].weight =
            items[i].logit == best ? 1.0f : vm_expf(below / temperature);
    }
}

/* The candidate at `u` of the weight, counted by ascending id. */
static int32_t draw(candidate *items, size_t n, float u) {
    double total = 0.0, sum = 0.0;
    int32_t last = items[0].id;

    for (size_t i = 0; i < n; i++)
        total += (double)items[i].weight;
    for (size_t i = 0; i < n; i++) {
        if (items[i].weight <= 0.0f) continue;
        sum += (double)items[i].weight;
        last = items[i].id;
        if (sum > (double)u * total) break;
    }
    return last;
}

/* Greedy needs no list: the first of the largest.  vm_max() passes over what is
 * not a number, which no value is equal to. */
static int32_t pick_best(const float *logits, size_t n) {
    float best = vm_max(n, logits);
    for (size_t i = 0; i < n; i++) {
        if (logits[i] == best) return (int32_t)i;
    }
    return 0; /* there is no number */
}

int32_t sampler_pick(sampler *s, const sampler_params *p, uint64_t position,
                     const float *logits) {
    if (p->temperature <= 0.0f || p->top_k == 1)
        return pick_best(logits, s->n_vocab);

    size_t next;
    size_t n = collect(s, logits, p->top_k == 0 ? SIZE_MAX : p->top_k, &next);
    if (n == 0) return 0;
    bool all = next == s->n_vocab;
    bool in_order = all && p->top_p >= 1.0f;
    if (!all) keep_top_k(s, logits, next, n);
    weigh(s->items, n, p->temperature);
    n = keep_top_p(s->items, n, p->top_p);
    if (p->min_p > 0.0f) n = keep_min_p(s->items, n, p->min_p);

    if (!in_order) qsort(s->items, n, sizeof(*s->items), by_id);
    return draw(s->items, n, sampler_uniform(p->seed, p->choice, position));
}
