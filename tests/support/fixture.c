/* fixture.c - see fixture.h.
 *
 * Paths are kept in a list until the process ends, so that tests need not free
 * them.  A child that was forked does not remove its parent's folder. */
#include "tests/support/fixture.h"

#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PATHS 65536

static char *folder;
static pid_t owner;
static char *paths[MAX_PATHS];
static size_t n_paths;

static _Noreturn void die(const char *what, const char *path) {
    fprintf(stderr, "fixture: %s: ", path);
    perror(what);
    abort();
}

static int remove_entry(const char *path, const struct stat *st, int kind,
                        struct FTW *at) {
    (void)st, (void)kind, (void)at;
    return remove(path);
}

static void clean_up(void) {
    if (owner == getpid()) nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    for (size_t i = 0; i < n_paths; i++)
        free(paths[i]);
    free(folder);
}

static void make_folder(void) {
    const char *base = getenv("TMPDIR");
    if (base == NULL || *base == '\0') base = "/tmp";
    if (asprintf(&folder, "%s/roster-test-XXXXXX", base) < 0) abort();
    if (mkdtemp(folder) == NULL) die("mkdtemp", folder);
    owner = getpid();
    atexit(clean_up);
}

static const char *keep_path(const char *base, const char *name) {
    if (n_paths == MAX_PATHS) abort();
    if (asprintf(&paths[n_paths], "%s/%s", base, name) < 0) abort();
    return paths[n_paths++];
}

const char *fixture_path(const char *name) {
    if (folder == NULL) make_folder();
    return keep_path(folder, name);
}

void fixture_write(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (f == NULL) die("open", path);
    if (n > 0 && fwrite(bytes, 1, n, f) != n) die("write", path);
    if (fclose(f) != 0) die("close", path);
}

uint8_t *fixture_read(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (f == NULL) die("open", path);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = malloc(*n + 1);
    if (bytes == NULL || fread(bytes, 1, *n, f) != *n) die("read", path);
    fclose(f);
    return bytes;
}

const char *fixture_shared(const char *name, const char *what) {
    const char *base = getenv("ROSTER_SHARED");
    if (base == NULL || *base == '\0') base = "../shared";
    if (folder == NULL) make_folder();
    const char *path = keep_path(base, name);
    if (access(path, R_OK) == 0) return path;
    printf("skipped: %s (%s is not there)\n", what, path);
    return NULL;
}
