/* expert_store.h - packed experts in memory, by layer and unit.
 *
 * A unit is a slice of an expert along its hidden width: with S slices a
 * layer's units are numbered expert * S + slice.  A slice is itself a smaller
 * expert (ffn.h): its rows of gate and up and values of their biases, its
 * columns of down.  A bias of down belongs to the whole: who adds the slices
 * adds it.  S may be 1,
 * then a unit is an expert.  A layer whose down product has fewer segments than
 * the store's slices is cut into as many as it has segments.
 *
 * A node holds what it was given; a coordinator, when it has the file, what it
 * computes itself.  Loading reads only the unit's own bytes (through a source:
 * the file, or a peer that has it), checks them against the manifest and packs
 * them.
 *
 * Threads: one thread loads, one thread computes and drops; they may be
 * different ones and need no lock.  From the file, several threads may load
 * different units at once (expert_bulk.h).  What get() gave stays until the
 * computing thread drops it.  Counters: any thread. */
#ifndef ENGINE_EXPERT_STORE_H
#define ENGINE_EXPERT_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/ffn.h"
#include "engine/fingerprint.h"
#include "engine/gguf.h"
#include "engine/model.h"

/* Bytes of a tensor: `count` pieces of `bytes`, the i-th at offset + i *
 * stride within the tensor. */
typedef struct {
    uint64_t offset, stride;
    size_t bytes, count;
} expert_span;

#define EXPERT_SPAN_MAX ((size_t)1 << 20) /* bytes * count of one read */

/* Where stored bytes come from; called by the loading thread with spans of at
 * most EXPERT_SPAN_MAX bytes.  `out` gets the pieces one after the other.  0 or
 * a negative code with a sentence. */
typedef struct {
    int (*read)(void *ctx, const gguf_tensor *t, const expert_span *span,
                void *out, char *why, size_t why_size);
    void *ctx;
} expert_source;

typedef struct {
    const gguf *g; /* borrowed, like model and checks, until free */
    const model_config *model;
    const manifest *checks; /* NULL: nothing is verified */
    uint32_t slices;        /* 1, 2, 4, 8; 0: 1 */
    expert_source source;   /* .read NULL: the files of `g` */
} expert_store_config;

typedef struct expert_store expert_store;

/* Index the model's experts; nothing is loaded.  ERR_UNSUPPORTED names a tensor
 * and its format. */
int expert_store_new(expert_store **out, const expert_store_config *c,
                     char *why, size_t why_size);
void expert_store_free(expert_store *s);

/* The slices that the model's experts in this layer are cut into: the store's,
 * or as many as the layer allows; 0 for a dense layer. */
uint32_t expert_store_slices(const expert_store *s, uint32_t layer);
/* Experts times slices; 0 for a dense layer. */
uint32_t expert_store_units(const expert_store *s, uint32_t layer);

/* Load one unit; fine if it is there.  ERR_RANGE, ERR_CHECKSUM, -ENOMEM, -EIO
 * or the source's code, with a sentence that names the tensor; nothing is kept
 * then. */
int expert_store_load(expert_store *s, uint32_t layer, uint32_t unit, char *why,
                      size_t why_size);
/* Does it read the model's file?  Then several threads may load. */
bool expert_store_reads_file(const expert_store *s);
/* A unit of the file will be loaded soon, or was and will not be again. */
typedef enum { EXPERT_AHEAD, EXPERT_BEHIND } expert_hint;
void expert_store_hint(const expert_store *s, uint32_t layer, uint32_t unit,
                       expert_hint hint);

/* Take a loaded unit over from a store of the same model and cut, which then
 * does not have it; fine if it is there.  Both stores' loading thread. */
void expert_store_take(expert_store *s, expert_store *from, uint32_t layer,
                       uint32_t unit);
void expert_store_drop(expert_store *s, uint32_t layer, uint32_t unit);

/* Borrowed until it is dropped; NULL if it is not loaded. */
const ffn_weights *expert_store_get(const expert_store *s, uint32_t layer,
                                    uint32_t unit);

/* XXH3-64 of a loaded unit's bytes in memory as they were when it was loaded:
 * of each of its ffn_pieces(), the first with seed 0, each other one seeded by
 * the one before.  For the computing thread, to find out whether memory has
 * kept them. */
uint64_t expert_store_sum(const expert_store *s, uint32_t layer, uint32_t unit);

uint32_t expert_store_layers(const expert_store *s);
uint64_t expert_store_bytes(const expert_store *s); /* in memory */
uint32_t expert_store_count(const expert_store *s); /* units loaded */
/* Bytes in memory of one unit of a layer, loaded or not; 0 for a dense layer.
 */
uint64_t expert_store_unit_bytes(const expert_store *s, uint32_t layer);

/* The activation form that experts of this layer take. */
act_form expert_store_form(const expert_store *s, uint32_t layer, bool exact);

#endif
