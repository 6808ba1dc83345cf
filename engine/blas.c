/* blas.c - see blas.h.
 *
 * OpenBLAS reads OPENBLAS_CORETYPE once, when it is loaded: hence dlopen()
 * after setenv(), and never a link-time dependency.  It takes the name without
 * a word if it knows it and goes its own way if not, so the core in force is
 * asked for afterwards.  If something else in the process had loaded it before,
 * the variable came too late; the same question finds that out.
 *
 * One lock guards every call.  Debian's serial build is not safe for several
 * threads: its allocator picks a work buffer without a lock, two calls may be
 * given the same one, and sums then come out wrong (seen with 0.3.21: 4 % of
 * small products from 8 threads). */
#include "engine/blas.h"

#include <assert.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu.h"
#include "engine/err.h"

#define LIBRARY "libopenblas.so.0"

/* cblas.h's numbers, which are part of its ABI. */
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

typedef void (*sgemm_fn)(int order, int trans_a, int trans_b, int m, int n,
                         int k, float alpha, const float *a, int lda,
                         const float *b, int ldb, float beta, float *c,
                         int ldc);
typedef char *(*get_corename_fn)(void);
typedef void (*set_num_threads_fn)(int n);

static sgemm_fn sgemm;   /* set by blas_open(), before threads */
static const char *core; /* the core type in force; NULL until then */

/* Guards the library's shared work buffers: held during every product. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* By what the CPU has, not by the level in force: ROSTER_CPU must not change a
 * bit. */
static const char *wanted_core(void) {
    return cpu_best() >= CPU_AVX2 ? "Haswell" : "Nehalem";
}

/* Load the library with the core type in its environment.  Whatever the user
 * had set there is put back: it is meant for other programs. */
static void *load(const char *core_type) {
    static const char variable[] = "OPENBLAS_CORETYPE";
    const char *before = getenv(variable);
    char *saved = before != NULL ? strdup(before) : NULL;
    void *library = NULL;

    if (setenv(variable, core_type, 1) == 0) {
        library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    }
    if (saved != NULL) {
        setenv(variable, saved, 1);
    } else {
        unsetenv(variable);
    }
    free(saved);
    return library;
}

/* Look a function up.  `fn` points to a function pointer: ISO C has no cast
 * from what dlsym() returns, POSIX says that the bytes may be copied. */
static bool find(void *library, const char *name, void *fn) {
    void *symbol = dlsym(library, name);
    memcpy(fn, &symbol, sizeof(symbol));
    return symbol != NULL;
}

int blas_open(char *why, size_t why_size) {
    if (sgemm != NULL) return 0;

    const char *wanted = wanted_core();
    void *library = load(wanted);
    if (library == NULL) {
        const char *reason = dlerror();
        return err_why(why, why_size, ERR_UNSUPPORTED,
                       "cannot load OpenBLAS (Debian: libopenblas0-serial): %s",
                       reason != NULL ? reason : "no memory");
    }

    sgemm_fn product;
    get_corename_fn get_corename;
    set_num_threads_fn set_num_threads;
    if (!find(library, "cblas_sgemm", &product) ||
        !find(library, "openblas_get_corename", &get_corename) ||
        !find(library, "openblas_set_num_threads", &set_num_threads)) {
        dlclose(library);
        return err_why(why, why_size, ERR_UNSUPPORTED,
                       "%s lacks cblas_sgemm or a function of OpenBLAS",
                       LIBRARY);
    }

    const char *got = get_corename();
    if (got == NULL || strcmp(got, wanted) != 0) {
        int rc = err_why(why, why_size, ERR_UNSUPPORTED,
                         "OpenBLAS runs as core type %s instead of %s: its "
                         "build lacks that type, or something in this process "
                         "loaded it before",
                         got != NULL ? got : "unknown", wanted);
        dlclose(library);
        return rc;
    }
    set_num_threads(1);
    core = wanted;
    sgemm = product;
    return 0;
}

const char *blas_core(void) {
    return core != NULL ? core : wanted_core();
}

void blas_tile(size_t n_out, size_t n_in, const float *w, const float *x,
               float *y) {
    assert(sgemm != NULL);
    assert(n_out > 0 && n_out <= INT32_MAX && n_in > 0 && n_in <= INT32_MAX);
    int rows = (int)n_out, cols = (int)n_in;

    pthread_mutex_lock(&lock);
    sgemm(ROW_MAJOR, NO_TRANS, TRANS, BLAS_TILE, rows, cols, 1.0f, x, cols, w,
          cols, 0.0f, y, rows);
    pthread_mutex_unlock(&lock);
}
