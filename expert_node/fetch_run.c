/* fetch_run.c - the fetch's thread: it asks, receives, and notices who does not
 * answer.
 *
 * Transfers are served in the order in which they were begun; what is asked for
 * or waits to be read is bounded by HELD_MOST, which only what somebody waits
 * for may exceed.  A request has a number of its own: when it is lost, or takes
 * so long that somebody else is asked as well, the first answer counts and
 * later ones find nobody. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/fetch_internal.h"

#define HELD_MOST ((uint64_t)16 << 20)
#define LOOK_MS 20 /* ZMQ_FD is edge-triggered: look again anyway */
#define LATE_LEAST_US 500000
#define LATE_FACTOR 8
#define DAMAGED_MOST 3  /* messages in a row */
#define RECEIVE_MOST 16 /* in one look: a flood must not keep us for ever */

/* ---- requests ---- */

static fetch_ask_record *free_ask(fetch *f) {
    for (size_t i = 0; i < FETCH_ASKS; i++) {
        if (f->asks[i].id == 0) return &f->asks[i];
    }
    return NULL;
}

static fetch_ask_record *find_ask(fetch *f, uint64_t id, int source) {
    for (size_t i = 0; i < FETCH_ASKS && id != 0; i++) {
        if (f->asks[i].id == id && f->asks[i].source == source)
            return &f->asks[i];
    }
    return NULL;
}

static void want_again(fetch *f, transfer *t, uint32_t i) {
    if (t->pieces[i].state != PIECE_ASKED) return;
    t->pieces[i].state = PIECE_WANTED;
    t->n_wanted++;
    f->held_bytes -= fetch_piece_size(t, i);
}

/* The request will not be answered, or its answer is of no use. */
static void lose_ask(fetch *f, fetch_ask_record *a) {
    if (a->t != NULL && !a->late) want_again(f, a->t, a->piece);
    fetch_source *s = &f->sources[a->source];
    if (s->outstanding > 0) s->outstanding--;
    a->id = 0;
}

void fetch_lose_asks(fetch *f, int source) {
    for (size_t i = 0; i < FETCH_ASKS; i++) {
        if (f->asks[i].id != 0 && f->asks[i].source == source)
            lose_ask(f, &f->asks[i]);
    }
}

static void forget_asks(fetch *f, const transfer *t) {
    for (size_t i = 0; i < FETCH_ASKS; i++) {
        if (f->asks[i].id != 0 && f->asks[i].t == t) f->asks[i].t = NULL;
    }
}

static int send_request(fetch *f, const transfer *t, uint32_t i,
                        fetch_source *s) {
    message m = message_from(f->cluster, f->expected.bytes, f->config.boot_id);
    m.has_fingerprint = f->expects;
    m.request_id = f->last_id + 1;
    uint64_t at = (uint64_t)i * FETCH_PIECE_BYTES;
    if (t->kind == TRANSFER_MODEL) {
        m.kind = MESSAGE_MODEL_REQUEST;
    } else if (t->kind == TRANSFER_FILE) {
        m.kind = MESSAGE_FETCH;
        m.fetch.file = t->file;
        m.fetch.offset = t->offset + at;
        m.fetch.bytes = (uint32_t)fetch_piece_size(t, i);
        m.fetch.count = 1;
    } else {
        m.kind = MESSAGE_FETCH_UNIT;
        m.fetch_unit.layer = t->image.layer;
        m.fetch_unit.unit = t->image.unit;
        m.fetch_unit.slices = t->image.slices;
        m.fetch_unit.offset = at;
        m.fetch_unit.bytes = (uint32_t)fetch_piece_size(t, i);
    }
    frames out;
    frames_init(&out);
    int rc = frames_add(&out, 0) == NULL ? -ENOMEM : message_seal(&out, &m);
    if (rc == 0) rc = link_send(s->link, &out);
    frames_fini(&out);
    return rc;
}

