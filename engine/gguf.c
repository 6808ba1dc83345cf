/* gguf.c - opens a model's files and serves their tensors.
 *
 * A split model is NAME-00001-of-0000N.gguf and its siblings.  The first file
 * carries the metadata, each file its own tensor table; the tables are joined
 * here, and a name that stands in two of them, a missing file or one that
 * belongs elsewhere is refused.  Maps and descriptors stay open until
 * gguf_close(): the map serves loans, the descriptor reads that must not grow
 * resident memory. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/gguf_internal.h"
#include "engine/util.h"

/* "-00001-of-00009.gguf" */
#define SPLIT_SUFFIX "-%05zu-of-%05zu.gguf"
#define SPLIT_SUFFIX_LEN 20

/* ---- one file ---- */

static void file_close(gguf_file *f) {
    if (f->map != NULL) munmap((void *)(uintptr_t)f->map, (size_t)f->bytes);
    if (f->fd >= 0) close(f->fd);
    free(f->path);
    free(f->keys);
    free(f->key_order);
    free(f->tensors);
    memset(f, 0, sizeof(*f));
    f->fd = -1;
}

static int file_map(gguf_file *f, char *why, size_t why_size) {
    struct stat st;
    if (fstat(f->fd, &st) < 0) {
        int rc = -errno;
        return err_why(why, why_size, rc, "%s: %s", f->path, err_text(rc));
    }
    if (!S_ISREG(st.st_mode)) {
        return err_why(why, why_size, ERR_FORMAT, "%s: not a regular file",
                       f->path);
    }
    if (st.st_size == 0) {
        return err_why(why, why_size, ERR_FORMAT, "%s: the file is empty",
                       f->path);
    }
    f->bytes = (uint64_t)st.st_size;
    f->mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u +
                  (uint64_t)st.st_mtim.tv_nsec;

    void *map = mmap(NULL, (size_t)f->bytes, PROT_READ, MAP_SHARED, f->fd, 0);
    if (map == MAP_FAILED) {
        int rc = -errno;
        return err_why(why, why_size, rc, "%s: cannot map %llu bytes: %s",
                       f->path, (unsigned long long)f->bytes, err_text(rc));
    }
    f->map = map;
    return 0;
}

/* Takes ownership of `fd`, also on failure. */
static int file_open_fd(gguf_file *f, int fd, const char *path, char *why,
                        size_t why_size) {
    f->fd = fd;
    f->path = strdup(path);
    int rc = f->path != NULL
                 ? 0
                 : err_why(why, why_size, -ENOMEM, "%s: no memory", path);
    if (rc == 0) rc = file_map(f, why, why_size);
    if (rc == 0) rc = gguf_parse(f, why, why_size);
    if (rc < 0) file_close(f);
    return rc;
}

/* O_NONBLOCK: a FIFO in the file's place is refused instead of waited for. */
static int open_path(const char *path, char *why, size_t why_size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0) return fd;
    int rc = -errno;
    return err_why(why, why_size, rc, "%s: cannot open: %s", path,
                   err_text(rc));
}

/* ---- split files ---- */

/* 1 for a whole file.  ERR_* if this is not the first file of a split. */
static int count_files(const gguf_file *first, size_t *n_files, char *why,
                       size_t why_size) {
    uint64_t count, number = 0;
    *n_files = 1;
    if (gguf_file_key(first, "split.count") == NULL) return 0;

    int rc = gguf_file_u64(first, "split.count", &count, why, why_size);
    if (rc < 0 || count <= 1) return rc;
    rc = gguf_file_u64(first, "split.no", &number, why, why_size);
    if (rc < 0) return rc;
    if (number != 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "%s: this is part %llu of %llu; open the first part",
                       first->path, (unsigned long long)number + 1,
                       (unsigned long long)count);
    }
    if (count > GGUF_MAX_SPLITS) {
        return err_why(why, why_size, ERR_FORMAT,
                       "%s: split.count is %llu, more than %d", first->path,
                       (unsigned long long)count, GGUF_MAX_SPLITS);
    }
    *n_files = (size_t)count;
    return 0;
}

