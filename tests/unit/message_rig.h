/* message_rig.h - messages that are sealed, changed and opened. */
#ifndef TESTS_MESSAGE_RIG_H
#define TESTS_MESSAGE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/util.h"
#include "proto/message.h"
#include "proto/roster.pb-c.h"
#include "tests/support/message_samples.h"

static message_arena *arena;
static char why[256];

static inline int make_arena(void **state) {
    (void)state;
    return message_arena_new(&arena, MESSAGE_ARENA_MAX);
}

static inline int free_arena(void **state) {
    (void)state;
    message_arena_free(arena);
    return 0;
}

static inline void seal_sample(frames *f, message_kind kind) {
    frames_init(f);
    assert_int_equal(sample_frames(kind, f), 0);
}
/* Open header bytes that lie in a block of exactly their size, where a
 * sanitizer sees one byte too far, with the payloads of *f. */
static inline int open_bytes(frames *f, const uint8_t *header, size_t bytes,
                             message *m) {
    frames damaged;
    frames_init(&damaged);
    void *part = frames_add(&damaged, bytes);
    assert_non_null(part);
    memcpy(part, header, bytes);
    for (size_t i = 1; i < f->count; i++) {
        zmq_msg_init(&damaged.part[i]);
        zmq_msg_copy(&damaged.part[i], &f->part[i]);
        damaged.count++;
    }
    int rc = message_open(&damaged, arena, m, why, sizeof(why));
    frames_fini(&damaged);
    return rc;
}

/* Open raw header bytes after giving them the trailer they need. */
static inline int open_forged(frames *f, const uint8_t *bytes, size_t n,
                              message *m) {
    uint8_t *whole = malloc(n + 9);
    assert_non_null(whole);
    memcpy(whole, bytes, n);
    uint64_t sum = XXH3_64bits(whole, n);
    whole[n] = 0x79;
    memcpy(whole + n + 1, &sum, 8);
    int rc = open_bytes(f, whole, n + 9, m);
    free(whole);
    return rc;
}

#endif
