/* exchange_internal.h - what the parts of exchange share; nobody else includes
 * it.
 *
 *   exchange.c          life, racks and links, what is told of it
 *   exchange_layer.c    layers: begin, what there is to do, finish
 *   exchange_message.c  batches that go out, answers that come in
 *   exchange_resume.c   answers that come late, and rows that come back
 *   exchange_check.c    answers that are compared with a second holder's */
#ifndef COORDINATOR_EXCHANGE_INTERNAL_H
#define COORDINATOR_EXCHANGE_INTERNAL_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include "coordinator/exchange.h"
#include "coordinator/kept_rows.h"
#include "engine/spin.h"

typedef struct {
    struct link *data; /* NULL: not connected */
    uint64_t boot_id, serial;
    bool up;
    char endpoint[ENDPOINT_MAX];
    atomic_bool works; /* set by the loop, taken by the step thread */
} exchange_peer;

/* An answer that nobody waits for, and somebody may ask for soon. */
typedef struct {
    uint32_t node;
    uint64_t request_id, until_us;
    frames reply;
} exchange_held;

#define EXCHANGE_HELD 32 /* none is larger than a piece */

/* Sized for the slices in force. */
typedef struct {
    uint32_t pairs;        /* room */
    uint32_t *units;       /* [pairs] of the layer, in the router's order */
    const float **outputs; /* [pairs] of the layer, the same */
    bool *take;            /* [pairs] */
    uint32_t *experts;     /* [pairs] */
    uint32_t *counts;      /* [pairs] */
    uint32_t *rows;        /* [pairs] */
    const void **local_x;  /* [pairs] */
    float **local_y;       /* [pairs] */
    float *local_rows;     /* [pairs][padded n_embd], made when first used */
} exchange_buffers;

/* A layer that is being computed. */
typedef struct {
    bool open;                   /* between begin and finish */
    const exchange_layer *layer; /* `asked`; NULL: it is over */
    exchange_layer asked;
    rack *during;             /* its placement is on loan to the machine */
    const placement *where;   /* by which it is computed; NULL: it is over */
    uint32_t layer_slices, k; /* units of a row, all slices counted */
    uint64_t begun_us;
    dispatch_action next; /* of this layer: nothing more to send until then */
    frames **replies;     /* kept until another begins; boxes are reused */
    size_t n_replies, n_boxes, replies_capacity;
    exchange_buffers of;
} exchange_lane;

struct exchange {
    exchange_config config;
    /* Refusals come in bursts: a few lines a period, then how many more. */
    uint64_t refused_since_us;
    uint32_t refused_lines;
    dispatch *machine;
    message_arena *arena;
    cross_check *checks;                /* NULL: none */
    exchange_peer *peers;               /* [max_nodes] */
    rack *now;                          /* what `peers` reflects */
    rack *adopted;                      /* by which layers begin */
    uint32_t *up, n_up;                 /* [max_nodes] the peers that are up */
    uint32_t n_seen;                    /* peers above were never used */
    uint32_t slices;                    /* that the buffers are sized for */
    atomic_uint_fast64_t epoch, source; /* from which requests are made */
    exchange_look look;
    void *look_ctx;

    /* posted by the loop */
    pthread_mutex_t lock; /* guards all of these */
    rack *posted;
    dispatch_stats totals;
    dispatch_node_stats *node_stats; /* [max_nodes] */
    cross_check_stats check_stats;
    cross_check_verdict verdict; /* if there is one that nobody took */
    bool has_verdict;
    int wake_fd;

    exchange_lane lanes[EXCHANGE_LANES];
    exchange_lane *lane; /* that is worked on, or was last */
    uint64_t looked_us;  /* at the sockets, last */
    uint64_t waited_us;  /* for nodes, in all */

    /* of layers that will be computed again */
    kept_rows *kept_rows;
    uint64_t *row_keys; /* [max_rows] scratch */
    exchange_held held[EXCHANGE_HELD];
    size_t n_held;

    /* scratch */
    uint32_t *row_slot;   /* [max_rows]: place of a row in a request + 1 */
    spin_luck spins;      /* of waits for answers */
    struct pollfd *polls; /* [max_nodes + 1] */
    uint32_t lost_layer, lost_expert;
};

/* ---- exchange.c ---- */
/* Make the links what the newest posted rack says. */
void exchange_take_rack(exchange *x);
/* Between layers: the next one to begin is of the newest rack, unless that is
 * cut in another way and a layer is open.  ERR_UNAVAILABLE: there is none. */
int exchange_adopt_rack(exchange *x);
/* What has arrived from all nodes; whether anything had. */
bool exchange_receive_all(exchange *x);
/* Until something arrives, or wake_us. */
void exchange_wait(exchange *x, uint64_t wake_us);
/* Counters, for other threads. */
void exchange_publish(exchange *x);

/* ---- exchange_layer.c ---- */
/* What follows concerns this layer; returns the one it concerned before. */
exchange_lane *exchange_choose(exchange *x, exchange_lane *lane);
void exchange_drop_replies(exchange_lane *lane);
/* Those of all layers that are finished. */
void exchange_drop_spent(exchange *x);
/* The first expert without an output; false: all are there. */
bool exchange_find_missing(const exchange *x, uint32_t *expert);

/* ---- exchange_message.c ---- */
/* Send what a SEND says, or tell the machine that it could not be sent. */
void exchange_send(exchange *x, const dispatch_action *a);
/* What has arrived from one node, within reason: one that floods us must not
 * keep us from the others.  Returns whether anything had. */
bool exchange_receive(exchange *x, uint32_t node);
/* Give rows that were checked to the machine; the frames are kept if they are
 * wanted. */
void exchange_use_rows(exchange *x, uint32_t node, uint64_t request_id,
                       frames *f);

/* ---- exchange_resume.c ---- */
/* The layer ends with rows that are lost: what is still owed may be of use. */
void exchange_keep(exchange *x);
/* A layer has begun: take up what is under way for it, or came meanwhile. */
void exchange_resume(exchange *x);
/* Put an answer aside for its layer's next attempt; false: it is not for one,
 * or too many are there. */
bool exchange_hold(exchange *x, uint32_t node, uint64_t request_id, frames *f);
/* Use those held whose time has come, or has passed. */
void exchange_release(exchange *x);

/* ---- exchange_check.c ---- */
/* These rows of this layer were answered and used: are they to be compared? */
void exchange_check_sample(exchange *x, uint32_t node, const uint32_t *pairs,
                           uint32_t n, const float *rows);
/* An answer to a request of ours; NULL: a refusal. */
void exchange_check_answer(exchange *x, uint32_t node, const message *m,
                           frames *f);
/* Between steps: ask what there is to ask. */
void exchange_check_turn(exchange *x);

#endif
