/* frames.h - one multipart ZeroMQ message in memory.
 *
 * frames[0..count) are zmq messages: the header, then the payloads; the address
 * frame that a ROUTER socket needs is kept apart.  Filling a payload in place
 * is the only copy an activation makes on its way out.  Payloads are aligned to
 * FRAMES_ALIGN bytes, made here or received. */
#ifndef PROTO_FRAMES_H
#define PROTO_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zmq.h>

#define FRAMES_MAX 5 /* header and up to four payloads */
#define FRAMES_ALIGN 8
#define FRAMES_ADDRESS 64 /* longest address of a peer */

typedef struct {
    zmq_msg_t part[FRAMES_MAX];
    size_t count;
    uint8_t address[FRAMES_ADDRESS]; /* of the peer, on ROUTER sockets */
    size_t address_bytes;
} frames;

/* An empty message; frames_fini() releases all parts (fine when empty). */
void frames_init(frames *f);
void frames_fini(frames *f);

/* Move everything from one to the other; *from is empty afterwards. */
void frames_move(frames *to, frames *from);

/* Append a part of `bytes` bytes, uninitialized, and return it (NULL: no
 * memory, or FRAMES_MAX reached).  Valid until the message is sent or moved. */
void *frames_add(frames *f, size_t bytes);

/* Answer to where another message came from. */
void frames_copy_address(frames *to, const frames *from);
bool frames_has_address(const frames *f, const uint8_t *address, size_t bytes);

static inline void *frames_data(frames *f, size_t i) {
    return zmq_msg_data(&f->part[i]);
}
static inline size_t frames_bytes(frames *f, size_t i) {
    return zmq_msg_size(&f->part[i]);
}

#endif
