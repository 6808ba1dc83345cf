/* rack_command.h - what commands share that look at a running rack, or ask
 * something of it: status, top, drain, rebalance. */
#ifndef CLIENT_RACK_COMMAND_H
#define CLIENT_RACK_COMMAND_H

#include <jansson.h>
#include "client/session.h"

/* Rows of an option table: --endpoint, --cluster, --insecure, --timeout. */
#define RACK_OPTIONS 4
size_t rack_options(session_config *c, option *table);

/* A coordinator's answer, called `what`, parsed: an object, and the caller's to
 * json_decref().  ERR_MALFORMED with a sentence. */
int rack_json(const char *text, const char *what, json_t **out, char *why,
              size_t why_size);

/* The coordinator's state likewise.  A negative code with a sentence. */
int rack_status(session *s, json_t **out, char *why, size_t why_size);

/* The session becomes one with the coordinator that leads the rack, as far as
 * the status of the one that is asked names one (`c` without its endpoint). */
int rack_go_to_leader(session *s, const session_config *c, char *why,
                      size_t why_size);

/* One entry of the status's list `list` ("nodes", "coordinators"), borrowed;
 * NULL: nobody is called that. */
const json_t *rack_find(const json_t *status, const char *list,
                        const char *name);

/* A number of an object, 0 if it is not there; a text, "" if it is not. */
uint64_t rack_number(const json_t *object, const char *key);
double rack_real(const json_t *object, const char *key);
const char *rack_text(const json_t *object, const char *key);

/* Wait for `ms`, or until the session ends: 0, -EINTR for a signal, or the
 * connection's code. */
int rack_wait(session *s, uint32_t ms);

/* What is left to be done, in words, by the rack's status; "" once nothing is.
 */
typedef void (*rack_left)(void *ctx, const json_t *status, char *out,
                          size_t size);
/* Look at the status until nothing is left, with that on stderr if it is a
 * terminal.  ERR_DEADLINE with "<not_yet> within N s: <what is left>". */
int rack_wait_until_done(session *s, uint32_t wait_ms, const char *not_yet,
                         rack_left left, void *ctx, char *why, size_t why_size);

/* What was printed has arrived, or a sentence. */
int rack_flush(char *why, size_t why_size);

#endif
