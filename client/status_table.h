/* status_table.h - a rack's state, told to people.
 *
 * The members of the JSON text are in docs/protocol.md; any of them may be
 * missing, as an older or newer coordinator leaves them out, and is shown as
 * a dash or not at all. */
#ifndef CLIENT_STATUS_TABLE_H
#define CLIENT_STATUS_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* With `layers` also the placement layer by layer.  ERR_MALFORMED, with a
 * sentence, if it is no JSON object. */
int status_table_print(FILE *out, const char *json, bool layers, char *why,
                       size_t why_size);

#endif
