/* bulk_server.c - see bulk_server.h.
 *
 * A piece is a job: the loop checks what is asked for and makes the answer's
 * frames, a thread of libuv's reads into them and seals them, the loop sends
 * them. */
#include "proto/bulk_server.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "proto/zmq_watch.h"

#define ARENA_BYTES ((size_t)1 << 20)
#define REQUEST_MAX ((uint64_t)64 << 10)
#define REPLIES_WAITING 16 /* in ZeroMQ, for a peer that does not read */
#define WHY_SIZE 320

struct bulk_server {
    bulk_server_config config;
    message self; /* what every answer has in its header */
    struct link *link;
    zmq_watch *watch;
    message_arena *arena;
    struct job *jobs;
    bulk_server_stats stats;
    bool closing;
    void (*on_idle)(void *ctx);
    void *idle_ctx;
};

/* One piece on its way; the frames' address says whose it is. */
typedef struct job {
    uv_work_t work;
    bulk_server *owner;
    struct job *next;
    message asked; /* its text is not ours to look at */
    frames reply;
    void *out;
    size_t bytes;
    int rc;
    char why[WHY_SIZE];
} job;

/* ---- answers ---- */

static message reply_to(const bulk_server *b, const message *asked,
                        message_kind kind) {
    message m = b->self;
    m.kind = kind;
    m.request_id = asked->request_id;
    m.to_boot_id = asked->boot_id;
    return m;
}

/* What cannot be sent is dropped: who asked has gone, or reads nothing and will
 * ask again. */
static void send_frames(bulk_server *b, frames *f) {
    int rc = link_send(b->link, f);
    if (rc < 0) log_debug("weights: an answer is dropped: %s", err_text(rc));
    zmq_watch_kick(b->watch);
}

static void refuse(bulk_server *b, frames *f, const message *asked, int code,
                   const char *why) {
    message self = reply_to(b, asked, MESSAGE_ERROR);
    const char *text = why[0] != '\0' ? why : NULL;
    b->stats.refusals++;
    if (message_error(f, &self, asked, code, text) == 0) send_frames(b, f);
}

static void on_model(bulk_server *b, frames *f, const message *asked) {
    message m = reply_to(b, asked, MESSAGE_MODEL);
    const bulk_source *source = &b->config.source;
    int rc = source->describe != NULL ? source->describe(source->ctx, &m)
                                      : ERR_NOT_HERE;
    frames reply;
    frames_init(&reply);
    frames_copy_address(&reply, f);
    if (rc == 0 && frames_add(&reply, 0) == NULL) rc = -ENOMEM;
    if (rc == 0) rc = message_seal(&reply, &m);
    if (rc == 0) {
        send_frames(b, &reply);
    } else {
        refuse(b, f, asked, rc, "");
    }
    frames_fini(&reply);
}

/* ---- pieces ---- */

/* In a thread of libuv's. */
static void on_work(uv_work_t *work) {
    job *j = work->data;
    bulk_server *b = j->owner;
    const bulk_source *source = &b->config.source;
    j->rc =
        source->read(source->ctx, &j->asked, j->out, j->why, sizeof(j->why));
    if (j->rc < 0) return;
    message m = reply_to(b, &j->asked, MESSAGE_PIECE);
    j->rc = message_seal(&j->reply, &m);
}

static void job_end(job *j) {
    bulk_server *b = j->owner;
    job **at = &b->jobs;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    b->stats.outstanding--;
    frames_fini(&j->reply);
    free(j);
    if (b->closing && b->jobs == NULL && b->on_idle != NULL) {
        b->on_idle(b->idle_ctx);
    }
}

/* A file that shrank, or whose disk fails.  Who asked hears which one. */
static void report_unread(bulk_server *b, job *j) {
    if (j->rc != ERR_NOT_HERE) {
        log_error("weights: %s", j->why[0] != '\0' ? j->why : err_text(j->rc));
    }
    refuse(b, &j->reply, &j->asked, j->rc, j->why);
}

static void on_read(uv_work_t *work, int status) {
    job *j = work->data;
    bulk_server *b = j->owner;
    if (status < 0) j->rc = status;
    if (!b->closing && j->rc == 0) {
        b->stats.pieces++;
        b->stats.bytes += j->bytes;
        send_frames(b, &j->reply);
    } else if (!b->closing) {
        report_unread(b, j);
    }
    job_end(j);
}

static uint32_t of_peer(const bulk_server *b, const frames *f) {
    uint32_t n = 0;
    for (const job *j = b->jobs; j != NULL; j = j->next)
        n += frames_has_address(&j->reply, f->address, f->address_bytes);
    return n;
}

static int begin(bulk_server *b, const frames *f, const message *m,
                 size_t bytes) {
    job *j = calloc(1, sizeof(*j));
    if (j == NULL) return -ENOMEM;
    j->work.data = j;
    j->owner = b;
    j->asked = *m;
    j->bytes = bytes;
    frames_init(&j->reply);
    frames_copy_address(&j->reply, f);
    if (frames_add(&j->reply, 0) != NULL) {
        j->out = frames_add(&j->reply, bytes);
    }
    int rc = j->out == NULL
                 ? -ENOMEM
                 : uv_queue_work(b->config.loop, &j->work, on_work, on_read);
    if (rc < 0) {
        frames_fini(&j->reply);
        free(j);
        return rc;
    }
    j->next = b->jobs;
    b->jobs = j;
    b->stats.outstanding++;
    return 0;
}

