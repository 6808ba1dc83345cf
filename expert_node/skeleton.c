/* skeleton.c - see skeleton.h.
 *
 * A source can name any sizes.  Sparse files cost nothing, but heads and
 * manifest are bytes on disk and in memory: they are limited before anything is
 * fetched.  What was pulled is opened by the same code as a file, which trusts
 * nothing in it, and must have the fingerprint that the source claims.
 *
 * The manifest is bound to its files' sizes and times, so the files get the
 * times that they have at the source; and it must not look as if it was written
 * in the same moment, so it gets a later one (manifest_file.c).
 *
 * A process that is killed while it pulls leaves its folder behind.  The next
 * one that pulls removes it: a folder in use is locked. */
#include "expert_node/skeleton.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/model.h"
#include "engine/util.h"

#define FILE_MOST ((uint64_t)1 << 46)
#define HEAD_MOST ((uint64_t)512 << 20) /* of one file */
#define HEADS_MOST ((uint64_t)1 << 30)  /* of all files, with the manifest */
#define STAGING_BYTES ((size_t)4 << 20)
#define SUFFIX ".roster"
#define FOLDER "roster-model-"
#define UNIQUE "XXXXXX" /* what mkdtemp() replaces */
#define KEPT "model-"
#define ABANDONED_S 60 /* a folder gets its lock as soon as it is made */
#define NAME_MOST 200
#define SECOND_NS 1000000000u
#define PATH_SIZE 1200

typedef struct {
    fetch *fetch;
    fetch_model model;
    const char *dir; /* where it is to be kept; NULL: nowhere */
    char folder[PATH_SIZE];
    int folder_fd; /* -1: none */
    uint8_t *staging;
} puller;

/* ---- limits ---- */

/* A name within the folder, and nothing else. */
static bool sound_name(const char *name) {
    size_t len = strlen(name);
    return len > 0 && len <= NAME_MOST && name[0] != '.' &&
           strchr(name, '/') == NULL;
}

static int check_model(const fetch_model *m, char *why, size_t why_size) {
    uint64_t heads = m->manifest_bytes;
    if (heads > HEAD_MOST) {
        return err_why(why, why_size, ERR_TOO_LARGE, "a manifest of %llu bytes",
                       (unsigned long long)heads);
    }
    for (size_t i = 0; i < m->n_files; i++) {
        const fetch_file *f = &m->files[i];
        if (!sound_name(f->name)) {
            return err_why(why, why_size, ERR_MALFORMED,
                           "a file of the model has no usable name");
        }
        if (f->bytes > FILE_MOST || f->head_bytes > HEAD_MOST ||
            f->head_bytes > f->bytes) {
            return err_why(why, why_size, ERR_TOO_LARGE,
                           "%s: %llu bytes, the first %llu of them its head",
                           f->name, (unsigned long long)f->bytes,
                           (unsigned long long)f->head_bytes);
        }
        heads += f->head_bytes;
    }
    if (heads <= HEADS_MOST) return 0;
    return err_why(why, why_size, ERR_TOO_LARGE,
                   "%llu bytes of metadata in %zu files",
                   (unsigned long long)heads, m->n_files);
}

/* ---- writing ---- */

static int cannot_write(const puller *p, const char *name, char *why,
                        size_t why_size) {
    int rc = -errno;
    return err_why(why, why_size, rc, "%s/%s: %s", p->folder, name,
                   err_text(rc));
}

/* The first `bytes` of file number `number` into `fd`. */
static int pull_bytes(puller *p, int fd, uint32_t number, uint64_t bytes,
                      const char *name, char *why, size_t why_size) {
    for (uint64_t at = 0; at < bytes;) {
        size_t n =
            (size_t)(bytes - at < STAGING_BYTES ? bytes - at : STAGING_BYTES);
        int rc = fetch_read(p->fetch, number, at, n, p->staging, why, why_size);
        if (rc < 0) return rc;
        for (size_t done = 0; done < n;) {
            ssize_t put =
                pwrite(fd, p->staging + done, n - done, (off_t)(at + done));
            if (put < 0 && errno == EINTR) continue;
            if (put < 0) return cannot_write(p, name, why, why_size);
            done += (size_t)put;
        }
        at += n;
    }
    return 0;
}

static int pull_file(puller *p, uint32_t number, const char *name,
                     uint64_t bytes, uint64_t head_bytes, uint64_t mtime_ns,
                     char *why, size_t why_size) {
    int fd = openat(p->folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                    0600);
    if (fd < 0) return cannot_write(p, name, why, why_size);
    const struct timespec at = {.tv_sec = (time_t)(mtime_ns / SECOND_NS),
                                .tv_nsec = (long)(mtime_ns % SECOND_NS)};
    const struct timespec times[2] = {at, at};

    int rc = 0;
    if (ftruncate(fd, (off_t)bytes) < 0) {
        rc = cannot_write(p, name, why, why_size);
    }
    if (rc == 0) {
        rc = pull_bytes(p, fd, number, head_bytes, name, why, why_size);
    }
    if (rc == 0 && futimens(fd, times) < 0) {
        rc = cannot_write(p, name, why, why_size);
    }
    if (close(fd) < 0 && rc == 0) rc = cannot_write(p, name, why, why_size);
    return rc;
}

