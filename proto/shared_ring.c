/* shared_ring.c - see shared_ring.h.
 *
 * A ring is a head and an area of records.  `written` counts the records that
 * are complete; the reader counts along.  A record begins with its sizes and
 * ends where the next one begins; one without parts says that the next is at
 * the start of the area.  The reader marks a record when it lets go of it, and
 * the writer takes back marked ones from its oldest on.
 *
 * Sleeping follows the pattern of the pool: the reader announces itself and
 * looks again, the writer publishes and then looks for the announcement. */
#include "proto/shared_ring.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "engine/err.h"
#include "engine/util.h"

#define LINE 64
/* An empty ring begins anew from here on: what is used again is in the caches,
 * and what was never used takes no memory. */
#define REWIND_BYTES ((size_t)256 << 10)

typedef struct {
    _Alignas(LINE) _Atomic uint64_t written; /* by the writer */
    _Alignas(LINE) _Atomic uint32_t waiting; /* set by the reader */
} ring_head;

typedef struct {
    uint32_t bytes; /* with this head and all padding */
    uint32_t count; /* of parts; 0: go on at the start */
    uint32_t part_bytes[FRAMES_MAX];
} record_sizes;

typedef struct {
    _Alignas(LINE) record_sizes sizes;
    _Atomic uint32_t taken; /* by the reader: the room is free */
} record;
_Static_assert(sizeof(record) == LINE, "parts begin on a line");

#define AREA_BYTES (SHARED_RING_BYTES - sizeof(ring_head))
/* Wherever an empty ring stands, one of this size finds room before or behind.
 */
#define RECORD_MOST (AREA_BYTES / 2 / LINE * LINE)

/* A record whose parts are in use. */
typedef struct {
    shared_map *map;
    record *from;
    atomic_uint parts; /* not closed yet */
} loan;

struct shared_map {
    atomic_uint holders; /* the owner, and every record on loan */
    void *memory;
    size_t bytes;
    loan loans[SHARED_RING_SLOTS]; /* of the one reader; a record's by number */
};

typedef struct {
    uint32_t at, bytes;
} place;

struct shared_writer {
    ring_head *head;
    uint8_t *area;
    size_t at;             /* where the next record goes */
    uint64_t oldest, next; /* numbers of records */
    place sent[SHARED_RING_SLOTS];
};

struct shared_reader {
    shared_map *map;
    ring_head *head;
    uint8_t *area;
    size_t at;
    uint64_t next;
};

/* ---- the map ---- */

shared_map *shared_map_new(void *memory, size_t bytes) {
    shared_map *m = calloc(1, sizeof(*m));
    if (m == NULL) return NULL;
    atomic_init(&m->holders, 1);
    m->memory = memory;
    m->bytes = bytes;
    return m;
}

void shared_map_release(shared_map *m) {
    if (m == NULL) return;
    if (atomic_fetch_sub(&m->holders, 1) != 1) return;
    munmap(m->memory, m->bytes);
    free(m);
}

/* ---- writing ---- */

static record *record_at(uint8_t *area, size_t at) {
    return (record *)(void *)(area + at);
}

shared_writer *shared_writer_new(shared_map *m, size_t at) {
    assert(at % LINE == 0 && at + SHARED_RING_BYTES <= m->bytes);
    shared_writer *w = calloc(1, sizeof(*w));
    if (w == NULL) return NULL;
    w->head = (ring_head *)(void *)((uint8_t *)m->memory + at);
    w->area = (uint8_t *)(w->head + 1);
    return w;
}

void shared_writer_free(shared_writer *w) {
    free(w);
}

static void take_back(shared_writer *w) {
    while (w->oldest < w->next) {
        const place *p = &w->sent[w->oldest % SHARED_RING_SLOTS];
        const record *r = record_at(w->area, p->at);
        if (!atomic_load_explicit(&r->taken, memory_order_acquire)) return;
        w->oldest++;
    }
}

/* Bytes that are free where the next record goes, in one piece. */
static size_t room_here(const shared_writer *w) {
    if (w->oldest == w->next) return AREA_BYTES - w->at;
    size_t tail = w->sent[w->oldest % SHARED_RING_SLOTS].at;
    return w->at <= tail ? tail - w->at : AREA_BYTES - w->at;
}

static record *begin_record(shared_writer *w, size_t bytes) {
    record *r = record_at(w->area, w->at);
    atomic_store_explicit(&r->taken, 0, memory_order_relaxed);
    w->sent[w->next % SHARED_RING_SLOTS] =
        (place){(uint32_t)w->at, (uint32_t)bytes};
    w->at += bytes;
    if (w->at == AREA_BYTES) w->at = 0;
    return r;
}

/* The record is complete. */
static void publish(shared_writer *w) {
    atomic_store(&w->head->written, ++w->next);
}

static void go_to_start(shared_writer *w) {
    record *r = begin_record(w, sizeof(*r));
    r->sizes = (record_sizes){.bytes = sizeof(*r)};
    w->at = 0;
    publish(w);
}

