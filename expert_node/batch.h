/* batch.h - one accepted request for units of one layer, until its reply.
 *
 * Filled from an opened message and checked against what this node holds: after
 * batch_accept() every unit is there, until the thread that computes drops one,
 * and every row can be multiplied.  The request's payload stays in the message
 * it came in, outputs are written straight into the reply's. */
#ifndef EXPERT_NODE_BATCH_H
#define EXPERT_NODE_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/expert_store.h"
#include "expert_node/account.h"
#include "expert_node/job_queue.h"
#include "proto/message.h"

/* What the requests are checked against. */
typedef struct {
    const expert_store *store;
    uint32_t width; /* of the model */
    bool exact;
} batch_rules;

typedef struct {
    frames request; /* payload: the rows; and the address to answer to */
    frames reply;   /* payload: the output rows */
    uint64_t boot_id, request_id, epoch; /* of the asker, echoed */
    uint32_t layer, width, n_groups, n_pairs;
    act_form form;
    const uint8_t *rows; /* n_rows of row_bytes, in the request */
    size_t row_bytes;
    float *outputs; /* [n_pairs, width], in the reply */
    /* Group g is counts[g] pairs of units[g]; pair_rows has all pairs. */
    uint32_t *units, *counts, *pair_rows;
    uint32_t *numbers; /* holds the three; `few` or from the heap */
    uint32_t few[3 * JOB_SMALL_PAIRS];
    uint64_t received_us, expires_us;
} batch;

/* An empty batch in the caller's memory; batch_fini() makes it empty again. */
void batch_init(batch *b);
void batch_fini(batch *b);

/* Is this a batch that this node can compute?  0, or ERR_NOT_HERE, ERR_RANGE
 * (experts are not cut like that here), ERR_MALFORMED with a sentence that
 * names the number at fault. */
int batch_check(const batch_rules *rules, frames *request, const message *m,
                char *why, size_t why_size);

/* Take a checked request; its reply's memory is counted on `a`.  *request is
 * empty afterwards, its address apart.  -ENOMEM leaves it as it was. */
int batch_accept(batch *b, account *a, frames *request, const message *m,
                 uint64_t now_us);

/* Is every unit of an accepted batch still there?  What was dropped while it
 * waited is refused then: ERR_NOT_HERE with a sentence that names it. */
int batch_still_held(const batch *b, const expert_store *store, char *why,
                     size_t why_size);

/* Bytes of the reply's payload. */
uint64_t batch_reply_bytes(const message *m);

#endif