/* Ask one source for one piece.  0: it is on its way. */
static int ask_piece(fetch *f, transfer *t, uint32_t i, int source,
                     uint64_t now_ms) {
    fetch_source *s = &f->sources[source];
    fetch_ask_record *a = free_ask(f);
    char why[FETCH_WHY] = "";
    if (a == NULL) return ERR_OVERLOADED;
    int rc = s->link == NULL ? fetch_source_connect(f, s, why, sizeof(why)) : 0;
    if (rc == 0) rc = send_request(f, t, i, s);
    if (s->outstanding == 0) s->moved_ms = now_ms;
    if (rc == -EAGAIN) { /* not connected yet */
        s->full = true;
        if (s->blocked_ms == 0) s->blocked_ms = now_ms;
        return rc;
    }
    if (rc < 0) {
        fetch_source_failed(f, source, now_ms, rc, why);
        return rc;
    }
    *a = (fetch_ask_record){.id = ++f->last_id,
                            .t = t,
                            .piece = i,
                            .source = source,
                            .asked_us = now_us()};
    s->outstanding++;
    s->blocked_ms = 0;
    t->pieces[i].state = PIECE_ASKED;
    t->n_wanted--;
    f->held_bytes += fetch_piece_size(t, i);
    return 0;
}

/* ---- what to ask for ---- */

/* The piece that somebody waits for may exceed the bound: without it nothing
 * would be read, and nothing let go of. */
static bool may_hold(const fetch *f, const transfer *t, uint32_t i) {
    return f->held_bytes + fetch_piece_size(t, i) <= HELD_MOST ||
           (t->reading && i == t->next_read);
}

/* As much of a transfer as sources and memory allow; false: no more of any. */
static bool ask_for(fetch *f, transfer *t, uint64_t now_ms) {
    for (uint32_t i = 0; i < t->n_pieces && t->n_wanted > 0; i++) {
        if (t->pieces[i].state != PIECE_WANTED) continue;
        if (!may_hold(f, t, i)) return false;
        for (;;) {
            int source = fetch_source_choose(f, t, now_ms);
            if (source < 0) return true; /* others may have other sources */
            if (ask_piece(f, t, i, source, now_ms) == 0) break;
            if (free_ask(f) == NULL) return false;
        }
    }
    return true;
}

/* Nobody is left to ask: say so to who waits for it. */
static void check_hope(fetch *f, transfer *t) {
    if (t->failed < 0 || t->ended || t->n_missing == 0 || !t->started) return;
    uint64_t all = fetch_candidates(f, t);
    if (t->solo >= 0) all &= (uint64_t)1 << t->solo;
    if ((all & ~t->tried) != 0) return;
    if (t->last_code != 0) {
        t->failed = err_why(t->why, sizeof(t->why), t->last_code,
                            "the source refused: %.200s", t->last_why);
    } else if (all == 0 && t->refused == 0) {
        t->failed = err_why(t->why, sizeof(t->why), ERR_UNAVAILABLE,
                            "no coordinator is known to fetch weights from");
    } else {
        int n = __builtin_popcountll(all);
        t->failed = err_why(t->why, sizeof(t->why), ERR_DEADLINE,
                            "%d source%s brought nothing: %.180s", n,
                            n == 1 ? "" : "s", t->last_why);
    }
    pthread_cond_broadcast(&f->arrived);
}

/* ---- the beginning and the end of a transfer ---- */

/* Look into the cache.  The lock is let go of meanwhile. */
static void start_unit(fetch *f, transfer *t) {
    cache_part *part = NULL;
    int fd = -1;
    pthread_mutex_unlock(&f->lock);
    if (unit_cache_find(t->cache, &t->key, t->bytes, &fd) < 0) {
        (void)cache_part_open(&part, t->cache, &t->key, t->bytes,
                              FETCH_PIECE_BYTES);
    }
    pthread_mutex_lock(&f->lock);
    t->whole_fd = fd;
    t->part = part;
    for (uint32_t i = 0; i < t->n_pieces; i++) {
        if (fd < 0 && (part == NULL || !cache_part_has(part, i))) continue;
        size_t bytes = fetch_piece_size(t, i);
        t->pieces[i].state = PIECE_STORED;
        t->n_wanted--;
        t->n_missing--;
        t->from_disk = true;
        f->figures.cached_bytes += bytes;
        if (fd < 0) f->figures.resumed_bytes += bytes;
    }
}