/* Stand where `need` bytes fit.  False: nowhere now. */
static bool find_room(shared_writer *w, size_t need) {
    take_back(w);
    if (w->next - w->oldest + 2 > SHARED_RING_SLOTS) return false;
    bool empty = w->oldest == w->next;
    bool rewind = empty && w->at >= REWIND_BYTES && need <= w->at;
    if (!rewind && room_here(w) >= need) return true;
    if (empty) {
        /* RECORD_MOST sees to it that it fits before this place. */
        go_to_start(w);
        return true;
    }
    size_t tail = w->sent[w->oldest % SHARED_RING_SLOTS].at;
    if (w->at <= tail || tail < need) return false;
    go_to_start(w);
    return true;
}

int shared_put(shared_writer *w, frames *f, bool *wake) {
    size_t need = sizeof(record);
    for (size_t i = 0; i < f->count; i++) {
        if (frames_bytes(f, i) > RECORD_MOST) return ERR_TOO_LARGE;
        need += round_up(frames_bytes(f, i), LINE);
    }
    if (need > RECORD_MOST) return ERR_TOO_LARGE;
    if (!find_room(w, need)) return -EAGAIN;

    record *r = begin_record(w, need);
    r->sizes.bytes = (uint32_t)need;
    r->sizes.count = (uint32_t)f->count;
    uint8_t *to = (uint8_t *)(r + 1);
    for (size_t i = 0; i < f->count; i++) {
        size_t bytes = frames_bytes(f, i);
        r->sizes.part_bytes[i] = (uint32_t)bytes;
        memcpy(to, frames_data(f, i), bytes);
        to += round_up(bytes, LINE);
    }
    publish(w);
    *wake = atomic_load(&w->head->waiting) != 0 &&
            atomic_exchange(&w->head->waiting, 0) != 0;
    return 0;
}

/* ---- reading ---- */

shared_reader *shared_reader_new(shared_map *m, size_t at) {
    assert(at % LINE == 0 && at + SHARED_RING_BYTES <= m->bytes);
    shared_reader *r = calloc(1, sizeof(*r));
    if (r == NULL) return NULL;
    r->map = m;
    r->head = (ring_head *)(void *)((uint8_t *)m->memory + at);
    r->area = (uint8_t *)(r->head + 1);
    return r;
}

void shared_reader_free(shared_reader *r) {
    free(r);
}

/* Called by whoever closes a part. */
static void release_part(void *data, void *hint) {
    loan *l = hint;
    shared_map *m = l->map;
    (void)data;
    record *from = l->from;
    if (atomic_fetch_sub(&l->parts, 1) != 1) return;
    atomic_store_explicit(&from->taken, 1, memory_order_release);
    shared_map_release(m);
}

/* Does a record of these sizes stand at r->at, as a writer makes them? */
static bool is_sound(const shared_reader *r, const record_sizes *s) {
    size_t need = sizeof(record);
    if (s->count > FRAMES_MAX) return false;
    for (uint32_t i = 0; i < s->count; i++)
        need += round_up(s->part_bytes[i], LINE);
    return s->bytes == need && need <= AREA_BYTES - r->at;
}

/* Point parts into the record; all of them, or the record is let go. */
static int lend(shared_reader *r, record *from, const record_sizes *s,
                frames *f) {
    loan *l = &r->map->loans[r->next % SHARED_RING_SLOTS];
    if (atomic_load(&l->parts) != 0) return ERR_MALFORMED;
    l->map = r->map;
    l->from = from;
    atomic_store(&l->parts, s->count);
    atomic_fetch_add(&r->map->holders, 1);

    uint8_t *data = (uint8_t *)(from + 1);
    for (uint32_t i = 0; i < s->count; i++) {
        if (zmq_msg_init_data(&f->part[f->count], data, s->part_bytes[i],
                              release_part, l) == 0) {
            f->count++;
        } else {
            release_part(data, l);
        }
        data += round_up(s->part_bytes[i], LINE);
    }
    if (f->count == s->count) return 0;
    frames_fini(f);
    return -ENOMEM;
}

int shared_take(shared_reader *r, frames *f) {
    for (;;) {
        uint64_t written =
            atomic_load_explicit(&r->head->written, memory_order_acquire);
        if (written == r->next) return -EAGAIN;

        record *from = record_at(r->area, r->at);
        const record_sizes s = from->sizes; /* the peer may change them */
        if (!is_sound(r, &s)) return ERR_MALFORMED;
        int rc = 0;
        if (s.count > 0) {
            rc = lend(r, from, &s, f);
        } else {
            atomic_store_explicit(&from->taken, 1, memory_order_release);
        }
        if (rc == ERR_MALFORMED) return rc;
        r->next++;
        r->at += s.bytes;
        if (s.count == 0 || r->at == AREA_BYTES) r->at = 0;
        if (s.count > 0) return rc;
    }
}

void shared_wait(shared_reader *r) {
    atomic_store(&r->head->waiting, 1);
}
