/* message_scan.c - one pass over a raw header before protobuf-c unpacks it.
 *
 * protobuf-c does not look into strings (a zero byte inside would silently end
 * one), merges a message field that comes twice, and tells nothing of a header
 * it cannot unpack.  This pass closes the three holes by walking over the
 * fields with the same descriptors, and reads the few numbers that a typed
 * error reply needs. */
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "proto/message_wire.h"

#define SCAN_DEPTH 4 /* header, body, sampling or share; one to spare */

typedef struct {
    wire_glance *glance;
    unsigned bodies;
    char *why;
    size_t why_size;
} scan;

/* One field as it stands on the wire. */
typedef struct {
    uint32_t number, wire_type;
    uint64_t value;      /* varint, 64 and 32 bits */
    const uint8_t *data; /* length-prefixed: `value` bytes */
} field;

/* ---- text ---- */

size_t wire_character(const uint8_t *p, size_t n) {
    if (n == 0 || p[0] == 0) return 0;
    int length = utf8_length((const char *)p, n);
    return length > 0 ? (size_t)length : 0;
}

bool wire_is_text(const char *data, size_t len) {
    const uint8_t *p = (const uint8_t *)data;
    for (size_t i = 0; i < len;) {
        size_t step = wire_character(p + i, len - i);
        if (step == 0) return false;
        i += step;
    }
    return true;
}

/* ---- fields ---- */

/* false at a number that is cut off or longer than 64 bits. */
static bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *out) {
    uint64_t n = 0;
    for (unsigned shift = 0; shift < 64 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        n |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *out = n;
            return true;
        }
    }
    return false;
}

static bool read_fixed(const uint8_t **at, const uint8_t *end, size_t bytes,
                       uint64_t *out) {
    if ((size_t)(end - *at) < bytes) return false;
    *out = 0;
    for (size_t i = 0; i < bytes; i++)
        *out |= (uint64_t)(*at)[i] << 8 * i;
    *at += bytes;
    return true;
}

/* The field at *at, which moves behind it; false if it is not sound. */
static bool read_field(const uint8_t **at, const uint8_t *end, field *f) {
    uint64_t tag;
    if (!read_varint(at, end, &tag) || tag > UINT32_MAX) return false;
    f->number = (uint32_t)tag >> 3;
    f->wire_type = (uint32_t)tag & 7;
    f->data = NULL;
    if (f->number == 0) return false;

    switch (f->wire_type) {
    case PROTOBUF_C_WIRE_TYPE_VARINT:
        return read_varint(at, end, &f->value);
    case PROTOBUF_C_WIRE_TYPE_64BIT:
        return read_fixed(at, end, 8, &f->value);
    case PROTOBUF_C_WIRE_TYPE_32BIT:
        return read_fixed(at, end, 4, &f->value);
    case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
        if (!read_varint(at, end, &f->value)) return false;
        if (f->value > (uint64_t)(end - *at)) return false;
        f->data = *at;
        *at += f->value;
        return true;
    default: /* groups, and numbers that mean nothing */
        return false;
    }
}

/* Keep what a reply needs of the header's own fields. */
static void glance_at(wire_glance *g, const field *f) {
    bool fixed = f->wire_type == PROTOBUF_C_WIRE_TYPE_64BIT;
    bool varint = f->wire_type == PROTOBUF_C_WIRE_TYPE_VARINT;

    if (f->number == 1 && varint) g->protocol = (uint32_t)f->value;
    if (f->number == 4 && fixed) g->boot_id = f->value;
    if (f->number == 5 && fixed) g->to_boot_id = f->value;
    if (f->number == 7 && varint) g->request_id = f->value;
}

static int scan_fields(scan *s, const ProtobufCMessageDescriptor *d,
                       const uint8_t *at, const uint8_t *end, unsigned depth);

/* A field that the schema knows; protobuf-c checks its wire type. */
static int scan_known(scan *s, const ProtobufCMessageDescriptor *d,
                      const ProtobufCFieldDescriptor *known, const field *f,
                      uint64_t *seen, unsigned depth) {
    if (f->data == NULL) return 0;

    if (known->type == PROTOBUF_C_TYPE_STRING &&
        !wire_is_text((const char *)f->data, f->value)) {
        return err_why(s->why, s->why_size, ERR_MALFORMED,
                       "%s.%s is not text in UTF-8", d->short_name,
                       known->name);
    }
    if (known->type != PROTOBUF_C_TYPE_MESSAGE) return 0;

    uint64_t mark = 1ull << (known - d->fields);
    bool again = (*seen & mark) != 0;
    *seen |= mark;
    if (again && known->label != PROTOBUF_C_LABEL_REPEATED) {
        return err_why(s->why, s->why_size, ERR_MALFORMED, "%s.%s comes twice",
                       d->short_name, known->name);
    }
    if (depth == 0 && ++s->bodies > 1) {
        return err_why(s->why, s->why_size, ERR_MALFORMED,
                       "the header has more than one body");
    }
    return scan_fields(s, known->descriptor, f->data, f->data + f->value,
                       depth + 1);
}

static int scan_fields(scan *s, const ProtobufCMessageDescriptor *d,
                       const uint8_t *at, const uint8_t *end, unsigned depth) {
    const uint8_t *start = at;
    uint64_t seen = 0;
    int result = 0;
    if (depth >= SCAN_DEPTH) {
        return err_why(s->why, s->why_size, ERR_MALFORMED,
                       "%s is nested too deep", d->short_name);
    }
    while (at < end) {
        size_t offset = (size_t)(at - start);
        field f;
        if (!read_field(&at, end, &f)) {
            return err_why(s->why, s->why_size, ERR_MALFORMED,
                           "%s is damaged or cut off at byte %zu",
                           d->short_name, offset);
        }
        if (depth == 0) glance_at(s->glance, &f);

        const ProtobufCFieldDescriptor *known =
            protobuf_c_message_descriptor_get_field(d, f.number);
        if (known != NULL) {
            int rc = scan_known(s, d, known, &f, &seen, depth);
            if (rc < 0 && depth > 0) return rc;
            if (rc < 0 && result == 0) {
                result = rc; /* the first error is told; the ids may follow */
                s->why = NULL;
            }
        } else if (depth == 0 && f.number >= WIRE_BODY_FIRST &&
                   f.number <= WIRE_BODY_LAST) {
            s->glance->unknown_body = f.number;
        }
    }
    return result;
}

int wire_scan(const uint8_t *data, size_t bytes, wire_glance *g, char *why,
              size_t why_size) {
    *g = (wire_glance){0};
    scan s = {.glance = g, .why = why, .why_size = why_size};
    return scan_fields(&s, &roster__header__descriptor, data, data + bytes, 0);
}
