/* fetch.c - see fetch.h: what callers see of it.
 *
 * A transfer is begun, read from its beginning to its end, and ended; a piece
 * stays as it arrived, in ZeroMQ's memory, until it is read.  Everything else
 * is the thread's (fetch_run.c). */
#include "expert_node/fetch.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/util.h"
#include "expert_node/fetch_internal.h"

#define STALL_MS 5000
#define ARENA_BYTES ((size_t)8 << 20)
#define LISTED_MOST (FETCH_MAX_SOURCES / 2)

/* ---- making one ---- */

int fetch_new(fetch **out, const fetch_config *c) {
    *out = NULL;
    fetch *f = calloc(1, sizeof(*f));
    if (f == NULL) return -ENOMEM;
    f->config = *c;
    if (f->config.stall_ms == 0) f->config.stall_ms = STALL_MS;
    snprintf(f->cluster, sizeof(f->cluster), "%s", c->cluster);
    f->last = &f->first;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->arrived, NULL);

    int rc = 0;
    f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->zmq = zmq_ctx_new();
    if (f->wake_fd < 0 || f->zmq == NULL) {
        rc = -errno;
    } else {
        rc = message_arena_new(&f->arena, ARENA_BYTES);
    }
    if (rc == 0) rc = -pthread_create(&f->thread, NULL, fetch_main, f);
    f->has_thread = rc == 0;
    if (rc < 0) {
        fetch_free(f);
        return rc;
    }
    *out = f;
    return 0;
}

void fetch_free(fetch *f) {
    if (f == NULL) return;
    if (f->has_thread) {
        fetch_stop(f);
        pthread_join(f->thread, NULL);
    }
    pthread_mutex_lock(&f->lock);
    fetch_reap(f, true);
    pthread_mutex_unlock(&f->lock);
    if (f->zmq != NULL) zmq_ctx_term(f->zmq);
    message_arena_free(f->arena);
    if (f->wake_fd >= 0) close(f->wake_fd);
    pthread_cond_destroy(&f->arrived);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static void wake(fetch *f) {
    const uint64_t one = 1;
    if (write(f->wake_fd, &one, sizeof(one)) < 0)
        return; /* it is set already */
}

/* ---- who is asked ---- */

/* Beginning with another one in every process. */
void fetch_set_sources(fetch *f, const char *const *endpoints, size_t n) {
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < FETCH_MAX_SOURCES; i++)
        f->sources[i].listed = false;
    size_t listed = 0, first = n > 0 ? f->config.boot_id % n : 0;
    for (size_t i = 0; i < n && listed < LISTED_MOST; i++) {
        int at = fetch_source_find(f, endpoints[(first + i) % n]);
        if (at < 0) continue;
        f->sources[at].listed = true;
        listed++;
    }
    pthread_mutex_unlock(&f->lock);
    wake(f);
}

void fetch_expect(fetch *f, const fingerprint *print) {
    pthread_mutex_lock(&f->lock);
    f->expects = print != NULL;
    if (print != NULL) f->expected = *print;
    pthread_mutex_unlock(&f->lock);
}

void fetch_stop(fetch *f) {
    atomic_store(&f->stopping, true);
    pthread_mutex_lock(&f->lock);
    pthread_cond_broadcast(&f->arrived);
    pthread_mutex_unlock(&f->lock);
    wake(f);
}

/* ---- transfers ---- */

/* Room for what `t` says of itself; -ENOMEM. */
static int prepare(transfer *t, fetch *f, uint64_t bytes) {
    t->owner = f;
    t->bytes = bytes;
    t->whole_fd = t->solo = -1;
    t->outcome = ERR_CANCELLED;
    t->n_pieces =
        (uint32_t)((bytes + FETCH_PIECE_BYTES - 1) / FETCH_PIECE_BYTES);
    t->n_wanted = t->n_missing = t->n_pieces;
    t->pieces = calloc(t->n_pieces + 1, sizeof(*t->pieces));
    return t->pieces != NULL ? 0 : -ENOMEM;
}

static void append(fetch *f, transfer *t) {
    pthread_mutex_lock(&f->lock);
    t->next = NULL;
    *f->last = t;
    f->last = &t->next;
    pthread_mutex_unlock(&f->lock);
    wake(f);
}

