/* weight_server.c - see weight_server.h.
 *
 * A piece is a job: the loop checks what is asked for and makes the answer's
 * frames, a thread of libuv's reads into them, the loop sends them.  The files
 * are opened once, at the start; they must be the ones that the model was read
 * from, so that a file which was replaced is noticed here and not by every
 * node.  The manifest is served as it would stand on disk, from memory, since
 * it need not have been possible to write it. */
#include "coordinator/weight_server.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "proto/zmq_watch.h"

#define ARENA_BYTES ((size_t)1 << 20)
#define REQUEST_MAX ((uint64_t)64 << 10)
#define REPLIES_WAITING 16 /* in ZeroMQ, for a peer that does not read */

struct weight_server {
    weight_server_config config;
    struct link *link;
    zmq_watch *watch;
    message_arena *arena;
    int *fds; /* [n_files] */
    size_t n_files;
    uint8_t *manifest;
    size_t manifest_bytes;
    struct job *jobs;
    weight_server_stats stats;
    bool closing;
};

/* One piece on its way; the frames' address says whose it is. */
typedef struct job {
    uv_work_t work;
    weight_server *owner;
    struct job *next;
    frames reply;
    uint64_t request_id, boot_id;
    uint32_t file;
    int fd; /* -1: the manifest */
    uint8_t *out;
    uint64_t offset, stride;
    uint32_t bytes, count;
    int rc;
} job;

/* ---- answers ---- */

static message reply_to(const weight_server *w, uint64_t request_id,
                        uint64_t boot_id, message_kind kind) {
    message m = identity_message(w->config.self, kind);
    m.request_id = request_id;
    m.to_boot_id = boot_id;
    return m;
}

/* What cannot be sent is dropped: who asked has gone, or reads nothing and will
 * ask again. */
static void send_frames(weight_server *w, frames *f) {
    int rc = link_send(w->link, f);
    if (rc < 0) log_debug("weights: an answer is dropped: %s", err_text(rc));
    zmq_watch_kick(w->watch);
}