/* The path of file `index`; the caller frees it. */
static int sibling_path(const gguf_file *first, size_t index, size_t n_files,
                        char **out, char *why, size_t why_size) {
    char suffix[64];
    snprintf(suffix, sizeof(suffix), SPLIT_SUFFIX, (size_t)1, n_files);
    size_t len = strlen(first->path);
    if (len < SPLIT_SUFFIX_LEN ||
        strcmp(first->path + len - SPLIT_SUFFIX_LEN, suffix) != 0) {
        return err_why(why, why_size, ERR_FORMAT,
                       "%s: the first of %zu parts must be named NAME%s, or "
                       "the others cannot be found",
                       first->path, n_files, suffix);
    }
    if (asprintf(out, "%.*s" SPLIT_SUFFIX, (int)(len - SPLIT_SUFFIX_LEN),
                 first->path, index + 1, n_files) < 0) {
        return err_why(why, why_size, -ENOMEM, "%s: no memory", first->path);
    }
    return 0;
}

/* `key` of one part must be `wanted`. */
static int check_part_key(const gguf_file *f, const char *key, uint64_t wanted,
                          char *why, size_t why_size) {
    uint64_t found;
    int rc = gguf_file_u64(f, key, &found, why, why_size);
    if (rc < 0 || found == wanted) return rc;
    return err_why(why, why_size, ERR_FORMAT,
                   "%s: %s is %llu, not %llu: the file belongs to another "
                   "split or place",
                   f->path, key, (unsigned long long)found,
                   (unsigned long long)wanted);
}

static int open_part(gguf *g, size_t index, size_t n_files, char *why,
                     size_t why_size) {
    gguf_file *f = &g->files[index];
    char *path = NULL;
    int rc = sibling_path(&g->files[0], index, n_files, &path, why, why_size);
    if (rc < 0) return rc;

    int fd = open_path(path, why, why_size);
    rc = fd < 0 ? fd : file_open_fd(f, fd, path, why, why_size);
    if (rc == 0) {
        g->n_files = index + 1;
        rc = check_part_key(f, "split.no", index, why, why_size);
    } else if (rc == -ENOENT) {
        err_why(why, why_size, rc, "%s: part %zu of %zu is missing", path,
                index + 1, n_files);
    }
    if (rc == 0) rc = check_part_key(f, "split.count", n_files, why, why_size);
    free(path);
    return rc;
}

static int open_parts(gguf *g, size_t n_files, char *why, size_t why_size) {
    gguf_file *files = calloc(n_files, sizeof(*files));
    if (files == NULL) {
        return err_why(why, why_size, -ENOMEM, "%s: no memory",
                       g->files[0].path);
    }
    files[0] = g->files[0];
    free(g->files);
    g->files = files;

    int rc = 0;
    uint64_t n_tensors = files[0].n_tensors, claimed = 0;
    for (size_t i = 1; i < n_files && rc == 0; i++) {
        rc = open_part(g, i, n_files, why, why_size);
        n_tensors += files[i].n_tensors;
    }
    if (rc == 0) {
        rc = gguf_file_u64(&files[0], "split.tensors.count", &claimed, why,
                           why_size);
    }
    for (size_t i = 1; i < n_files && rc == 0; i++) {
        if (gguf_file_key(&files[i], "split.tensors.count") == NULL) continue;
        rc = check_part_key(&files[i], "split.tensors.count", claimed, why,
                            why_size);
    }
    if (rc < 0 || n_tensors == claimed) return rc;
    return err_why(why, why_size, ERR_FORMAT,
                   "%s: the %zu parts hold %llu tensors, but "
                   "split.tensors.count is %llu",
                   files[0].path, n_files, (unsigned long long)n_tensors,
                   (unsigned long long)claimed);
}

/* ---- the joined tensor table ---- */