static void end(transfer *t, int rc) {
    fetch *f = t->owner;
    pthread_mutex_lock(&f->lock);
    t->outcome = rc;
    t->ended = true;
    pthread_mutex_unlock(&f->lock);
    wake(f); /* who frees it */
}

/* Under the lock: wait until `piece` (or, UINT32_MAX, all) has arrived. */
static int wait_for(transfer *t, uint32_t index, char *why, size_t why_size) {
    fetch *f = t->owner;
    for (;;) {
        if (atomic_load(&f->stopping)) {
            return err_why(why, why_size, ERR_CANCELLED, "%s",
                           err_text(ERR_CANCELLED));
        }
        bool here = index == UINT32_MAX
                        ? t->n_missing == 0
                        : t->started && t->pieces[index].state >= PIECE_HERE;
        if (here) return 0;
        if (t->failed < 0) {
            return err_why(why, why_size, t->failed, "%s", t->why);
        }
        pthread_cond_wait(&f->arrived, &f->lock);
    }
}

static int read_fd(int fd, uint64_t offset, uint8_t *out, size_t bytes) {
    while (bytes > 0) {
        ssize_t got = pread(fd, out, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got < 0 ? -errno : ERR_FORMAT;
        out += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return 0;
}

/* What is on disk and cannot be read is as good as damaged. */
static int read_stored(const transfer *t, uint64_t at, size_t bytes, void *out,
                       char *why, size_t why_size) {
    int rc = t->whole_fd >= 0 ? read_fd(t->whole_fd, at, out, bytes)
                              : cache_part_read(t->part, at, bytes, out);
    if (rc == 0) return 0;
    return err_why(why, why_size, ERR_CHECKSUM, "%s cannot be read: %s",
                   unit_cache_dir(t->cache), err_text(rc));
}

/* All of the piece has been read: let go of it. */
static void let_go(transfer *t, uint32_t index) {
    fetch *f = t->owner;
    piece *p = &t->pieces[index];
    zmq_msg_close(&p->part);
    p->state = PIECE_READ;
    f->held_bytes -= fetch_piece_size(t, index);
}

/* `bytes` of one piece, which is waited for. */
static int read_piece(transfer *t, uint64_t at, size_t bytes, uint8_t *out,
                      char *why, size_t why_size) {
    fetch *f = t->owner;
    uint32_t index = (uint32_t)(at / FETCH_PIECE_BYTES);
    size_t skip = (size_t)(at % FETCH_PIECE_BYTES);
    piece *p = &t->pieces[index];

    pthread_mutex_lock(&f->lock);
    bool news = !t->reading || t->next_read != index;
    t->reading = true;
    t->next_read = index;
    bool asked_for = p->state >= PIECE_ASKED;
    if (news && !asked_for) wake(f);
    int rc = wait_for(t, index, why, why_size);
    piece_state state = p->state;
    pthread_mutex_unlock(&f->lock);
    if (rc < 0) return rc;
    if (state == PIECE_STORED) {
        return read_stored(t, at, bytes, out, why, why_size);
    }
    if (state == PIECE_READ) {
        return err_why(why, why_size, ERR_INTERNAL,
                       "weights are read in another order than they come");
    }
    /* Nobody but us changes a piece that is here. */
    memcpy(out, (const uint8_t *)zmq_msg_data(&p->part) + skip, bytes);
    if (skip + bytes < fetch_piece_size(t, index)) return 0;
    pthread_mutex_lock(&f->lock);
    let_go(t, index);
    pthread_mutex_unlock(&f->lock);
    wake(f); /* there is room again */
    return 0;
}

static int read_range(transfer *t, uint64_t at, size_t bytes, void *out,
                      char *why, size_t why_size) {
    uint8_t *to = out;
    if (at > t->bytes || bytes > t->bytes - at) {
        return err_why(why, why_size, ERR_RANGE, "bytes beyond the end");
    }
    while (bytes > 0) {
        size_t left = FETCH_PIECE_BYTES - (size_t)(at % FETCH_PIECE_BYTES);
        size_t n = size_min(bytes, left);
        int rc = read_piece(t, at, n, to, why, why_size);
        if (rc < 0) return rc;
        at += n;
        to += n;
        bytes -= n;
    }
    return 0;
}

/* ---- the model's files ---- */

int fetch_ask(fetch *f, fetch_model *out, char *why, size_t why_size) {
    *out = (fetch_model){0};
    transfer *t = calloc(1, sizeof(*t));
    if (t == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    t->kind = TRANSFER_MODEL;
    fetch_model *answer = calloc(1, sizeof(*answer));
    if (answer == NULL || prepare(t, f, 1) < 0) {
        free(answer);
        free(t);
        return err_why(why, why_size, -ENOMEM, "out of memory");
    }
    t->model = answer;
    append(f, t);
    pthread_mutex_lock(&f->lock);
    t->reading = true;
    int rc = wait_for(t, UINT32_MAX, why, why_size);
    t->model = NULL; /* what comes later finds nobody */
    t->ended = true;
    pthread_mutex_unlock(&f->lock);
    wake(f);
    *out = *answer;
    free(answer);
    if (rc < 0) fetch_model_fini(out);
    return rc;
}

void fetch_model_fini(fetch_model *m) {
    for (size_t i = 0; m->files != NULL && i < m->n_files; i++)
        free(m->files[i].name);
    free(m->files);
    *m = (fetch_model){0};
}

int fetch_read(fetch *f, uint32_t file, uint64_t offset, size_t bytes,
               void *out, char *why, size_t why_size) {
    if (bytes == 0) return 0;
    transfer *t = calloc(1, sizeof(*t));
    if (t == NULL || prepare(t, f, bytes) < 0) {
        free(t);
        return err_why(why, why_size, -ENOMEM, "out of memory");
    }
    t->kind = TRANSFER_FILE;
    t->file = file;
    t->offset = offset;
    append(f, t);
    int rc = read_range(t, 0, bytes, out, why, why_size);
    end(t, rc);
    return rc;
}

/* ---- units ---- */

int fetch_unit_begin(fetch *f, const fetch_order *o, fetch_unit **out) {
    *out = NULL;
    transfer *t = calloc(1, sizeof(*t));
    if (t == NULL) return -ENOMEM;
    if (prepare(t, f, o->image.bytes) < 0) {
        free(t);
        return -ENOMEM;
    }
    t->kind = TRANSFER_UNIT;
    t->image = o->image;
    t->key = o->key;
    t->cache = o->cache;
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < o->n_holders && i < FETCH_MAX_HOLDERS; i++) {
        int at = fetch_source_find(f, o->holders[i]);
        if (at >= 0) t->holders |= (uint64_t)1 << at;
    }
    t->next = NULL;
    *f->last = t;
    f->last = &t->next;
    pthread_mutex_unlock(&f->lock);
    wake(f);
    *out = (fetch_unit *)t;
    return 0;
}

int fetch_unit_read(fetch_unit *u, uint64_t at, size_t bytes, void *out,
                    char *why, size_t why_size) {
    return read_range(&u->t, at, bytes, out, why, why_size);
}

fetch_origin fetch_unit_end(fetch_unit *u, int rc) {
    transfer *t = &u->t;
    pthread_mutex_lock(&t->owner->lock);
    fetch_origin origin = {.from_disk = t->from_disk};
    pthread_mutex_unlock(&t->owner->lock);
    end(t, rc);
    return origin;
}

/* ---- reports ---- */

void fetch_look(fetch *f, fetch_figures *out) {
    uint64_t now = now_ms();
    pthread_mutex_lock(&f->lock);
    *out = f->figures;
    out->n_sources = 0;
    out->wanted_bytes = 0;
    for (int i = 0; i < FETCH_MAX_SOURCES; i++) {
        const fetch_source *s = &f->sources[i];
        if (!s->used || (!s->listed && s->sums.pieces == 0)) continue;
        fetch_source_figures *to = &out->sources[out->n_sources++];
        *to = s->sums;
        to->listed = s->listed;
        to->connected = s->link != NULL;
        to->resting = now < s->rest_until_ms;
    }
    for (const transfer *t = f->first; t != NULL; t = t->next) {
        if (t->kind != TRANSFER_UNIT || t->ended) continue;
        for (uint32_t i = 0; i < t->n_pieces; i++) {
            if (t->pieces[i].state < PIECE_HERE)
                out->wanted_bytes += fetch_piece_size(t, i);
        }
    }
    pthread_mutex_unlock(&f->lock);
}
