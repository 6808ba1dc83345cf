/* failpoint.h - places where a test can make this process fail.
 *
 * ROSTER_FAILPOINTS="name=action[@N],..." arms them: at the N-th visit (1 by
 * default) of the named place the action happens once: `kill` (SIGKILL), `stop`
 * (SIGSTOP), `fail` (failpoint() returns true and the caller takes its error
 * path, from that visit on).  Without the variable a visit costs one load. */
#ifndef ENGINE_FAILPOINT_H
#define ENGINE_FAILPOINT_H

#include <stdbool.h>

extern bool failpoints_armed; /* set by failpoint_setup(), read-only after */

/* Read the environment; ERR_USAGE with a sentence for a line it cannot read. */
int failpoint_setup(char *why, unsigned long why_size);

bool failpoint_visit(const char *name);

static inline bool failpoint(const char *name) {
    return __builtin_expect(failpoints_armed, 0) && failpoint_visit(name);
}

#endif
