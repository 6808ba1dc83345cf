/* sim_node.h - an expert node: the real job queue and the real keeper, with
 * time instead of computing and of loading; and what coordinators and nodes say
 * to each other. */
#ifndef TESTS_SIM_SIM_NODE_H
#define TESTS_SIM_SIM_NODE_H

#include "expert_node/job_queue.h"
#include "expert_node/keeper.h"
#include "tests/sim/sim_base.h"
#include "tests/sim/sim_model.h"

#define SIM_PIECE 5 /* pairs of a request */
#define SIM_ROW_BYTES (SIM_WIDTH * (uint32_t)sizeof(float))
#define SIM_SILENT_MS 2500 /* as keepers have it */
#define SIM_GRACE_MS 6000

/* ---- messages ---- */

typedef enum {
    MESSAGE_HELLO,
    MESSAGE_WELCOME,
    MESSAGE_PING,
    MESSAGE_PONG,
    MESSAGE_TOO_OLD, /* the answer to a ping: ERR_STALE */
    MESSAGE_LOAD_ASKED,
    MESSAGE_LOAD,
    MESSAGE_BATCH,
    MESSAGE_ROWS,
    MESSAGE_ERROR
} sim_message_kind;

typedef struct sim_message {
    struct sim_message *next; /* of those that are free */
    sim_message_kind kind;
    uint32_t from, to; /* processes */
    uint64_t boot, to_boot;
    /* control */
    uint64_t epoch, placement, version, progress;
    uint32_t queued;
    unit_set holds;
    const uint32_t (*loads)[SIM_UNITS]; /* pairs computed, by unit */
    /* data */
    uint32_t connection;
    uint64_t request_id;
    uint32_t layer, n_pairs;
    uint64_t remaining_us;
    int code;
    uint32_t units[SIM_PIECE];
    float rows[SIM_PIECE][SIM_WIDTH]; /* activations or outputs */
} sim_message;

/* The way between a coordinator and a node. */
typedef struct {
    bool cut;
    uint32_t lose_percent, double_percent;
    uint64_t delay_us, jitter_us;
} sim_path;

/* Into the network, which copies it. */
void sim_send(sim *s, const sim_message *m);
void sim_message_done(sim *s, sim_message *m);

/* ---- nodes ---- */

typedef struct sim_batch {
    struct sim_batch *next;
    sim_message asked;
} sim_batch;

/* A coordinator, as the node knows it. */
typedef struct {
    uint64_t boot, heard_us;
    bool stale;
} sim_peer;

typedef struct {
    /* of the machine, whatever process runs there */
    uint64_t memory;  /* bytes that it offers */
    bool has_file;    /* needs nobody to load from */
    unit_set cached;  /* on its disk, from others */
    unit_set spoiled; /* of those: bytes flipped */
    bool disk_full;
    uint32_t load_fails_percent, flips_percent;
    uint32_t us_per_pair;

    keeper *keeper;
    unit_set resident; /* what is really there */
    unit_set wrong;    /* of that: was loaded damaged */
    unit_set busy;     /* is being loaded or unloaded */
    sim_peer peers[SIM_COORDS];

    job_queue *queue;
    sim_batch *batches; /* accepted and not answered */
    job computing[8];
    size_t n_computing;
    uint64_t progress;
    uint32_t computed[SIM_LAYERS][SIM_UNITS]; /* pairs */
    bool slow;                                /* twenty times */
    bool stuck; /* its pool stands still, its loop answers */
    int refuse; /* every batch, with this code */
} sim_node;

void sim_node_start(sim *s, uint32_t node);
void sim_node_stop(sim *s, uint32_t node);
void sim_node_unstick(sim *s, uint32_t node);
void sim_node_message(sim *s, uint32_t node, const sim_message *m);
void sim_node_computed(sim *s, uint32_t node);

/* ---- its store (sim_store.c) ---- */

void sim_store_open(sim *s, uint32_t node);
void sim_store_close(sim *s, uint32_t node);
/* Do what its keeper asks for; when to come back, in microseconds from now. */
uint64_t sim_store_act(sim *s, uint32_t node);
void sim_store_loaded(sim *s, uint32_t node, uint64_t number);
void sim_store_unloaded(sim *s, uint32_t node, uint64_t number);
/* What it says that it holds. */
unit_set sim_store_holds(const sim *s, uint32_t node);
uint64_t sim_store_bytes(const sim *s, const unit_set *units);
/* A coordinator's hello or ping; false: it gets the answer that it is stale. */
bool sim_store_hears(sim *s, uint32_t node, const sim_message *m);
bool sim_store_is_stale(const sim *s, uint32_t node, uint64_t boot);
/* It begins to run again: the keeper hears how long it did not. */
void sim_store_paused(sim *s, uint32_t node, uint64_t us);

#endif
