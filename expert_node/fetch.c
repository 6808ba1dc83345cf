/* fetch.c - see fetch.h.
 *
 * A read is a number of requests of at most PIECE_BYTES, WINDOW of them under
 * way.  Each has its place in a small table; when a source is changed, what was
 * under way is simply asked again under new numbers, so that a late answer of
 * the earlier source finds nobody.
 *
 * A source is in use from one read to the next.  Patience is counted from the
 * last progress: whoever brings bytes slowly is not given up. */
#include "expert_node/fetch.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "proto/link.h"
#include "proto/message.h"

#define PIECE_BYTES ((size_t)256 << 10)
#define WINDOW 4
#define STALL_MS 5000
#define LOOK_MS 20 /* ZMQ_FD is edge-triggered: look again anyway */
#define REST_MS 50 /* after ERR_OVERLOADED */
#define ARENA_BYTES ((size_t)8 << 20)
#define QUEUE_MESSAGES 64
#define REFUSAL_SIZE 256
#define RECEIVE_MOST 64 /* in one look: a flood must not keep us for ever */

typedef struct {
    char list[FETCH_MAX_SOURCES][FETCH_SOURCE_SIZE];
    size_t count;
    uint64_t version; /* rises with every change */
    char in_use[FETCH_SOURCE_SIZE];
    bool expects;
    fingerprint expected;
} fetch_sources;

struct fetch {
    fetch_config config;
    pthread_mutex_t lock; /* guards `sources` */
    fetch_sources sources;
    int wake_fd;
    atomic_bool stopping;

    /* The loading thread's. */
    void *zmq;
    struct link *link; /* to `source`; NULL: none */
    char source[FETCH_SOURCE_SIZE];
    uint64_t seen_version;
    size_t turn; /* which source comes next */
    message_arena *arena;
    uint64_t last_id;
};

/* One request under way. */
typedef struct {
    uint64_t id; /* 0: not sent, or to be sent again */
    uint64_t not_before_ms;
    expert_span span;
    uint8_t *out;
    size_t bytes;
    bool used;
} request;

/* What one read is about: a model's description, or bytes. */
typedef struct {
    fetch_model *model; /* NULL: bytes */
    uint32_t file;
    expert_span rest; /* what has not been asked for */
    uint8_t *out;
    request requests[WINDOW];
    uint64_t moved_ms; /* the last progress */
    uint64_t n_answers;
    size_t tried; /* sources, since then */
    int refused;  /* the last one's code, 0: it said nothing */
    char refusal[REFUSAL_SIZE];
} transfer;

/* ---- making one ---- */

int fetch_new(fetch **out, const fetch_config *c) {
    *out = NULL;
    fetch *f = calloc(1, sizeof(*f));
    if (f == NULL) return -ENOMEM;
    f->config = *c;
    if (f->config.stall_ms == 0) f->config.stall_ms = STALL_MS;
    pthread_mutex_init(&f->lock, NULL);

    int rc = 0;
    f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->zmq = zmq_ctx_new();
    if (f->wake_fd < 0 || f->zmq == NULL) {
        rc = -errno;
    } else {
        rc = message_arena_new(&f->arena, ARENA_BYTES);
    }
    if (rc < 0) {
        fetch_free(f);
        return rc;
    }
    *out = f;
    return 0;
}

