/* config.h - what an expert node is told: command line, environment, file. */
#ifndef EXPERT_NODE_CONFIG_H
#define EXPERT_NODE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "discovery/etcd_options.h"
#include "engine/log.h"
#include "engine/options.h"
#include "proto/endpoint.h"
#include "proto/message.h"

typedef struct {
    options *parsed;    /* owns all text below */
    const char *model;  /* path of the file; NULL: none, it is fetched */
    endpoint control;   /* port 0: any */
    uint32_t data_port; /* 0: control's + 1, or any if control's is any */
    const char *share;  /* "I/N" or "I/NxR"; NULL: not given */
    option_list experts;
    uint32_t slices;          /* of a static list */
    const char *weights_from; /* likewise; NULL: not given */
    etcd_options etcd;
    uint64_t memory_bytes;      /* offered for experts; 0: to be looked up */
    const char *zone;           /* "": none */
    const char *cache;          /* a folder, or "none"; NULL: not given */
    uint64_t cache_bytes;       /* 0: what is offered for experts */
    const char *weights_listen; /* NULL: any port beside the control port */
    const char *name, *cluster;
    uint32_t threads, pin;
    uint64_t max_queue; /* bytes of reply */
    float scrub_hours;  /* resident weights are re-read in that; 0: never */
    bool exact, insecure;
    log_level least;
    char host_name[MESSAGE_NAME_MAX + 1]; /* the default of name */
} node_config;

/* OPTIONS_RUN, OPTIONS_EXIT (something was printed, all is done), or ERR_USAGE
 * and the like with a sentence.  node_config_fini() in every case. */
int node_config_parse(node_config *c, int argc, char **argv, char *why,
                      size_t why_size);
void node_config_fini(node_config *c);

#endif
