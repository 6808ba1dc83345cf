/* proxy_zmtp.c - the framing of ZMTP 3: a greeting of 64 bytes, then frames of
 * a flag byte, a size of 1 or 8 bytes (highest first) and a body. */
#include "tests/chaos/proxy_zmtp.h"

#include <stdlib.h>
#include <string.h>
#include "engine/util.h"

#define FLAG_MORE 1
#define FLAG_LONG 2
#define FLAG_COMMAND 4

void zmtp_init(zmtp_stream *z) {
    memset(z, 0, sizeof(*z));
    z->at = ZMTP_AT_GREETING;
    z->left = ZMTP_GREETING;
}

void zmtp_fini(zmtp_stream *z) {
    free(z->kept);
    z->kept = NULL;
}

/* Without memory, or beyond the limit, the message is one that is not kept. */
static void keep(zmtp_stream *z, const uint8_t *data, size_t n) {
    if (!z->keep || n == 0) return;
    if (z->n_kept + n > ZMTP_KEEP_MAX) {
        z->keep = false;
        z->n_kept = 0;
        return;
    }
    if (z->n_kept + n > z->room) {
        size_t room = size_max(2 * z->room, z->n_kept + n);
        uint8_t *kept = realloc(z->kept, room);
        if (kept == NULL) {
            z->keep = false;
            z->n_kept = 0;
            return;
        }
        z->kept = kept;
        z->room = room;
    }
    memcpy(z->kept + z->n_kept, data, n);
    z->n_kept += n;
}

static void expect_head(zmtp_stream *z) {
    z->at = ZMTP_AT_HEAD;
    z->n_head = 0;
}

static size_t take_greeting(zmtp_stream *z, const uint8_t *data, size_t n) {
    if (z->left == ZMTP_GREETING && data[0] != 0xff) {
        z->at = ZMTP_OTHER;
        return n;
    }
    size_t taken = size_min(n, (size_t)z->left);
    z->left -= taken;
    if (z->left == 0) expect_head(z);
    return taken;
}

static size_t head_bytes(const zmtp_stream *z) {
    if (z->n_head == 0) return 1;
    return (z->head[0] & FLAG_LONG) != 0 ? 9 : 2;
}

/* A command between two messages is none of them; inside one it cannot be. */
static size_t take_head(zmtp_stream *z, const uint8_t *data, size_t n) {
    size_t taken = 0;
    while (taken < n && z->n_head < head_bytes(z))
        z->head[z->n_head++] = data[taken++];
    if (z->n_head < head_bytes(z)) return taken;

    uint8_t flags = z->head[0];
    z->left = 0;
    for (size_t i = 1; i < z->n_head; i++)
        z->left = z->left << 8 | z->head[i];
    if (!z->more) {
        z->n_kept = 0;
        z->keep = (flags & FLAG_COMMAND) == 0;
    }
    z->more = (flags & FLAG_MORE) != 0;
    keep(z, z->head, z->n_head);
    z->at = ZMTP_IN_BODY;
    return taken;
}

size_t zmtp_take(zmtp_stream *z, const uint8_t *data, size_t n, bool *ended) {
    size_t at = 0;

    *ended = false;
    while (at < n || (z->at == ZMTP_IN_BODY && z->left == 0)) {
        size_t taken;
        switch (z->at) {
        case ZMTP_OTHER:
            return n;
        case ZMTP_AT_GREETING:
            at += take_greeting(z, data + at, n - at);
            break;
        case ZMTP_AT_HEAD:
            at += take_head(z, data + at, n - at);
            break;
        case ZMTP_IN_BODY:
            taken = (size_t)(z->left < n - at ? z->left : n - at);
            keep(z, data + at, taken);
            at += taken;
            z->left -= taken;
            if (z->left > 0) break;
            expect_head(z);
            if (z->more || (z->head[0] & FLAG_COMMAND) != 0) break;
            *ended = true;
            return at;
        }
    }
    return at;
}
