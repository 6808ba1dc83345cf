/* local_rack.h - a rack on this machine: expert nodes and a coordinator, as
 * child processes on loopback from a static list.
 *
 * The programs are looked for beside our own, then in ../bin, then in PATH.
 * Whatever was started is gone after local_rack_close(), and also when we are
 * killed (child.h).  To be used from the main thread. */
#ifndef CLIENT_LOCAL_RACK_H
#define CLIENT_LOCAL_RACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "client/child.h"
#include "engine/options.h"

#define LOCAL_RACK_MAX_NODES 256

typedef struct {
    const char *model;    /* path of the GGUF file */
    const char *endpoint; /* NULL: any free port of loopback */
    const char *cluster;  /* NULL: the daemons' default */
    const char *kv;       /* "f32", "f16"; NULL: the coordinator's default */
    const char *programs; /* the only folder to look in; NULL: as above */
    uint32_t nodes, replicas;
    uint32_t slices;     /* of each expert; 0: as is predicted to be fastest */
    uint32_t threads;    /* of each process; 0: the CPUs divided by them */
    uint32_t timeout_ms; /* of requests; 0: the coordinator's default */
    uint32_t start_timeout_ms;
    option_list experts; /* what each node holds instead of an equal share */
    bool exact, no_local_experts, insecure, verbose;
} local_rack_config;

/* One replica, whole experts, five minutes to start. */
void local_rack_config_init(local_rack_config *c);

/* Rows of an option table that set `c`; returns how many, at most
 * LOCAL_RACK_OPTIONS. */
#define LOCAL_RACK_OPTIONS 10
size_t local_rack_options(local_rack_config *c, option *table);

/* Do the settings make sense together?  ERR_USAGE with a sentence. */
int local_rack_check(const local_rack_config *c, char *why, size_t why_size);

/* Compute threads that each process gets. */
uint32_t local_rack_threads(const local_rack_config *c);

typedef struct local_rack local_rack;

/* Start everything and wait until all are ready.  ERR_CANCELLED if `stop_fd`
 * (-1: none) became readable meanwhile; else `why` names the process that
 * failed, and how.  Nothing is left on failure. */
int local_rack_open(local_rack **out, const local_rack_config *c, int stop_fd,
                    char *why, size_t why_size);

/* SIGTERM, two seconds of grace, SIGKILL.  NULL is fine. */
void local_rack_close(local_rack *r);

/* Of the coordinator: tcp://HOST:PORT, borrowed. */
const char *local_rack_endpoint(const local_rack *r);

/* The processes: nodes first, the coordinator last. */
size_t local_rack_n_children(const local_rack *r);
child *local_rack_child(const local_rack *r, size_t index);

/* Which of them have ended, and how: a sentence; "" if all are well. */
void local_rack_explain(const local_rack *r, char *how, size_t how_size);

#endif
