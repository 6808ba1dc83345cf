/* cache_part.c - one unit in the making.
 *
 * The file is the image with holes, and after it a trailer: what it is, and a
 * bit for each piece that is there.  The bit is written after its piece; both
 * survive the process, and what a power failure tears apart is found by the
 * checksums.  Whoever works on it holds a lock on it.  A whole unit is the same
 * file without its trailer, under another name. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/util.h"
#include "expert_node/unit_cache_internal.h"

#define TRIES 4 /* to lock a file that others rename */

typedef struct {
    char magic[8];
    uint64_t bytes;
    uint32_t piece_bytes, n_pieces;
} trailer;
static const char magic[8] = {'R', 'o', 's', 't', 'p', 'a', 'r', '1'};

static size_t bitmap_bytes(const cache_part *p) {
    return (p->n_pieces + 7) / 8;
}

static size_t piece_size(const cache_part *p, uint32_t piece) {
    uint64_t at = (uint64_t)piece * p->piece_bytes;
    return (size_t)size_min(p->piece_bytes, p->bytes - at);
}

static int write_at(int fd, uint64_t offset, const void *data, size_t bytes) {
    const uint8_t *from = data;
    if (failpoint("unit_cache.write")) return -ENOSPC;
    while (bytes > 0) {
        ssize_t put = pwrite(fd, from, bytes, (off_t)offset);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return -errno;
        from += put;
        offset += (uint64_t)put;
        bytes -= (size_t)put;
    }
    return 0;
}

