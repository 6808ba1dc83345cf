/* fetch.h - reads a model's files from coordinators that have them.
 *
 * A DEALER to a coordinator's weights endpoint: what the model is, and byte
 * ranges of its files, in pieces with a few outstanding.  A source that brings
 * nothing for a while, or refuses, is left for the next one; when all have been
 * tried in vain the read fails, and the caller decides when to try again.
 *
 * One thread (the loading one) reads.  Sources, expectation, stop and the
 * source's name: any thread. */
#ifndef EXPERT_NODE_FETCH_H
#define EXPERT_NODE_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/expert_store.h"
#include "engine/fingerprint.h"

#define FETCH_MAX_SOURCES 64
#define FETCH_SOURCE_SIZE 256 /* of an endpoint's text, with the zero byte */

typedef struct {
    const char *cluster; /* borrowed */
    uint64_t boot_id;
    bool insecure;     /* sources may be beyond the loopback interface */
    uint32_t stall_ms; /* 0: 5,000; without progress, a source is given up */
} fetch_config;

typedef struct fetch fetch;
int fetch_new(fetch **out, const fetch_config *c);
void fetch_free(fetch *f); /* NULL is fine */

/* ---- any thread ---- */

/* Who has the model, best first; more than FETCH_MAX_SOURCES are cut off.
 * Takes effect in the middle of a read: a source in use that is not listed any
 * more is left. */
void fetch_set_sources(fetch *f, const char *const *endpoints, size_t n);
/* Only sources of this model will do; NULL: any. */
void fetch_expect(fetch *f, const fingerprint *print);
/* What is being read, and all that is tried later, is ERR_CANCELLED. */
void fetch_stop(fetch *f);
/* The source in use; "" if none is.  Returns `out`. */
char *fetch_source(fetch *f, char out[FETCH_SOURCE_SIZE]);

/* ---- the loading thread ---- */

typedef struct {
    char *name; /* without folders */
    uint64_t bytes, mtime_ns, head_bytes;
} fetch_file;

typedef struct {
    fetch_file *files;
    size_t n_files; /* 1 or more */
    uint64_t manifest_bytes;
    fingerprint print;
} fetch_model;

/* What the first source that answers serves.  The caller frees it with
 * _fini().  Codes as below. */
int fetch_ask(fetch *f, fetch_model *out, char *why, size_t why_size);
void fetch_model_fini(fetch_model *m);

/* span->count pieces of span->bytes of file number `file` (n_files: the
 * manifest), one after the other into `out`.  Any size, but a piece of several
 * is at most EXPERT_SPAN_MAX.  ERR_UNAVAILABLE: no source is known;
 * ERR_DEADLINE: none brings anything; ERR_CANCELLED; or what the last source
 * refused it with; with a sentence. */
int fetch_read(fetch *f, uint32_t file, const expert_span *span, void *out,
               char *why, size_t why_size);

/* For an expert_store: `ctx` is the fetch. */
int fetch_tensor(void *ctx, const gguf_tensor *t, const expert_span *span,
                 void *out, char *why, size_t why_size);

#endif
