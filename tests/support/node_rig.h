/* node_rig.h - a node's worker in a thread, asked over links in memory.
 *
 * Make a rig, change its config, connect clients, start: messages that were
 * sent before the start are all waiting when the worker looks for the first
 * time. Whatever goes wrong fails the cmocka test. */
#ifndef TESTS_SUPPORT_NODE_RIG_H
#define TESTS_SUPPORT_NODE_RIG_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/expert_store.h"
#include "expert_node/worker.h"
#include "proto/link.h"
#include "proto/message.h"
#include "tests/support/model_gen.h"

#define NODE_RIG_BOOT 77
#define NODE_RIG_MISSING_LAYER 1 /* the one expert that is not loaded */
#define NODE_RIG_MISSING_EXPERT 3
#define NODE_RIG_CLIENTS 3

typedef struct {
    model_config model;
    expert_store *store;
    worker_config config; /* cluster "test", fingerprint {1, 2, 3} */
    tally *tally;         /* the worker's */
    worker *worker;
    struct link *server, *clients[NODE_RIG_CLIENTS];
    pthread_t thread;
    bool running;
    int worker_rc;
} node_rig;

void node_rig_make(node_rig *r, const model_shape *shape);
void node_rig_connect(node_rig *r, int n_clients, int queue_messages);
void node_rig_start(node_rig *r);
void node_rig_stop(node_rig *r); /* fine if it does not run */
void node_rig_fini(node_rig *r);

/* A batch that a test may spoil before it is sent. */
typedef struct {
    message m;
    uint8_t *rows; /* encoded */
    size_t row_bytes;
    uint32_t *numbers; /* experts, counts, pair rows */
} node_rig_request;

/* Each of `n_rows` rows to each of the first `k` experts of a layer, from a
 * coordinator with boot id 5.  The same rows for the same id and layer. */
node_rig_request node_rig_make_request(const node_rig *r, uint64_t id,
                                       uint32_t layer, uint32_t n_rows,
                                       uint32_t k);
void node_rig_request_fini(node_rig_request *q);
void node_rig_seal_request(const node_rig_request *q, frames *f);
void node_rig_send_frames(struct link *l, frames *f);
void node_rig_send_request(struct link *l, const node_rig_request *q);

typedef struct {
    frames f;
    message_arena *arena;
    message m;
} node_rig_answer;

void node_rig_wait_answer(struct link *l, node_rig_answer *a);
void node_rig_answer_fini(node_rig_answer *a);
void node_rig_assert_no_answer(struct link *l);

/* The answer's rows are, bit for bit, what ffn_run() makes of each pair. */
void node_rig_assert_right_rows(const node_rig *r, const node_rig_request *q,
                                node_rig_answer *a);
/* The next answer is that, for this request. */
void node_rig_expect_rows(const node_rig *r, struct link *l,
                          const node_rig_request *q);
/* The next answer is this error, and its text contains `part`. */
void node_rig_expect_refusal(struct link *l, uint64_t id, int code,
                             const char *part);

#endif
