/* manifest.c - cuts tensors into segments, sums them and compares.
 *
 * Tensors are read with pread in pieces of at most PIECE_BYTES and never
 * touched in the map: a process that only checks a model of 400 GB must not
 * have it counted as its memory. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/first_failure.h"
#include "engine/log.h"
#include "engine/manifest_internal.h"
#include "engine/util.h"
#include "engine/weight.h"

#define PIECE_BYTES ((size_t)256 << 10)
#define MAX_SUMS ((size_t)1 << 24)
#define WORTH_A_LOG_LINE ((uint64_t)1 << 30)

/* ---- the cut ---- */

static bool contains(gguf_string s, const char *part) {
    return s.len > 0 && memmem(s.data, s.len, part, strlen(part)) != NULL;
}

static bool ends_with(gguf_string s, const char *end) {
    size_t n = strlen(end);
    return s.len >= n && memcmp(s.data + s.len - n, end, n) == 0;
}

/* Names of stacked tensors of which a slice has whole rows, or so many values
 * of a bias: how many slabs of an expert are in one. */
static const struct {
    const char *end;
    uint32_t slabs;
} cut_by_rows[] = {
    {".ffn_gate_exps.weight", 1},    {".ffn_gate_exps.bias", 1},
    {".ffn_up_exps.weight", 1},      {".ffn_up_exps.bias", 1},
    {".ffn_gate_up_exps.weight", 2}, {".ffn_gate_up_exps.bias", 2},
};

/* 0: it is not such a tensor. */
static uint32_t slabs_cut_by_rows(gguf_string name) {
    for (size_t i = 0; i < ARRAY_LEN(cut_by_rows); i++) {
        if (ends_with(name, cut_by_rows[i].end)) return cut_by_rows[i].slabs;
    }
    return 0;
}

static uint64_t stored_row_bytes(const gguf_tensor *t) {
    size_t block_len, block_bytes;
    if (!weight_type_size(t->type, &block_len, &block_bytes)) return 0;
    return t->dims[0] / block_len * block_bytes;
}

static manifest_layout cut(const gguf_tensor *t) {
    manifest_layout l = {.n_slabs = 1, .n_segments = 1};
    uint32_t slabs = slabs_cut_by_rows(t->name);
    if (t->n_dims >= 2 && contains(t->name, "_exps.")) {
        l.n_slabs = t->dims[t->n_dims - 1];
    }
    l.slab_bytes = t->bytes / l.n_slabs;
    if (slabs > 1 && l.slab_bytes % slabs == 0) {
        l.n_slabs *= slabs;
        l.slab_bytes /= slabs;
    }
    l.piece_bytes = l.slab_bytes;

    if (slabs > 0 && l.slab_bytes % MANIFEST_SEGMENTS == 0) {
        l.n_segments = MANIFEST_SEGMENTS;
        l.piece_bytes = l.slab_bytes / MANIFEST_SEGMENTS;
    } else if (ends_with(t->name, ".ffn_down_exps.weight")) {
        uint64_t row = stored_row_bytes(t);
        while (row > 0 && l.n_segments < MANIFEST_SEGMENTS &&
               row % (2 * l.n_segments) == 0) {
            l.n_segments *= 2;
        }
        if (l.n_segments > 1) l.piece_bytes = row / l.n_segments;
    }
    return l;
}

static int lay_out(manifest *m, const gguf *g, char *why, size_t why_size) {
    m->n_tensors = gguf_n_tensors(g);
    m->layouts = calloc(m->n_tensors + 1, sizeof(*m->layouts));
    if (m->layouts == NULL) goto no_memory;

    for (size_t i = 0; i < m->n_tensors; i++) {
        manifest_layout *l = &m->layouts[i];
        *l = cut(gguf_tensor_at(g, i));
        l->first = m->n_sums;
        if (l->n_slabs > (MAX_SUMS - m->n_sums) / l->n_segments) {
            return err_why(why, why_size, ERR_TOO_LARGE,
                           "%s: the model has more than %zu expert pieces",
                           gguf_file_path(g, 0), MAX_SUMS);
        }
        m->n_sums += (size_t)l->n_slabs * l->n_segments;
    }
    m->sums = calloc(m->n_sums + 1, sizeof(*m->sums));
    if (m->sums != NULL) return 0;

no_memory:
    return err_why(why, why_size, -ENOMEM, "%s: no memory for the manifest",
                   gguf_file_path(g, 0));
}

/* ---- summing ---- */

/* Checksums in progress of neighbouring segments of one slab. */
typedef struct {
    XXH3_state_t *states[MANIFEST_SEGMENTS];
    uint32_t n_segments;
    uint64_t piece_bytes;
    uint64_t at, end; /* bytes summed, and wanted */
} segment_sums;

