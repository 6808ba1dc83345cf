/* control.h - a node's answers to hello, ping and status requests.
 *
 * A plain function from a message to its answer: the loop that carries both is
 * server.c.  Everything else, and every peer that this node must not work with,
 * gets a typed error.  One thread. */
#ifndef EXPERT_NODE_CONTROL_H
#define EXPERT_NODE_CONTROL_H

#include <stdbool.h>
#include <stdint.h>
#include "discovery/holdings.h"
#include "engine/profile.h"
#include "expert_node/worker.h"
#include "proto/frames.h"
#include "proto/message.h"

typedef struct {
    const char *name, *cluster, *model;
    uint8_t fingerprint[MESSAGE_FINGERPRINT];
    uint64_t boot_id;
    bool exact;
    const holdings *held;
    uint64_t resident_bytes;
    uint64_t max_reply_bytes; /* outstanding, of one coordinator */
    uint16_t data_port;
    const worker *worker; /* for its counters */
} control_config;

typedef struct control control;

/* What `c` points to is borrowed until control_free(). */
int control_new(control **out, const control_config *c);
void control_free(control *c);

/* Replace the received message in *f by its answer, which goes to the same
 * address.  *f is empty if there is none. */
void control_answer(control *c, frames *f);

uint64_t control_refused(const control *c);

#endif
