/* family_gen.h - a small random model of every architecture, with all that its
 * files may have, so that no feature goes without a test of what holds for all.
 *
 * Names, keys and shapes are those of real files; architectures with several
 * forms of files are there in each form.  There is no vocabulary. */
#ifndef TESTS_SUPPORT_FAMILY_GEN_H
#define TESTS_SUPPORT_FAMILY_GEN_H

#include <stddef.h>
#include <stdint.h>

size_t family_count(void);
const char *family_name(size_t family);

/* Write the model, its matrices in `type` (weight.h; blocks of up to 32
 * values).  Anything that goes wrong ends the test program. */
void family_gen(size_t family, uint32_t type, const char *path);

#endif
