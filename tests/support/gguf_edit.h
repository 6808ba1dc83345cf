/* gguf_edit.h - a copy of a GGUF file in which some things are different.
 *
 *   gguf_edit *e = gguf_edit_new(base);
 *   gguf_writer_u32(gguf_edit_drop(e, "llama.block_count"),
 *                   "llama.block_count", 7);
 *   gguf_edit_finish(e, path);
 *
 * Anything that goes wrong ends the test program. */
#ifndef TESTS_SUPPORT_GGUF_EDIT_H
#define TESTS_SUPPORT_GGUF_EDIT_H

#include "tests/support/gguf_writer.h"

#define GGUF_EDIT_MAX 64 /* drops of one edit */

typedef struct gguf_edit gguf_edit;

/* `base` is one whole file. */
gguf_edit *gguf_edit_new(const char *base);

/* Leave out the key or tensor of that name, if there is one.  What is put into
 * the writer that is returned stands before everything of the base. */
gguf_writer *gguf_edit_drop(gguf_edit *e, const char *name);

/* A tensor of zeros in the place of the one of that name, if there is one. */
void gguf_edit_zeros(gguf_edit *e, const char *name, uint32_t type,
                     uint32_t n_dims, const uint64_t *dims);

/* Write the copy and free the edit. */
void gguf_edit_finish(gguf_edit *e, const char *path);

#endif