/* "NAME.roster" of the first file. */
static const char *manifest_name(const puller *p, char out[NAME_MOST + 16]) {
    snprintf(out, NAME_MOST + 16, "%s" SUFFIX, p->model.files[0].name);
    return out;
}

static int pull_manifest(puller *p, char *why, size_t why_size) {
    uint64_t newest = 0;
    for (size_t i = 0; i < p->model.n_files; i++) {
        if (p->model.files[i].mtime_ns > newest)
            newest = p->model.files[i].mtime_ns;
    }
    char name[NAME_MOST + 16];
    uint64_t bytes = p->model.manifest_bytes;
    return pull_file(p, (uint32_t)p->model.n_files, manifest_name(p, name),
                     bytes, bytes, newest + SECOND_NS, why, why_size);
}

static int pull_all(puller *p, char *why, size_t why_size) {
    int rc = 0;
    for (size_t i = 0; i < p->model.n_files && rc == 0; i++) {
        const fetch_file *f = &p->model.files[i];
        rc = pull_file(p, (uint32_t)i, f->name, f->bytes, f->head_bytes,
                       f->mtime_ns, why, why_size);
    }
    return rc < 0 ? rc : pull_manifest(p, why, why_size);
}

/* ---- what others left ---- */

static bool is_folder_name(const char *name) {
    return strncmp(name, FOLDER, strlen(FOLDER)) == 0 &&
           strlen(name) == strlen(FOLDER UNIQUE);
}

/* Ours, and locked by us: whoever made it is not there any more. */
static bool is_abandoned(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_uid == geteuid() &&
           time(NULL) - st.st_mtime >= ABANDONED_S &&
           flock(fd, LOCK_EX | LOCK_NB) == 0;
}

/* Takes over `fd`. */
static void remove_files(int fd) {
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        (void)unlinkat(fd, e->d_name, 0); /* no folders, hence not "." */
    closedir(d);
}

/* Remove folders of pulls that were killed; what cannot be removed stays. */
static void sweep(const char *base) {
    DIR *d = opendir(base);
    if (d == NULL) return;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!is_folder_name(e->d_name)) continue;
        int fd = openat(dirfd(d), e->d_name,
                        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) continue;
        if (is_abandoned(fd)) {
            remove_files(fd);
            (void)unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
        } else {
            close(fd);
        }
    }
    closedir(d);
}

/* ---- the folder ---- */

static int make_folder(puller *p, char *why, size_t why_size) {
    const char *base = p->dir != NULL ? p->dir : getenv("TMPDIR");
    if (base == NULL || base[0] != '/') base = "/tmp";
    sweep(base);
    int n = snprintf(p->folder, sizeof(p->folder), "%s/" FOLDER UNIQUE, base);
    if (n < 0 || (size_t)n >= sizeof(p->folder)) {
        return err_why(why, why_size, ERR_RANGE, "%.60s... is too long", base);
    }
    if (mkdtemp(p->folder) == NULL) {
        int rc = -errno;
        return err_why(why, why_size, rc, "cannot make a folder in %s: %s",
                       base, err_text(rc));
    }
    p->folder_fd = open(p->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->folder_fd < 0) {
        int rc = cannot_write(p, "", why, why_size);
        rmdir(p->folder);
        return rc;
    }
    (void)flock(p->folder_fd, LOCK_EX | LOCK_NB); /* where there are locks */
    return 0;
}

/* Whatever was written of it. */
static void remove_folder(puller *p) {
    if (p->folder_fd < 0) return;
    for (size_t i = 0; i < p->model.n_files; i++)
        unlinkat(p->folder_fd, p->model.files[i].name, 0);
    char name[NAME_MOST + 16];
    unlinkat(p->folder_fd, manifest_name(p, name), 0);
    close(p->folder_fd);
    rmdir(p->folder);
}

/* ---- opening ---- */

/* The model whose first file is `name` in `folder`. */
static int open_model(skeleton *out, const char *folder, const char *name,
                      char *why, size_t why_size) {
    model_config known;
    char *path;
    if (asprintf(&path, "%s/%s", folder, name) < 0) {
        return err_why(why, why_size, -ENOMEM, "out of memory");
    }
    int rc = gguf_open(&out->g, path, why, why_size);
    free(path);
    if (rc < 0) return rc;
    /* What a newer release sums of a model that we do not know may be laid out
     * in another way: so it is the model that is named, not its manifest. */
    rc = model_read(&known, out->g, why, why_size);
    if (rc < 0) return rc;
    rc = manifest_open_kept(&out->checks, out->g, why, why_size);
    if (rc < 0) return rc;
    rc = fingerprint_of(out->g, out->checks, &out->print);
    if (rc == 0) return 0;
    return err_why(why, why_size, rc, "the model's fingerprint: %s",
                   err_text(rc));
}

