/* fetch_internal.h - what fetch's files share: fetch.c is what callers see,
 * fetch_run.c the thread that asks and receives, fetch_source.c what is known
 * of each source.
 *
 * Everything is guarded by the fetch's lock.  Transfers are freed by the thread
 * alone, so that it may let go of the lock while it writes a piece. */
#ifndef EXPERT_NODE_FETCH_INTERNAL_H
#define EXPERT_NODE_FETCH_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <zmq.h>
#include "expert_node/fetch.h"
#include "proto/link.h"
#include "proto/message.h"

#define FETCH_PIECE_BYTES MESSAGE_PIECE_MAX
#define FETCH_ASKS 64 /* under way, of all sources */
#define FETCH_WHY 256
#define FETCH_TELL_EVERY_MS 10000 /* log lines of one kind, of one source */

/* ---- sources ---- */

typedef struct {
    bool used;   /* the place is taken */
    bool listed; /* has all of the model */
    char endpoint[FETCH_SOURCE_SIZE];
    struct link *link; /* NULL: not connected */
    uint32_t outstanding, window;
    uint64_t piece_us;   /* that one piece takes, smoothed */
    uint64_t arrived_us; /* the last piece */
    uint64_t moved_ms;   /* the last sign of life, or when it was asked first */
    bool full;           /* took no more in this step */
    uint64_t blocked_ms; /* since when: it is not connected; 0: it takes them */
    uint64_t rest_until_ms;
    uint32_t rest_ms; /* the last rest; 0: all is well */
    uint32_t damaged; /* messages in a row */
    uint64_t told_ms; /* when a failure was last logged */
    uint64_t damage_told_ms;
    fetch_source_figures sums;
} fetch_source;

/* Its place, made if need be; -1: all places are taken. */
int fetch_source_find(fetch *f, const char *endpoint);
/* Nothing is under way, and nobody will ask it again. */
bool fetch_source_unneeded(const fetch *f, int source);
/* The best source for a piece of this unit now; -1: none. */
struct transfer;
int fetch_source_choose(fetch *f, const struct transfer *t, uint64_t now_ms);
void fetch_source_arrived(fetch_source *s, uint64_t asked_us, uint64_t now_us,
                          size_t bytes);
/* It is busy: asked for less, and not for a while. */
void fetch_source_busy(fetch_source *s, uint64_t now_ms);
/* It is of no use for a while: broken, silent, or refuses everything. */
void fetch_source_failed(fetch *f, int source, uint64_t now_ms, int code,
                         const char *why);
int fetch_source_connect(fetch *f, fetch_source *s, char *why, size_t why_size);

/* ---- transfers ---- */

typedef enum { TRANSFER_MODEL, TRANSFER_FILE, TRANSFER_UNIT } transfer_kind;

typedef enum {
    PIECE_WANTED,
    PIECE_ASKED,
    PIECE_HERE,   /* in `part` */
    PIECE_STORED, /* on disk */
    PIECE_READ    /* and gone */
} piece_state;

typedef struct {
    piece_state state;
    zmq_msg_t part; /* the payload as it arrived; while HERE */
} piece;

typedef struct transfer {
    fetch *owner;
    struct transfer *next;
    transfer_kind kind;

    uint32_t file; /* of TRANSFER_FILE, from `offset` on */
    uint64_t offset;
    fetch_model *model; /* of TRANSFER_MODEL: where the answer goes */
    unit_image image;   /* of TRANSFER_UNIT */
    unit_key key;
    unit_cache *cache;

    uint64_t bytes;
    uint32_t n_pieces, n_wanted, n_missing; /* not asked; not arrived */
    piece *pieces;
    bool started; /* the cache was looked at */
    int whole_fd; /* of the cache; -1: none */
    cache_part *part;

    /* A bit for each source. */
    uint64_t holders; /* nodes that have it */
    uint64_t refused; /* does not have it */
    uint64_t tried;   /* failed since the last progress */
    uint64_t brought; /* something of it */
    int solo;         /* the only source that is asked; -1: any */

    bool reading;       /* somebody waits, or has begun to read: */
    uint32_t next_read; /* this piece next */
    bool from_disk;
    bool ended;
    int outcome; /* once ended */
    int failed;  /* nobody is left to ask */
    char why[FETCH_WHY];
    int last_code; /* of a refusal since the last progress; 0: none */
    char last_why[FETCH_WHY];
} transfer;

struct fetch_unit {
    transfer t;
};

/* One request under way. */
typedef struct {
    uint64_t id; /* 0: a free place */
    transfer *t; /* NULL: whoever wanted it has gone */
    uint32_t piece;
    int source;
    uint64_t asked_us;
    bool late; /* asked of somebody else as well */
} fetch_ask_record;

/* A unit that arrived damaged, by which source nobody knows. */
typedef struct {
    uint32_t layer, unit, attempts;
} fetch_doubt;
#define FETCH_DOUBTS 16

struct fetch {
    fetch_config config;
    char cluster[MESSAGE_NAME_MAX + 1];
    pthread_t thread;
    bool has_thread;
    int wake_fd;
    atomic_bool stopping;

    pthread_mutex_t lock;   /* guards what follows */
    pthread_cond_t arrived; /* a piece, a failure, the end of a transfer */
    bool expects;
    fingerprint expected;
    fetch_source sources[FETCH_MAX_SOURCES];
    transfer *first, **last;
    uint64_t held_bytes;   /* asked for, or arrived and not read */
    fetch_figures figures; /* the sums of it */
    fetch_doubt doubts[FETCH_DOUBTS];
    size_t n_doubts;

    /* The thread's. */
    void *zmq;
    message_arena *arena;
    uint64_t last_id;
    fetch_ask_record asks[FETCH_ASKS];
};

void *fetch_main(void *arg);
uint64_t fetch_candidates(const fetch *f, const transfer *t); /* bits */

static inline size_t fetch_piece_size(const transfer *t, uint32_t i) {
    uint64_t left = t->bytes - (uint64_t)i * FETCH_PIECE_BYTES;
    return (size_t)(left < FETCH_PIECE_BYTES ? left : FETCH_PIECE_BYTES);
}

/* Under the lock, which _reap() lets go of meanwhile. */
void fetch_lose_asks(fetch *f, int source);
void fetch_reap(fetch *f, bool all);

#endif