static fetch_doubt *find_doubt(fetch *f, const transfer *t) {
    for (size_t i = 0; i < f->n_doubts; i++) {
        fetch_doubt *d = &f->doubts[i];
        if (d->layer == t->image.layer && d->unit == t->image.unit) return d;
    }
    return NULL;
}

/* A unit that several sources spoiled together comes from one alone, another
 * one each time. */
static void choose_solo(fetch *f, transfer *t) {
    const fetch_doubt *d = find_doubt(f, t);
    uint64_t bits = fetch_candidates(f, t);
    if (t->kind != TRANSFER_UNIT || d == NULL || bits == 0) return;
    uint32_t skip = d->attempts % (uint32_t)__builtin_popcountll(bits);
    for (; skip > 0; skip--)
        bits &= bits - 1;
    t->solo = __builtin_ctzll(bits);
}

/* Who brought a unit that turned out to be damaged. */
static void blame(fetch *f, const transfer *t) {
    fetch_doubt *d = find_doubt(f, t);
    if (t->outcome == 0 && d != NULL) *d = f->doubts[--f->n_doubts];
    if (t->outcome != ERR_CHECKSUM || t->from_disk) return;
    f->figures.damaged++;
    if (__builtin_popcountll(t->brought) == 1) {
        fetch_source_failed(f, __builtin_ctzll(t->brought), now_ms(),
                            ERR_CHECKSUM, "what it gave was damaged");
    }
    if (d == NULL) {
        size_t at = f->n_doubts < FETCH_DOUBTS ? f->n_doubts++ : 0;
        d = &f->doubts[at];
        *d = (fetch_doubt){t->image.layer, t->image.unit, 0};
    }
    d->attempts++;
}

/* What is kept of it on disk. */
static void settle_part(transfer *t) {
    if (t->outcome == ERR_CHECKSUM) {
        if (t->whole_fd >= 0) unit_cache_drop(t->cache, &t->key);
        cache_part_drop(t->part);
    } else if (t->outcome == 0) {
        cache_part_keep(t->part);
    } else {
        cache_part_close(t->part);
    }
    if (t->whole_fd >= 0) close(t->whole_fd);
}

static void free_transfer(fetch *f, transfer *t) {
    if (t->kind == TRANSFER_UNIT) blame(f, t);
    forget_asks(f, t);
    for (uint32_t i = 0; i < t->n_pieces; i++) {
        piece *p = &t->pieces[i];
        if (p->state == PIECE_HERE) zmq_msg_close(&p->part);
        if (p->state == PIECE_HERE || p->state == PIECE_ASKED)
            f->held_bytes -= fetch_piece_size(t, i);
    }
    pthread_mutex_unlock(&f->lock);
    settle_part(t);
    pthread_mutex_lock(&f->lock);
    free(t->pieces);
    free(t);
}

/* Take ended transfers out; all of them, if everything ends. */
void fetch_reap(fetch *f, bool all) {
    for (transfer **at = &f->first; *at != NULL;) {
        transfer *t = *at;
        if (!t->ended && !all) {
            at = &t->next;
            continue;
        }
        *at = t->next;
        if (*at == NULL) f->last = at;
        free_transfer(f, t);
        at = &f->first; /* the lock was let go of */
    }
}

static transfer *next_new(const fetch *f) {
    for (transfer *t = f->first; t != NULL; t = t->next) {
        if (!t->started && !t->ended) return t;
    }
    return NULL;
}

/* The lock is let go of in between: what has ended meanwhile is settled first,
 * since who begins a unit anew may have ended it as damaged. */
static void start_new(fetch *f) {
    for (;;) {
        fetch_reap(f, false);
        transfer *t = next_new(f);
        if (t == NULL) return;
        if (t->cache != NULL) start_unit(f, t);
        choose_solo(f, t);
        t->started = true;
        pthread_cond_broadcast(&f->arrived);
    }
}

