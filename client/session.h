/* session.h - a connected client for one command: to a coordinator that runs
 * already, or to a rack that is started for the command and ends with it. */
#ifndef CLIENT_SESSION_H
#define CLIENT_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "client/include/roster.h"
#include "client/local_rack.h"
#include "engine/options.h"

typedef struct {
    const char *endpoint; /* NULL: ROSTER_ENDPOINT, unless a model is given */
    const char *cluster;
    bool insecure;
    uint32_t timeout_ms;    /* of requests; 0: the default */
    local_rack_config rack; /* started if rack.model is set */
} session_config;

void session_config_init(session_config *c);

/* Rows of an option table for --endpoint, --model, --cluster, --insecure and
 * --timeout, and those of the rack; at most SESSION_OPTIONS. */
#define SESSION_OPTIONS (LOCAL_RACK_OPTIONS + 5)
size_t session_options(session_config *c, option *table);

/* Is there an endpoint, here or in the environment?  ERR_USAGE. */
int session_check_endpoint(const char *given, char *why, size_t why_size);

/* Either an endpoint or a model, and options of a rack only with a model. */
int session_check(const session_config *c, const options *o, char *why,
                  size_t why_size);

typedef struct {
    roster_client *client;
    local_rack *rack; /* NULL: somebody else's */
    int signals;      /* descriptor, see signals.h */
    int signal;       /* that asked us to end; 0: none so far */
} session;

/* Start what is to be started, connect, greet.  -EINTR: a signal. */
int session_open(session *s, const session_config *c, char *why,
                 size_t why_size);

/* Also after a failed session_open(), and on a zeroed session. */
void session_close(session *s);

/* Wait for messages and handle them, until `extra_fd` (-1: none) is readable
 * or a signal arrives.  0; -EINTR: s->signal was just set; or as
 * roster_process(). */
int session_turn(session *s, int extra_fd);

/* Why a request failed with `rc`: -EINTR names the signal; else `sentence`, and
 * what became of the rack.  Returns rc. */
int session_explain(session *s, int rc, const char *sentence, char *why,
                    size_t why_size);

#endif
