/* read_probe.c - see read_probe.h.
 *
 * One word of every cache line is loaded: the whole line has to come for it,
 * and no instruction set makes a difference.  What limits one core is how many
 * lines are under way at once, so a piece is read as a few streams that are
 * prefetched side by side; more of them gained nothing. */
#include "client/read_probe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/pool.h"
#include "engine/util.h"

#define LINE_WORDS 8 /* of a cache line of 64 bytes */
#define PIECE_BYTES ((size_t)1 << 20)
#define STREAMS 4
#define AHEAD_WORDS 128 /* how far a stream is prefetched */

#define LEAST_BYTES ((size_t)256 << 20)
#define MOST_BYTES ((size_t)1 << 30)
#define CACHES 2 /* the buffer is so many times the last cache */
#define PASSES 4 /* of a look */

struct read_probe {
    pool *threads;
    uint64_t *words;
    uint32_t n_pieces;
    uint64_t seen[POOL_MAX_THREADS]; /* so that no load is left out */
};

static size_t buffer_bytes(void) {
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t bytes = cache > 0 ? CACHES * (size_t)cache : 0;

    bytes = size_max(bytes, LEAST_BYTES);
    return round_up(size_min(bytes, MOST_BYTES), PIECE_BYTES);
}

int read_probe_new(read_probe **out, uint32_t n_threads) {
    *out = NULL;
    read_probe *p = calloc(1, sizeof(*p));
    if (p == NULL) return -ENOMEM;

    size_t bytes = buffer_bytes();
    p->n_pieces = (uint32_t)(bytes / PIECE_BYTES);
    int rc = pool_new(&p->threads, n_threads);
    if (rc == 0) p->words = aligned_alloc_zero(bytes);
    if (rc == 0 && p->words == NULL) rc = -ENOMEM;
    if (rc < 0) {
        read_probe_free(p);
        return rc;
    }
    memset(p->words, 1, bytes); /* pages of its own, not the one of zeros */
    *out = p;
    return 0;
}

void read_probe_free(read_probe *p) {
    if (p == NULL) return;
    pool_free(p->threads);
    aligned_release(p->words);
    free(p);
}

static uint64_t read_piece(const uint64_t *words, size_t n) {
    size_t part = n / STREAMS;
    uint64_t sum = 0;

    for (size_t i = 0; i < part; i += LINE_WORDS) {
        for (size_t s = 0; s < STREAMS; s++) {
            const uint64_t *line = words + s * part + i;
            __builtin_prefetch(line + AHEAD_WORDS);
            sum += *line;
        }
    }
    return sum;
}

static void task_read(void *ctx, uint32_t task, uint32_t worker) {
    read_probe *p = ctx;
    size_t n = PIECE_BYTES / sizeof(*p->words);
    p->seen[worker] += read_piece(p->words + task * n, n);
}

double read_probe_look(read_probe *p) {
    uint64_t start_us = now_us();
    for (int i = 0; i < PASSES; i++)
        pool_run(p->threads, p->n_pieces, task_read, p);
    uint64_t us = now_us() - start_us;
    double bytes = (double)PASSES * p->n_pieces * (double)PIECE_BYTES;
    return us > 0 ? bytes / (double)us / 1e3 : 0.0;
}
