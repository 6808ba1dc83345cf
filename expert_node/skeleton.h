/* skeleton.h - a model without its weights: heads of its files and manifest,
 * pulled from a coordinator, opened as if the files were here.
 *
 * The heads are written into sparse files of full size in a folder of their
 * own.  That is gone again when this returns (what is open stays readable), or,
 * with a cache, is kept there as model-<fingerprint>, so that the node can
 * start while no coordinator is there.  Only metadata, tensor table and
 * checksums are in it: tensor data is a hole, to be read through the fetch. */
#ifndef EXPERT_NODE_SKELETON_H
#define EXPERT_NODE_SKELETON_H

#include <stdbool.h>
#include <stddef.h>
#include "engine/fingerprint.h"
#include "expert_node/fetch.h"

typedef struct {
    gguf *g;
    manifest *checks;
    fingerprint print; /* computed here, and equal to what the source said */
} skeleton;

typedef struct {
    const char *dir;           /* where it is kept; NULL: nowhere */
    const fingerprint *wanted; /* NULL: what the source serves */
} skeleton_place;

/* Is the model kept there?  It may be damaged all the same. */
bool skeleton_is_kept(const char *dir, const fingerprint *print);

/* On the loading thread.  What is kept is opened if it is whole; else it is
 * pulled, and kept if it is what was wanted.  ERR_TOO_LARGE or ERR_MALFORMED
 * for what no model can be, ERR_CHECKSUM if what came is not what its
 * fingerprint says, -errno where the folder cannot be written, and
 * fetch_read()'s codes; with a sentence. */
int skeleton_open(skeleton *out, fetch *f, const skeleton_place *place,
                  char *why, size_t why_size);

#endif
