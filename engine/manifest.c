/* manifest.c - cuts tensors into pieces, sums them and compares.
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
#include "engine/log.h"
#include "engine/manifest_internal.h"
#include "engine/util.h"

#define PIECE_BYTES ((size_t)1 << 20)
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

/* A matrix of an expert, which a node may hold a slice of. */
static bool is_expert_matrix(gguf_string name) {
    static const char *const names[] = {
        ".ffn_gate_exps.weight", ".ffn_up_exps.weight",
        ".ffn_gate_up_exps.weight", ".ffn_down_exps.weight"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (ends_with(name, names[i])) return true;
    }
    return false;
}

static manifest_layout cut(const gguf_tensor *t) {
    manifest_layout l = {
        .n_slabs = 1, .segment_bytes = t->bytes, .n_segments = 1};
    if (t->n_dims >= 2 && contains(t->name, "_exps.")) {
        l.n_slabs = t->dims[t->n_dims - 1];
        l.segment_bytes = t->bytes / l.n_slabs;
    }
    if (is_expert_matrix(t->name) && l.segment_bytes % MANIFEST_SEGMENTS == 0) {
        l.n_segments = MANIFEST_SEGMENTS;
        l.segment_bytes /= MANIFEST_SEGMENTS;
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

/* ---- computing ---- */

/* One checksum: `bytes` of the tensor from `offset`. */
static int sum_segment(const gguf *g, const gguf_tensor *t, uint64_t offset,
                       uint64_t bytes, XXH3_state_t *state, void *piece,
                       uint64_t *sum) {
    XXH3_64bits_reset(state);
    while (bytes > 0) {
        size_t n = (size_t)size_min(bytes, PIECE_BYTES);
        int rc = gguf_read(g, t, offset, n, piece);
        if (rc < 0) return rc;
        XXH3_64bits_update(state, piece, n);
        offset += n;
        bytes -= n;
    }
    *sum = XXH3_64bits_digest(state);
    return 0;
}

static int sum_tensor(manifest *m, const gguf *g, size_t tensor,
                      XXH3_state_t *state, void *piece) {
    const manifest_layout *l = &m->layouts[tensor];
    const gguf_tensor *t = gguf_tensor_at(g, tensor);
    size_t n = (size_t)l->n_slabs * l->n_segments;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = sum_segment(g, t, i * l->segment_bytes, l->segment_bytes, state,
                         piece, &m->sums[l->first + i]);
    }
    return rc;
}

static void log_start(const gguf *g) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < gguf_n_files(g); i++)
        bytes += gguf_file_bytes(g, i);
    if (bytes < WORTH_A_LOG_LINE) return;
    log_info("%s: computing checksums of %.1f GB, once", gguf_file_path(g, 0),
             (double)bytes / 1e9);
}

static int compute(manifest *m, const gguf *g, char *why, size_t why_size) {
    log_start(g);
    XXH3_state_t *state = XXH3_createState();
    void *piece = malloc(PIECE_BYTES);
    int rc = 0;
    if (state == NULL || piece == NULL) {
        rc = err_why(why, why_size, -ENOMEM, "%s: no memory for the manifest",
                     gguf_file_path(g, 0));
    }
    for (size_t i = 0; i < m->n_tensors && rc == 0; i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        rc = sum_tensor(m, g, i, state, piece);
        if (rc == 0) continue;
        err_why(why, why_size, rc, "%s: cannot read the tensor '%s': %s",
                gguf_file_path(g, t->file), gguf_quote(t->name).text,
                err_text(rc));
    }
    XXH3_freeState(state);
    free(piece);
    return rc;
}

/* ---- public ---- */

int manifest_open(manifest **out, const gguf *g, bool write_cache, char *why,
                  size_t why_size) {
    *out = NULL;
    manifest *m = calloc(1, sizeof(*m));
    if (m == NULL) return err_why(why, why_size, -ENOMEM, "no memory");

    int rc = lay_out(m, g, why, why_size);
    if (rc < 0) goto fail;
    if (!manifest_load(m, g)) {
        rc = compute(m, g, why, why_size);
        if (rc < 0) goto fail;
        if (write_cache) manifest_store(m, g);
    }
    *out = m;
    return 0;

fail:
    manifest_close(m);
    return rc;
}

void manifest_close(manifest *m) {
    if (m == NULL) return;
    free(m->layouts);
    free(m->sums);
    free(m);
}

int manifest_check_segment(const manifest *m, size_t tensor, uint64_t slab,
                           uint32_t segment, const void *data, size_t bytes) {
    if (tensor >= m->n_tensors) return ERR_RANGE;
    const manifest_layout *l = &m->layouts[tensor];
    if (slab >= l->n_slabs || segment >= l->n_segments ||
        bytes != l->segment_bytes) {
        return ERR_RANGE;
    }
    uint64_t wanted = m->sums[l->first + slab * l->n_segments + segment];
    return XXH3_64bits(data, bytes) == wanted ? 0 : ERR_CHECKSUM;
}

int manifest_check(const manifest *m, size_t tensor, uint64_t slab,
                   const void *data, size_t bytes) {
    if (tensor >= m->n_tensors) return ERR_RANGE;
    const manifest_layout *l = &m->layouts[tensor];
    if (slab >= l->n_slabs || bytes != l->segment_bytes * l->n_segments) {
        return ERR_RANGE;
    }
    const uint8_t *at = data;
    int rc = 0;
    for (uint32_t i = 0; i < l->n_segments && rc == 0; i++) {
        rc = manifest_check_segment(m, tensor, slab, i,
                                    at + i * l->segment_bytes,
                                    (size_t)l->segment_bytes);
    }
    return rc;
}

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
