/* frames.c - see frames.h.  Only parts below `count` are initialized zmq
 * messages, so an empty message costs nothing to make or drop. */
#include "proto/frames.h"

#include <assert.h>
#include <string.h>

void frames_init(frames *f) {
    f->count = 0;
    f->address_bytes = 0;
}

void frames_fini(frames *f) {
    if (f == NULL) return;
    for (size_t i = 0; i < f->count; i++)
        zmq_msg_close(&f->part[i]);
    frames_init(f);
}

void frames_move(frames *to, frames *from) {
    assert(to != from && to->count == 0);
    for (size_t i = 0; i < from->count; i++) {
        zmq_msg_init(&to->part[i]);
        zmq_msg_move(&to->part[i], &from->part[i]);
        zmq_msg_close(&from->part[i]);
    }
    to->count = from->count;
    frames_copy_address(to, from);
    frames_init(from);
}

void frames_copy_address(frames *to, const frames *from) {
    to->address_bytes = from->address_bytes;
    memcpy(to->address, from->address, from->address_bytes);
}

bool frames_has_address(const frames *f, const uint8_t *address, size_t bytes) {
    return f->address_bytes == bytes && memcmp(f->address, address, bytes) == 0;
}

void *frames_add(frames *f, size_t bytes) {
    if (f->count == FRAMES_MAX) return NULL;
    zmq_msg_t *part = &f->part[f->count];
    if (zmq_msg_init_size(part, bytes) != 0) return NULL;
    f->count++;
    return zmq_msg_data(part);
}
