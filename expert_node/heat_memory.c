/* heat_memory.c - see heat_memory.h.
 *
 * The file: 8 bytes of name and version, the model's fingerprint, layers and
 * experts as u32, a u64 for each (layer, expert), XXH3-64 of all before it.
 * Numbers are the machine's own: the file does not travel. */
#include "expert_node/heat_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "engine/err.h"

#define PATH_SIZE 1024
#define UNITS_MOST ((uint64_t)1 << 24)

typedef struct {
    char mark[8];
    uint8_t model[32];
    uint32_t n_layers, n_experts;
} file_head;

_Static_assert(sizeof(file_head) == 48, "a head has no holes");

static const char mark[8] = {'r', 'h', 'e', 'a', 't', '0', '1', '\n'};

struct heat_memory {
    char path[PATH_SIZE], part[PATH_SIZE + 8], dir[PATH_SIZE];
    bool changed;
    size_t bytes;  /* of the file */
    uint8_t *file; /* [bytes], as it is or was on disk */
    file_head *head;
    uint64_t *counts; /* within it */
};

static uint64_t sum_of(const heat_memory *h) {
    return XXH3_64bits(h->file, h->bytes - sizeof(uint64_t));
}

/* ---- opening ---- */

static int choose_path(heat_memory *h, const heat_memory_config *c) {
    uint64_t key = XXH3_64bits(c->cluster, strlen(c->cluster) + 1);
    key = XXH3_64bits_withSeed(c->name, strlen(c->name), key);
    int n = snprintf(h->path, sizeof(h->path), "%s/%016llx.heat", c->dir,
                     (unsigned long long)key);
    if (n < 0 || (size_t)n >= sizeof(h->path)) return ERR_TOO_LARGE;
    snprintf(h->part, sizeof(h->part), "%s.part", h->path);
    snprintf(h->dir, sizeof(h->dir), "%s", c->dir);
    return 0;
}

static void make_empty(heat_memory *h, const heat_memory_config *c) {
    memset(h->file, 0, h->bytes);
    memcpy(h->head->mark, mark, sizeof(mark));
    memcpy(h->head->model, c->model, sizeof(c->model));
    h->head->n_layers = c->n_layers;
    h->head->n_experts = c->n_experts;
}

/* Of exactly this size, or false. */
static bool read_whole(const char *path, uint8_t *out, size_t bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    struct stat st;
    size_t at = 0;
    bool good = fstat(fd, &st) == 0 && st.st_size == (off_t)bytes;
    while (good && at < bytes) {
        ssize_t n = read(fd, out + at, bytes - at);
        good = n > 0;
        if (good) at += (size_t)n;
    }
    close(fd);
    return good;
}

static void read_file(heat_memory *h, const heat_memory_config *c) {
    uint64_t sum;
    bool good = read_whole(h->path, h->file, h->bytes);
    memcpy(&sum, h->file + h->bytes - sizeof(sum), sizeof(sum));
    good = good && sum == sum_of(h) &&
           memcmp(h->head->mark, mark, sizeof(mark)) == 0 &&
           memcmp(h->head->model, c->model, sizeof(c->model)) == 0 &&
           h->head->n_layers == c->n_layers &&
           h->head->n_experts == c->n_experts;
    if (!good) make_empty(h, c);
}

int heat_memory_open(heat_memory **out, const heat_memory_config *c) {
    *out = NULL;
    uint64_t n = (uint64_t)c->n_layers * c->n_experts;
    if (n > UNITS_MOST) return ERR_TOO_LARGE;
    heat_memory *h = calloc(1, sizeof(*h));
    if (h == NULL) return -ENOMEM;
    h->bytes = sizeof(file_head) + (n + 1) * sizeof(uint64_t);
    h->file = calloc(1, h->bytes);
    int rc = h->file == NULL ? -ENOMEM : choose_path(h, c);
    if (rc < 0) {
        heat_memory_close(h);
        return rc;
    }
    h->head = (file_head *)(void *)h->file;
    h->counts = (uint64_t *)(void *)(h->file + sizeof(file_head));
    read_file(h, c);
    *out = h;
    return 0;
}

void heat_memory_close(heat_memory *h) {
    if (h == NULL) return;
    free(h->file);
    free(h);
}

/* ---- counting ---- */

uint64_t heat_memory_of(const heat_memory *h, uint32_t layer, uint32_t expert) {
    if (layer >= h->head->n_layers || expert >= h->head->n_experts) return 0;
    return h->counts[(size_t)layer * h->head->n_experts + expert];
}

void heat_memory_add(heat_memory *h, uint32_t layer, uint32_t expert,
                     uint64_t pairs) {
    if (layer >= h->head->n_layers || expert >= h->head->n_experts) return;
    uint64_t *count = &h->counts[(size_t)layer * h->head->n_experts + expert];
    *count = pairs < UINT64_MAX - *count ? *count + pairs : UINT64_MAX;
    h->changed = h->changed || pairs > 0;
}

/* ---- saving ---- */

static int write_whole(int fd, const uint8_t *bytes, size_t n) {
    while (n > 0) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return -errno;
        bytes += done;
        n -= (size_t)done;
    }
    return 0;
}

/* Not synced: if the machine dies, the older file or none is as good. */
static int replace_file(const heat_memory *h) {
    int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW;
    int fd = open(h->part, flags, 0644);
    if (fd < 0 && errno == ENOENT && mkdir(h->dir, 0755) == 0)
        fd = open(h->part, flags, 0644);
    if (fd < 0) return -errno;
    int rc = write_whole(fd, h->file, h->bytes);
    if (close(fd) < 0 && rc == 0) rc = -errno;
    if (rc == 0 && rename(h->part, h->path) < 0) rc = -errno;
    if (rc < 0) unlink(h->part);
    return rc;
}

int heat_memory_save(heat_memory *h) {
    if (!h->changed) return 0;
    size_t n = (size_t)h->head->n_layers * h->head->n_experts;
    for (size_t i = 0; i < n; i++)
        h->counts[i] -= h->counts[i] / 2;
    uint64_t sum = sum_of(h);
    memcpy(h->file + h->bytes - sizeof(sum), &sum, sizeof(sum));
    h->changed = false;
    return replace_file(h);
}
