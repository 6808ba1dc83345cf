/* shared_ring.c - see shared_ring.h.
 *
 * A ring is a head and an area of records.  The head counts the records that
 * are complete and says where each of the latest is; the reader counts along
 * and tells how far it is.  The reader marks a record when it lets go of it,
 * and the writer puts the next one into the first gap between those that are
 * not marked yet: so what is used again is in the caches, what was never used
 * takes no memory, and one that is held for long is in nobody's way.
 *
 * A reader that held everything would leave the writer no room for what it
 * waits for.  So it holds half of the ring at most, and copies the rest.
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

typedef struct {
    _Alignas(LINE) _Atomic uint64_t written; /* records, by the writer */
    _Alignas(LINE) _Atomic uint32_t waiting; /* set by the reader */
    _Atomic uint64_t read;                   /* records, by the reader */
    /* Of record n: n % SHARED_RING_SLOTS. */
    _Alignas(LINE) _Atomic uint32_t where[SHARED_RING_SLOTS];
} ring_head;

typedef struct {
    uint32_t bytes; /* with this head and all padding */
    uint32_t count; /* of parts */
    uint32_t part_bytes[FRAMES_MAX];
} record_sizes;

typedef struct {
    _Alignas(LINE) record_sizes sizes;
    _Atomic uint32_t taken; /* by the reader: the room is free */
} record;
_Static_assert(sizeof(record) == LINE, "parts begin on a line");

#define AREA_BYTES (SHARED_RING_BYTES - sizeof(ring_head))
#define RECORD_MOST (AREA_BYTES / 4 / LINE * LINE)
#define LENT_BYTES_MOST (AREA_BYTES / 2)
#define LENT_MOST (SHARED_RING_SLOTS / 2)

/* A record whose parts are in use. */
typedef struct {
    shared_map *map;
    record *from;
    uint32_t bytes;
    atomic_uint parts; /* not closed yet; 0: this loan is free */
} loan;

struct shared_map {
    atomic_uint holders; /* the owner, and every record on loan */
    void *memory;
    size_t bytes;
    /* of the one reader */
    loan loans[SHARED_RING_SLOTS];
    atomic_uint lent;
    atomic_size_t lent_bytes;
};

typedef struct {
    uint32_t at, bytes;
} place;

struct shared_writer {
    ring_head *head;
    uint8_t *area;
    uint64_t next;                 /* number of a record */
    size_t n_used;                 /* records that are not known to be free */
    place used[SHARED_RING_SLOTS]; /* by place */
};