static void refuse(weight_server *w, frames *f, const message *asked, int code,
                   const char *text) {
    message self = identity_message(w->config.self, MESSAGE_ERROR);
    w->stats.refusals++;
    if (message_error(f, &self, asked, code, text) == 0) send_frames(w, f);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static void on_model(weight_server *w, frames *f, const message *asked) {
    message_file *files = calloc(w->n_files, sizeof(*files));
    if (files == NULL) {
        refuse(w, f, asked, -ENOMEM, NULL);
        return;
    }
    const gguf *g = w->config.file;
    for (size_t i = 0; i < w->n_files; i++) {
        size_t head_bytes;
        (void)gguf_head(g, i, &head_bytes);
        files[i] = (message_file){
            .name = base_name(gguf_file_path(g, i)),
            .bytes = gguf_file_bytes(g, i),
            .mtime_ns = gguf_file_mtime_ns(g, i),
            .head_bytes = head_bytes,
        };
    }
    message m = reply_to(w, asked->request_id, asked->boot_id, MESSAGE_MODEL);
    m.model.files = files;
    m.model.n_files = w->n_files;
    m.model.manifest_bytes = w->manifest_bytes;
    frames reply;
    frames_init(&reply);
    frames_copy_address(&reply, f);
    int rc = frames_add(&reply, 0) == NULL ? -ENOMEM : message_seal(&reply, &m);
    if (rc == 0) {
        send_frames(w, &reply);
    } else {
        refuse(w, f, asked, rc, NULL);
    }
    frames_fini(&reply);
    free(files);
}

/* ---- pieces ---- */

static int read_piece(int fd, uint64_t offset, size_t bytes, uint8_t *out) {
    while (bytes > 0) {
        ssize_t got = pread(fd, out, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -errno;
        if (got == 0) return ERR_FORMAT; /* the file was cut short */
        out += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return 0;
}

/* In a thread of libuv's. */
static void on_work(uv_work_t *work) {
    job *j = work->data;
    uint8_t *out = j->out;
    uint64_t offset = j->offset;
    for (uint32_t i = 0; i < j->count && j->rc == 0; i++) {
        if (j->fd >= 0) {
            j->rc = read_piece(j->fd, offset, j->bytes, out);
        } else {
            memcpy(out, j->owner->manifest + offset, j->bytes);
        }
        out += j->bytes;
        offset += j->stride;
    }
}

static void job_end(job *j) {
    weight_server *w = j->owner;
    job **at = &w->jobs;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    w->stats.outstanding--;
    frames_fini(&j->reply);
    free(j);
}

/* A file that shrank, or whose disk fails.  Who asked hears which one. */
static void report_unread(weight_server *w, job *j) {
    char why[320];
    message asked = {.request_id = j->request_id, .boot_id = j->boot_id};
    const char *name = "the manifest";
    if (j->fd >= 0) name = base_name(gguf_file_path(w->config.file, j->file));
    err_why(why, sizeof(why), j->rc, "%s cannot be read at byte %llu: %s", name,
            (unsigned long long)j->offset,
            j->rc == ERR_FORMAT ? "it was cut short" : err_text(j->rc));
    log_error("weights: %s", why);
    refuse(w, &j->reply, &asked, j->rc, why);
}

static void on_read(uv_work_t *work, int status) {
    job *j = work->data;
    weight_server *w = j->owner;
    if (status < 0) j->rc = status;
    if (!w->closing) {
        message m = reply_to(w, j->request_id, j->boot_id, MESSAGE_PIECE);
        if (j->rc == 0) j->rc = message_seal(&j->reply, &m);
        if (j->rc == 0) {
            w->stats.pieces++;
            w->stats.bytes += (uint64_t)j->bytes * j->count;
            send_frames(w, &j->reply);
        } else {
            report_unread(w, j);
        }
    }
    job_end(j);
}

static uint32_t of_peer(const weight_server *w, const frames *f) {
    uint32_t n = 0;
    for (const job *j = w->jobs; j != NULL; j = j->next)
        n += frames_has_address(&j->reply, f->address, f->address_bytes);
    return n;
}

/* message_open() has seen that bytes * count and the span do not overflow. */
static int check_range(const weight_server *w, const message *m, char *why,
                       size_t why_size) {
    uint32_t file = m->fetch.file;
    if (file > w->n_files) {
        return err_why(why, why_size, ERR_RANGE, "there is no file %u", file);
    }
    uint64_t size = file == w->n_files ? w->manifest_bytes
                                       : gguf_file_bytes(w->config.file, file);
    uint64_t end;
    if (__builtin_mul_overflow(m->fetch.stride, m->fetch.count - 1, &end) ||
        __builtin_add_overflow(end, m->fetch.offset, &end) ||
        __builtin_add_overflow(end, m->fetch.bytes, &end) || end > size) {
        return err_why(why, why_size, ERR_RANGE,
                       "bytes beyond the end of file %u, which has %llu", file,
                       (unsigned long long)size);
    }
    return 0;
}

static int begin(weight_server *w, const frames *f, const message *m) {
    job *j = calloc(1, sizeof(*j));
    if (j == NULL) return -ENOMEM;
    j->work.data = j;
    j->owner = w;
    j->request_id = m->request_id;
    j->boot_id = m->boot_id;
    j->file = m->fetch.file;
    j->fd = j->file < w->n_files ? w->fds[j->file] : -1;
    j->offset = m->fetch.offset;
    j->stride = m->fetch.stride;
    j->bytes = m->fetch.bytes;
    j->count = m->fetch.count;
    frames_init(&j->reply);
    frames_copy_address(&j->reply, f);
    if (frames_add(&j->reply, 0) != NULL) {
        j->out = frames_add(&j->reply, (size_t)j->bytes * j->count);
    }
    int rc = j->out == NULL
                 ? -ENOMEM
                 : uv_queue_work(w->config.loop, &j->work, on_work, on_read);
    if (rc < 0) {
        frames_fini(&j->reply);
        free(j);
        return rc;
    }
    j->next = w->jobs;
    w->jobs = j;
    w->stats.outstanding++;
    return 0;
}

static void on_fetch(weight_server *w, frames *f, const message *m) {
    char why[160] = "";
    int rc = check_range(w, m, why, sizeof(why));
    if (rc == 0 && (w->stats.outstanding >= WEIGHT_SERVER_MOST ||
                    of_peer(w, f) >= WEIGHT_SERVER_OF_PEER)) {
        rc = ERR_OVERLOADED;
    }
    if (rc == 0) rc = begin(w, f, m);
    if (rc < 0) refuse(w, f, m, rc, why[0] != '\0' ? why : NULL);
}

/* ---- what arrives ---- */

/* Who asks need not know the model; who names another one is mistaken. */
static int check_sender(const weight_server *w, const message *m, char *why,
                        size_t why_size) {
    const identity *self = w->config.self;
    if (strcmp(m->cluster, self->cluster) != 0) {
        return err_why(why, why_size, ERR_WRONG_CLUSTER,
                       "this is cluster '%s', not '%s'", self->cluster,
                       m->cluster);
    }
    if (m->to_boot_id != 0 && m->to_boot_id != self->boot_id) {
        return ERR_WRONG_BOOT;
    }
    if (m->has_fingerprint && memcmp(m->fingerprint, self->model.bytes,
                                     sizeof(m->fingerprint)) != 0) {
        return err_why(why, why_size, ERR_WRONG_MODEL,
                       "another model is served here");
    }
    return 0;
}

static void on_message(void *ctx, frames *f) {
    weight_server *w = ctx;
    message m;
    char why[200] = "";
    int rc = message_open(f, w->arena, &m, why, sizeof(why));
    if (rc == 0) rc = check_sender(w, &m, why, sizeof(why));
    if (rc == 0 && m.kind != MESSAGE_MODEL_REQUEST && m.kind != MESSAGE_FETCH) {
        rc = err_why(why, sizeof(why), ERR_MALFORMED,
                     "weights are served here; a %s is not taken",
                     message_kind_name(m.kind));
    }
    if (rc < 0) {
        log_debug("weights: %s (%s)", why, err_text(rc));
        refuse(w, f, &m, rc, why[0] != '\0' ? why : NULL);
    } else if (m.kind == MESSAGE_FETCH) {
        on_fetch(w, f, &m);
    } else {
        on_model(w, f, &m);
    }
}

/* ---- opening and closing ---- */

static int open_file(weight_server *w, size_t i, char *why, size_t why_size) {
    const gguf *g = w->config.file;
    const char *path = gguf_file_path(g, i);
    struct stat st;
    w->fds[i] = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (w->fds[i] < 0 || fstat(w->fds[i], &st) < 0) {
        int code = -errno;
        return err_why(why, why_size, code, "%s: %s", path, err_text(code));
    }
    uint64_t mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u +
                        (uint64_t)st.st_mtim.tv_nsec;
    if ((uint64_t)st.st_size == gguf_file_bytes(g, i) &&
        mtime_ns == gguf_file_mtime_ns(g, i)) {
        return 0;
    }
    return err_why(why, why_size, ERR_FORMAT,
                   "%s: it was changed while the model was read", path);
}

static int open_files(weight_server *w, char *why, size_t why_size) {
    w->n_files = gguf_n_files(w->config.file);
    w->fds = malloc(w->n_files * sizeof(*w->fds));
    if (w->fds == NULL) return -ENOMEM;
    for (size_t i = 0; i < w->n_files; i++)
        w->fds[i] = -1;
    int rc = 0;
    for (size_t i = 0; i < w->n_files && rc == 0; i++)
        rc = open_file(w, i, why, why_size);
    return rc;
}

int weight_server_open(weight_server **out, const weight_server_config *c,
                       char *why, size_t why_size) {
    *out = NULL;
    weight_server *w = calloc(1, sizeof(*w));
    if (w == NULL) return -ENOMEM;
    *out = w;
    w->config = *c;
    w->config.links.queue_messages = REPLIES_WAITING;
    w->config.links.max_part_bytes = REQUEST_MAX;

    int rc = open_files(w, why, why_size);
    if (rc == 0) {
        rc = manifest_image(c->checks, c->file, &w->manifest,
                            &w->manifest_bytes);
    }
    if (rc == 0) rc = message_arena_new(&w->arena, ARENA_BYTES);
    if (rc == 0) {
        rc = link_bind(&w->link, &w->config.links, c->listen, why, why_size);
    }
    if (rc < 0) return rc;
    return zmq_watch_open(&w->watch, c->loop, w->link, on_message, w);
}

void weight_server_close(weight_server *w) {
    if (w == NULL || w->closing) return;
    w->closing = true;
    zmq_watch_close(w->watch);
    w->watch = NULL;
    /* What no thread has begun to read need not be read: on_read() hears. */
    for (job *j = w->jobs; j != NULL; j = j->next)
        (void)uv_cancel((uv_req_t *)&j->work);
}

void weight_server_free(weight_server *w) {
    if (w == NULL) return;
    assert(w->jobs == NULL); /* the loop has run until nothing was left */
    link_close(w->link);
    message_arena_free(w->arena);
    for (size_t i = 0; w->fds != NULL && i < w->n_files; i++) {
        if (w->fds[i] >= 0) close(w->fds[i]);
    }
    free(w->fds);
    free(w->manifest);
    free(w);
}

const char *weight_server_endpoint(const weight_server *w) {
    return link_endpoint(w->link);
}

weight_server_stats weight_server_look(const weight_server *w) {
    return w->stats;
}