/* ---- answers ---- */

static int keep_model(const message *m, fetch_model *out) {
    fetch_model made = {.n_files = m->model.n_files,
                        .manifest_bytes = m->model.manifest_bytes};
    made.files = calloc(made.n_files, sizeof(*made.files));
    if (made.files == NULL) return -ENOMEM;
    memcpy(made.print.bytes, m->fingerprint, sizeof(made.print.bytes));
    for (size_t i = 0; i < made.n_files; i++) {
        const message_file *from = &m->model.files[i];
        made.files[i] = (fetch_file){
            .name = strdup(from->name),
            .bytes = from->bytes,
            .mtime_ns = from->mtime_ns,
            .head_bytes = from->head_bytes,
        };
        if (made.files[i].name == NULL) {
            fetch_model_fini(&made);
            return -ENOMEM;
        }
    }
    *out = made;
    return 0;
}

/* Is it from a process of this cluster that serves the model that we want? */
static int check_sender(const fetch *f, const message *m) {
    if (strcmp(m->cluster, f->cluster) != 0) return ERR_WRONG_CLUSTER;
    if (m->has_fingerprint &&
        (!f->expects || memcmp(f->expected.bytes, m->fingerprint,
                               sizeof(f->expected.bytes)) == 0)) {
        return 0;
    }
    return ERR_WRONG_MODEL;
}

/* Codes that speak against a source altogether, not of what was asked for. */
static bool is_about_source(int code) {
    return code == ERR_WRONG_CLUSTER || code == ERR_WRONG_MODEL ||
           code == ERR_WRONG_BOOT || code == ERR_WRONG_VERSION ||
           code == ERR_MALFORMED || code == ERR_UNSUPPORTED;
}

static void on_refusal(fetch *f, fetch_ask_record *a, int code,
                       const char *text, uint64_t now_ms) {
    fetch_source *s = &f->sources[a->source];
    transfer *t = a->t;
    int source = a->source;
    lose_ask(f, a);
    if (code == ERR_OVERLOADED) {
        fetch_source_busy(s, now_ms);
        return;
    }
    if (is_about_source(code)) {
        fetch_source_failed(f, source, now_ms, code, text);
        return;
    }
    s->sums.refusals++;
    if (t == NULL) return;
    t->refused |= (uint64_t)1 << source;
    t->last_code = code;
    snprintf(t->last_why, sizeof(t->last_why), "%s",
             text[0] != '\0' ? text : err_text(code));
}

/* The answer that was asked for, with `bytes` of payload: it is taken. */
static void take_piece(fetch *f, fetch_ask_record *a, frames *in,
                       uint64_t now_ms) {
    transfer *t = a->t;
    uint32_t i = a->piece;
    int source = a->source;
    fetch_source *s = &f->sources[source];
    size_t bytes = fetch_piece_size(t, i);
    fetch_source_arrived(s, a->asked_us, now_us(), bytes);
    s->moved_ms = now_ms;
    if (s->outstanding > 0) s->outstanding--;
    a->id = 0;
    piece *p = &t->pieces[i];
    if (p->state != PIECE_ASKED && p->state != PIECE_WANTED) return; /* twice */
    if (p->state == PIECE_WANTED) { /* late, and nobody else was asked yet */
        t->n_wanted--;
        f->held_bytes += bytes;
    }
    if (t->part != NULL) {
        p->state = PIECE_ASKED; /* nobody asks for it meanwhile */
        pthread_mutex_unlock(&f->lock);
        (void)cache_part_put(t->part, i, frames_data(in, 1), bytes);
        pthread_mutex_lock(&f->lock);
    }
    zmq_msg_init(&p->part);
    zmq_msg_move(&p->part, &in->part[1]);
    p->state = PIECE_HERE;
    t->n_missing--;
    t->brought |= (uint64_t)1 << source;
    t->tried = 0;
    t->last_code = 0;
    f->figures.fetched_bytes += bytes;
    pthread_cond_broadcast(&f->arrived);
}

