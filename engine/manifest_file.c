/* manifest_file.c - where a manifest is kept, and how.
 *
 * The file is a head, one record per model file, the checksums, and XXH3-64 of
 * all before it, little-endian.  A record holds the model file's size, time of
 * modification and a checksum of its head; if any differs, the manifest is of
 * another state of the files.  A file may change twice within one tick of the
 * clock that stamps it, so a manifest written in the same moment as the model
 * is not believed either: it is computed again, once.
 *
 * A manifest is written under a random name and renamed, so that readers see
 * all of it or none; whoever renames last wins, with the same bytes.  There is
 * no lock: processes that start together on a new model each read it, largely
 * from the same page cache. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/log.h"
#include "engine/manifest_internal.h"
#include "engine/util.h"

#define SUFFIX ".roster"
#define SAME_MOMENT_NS 20000000u /* two ticks at 100 Hz */

typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t n_files;
    uint64_t n_sums;
} file_head;

typedef struct {
    uint64_t bytes;
    uint64_t mtime_ns;
    uint64_t head_sum;
} file_record;

_Static_assert(sizeof(file_head) == 24, "the head is 24 bytes on disk");
_Static_assert(sizeof(file_record) == 24, "a record is 24 bytes on disk");

static const char magic[8] = "ROSTERMF";
#define VERSION 2 /* column segments of ffn_down_exps */

/* ---- the bytes ---- */

static size_t preamble_bytes(const gguf *g) {
    return sizeof(file_head) + gguf_n_files(g) * sizeof(file_record);
}

static size_t image_bytes(const manifest *m, const gguf *g) {
    return preamble_bytes(g) + m->n_sums * sizeof(*m->sums) + sizeof(uint64_t);
}

/* Head and records of these files, as they are now. */
static void put_preamble(const manifest *m, const gguf *g, uint8_t *at) {
    file_head head = {.version = VERSION,
                      .n_files = (uint32_t)gguf_n_files(g),
                      .n_sums = m->n_sums};
    memcpy(head.magic, magic, sizeof(magic));
    at = mempcpy(at, &head, sizeof(head));
    for (size_t i = 0; i < gguf_n_files(g); i++) {
        size_t bytes;
        const void *model_head = gguf_head(g, i, &bytes);
        file_record record = {.bytes = gguf_file_bytes(g, i),
                              .mtime_ns = gguf_file_mtime_ns(g, i),
                              .head_sum = XXH3_64bits(model_head, bytes)};
        at = mempcpy(at, &record, sizeof(record));
    }
}

/* The manifest as it stands on disk, image_bytes() long; the caller frees it.
 * NULL: no memory. */
static uint8_t *encode(const manifest *m, const gguf *g) {
    uint8_t *image = malloc(image_bytes(m, g));
    if (image == NULL) return NULL;

    put_preamble(m, g, image);
    uint8_t *at = mempcpy(image + preamble_bytes(g), m->sums,
                          m->n_sums * sizeof(*m->sums));
    uint64_t own = XXH3_64bits(image, (size_t)(at - image));
    memcpy(at, &own, sizeof(own));
    return image;
}

int manifest_image(const manifest *m, const gguf *g, uint8_t **out,
                   size_t *bytes) {
    *out = encode(m, g);
    *bytes = *out != NULL ? image_bytes(m, g) : 0;
    return *out != NULL ? 0 : -ENOMEM;
}

/* Take over the checksums of an image that begins as one of these files must
 * and is whole. */
static bool decode(manifest *m, const gguf *g, const uint8_t *image) {
    size_t before = preamble_bytes(g), bytes = image_bytes(m, g);
    uint8_t *wanted = malloc(before);
    if (wanted == NULL) return false;
    put_preamble(m, g, wanted);
    bool same = memcmp(image, wanted, before) == 0;
    free(wanted);
    if (!same) return false;

    uint64_t own;
    memcpy(&own, image + bytes - sizeof(own), sizeof(own));
    if (own != XXH3_64bits(image, bytes - sizeof(own))) return false;
    memcpy(m->sums, image + before, m->n_sums * sizeof(*m->sums));
    return true;
}

/* ---- the places ---- */

/* "MODEL.gguf.roster"; the caller frees it, as below. */
static char *path_beside(const gguf *g) {
    char *path;
    return asprintf(&path, "%s" SUFFIX, gguf_file_path(g, 0)) < 0 ? NULL : path;
}