static void on_fetch(bulk_server *b, frames *f, const message *m) {
    char why[WHY_SIZE] = "";
    size_t bytes = 0;
    const bulk_source *source = &b->config.source;
    int rc = source->plan(source->ctx, m, &bytes, why, sizeof(why));
    if (rc == 0 && (b->stats.outstanding >= b->config.most ||
                    of_peer(b, f) >= BULK_SERVER_OF_PEER)) {
        rc = ERR_OVERLOADED;
    }
    if (rc == 0) rc = begin(b, f, m, bytes);
    if (rc < 0) refuse(b, f, m, rc, why);
}

/* ---- what arrives ---- */

/* Who asks need not know the model; who names another one is mistaken. */
static int check_sender(const bulk_server *b, const message *m, char *why,
                        size_t why_size) {
    if (strcmp(m->cluster, b->config.cluster) != 0) {
        return err_why(why, why_size, ERR_WRONG_CLUSTER,
                       "this is cluster '%s', not '%s'", b->config.cluster,
                       m->cluster);
    }
    if (m->to_boot_id != 0 && m->to_boot_id != b->config.boot_id) {
        return ERR_WRONG_BOOT;
    }
    if (!b->self.has_fingerprint) {
        return err_why(why, why_size, ERR_NOT_HERE,
                       "no model is known here yet");
    }
    if (m->has_fingerprint && memcmp(m->fingerprint, b->self.fingerprint,
                                     sizeof(m->fingerprint)) != 0) {
        return err_why(why, why_size, ERR_WRONG_MODEL,
                       "another model is served here");
    }
    return 0;
}

static void on_message(void *ctx, frames *f) {
    bulk_server *b = ctx;
    message m;
    char why[WHY_SIZE] = "";
    int rc = message_open(f, b->arena, &m, why, sizeof(why));
    if (rc == 0) rc = check_sender(b, &m, why, sizeof(why));
    if (rc == 0 && m.kind != MESSAGE_MODEL_REQUEST && m.kind != MESSAGE_FETCH &&
        m.kind != MESSAGE_FETCH_UNIT) {
        rc = err_why(why, sizeof(why), ERR_MALFORMED,
                     "weights are served here; a %s is not taken",
                     message_kind_name(m.kind));
    }
    if (rc < 0) {
        log_debug("weights: %s (%s)", why, err_text(rc));
        refuse(b, f, &m, rc, why);
    } else if (m.kind == MESSAGE_MODEL_REQUEST) {
        on_model(b, f, &m);
    } else {
        on_fetch(b, f, &m);
    }
}

/* ---- opening and closing ---- */

int bulk_server_open(bulk_server **out, const bulk_server_config *c, char *why,
                     size_t why_size) {
    *out = NULL;
    bulk_server *b = calloc(1, sizeof(*b));
    if (b == NULL) return -ENOMEM;
    *out = b;
    b->config = *c;
    b->config.links.queue_messages = REPLIES_WAITING;
    b->config.links.max_part_bytes = REQUEST_MAX;
    if (b->config.most == 0) b->config.most = BULK_SERVER_MOST;
    b->self = (message){.cluster = c->cluster, .boot_id = c->boot_id};

    int rc = message_arena_new(&b->arena, ARENA_BYTES);
    if (rc == 0) {
        rc = link_bind(&b->link, &b->config.links, c->listen, why, why_size);
    }
    if (rc < 0) return rc;
    return zmq_watch_open(&b->watch, c->loop, b->link, on_message, b);
}

void bulk_server_serve(bulk_server *b,
                       const uint8_t fingerprint[MESSAGE_FINGERPRINT]) {
    b->self.has_fingerprint = true;
    memcpy(b->self.fingerprint, fingerprint, sizeof(b->self.fingerprint));
}

void bulk_server_close(bulk_server *b) {
    if (b == NULL || b->closing) return;
    b->closing = true;
    zmq_watch_close(b->watch);
    b->watch = NULL;
    /* What no thread has begun to read need not be read: on_read() hears. */
    for (job *j = b->jobs; j != NULL; j = j->next)
        (void)uv_cancel((uv_req_t *)&j->work);
}

bool bulk_server_idle(const bulk_server *b) {
    return b->jobs == NULL;
}

void bulk_server_on_idle(bulk_server *b, void (*on_idle)(void *ctx),
                         void *ctx) {
    b->on_idle = on_idle;
    b->idle_ctx = ctx;
    if (b->closing && b->jobs == NULL) on_idle(ctx);
}

void bulk_server_free(bulk_server *b) {
    if (b == NULL) return;
    assert(b->jobs == NULL); /* the loop has run until nothing was left */
    bulk_server_close(b);    /* one that was never used */
    link_close(b->link);
    message_arena_free(b->arena);
    free(b);
}

const char *bulk_server_endpoint(const bulk_server *b) {
    return link_endpoint(b->link);
}

bulk_server_stats bulk_server_look(const bulk_server *b) {
    return b->stats;
}
