/* manifest.h - checksums of a model's tensors, in the pieces that are loaded.
 *
 * A checksum is XXH3-64 of stored bytes.  What is summed:
 *   - a stacked expert tensor (its name contains "_exps."; the last dimension
 *     counts the experts): each expert's slab; of ffn_gate_up_exps, which has
 *     gate's rows and then up's, each half is a slab of its own, so that the
 *     checksums are those of two tensors;
 *   - of the slabs of ffn_gate_exps, ffn_up_exps and ffn_gate_up_exps, weights
 *     and biases, each of eight equal segments of bytes, if eight divides them;
 *   - of ffn_down_exps each of as many column segments as divide a row's stored
 *     bytes, a power of two up to eight: the segment's part of every row, one
 *     row after the other;
 *   - any other tensor: all its bytes, as one slab of one segment.
 * So a slice of an expert (expert_store.h), which is rows of gate and up and
 * columns of down, is checked by reading the slice alone.
 *
 * The whole file is read for that once.  The manifest is kept as
 * MODEL.gguf.roster beside the (first) file or, where that cannot be written,
 * in ${XDG_CACHE_HOME:-~/.cache}/roster.  A copy that is damaged or does not
 * belong to the files as they are is recomputed.  Several processes may do so
 * at once: each writes a file of its own and renames it.
 *
 * A manifest does not change; any thread may use it.  The checksums find
 * damage, not an adversary. */
#ifndef ENGINE_MANIFEST_H
#define ENGINE_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/gguf.h"
#include "engine/pool.h"

#define MANIFEST_SEGMENTS 8

typedef struct manifest manifest;

/* Read the manifest of `g`, or compute it (this reads every file in small
 * pieces) and, with `write_cache`, keep it for the next time; that it cannot be
 * kept is logged, not an error.  `g` is used during the call only. */
int manifest_open(manifest **out, const gguf *g, bool write_cache, char *why,
                  size_t why_size);
/* The kept one or none: ERR_NOT_HERE if there is none that belongs to the files
 * as they are. */
int manifest_open_kept(manifest **out, const gguf *g, char *why,
                       size_t why_size);
/* manifest_open() that computes with a pool, whose lead the caller is. */
int manifest_open_with(manifest **out, const gguf *g, bool write_cache,
                       pool *threads, char *why, size_t why_size);
void manifest_close(manifest *m); /* NULL is fine */

/* A running check of what is loaded of tensor `tensor` (its index in the
 * model), slab `slab` (the expert, of a merged tensor twice the expert or one
 * more; 0 for a plain tensor): slice `slice` of
 * `slices` equal ones, or all of it (0 of 1).  -ENOMEM, or ERR_RANGE if there
 * is no such slab or its checksums cannot tell its slices apart.  The manifest
 * is borrowed until _close(). */
typedef struct manifest_check manifest_check;
int manifest_check_open(manifest_check **out, const manifest *m, size_t tensor,
                        uint64_t slab, uint32_t slice, uint32_t slices);
void manifest_check_close(manifest_check *c); /* NULL is fine */

/* The slice's stored bytes, row by row, in pieces of any size. */
void manifest_check_add(manifest_check *c, const void *data, size_t bytes);

/* After all of them: 0, ERR_CHECKSUM, or ERR_RANGE if they were more or fewer
 * than the slice has. */
int manifest_check_result(const manifest_check *c);

/* The checksums of such a slice, *n of them, that is what it is made of;
 * borrowed.  NULL where manifest_check_open() says ERR_RANGE. */
const uint64_t *manifest_slice_sums(const manifest *m, size_t tensor,
                                    uint64_t slab, uint32_t slice,
                                    uint32_t slices, size_t *n);

/* Slabs of a tensor and segments of each of its slabs (a power of two up to
 * MANIFEST_SEGMENTS). */
uint64_t manifest_slabs(const manifest *m, size_t tensor);
uint32_t manifest_segments(const manifest *m, size_t tensor);

/* The manifest as it would stand on disk, to be given to somebody else; *out is
 * malloc'ed.  `g` is the model it was opened for.  -ENOMEM. */
int manifest_image(const manifest *m, const gguf *g, uint8_t **out,
                   size_t *bytes);

/* All checksums, by tensor, slab, segment.  Borrowed. */
const uint64_t *manifest_sums(const manifest *m, size_t *n);

#endif
