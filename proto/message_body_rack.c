/* message_body_rack.c - reads and checks the messages that run a rack: weights,
 * loads, members, and what operators ask for. */
#include <string.h>
#include "engine/err.h"
#include "proto/message_wire.h"

static int read_files(wire_opening *o, const Roster__Model *b) {
    size_t n = b->n_files;
    if (n == 0 || n > MESSAGE_FILES_MAX) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "model.files has %zu items", n);
    }
    message_file *files = arena_take(o->arena, n * sizeof(*files));
    if (files == NULL) {
        return WIRE_REFUSE(o, arena_error(o->arena),
                           "model.files needs too much memory");
    }
    for (size_t i = 0; i < n; i++) {
        const Roster__ModelFile *f = b->files[i];
        int rc = wire_read_name(o, "model.files.name", f->name, &files[i].name);
        if (rc < 0) return rc;
        if (f->head_bytes > f->bytes) {
            return WIRE_REFUSE(o, ERR_MALFORMED,
                               "model.files[%zu]: a head of %llu bytes in a "
                               "file of %llu",
                               i, (unsigned long long)f->head_bytes,
                               (unsigned long long)f->bytes);
        }
        files[i].bytes = f->bytes;
        files[i].mtime_ns = f->mtime_ns;
        files[i].head_bytes = f->head_bytes;
    }
    o->m->model.files = files;
    o->m->model.n_files = n;
    return 0;
}

int wire_read_model(wire_opening *o, const Roster__Header *h) {
    o->m->model.manifest_bytes = h->model->manifest_bytes;
    return read_files(o, h->model);
}

int wire_read_fetch(wire_opening *o, const Roster__Header *h) {
    const Roster__Fetch *b = h->fetch;
    uint64_t all = (uint64_t)b->bytes * b->count;
    if (all == 0 || all > MESSAGE_PIECE_MAX) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "fetch: %u pieces of %u bytes",
                           b->count, b->bytes);
    }
    bool sound = b->file <= MESSAGE_FILES_MAX &&
                 b->stride <= UINT64_MAX / MESSAGE_PIECE_MAX / 2 &&
                 b->offset <= UINT64_MAX / 2 - b->stride * b->count;
    if (!sound) {
        return WIRE_REFUSE(o, ERR_MALFORMED,
                           "fetch: file %u, offset %llu, stride %llu", b->file,
                           (unsigned long long)b->offset,
                           (unsigned long long)b->stride);
    }
    o->m->fetch.file = b->file;
    o->m->fetch.offset = b->offset;
    o->m->fetch.bytes = b->bytes;
    o->m->fetch.stride = b->stride;
    o->m->fetch.count = b->count;
    return 0;
}

int wire_read_drain(wire_opening *o, const Roster__Header *h) {
    int rc = wire_read_name(o, "drain.name", h->drain->name, &o->m->drain.name);
    if (rc < 0) return rc;
    if (!message_is_name(o->m->drain.name)) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "drain.name is not a name");
    }
    o->m->drain.undo = h->drain->undo != 0;
    return 0;
}

/* A counter for each unit that is named. */
int wire_read_load(wire_opening *o, const Roster__Header *h) {
    const Roster__Load *b = h->load;
    size_t payload = frames_bytes(o->f, 1), units = 0;
    uint32_t slices = b->slices != 0 ? b->slices : 1;
    for (size_t i = 0; i < b->holdings.len; i++)
        units += (size_t)__builtin_popcount(b->holdings.data[i]);
    if (payload != units * sizeof(uint32_t) || slices > MESSAGE_SLICES_MAX) {
        return WIRE_REFUSE(o, ERR_MALFORMED,
                           "load: %zu bytes of counters for %zu units of %u "
                           "slices",
                           payload, units, slices);
    }
    o->m->load.holdings = b->holdings.data;
    o->m->load.holdings_bytes = b->holdings.len;
    o->m->load.slices = slices;
    o->m->load.holdings_version = b->holdings_version;
    o->m->load.pairs = b->pairs;
    o->m->load.runs = b->runs;
    o->m->load.weight_bytes = b->weight_bytes;
    o->m->load.busy_us = b->busy_us;
    return 0;
}

static int read_member(wire_opening *o, const Roster__Member *b,
                       message_member *out) {
    int rc = wire_read_name(o, "members.name", b->name, &out->name);
    if (rc < 0) return rc;
    rc = wire_read_name(o, "members.endpoint", b->endpoint, &out->endpoint);
    if (rc < 0) return rc;
    rc = wire_read_name(o, "members.http", b->http, &out->http);
    if (rc < 0) return rc;
    out->leaving = b->leaving != 0;
    return 0;
}

int wire_read_members(wire_opening *o, const Roster__Header *h) {
    size_t n = h->members->n_members;
    if (n > MESSAGE_MEMBERS_MAX) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "members has %zu items", n);
    }
    message_member *items = arena_take(o->arena, (n + 1) * sizeof(*items));
    if (items == NULL) {
        return WIRE_REFUSE(o, arena_error(o->arena),
                           "members needs too much memory");
    }
    for (size_t i = 0; i < n; i++) {
        int rc = read_member(o, h->members->members[i], &items[i]);
        if (rc < 0) return rc;
    }
    o->m->members.items = items;
    o->m->members.count = n;
    return 0;
}

int wire_read_rebalance(wire_opening *o, const Roster__Header *h) {
    o->m->rebalance.dry_run = h->rebalance->dry_run != 0;
    return 0;
}

int wire_read_recover(wire_opening *o, const Roster__Header *h) {
    o->m->recover.dry_run = h->recover->dry_run != 0;
    return wire_read_name(o, "recover.by", h->recover->by, &o->m->recover.by);
}

int wire_read_report(wire_opening *o, const Roster__Header *h) {
    const char *json = h->report->json;
    return wire_read_text(o, "report.json",
                          (ProtobufCBinaryData){strlen(json), (uint8_t *)json},
                          &o->m->report.json);
}

int wire_read_fetch_unit(wire_opening *o, const Roster__Header *h) {
    const Roster__FetchUnit *b = h->fetch_unit;
    uint32_t slices = b->slices != 0 ? b->slices : 1;
    bool sound = b->bytes > 0 && b->bytes <= MESSAGE_PIECE_MAX &&
                 b->offset <= UINT64_MAX / 2 && slices <= MESSAGE_SLICES_MAX &&
                 b->layer < MESSAGE_LAYERS_MAX &&
                 b->unit < MESSAGE_EXPERTS_MAX * MESSAGE_SLICES_MAX;
    if (!sound) {
        return WIRE_REFUSE(o, ERR_MALFORMED,
                           "fetch unit: layer %u, unit %u of %u slices, %u "
                           "bytes from %llu",
                           b->layer, b->unit, b->slices, b->bytes,
                           (unsigned long long)b->offset);
    }
    o->m->fetch_unit.layer = b->layer;
    o->m->fetch_unit.unit = b->unit;
    o->m->fetch_unit.slices = slices;
    o->m->fetch_unit.offset = b->offset;
    o->m->fetch_unit.bytes = b->bytes;
    return 0;
}