static void close_model(skeleton *k) {
    manifest_close(k->checks);
    gguf_close(k->g);
    *k = (skeleton){0};
}

static int open_pulled(skeleton *out, const puller *p, char *why,
                       size_t why_size) {
    int rc = open_model(out, p->folder, p->model.files[0].name, why, why_size);
    if (rc < 0) return rc;
    if (fingerprint_equal(&out->print, &p->model.print)) return 0;
    return err_why(why, why_size, ERR_CHECKSUM,
                   "what was fetched has another fingerprint than its source "
                   "says");
}

static int pull(skeleton *out, puller *p, char *why, size_t why_size) {
    int rc = fetch_ask(p->fetch, &p->model, why, why_size);
    if (rc < 0) return rc;
    rc = check_model(&p->model, why, why_size);
    if (rc < 0) return rc;
    p->staging = malloc(STAGING_BYTES);
    if (p->staging == NULL) {
        return err_why(why, why_size, -ENOMEM, "out of memory");
    }
    rc = make_folder(p, why, why_size);
    if (rc == 0) rc = pull_all(p, why, why_size);
    if (rc == 0) rc = open_pulled(out, p, why, why_size);
    return rc;
}

/* ---- what is kept ---- */

static void kept_path(const char *dir, const fingerprint *print,
                      char out[PATH_SIZE]) {
    char hex[FINGERPRINT_HEX_SIZE];
    snprintf(out, PATH_SIZE, "%s/" KEPT "%s", dir, fingerprint_hex(print, hex));
}

bool skeleton_is_kept(const char *dir, const fingerprint *print) {
    char path[PATH_SIZE];
    kept_path(dir, print, path);
    return access(path, R_OK | X_OK) == 0;
}

/* The first file: the one that has a manifest beside it. */
static bool find_first_file(const char *folder, char out[NAME_MOST + 1]) {
    DIR *d = opendir(folder);
    bool found = false;
    if (d == NULL) return false;
    for (struct dirent *e; !found && (e = readdir(d)) != NULL;) {
        size_t len = strlen(e->d_name), tail = strlen(SUFFIX);
        if (len <= tail || len - tail > NAME_MOST ||
            strcmp(e->d_name + len - tail, SUFFIX) != 0) {
            continue;
        }
        memcpy(out, e->d_name, len - tail);
        out[len - tail] = '\0';
        found = true;
    }
    closedir(d);
    return found;
}

static void remove_kept(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return;
    remove_files(fd);
    (void)rmdir(path);
}

/* false: it is not there, or was damaged and is removed. */
static bool open_kept(skeleton *out, const skeleton_place *place) {
    char path[PATH_SIZE], name[NAME_MOST + 1], why[256] = "";
    kept_path(place->dir, place->wanted, path);
    if (access(path, F_OK) != 0) return false;
    int rc = ERR_NOT_HERE;
    if (find_first_file(path, name)) {
        rc = open_model(out, path, name, why, sizeof(why));
        if (rc == 0 && !fingerprint_equal(&out->print, place->wanted))
            rc = ERR_CHECKSUM;
    }
    if (rc == 0) return true;
    log_warn("%s is damaged: removed, and fetched anew (%s)", path,
             why[0] != '\0' ? why : err_text(rc));
    close_model(out);
    remove_kept(path);
    return false;
}

/* Another process may have been faster, and has kept the same. */
static void keep(puller *p, const fingerprint *print) {
    char path[PATH_SIZE];
    kept_path(p->dir, print, path);
    if (rename(p->folder, path) < 0) {
        if (errno != EEXIST && errno != ENOTEMPTY) {
            log_warn("%s cannot be kept: %s", path, err_text(-errno));
        }
        return;
    }
    close(p->folder_fd);
    p->folder_fd = -1; /* it is not removed */
}

/* Pull it by way of a folder in `dir` (NULL: a temporary one). */
static int pull_into(skeleton *out, fetch *f, const char *dir, char *why,
                     size_t why_size) {
    puller p = {.fetch = f, .dir = dir, .folder_fd = -1};
    int rc = pull(out, &p, why, why_size);
    if (rc == 0 && dir != NULL) keep(&p, &out->print);
    remove_folder(&p);
    free(p.staging);
    fetch_model_fini(&p.model);
    if (rc < 0) close_model(out);
    return rc;
}

int skeleton_open(skeleton *out, fetch *f, const skeleton_place *place,
                  char *why, size_t why_size) {
    *out = (skeleton){0};
    if (place->dir != NULL && place->wanted != NULL && open_kept(out, place))
        return 0;
    int rc = pull_into(out, f, place->dir, why, why_size);
    bool disk = rc < 0 && rc > ERR_FIRST; /* an error of the system's */
    if (!disk || place->dir == NULL) return rc;
    log_warn("the model's description cannot be kept: %s", why);
    return pull_into(out, f, NULL, why, why_size);
}
