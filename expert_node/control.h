/* control.h - a node's answers to hello, ping, load and status requests.
 *
 * A plain function from a message to its answer: the loop that carries both is
 * server.c.  Everything else, and every peer that this node must not work with,
 * gets a typed error.  One thread. */
#ifndef EXPERT_NODE_CONTROL_H
#define EXPERT_NODE_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "engine/profile.h"
#include "expert_node/keeper.h"
#include "expert_node/shard.h"
#include "expert_node/worker.h"
#include "proto/frames.h"
#include "proto/message.h"

typedef struct {
    const char *name, *cluster;
    uint64_t boot_id;
    bool exact;
    uint64_t max_reply_bytes; /* outstanding, of one coordinator */
    uint16_t data_port;
    uint32_t threads; /* that compute, or will */
    keeper *keeper;   /* is told of hellos and pings; NULL: a static list */
    /* Further members of the status, a new object, or NULL. */
    json_t *(*more_status)(void *ctx);
    void *ctx;
} control_config;

typedef struct control control;

/* What `c` points to is borrowed until control_free(). */
int control_new(control **out, const control_config *c);
void control_free(control *c);

/* What is served from now on, cut; borrowed until the next call.  NULL, as at
 * first: the model is not known yet, or nothing computes yet. */
void control_serve(control *c, const shard *s, const worker *w);

/* On a static list: what is held has changed.  (A keeper has a version of its
 * own.) */
void control_held_changed(control *c);

/* Replace the received message in *f by its answer, which goes to the same
 * address.  *f is empty if there is none. */
void control_answer(control *c, frames *f);

uint64_t control_refused(const control *c);

#endif
