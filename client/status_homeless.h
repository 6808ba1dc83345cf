/* status_homeless.h - experts that nobody can be asked for, in a status that is
 * printed for people. */
#ifndef CLIENT_STATUS_HOMELESS_H
#define CLIENT_STATUS_HOMELESS_H

#include <jansson.h>
#include <stdio.h>

/* `root` is the status object; nothing is printed if all have a home. */
void status_homeless_print(FILE *out, const json_t *root);

#endif
