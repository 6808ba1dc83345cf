/* weight_pages.c - see weight_pages.h.
 *
 * A chunk is one mapping, aligned to huge pages, with a bit for each small page
 * of it: set while a block has it.  A block takes the first run of free pages
 * that is long enough.  Blocks larger than half a chunk have a mapping of their
 * own, small ones come from the heap: rounding them to pages would waste more
 * than huge pages give.  Free pages are always unmapped or zero, since freeing
 * gives them back; a chunk without blocks goes as a whole. */
#include "engine/weight_pages.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "engine/topology.h"
#include "engine/util.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#define PAGE ((size_t)4 << 10)
#define HUGE_PAGE ((size_t)2 << 20)
#define CHUNK_BYTES ((size_t)64 << 20)
#define CHUNK_PAGES (CHUNK_BYTES / PAGE)
#define SMALL_BYTES ((size_t)64 << 10)
#define LARGE_BYTES (CHUNK_BYTES / 2)
#define WORD_BITS 64

typedef struct {
    uint8_t *base;
    size_t n_free;                           /* pages */
    uint64_t taken[CHUNK_PAGES / WORD_BITS]; /* a bit for each page */
} chunk;

static struct {
    pthread_mutex_t lock; /* guards all of it */
    chunk **chunks;
    size_t n_chunks, room;
    size_t last; /* the chunk that had room most recently */
    uint64_t in_use;
} store = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- mappings ---- */

/* `bytes`, a multiple of PAGE, that begin at a huge page; NULL: no memory. */
static void *map(size_t bytes) {
    size_t whole;
    if (!size_add(bytes, HUGE_PAGE, &whole)) return NULL;
    uint8_t *at = mmap(NULL, whole, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return NULL;

    size_t before = round_up((uintptr_t)at, HUGE_PAGE) - (uintptr_t)at;
    if (before > 0) munmap(at, before);
    munmap(at + before + bytes, HUGE_PAGE - before);
    /* Refused where there are none: small pages do as well. */
    (void)madvise(at + before, bytes, MADV_HUGEPAGE);
    topology_spread(at + before, bytes);
    return at + before;
}

static bool is_taken(const chunk *c, size_t page) {
    return (c->taken[page / WORD_BITS] >> page % WORD_BITS & 1) != 0;
}

static void mark(chunk *c, size_t page, size_t n, bool taken) {
    for (size_t i = page; i < page + n; i++) {
        uint64_t bit = (uint64_t)1 << i % WORD_BITS;
        assert(is_taken(c, i) != taken);
        c->taken[i / WORD_BITS] ^= bit;
    }
    c->n_free = taken ? c->n_free - n : c->n_free + n;
}

/* The first of n free pages in a row; CHUNK_PAGES: there are not so many. */
static size_t find_run(const chunk *c, size_t n) {
    size_t run = 0;
    if (c->n_free < n) return CHUNK_PAGES;
    for (size_t i = 0; i < CHUNK_PAGES; i++) {
        if (i % WORD_BITS == 0 && c->taken[i / WORD_BITS] == UINT64_MAX) {
            run = 0;
            i += WORD_BITS - 1;
            continue;
        }
        run = is_taken(c, i) ? 0 : run + 1;
        if (run == n) return i + 1 - n;
    }
    return CHUNK_PAGES;
}

/* ---- chunks ---- */

static chunk *add_chunk(void) {
    if (store.n_chunks == store.room) {
        size_t room = size_max(2 * store.room, 16);
        chunk **chunks = realloc(store.chunks, room * sizeof(chunk *));
        if (chunks == NULL) return NULL;
        store.chunks = chunks;
        store.room = room;
    }
    chunk *c = calloc(1, sizeof(*c));
    uint8_t *base = c != NULL ? map(CHUNK_BYTES) : NULL;
    if (base == NULL) {
        free(c);
        return NULL;
    }
    ASAN_POISON_MEMORY_REGION(base, CHUNK_BYTES);
    c->base = base;
    c->n_free = CHUNK_PAGES;
    store.last = store.n_chunks;
    store.chunks[store.n_chunks++] = c;
    return c;
}

static void remove_chunk(size_t index) {
    chunk *c = store.chunks[index];
    ASAN_UNPOISON_MEMORY_REGION(c->base, CHUNK_BYTES);
    munmap(c->base, CHUNK_BYTES);
    free(c);
    store.chunks[index] = store.chunks[--store.n_chunks];
    store.last = 0;
    if (store.n_chunks > 0) return;
    free(store.chunks);
    store.chunks = NULL;
    store.room = 0;
}

static void *take_pages(chunk *c, size_t page, size_t n) {
    mark(c, page, n, true);
    return c->base + page * PAGE;
}

/* Where there was room last, else wherever there is. */
static void *take_from_chunks(size_t n) {
    for (size_t i = 0; i < store.n_chunks; i++) {
        size_t index = (store.last + i) % store.n_chunks;
        size_t page = find_run(store.chunks[index], n);
        if (page == CHUNK_PAGES) continue;
        store.last = index;
        return take_pages(store.chunks[index], page, n);
    }
    chunk *c = add_chunk();
    return c != NULL ? take_pages(c, 0, n) : NULL;
}

static void give_to_chunk(uint8_t *p, size_t n) {
    size_t i = 0;
    while (i < store.n_chunks && (p < store.chunks[i]->base ||
                                  p >= store.chunks[i]->base + CHUNK_BYTES))
        i++;
    assert(i < store.n_chunks);
    chunk *c = store.chunks[i];
    mark(c, (size_t)(p - c->base) / PAGE, n, false);
    if (c->n_free == CHUNK_PAGES) {
        remove_chunk(i);
        return;
    }
    /* Cannot fail: the pages are ours, and nothing locks them. */
    (void)madvise(p, n * PAGE, MADV_DONTNEED);
    ASAN_POISON_MEMORY_REGION(p, n * PAGE);
}

/* ---- public ---- */

void *weight_pages_new(size_t bytes) {
    if (bytes < SMALL_BYTES) return aligned_alloc_zero(bytes);
    if (bytes > SIZE_MAX - PAGE) return NULL;

    size_t whole = round_up(bytes, PAGE);
    bool large = bytes > LARGE_BYTES;
    void *p = large ? map(whole) : NULL;
    pthread_mutex_lock(&store.lock);
    if (!large) p = take_from_chunks(whole / PAGE);
    if (p != NULL) store.in_use += whole;
    pthread_mutex_unlock(&store.lock);
    if (p != NULL) ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    return p;
}

void weight_pages_free(void *p, size_t bytes) {
    if (p == NULL) return;
    if (bytes < SMALL_BYTES) {
        aligned_release(p);
        return;
    }
    size_t whole = round_up(bytes, PAGE);
    bool large = bytes > LARGE_BYTES;
    if (large) munmap(p, whole);
    pthread_mutex_lock(&store.lock);
    store.in_use -= whole;
    if (!large) give_to_chunk(p, whole / PAGE);
    pthread_mutex_unlock(&store.lock);
}

uint64_t weight_pages_in_use(void) {
    pthread_mutex_lock(&store.lock);
    uint64_t bytes = store.in_use;
    pthread_mutex_unlock(&store.lock);
    return bytes;
}