static int by_name(const void *a, const void *b, void *context) {
    const gguf_tensor *tensors = context;
    return gguf_string_compare(tensors[*(const uint32_t *)a].name,
                               tensors[*(const uint32_t *)b].name);
}

static int join_tensors(gguf *g, char *why, size_t why_size) {
    size_t total = 0;
    for (size_t i = 0; i < g->n_files; i++)
        total += g->files[i].n_tensors;
    /* Indices have 32 bits; each file was held to far fewer. */
    if (total > UINT32_MAX) {
        return err_why(why, why_size, ERR_TOO_LARGE, "%s: %zu tensors",
                       g->files[0].path, total);
    }
    g->tensors = calloc(total + 1, sizeof(*g->tensors));
    g->tensor_order = calloc(total + 1, sizeof(*g->tensor_order));
    if (g->tensors == NULL || g->tensor_order == NULL) {
        return err_why(why, why_size, -ENOMEM, "%s: no memory for %zu tensors",
                       g->files[0].path, total);
    }
    for (size_t i = 0; i < g->n_files; i++) {
        gguf_file *f = &g->files[i];
        for (size_t j = 0; j < f->n_tensors; j++) {
            f->tensors[j].file = (uint32_t)i;
            g->tensor_order[g->n_tensors] = (uint32_t)g->n_tensors;
            g->tensors[g->n_tensors++] = f->tensors[j];
        }
        free(f->tensors);
        f->tensors = NULL;
    }
    assert(g->n_tensors == total);
    return 0;
}

static int sort_tensors(gguf *g, char *why, size_t why_size) {
    qsort_r(g->tensor_order, g->n_tensors, sizeof(*g->tensor_order), by_name,
            g->tensors);
    for (size_t i = 1; i < g->n_tensors; i++) {
        const gguf_tensor *a = &g->tensors[g->tensor_order[i - 1]];
        const gguf_tensor *b = &g->tensors[g->tensor_order[i]];
        if (gguf_string_compare(a->name, b->name) != 0) continue;
        return err_why(why, why_size, ERR_FORMAT,
                       "%s: the tensor '%s' is there twice",
                       g->files[size_max(a->file, b->file)].path,
                       gguf_quote(a->name).text);
    }
    return 0;
}

