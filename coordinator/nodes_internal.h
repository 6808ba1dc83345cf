/* nodes_internal.h - what nodes.c (links and messages), nodes_set.c (who is
 * there), nodes_switch.c (by which placement), nodes_rack.c (what the step
 * thread is told), nodes_load.c (what was computed) and nodes_status.c share.
 */
#ifndef COORDINATOR_NODES_INTERNAL_H
#define COORDINATOR_NODES_INTERNAL_H

#include "coordinator/load_meter.h"
#include "coordinator/nodes.h"
#include "coordinator/nodes_load.h"
#include "proto/zmq_watch.h"

typedef struct {
    struct nodes *owner;
    uint32_t index;  /* its place */
    uint64_t serial; /* of this stay in the place; never 0 */
    char control[ENDPOINT_MAX];
    struct link *link; /* NULL: the endpoint cannot be connected to */
    zmq_watch *watch;

    /* of its record, if it is registered */
    char listed[RECORD_NAME]; /* "": a node of the given list */
    bool registered;
    uint64_t record_boot;
    bool draining;

    /* Of the last greeting: its number, which the welcome repeats, and when. */
    uint64_t greeting, greeted_ms;
    uint64_t answered; /* the latest greeting that was; others are too many */
    bool stale;        /* it told us that our placement is too old */
    /* of the last welcome */
    bool welcomed;
    char name[MESSAGE_NAME_MAX + 1];
    char data[ENDPOINT_MAX];
    char cpu[32];
    uint32_t threads;
    uint64_t resident_bytes, holdings_version;
    holdings held;
    /* Of those, what no placement that we know gave it when it was greeted, or
     * what a switch has taken from it since: it may drop them at any time, so a
     * later placement that gives them back waits for its next word. */
    holdings doubted;
    uint64_t
        doubted_by; /* the welcome to no greeting up to this is that word */

    char why[200];       /* of the last refusal */
    uint64_t told_epoch; /* the placement that it knows, by its last answer */
    uint64_t batches, pairs, progress; /* of the last pong */
    uint32_t queued;

    load_meter *meter; /* NULL: it has told nothing yet */
    uint64_t load_id;  /* the question that is not answered yet; 0: none */
    uint64_t load_asked_ms;
    bool load_doubted; /* its last word could not be true */
} node;

struct nodes {
    nodes_config config;
    membership *machine;
    message_arena *arena;
    node **all; /* [n_all], by place; NULL: empty */
    uint32_t n_all, room;
    uint64_t last_serial;
    uv_timer_t timer;
    bool closing, settled;
    bool unpublished;     /* the newest rack lacks something, or was not made */
    uint64_t rack_due_ms; /* then the next one, if it is for that alone */
    uint64_t epoch;       /* of the newest rack */
    /* With registered nodes: the placement in use, and one that is to be. NULL:
     * there is none. */
    rack_placement *assignment, *next;
    uint64_t begun_ms;        /* etcd was heard first; 0: it was not */
    uint64_t switch_look_ms;  /* then it is looked at again */
    uint64_t switch_until_ms; /* then `next` is used in any case */
    placement *where;         /* the newest: live, assigned and held */
    char difference[200];     /* the last one between replicas; or "" */

    heat *heat, *old_heat; /* NULL: not measured yet; of an earlier cut */
    uint64_t load_due_ms;
    uint64_t last_question; /* the number of a greeting or a load question */
};

static inline bool node_is_up(const nodes *n, const node *p) {
    return membership_state(n->machine, p->index) == NODE_UP;
}

/* It said that it holds this, and there is no reason why it should not. */
static inline bool node_can_be_asked(const node *p, uint32_t layer,
                                     uint32_t unit) {
    return holdings_has(&p->held, layer, unit) &&
           !holdings_has(&p->doubted, layer, unit);
}

/* The newest placement that we know. */
static inline const rack_placement *nodes_newest(const nodes *n) {
    return n->next != NULL ? n->next : n->assignment;
}

/* What the experts of the rack are cut into. */
static inline uint32_t nodes_slices(const nodes *n) {
    if (n->assignment == NULL) return n->config.slices;
    return rack_placement_head(n->assignment)->slices;
}

/* ---- nodes.c ---- */
/* A node in the lowest free place, without a link; `control` is copied.
 * -ENOMEM, ERR_OVERLOADED. */
int nodes_add(nodes *n, const char *control, node **out);
/* Once.  What link_connect() says; then the node has no link. */
int nodes_connect(nodes *n, node *p, char *why, size_t why_size);
void nodes_remove(nodes *n, node *p);
void nodes_send(node *p, const message *m);
void nodes_greet(nodes *n, node *p);
/* Do what the machine wants, and come back when it says. */
void nodes_pump(nodes *n);

/* ---- nodes_set.c ---- */
/* Who is not registered and has nothing to do any more leaves; true: somebody
 * did, which is to be published. */
bool nodes_let_go(nodes *n);

/* ---- nodes_switch.c ---- */
/* Use this placement, at once or when that loses nothing (nodes_switch() will
 * say); NULL: none.  True: another one is in use now. */
bool nodes_assign(nodes *n, const rack_placement *p);
/* A node has said what it holds, or is gone: does that end the wait? */
bool nodes_switch(nodes *n);
/* After a welcome: what it holds, but was not to hold, does not count. */
void nodes_doubt(nodes *n, node *p);
/* Nodes by their places in a placement; NULL: not there, not up, or holding
 * experts that are cut in another way.  Malloc'ed; NULL without memory. */
const node **nodes_by_place(const nodes *n, const rack_placement *p);

/* ---- nodes_load.c ---- */
/* Ask whom it is time to ask; when to come back. */
uint64_t nodes_load_ask(nodes *n, uint64_t now_ms);
void nodes_load_take(nodes *n, node *p, const message *m, frames *f);
/* Is this error the answer to such a question, and to nothing else? */
bool nodes_load_refused(node *p, const message *m);
/* False: it is not measured, all is 0. */
bool nodes_load_figures(const nodes *n, const node *p, load_figures *out);
/* What one node has to load and to drop; bytes are not counted. */
void nodes_load_moves(const nodes *n, const node *p, nodes_moves *out);

/* ---- nodes_load_status.c: members of the status object ---- */
int nodes_load_node_json(const nodes *n, uint32_t node, json_t *into);
int nodes_load_layer_json(const nodes *n, uint32_t layer, json_t *into);
int nodes_load_units_json(const nodes *n, uint32_t layer, json_t *into);
int nodes_load_json(const nodes *n, json_t *into);

/* ---- nodes_rack.c ---- */
/* Tell the step thread what is true now. */
int nodes_publish(nodes *n);
/* The same soon, at once if that was not done a moment ago: a node is up, or
 * holds other things than before.  A loss is not to wait. */
void nodes_changed(nodes *n);

#endif
