/* unit_image.c - see unit_image.h. */
#include "engine/unit_image.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/ffn.h"
#include "engine/matrix.h"
#include "engine/util.h"

/* Whole rows that columns are picked from, at a time. */
#define STAGING_BYTES ((size_t)1 << 20)

/* ---- the map ---- */

/* What an image takes of a stacked tensor. */
typedef struct {
    const gguf_tensor *tensor;
    uint64_t rows, cols; /* of one expert */
    uint32_t at, slabs;  /* the at-th of so many that each expert has there */
    bool by_columns;
} source;

static unit_part find_part(const unit_image *u, const gguf *g, const source *s,
                           uint32_t n_experts) {
    uint64_t slab_bytes = s->tensor->bytes / n_experts / s->slabs;
    uint32_t of_rows = s->by_columns ? 1 : u->slices;
    uint32_t of_cols = s->by_columns ? u->slices : 1;
    unit_part p = {
        .tensor = s->tensor,
        .index = (size_t)(s->tensor - gguf_tensor_at(g, 0)),
        .slab = (uint64_t)u->expert * s->slabs + s->at,
        .at = u->bytes,
        .stride = slab_bytes / s->rows,
        .rows = s->rows / of_rows,
        .cols = s->cols / of_cols,
    };
    p.row_bytes = p.stride / of_cols;
    p.offset = p.slab * slab_bytes +
               u->slice * (s->by_columns ? p.row_bytes : p.rows * p.stride);
    p.bytes = p.rows * p.row_bytes;
    return p;
}

/* In the image's order.  Returns how many. */
static size_t list_sources(const expert_tensors *t, const model_config *m,
                           source out[UNIT_IMAGE_PARTS]) {
    uint64_t width = m->expert_dim, n = m->n_embd;
    uint32_t slabs = t->up == t->gate ? 2 : 1;
    out[UNIT_GATE] = (source){t->gate, width, n, 0, slabs, false};
    out[UNIT_UP] = (source){t->up, width, n, slabs - 1, slabs, false};
    out[UNIT_DOWN] = (source){t->down, n, width, 0, 1, true};
    if (t->gate_bias == NULL) return UNIT_MATRICES;

    slabs = t->up_bias == t->gate_bias ? 2 : 1;
    out[UNIT_GATE_BIAS] = (source){t->gate_bias, 1, width, 0, slabs, true};
    out[UNIT_UP_BIAS] = (source){t->up_bias, 1, width, slabs - 1, slabs, true};
    return UNIT_IMAGE_PARTS;
}

/* Can the layer's experts be cut so? */
static int check_slices(const expert_tensors *t, const model_config *m,
                        uint32_t slices, char *why, size_t why_size) {
    const weight_format *down;
    int rc = matrix_format(t->down, &down, why, why_size);
    if (rc < 0) return rc;
    if (slices > 0 && (slices & (slices - 1)) == 0 &&
        slices <= ffn_segments(down, m->expert_dim)) {
        return 0;
    }
    return err_why(why, why_size, ERR_RANGE,
                   "the model's experts cannot be cut into %u slices", slices);
}

int unit_image_of(unit_image *out, const gguf *g, const model_config *m,
                  uint32_t layer, uint32_t unit, uint32_t slices, char *why,
                  size_t why_size) {
    expert_tensors t;
    if (layer >= m->n_layers || !model_is_moe(m, layer)) {
        return err_why(why, why_size, ERR_RANGE,
                       "the model has no experts in layer %u", layer);
    }
    int rc = model_experts(m, g, layer, &t, why, why_size);
    if (rc == 0) rc = check_slices(&t, m, slices, why, why_size);
    if (rc < 0) return rc;
    if (unit / slices >= m->n_experts) {
        return err_why(why, why_size, ERR_RANGE,
                       "layer %u has %u experts of %u slices, and no unit %u",
                       layer, m->n_experts, slices, unit);
    }
    *out = (unit_image){.layer = layer,
                        .unit = unit,
                        .expert = unit / slices,
                        .slice = unit % slices,
                        .slices = slices};
    source sources[UNIT_IMAGE_PARTS];
    out->n_parts = list_sources(&t, m, sources);
    for (size_t i = 0; i < out->n_parts; i++) {
        out->parts[i] = find_part(out, g, &sources[i], m->n_experts);
        out->bytes += out->parts[i].bytes;
    }
    return 0;
}

/* ---- finding ---- */

static bool is_contiguous(const unit_part *p) {
    return p->row_bytes == p->stride;
}

/* Where in the part a span is; false if it is not in one piece. */
static bool find_in_part(const unit_part *p, const expert_span *s,
                         uint64_t *at) {
    uint64_t from = s->offset - p->offset;
    uint64_t row = from / p->stride, column = from % p->stride;
    bool whole_rows =
        column == 0 && s->bytes == p->row_bytes && s->stride == p->stride;
    bool one_row = s->count == 1 && column + s->bytes <= p->row_bytes;
    if (!whole_rows && !one_row && !(s->count == 1 && is_contiguous(p)))
        return false;
    *at = row * p->row_bytes + column;
    return true;
}

int unit_image_find(const unit_image *u, const gguf_tensor *t,
                    const expert_span *span, uint64_t *at) {
    uint64_t bytes;
    if (__builtin_mul_overflow(span->bytes, span->count, &bytes)) {
        return ERR_RANGE;
    }
    for (size_t i = 0; i < u->n_parts; i++) {
        const unit_part *p = &u->parts[i];
        if (p->tensor != t || span->offset < p->offset) continue;
        /* of a merged tensor, the next part may have it */
        if (span->offset - p->offset >= p->rows * p->stride) continue;
        if (!find_in_part(p, span, at)) return ERR_RANGE;
        if (*at > p->bytes || bytes > p->bytes - *at) return ERR_RANGE;
        *at += p->at;
        return 0;
    }
    return ERR_RANGE;
}

