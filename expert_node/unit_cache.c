/* unit_cache.c - the folder, its bounds, and the thread that writes out what is
 * complete.
 *
 * How full the folder is, is counted from one look at it on; since others may
 * use it as well, it is looked at again before anything is removed.  A unit's
 * time of modification is when it was last used.  Syncing takes as long as the
 * disk does, so it has a thread of its own; when too many units wait for it,
 * they are renamed unsynced: after a power failure the checksums tell. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/unit_cache_internal.h"

#define FREE_SHARE 90     /* of the disk's free bytes, in percent */
#define SLACK_SHARE 20    /* once full, 1/20 more than needed is freed */
#define REST_MS 60000     /* after trouble */
#define FINISHING_MOST 64 /* parts that wait to be synced */
#define KEYS_LEAST 64

/* Keys in an open table, at most half full; all zero: none. */
typedef struct {
    unit_key *keys;
    size_t size, count;
} key_set;

struct unit_cache {
    char dir[UNIT_CACHE_PATH];
    int dir_fd;          /* of whatever has that name; the number stays */
    uint64_t most_bytes; /* that the owner allows */
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    unit_cache_stats stats;
    key_set pins;
    key_set ignored; /* damaged, and cannot be removed */
    bool has_skipped;
    uint32_t rest_ms;
    uint64_t rest_until_ms;
    cache_part *first, **last; /* complete parts */
    size_t n_finishing;
    bool stopping;
};

/* ---- names ---- */

