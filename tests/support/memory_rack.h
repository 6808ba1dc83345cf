/* memory_rack.h - a whole rack in one process: the real exchange, forward pass
 * and node workers, joined by memory links instead of sockets. */
#ifndef TESTS_SUPPORT_MEMORY_RACK_H
#define TESTS_SUPPORT_MEMORY_RACK_H

#include "coordinator/forward.h"

#define MEMORY_RACK_NODES 8

/* A model, loaded once for many racks. */
typedef struct {
    gguf *file;
    model_config config;
    weights *weights;
    expert_store *store; /* all experts, shared by all nodes */
    /* the same in 2, 4 and 8 slices, made when first asked for */
    expert_store *sliced[4];
} memory_model;

/* Anything that goes wrong ends the test program. */
memory_model *memory_model_open(const char *path);
void memory_model_close(memory_model *m);
/* All units of experts in 1, 2, 4 or 8 slices. */
expert_store *memory_model_store(memory_model *m, uint32_t slices);

typedef struct {
    uint32_t n_nodes;
    const holdings *held; /* [n_nodes], all of the same slices */
    uint32_t threads;
    bool exact, local;
    uint32_t micro_batches; /* as forward_config has it */
    kv_type kv;
    uint32_t max_rows;
    uint64_t piece_bytes, credit_bytes;
    uint32_t patience_us; /* 0: a minute */
    uint32_t split_gain;  /* as dispatch_config has it */
    uint32_t silent;      /* bits of nodes that take batches and say nothing */
} memory_rack_config;

typedef struct memory_rack memory_rack;
memory_rack *memory_rack_open(memory_model *m, const memory_rack_config *c);
void memory_rack_close(memory_rack *r);

/* Another rack for the exchange: held[i] NULL means that node i is down. */
void memory_rack_post(memory_rack *r, const holdings *const *held);
/* One where no node is up, and experts are cut into so many slices. */
void memory_rack_post_alone(memory_rack *r, uint32_t slices);

forward *memory_rack_forward(memory_rack *r);
exchange *memory_rack_exchange(memory_rack *r);
kv_cache *memory_rack_kv(memory_rack *r);

#endif
