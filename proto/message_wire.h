/* message_wire.h - what the files behind message.h share: the table of kinds,
 * the pass over raw bytes, and the arena's side for protobuf-c.  Nobody else
 * includes it. */
#ifndef PROTO_MESSAGE_WIRE_H
#define PROTO_MESSAGE_WIRE_H

#include "proto/message.h"
#include "proto/roster.pb-c.h"

/* Fields 16 to 99 of the header are bodies, one for each kind, in their order.
 * A number of this range that we do not know is a kind of a newer version. */
#define WIRE_BODY_FIRST 16
#define WIRE_BODY_LAST 99
_Static_assert(WIRE_BODY_FIRST + (int)MESSAGE_FETCH_UNIT - (int)MESSAGE_HELLO ==
                   (int)ROSTER__HEADER__BODY_FETCH_UNIT,
               "message_kind follows the order of the header's bodies");

/* The header's last field, header_checksum, as bytes: its tag and a fixed64. */
#define WIRE_TRAILER_TAG 0x79 /* field 15, 64 bits */
#define WIRE_TRAILER_BYTES 9

/* ---- message.c ---- */

/* XXH3-64, by the widest vectors that the CPU has. */
uint64_t wire_checksum(const void *data, size_t bytes);

/* ---- message_scan.c ---- */

/* What can be told of a header without unpacking it. */
typedef struct {
    uint32_t protocol;
    uint64_t boot_id, to_boot_id, request_id;
    uint32_t unknown_body; /* its field number; 0: none */
} wire_glance;

/* Walk over a raw header: field tags and lengths are sound, strings are UTF-8
 * without zero bytes, at most one body, no message field twice (protobuf-c
 * would merge them).  ERR_MALFORMED with a sentence; *g holds what was seen up
 * to there.  Unknown fields are passed over. */
int wire_scan(const uint8_t *data, size_t bytes, wire_glance *g, char *why,
              size_t why_size);

/* The length of the UTF-8 character at `p`, of `n` bytes left; 0 if there is
 * none, or it is a zero byte. */
size_t wire_character(const uint8_t *p, size_t n);

/* Only whole characters, and no zero byte. */
bool wire_is_text(const char *data, size_t len);

/* ---- message_body.c ---- */

/* One message on its way in. */
typedef struct {
    frames *f;
    message_arena *arena;
    message *m;
    char *why;
    size_t why_size;
} wire_opening;

#define WIRE_REFUSE(o, code, ...)                                              \
    err_why((o)->why, (o)->why_size, (code), __VA_ARGS__)

/* The header's body into o->m, whose kind is set last: ERR_MALFORMED,
 * ERR_TOO_LARGE, or ERR_UNSUPPORTED if it is none that we know. */
int wire_read_body(wire_opening *o, const Roster__Header *h,
                   uint32_t unknown_body);

/* A name of bounded length; the scan saw that it holds no zero byte. */
int wire_read_name(const wire_opening *o, const char *field, const char *text,
                   const char **out);

/* Text of bounded length; the arena put a zero byte behind it. */
int wire_read_text(const wire_opening *o, const char *field,
                   ProtobufCBinaryData bytes, message_text *out);

/* ---- message_body_rack.c: rows of message_body.c's table ---- */

int wire_read_model(wire_opening *o, const Roster__Header *h);
int wire_read_fetch(wire_opening *o, const Roster__Header *h);
int wire_read_drain(wire_opening *o, const Roster__Header *h);
int wire_read_load(wire_opening *o, const Roster__Header *h);
int wire_read_members(wire_opening *o, const Roster__Header *h);
int wire_read_rebalance(wire_opening *o, const Roster__Header *h);
int wire_read_recover(wire_opening *o, const Roster__Header *h);
int wire_read_report(wire_opening *o, const Roster__Header *h);
int wire_read_fetch_unit(wire_opening *o, const Roster__Header *h);

/* ---- message_arena.c ---- */

/* Drop the last message's memory and give the allocator for the next one.
 * Every block it hands out is followed by a zero byte, so that `bytes` fields
 * read as text are terminated. */
ProtobufCAllocator *arena_reset(message_arena *a);

/* A block that lives as long as the message; NULL as arena_error() says. */
void *arena_take(message_arena *a, size_t bytes);

/* Why the last allocation failed: ERR_TOO_LARGE, -ENOMEM, or 0 if none did. */
int arena_error(const message_arena *a);

#endif