static void sums_fini(segment_sums *s) {
    for (uint32_t i = 0; i < MANIFEST_SEGMENTS; i++)
        XXH3_freeState(s->states[i]);
}

/* On failure, too, sums_fini() is the caller's to call. */
static int sums_init(segment_sums *s) {
    *s = (segment_sums){0};
    for (uint32_t i = 0; i < MANIFEST_SEGMENTS; i++) {
        s->states[i] = XXH3_createState();
        if (s->states[i] == NULL) return -ENOMEM;
    }
    return 0;
}

/* Begin with `n` of the segments of a slab. */
static void sums_begin(segment_sums *s, const manifest_layout *l, uint32_t n) {
    s->n_segments = n;
    s->piece_bytes = l->piece_bytes;
    s->at = 0;
    s->end = l->slab_bytes / l->n_segments * n;
    for (uint32_t i = 0; i < n; i++)
        XXH3_64bits_reset(s->states[i]);
}

/* Whatever goes beyond the end is counted, not summed. */
static void sums_add(segment_sums *s, const uint8_t *data, uint64_t bytes) {
    while (bytes > 0 && s->at < s->end) {
        uint64_t left = s->piece_bytes - s->at % s->piece_bytes;
        uint64_t segment = s->at / s->piece_bytes % s->n_segments;
        uint64_t n = bytes < left ? bytes : left;
        XXH3_64bits_update(s->states[segment], data, n);
        s->at += n;
        data += n;
        bytes -= n;
    }
    s->at += bytes;
}

/* ---- computing ---- */

/* The checksums of one slab. */
static int sum_slab(const manifest_layout *l, const gguf *g,
                    const gguf_tensor *t, uint64_t slab, segment_sums *sums,
                    void *piece, uint64_t *out) {
    sums_begin(sums, l, l->n_segments);
    for (uint64_t at = 0; at < l->slab_bytes;) {
        size_t n = (size_t)size_min(l->slab_bytes - at, PIECE_BYTES);
        int rc = gguf_read(g, t, slab * l->slab_bytes + at, n, piece);
        if (rc < 0) return rc;
        sums_add(sums, piece, n);
        at += n;
    }
    for (uint32_t i = 0; i < l->n_segments; i++)
        out[i] = XXH3_64bits_digest(sums->states[i]);
    return 0;
}

/* One slab to sum. */
typedef struct {
    uint32_t tensor;
    uint64_t slab;
} slab_job;

typedef struct {
    manifest *m;
    const gguf *g;
    slab_job *jobs; /* in the files' order, more or less */
    uint32_t n_jobs;
    first_failure failure;
} summing;

static int list_jobs(summing *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->m->n_tensors; i++)
        n += s->m->layouts[i].n_slabs; /* at most MAX_SUMS in all */
    s->jobs = calloc(n + 1, sizeof(*s->jobs));
    if (s->jobs == NULL) return -ENOMEM;
    for (uint32_t i = 0; i < s->m->n_tensors; i++) {
        for (uint64_t slab = 0; slab < s->m->layouts[i].n_slabs; slab++)
            s->jobs[s->n_jobs++] = (slab_job){i, slab};
    }
    return 0;
}

static int do_job(const summing *s, const slab_job *j) {
    const manifest_layout *l = &s->m->layouts[j->tensor];
    segment_sums sums;
    int rc = sums_init(&sums);
    void *piece = rc == 0 ? malloc(PIECE_BYTES) : NULL;
    rc =
        piece == NULL
            ? -ENOMEM
            : sum_slab(l, s->g, gguf_tensor_at(s->g, j->tensor), j->slab, &sums,
                       piece, &s->m->sums[l->first + j->slab * l->n_segments]);
    free(piece);
    sums_fini(&sums);
    return rc;
}

static void sum_task(void *ctx, uint32_t task, uint32_t worker) {
    summing *s = ctx;
    (void)worker;
    if (first_failure_any(&s->failure)) return;
    int rc = do_job(s, &s->jobs[task]);
    if (rc == 0) return;

    const gguf_tensor *t = gguf_tensor_at(s->g, s->jobs[task].tensor);
    char why[FIRST_FAILURE_WHY];
    err_why(why, sizeof(why), rc, "%s: cannot read the tensor '%s': %s",
            gguf_file_path(s->g, t->file), gguf_quote(t->name).text,
            err_text(rc));
    first_failure_set(&s->failure, rc, why);
}

static void log_start(const gguf *g) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < gguf_n_files(g); i++)
        bytes += gguf_file_bytes(g, i);
    if (bytes < WORTH_A_LOG_LINE) return;
    log_info("%s: computing checksums of %.1f GB, once", gguf_file_path(g, 0),
             (double)bytes / 1e9);
}

