/* expert_store.c - see expert_store.h.
 *
 * A unit's matrices are spans of the stored tensors: gate and up have a
 * contiguous range of rows, down a range of columns, which is one piece of
 * every row.  They are read once, in pieces of bounded size that are summed for
 * the manifest and packed as they pass; what does not add up is thrown away
 * before anybody sees it.  So a load needs a few MiB besides the packed
 * weights, however large the expert is. */
#include "engine/expert_store.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/unit_image.h"
#include "engine/util.h"

/* Whole rows that a span of columns is picked from, at a time. */
#define STAGING_BYTES ((size_t)256 << 10)

/* Written by the loading thread, emptied by the computing one. */
typedef _Atomic(ffn_weights *) place;

typedef struct {
    place *units;   /* NULL: not loaded.  NULL for a dense layer */
    uint64_t *sums; /* of those that are; written before the place */
    uint32_t n_units, slices;
    size_t segments;     /* of one unit's down product */
    uint64_t unit_bytes; /* in memory */
    act_form form;
} layer_index;

struct expert_store {
    const gguf *file;
    const model_config *model;
    const manifest *checks;
    expert_source source;
    uint32_t n_layers, n_experts;
    atomic_uint_fast64_t bytes;
    atomic_uint_fast32_t count;
    layer_index layers[];
};

/* ---- the file as a source ---- */

/* Pick the pieces out of whole rows, as many at a time as the staging has. */
static int pick_rows(const gguf *file, const gguf_tensor *t,
                     const expert_span *span, uint8_t *out) {
    size_t step = size_max(STAGING_BYTES / span->stride, 1);
    uint8_t *staging = malloc((step - 1) * span->stride + span->bytes);
    if (staging == NULL) return -ENOMEM;

    int rc = 0;
    for (size_t i = 0; i < span->count && rc == 0; i += step) {
        size_t n = size_min(step, span->count - i);
        rc = gguf_read(file, t, span->offset + i * span->stride,
                       (n - 1) * span->stride + span->bytes, staging);
        for (size_t j = 0; j < n && rc == 0; j++, out += span->bytes)
            memcpy(out, staging + j * span->stride, span->bytes);
    }
    free(staging);
    return rc;
}

static int read_file(void *ctx, const gguf_tensor *t, const expert_span *span,
                     void *out, char *why, size_t why_size) {
    const expert_store *s = ctx;
    int rc = span->count == 1
                 ? gguf_read(s->file, t, span->offset, span->bytes, out)
                 : pick_rows(s->file, t, span, out);
    return rc < 0 ? err_why(why, why_size, rc, "%s", err_text(rc)) : 0;
}

/* ---- the index ---- */

/* Bytes that a unit takes in memory. */
static int packed_bytes(const unit_image *u, uint64_t *out, char *why,
                        size_t why_size) {
    *out = 0;
    for (size_t i = 0; i < u->n_parts; i++) {
        const unit_part *p = &u->parts[i];
        const weight_format *f;
        int rc = matrix_format(p->tensor, &f, why, why_size);
        if (rc < 0) return rc;
        *out += i < UNIT_MATRICES ? matrix_bytes(f, p->rows, p->cols)
                                  : p->cols * sizeof(float);
    }
    return 0;
}

static int cut_layer(layer_index *l, const model_config *c,
                     const expert_tensors *t, uint32_t slices, char *why,
                     size_t why_size) {
    const weight_format *down;
    int rc = matrix_format(t->down, &down, why, why_size);
    if (rc < 0) return rc;
    size_t segments = ffn_segments(down, c->expert_dim);
    l->slices = (uint32_t)size_min(slices, segments);
    l->segments = segments / l->slices;
    l->n_units = c->n_experts * l->slices;
    return 0;
}

static int index_layer(expert_store *s, uint32_t layer, const model_config *c,
                       uint32_t slices, char *why, size_t why_size) {
    layer_index *l = &s->layers[layer];
    expert_tensors t;
    unit_image first;
    int rc = model_experts(c, s->file, layer, &t, why, why_size);
    if (rc < 0) return rc;
    rc = cut_layer(l, c, &t, slices, why, why_size);
    if (rc < 0) return rc;
    rc = unit_image_of(&first, s->file, c, layer, 0, l->slices, why, why_size);
    if (rc < 0) return rc;
    rc = packed_bytes(&first, &l->unit_bytes, why, why_size);
    if (rc < 0) return rc;

    /* Where gate and up want different forms, F32 travels. */
    act_form gate = weight_format_find(t.gate->type)->act;
    l->form = gate == weight_format_find(t.up->type)->act ? gate : ACT_F32;

    l->units = calloc(l->n_units, sizeof(*l->units));
    l->sums = calloc(l->n_units, sizeof(*l->sums));
    if (l->units == NULL || l->sums == NULL) {
        return err_why(why, why_size, -ENOMEM, "no memory for %u experts",
                       c->n_experts);
    }
    return 0;
}

