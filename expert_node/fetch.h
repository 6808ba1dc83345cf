/* fetch.h - brings a model's bytes from those who have them: coordinators, and
 * nodes that hold the unit in question.
 *
 * What is wanted is cut into pieces; several sources are asked at once, each
 * for a few pieces, faster ones for more.  A source that is slow, refuses or
 * breaks loses its pieces to others, and what has arrived is kept; with a cache
 * also when this process ends.  When nobody is left to ask, the read fails, and
 * the caller decides when to try again.
 *
 * The fetch has a thread of its own, so that the next unit arrives while the
 * present one is packed.  Reading: one thread (the loading one); all else: any
 * thread. */
#ifndef EXPERT_NODE_FETCH_H
#define EXPERT_NODE_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/fingerprint.h"
#include "engine/unit_image.h"
#include "expert_node/unit_cache.h"

#define FETCH_MAX_SOURCES 64  /* known at a time, of both kinds */
#define FETCH_MAX_HOLDERS 8   /* nodes, of one unit */
#define FETCH_SOURCE_SIZE 256 /* of an endpoint's text, with the zero byte */

typedef struct {
    const char *cluster; /* borrowed */
    uint64_t boot_id;
    bool insecure;     /* sources may be beyond the loopback interface */
    uint32_t stall_ms; /* 0: 5,000; without progress, a source is given up */
} fetch_config;

typedef struct fetch fetch;
int fetch_new(fetch **out, const fetch_config *c);
void fetch_free(fetch *f); /* nobody reads any more; NULL is fine */

/* Who has all of the model: coordinators.  Beyond half of FETCH_MAX_SOURCES, a
 * part of them is used, another one in every process.  Takes effect at once. */
void fetch_set_sources(fetch *f, const char *const *endpoints, size_t n);
/* Only sources of this model will do; NULL: any. */
void fetch_expect(fetch *f, const fingerprint *print);
/* What is being read, and all that is tried later, is ERR_CANCELLED. */
void fetch_stop(fetch *f);

/* ---- the model's files; the loading thread ---- */

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

/* Bytes of file number `file` (n_files: the manifest).  ERR_UNAVAILABLE: no
 * source is known; ERR_DEADLINE: none brings anything; ERR_CANCELLED; or what
 * the last source refused it with; with a sentence. */
int fetch_read(fetch *f, uint32_t file, uint64_t offset, size_t bytes,
               void *out, char *why, size_t why_size);

/* ---- units ---- */

typedef struct {
    unit_image image; /* of a model that stays open until the unit's end */
    unit_key key;
    unit_cache *cache; /* NULL: none */
    /* Nodes that have it, beside the sources of everything. */
    const char *const *holders;
    size_t n_holders;
} fetch_order;

/* Where a unit's bytes came from. */
typedef struct {
    bool from_disk; /* some of them, from the cache */
} fetch_origin;

typedef struct fetch_unit fetch_unit;

/* Begin to bring a unit, after those that were begun before: from the cache, if
 * it is there.  -ENOMEM. */
int fetch_unit_begin(fetch *f, const fetch_order *o, fetch_unit **out);

/* Bytes of its image, from the beginning to the end, once; waits for them.
 * Codes as fetch_read()'s. */
int fetch_unit_read(fetch_unit *u, uint64_t at, size_t bytes, void *out,
                    char *why, size_t why_size);

/* It is loaded (0), damaged (ERR_CHECKSUM: its sources are doubted, its copy on
 * disk is gone) or not wanted any more (any other code: what has arrived stays
 * on disk).  Frees it. */
fetch_origin fetch_unit_end(fetch_unit *u, int rc);

/* ---- reports ---- */

typedef struct {
    char endpoint[FETCH_SOURCE_SIZE];
    uint64_t bytes, pieces, refusals, damaged, failures;
    bool listed, connected, resting;
} fetch_source_figures;

typedef struct {
    uint64_t wanted_bytes;  /* of what is under way, still to come */
    uint64_t fetched_bytes; /* that arrived from sources, since the start */
    uint64_t cached_bytes;  /* that did not have to be fetched */
    uint64_t
        resumed_bytes; /* of those, out of units that were left unfinished */
    uint64_t damaged;  /* pieces and units that were fetched in vain */
    size_t n_sources;
    fetch_source_figures sources[FETCH_MAX_SOURCES];
} fetch_figures;
void fetch_look(fetch *f, fetch_figures *out);

#endif
