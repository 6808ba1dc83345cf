/* manifest.h - checksums of a model's tensors, in the pieces that are loaded.
 *
 * A checksum is XXH3-64 of stored bytes.  What is summed:
 *   - a stacked expert tensor (its name contains "_exps."; the last dimension
 *     counts the experts): each expert's slab; of the weights ffn_gate_exps,
 *     ffn_up_exps, ffn_gate_up_exps and ffn_down_exps each of the slab's eight
 *     equal segments of bytes, if eight divides it;
 *   - any other tensor: all its bytes, as one slab of one segment.
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

#define MANIFEST_SEGMENTS 8

typedef struct manifest manifest;

/* Read the manifest of `g`, or compute it (this reads every file in small
 * pieces) and, with `write_cache`, keep it for the next time; that it cannot be
 * kept is logged, not an error.  `g` is used during the call only. */
int manifest_open(manifest **out, const gguf *g, bool write_cache, char *why,
                  size_t why_size);
void manifest_close(manifest *m); /* NULL is fine */

/* Does what was loaded of tensor `tensor` (its index in the model), slab `slab`
 * (the expert; 0 for a plain tensor) have the checksums it should have?  0,
 * ERR_CHECKSUM, or ERR_RANGE if there is no such slab or it has another
 * size. */
int manifest_check(const manifest *m, size_t tensor, uint64_t slab,
                   const void *data, size_t bytes);

/* The same for one segment of the slab, where a node loads less than a slab. */
int manifest_check_segment(const manifest *m, size_t tensor, uint64_t slab,
                           uint32_t segment, const void *data, size_t bytes);

/* Slabs of a tensor and segments of each of its slabs (1 or
 * MANIFEST_SEGMENTS). */
uint64_t manifest_slabs(const manifest *m, size_t tensor);
uint32_t manifest_segments(const manifest *m, size_t tensor);

/* All checksums, by tensor, slab, segment.  Borrowed. */
const uint64_t *manifest_sums(const manifest *m, size_t *n);

#endif
