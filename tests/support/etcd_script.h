/* etcd_script.h - an HTTP server that says what a test told it to.
 *
 * It runs on the test's loop and listens on a free port of the loopback.  Each
 * path has a queue of answers; the last one of a queue is given again and
 * again.  What was asked is kept. */
#ifndef TESTS_SUPPORT_ETCD_SCRIPT_H
#define TESTS_SUPPORT_ETCD_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

typedef struct etcd_script etcd_script;

void etcd_script_open(etcd_script **out, uv_loop_t *loop);
void etcd_script_close(etcd_script *s); /* runs the loop until it is closed */
const char *etcd_script_url(const etcd_script *s);

/* ---- what to answer ---- */

/* A whole answer with this status and body. */
void etcd_script_say(etcd_script *s, const char *path, int status,
                     const char *body);
/* The same, but a byte at a time. */
void etcd_script_drip(etcd_script *s, const char *path, const char *body);
/* These bytes as they are, and then the connection is cut. */
void etcd_script_cut_after(etcd_script *s, const char *path, const char *bytes);
/* Nothing, for ever. */
void etcd_script_stall(etcd_script *s, const char *path);
/* The head of an endless answer and these lines of it. */
void etcd_script_stream(etcd_script *s, const char *path, const char *lines);

/* More of the last stream; it is cut. */
void etcd_script_more(etcd_script *s, const char *lines);
void etcd_script_cut(etcd_script *s);

/* ---- what was asked ---- */

unsigned etcd_script_asked(const etcd_script *s, const char *path);
/* How many there were; grows with each. */
const unsigned *etcd_script_counter(const etcd_script *s);
/* Of the last request of this path; "" if none. */
const char *etcd_script_body(const etcd_script *s, const char *path);
const char *etcd_script_head(const etcd_script *s, const char *path);
unsigned etcd_script_connections(const etcd_script *s);

#endif