static int read_at(int fd, uint64_t offset, void *out, size_t bytes) {
    uint8_t *to = out;
    if (failpoint("unit_cache.read")) return -EIO;
    while (bytes > 0) {
        ssize_t got = pread(fd, to, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got < 0 ? -errno : ERR_FORMAT;
        to += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return 0;
}

/* ---- opening ---- */

static bool is_same_file(const cache_part *p, const char *name) {
    struct stat ours, there;
    return fstat(p->fd, &ours) == 0 &&
           fstatat(unit_cache_fd(p->cache), name, &there,
                   AT_SYMLINK_NOFOLLOW) == 0 &&
           ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

/* A locked descriptor of the file of this name, which may be new. */
static int open_locked(cache_part *p, const char *name) {
    for (int i = 0; i < TRIES; i++) {
        p->fd = failpoint("unit_cache.open")
                    ? (errno = EACCES, -1)
                    : openat(unit_cache_fd(p->cache), name,
                             O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (p->fd < 0) return -errno;
        bool locked = flock(p->fd, LOCK_EX | LOCK_NB) == 0;
        int rc = locked ? 0 : errno == EWOULDBLOCK ? ERR_OVERLOADED : -errno;
        /* Its last owner may have renamed or removed it meanwhile. */
        if (rc == 0 && is_same_file(p, name)) return 0;
        close(p->fd);
        p->fd = -1;
        if (rc < 0) return rc;
    }
    return ERR_OVERLOADED;
}

/* What an earlier process left, if it is what it should be. */
static bool read_trailer(cache_part *p) {
    trailer t;
    if (read_at(p->fd, p->bytes, &t, sizeof(t)) < 0 ||
        memcmp(t.magic, magic, sizeof(magic)) != 0 || t.bytes != p->bytes ||
        t.piece_bytes != p->piece_bytes || t.n_pieces != p->n_pieces ||
        read_at(p->fd, p->bytes + sizeof(t), p->have, bitmap_bytes(p)) < 0) {
        memset(p->have, 0, bitmap_bytes(p));
        return false;
    }
    for (uint32_t i = 0; i < p->n_pieces; i++)
        p->n_have += cache_part_has(p, i);
    return true;
}

static int write_trailer(cache_part *p) {
    trailer t = {.bytes = p->bytes,
                 .piece_bytes = p->piece_bytes,
                 .n_pieces = p->n_pieces};
    memcpy(t.magic, magic, sizeof(magic));
    if (ftruncate(p->fd, 0) < 0) return -errno;
    int rc = write_at(p->fd, p->bytes, &t, sizeof(t));
    if (rc < 0) return rc;
    return write_at(p->fd, p->bytes + sizeof(t), p->have, bitmap_bytes(p));
}

/* The file and, if it is new or something else, its trailer. */
static int open_file(cache_part *p, const char *name) {
    int rc = open_locked(p, name);
    if (rc == ERR_OVERLOADED) return rc;
    if (unit_cache_is_alone(p->cache, rc, name))
        return unit_cache_skip(p->cache, rc, name);
    if (rc == 0 && !read_trailer(p)) {
        rc = unit_cache_reserve(p->cache, p->bytes);
        if (rc < 0) {
            (void)unlinkat(unit_cache_fd(p->cache), name, 0);
            return unit_cache_trouble(p->cache, rc, name);
        }
        rc = write_trailer(p);
        if (rc < 0) {
            (void)unlinkat(unit_cache_fd(p->cache), name, 0);
            unit_cache_release(p->cache, p->bytes);
        }
    }
    return rc < 0 ? unit_cache_trouble(p->cache, rc, name) : 0;
}

int cache_part_open(cache_part **out, unit_cache *c, const unit_key *key,
                    uint64_t bytes, uint32_t piece_bytes) {
    *out = NULL;
    int rc = unit_cache_resting(c);
    if (rc < 0) return rc;
    cache_part *p = calloc(1, sizeof(*p));
    if (p == NULL) return -ENOMEM;
    *p = (cache_part){.cache = c,
                      .key = *key,
                      .fd = -1,
                      .bytes = bytes,
                      .piece_bytes = piece_bytes,
                      .n_pieces =
                          (uint32_t)((bytes + piece_bytes - 1) / piece_bytes)};
    p->have = calloc(1, bitmap_bytes(p) + 1);
    char name[UNIT_CACHE_NAME];
    unit_cache_name(key, UNIT_CACHE_PART, name);
    rc = p->have != NULL ? open_file(p, name) : -ENOMEM;
    if (rc < 0) {
        cache_part_free(p);
        return rc;
    }
    *out = p;
    return 0;
}

void cache_part_free(cache_part *p) {
    if (p == NULL) return;
    if (p->fd >= 0) close(p->fd); /* and with it the lock */
    free(p->have);
    free(p);
}

/* ---- pieces ---- */

bool cache_part_has(const cache_part *p, uint32_t piece) {
    assert(piece < p->n_pieces);
    return (p->have[piece / 8] >> piece % 8 & 1) != 0;
}

bool cache_part_complete(const cache_part *p) {
    return p->n_pieces > 0 && p->n_have == p->n_pieces;
}

/* Those who read from it still can. */
static void remove_part(cache_part *p, const char *name) {
    (void)unlinkat(unit_cache_fd(p->cache), name, 0);
    unit_cache_release(p->cache, p->bytes);
    p->n_have = 0;
    p->n_pieces = 0;
}

/* What could not be written whole would only be in the way. */
static int give_up(cache_part *p, int rc) {
    char name[UNIT_CACHE_NAME];
    unit_cache_name(&p->key, UNIT_CACHE_PART, name);
    remove_part(p, name);
    return unit_cache_trouble(p->cache, rc, name);
}

int cache_part_put(cache_part *p, uint32_t piece, const void *data,
                   size_t bytes) {
    if (p->n_pieces == 0) return ERR_CLOSED; /* given up */
    if (cache_part_has(p, piece)) return 0;
    assert(bytes == piece_size(p, piece));
    int rc = write_at(p->fd, (uint64_t)piece * p->piece_bytes, data, bytes);
    if (rc < 0) return give_up(p, rc);
    p->have[piece / 8] |= (uint8_t)(1u << piece % 8);
    p->n_have++;
    rc = write_at(p->fd, p->bytes + sizeof(trailer) + piece / 8,
                  &p->have[piece / 8], 1);
    if (rc < 0) return give_up(p, rc);
    (void)unit_cache_trouble(p->cache, 0, "");
    return 0;
}

int cache_part_read(const cache_part *p, uint64_t offset, size_t bytes,
                    void *out) {
    return read_at(p->fd, offset, out, bytes);
}

/* ---- ending ---- */

/* What has the name may not be ours to replace. */
static void name_failed(cache_part *p, int rc, const char *part,
                        const char *whole) {
    if (rc != -EACCES && unit_cache_is_alone(p->cache, rc, whole)) {
        remove_part(p, part);
        (void)unit_cache_skip(p->cache, rc, whole);
    } else {
        (void)give_up(p, rc);
    }
}

void cache_part_finish(cache_part *p, bool sync) {
    char part[UNIT_CACHE_NAME], whole[UNIT_CACHE_NAME];
    int dir = unit_cache_fd(p->cache), rc = 0;
    unit_cache_name(&p->key, UNIT_CACHE_PART, part);
    unit_cache_name(&p->key, UNIT_CACHE_WHOLE, whole);
    if (ftruncate(p->fd, (off_t)p->bytes) < 0) rc = -errno;
    if (rc == 0 && sync && fdatasync(p->fd) < 0) rc = -errno;
    if (rc < 0) {
        (void)give_up(p, rc);
    } else if (renameat(dir, part, dir, whole) == 0) {
        unit_cache_replaced(p->cache, &p->key);
    } else {
        name_failed(p, -errno, part, whole);
    }
    cache_part_free(p);
}

void cache_part_keep(cache_part *p) {
    if (p == NULL) return;
    if (cache_part_complete(p)) {
        unit_cache_finish(p->cache, p);
    } else {
        cache_part_close(p);
    }
}

void cache_part_drop(cache_part *p) {
    if (p == NULL) return;
    char name[UNIT_CACHE_NAME];
    unit_cache_name(&p->key, UNIT_CACHE_PART, name);
    if (p->n_pieces > 0) {
        unit_cache_count_damaged(p->cache, name, 0);
        remove_part(p, name);
    }
    cache_part_free(p);
}

void cache_part_close(cache_part *p) {
    cache_part_free(p);
}