void unit_cache_name(const unit_key *key, const char *suffix,
                     char out[UNIT_CACHE_NAME]) {
    unit_key_hex(key, out);
    strcpy(out + UNIT_KEY_HEX - 1, suffix);
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The key in a file's name; false if it is not one of ours. */
static bool parse_name(const char *name, unit_key *key, bool *whole) {
    if (strlen(name) != UNIT_KEY_HEX - 1 + strlen(UNIT_CACHE_WHOLE))
        return false;
    for (size_t i = 0; i < UNIT_KEY_BYTES; i++) {
        int high = hex_digit(name[2 * i]), low = hex_digit(name[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        key->bytes[i] = (uint8_t)(high << 4 | low);
    }
    const char *suffix = name + UNIT_KEY_HEX - 1;
    *whole = strcmp(suffix, UNIT_CACHE_WHOLE) == 0;
    return *whole || strcmp(suffix, UNIT_CACHE_PART) == 0;
}

int unit_cache_fd(const unit_cache *c) {
    return c->dir_fd;
}

const char *unit_cache_dir(const unit_cache *c) {
    return c->dir;
}

/* ---- sets of keys ---- */

static bool is_no_key(const unit_key *k) {
    static const unit_key none;
    return memcmp(k, &none, sizeof(none)) == 0;
}

/* Where the key is or belongs. */
static size_t key_place(const key_set *s, const unit_key *key) {
    size_t at;
    memcpy(&at, key->bytes, sizeof(at));
    for (at &= s->size - 1; !is_no_key(&s->keys[at]);
         at = (at + 1) & (s->size - 1)) {
        if (memcmp(&s->keys[at], key, sizeof(*key)) == 0) break;
    }
    return at;
}

static bool has_key(const key_set *s, const unit_key *key) {
    return s->size > 0 && !is_no_key(&s->keys[key_place(s, key)]);
}

static int grow_keys(key_set *s) {
    key_set larger = {.size = s->size > 0 ? 2 * s->size : KEYS_LEAST};
    larger.keys = calloc(larger.size, sizeof(*larger.keys));
    if (larger.keys == NULL) return -ENOMEM;
    for (size_t i = 0; i < s->size; i++) {
        if (is_no_key(&s->keys[i])) continue;
        larger.keys[key_place(&larger, &s->keys[i])] = s->keys[i];
    }
    larger.count = s->count;
    free(s->keys);
    *s = larger;
    return 0;
}

static int add_key(key_set *s, const unit_key *key) {
    if (has_key(s, key)) return 0;
    int rc = 2 * (s->count + 1) > s->size ? grow_keys(s) : 0;
    if (rc < 0) return rc;
    s->keys[key_place(s, key)] = *key;
    s->count++;
    return 0;
}

/* What follows in a row is put in anew, so that no search ends too early. */
static void remove_key(key_set *s, const unit_key *key) {
    if (!has_key(s, key)) return;
    size_t at = key_place(s, key);
    s->keys[at] = (unit_key){{0}};
    s->count--;
    for (at = (at + 1) & (s->size - 1); !is_no_key(&s->keys[at]);
         at = (at + 1) & (s->size - 1)) {
        unit_key moved = s->keys[at];
        s->keys[at] = (unit_key){{0}};
        s->keys[key_place(s, &moved)] = moved;
    }
}

int unit_cache_pin(unit_cache *c, const unit_key *key, bool pinned) {
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    if (pinned) {
        rc = add_key(&c->pins, key);
    } else {
        remove_key(&c->pins, key);
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

/* ---- what is in the folder ---- */

typedef struct {
    char name[UNIT_CACHE_NAME];
    uint64_t bytes;
    struct timespec used;
    bool pinned, whole;
} entry;

typedef struct {
    entry *items;
    size_t count, room;
    uint64_t bytes;
} listing;

static int list_one(unit_cache *c, listing *l, const char *name) {
    unit_key key;
    bool whole;
    struct stat st;
    if (!parse_name(name, &key, &whole) ||
        fstatat(c->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISREG(st.st_mode)) {
        return 0;
    }
    if (l->count == l->room) {
        size_t room = l->room > 0 ? 2 * l->room : 256;
        entry *items = realloc(l->items, room * sizeof(*items));
        if (items == NULL) return -ENOMEM;
        l->items = items;
        l->room = room;
    }
    entry *e = &l->items[l->count++];
    *e = (entry){.bytes = (uint64_t)st.st_size,
                 .used = st.st_mtim,
                 .pinned = has_key(&c->pins, &key),
                 .whole = whole};
    strcpy(e->name, name);
    l->bytes += e->bytes;
    return 0;
}

static int list_folder(unit_cache *c, listing *l) {
    *l = (listing){0};
    int fd = openat(c->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (d == NULL) {
        int rc = -errno;
        if (fd >= 0) close(fd);
        return rc;
    }
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(d)) != NULL;)
        rc = list_one(c, l, e->d_name);
    closedir(d);
    return rc;
}

static int by_use(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    if (x->used.tv_nsec != y->used.tv_nsec)
        return x->used.tv_nsec < y->used.tv_nsec ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Is it a part that somebody works on? */
static bool in_the_making(const unit_cache *c, const entry *e) {
    if (e->whole) return false;
    int fd = openat(c->dir_fd, e->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return true;
    bool locked = flock(fd, LOCK_EX | LOCK_NB) < 0;
    close(fd);
    return locked;
}

/* Under the lock: remove what was not used for longest until `bytes` fit. */
static int evict(unit_cache *c, uint64_t bytes) {
    listing l;
    uint64_t most = c->stats.max_bytes;
    int rc = list_folder(c, &l);
    if (rc == 0) {
        qsort(l.items, l.count, sizeof(*l.items), by_use);
        c->stats.bytes = l.bytes;
    }
    uint64_t slack = most / SLACK_SHARE;
    uint64_t wanted = bytes <= most - slack ? most - slack - bytes : 0;
    for (size_t i = 0; i < l.count && rc == 0 && c->stats.bytes > wanted; i++) {
        const entry *e = &l.items[i];
        if (e->pinned || in_the_making(c, e)) continue;
        if (unlinkat(c->dir_fd, e->name, 0) < 0) continue;
        c->stats.bytes -= e->bytes;
        c->stats.evicted++;
    }
    free(l.items);
    if (rc == 0 && c->stats.bytes + bytes > most) rc = ERR_TOO_LARGE;
    return rc;
}

int unit_cache_reserve(unit_cache *c, uint64_t bytes) {
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    if (bytes > c->stats.max_bytes) {
        rc = ERR_TOO_LARGE;
    } else if (c->stats.bytes + bytes > c->stats.max_bytes) {
        rc = evict(c, bytes);
    }
    if (rc == 0) {
        c->stats.bytes += bytes;
    } else {
        c->stats.skipped++;
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void unit_cache_release(unit_cache *c, uint64_t bytes) {
    pthread_mutex_lock(&c->lock);
    c->stats.bytes -= size_min(bytes, c->stats.bytes);
    pthread_mutex_unlock(&c->lock);
}

/* ---- the folder itself ---- */

/* With the folders above it, as mkdir -p does. */
static int make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int rc = mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
        *slash = '/';
        if (rc == -EROFS || rc == -EACCES) continue; /* it may be there */
        if (rc < 0) return rc;
    }
    return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int open_folder(const char *dir, int *out) {
    char path[UNIT_CACHE_PATH]; /* others may be reading the name */
    strcpy(path, dir);
    int rc = make_folders(path);
    *out = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*out < 0) return rc < 0 ? rc : -errno;
    return faccessat(*out, ".", R_OK | W_OK | X_OK, AT_EACCESS) < 0 ? -errno
                                                                    : 0;
}

static int bound(unit_cache *c) {
    listing l;
    struct statvfs fs;
    int rc = list_folder(c, &l);
    free(l.items);
    if (rc < 0) return rc;
    if (fstatvfs(c->dir_fd, &fs) < 0) return -errno;
    uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
    c->stats.bytes = l.bytes;
    c->stats.max_bytes =
        size_min(c->most_bytes, l.bytes + left / 100 * FREE_SHARE);
    return 0;
}

/* ---- trouble ---- */

int unit_cache_trouble(unit_cache *c, int rc, const char *name) {
    uint64_t now = now_ms();
    pthread_mutex_lock(&c->lock);
    int before = c->stats.trouble;
    const char *full = c->stats.max_bytes < c->most_bytes
                           ? "what is assigned here fills the disk"
                           : "what is assigned here fills the cache, see "
                             "--cache-bytes";
    if (rc == 0 && now < c->rest_until_ms) { /* it was begun before */
        pthread_mutex_unlock(&c->lock);
        return 0;
    }
    c->stats.trouble = rc;
    c->rest_until_ms = rc < 0 ? now + c->rest_ms : 0;
    /* Others fill this disk, too: no more than there is now. */
    if (rc == -ENOSPC)
        c->stats.max_bytes = size_min(c->stats.max_bytes, c->stats.bytes);
    pthread_mutex_unlock(&c->lock);
    if (rc < 0 && rc != before) {
        log_warn("%s/%s cannot be written: %s; weights are not kept on disk "
                 "until that works again",
                 c->dir, name, rc == ERR_TOO_LARGE ? full : err_text(rc));
    } else if (rc == 0 && before < 0) {
        log_info("%s: weights are kept on disk again", c->dir);
    }
    return rc;
}

bool unit_cache_is_alone(const unit_cache *c, int rc, const char *name) {
    struct stat st;
    return (rc == -EACCES || rc == -EPERM || rc == -ELOOP || rc == -EISDIR) &&
           fstatat(c->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

int unit_cache_skip(unit_cache *c, int rc, const char *name) {
    pthread_mutex_lock(&c->lock);
    bool news = !c->has_skipped;
    c->has_skipped = true;
    c->stats.skipped++;
    pthread_mutex_unlock(&c->lock);
    if (news) {
        log_warn("%s/%s is not ours to write: %s; it is left alone, as is all "
                 "that is like it, and that unit not kept on disk",
                 c->dir, name, err_text(rc));
    }
    return rc;
}

/* Under the lock: somebody may have made room, or the folder anew.  Whoever is
 * about to use the descriptor goes on with the one or the other folder. */
static int look_anew(unit_cache *c) {
    int fd;
    int rc = open_folder(c->dir, &fd);
    if (rc == 0 && dup3(fd, c->dir_fd, O_CLOEXEC) < 0) rc = -errno;
    if (fd >= 0) close(fd);
    return rc == 0 ? bound(c) : rc;
}

int unit_cache_resting(unit_cache *c) {
    pthread_mutex_lock(&c->lock);
    int rc = c->stats.trouble;
    if (rc < 0 && now_ms() >= c->rest_until_ms) {
        rc = look_anew(c);
        if (rc < 0) c->rest_until_ms = now_ms() + c->rest_ms;
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void unit_cache_count_damaged(unit_cache *c, const char *name, int rc) {
    pthread_mutex_lock(&c->lock);
    c->stats.damaged++;
    pthread_mutex_unlock(&c->lock);
    if (rc == 0) {
        log_warn("%s/%s is damaged: removed, and fetched anew", c->dir, name);
    } else {
        log_warn("%s/%s is damaged, and cannot be removed: %s; it is not read "
                 "any more, and fetched anew",
                 c->dir, name, err_text(rc));
    }
}

/* ---- whole units ---- */

/* -1: there is none, or it is known to be damaged.  What waits for a writer,
 * and is no file, is not waited for. */
static int open_whole(unit_cache *c, const unit_key *key) {
    char name[UNIT_CACHE_NAME];
    pthread_mutex_lock(&c->lock);
    bool ignored = has_key(&c->ignored, key);
    pthread_mutex_unlock(&c->lock);
    if (ignored) return -1;
    unit_cache_name(key, UNIT_CACHE_WHOLE, name);
    return openat(c->dir_fd, name,
                  O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

int unit_cache_find(unit_cache *c, const unit_key *key, uint64_t bytes,
                    int *fd) {
    struct stat st;
    *fd = open_whole(c, key);
    if (*fd < 0) return ERR_NOT_HERE;
    if (fstat(*fd, &st) < 0 || (uint64_t)st.st_size != bytes) {
        close(*fd);
        *fd = -1;
        unit_cache_drop(c, key);
        return ERR_NOT_HERE;
    }
    const struct timespec now[2] = {{.tv_nsec = UTIME_OMIT},
                                    {.tv_nsec = UTIME_NOW}};
    (void)futimens(*fd, now); /* another user's file may not be touched */
    pthread_mutex_lock(&c->lock);
    c->stats.hits++;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

int unit_cache_read(unit_cache *c, const unit_key *key, uint64_t unit_bytes,
                    uint64_t offset, size_t bytes, void *out) {
    struct stat st;
    int fd = open_whole(c, key);
    if (fd < 0) return ERR_NOT_HERE;
    int rc = fstat(fd, &st) == 0 && (uint64_t)st.st_size == unit_bytes
                 ? 0
                 : ERR_NOT_HERE;
    uint8_t *to = out;
    while (rc == 0 && bytes > 0) {
        ssize_t got = pread(fd, to, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            rc = got < 0 ? -errno : ERR_NOT_HERE;
            break;
        }
        to += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    close(fd);
    return rc;
}

static int remove_file(unit_cache *c, const char *name) {
    if (failpoint("unit_cache.remove")) return -EPERM;
    return unlinkat(c->dir_fd, name, 0) < 0 ? -errno : 0;
}

void unit_cache_drop(unit_cache *c, const unit_key *key) {
    char name[UNIT_CACHE_NAME];
    struct stat st;
    unit_cache_name(key, UNIT_CACHE_WHOLE, name);
    if (fstatat(c->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) return;
    int rc = remove_file(c, name);
    if (rc == -ENOENT) return; /* another process was quicker */
    if (rc == 0) {
        unit_cache_release(c, (uint64_t)st.st_size);
    } else {
        pthread_mutex_lock(&c->lock);
        (void)add_key(&c->ignored, key); /* or it is found damaged once more */
        pthread_mutex_unlock(&c->lock);
    }
    unit_cache_count_damaged(c, name, rc);
}

void unit_cache_replaced(unit_cache *c, const unit_key *key) {
    pthread_mutex_lock(&c->lock);
    remove_key(&c->ignored, key);
    pthread_mutex_unlock(&c->lock);
}

/* ---- writing out ---- */

static void *cache_main(void *arg) {
    unit_cache *c = arg;
    thread_in_background("cache");
    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (c->first == NULL && !c->stopping)
            pthread_cond_wait(&c->wake, &c->lock);
        cache_part *p = c->first;
        if (p == NULL) break;
        c->first = p->next;
        if (c->first == NULL) c->last = &c->first;
        pthread_mutex_unlock(&c->lock);
        cache_part_finish(p, true);
        pthread_mutex_lock(&c->lock);
        c->n_finishing--;
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

void unit_cache_finish(unit_cache *c, cache_part *p) {
    pthread_mutex_lock(&c->lock);
    bool queued = c->n_finishing < FINISHING_MOST;
    c->stats.kept++;
    if (queued) {
        p->next = NULL;
        *c->last = p;
        c->last = &p->next;
        c->n_finishing++;
        pthread_cond_signal(&c->wake);
    }
    pthread_mutex_unlock(&c->lock);
    if (!queued) cache_part_finish(p, false);
}

/* ---- opening and closing ---- */

int unit_cache_open(unit_cache **out, const unit_cache_config *config,
                    char *why, size_t why_size) {
    *out = NULL;
    if (strlen(config->dir) >= UNIT_CACHE_PATH) {
        return err_why(why, why_size, ERR_RANGE, "%.60s...: a path too long",
                       config->dir);
    }
    unit_cache *c = calloc(1, sizeof(*c));
    if (c == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    strcpy(c->dir, config->dir);
    c->dir_fd = -1;
    c->most_bytes = config->max_bytes;
    c->rest_ms = config->rest_ms > 0 ? config->rest_ms : REST_MS;
    c->last = &c->first;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->wake, NULL);

    int rc = open_folder(c->dir, &c->dir_fd);
    if (rc == 0) rc = bound(c);
    if (rc == 0) {
        rc = -pthread_create(&c->thread, NULL, cache_main, c);
        c->has_thread = rc == 0;
    }
    if (rc < 0) {
        unit_cache_close(c);
        return err_why(why, why_size, rc, "%s cannot be used: %s", config->dir,
                       err_text(rc));
    }
    *out = c;
    return 0;
}

void unit_cache_close(unit_cache *c) {
    if (c == NULL) return;
    if (c->has_thread) {
        pthread_mutex_lock(&c->lock);
        c->stopping = true;
        pthread_cond_signal(&c->wake);
        pthread_mutex_unlock(&c->lock);
        pthread_join(c->thread, NULL);
    }
    assert(c->first == NULL);
    if (c->dir_fd >= 0) close(c->dir_fd);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c->pins.keys);
    free(c->ignored.keys);
    free(c);
}

unit_cache_stats unit_cache_look(unit_cache *c) {
    pthread_mutex_lock(&c->lock);
    unit_cache_stats s = c->stats;
    pthread_mutex_unlock(&c->lock);
    return s;
}
