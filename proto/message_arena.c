/* message_arena.c - the memory of one unpacked message.
 *
 * protobuf-c turns a byte on the wire into up to 28 in memory, so it gets an
 * allocator that only moves a mark forward and stops at a limit.  Blocks never
 * move, therefore memory comes in chunks; a message that needed several leaves
 * one chunk of their total size behind, so that soon no message allocates. */
#include <errno.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/util.h"
#include "proto/message_wire.h"

#define ARENA_ALIGN 16
#define ARENA_FIRST_CHUNK ((size_t)16 << 10)

typedef struct chunk {
    struct chunk *older;
    size_t bytes, used; /* of data */
    _Alignas(ARENA_ALIGN) uint8_t data[];
} chunk;

struct message_arena {
    ProtobufCAllocator allocator;
    chunk *newest;
    size_t total, max; /* bytes of all chunks' data */
    int error;
};

static int add_chunk(message_arena *a, size_t bytes) {
    chunk *c = malloc(sizeof(*c) + bytes);
    if (c == NULL) return -ENOMEM;
    c->older = a->newest;
    c->bytes = bytes;
    c->used = 0;
    a->newest = c;
    a->total += bytes;
    return 0;
}

/* Make room for `need` bytes in one piece, within the limit. */
static int grow(message_arena *a, size_t need) {
    size_t left = a->max - a->total;
    if (need > left) return ERR_TOO_LARGE;
    size_t wish = size_max(ARENA_FIRST_CHUNK, a->total);
    return add_chunk(a, size_min(left, size_max(need, wish)));
}

void *arena_take(message_arena *a, size_t size) {
    size_t need;
    if (!size_add(size, 1 + ARENA_ALIGN - 1, &need)) {
        a->error = ERR_TOO_LARGE;
        return NULL;
    }
    need = need / ARENA_ALIGN * ARENA_ALIGN;

    chunk *c = a->newest;
    if (c == NULL || c->bytes - c->used < need) {
        int rc = grow(a, need);
        if (rc < 0) {
            a->error = rc;
            return NULL;
        }
        c = a->newest;
    }
    uint8_t *block = c->data + c->used;
    c->used += need;
    block[size] = 0;
    return block;
}

static void *arena_alloc(void *arena, size_t size) {
    return arena_take(arena, size);
}

static void arena_free(void *arena, void *block) {
    (void)arena;
    (void)block; /* all at once, in arena_reset() */
}

static void drop_chunks(message_arena *a) {
    while (a->newest != NULL) {
        chunk *older = a->newest->older;
        free(a->newest);
        a->newest = older;
    }
    a->total = 0;
}

int message_arena_new(message_arena **out, size_t max_bytes) {
    *out = NULL;
    message_arena *a = calloc(1, sizeof(*a));
    if (a == NULL) return -ENOMEM;
    a->allocator = (ProtobufCAllocator){arena_alloc, arena_free, a};
    a->max = max_bytes;
    *out = a;
    return 0;
}

void message_arena_free(message_arena *a) {
    if (a == NULL) return;
    drop_chunks(a);
    free(a);
}

ProtobufCAllocator *arena_reset(message_arena *a) {
    if (a->newest != NULL && a->newest->older != NULL) {
        size_t total = a->total;
        drop_chunks(a);
        add_chunk(a, total); /* or the next allocation tries again */
    } else if (a->newest != NULL) {
        a->newest->used = 0;
    }
    a->error = 0;
    return &a->allocator;
}

int arena_error(const message_arena *a) {
    return a->error;
}