static void take_model(fetch *f, fetch_ask_record *a, const message *m,
                       uint64_t now_ms) {
    transfer *t = a->t;
    fetch_source *s = &f->sources[a->source];
    int rc = keep_model(m, t->model);
    if (rc < 0) {
        on_refusal(f, a, rc, "", now_ms);
        return;
    }
    s->outstanding--;
    s->moved_ms = now_ms;
    s->rest_ms = 0;
    a->id = 0;
    if (t->pieces[0].state == PIECE_WANTED) {
        t->n_wanted--;
    } else {
        f->held_bytes -= fetch_piece_size(t, 0);
    }
    t->pieces[0].state = PIECE_READ;
    t->n_missing = 0;
    pthread_cond_broadcast(&f->arrived);
}

/* An answer that could be opened. */
static void on_answer(fetch *f, int source, frames *in, const message *m,
                      uint64_t now_ms) {
    fetch_ask_record *a = find_ask(f, m->request_id, source);
    if (a == NULL) return;
    const transfer *t = a->t;
    if (m->kind == MESSAGE_ERROR) {
        on_refusal(f, a, m->error.code, m->error.text, now_ms);
        return;
    }
    int rc = check_sender(f, m);
    if (rc < 0) {
        on_refusal(f, a, rc, err_text(rc), now_ms);
    } else if (t == NULL || t->ended || t->n_missing == 0) {
        /* not wanted any more */
        lose_ask(f, a);
        f->sources[source].moved_ms = now_ms;
    } else if (t->kind == TRANSFER_MODEL && m->kind == MESSAGE_MODEL) {
        take_model(f, a, m, now_ms);
    } else if (t->kind != TRANSFER_MODEL && m->kind == MESSAGE_PIECE &&
               in->count == 2 &&
               frames_bytes(in, 1) == fetch_piece_size(t, a->piece)) {
        take_piece(f, a, in, now_ms);
    } else {
        on_refusal(f, a, ERR_MALFORMED,
                   "an answer of another kind or size than was asked", now_ms);
    }
}

/* What was damaged on its way is asked for again; a source from which nothing
 * whole comes is left. */
static void on_damaged(fetch *f, int source, const message *m, int code,
                       const char *why, uint64_t now_ms) {
    fetch_source *s = &f->sources[source];
    fetch_ask_record *a = find_ask(f, m->request_id, source);
    if (a != NULL) lose_ask(f, a);
    s->moved_ms = now_ms;
    s->sums.damaged++;
    f->figures.damaged++;
    s->damaged++;
    if (s->damage_told_ms == 0 ||
        now_ms - s->damage_told_ms >= FETCH_TELL_EVERY_MS) {
        s->damage_told_ms = now_ms;
        log_warn("weights: a damaged answer from %s, asked for again: %s",
                 s->endpoint, why[0] != '\0' ? why : err_text(code));
    }
    if (s->damaged >= DAMAGED_MOST) {
        fetch_source_failed(f, source, now_ms, code, why);
    }
}

/* One message of a source; false: there is none. */
static bool receive_one(fetch *f, int source) {
    char why[FETCH_WHY] = "";
    message m = {0};
    frames in;
    frames_init(&in);
    pthread_mutex_lock(&f->lock);
    struct link *l = f->sources[source].link; /* none but this thread closes */
    pthread_mutex_unlock(&f->lock);
    if (l == NULL) return false;
    int rc = link_recv(l, &in);
    if (rc == -EAGAIN) return false;
    if (rc == -ECONNRESET) {
        pthread_mutex_lock(&f->lock);
        fetch_source_failed(f, source, now_ms(), ERR_CLOSED,
                            "the connection broke");
        pthread_mutex_unlock(&f->lock);
        return false;
    }
    if (rc == 0) rc = message_open(&in, f->arena, &m, why, sizeof(why));
    pthread_mutex_lock(&f->lock);
    if (rc == 0) {
        on_answer(f, source, &in, &m, now_ms());
    } else {
        on_damaged(f, source, &m, rc, why, now_ms());
    }
    pthread_mutex_unlock(&f->lock);
    frames_fini(&in);
    return true;
}