/* `threads` NULL: alone. */
static int compute(manifest *m, const gguf *g, pool *threads, char *why,
                   size_t why_size) {
    log_start(g);
    summing s = {.m = m, .g = g};
    int rc = list_jobs(&s);
    if (rc < 0) {
        return err_why(why, why_size, rc, "%s: no memory for the manifest",
                       gguf_file_path(g, 0));
    }
    first_failure_init(&s.failure);
    if (threads != NULL) {
        pool_run(threads, s.n_jobs, sum_task, &s);
    } else {
        for (uint32_t i = 0; i < s.n_jobs; i++)
            sum_task(&s, i, 0);
    }
    free(s.jobs);
    return first_failure_fini(&s.failure, why, why_size);
}

/* ---- public ---- */

int manifest_open(manifest **out, const gguf *g, bool write_cache, char *why,
                  size_t why_size) {
    return manifest_open_with(out, g, write_cache, NULL, why, why_size);
}

int manifest_open_with(manifest **out, const gguf *g, bool write_cache,
                       pool *threads, char *why, size_t why_size) {
    *out = NULL;
    manifest *m = calloc(1, sizeof(*m));
    if (m == NULL) return err_why(why, why_size, -ENOMEM, "no memory");

    int rc = lay_out(m, g, why, why_size);
    if (rc < 0) goto fail;
    if (!manifest_load(m, g)) {
        rc = compute(m, g, threads, why, why_size);
        if (rc < 0) goto fail;
        if (write_cache) manifest_store(m, g);
    }
    *out = m;
    return 0;

fail:
    manifest_close(m);
    return rc;
}

int manifest_open_kept(manifest **out, const gguf *g, char *why,
                       size_t why_size) {
    *out = NULL;
    manifest *m = calloc(1, sizeof(*m));
    if (m == NULL) return err_why(why, why_size, -ENOMEM, "no memory");

    int rc = lay_out(m, g, why, why_size);
    if (rc == 0 && !manifest_load(m, g)) {
        rc = err_why(why, why_size, ERR_NOT_HERE,
                     "%s: there is no manifest that belongs to it",
                     gguf_file_path(g, 0));
    }
    if (rc < 0) {
        manifest_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void manifest_close(manifest *m) {
    if (m == NULL) return;
    free(m->layouts);
    free(m->sums);
    free(m);
}

/* ---- checking ---- */

struct manifest_check {
    const uint64_t *wanted; /* the first of its segments' checksums */
    segment_sums sums;
};

const uint64_t *manifest_slice_sums(const manifest *m, size_t tensor,
                                    uint64_t slab, uint32_t slice,
                                    uint32_t slices, size_t *n) {
    if (tensor >= m->n_tensors) return NULL;
    const manifest_layout *l = &m->layouts[tensor];
    if (slab >= l->n_slabs || slices == 0 || slice >= slices ||
        l->n_segments % slices != 0) {
        return NULL;
    }
    *n = l->n_segments / slices;
    return &m->sums[l->first + slab * l->n_segments + slice * *n];
}

int manifest_check_open(manifest_check **out, const manifest *m, size_t tensor,
                        uint64_t slab, uint32_t slice, uint32_t slices) {
    size_t n;
    *out = NULL;
    const uint64_t *wanted =
        manifest_slice_sums(m, tensor, slab, slice, slices, &n);
    if (wanted == NULL) return ERR_RANGE;
    manifest_check *c = calloc(1, sizeof(*c));
    if (c == NULL) return -ENOMEM;
    int rc = sums_init(&c->sums);
    if (rc < 0) {
        manifest_check_close(c);
        return rc;
    }
    c->wanted = wanted;
    sums_begin(&c->sums, &m->layouts[tensor], (uint32_t)n);
    *out = c;
    return 0;
}

void manifest_check_close(manifest_check *c) {
    if (c == NULL) return;
    sums_fini(&c->sums);
    free(c);
}

void manifest_check_add(manifest_check *c, const void *data, size_t bytes) {
    sums_add(&c->sums, data, bytes);
}

int manifest_check_result(const manifest_check *c) {
    if (c->sums.at != c->sums.end) return ERR_RANGE;
    for (uint32_t i = 0; i < c->sums.n_segments; i++) {
        if (XXH3_64bits_digest(c->sums.states[i]) != c->wanted[i])
            return ERR_CHECKSUM;
    }
    return 0;
}

/* ---- what is summed ---- */

uint64_t manifest_slabs(const manifest *m, size_t tensor) {
    assert(tensor < m->n_tensors);
    return m->layouts[tensor].n_slabs;
}

uint32_t manifest_segments(const manifest *m, size_t tensor) {
    assert(tensor < m->n_tensors);
    return m->layouts[tensor].n_segments;
}

const uint64_t *manifest_sums(const manifest *m, size_t *n) {
    *n = m->n_sums;
    return m->sums;
}
