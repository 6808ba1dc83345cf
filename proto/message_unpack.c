/* message_unpack.c - everything that comes from a peer is checked here.
 *
 * From the outside in: sizes, then a pass over the raw header (message_scan.c),
 * its checksum and version, then protobuf-c with the bounded arena, then the
 * payloads' checksums, then the body (message_body.c). */
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "proto/message_wire.h"

static int check_sizes(const wire_opening *o) {
    frames *f = o->f;
    if (f->count == 0 || frames_bytes(f, 0) == 0) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "the message has no header");
    }
    if (frames_bytes(f, 0) > MESSAGE_HEADER_MAX) {
        return WIRE_REFUSE(o, ERR_TOO_LARGE, "the header has %zu bytes",
                           frames_bytes(f, 0));
    }
    for (size_t i = 1; i < f->count; i++) {
        if (frames_bytes(f, i) <= MESSAGE_PART_MAX) continue;
        return WIRE_REFUSE(o, ERR_TOO_LARGE, "payload %zu has %zu bytes", i,
                           frames_bytes(f, i));
    }
    return 0;
}

/* The header ends with the checksum of what stands before it. */
static int check_trailer(const wire_opening *o) {
    const uint8_t *header = frames_data(o->f, 0);
    size_t bytes = frames_bytes(o->f, 0);
    size_t covered = bytes - WIRE_TRAILER_BYTES;

    if (bytes < WIRE_TRAILER_BYTES || header[covered] != WIRE_TRAILER_TAG) {
        return WIRE_REFUSE(o, ERR_MALFORMED,
                           "the header does not end with its checksum");
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < 8; i++) {
        sum |= (uint64_t)header[covered + 1 + i] << 8 * i;
    }
    if (sum != wire_checksum(header, covered)) {
        return WIRE_REFUSE(o, ERR_CHECKSUM,
                           "the header's checksum does not match");
    }
    return 0;
}

static int check_version(const wire_opening *o) {
    uint32_t theirs = o->m->protocol;
    if (theirs >= 1 && theirs + 1 >= PROTOCOL_VERSION &&
        theirs <= PROTOCOL_VERSION + 1) {
        return 0;
    }
    return WIRE_REFUSE(o, ERR_WRONG_VERSION,
                       "the peer speaks protocol version %u, we speak %d",
                       theirs, PROTOCOL_VERSION);
}

static int read_header(wire_opening *o, const Roster__Header *h) {
    message *m = o->m;
    int rc = wire_read_name(o, "cluster", h->cluster, &m->cluster);
    if (rc < 0) return rc;

    if (h->fingerprint.len != 0 && h->fingerprint.len != MESSAGE_FINGERPRINT) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "the fingerprint has %zu bytes",
                           h->fingerprint.len);
    }
    m->has_fingerprint = h->fingerprint.len != 0;
    if (m->has_fingerprint) {
        memcpy(m->fingerprint, h->fingerprint.data, MESSAGE_FINGERPRINT);
    }
    m->epoch = h->epoch;
    m->remaining_ms = h->remaining_ms;
    return 0;
}

static int check_payloads(const wire_opening *o, const Roster__Header *h) {
    frames *f = o->f;
    if (h->n_checksums != f->count - 1) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "%zu payloads, %zu checksums",
                           f->count - 1, h->n_checksums);
    }
    for (size_t i = 1; i < f->count; i++) {
        uint64_t sum = wire_checksum(frames_data(f, i), frames_bytes(f, i));
        if (sum == h->checksums[i - 1]) continue;
        return WIRE_REFUSE(o, ERR_CHECKSUM,
                           "the checksum of payload %zu does not match", i);
    }
    return 0;
}

static int open_message(wire_opening *o) {
    int rc = check_sizes(o);
    if (rc < 0) return rc;

    const uint8_t *header = frames_data(o->f, 0);
    size_t bytes = frames_bytes(o->f, 0);
    wire_glance seen;
    int scanned = wire_scan(header, bytes, &seen, o->why, o->why_size);
    o->m->protocol = seen.protocol;
    o->m->boot_id = seen.boot_id;
    o->m->to_boot_id = seen.to_boot_id;
    o->m->request_id = seen.request_id;

    /* Damage is told from a mistake, and a mistake from another version. */
    rc = check_trailer(o);
    if (rc == 0) rc = check_version(o);
    if (rc == 0) rc = scanned;
    if (rc < 0) return rc;

    const Roster__Header *h =
        roster__header__unpack(arena_reset(o->arena), bytes, header);
    if (h == NULL) {
        rc = arena_error(o->arena);
        if (rc == 0)
            return WIRE_REFUSE(o, ERR_MALFORMED, "the header is damaged");
        return WIRE_REFUSE(o, rc, "the header needs too much memory");
    }
    rc = read_header(o, h);
    if (rc == 0) rc = check_payloads(o, h);
    if (rc == 0) rc = wire_read_body(o, h, seen.unknown_body);
    return rc;
}

int message_open(frames *f, message_arena *a, message *m, char *why,
                 size_t why_size) {
    *m = (message){.kind = MESSAGE_NONE, .cluster = ""};
    wire_opening o = {f, a, m, why, why_size};
    return open_message(&o);
}