/* What has come, from all of them; whether there was any. */
static bool receive(fetch *f) {
    bool any = false;
    for (int i = 0; i < FETCH_MAX_SOURCES; i++) {
        for (int n = 0; n < RECEIVE_MOST && receive_one(f, i); n++)
            any = true;
    }
    return any;
}

/* ---- time ---- */

static void look_at_asks(fetch *f, uint64_t now) {
    for (size_t i = 0; i < FETCH_ASKS; i++) {
        fetch_ask_record *a = &f->asks[i];
        if (a->id == 0 || a->late || a->t == NULL) continue;
        const fetch_source *s = &f->sources[a->source];
        uint64_t usual = (uint64_t)s->outstanding * s->piece_us * LATE_FACTOR;
        if (now - a->asked_us < size_max(usual, LATE_LEAST_US)) continue;
        a->late = true;
        want_again(f, a->t, a->piece);
    }
}

static void look_at_sources(fetch *f, uint64_t now) {
    for (int i = 0; i < FETCH_MAX_SOURCES; i++) {
        fetch_source *s = &f->sources[i];
        if (s->link == NULL) continue;
        bool silent =
            s->outstanding > 0 && now - s->moved_ms >= f->config.stall_ms;
        bool blocked =
            s->blocked_ms > 0 && now - s->blocked_ms >= f->config.stall_ms;
        if (silent || blocked) {
            fetch_source_failed(f, i, now, ERR_DEADLINE,
                                blocked ? "it cannot be reached"
                                        : "it does not answer");
        } else if (fetch_source_unneeded(f, i)) {
            link_close(s->link);
            s->link = NULL;
        }
    }
}

/* ---- the loop ---- */

/* Under the lock: everything but receiving; whether something was sent. */
static bool step(fetch *f) {
    uint64_t now = now_ms(), before = f->last_id;
    start_new(f);
    look_at_asks(f, now_us());
    look_at_sources(f, now);
    for (int i = 0; i < FETCH_MAX_SOURCES; i++) {
        f->sources[i].full = false;
        if (f->first == NULL) f->sources[i].blocked_ms = 0; /* not tried */
    }
    bool more = true;
    for (transfer *t = f->first; t != NULL && more; t = t->next) {
        if (t->ended || t->failed < 0) continue;
        more = ask_for(f, t, now);
    }
    for (transfer *t = f->first; t != NULL; t = t->next)
        check_hope(f, t);
    return f->last_id != before;
}

/* How long nothing but news matters: a rest, or a look at what is late. */
static int patience(const fetch *f) {
    return f->first != NULL ? LOOK_MS : -1;
}

static void sleep_until_news(fetch *f, int timeout) {
    struct pollfd fds[FETCH_MAX_SOURCES + 1];
    nfds_t n = 0;
    uint64_t count;
    fds[n++] = (struct pollfd){.fd = f->wake_fd, .events = POLLIN};
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < FETCH_MAX_SOURCES; i++) {
        if (f->sources[i].link == NULL) continue;
        fds[n++] = (struct pollfd){.fd = link_fd(f->sources[i].link),
                                   .events = POLLIN};
    }
    pthread_mutex_unlock(&f->lock);
    poll(fds, n, timeout);
    if ((fds[0].revents & POLLIN) != 0 &&
        read(f->wake_fd, &count, sizeof(count)) < 0) {
        return; /* somebody else's wake-up: there is none */
    }
}

static void close_links(fetch *f) {
    for (int i = 0; i < FETCH_MAX_SOURCES; i++) {
        link_close(f->sources[i].link);
        f->sources[i].link = NULL;
    }
}

void *fetch_main(void *arg) {
    fetch *f = arg;
    thread_in_background("fetch");
    while (!atomic_load(&f->stopping)) {
        bool any = receive(f);
        pthread_mutex_lock(&f->lock);
        any |= step(f);
        int timeout = patience(f);
        pthread_mutex_unlock(&f->lock);
        if (!any) sleep_until_news(f, timeout);
    }
    close_links(f);
    return NULL;
}