static int by_place(const void *a, const void *b, void *context) {
    const gguf_tensor *tensors = context;
    const gguf_tensor *x = &tensors[*(const uint32_t *)a];
    const gguf_tensor *y = &tensors[*(const uint32_t *)b];
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Tensors share no bytes: else a small file could claim any amount of data, and
 * what is loaded is no longer bounded by the file. */
static int refuse_overlap(gguf *g, char *why, size_t why_size) {
    qsort_r(g->tensor_order, g->n_tensors, sizeof(*g->tensor_order), by_place,
            g->tensors);
    for (size_t i = 1; i < g->n_tensors; i++) {
        const gguf_tensor *a = &g->tensors[g->tensor_order[i - 1]];
        const gguf_tensor *b = &g->tensors[g->tensor_order[i]];
        if (a->file != b->file || b->offset - a->offset >= a->bytes) continue;
        return err_why(why, why_size, ERR_FORMAT,
                       "%s: the tensors '%s' and '%s' overlap",
                       g->files[a->file].path, gguf_quote(a->name).text,
                       gguf_quote(b->name).text);
    }
    return 0;
}

int gguf_join(gguf *g, char *why, size_t why_size) {
    int rc = join_tensors(g, why, why_size);
    if (rc == 0) rc = refuse_overlap(g, why, why_size);
    if (rc == 0) rc = sort_tensors(g, why, why_size);
    return rc;
}

/* ---- public ---- */

int gguf_open_fd(gguf **out, int fd, const char *path, char *why,
                 size_t why_size) {
    *out = NULL;
    gguf *g = calloc(1, sizeof(*g));
    gguf_file *first = calloc(1, sizeof(*first));
    if (g == NULL || first == NULL) {
        free(g);
        free(first);
        close(fd);
        return err_why(why, why_size, -ENOMEM, "%s: no memory", path);
    }
    g->files = first;

    size_t n_files = 1;
    int rc = file_open_fd(first, fd, path, why, why_size);
    if (rc < 0) goto fail;
    g->n_files = 1;

    rc = count_files(first, &n_files, why, why_size);
    if (rc < 0) goto fail;
    if (n_files > 1) {
        rc = open_parts(g, n_files, why, why_size);
        if (rc < 0) goto fail;
    }
    rc = gguf_join(g, why, why_size);
    if (rc < 0) goto fail;

    *out = g;
    return 0;

fail:
    gguf_close(g);
    return rc;
}

int gguf_open(gguf **out, const char *path, char *why, size_t why_size) {
    *out = NULL;
    int fd = open_path(path, why, why_size);
    if (fd < 0) return fd;
    return gguf_open_fd(out, fd, path, why, why_size);
}

void gguf_close(gguf *g) {
    if (g == NULL) return;
    for (size_t i = 0; i < g->n_files; i++)
        file_close(&g->files[i]);
    free(g->files);
    free(g->tensors);
    free(g->tensor_order);
    free(g);
}

size_t gguf_n_tensors(const gguf *g) {
    return g->n_tensors;
}

const gguf_tensor *gguf_tensor_at(const gguf *g, size_t index) {
    assert(index < g->n_tensors);
    return &g->tensors[index];
}

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name) {
    const gguf_string wanted = {name, strlen(name)};
    size_t low = 0, high = g->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const gguf_tensor *t = &g->tensors[g->tensor_order[middle]];
        int order = gguf_string_compare(wanted, t->name);
        if (order == 0) return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const void *gguf_data(const gguf *g, const gguf_tensor *t) {
    return g->files[t->file].map + t->offset;
}

int gguf_read(const gguf *g, const gguf_tensor *t, uint64_t offset,
              size_t bytes, void *out) {
    if (offset > t->bytes || bytes > t->bytes - offset) return ERR_RANGE;

    uint8_t *to = out;
    uint64_t from = t->offset + offset;
    while (bytes > 0) {
        ssize_t got = pread(g->files[t->file].fd, to, bytes, (off_t)from);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -errno;
        if (got == 0) return ERR_FORMAT;
        to += got;
        from += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return 0;
}

/* A longer request is cut to the device's largest one, which is seldom shorter;
 * many small ones fill its queue, and whoever asks has to wait. */
#define AHEAD_STEP ((uint64_t)512 << 10)

void gguf_ahead(const gguf *g, const gguf_tensor *t, uint64_t offset,
                uint64_t bytes) {
    int fd = g->files[t->file].fd;
    for (uint64_t at = 0; at < bytes; at += AHEAD_STEP) {
        off_t from = (off_t)(t->offset + offset + at);
        off_t n = (off_t)size_min(AHEAD_STEP, bytes - at);
        (void)posix_fadvise(fd, from, n, POSIX_FADV_WILLNEED);
    }
}

void gguf_behind(const gguf *g, const gguf_tensor *t, uint64_t offset,
                 uint64_t bytes) {
    (void)posix_fadvise(g->files[t->file].fd, (off_t)(t->offset + offset),
                        (off_t)bytes, POSIX_FADV_DONTNEED);
}

size_t gguf_n_files(const gguf *g) {
    return g->n_files;
}

const char *gguf_file_path(const gguf *g, size_t file) {
    assert(file < g->n_files);
    return g->files[file].path;
}

uint64_t gguf_file_bytes(const gguf *g, size_t file) {
    assert(file < g->n_files);
    return g->files[file].bytes;
}

uint64_t gguf_file_mtime_ns(const gguf *g, size_t file) {
    assert(file < g->n_files);
    return g->files[file].mtime_ns;
}

const void *gguf_head(const gguf *g, size_t file, size_t *bytes) {
    assert(file < g->n_files);
    *bytes = (size_t)g->files[file].head_bytes;
    return g->files[file].map;
}
