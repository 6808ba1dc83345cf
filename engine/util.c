/* util.c - see util.h. */
#include "engine/util.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint64_t now_ms(void) {
    return now_us() / 1000u;
}

void *aligned_alloc_zero(size_t bytes) {
    size_t align = bytes >= 2 * HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 64;
    size_t padded;
    if (!size_add(bytes, 63, &padded)) return NULL;
    padded = padded / 64 * 64;
    if (padded == 0) padded = 64;

    void *p = NULL;
    if (posix_memalign(&p, align, padded) != 0) return NULL;
    if (align == HUGE_PAGE_BYTES) madvise(p, padded, MADV_HUGEPAGE);
    memset(p, 0, padded);
    return p;
}

void aligned_release(void *p) {
    free(p);
}

void random_bytes(void *out, size_t n) {
    uint8_t *at = out;
    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);
        if (got < 0) continue; /* interrupted */
        at += got;
        n -= (size_t)got;
    }
}