int expert_store_new(expert_store **out, const expert_store_config *c,
                     char *why, size_t why_size) {
    *out = NULL;
    uint32_t slices = c->slices == 0 ? 1 : c->slices;
    if (slices > MANIFEST_SEGMENTS || (slices & (slices - 1)) != 0) {
        return err_why(why, why_size, ERR_RANGE,
                       "experts cannot be cut into %u slices: 1, 2, 4 or 8",
                       slices);
    }
    const model_config *m = c->model;
    expert_store *s =
        calloc(1, sizeof(*s) + m->n_layers * sizeof(s->layers[0]));
    if (s == NULL) {
        return err_why(why, why_size, -ENOMEM, "no memory for %u layers",
                       m->n_layers);
    }
    s->file = c->g;
    s->model = m;
    s->checks = c->checks;
    s->source = c->source;
    if (s->source.read == NULL) s->source = (expert_source){read_file, s};
    s->n_layers = m->n_layers;
    s->n_experts = m->n_experts;
    for (uint32_t layer = 0; layer < m->n_layers; layer++) {
        if (!model_is_moe(m, layer)) continue;
        int rc = index_layer(s, layer, m, slices, why, why_size);
        if (rc < 0) {
            expert_store_free(s);
            return rc;
        }
    }
    *out = s;
    return 0;
}

void expert_store_free(expert_store *s) {
    if (s == NULL) return;
    for (uint32_t layer = 0; layer < s->n_layers; layer++) {
        free(s->layers[layer].sums);
        if (s->layers[layer].units == NULL) continue;
        for (uint32_t unit = 0; unit < s->layers[layer].n_units; unit++)
            expert_store_drop(s, layer, unit);
        free(s->layers[layer].units);
    }
    free(s);
}

/* The place of a unit; NULL if the model has no such unit. */
static place *find_place(const expert_store *s, uint32_t layer, uint32_t unit) {
    if (layer >= s->n_layers || unit >= s->layers[layer].n_units) return NULL;
    return s->layers[layer].units != NULL ? &s->layers[layer].units[unit]
                                          : NULL;
}

/* ---- loading ---- */

/* A unit that is being loaded, part after part. */
typedef struct {
    expert_store *store;
    unit_image image;
    const unit_part *part; /* in hand */
    manifest_check *check; /* of it; NULL: nothing is verified */
    char detail[256];      /* what the source says of a failure */
} unit_load;

/* Read a span of any size in pieces that a source takes. */
static int read_span(unit_load *u, expert_span span, uint8_t *out) {
    const expert_source *from = &u->store->source;
    size_t width = size_min(span.bytes, EXPERT_SPAN_MAX);
    size_t count = width == span.bytes ? EXPERT_SPAN_MAX / width : 1;

    for (size_t i = 0; i < span.count; i += count) {
        for (size_t at = 0; at < span.bytes; at += width) {
            expert_span piece = {.offset = span.offset + i * span.stride + at,
                                 .stride = span.stride,
                                 .bytes = size_min(width, span.bytes - at),
                                 .count = size_min(count, span.count - i)};
            int rc = from->read(from->ctx, u->part->tensor, &piece, out,
                                u->detail, sizeof(u->detail));
            if (rc < 0) return rc;
            out += piece.bytes * piece.count;
        }
    }
    return 0;
}

static int read_rows(void *ctx, size_t row0, size_t n, void *out) {
    unit_load *u = ctx;
    const unit_part *p = u->part;
    expert_span span = {.offset = p->offset + row0 * p->stride,
                        .stride = p->stride,
                        .bytes = p->row_bytes,
                        .count = n};
    if (p->row_bytes == p->stride) {
        span.bytes *= n;
        span.count = 1;
    }
    int rc = read_span(u, span, out);
    if (rc == 0 && u->check != NULL)
        manifest_check_add(u->check, out, n * p->row_bytes);
    return rc;
}

