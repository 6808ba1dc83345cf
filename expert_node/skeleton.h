/* skeleton.h - a model without its weights: heads of its files and manifest,
 * pulled from a coordinator, opened as if the files were here.
 *
 * The heads are written into sparse files of full size in a private temporary
 * folder, which is gone again when this returns; what is open stays readable.
 * Only metadata, tensor table and checksums are there: tensor data is a hole,
 * to be read through the fetch (fetch_tensor()). */
#ifndef EXPERT_NODE_SKELETON_H
#define EXPERT_NODE_SKELETON_H

#include <stddef.h>
#include "engine/fingerprint.h"
#include "expert_node/fetch.h"

typedef struct {
    gguf *g;
    manifest *checks;
    fingerprint print; /* computed here, and equal to what the source said */
} skeleton;

/* On the loading thread.  ERR_TOO_LARGE or ERR_MALFORMED for what no model can
 * be, ERR_CHECKSUM if what came is not what its fingerprint says, -errno where
 * the folder cannot be written, and fetch_read()'s codes; with a sentence. */
int skeleton_open(skeleton *out, fetch *f, char *why, size_t why_size);

#endif
