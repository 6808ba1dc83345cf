/* expert_store.h - packed experts in memory, by layer and number.
 *
 * A node holds what it was given; a coordinator, when it has the file, what it
 * computes itself.  Loading reads only the expert's own bytes (pread), checks
 * them against the manifest and packs them.  One thread loads and drops; get is
 * safe from the thread that computes as long as that is the same one, or
 * nothing is dropped meanwhile. */
#ifndef ENGINE_EXPERT_STORE_H
#define ENGINE_EXPERT_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/ffn.h"
#include "engine/fingerprint.h"
#include "engine/gguf.h"
#include "engine/model.h"

typedef struct expert_store expert_store;

/* Index the model's experts; nothing is loaded.  `g` and `checks` (which may be
 * NULL: nothing is verified) are borrowed until the last expert_store_load(): a
 * node closes them once it holds what it was given.  ERR_UNSUPPORTED names a
 * tensor and its format. */
int expert_store_new(expert_store **out, const gguf *g, const model_config *c,
                     const manifest *checks, char *why, size_t why_size);
void expert_store_free(expert_store *s);

/* Load one expert; fine if it is there.  ERR_RANGE, ERR_CHECKSUM, -ENOMEM, -EIO
 * with a sentence that names the tensor; nothing is kept then. */
int expert_store_load(expert_store *s, uint32_t layer, uint32_t expert,
                      char *why, size_t why_size);
void expert_store_drop(expert_store *s, uint32_t layer, uint32_t expert);

/* Borrowed until it is dropped; NULL if it is not loaded. */
const ffn_weights *expert_store_get(const expert_store *s, uint32_t layer,
                                    uint32_t expert);

uint64_t expert_store_bytes(const expert_store *s); /* packed, in memory */
uint32_t expert_store_count(const expert_store *s); /* experts loaded */
/* Packed bytes of one expert of a layer, loaded or not. */
uint64_t expert_store_expert_bytes(const expert_store *s, uint32_t layer);

/* The activation form that experts of this layer take. */
act_form expert_store_form(const expert_store *s, uint32_t layer, bool exact);

#endif
