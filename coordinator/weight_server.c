/* weight_server.c - see weight_server.h.
 *
 * The files are opened once, at the start; they must be the ones that the model
 * was read from, so that a file which was replaced is noticed here and not by
 * every node.  The manifest is served as it would stand on disk, from memory,
 * since it need not have been possible to write it. */
#include "coordinator/weight_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/unit_shelf.h"

struct weight_server {
    weight_server_config config;
    bulk_server *bulk;
    unit_shelf *units; /* NULL: none are served */
    int *fds;          /* [n_files] */
    size_t n_files;
    message_file *files; /* [n_files], as they are told of */
    uint8_t *manifest;
    size_t manifest_bytes;
};

/* ---- the model ---- */

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static int describe_files(weight_server *w) {
    const gguf *g = w->config.file;
    w->files = calloc(w->n_files, sizeof(*w->files));
    if (w->files == NULL) return -ENOMEM;
    for (size_t i = 0; i < w->n_files; i++) {
        size_t head_bytes;
        (void)gguf_head(g, i, &head_bytes);
        w->files[i] = (message_file){
            .name = base_name(gguf_file_path(g, i)),
            .bytes = gguf_file_bytes(g, i),
            .mtime_ns = gguf_file_mtime_ns(g, i),
            .head_bytes = head_bytes,
        };
    }
    return 0;
}

static int describe(void *ctx, message *m) {
    const weight_server *w = ctx;
    m->model.files = w->files;
    m->model.n_files = w->n_files;
    m->model.manifest_bytes = w->manifest_bytes;
    return 0;
}

/* ---- pieces ---- */

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

static int plan(void *ctx, const message *asked, size_t *bytes, char *why,
                size_t why_size) {
    const weight_server *w = ctx;
    if (asked->kind == MESSAGE_FETCH) {
        *bytes = (size_t)asked->fetch.bytes * asked->fetch.count;
        return check_range(w, asked, why, why_size);
    }
    *bytes = asked->fetch_unit.bytes;
    if (w->units == NULL) return ERR_NOT_HERE;
    return unit_shelf_plan(w->units, asked->fetch_unit.layer,
                           asked->fetch_unit.unit, asked->fetch_unit.slices,
                           asked->fetch_unit.offset, *bytes, why, why_size);
}

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

static int read_file(const weight_server *w, const message *asked, uint8_t *out,
                     char *why, size_t why_size) {
    uint32_t file = asked->fetch.file, bytes = asked->fetch.bytes;
    uint64_t offset = asked->fetch.offset;
    bool from_file = file < w->n_files;
    int rc = 0;
    for (uint32_t i = 0; i < asked->fetch.count && rc == 0; i++) {
        if (from_file) {
            rc = read_piece(w->fds[file], offset, bytes, out);
        } else {
            memcpy(out, w->manifest + offset, bytes);
        }
        out += bytes;
        offset += asked->fetch.stride;
    }
    if (rc == 0) return 0;
    return err_why(why, why_size, rc, "%s cannot be read at byte %llu: %s",
                   w->files[file].name, (unsigned long long)asked->fetch.offset,
                   rc == ERR_FORMAT ? "it was cut short" : err_text(rc));
}

/* In a thread of libuv's. */
static int read_asked(void *ctx, const message *asked, void *out, char *why,
                      size_t why_size) {
    const weight_server *w = ctx;
    if (asked->kind == MESSAGE_FETCH) {
        return read_file(w, asked, out, why, why_size);
    }
    return unit_shelf_read(w->units, asked->fetch_unit.layer,
                           asked->fetch_unit.unit, asked->fetch_unit.slices,
                           asked->fetch_unit.offset, asked->fetch_unit.bytes,
                           out, why, why_size);
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

static int open_units(weight_server *w) {
    const unit_shelf_config u = {.g = w->config.file,
                                 .model = w->config.model,
                                 .checks = w->config.checks};
    return u.model != NULL ? unit_shelf_new(&w->units, &u) : 0;
}

static int open_bulk(weight_server *w, char *why, size_t why_size) {
    const identity *self = w->config.self;
    const bulk_server_config b = {
        .loop = w->config.loop,
        .cluster = self->cluster,
        .boot_id = self->boot_id,
        .source = {describe, plan, read_asked, w},
        .links = w->config.links,
        .listen = w->config.listen,
    };
    int rc = bulk_server_open(&w->bulk, &b, why, why_size);
    if (rc == 0) bulk_server_serve(w->bulk, self->model.bytes);
    return rc;
}

int weight_server_open(weight_server **out, const weight_server_config *c,
                       char *why, size_t why_size) {
    *out = NULL;
    weight_server *w = calloc(1, sizeof(*w));
    if (w == NULL) return -ENOMEM;
    *out = w;
    w->config = *c;

    int rc = open_files(w, why, why_size);
    if (rc == 0) rc = describe_files(w);
    if (rc == 0) {
        rc = manifest_image(c->checks, c->file, &w->manifest,
                            &w->manifest_bytes);
    }
    if (rc == 0) rc = open_units(w);
    return rc < 0 ? rc : open_bulk(w, why, why_size);
}

void weight_server_close(weight_server *w) {
    if (w != NULL) bulk_server_close(w->bulk);
}

void weight_server_free(weight_server *w) {
    if (w == NULL) return;
    bulk_server_free(w->bulk);
    unit_shelf_free(w->units);
    for (size_t i = 0; w->fds != NULL && i < w->n_files; i++) {
        if (w->fds[i] >= 0) close(w->fds[i]);
    }
    free(w->fds);
    free(w->files);
    free(w->manifest);
    free(w);
}

const char *weight_server_endpoint(const weight_server *w) {
    return bulk_server_endpoint(w->bulk);
}

bulk_server_stats weight_server_look(const weight_server *w) {
    return bulk_server_look(w->bulk);
}
