/* model_base.h - the smallest models of both kinds, for tests that edit one. */
#ifndef TESTS_SUPPORT_MODEL_BASE_H
#define TESTS_SUPPORT_MODEL_BASE_H

#include "engine/model.h"
#include "tests/support/gguf_edit.h"

/* Files that are made when they are first asked for: 2 layers of width 32, 4
 * heads of 8 and 2 of keys, 4 experts of 32 (2 are used) or a dense network of
 * 32, 259 tokens, F32.  Anything that goes wrong ends the test program. */
const char *model_base_mixtral(void);
const char *model_base_qwen3moe(void);
const char *model_base_dense(void); /* llama */

/* Finish the edit and read the model that it is; the code of gguf_open() or
 * model_read().  `why` is "" on success. */
int model_base_read(gguf_edit *e, model_config *out, char *why,
                    size_t why_size);

#endif