static int begin_part(unit_load *u, size_t which) {
    const manifest *checks = u->store->checks;
    const unit_image *i = &u->image;
    u->part = &i->parts[which];
    u->check = NULL;
    u->detail[0] = '\0';
    if (checks == NULL) return 0;
    return manifest_check_open(&u->check, checks, u->part->index, u->part->slab,
                               i->slice, i->slices);
}

/* `rc`: how reading it went. */
static int end_part(unit_load *u, int rc, char *why, size_t why_size) {
    if (rc == 0 && u->check != NULL) rc = manifest_check_result(u->check);
    manifest_check_close(u->check);
    if (rc == 0) return 0;
    return err_why(
        why, why_size, rc, "tensor %s, expert %u, slice %u of %u: %s",
        gguf_quote(u->part->tensor->name).text, u->image.expert, u->image.slice,
        u->image.slices, u->detail[0] != '\0' ? u->detail : err_text(rc));
}

static int load_matrix(unit_load *u, size_t which, matrix *out, char *why,
                       size_t why_size) {
    int rc = begin_part(u, which);
    const unit_part *p = u->part;
    if (rc == 0) {
        rc = matrix_build(out, weight_format_find(p->tensor->type), p->rows,
                          p->cols, read_rows, u);
    }
    return end_part(u, rc, why, why_size);
}

static int read_bias(unit_load *u, float **out) {
    const unit_part *p = u->part;
    uint8_t *stored = malloc(p->row_bytes);
    *out = aligned_alloc_zero(p->cols * sizeof(float));
    int rc = stored == NULL || *out == NULL ? -ENOMEM : 0;
    if (rc == 0) rc = read_rows(u, 0, 1, stored);
    if (rc == 0) {
        weight_format_find(p->tensor->type)->dequantize(p->cols, stored, *out);
    }
    free(stored);
    return rc;
}

static int load_bias(unit_load *u, size_t which, float **out, char *why,
                     size_t why_size) {
    int rc = begin_part(u, which);
    if (rc == 0) rc = read_bias(u, out);
    return end_part(u, rc, why, why_size);
}

/* All parts in the image's order; what was loaded is the caller's to free. */
static int load_parts(unit_load *u, ffn_weights *w, char *why,
                      size_t why_size) {
    matrix *const matrices[UNIT_MATRICES] = {&w->gate, &w->up, &w->down};
    int rc = 0;
    for (size_t i = 0; i < UNIT_MATRICES && rc == 0; i++)
        rc = load_matrix(u, i, matrices[i], why, why_size);
    if (rc < 0 || u->image.n_parts == UNIT_MATRICES) return rc;

    rc = load_bias(u, UNIT_GATE_BIAS, &w->gate_bias, why, why_size);
    if (rc < 0) return rc;
    return load_bias(u, UNIT_UP_BIAS, &w->up_bias, why, why_size);
}

static uint64_t weight_bytes(const ffn_weights *w) {
    ffn_piece pieces[FFN_PIECES_MAX];
    size_t n = ffn_pieces(w, pieces);
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += pieces[i].bytes;
    return bytes;
}

static uint64_t sum_of(const ffn_weights *w) {
    ffn_piece pieces[FFN_PIECES_MAX];
    size_t n = ffn_pieces(w, pieces);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = XXH3_64bits_withSeed(pieces[i].data, pieces[i].bytes, sum);
    return sum;
}

/* From now on it is there for everybody. */
static void put(expert_store *s, uint32_t layer, uint32_t unit, ffn_weights *w,
                uint64_t sum) {
    s->layers[layer].sums[unit] = sum;
    atomic_fetch_add(&s->bytes, weight_bytes(w));
    atomic_fetch_add(&s->count, 1);
    atomic_store_explicit(find_place(s, layer, unit), w, memory_order_release);
}

