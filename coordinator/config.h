/* config.h - the coordinator's options (docs: `roster-coordinator --help`). */
#ifndef COORDINATOR_CONFIG_H
#define COORDINATOR_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "discovery/etcd_options.h"
#include "engine/kv_cache.h"
#include "engine/options.h"

typedef struct {
    options *parsed; /* keeps the texts below */
    const char *model;
    const char *listen, *cluster, *name, *kv, *log_level;
    const char *weights_listen, *advertise; /* NULL: not given */
    option_list nodes;
    option_list peers; /* other coordinators, for clients */
    etcd_options etcd; /* given instead of nodes, or neither */
    bool no_local_experts, no_shared_memory, exact, insecure;
    uint64_t local_memory, kv_memory;
    uint32_t threads, pin, context, batch_tokens, max_running, max_queued;
    uint32_t timeout_ms, start_timeout_ms, drain_timeout_ms;
    uint32_t slices, min_replicas, replace_after_ms, balance_every_ms;
    const char *balance_text, *micro_text;
    bool balance;
    uint32_t micro_batches; /* 0: as is predicted to be faster */
    uint32_t cross_check, park_timeout_ms;
    kv_type kv_type;
} config;

/* OPTIONS_RUN, OPTIONS_EXIT, or a negative code with a sentence in `why`. */
int config_parse(config *c, int argc, char **argv, char *why, size_t why_size);
void config_free(config *c); /* in every case */

#endif
