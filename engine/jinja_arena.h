/* jinja_arena.h - memory that is released all at once, with a limit. */
#ifndef ENGINE_JINJA_ARENA_H
#define ENGINE_JINJA_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct arena_chunk arena_chunk;

typedef struct {
    arena_chunk *chunks; /* the one in use first */
    size_t used_bytes;   /* of all chunks */
    size_t limit_bytes;
    bool at_limit; /* the last refusal was the limit's, not the system's */
} arena;

void arena_init(arena *a, size_t limit_bytes);
void arena_fini(arena *a);

/* Zeroed, aligned for any value; NULL: no memory, or above the limit. */
void *arena_alloc(arena *a, size_t count, size_t size);

#endif