/* ---- reading ---- */

/* Columns: whole rows are read, and the unit's part of each is picked. */
static int read_columns(const unit_part *p, const gguf *g, uint64_t at,
                        size_t bytes, uint8_t *out) {
    size_t step = (size_t)size_max(STAGING_BYTES / p->stride, 1);
    uint8_t *staging = malloc(step * p->stride);
    if (staging == NULL) return -ENOMEM;

    int rc = 0;
    while (bytes > 0) {
        uint64_t row = at / p->row_bytes, skip = at % p->row_bytes;
        size_t n =
            (size_t)size_min(size_min(step, p->rows - row),
                             (skip + bytes + p->row_bytes - 1) / p->row_bytes);
        size_t span = (n - 1) * p->stride + p->row_bytes;
        rc =
            gguf_read(g, p->tensor, p->offset + row * p->stride, span, staging);
        if (rc < 0) break;
        for (size_t i = 0; i < n && bytes > 0; i++, skip = 0) {
            size_t take = size_min(p->row_bytes - skip, bytes);
            memcpy(out, staging + i * p->stride + skip, take);
            out += take;
            at += take;
            bytes -= take;
        }
    }
    free(staging);
    return rc;
}

int unit_image_read(const unit_image *u, const gguf *g, uint64_t offset,
                    size_t bytes, void *out) {
    uint8_t *to = out;
    if (offset > u->bytes || bytes > u->bytes - offset) return ERR_RANGE;
    for (size_t i = 0; i < u->n_parts && bytes > 0; i++) {
        const unit_part *p = &u->parts[i];
        if (offset >= p->at + p->bytes) continue;
        uint64_t at = offset - p->at;
        size_t n = size_min(bytes, p->bytes - at);
        int rc = is_contiguous(p)
                     ? gguf_read(g, p->tensor, p->offset + at, n, to)
                     : read_columns(p, g, at, n, to);
        if (rc < 0) return rc;
        to += n;
        offset += n;
        bytes -= n;
    }
    return 0;
}

/* ---- the key ---- */

/* Changing what is digested is a new version. */
static const char domain[] = "roster unit image 1";

static bool add_part(EVP_MD_CTX *digest, const unit_image *u,
                     const unit_part *p, const manifest *checks) {
    size_t n;
    const uint64_t *sums =
        manifest_slice_sums(checks, p->index, p->slab, u->slice, u->slices, &n);
    if (sums == NULL) return false;
    const uint64_t shape[] = {p->tensor->type, p->rows, p->row_bytes, n};
    return EVP_DigestUpdate(digest, shape, sizeof(shape)) == 1 &&
           EVP_DigestUpdate(digest, sums, n * sizeof(*sums)) == 1;
}

int unit_image_key(const unit_image *u, const manifest *checks, unit_key *out) {
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    if (digest == NULL) return -ENOMEM;
    bool good = EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 &&
                EVP_DigestUpdate(digest, domain, sizeof(domain)) == 1;
    for (size_t i = 0; i < u->n_parts && good; i++)
        good = add_part(digest, u, &u->parts[i], checks);
    if (good) good = EVP_DigestFinal_ex(digest, out->bytes, NULL) == 1;
    EVP_MD_CTX_free(digest);
    return good ? 0 : ERR_RANGE;
}

char *unit_key_hex(const unit_key *k, char out[UNIT_KEY_HEX]) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < UNIT_KEY_BYTES; i++) {
        out[2 * i] = digits[k->bytes[i] >> 4];
        out[2 * i + 1] = digits[k->bytes[i] & 15];
    }
    out[2 * UNIT_KEY_BYTES] = '\0';
    return out;
}

/* ---- checking ---- */

struct unit_check {
    const unit_image *image;
    manifest_check *parts[UNIT_IMAGE_PARTS];
    uint64_t at; /* bytes seen, those beyond the end included */
};

int unit_check_open(unit_check **out, const unit_image *u,
                    const manifest *checks) {
    *out = NULL;
    unit_check *c = calloc(1, sizeof(*c));
    if (c == NULL) return -ENOMEM;
    c->image = u;
    for (size_t i = 0; i < u->n_parts; i++) {
        int rc = manifest_check_open(&c->parts[i], checks, u->parts[i].index,
                                     u->parts[i].slab, u->slice, u->slices);
        if (rc < 0) {
            unit_check_close(c);
            return rc;
        }
    }
    *out = c;
    return 0;
}

void unit_check_close(unit_check *c) {
    if (c == NULL) return;
    for (size_t i = 0; i < UNIT_IMAGE_PARTS; i++)
        manifest_check_close(c->parts[i]);
    free(c);
}

void unit_check_add(unit_check *c, const void *data, size_t bytes) {
    const uint8_t *from = data;
    for (size_t i = 0; i < c->image->n_parts && bytes > 0; i++) {
        const unit_part *p = &c->image->parts[i];
        if (c->at >= p->at + p->bytes) continue;
        size_t n = size_min(bytes, p->at + p->bytes - c->at);
        manifest_check_add(c->parts[i], from, n);
        from += n;
        bytes -= n;
        c->at += n;
    }
    c->at += bytes;
}

const unit_part *unit_check_damaged(const unit_check *c) {
    for (size_t i = 0; i < c->image->n_parts; i++) {
        if (manifest_check_result(c->parts[i]) < 0) return &c->image->parts[i];
    }
    return NULL;
}

int unit_check_result(const unit_check *c) {
    if (c->at != c->image->bytes) return ERR_RANGE;
    return unit_check_damaged(c) == NULL ? 0 : ERR_CHECKSUM;
}
