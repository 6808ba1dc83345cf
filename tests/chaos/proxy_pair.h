/* proxy_pair.h - one connection through the fault proxy: two sockets, and what
 * is on its way between them.  Everything runs on the loop's thread. */
#ifndef TESTS_CHAOS_PROXY_PAIR_H
#define TESTS_CHAOS_PROXY_PAIR_H

#include <uv.h>
#include "tests/chaos/proxy_rules.h"

/* What was done, over all connections. */
typedef struct {
    uint64_t connections, bytes, flips, duplicates, resets, dropped;
} proxy_counts;

/* What all pairs share.  Never moved once it is initialised. */
typedef struct proxy_pair proxy_pair;
typedef struct {
    uv_loop_t *loop;
    proxy_rules rules;
    proxy_counts counts;
    uint64_t random; /* state of the generator */
    proxy_pair *pairs;
    uv_poll_t alarm; /* rings when the next bytes are due */
    int alarm_fd;
    uint64_t alarm_us; /* 0: it is not set */
} proxy_core;

/* `random` is not 0.  -errno, or libuv's code. */
int proxy_core_init(proxy_core *core, uv_loop_t *loop, uint64_t random);

/* Take a connection that waits at `listener`, a server that is known as `to`,
 * and connect on to `address` with a socket made in the namespace `ns` (-1: the
 * present one).  The pair frees itself when it ends. */
void proxy_pair_accept(proxy_core *core, uv_stream_t *listener, const char *to,
                       int ns, const struct sockaddr_in *address);

/* To be called when rules have changed: stalled bytes go on, connections are
 * cut. */
void proxy_pairs_look(proxy_core *core);

/* A socket made in a network namespace. */
int proxy_socket(uv_loop_t *loop, uv_tcp_t *tcp, int ns);

#endif
