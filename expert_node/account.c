/* account.c - see account.h.  A reply's block begins with a pointer to its
 * account, and holds a reference to it. */
#include "expert_node/account.h"

#include <stdatomic.h>
#include <stdlib.h>
#include "engine/util.h"

#define BLOCK_HEAD 64 /* keeps the rows aligned */

struct account {
    atomic_uint holders; /* the owner and every block */
    atomic_uint_fast64_t bytes;
};

typedef struct {
    account *account;
    size_t bytes;
} block;
_Static_assert(sizeof(block) <= BLOCK_HEAD, "the rows follow the head");

account *account_new(void) {
    account *a = calloc(1, sizeof(*a));
    if (a != NULL) atomic_init(&a->holders, 1);
    return a;
}

void account_release(account *a) {
    if (a == NULL) return;
    if (atomic_fetch_sub(&a->holders, 1) == 1) free(a);
}

/* Called by whoever drops the message's last reference. */
static void release_block(void *data, void *hint) {
    block *b = hint;
    account *a = b->account;
    (void)data;

    atomic_fetch_sub(&a->bytes, b->bytes);
    free(b);
    account_release(a);
}

void *account_add_part(account *a, frames *f, size_t bytes) {
    size_t whole;
    if (f->count == FRAMES_MAX || !size_add(bytes, BLOCK_HEAD, &whole)) {
        return NULL;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, 64, whole) != 0) return NULL;

    block *b = memory;
    *b = (block){a, bytes};
    void *data = (uint8_t *)memory + BLOCK_HEAD;
    if (zmq_msg_init_data(&f->part[f->count], data, bytes, release_block, b) !=
        0) {
        free(memory);
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