struct shared_reader {
    shared_map *map;
    ring_head *head;
    uint8_t *area;
    uint64_t next;
    size_t last_loan; /* the next one is likely to be free */
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

/* Forget the records that the reader has let go of. */
static void take_back(shared_writer *w) {
    size_t kept = 0;
    for (size_t i = 0; i < w->n_used; i++) {
        const record *r = record_at(w->area, w->used[i].at);
        if (atomic_load_explicit(&r->taken, memory_order_acquire)) continue;
        w->used[kept++] = w->used[i];
    }
    w->n_used = kept;
}

/* The first gap of so many bytes: before which of the used places it is, and
 * where.  False: there is none. */
static bool find_gap(const shared_writer *w, size_t need, size_t *before,
                     size_t *at) {
    *at = 0;
    for (*before = 0; *before < w->n_used; (*before)++) {
        const place *p = &w->used[*before];
        if (p->at - *at >= need) return true;
        *at = (size_t)p->at + p->bytes;
    }
    return AREA_BYTES - *at >= need;
}

/* A record that nobody uses; NULL: there is no room now. */
static record *begin_record(shared_writer *w, size_t need) {
    size_t before, at;
    take_back(w);
    if (w->n_used == SHARED_RING_SLOTS || !find_gap(w, need, &before, &at))
        return NULL;
    memmove(&w->used[before + 1], &w->used[before],
            (w->n_used - before) * sizeof(w->used[0]));
    w->used[before] = (place){(uint32_t)at, (uint32_t)need};
    w->n_used++;
    record *r = record_at(w->area, at);
    atomic_store_explicit(&r->taken, 0, memory_order_relaxed);
    atomic_store_explicit(&w->head->where[w->next % SHARED_RING_SLOTS],
                          (uint32_t)at, memory_order_relaxed);
    return r;
}

/* Has the reader read what the next record's slot said before? */
static bool has_slot(const shared_writer *w) {
    uint64_t read = atomic_load_explicit(&w->head->read, memory_order_acquire);
    return w->next - read < SHARED_RING_SLOTS;
}

int shared_put(shared_writer *w, frames *f, bool *wake) {
    size_t need = sizeof(record);
    *wake = false;
    for (size_t i = 0; i < f->count; i++) {
        if (frames_bytes(f, i) > RECORD_MOST) return ERR_TOO_LARGE;
        need += round_up(frames_bytes(f, i), LINE);
    }
    if (need > RECORD_MOST) return ERR_TOO_LARGE;
    record *r = has_slot(w) ? begin_record(w, need) : NULL;
    if (r == NULL) return -EAGAIN;

    r->sizes.bytes = (uint32_t)need;
    r->sizes.count = (uint32_t)f->count;
    uint8_t *to = (uint8_t *)(r + 1);
    for (size_t i = 0; i < f->count; i++) {
        size_t bytes = frames_bytes(f, i);
        r->sizes.part_bytes[i] = (uint32_t)bytes;
        memcpy(to, frames_data(f, i), bytes);
        to += round_up(bytes, LINE);
    }
    atomic_store(&w->head->written, ++w->next);
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

static void let_go(record *r) {
    atomic_store_explicit(&r->taken, 1, memory_order_release);
}

/* Called by whoever closes a part. */
static void release_part(void *data, void *hint) {
    loan *l = hint;
    shared_map *m = l->map;
    record *from = l->from;
    uint32_t bytes = l->bytes;
    (void)data;
    if (atomic_fetch_sub(&l->parts, 1) != 1) return;
    atomic_fetch_sub(&m->lent_bytes, bytes);
    atomic_fetch_sub(&m->lent, 1);
    let_go(from);
    shared_map_release(m);
}

/* Does a record of these sizes stand there, as a writer makes them? */
static bool is_sound(const record_sizes *s, size_t at) {
    size_t need = sizeof(record);
    if (s->count == 0 || s->count > FRAMES_MAX) return false;
    for (uint32_t i = 0; i < s->count; i++)
        need += round_up(s->part_bytes[i], LINE);
    return s->bytes == need && need <= AREA_BYTES - at;
}

/* NULL: enough is on loan. */
static loan *free_loan(shared_reader *r, uint32_t bytes) {
    shared_map *m = r->map;
    if (atomic_load(&m->lent) >= LENT_MOST ||
        atomic_load(&m->lent_bytes) + bytes > LENT_BYTES_MOST)
        return NULL;
    /* A loan is counted until after it is free, so there is one. */
    do {
        r->last_loan = (r->last_loan + 1) % SHARED_RING_SLOTS;
    } while (atomic_load(&m->loans[r->last_loan].parts) != 0);
    return &m->loans[r->last_loan];
}

/* Point parts into the record; all of them, or the record is let go. */
static int lend(loan *l, shared_map *m, record *from, const record_sizes *s,
                frames *f) {
    l->map = m;
    l->from = from;
    l->bytes = s->bytes;
    atomic_store(&l->parts, s->count);
    atomic_fetch_add(&m->holders, 1);
    atomic_fetch_add(&m->lent, 1);
    atomic_fetch_add(&m->lent_bytes, s->bytes);

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

/* Parts of our own, and the record is let go. */
static int copy(record *from, const record_sizes *s, frames *f) {
    const uint8_t *data = (const uint8_t *)(from + 1);
    int rc = 0;
    for (uint32_t i = 0; i < s->count && rc == 0; i++) {
        void *to = frames_add(f, s->part_bytes[i]);
        if (to == NULL) {
            rc = -ENOMEM;
        } else {
            memcpy(to, data, s->part_bytes[i]);
        }
        data += round_up(s->part_bytes[i], LINE);
    }
    let_go(from);
    if (rc < 0) frames_fini(f);
    return rc;
}

int shared_take(shared_reader *r, frames *f) {
    /* In one order with the announcement of shared_wait(). */
    if (atomic_load(&r->head->written) == r->next) return -EAGAIN;
    size_t at = atomic_load_explicit(
        &r->head->where[r->next % SHARED_RING_SLOTS], memory_order_relaxed);
    if (at % LINE != 0 || at > AREA_BYTES - sizeof(record))
        return ERR_MALFORMED;
    record *from = record_at(r->area, at);
    const record_sizes s = from->sizes; /* the peer may change them */
    if (!is_sound(&s, at)) return ERR_MALFORMED;
    loan *l = free_loan(r, s.bytes);
    int rc = l != NULL ? lend(l, r->map, from, &s, f) : copy(from, &s, f);
    atomic_store_explicit(&r->head->read, ++r->next, memory_order_release);
    return rc;
}

void shared_wait(shared_reader *r) {
    atomic_store(&r->head->waiting, 1);
}