/* ".../roster", made if `make` says so; NULL if there is no home for it. */
static char *cache_folder(bool make) {
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *parent = NULL, *folder = NULL;
    int rc = -1;
    if (base != NULL && *base == '/') {
        rc = asprintf(&parent, "%s", base);
    } else if (home != NULL && *home == '/') {
        rc = asprintf(&parent, "%s/.cache", home);
    }
    if (rc < 0) return NULL;
    if (asprintf(&folder, "%s/roster", parent) < 0) folder = NULL;
    if (make && folder != NULL) {
        mkdir(parent, 0700); /* what fails here fails when the file is opened */
        mkdir(folder, 0700);
    }
    free(parent);
    return folder;
}

/* In the cache, by the hash of the model's absolute path. */
static char *path_in_cache(const gguf *g, bool make) {
    char absolute[PATH_MAX], *path = NULL;
    if (realpath(gguf_file_path(g, 0), absolute) == NULL) return NULL;
    char *folder = cache_folder(make);
    if (folder == NULL) return NULL;
    uint64_t hash = XXH3_64bits(absolute, strlen(absolute));
    if (asprintf(&path, "%s/%016" PRIx64 SUFFIX, folder, hash) < 0) path = NULL;
    free(folder);
    return path;
}

/* ---- reading ---- */

static bool read_all(int fd, void *out, size_t bytes) {
    uint8_t *at = out;
    while (bytes > 0) {
        ssize_t got = read(fd, at, bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        at += got;
        bytes -= (size_t)got;
    }
    return true;
}

/* Was it written in the moment in which a model file was? */
static bool same_moment(const struct stat *st, const gguf *g) {
    uint64_t written = (uint64_t)st->st_mtim.tv_sec * 1000000000u +
                       (uint64_t)st->st_mtim.tv_nsec;
    for (size_t i = 0; i < gguf_n_files(g); i++) {
        uint64_t changed = gguf_file_mtime_ns(g, i);
        uint64_t apart =
            written > changed ? written - changed : changed - written;
        if (apart < SAME_MOMENT_NS) return true;
    }
    return false;
}

static bool load_from(manifest *m, const gguf *g, const char *path) {
    if (path == NULL) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) return false;

    bool good = false;
    size_t bytes = image_bytes(m, g);
    struct stat st;
    uint8_t *image = NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
        (uint64_t)st.st_size == bytes && !same_moment(&st, g)) {
        image = malloc(bytes);
        good =
            image != NULL && read_all(fd, image, bytes) && decode(m, g, image);
    }
    free(image);
    close(fd);
    return good;
}

bool manifest_load(manifest *m, const gguf *g) {
    char *beside = path_beside(g), *cached = NULL;
    bool good = load_from(m, g, beside);
    if (!good) {
        cached = path_in_cache(g, false);
        good = load_from(m, g, cached);
    }
    free(beside);
    free(cached);
    return good;
}

/* ---- writing ---- */

static int write_all(int fd, const uint8_t *at, size_t bytes) {
    if (failpoint("manifest_write")) return -EIO;
    while (bytes > 0) {
        ssize_t put = write(fd, at, bytes);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return -errno;
        at += put;
        bytes -= (size_t)put;
    }
    return 0;
}

/* Write under a name of our own beside `path`, then rename. */
static int replace(const char *path, const uint8_t *image, size_t bytes) {
    uint64_t random;
    char *temporary;
    random_bytes(&random, sizeof(random));
    if (asprintf(&temporary, "%s.%016" PRIx64, path, random) < 0) {
        return -ENOMEM;
    }
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int rc = fd < 0 ? -errno : write_all(fd, image, bytes);
    if (fd >= 0 && close(fd) < 0 && rc == 0) rc = -errno;
    if (rc == 0 && rename(temporary, path) < 0) rc = -errno;
    if (fd >= 0 && rc < 0) unlink(temporary);
    free(temporary);
    return rc;
}

static int store_at(char *path, const uint8_t *image, size_t bytes) {
    int rc = path != NULL ? replace(path, image, bytes) : -ENOENT;
    free(path);
    return rc;
}

void manifest_store(const manifest *m, const gguf *g) {
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    size_t bytes = image_bytes(m, g);
    uint8_t *image = encode(m, g);
    int beside =
        image != NULL ? store_at(path_beside(g), image, bytes) : -ENOMEM;
    int cached = beside;
    if (beside < 0 && image != NULL) {
        cached = store_at(path_in_cache(g, true), image, bytes);
    }
    free(image);
    if (cached == 0 || atomic_flag_test_and_set(&warned)) return;
    log_warn("%s: the checksums cannot be kept, each start computes them anew "
             "(beside the model: %s; in the cache folder: %s)",
             gguf_file_path(g, 0), err_text(beside), err_text(cached));
}
