/* fixture.h - files for tests: a folder that vanishes, and shared data. */
#ifndef TESTS_SUPPORT_FIXTURE_H
#define TESTS_SUPPORT_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

/* "FOLDER/name" in a folder of this process, which is made at the first call
 * and removed with all that is in it when the process exits.  Allocated; it
 * stays valid until then. */
const char *fixture_path(const char *name);

/* Whole files.  Anything that goes wrong ends the test program. */
void fixture_write(const char *path, const void *bytes, size_t n);
uint8_t *fixture_read(const char *path, size_t *n); /* the caller frees it */

/* "SHARED/name" where SHARED is $ROSTER_SHARED or ../shared, allocated as
 * above.  NULL if it is not there, with a line that says that `what` is
 * skipped. */
const char *fixture_shared(const char *name, const char *what);

#endif
