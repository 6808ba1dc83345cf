/* whole_model.h - all that the programs do with a model's file, in this
 * process: from opening it to the logits of a few tokens.
 *
 * For tests that damage files.  Every step is the programs' own, in their order
 * and with small limits. */
#ifndef TESTS_SUPPORT_WHOLE_MODEL_H
#define TESTS_SUPPORT_WHOLE_MODEL_H

#include <stddef.h>

/* Try the bytes of a file as coordinator and as node would.  0 if both would
 * serve it, else the first code, with a sentence in `why`. */
int whole_model_try(const void *bytes, size_t n, char *why, size_t why_size);

#endif