int expert_store_load(expert_store *s, uint32_t layer, uint32_t unit, char *why,
                      size_t why_size) {
    place *at = find_place(s, layer, unit);
    if (at == NULL) {
        uint32_t slices = size_max(expert_store_slices(s, layer), 1);
        return err_why(why, why_size, ERR_RANGE,
                       "the model has no expert %u (slice %u of %u) in layer "
                       "%u",
                       unit / slices, unit % slices, slices, layer);
    }
    if (atomic_load_explicit(at, memory_order_acquire) != NULL) return 0;

    const layer_index *l = &s->layers[layer];
    unit_load load = {.store = s};
    int rc = unit_image_of(&load.image, s->file, s->model, layer, unit,
                           l->slices, why, why_size);
    if (rc < 0) return rc;
    ffn_weights *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        return err_why(why, why_size, -ENOMEM,
                       "no memory for expert %u of layer %u", load.image.expert,
                       layer);
    }
    rc = load_parts(&load, w, why, why_size);
    if (rc < 0) goto fail;

    w->segments = l->segments;
    w->activation = s->model->activation;
    put(s, layer, unit, w, sum_of(w));
    return 0;

fail:
    ffn_fini(w);
    free(w);
    return rc;
}

/* ---- hints ---- */

/* The bytes of the file that a part is in. */
static uint64_t part_extent(const unit_part *p) {
    return (p->rows - 1) * p->stride + p->row_bytes;
}

bool expert_store_reads_file(const expert_store *s) {
    return s->source.read == read_file;
}

void expert_store_hint(const expert_store *s, uint32_t layer, uint32_t unit,
                       expert_hint hint) {
    unit_image u;
    if (!expert_store_reads_file(s) || find_place(s, layer, unit) == NULL ||
        unit_image_of(&u, s->file, s->model, layer, unit,
                      s->layers[layer].slices, NULL, 0) < 0) {
        return;
    }
    for (size_t i = 0; i < u.n_parts; i++) {
        const unit_part *p = &u.parts[i];
        if (hint == EXPERT_AHEAD)
            gguf_ahead(s->file, p->tensor, p->offset, part_extent(p));
        else if (p->row_bytes == p->stride) /* else it has others' bytes, too */
            gguf_behind(s->file, p->tensor, p->offset, part_extent(p));
    }
}

/* ---- what is loaded ---- */

void expert_store_take(expert_store *s, expert_store *from, uint32_t layer,
                       uint32_t unit) {
    place *at = find_place(s, layer, unit);
    place *was = find_place(from, layer, unit);
    if (at == NULL || was == NULL || atomic_load(at) != NULL) return;
    assert(s->layers[layer].slices == from->layers[layer].slices);
    ffn_weights *w = atomic_exchange(was, NULL);
    if (w == NULL) return;
    atomic_fetch_sub(&from->bytes, weight_bytes(w));
    atomic_fetch_sub(&from->count, 1);
    put(s, layer, unit, w, from->layers[layer].sums[unit]);
}

void expert_store_drop(expert_store *s, uint32_t layer, uint32_t unit) {
    place *at = find_place(s, layer, unit);
    if (at == NULL || atomic_load(at) == NULL) return;
    ffn_weights *w = atomic_exchange(at, NULL);
    if (w == NULL) return;

    atomic_fetch_sub(&s->bytes, weight_bytes(w));
    atomic_fetch_sub(&s->count, 1);
    ffn_fini(w);
    free(w);
}

const ffn_weights *expert_store_get(const expert_store *s, uint32_t layer,
                                    uint32_t unit) {
    place *at = find_place(s, layer, unit);
    return at != NULL ? atomic_load_explicit(at, memory_order_acquire) : NULL;
}

uint64_t expert_store_sum(const expert_store *s, uint32_t layer,
                          uint32_t unit) {
    return find_place(s, layer, unit) != NULL ? s->layers[layer].sums[unit] : 0;
}

uint32_t expert_store_layers(const expert_store *s) {
    return s->n_layers;
}

uint32_t expert_store_slices(const expert_store *s, uint32_t layer) {
    return layer < s->n_layers ? s->layers[layer].slices : 0;
}

uint32_t expert_store_units(const expert_store *s, uint32_t layer) {
    return layer < s->n_layers ? s->layers[layer].n_units : 0;
}

uint64_t expert_store_bytes(const expert_store *s) {
    return atomic_load_explicit(&s->bytes, memory_order_relaxed);
}

uint32_t expert_store_count(const expert_store *s) {
    return (uint32_t)atomic_load_explicit(&s->count, memory_order_relaxed);
}

uint64_t expert_store_unit_bytes(const expert_store *s, uint32_t layer) {
    return layer < s->n_layers ? s->layers[layer].unit_bytes : 0;
}

act_form expert_store_form(const expert_store *s, uint32_t layer, bool exact) {
    if (exact || layer >= s->n_layers) return ACT_F32;
    return s->layers[layer].form;
}
