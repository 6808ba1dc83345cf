/* jinja_arena.c - see jinja_arena.h. */
#include "engine/jinja_arena.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "engine/util.h"

#define CHUNK_BYTES ((size_t)32 << 10)

struct arena_chunk {
    arena_chunk *next;
    size_t used, size;
    max_align_t data[];
};

void arena_init(arena *a, size_t limit_bytes) {
    *a = (arena){.limit_bytes = limit_bytes};
}

void arena_fini(arena *a) {
    while (a->chunks != NULL) {
        arena_chunk *next = a->chunks->next;
        free(a->chunks);
        a->chunks = next;
    }
}

/* A large block gets a chunk of its own, behind the one in use. */
static arena_chunk *add_chunk(arena *a, size_t bytes) {
    size_t size = size_max(bytes, CHUNK_BYTES), total;

    a->at_limit = false;
    if (!size_add(size, sizeof(arena_chunk), &total)) return NULL;
    if (total > a->limit_bytes || a->used_bytes > a->limit_bytes - total) {
        a->at_limit = true;
        return NULL;
    }
    arena_chunk *chunk = malloc(total);
    if (chunk == NULL) return NULL;
    *chunk = (arena_chunk){.size = size};
    a->used_bytes += total;
    if (bytes > CHUNK_BYTES && a->chunks != NULL) {
        chunk->next = a->chunks->next;
        a->chunks->next = chunk;
    } else {
        chunk->next = a->chunks;
        a->chunks = chunk;
    }
    return chunk;
}

void *arena_alloc(arena *a, size_t count, size_t size) {
    size_t bytes;
    a->at_limit = true; /* what overflows is above any limit */
    if (!size_mul(count, size, &bytes) || bytes > a->limit_bytes) return NULL;
    bytes = round_up(bytes, sizeof(max_align_t));

    arena_chunk *chunk = a->chunks;
    if (chunk == NULL || chunk->size - chunk->used < bytes)
        chunk = add_chunk(a, bytes);
    if (chunk == NULL) return NULL;
    void *at = (char *)chunk->data + chunk->used;
    chunk->used += bytes;
    memset(at, 0, bytes);
    return at;
}
