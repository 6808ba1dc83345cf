/* etcd_options.h - the options by which a program is told of its rack's etcd:
 * the same rows, checks and defaults for everyone who takes them.
 *
 * Use: init, append the rows to the program's own table, parse, check, config;
 * fini in every case.  One thread. */
#ifndef DISCOVERY_ETCD_OPTIONS_H
#define DISCOVERY_ETCD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "discovery/libetcd/etcd.h"
#include "engine/options.h"

#define ETCD_OPTIONS_ROWS 7
#define ETCD_OPTIONS_MAX_ENDPOINTS 32
#define ETCD_OPTIONS_PASSWORD_MAX 1023

typedef struct {
    /* as parsed; texts belong to the parser */
    option_list urls;
    const char *user, *password_file, *ca_file, *cert_file, *key_file;
    uint32_t ttl_ms;
    /* from here on by etcd_options_check() */
    char *text;                                        /* owns the endpoints */
    const char *endpoints[ETCD_OPTIONS_MAX_ENDPOINTS]; /* split at commas */
    size_t n_endpoints;
    char password[ETCD_OPTIONS_PASSWORD_MAX + 1];
} etcd_options;

/* The defaults. */
void etcd_options_init(etcd_options *o);
void etcd_options_fini(etcd_options *o);

/* Append ETCD_OPTIONS_ROWS rows to a table that has `count` so far and room for
 * them; they point into `o`.  The new count. */
size_t etcd_options_append(etcd_options *o, option *table, size_t count);

/* After parsing: what the rows' types cannot say; reads the password's file.
 * ERR_USAGE with a sentence that names the option, -ENOMEM. */
int etcd_options_check(etcd_options *o, char *why, size_t why_size);

/* After the check: is there an etcd to use? */
static inline bool etcd_options_given(const etcd_options *o) {
    return o->n_endpoints > 0;
}

/* The endpoints as given, "A, B", for a log; cut to fit.  Returns `out`. */
char *etcd_options_text(const etcd_options *o, char *out, size_t size);

/* For libetcd; borrows from `o` until it is gone.  The loop is to be filled in.
 */
etcd_config etcd_options_config(const etcd_options *o);
uint32_t etcd_options_ttl_s(const etcd_options *o);

#endif