void fetch_free(fetch *f) {
    if (f == NULL) return;
    link_close(f->link);
    if (f->zmq != NULL) zmq_ctx_term(f->zmq);
    message_arena_free(f->arena);
    if (f->wake_fd >= 0) close(f->wake_fd);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* ---- any thread ---- */

static void wake(fetch *f) {
    const uint64_t one = 1;
    if (write(f->wake_fd, &one, sizeof(one)) < 0)
        return; /* it is set already */
}

void fetch_set_sources(fetch *f, const char *const *endpoints, size_t n) {
    fetch_sources *s = &f->sources;
    pthread_mutex_lock(&f->lock);
    s->count = 0;
    for (size_t i = 0; i < n && s->count < FETCH_MAX_SOURCES; i++) {
        if (strlen(endpoints[i]) >= FETCH_SOURCE_SIZE) continue;
        strcpy(s->list[s->count++], endpoints[i]);
    }
    s->version++;
    pthread_mutex_unlock(&f->lock);
    wake(f);
}

void fetch_expect(fetch *f, const fingerprint *print) {
    pthread_mutex_lock(&f->lock);
    f->sources.expects = print != NULL;
    if (print != NULL) f->sources.expected = *print;
    pthread_mutex_unlock(&f->lock);
}

void fetch_stop(fetch *f) {
    atomic_store(&f->stopping, true);
    wake(f);
}

char *fetch_source(fetch *f, char out[FETCH_SOURCE_SIZE]) {
    pthread_mutex_lock(&f->lock);
    strcpy(out, f->sources.in_use);
    pthread_mutex_unlock(&f->lock);
    return out;
}

/* ---- the source in use ---- */

static void leave_source(fetch *f) {
    link_close(f->link);
    f->link = NULL;
    f->source[0] = '\0';
    pthread_mutex_lock(&f->lock);
    f->sources.in_use[0] = '\0';
    pthread_mutex_unlock(&f->lock);
}

/* After the list changed: is the source in use still on it? */
static void check_source(fetch *f) {
    bool listed = false;
    pthread_mutex_lock(&f->lock);
    bool changed = f->seen_version != f->sources.version;
    f->seen_version = f->sources.version;
    for (size_t i = 0; i < f->sources.count && changed; i++)
        listed |= strcmp(f->sources.list[i], f->source) == 0;
    pthread_mutex_unlock(&f->lock);
    if (changed && !listed && f->link != NULL) leave_source(f);
}

/* The next on the list into f->source; the number of them. */
static size_t choose_source(fetch *f) {
    pthread_mutex_lock(&f->lock);
    size_t n = f->sources.count;
    if (n > 0) {
        strcpy(f->source, f->sources.list[f->turn++ % n]);
        strcpy(f->sources.in_use, f->source);
    }
    pthread_mutex_unlock(&f->lock);
    return n;
}

static size_t count_sources(fetch *f) {
    pthread_mutex_lock(&f->lock);
    size_t n = f->sources.count;
    pthread_mutex_unlock(&f->lock);
    return n;
}

/* ---- giving up ---- */

static int refuse(transfer *t, int code, const char *text) {
    t->refused = code;
    snprintf(t->refusal, sizeof(t->refusal), "%s",
             text[0] != '\0' ? text : err_text(code));
    return code;
}

/* The source in use is of no use: all that was asked is to be asked again. */
static void give_up_source(fetch *f, transfer *t, uint64_t now) {
    log_debug("weights: %s is given up: %s", f->source,
              t->refused != 0 ? t->refusal : "it does not answer");
    leave_source(f);
    for (size_t i = 0; i < WINDOW; i++)
        t->requests[i].id = t->requests[i].not_before_ms = 0;
    t->tried++;
    t->moved_ms = now;
}

static int say_failure(fetch *f, const transfer *t, char *why,
                       size_t why_size) {
    size_t n = count_sources(f);
    if (t->refused != 0) {
        return err_why(why, why_size, t->refused, "the source refused: %s",
                       t->refusal);
    }
    if (n == 0) {
        return err_why(why, why_size, ERR_UNAVAILABLE,
                       "no coordinator is known to fetch weights from");
    }
    return err_why(why, why_size, ERR_DEADLINE,
                   "%zu coordinator%s brought nothing for %u ms", n,
                   n > 1 ? "s" : "", f->config.stall_ms);
}

/* ---- asking ---- */

/* Cut the next request off what is left; false: nothing is. */
static bool cut_request(transfer *t, request *r) {
    if (t->rest.count == 0) return false;
    *r = (request){.used = true, .out = t->out, .span = t->rest};
    if (t->model != NULL) {
        t->rest.count = 0;
        return true;
    }
    if (t->rest.count == 1) {
        r->bytes = size_min(t->rest.bytes, PIECE_BYTES);
        r->span.bytes = r->bytes;
        t->rest.offset += r->bytes;
        t->rest.bytes -= r->bytes;
        if (t->rest.bytes == 0) t->rest.count = 0;
    } else {
        r->span.count =
            size_min(t->rest.count, size_max(PIECE_BYTES / t->rest.bytes, 1));
        r->bytes = r->span.count * r->span.bytes;
        t->rest.offset += r->span.count * t->rest.stride;
        t->rest.count -= r->span.count;
    }
    t->out += r->bytes;
    return true;
}

static int send_request(fetch *f, const transfer *t, request *r) {
    pthread_mutex_lock(&f->lock);
    message m = message_from(f->config.cluster, f->sources.expected.bytes,
                             f->config.boot_id);
    m.has_fingerprint = f->sources.expects;
    pthread_mutex_unlock(&f->lock);
    m.kind = t->model != NULL ? MESSAGE_MODEL_REQUEST : MESSAGE_FETCH;
    m.request_id = f->last_id + 1;
    if (t->model == NULL) {
        m.fetch.file = t->file;
        m.fetch.offset = r->span.offset;
        m.fetch.stride = r->span.count > 1 ? r->span.stride : 0;
        m.fetch.bytes = (uint32_t)r->span.bytes;
        m.fetch.count = (uint32_t)r->span.count;
    }
    frames out;
    frames_init(&out);
    int rc = frames_add(&out, 0) == NULL ? -ENOMEM : message_seal(&out, &m);
    if (rc == 0) rc = link_send(f->link, &out);
    if (rc == 0) r->id = f->last_id = m.request_id;
    frames_fini(&out);
    return rc;
}

/* Keep the window full.  -EAGAIN is as good as sent: it is tried again. */
static int ask(fetch *f, transfer *t, uint64_t now) {
    for (size_t i = 0; i < WINDOW; i++) {
        request *r = &t->requests[i];
        if (!r->used && !cut_request(t, r)) continue;
        if (r->id != 0 || now < r->not_before_ms) continue;
        int rc = send_request(f, t, r);
        if (rc == -EAGAIN) return 0; /* its number is not used */
        if (rc < 0) return rc;
    }
    return 0;
}

/* ---- answers ---- */

static int keep_model(const message *m, fetch_model *out) {
    out->files = calloc(m->model.n_files, sizeof(*out->files));
    if (out->files == NULL) return -ENOMEM;
    out->n_files = m->model.n_files;
    out->manifest_bytes = m->model.manifest_bytes;
    memcpy(out->print.bytes, m->fingerprint, sizeof(out->print.bytes));
    for (size_t i = 0; i < out->n_files; i++) {
        const message_file *from = &m->model.files[i];
        out->files[i] = (fetch_file){
            .name = strdup(from->name),
            .bytes = from->bytes,
            .mtime_ns = from->mtime_ns,
            .head_bytes = from->head_bytes,
        };
        if (out->files[i].name == NULL) {
            fetch_model_fini(out);
            return -ENOMEM;
        }
    }
    return 0;
}

void fetch_model_fini(fetch_model *m) {
    for (size_t i = 0; m->files != NULL && i < m->n_files; i++)
        free(m->files[i].name);
    free(m->files);
    *m = (fetch_model){0};
}

/* Is it from a process that serves the model that we want? */
static bool right_model(fetch *f, const message *m) {
    pthread_mutex_lock(&f->lock);
    bool right =
        m->has_fingerprint && (!f->sources.expects ||
                               memcmp(f->sources.expected.bytes, m->fingerprint,
                                      sizeof(f->sources.expected.bytes)) == 0);
    pthread_mutex_unlock(&f->lock);
    return right;
}

static request *find_request(transfer *t, uint64_t id) {
    for (size_t i = 0; i < WINDOW; i++) {
        if (t->requests[i].used && t->requests[i].id == id && id != 0) {
            return &t->requests[i];
        }
    }
    return NULL;
}

/* An opened answer to `r`.  0, or a code that speaks against the source. */
static int take_answer(fetch *f, transfer *t, request *r, frames *in,
                       const message *m, uint64_t now) {
    if (m->kind == MESSAGE_ERROR) {
        if (m->error.code != ERR_OVERLOADED) {
            return refuse(t, m->error.code, m->error.text);
        }
        r->id = 0;
        r->not_before_ms = now + REST_MS;
        return 0;
    }
    if (strcmp(m->cluster, f->config.cluster) != 0) {
        return refuse(t, ERR_WRONG_CLUSTER, "");
    }
    if (!right_model(f, m)) return refuse(t, ERR_WRONG_MODEL, "");
    if (t->model != NULL) {
        if (m->kind != MESSAGE_MODEL) return refuse(t, ERR_MALFORMED, "");
        int rc = keep_model(m, t->model);
        if (rc < 0) return refuse(t, rc, "");
    } else {
        if (m->kind != MESSAGE_PIECE || in->count != 2 ||
            frames_bytes(in, 1) != r->bytes) {
            return refuse(t, ERR_MALFORMED,
                          "an answer of another kind or size than was asked");
        }
        memcpy(r->out, frames_data(in, 1), r->bytes);
    }
    *r = (request){0};
    t->n_answers++;
    t->moved_ms = now;
    t->tried = 0;
    t->refused = 0;
    return 0;
}

/* What has come.  0, or a code that speaks against the source. */
static int receive(fetch *f, transfer *t, uint64_t now) {
    for (int i = 0; i < RECEIVE_MOST; i++) {
        frames in;
        frames_init(&in);
        int rc = link_recv(f->link, &in);
        if (rc == -EAGAIN) return 0;
        char why[REFUSAL_SIZE] = "";
        message m;
        if (rc == 0) rc = message_open(&in, f->arena, &m, why, sizeof(why));
        if (rc < 0) {
            rc = refuse(t, rc, why);
        } else {
            request *r = find_request(t, m.request_id);
            if (r != NULL) rc = take_answer(f, t, r, &in, &m, now);
        }
        frames_fini(&in);
        if (rc < 0) return rc;
    }
    return 0;
}

/* ---- one read ---- */

static bool complete(const transfer *t) {
    if (t->rest.count > 0) return false;
    for (size_t i = 0; i < WINDOW; i++) {
        if (t->requests[i].used) return false;
    }
    return true;
}

/* The next one; f->link stays NULL if none is listed. */
static int open_source(fetch *f, transfer *t) {
    if (choose_source(f) == 0) return 0;
    const link_config c = {
        .zmq = f->zmq,
        .max_part_bytes = MESSAGE_HEADER_MAX,
        .queue_messages = QUEUE_MESSAGES,
        .insecure = f->config.insecure,
    };
    char why[REFUSAL_SIZE] = "";
    int rc = link_connect(&f->link, &c, f->source, why, sizeof(why));
    return rc < 0 ? refuse(t, rc, why) : 0;
}

static void sleep_until_news(fetch *f) {
    struct pollfd fds[2] = {
        {.fd = f->wake_fd, .events = POLLIN},
        {.fd = f->link != NULL ? link_fd(f->link) : -1, .events = POLLIN},
    };
    uint64_t count;
    poll(fds, 2, LOOK_MS);
    if ((fds[0].revents & POLLIN) != 0 &&
        read(f->wake_fd, &count, sizeof(count)) < 0) {
        return; /* somebody else's wake-up: there is none */
    }
}

/* One look at the source in use, if there is one.  0, or a code that speaks
 * against it: any, since peers choose what they refuse with. */
static int step(fetch *f, transfer *t, uint64_t now) {
    check_source(f);
    if (f->link == NULL) {
        for (size_t i = 0; i < WINDOW; i++)
            t->requests[i].id = t->requests[i].not_before_ms = 0;
        int rc = open_source(f, t);
        if (rc < 0 || f->link == NULL) return rc;
    }
    int rc = receive(f, t, now);
    if (rc == 0) rc = ask(f, t, now);
    return rc;
}

/* Sends and receives so far: what they change can use up a wake-up. */
static uint64_t activity(const fetch *f, const transfer *t) {
    return f->last_id + t->n_answers;
}

static int run(fetch *f, transfer *t, char *why, size_t why_size) {
    t->moved_ms = now_ms();
    for (;;) {
        if (atomic_load(&f->stopping)) {
            return err_why(why, why_size, ERR_CANCELLED, "%s",
                           err_text(ERR_CANCELLED));
        }
        uint64_t now = now_ms(), before = activity(f, t);
        int rc = step(f, t, now);
        if (complete(t)) return 0;
        bool stalled = now - t->moved_ms >= f->config.stall_ms;
        if (rc < 0 || stalled) give_up_source(f, t, now);
        if (t->tried > 0 && t->tried >= count_sources(f)) {
            return say_failure(f, t, why, why_size);
        }
        if (activity(f, t) == before) sleep_until_news(f);
    }
}

int fetch_ask(fetch *f, fetch_model *out, char *why, size_t why_size) {
    *out = (fetch_model){0};
    transfer t = {.model = out, .rest = {.count = 1}};
    return run(f, &t, why, why_size);
}

int fetch_read(fetch *f, uint32_t file, const expert_span *span, void *out,
               char *why, size_t why_size) {
    if (span->bytes == 0 || span->count == 0) return 0;
    if (span->count > 1 && span->bytes > EXPERT_SPAN_MAX) {
        return err_why(why, why_size, ERR_RANGE,
                       "pieces of %zu bytes are too large to be fetched",
                       span->bytes);
    }
    transfer t = {.file = file, .rest = *span, .out = out};
    return run(f, &t, why, why_size);
}

int fetch_tensor(void *ctx, const gguf_tensor *t, const expert_span *span,
                 void *out, char *why, size_t why_size) {
    expert_span of_file = *span;
    of_file.offset += t->offset;
    return fetch_read(ctx, t->file, &of_file, out, why, why_size);
}
