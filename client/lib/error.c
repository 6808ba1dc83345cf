/* error.c - the library's version, and its error codes: those of the engine
 * under public names. */
#include "client/include/roster.h"
#include "engine/err.h"

#define SAME(name)                                                             \
    _Static_assert((int)ROSTER_##name == (int)name,                            \
                   "roster.h and engine/err.h number " #name " differently")
SAME(ERR_FORMAT);
SAME(ERR_UNSUPPORTED);
SAME(ERR_RANGE);
SAME(ERR_USAGE);
SAME(ERR_NOT_HERE);
SAME(ERR_WRONG_MODEL);
SAME(ERR_WRONG_PROFILE);
SAME(ERR_WRONG_VERSION);
SAME(ERR_WRONG_CLUSTER);
SAME(ERR_WRONG_BOOT);
SAME(ERR_MALFORMED);
SAME(ERR_CHECKSUM);
SAME(ERR_TOO_LARGE);
SAME(ERR_OVERLOADED);
SAME(ERR_UNAVAILABLE);
SAME(ERR_DEADLINE);
SAME(ERR_CANCELLED);
SAME(ERR_CLOSED);
SAME(ERR_CONTEXT);
SAME(ERR_INTERNAL);

const char *roster_strerror(int code) {
    return err_text(code);
}

const char *roster_version(void) {
    return ROSTER_VERSION;
}
