/* account.c - see account.h.  A reply's block begins with a pointer to its
 * account, and holds a reference to it.
 *
 * Large blocks are kept for the next reply: the allocator would map and unmap
 * them each time, and a page's first touch costs more than to compute what is
 * written there. */
#include "expert_node/account.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include "engine/util.h"

#define BLOCK_HEAD 64 /* keeps the rows aligned */
#define BLOCK_UNIT ((size_t)64 << 10)
/* Kept are blocks of a unit and more, as many as a coordinator that reads well
 * has on the way. */
#define KEPT_MOST 8
#define KEPT_BYTES ((size_t)16 << 20)

typedef struct block block;

struct account {
    atomic_uint holders; /* the owner and every block in use */
    atomic_uint_fast64_t bytes;
    pthread_mutex_t lock; /* guards what follows */
    block *kept[KEPT_MOST];
    size_t n_kept;
};

struct block {
    account *account;
    size_t bytes; /* of the rows in it */
    size_t room;  /* of all of it */
};
_Static_assert(sizeof(block) <= BLOCK_HEAD, "the rows follow the head");

account *account_new(void) {
    account *a = calloc(1, sizeof(*a));
    if (a == NULL) return NULL;
    atomic_init(&a->holders, 1);
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

void account_release(account *a) {
    if (a == NULL) return;
    if (atomic_fetch_sub(&a->holders, 1) != 1) return;
    for (size_t i = 0; i < a->n_kept; i++)
        free(a->kept[i]);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* A kept block with that room, or NULL. */
static block *take_kept(account *a, size_t room) {
    block *found = NULL;
    pthread_mutex_lock(&a->lock);
    for (size_t i = a->n_kept; i-- > 0 && found == NULL;) {
        if (a->kept[i]->room < room) continue;
        found = a->kept[i];
        a->kept[i] = a->kept[--a->n_kept];
    }
    pthread_mutex_unlock(&a->lock);
    return found;
}

/* The smallest one makes way for larger ones.  Returns what is to be freed. */
static block *put_in(account *a, block *b) {
    if (b->room < BLOCK_UNIT || b->room > KEPT_BYTES / KEPT_MOST) return b;
    if (a->n_kept < KEPT_MOST) {
        a->kept[a->n_kept++] = b;
        return NULL;
    }
    size_t least = 0;
    for (size_t i = 1; i < KEPT_MOST; i++) {
        if (a->kept[i]->room < a->kept[least]->room) least = i;
    }
    if (a->kept[least]->room >= b->room) return b;
    block *out = a->kept[least];
    a->kept[least] = b;
    return out;
}

static void put_away(account *a, block *b) {
    pthread_mutex_lock(&a->lock);
    block *out = put_in(a, b);
    pthread_mutex_unlock(&a->lock);
    free(out);
}

/* A block for so many bytes, head included. */
static block *get_block(account *a, size_t whole) {
    size_t room = whole;
    if (whole >= BLOCK_UNIT && size_add(whole, BLOCK_UNIT - 1, &room)) {
        room = room / BLOCK_UNIT * BLOCK_UNIT;
        block *b = take_kept(a, room);
        if (b != NULL) return b;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, 64, room) != 0) return NULL;
    block *b = memory;
    b->room = room;
    return b;
}

/* Called by whoever drops the message's last reference. */
static void release_block(void *data, void *hint) {
    block *b = hint;
    account *a = b->account;
    (void)data;

    atomic_fetch_sub(&a->bytes, b->bytes);
    put_away(a, b);
    account_release(a);
}

void *account_add_part(account *a, frames *f, size_t bytes) {
    size_t whole;
    if (f->count == FRAMES_MAX || !size_add(bytes, BLOCK_HEAD, &whole)) {
        return NULL;
    }
    block *b = get_block(a, whole);
    if (b == NULL) return NULL;
    b->account = a;
    b->bytes = bytes;
    void *data = (uint8_t *)b + BLOCK_HEAD;
    if (zmq_msg_init_data(&f->part[f->count], data, bytes, release_block, b) !=
        0) {
        free(b);
        return NULL;
    }
    f->count++;
    atomic_fetch_add(&a->holders, 1);
    atomic_fetch_add(&a->bytes, bytes);
    return data;
}

uint64_t account_bytes(const account *a) {
    return atomic_load(&a->bytes);
}
