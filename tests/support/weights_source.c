/* weights_source.c - see weights_source.h. */
#include "tests/support/weights_source.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/unit_image.h"
#include "engine/util.h"

#define CLUSTER "test"
#define SAY_NOTHING 1

static message reply_to(const weights_source *s, const message *m,
                        message_kind kind) {
    message r = message_from(CLUSTER, s->print.bytes, s->boot_id);
    r.kind = kind;
    r.to_boot_id = m->boot_id;
    r.request_id = m->request_id;
    return r;
}

static uint64_t manifest_bytes(const weights_source *s) {
    char path[320];
    struct stat st;
    snprintf(path, sizeof(path), "%s.roster", s->path);
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static int answer_model(const weights_source *s, frames *out,
                        const message *m) {
    message_file files[8];
    size_t n = size_min(gguf_n_files(s->g), ARRAY_LEN(files));
    for (size_t i = 0; i < n; i++) {
        size_t head;
        gguf_head(s->g, i, &head);
        const char *slash = strrchr(gguf_file_path(s->g, i), '/');
        files[i] =
            (message_file){.name = s->other_name ? s->other_name : slash + 1,
                           .bytes = gguf_file_bytes(s->g, i),
                           .mtime_ns = gguf_file_mtime_ns(s->g, i),
                           .head_bytes = head + s->more_head};
    }
    message r = reply_to(s, m, MESSAGE_MODEL);
    r.model.files = files;
    r.model.n_files = n;
    r.model.manifest_bytes = manifest_bytes(s) + s->more_manifest;
    return frames_add(out, 0) == NULL ? -ENOMEM : message_seal(out, &r);
}

static int seal_piece(weights_source *s, frames *out, const message *m) {
    atomic_fetch_add(&s->pieces, 1);
    message r = reply_to(s, m, MESSAGE_PIECE);
    return message_seal(out, &r);
}

static int answer_piece(weights_source *s, frames *out, const message *m) {
    char kept[320];
    snprintf(kept, sizeof(kept), "%s.roster", s->path);
    size_t n = gguf_n_files(s->g), bytes = m->fetch.bytes;
    if (m->fetch.file > n) return ERR_RANGE;
    const char *path =
        m->fetch.file == n ? kept : gguf_file_path(s->g, m->fetch.file);
    size_t all = bytes * m->fetch.count;
    if (s->manner == SOURCE_SHORT_PIECE) all--;

    if (frames_add(out, 0) == NULL) return -ENOMEM;
    uint8_t *to = frames_add(out, all);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (to == NULL || fd < 0) return -EIO;
    for (size_t i = 0, at = 0; i < m->fetch.count && at < all; i++) {
        size_t want = size_min(bytes, all - at);
        ssize_t got = pread(fd, to + at, want,
                            (off_t)(m->fetch.offset + i * m->fetch.stride));
        if (got != (ssize_t)want) {
            close(fd);
            return ERR_RANGE;
        }
        at += want;
    }
    close(fd);
    return seal_piece(s, out, m);
}

static int answer_unit(weights_source *s, frames *out, const message *m) {
    unit_image u;
    int manner = atomic_load(&s->manner);
    if (manner == SOURCE_EMPTY) return ERR_NOT_HERE;
    int rc = unit_image_of(&u, s->g, &s->model, m->fetch_unit.layer,
                           m->fetch_unit.unit, m->fetch_unit.slices, NULL, 0);
    if (rc < 0) return rc;
    if (frames_add(out, 0) == NULL) return -ENOMEM;
    size_t bytes = m->fetch_unit.bytes;
    uint8_t *to = frames_add(out, bytes);
    if (to == NULL) return -ENOMEM;
    rc = unit_image_read(&u, s->g, m->fetch_unit.offset, bytes, to);
    if (rc < 0) return rc;
    if (manner == SOURCE_ROTTEN) to[bytes / 2] ^= 4;
    atomic_fetch_add(&s->unit_bytes, bytes);
    return seal_piece(s, out, m);
}

static int answer(weights_source *s, frames *out, const message *m) {
    int refusal = atomic_load(&s->refusal);
    unsigned n = atomic_fetch_add(&s->answers, 1);
    switch ((source_manner)atomic_load(&s->manner)) {
    case SOURCE_STOPS:
        if (n < atomic_load(&s->stop_after)) break;
        return SAY_NOTHING;
    case SOURCE_SILENT:
        return SAY_NOTHING;
    case SOURCE_REFUSES:
        return refusal != 0 ? refusal : ERR_WRONG_MODEL;
    case SOURCE_BUSY:
        if (n % 2 == 0) return ERR_OVERLOADED;
        break;
    case SOURCE_OTHER_KIND: {
        message r = reply_to(s, m, MESSAGE_DONE);
        return frames_add(out, 0) == NULL ? -ENOMEM : message_seal(out, &r);
    }
    default:
        break;
    }
    if (m->kind == MESSAGE_FETCH_UNIT) return answer_unit(s, out, m);
    return m->kind == MESSAGE_MODEL_REQUEST ? answer_model(s, out, m)
                                            : answer_piece(s, out, m);
}

static void serve(weights_source *s, message_arena *arena, frames *in) {
    char why[200];
    message m;
    frames out;
    if (message_open(in, arena, &m, why, sizeof(why)) < 0) return;
    frames_init(&out);
    int rc = answer(s, &out, &m);
    if (rc < 0) {
        message self = message_from(CLUSTER, s->print.bytes, s->boot_id);
        frames_fini(&out);
        frames_init(&out);
        rc = message_error(&out, &self, &m, rc, NULL);
    }
    frames_copy_address(&out, in);
    if (rc == 0) (void)link_send(s->link, &out);
    frames_fini(&out);
}

static void *source_main(void *arg) {
    weights_source *s = arg;
    message_arena *arena;
    if (message_arena_new(&arena, MESSAGE_ARENA_MAX) < 0) return NULL;
    while (!atomic_load(&s->stopping)) {
        frames in;
        frames_init(&in);
        if (link_recv(s->link, &in) == 0) {
            serve(s, arena, &in);
        } else {
            struct pollfd fd = {.fd = link_fd(s->link), .events = POLLIN};
            poll(&fd, 1, 5);
        }
        frames_fini(&in);
    }
    message_arena_free(arena);
    return NULL;
}

void weights_source_start(weights_source *s, const char *path) {
    char why[256] = "";
    manifest *checks;
    *s = (weights_source){.boot_id = random_boot_id()};
    snprintf(s->path, sizeof(s->path), "%s", path);
    if (gguf_open(&s->g, path, why, sizeof(why)) != 0 ||
        manifest_open(&checks, s->g, true, why, sizeof(why)) != 0 ||
        model_read(&s->model, s->g, why, sizeof(why)) != 0) {
        fail_msg("%s", why);
    }
    assert_int_equal(fingerprint_of(s->g, checks, &s->print), 0);
    manifest_close(checks);

    s->zmq = zmq_ctx_new();
    assert_non_null(s->zmq);
    const link_config c = {
        .zmq = s->zmq, .max_part_bytes = 1 << 20, .queue_messages = 64};
    if (link_bind(&s->link, &c, "tcp://127.0.0.1:*", why, sizeof(why)) != 0)
        fail_msg("%s", why);
    snprintf(s->endpoint, sizeof(s->endpoint), "%s", link_endpoint(s->link));
    assert_int_equal(pthread_create(&s->thread, NULL, source_main, s), 0);
}

void weights_source_stop(weights_source *s) {
    atomic_store(&s->stopping, true);
    pthread_join(s->thread, NULL);
    link_close(s->link);
    zmq_ctx_term(s->zmq);
    gguf_close(s->g);
}
