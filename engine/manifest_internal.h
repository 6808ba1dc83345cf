/* manifest_internal.h - the manifest and the file it is kept in. */
#ifndef ENGINE_MANIFEST_INTERNAL_H
#define ENGINE_MANIFEST_INTERNAL_H

#include "engine/manifest.h"

/* How a tensor is cut.  A slab is pieces of `piece_bytes` that belong to its
 * segments in turn: one piece each where a segment is contiguous, one of every
 * row where it is columns. */
typedef struct {
    uint64_t n_slabs;
    uint64_t slab_bytes;
    uint64_t piece_bytes;
    size_t first; /* index of its first checksum */
    uint32_t n_segments;
} manifest_layout;

struct manifest {
    manifest_layout *layouts; /* [n_tensors] */
    size_t n_tensors;
    uint64_t *sums;
    size_t n_sums;
};

/* Fill m->sums from a kept manifest of exactly these files; false if there is
 * none that is whole and fits. */
bool manifest_load(manifest *m, const gguf *g);

/* Keep m->sums for the next manifest_load(); logs if it cannot. */
void manifest_store(const manifest *m, const gguf *g);

#endif
