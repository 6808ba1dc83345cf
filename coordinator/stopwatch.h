/* stopwatch.h - where the step thread's time goes.
 *
 * Its time is always that of one stage: entering a stage ends the one before,
 * so the stages add up to all of the time, whatever calls what.
 *
 *   attention  of a layer, from the residual to the normed input of what
 *              follows: norms, q, k, v, cache, scores and values, output matrix
 *   router     the scores of all experts and the choice among them
 *   dense      networks that the coordinator has itself: dense layers, shared
 *              experts
 *   pack       what sending and receiving costs this thread: dividing rows
 *              among nodes, making messages, opening and checking answers
 *   wire       waiting that no node's work explains: sockets, wake-ups, network
 *   wait       waiting while nodes compute, or have the request in their queue
 *   experts    experts that are computed here
 *   add        the sum of the experts' outputs, and the residual
 *   logits     the last norm and the output matrix
 *   other      embeddings, sampling, planning the step, what is left for the
 *              loop
 *   idle       between steps, with nothing to compute
 *
 * Wire and wait are told apart when a layer ends: of what was waited for it, as
 * much as the last answer's way took is the wire's.  An answer's way is the
 * time from sending its request to having it, less what the node says that the
 * request was queued and computed.
 *
 * A look at the clock takes some 20 ns, a layer has about ten.  The step thread
 * owns a stopwatch.  NULL is one that nobody reads: all functions take it. */
#ifndef COORDINATOR_STOPWATCH_H
#define COORDINATOR_STOPWATCH_H

#include <stdint.h>

typedef enum {
    STAGE_ATTENTION,
    STAGE_ROUTER,
    STAGE_DENSE,
    STAGE_PACK,
    STAGE_WIRE,
    STAGE_WAIT,
    STAGE_EXPERTS,
    STAGE_ADD,
    STAGE_LOGITS,
    STAGE_OTHER,
    STAGE_IDLE,
    STAGES
} stage;

const char *stage_name(stage s);

#define STOPWATCH_SENT 256 /* requests whose sending is remembered */

typedef struct {
    uint64_t ns[STAGES]; /* up to the last change */
    stage now;
    uint64_t since_ns;
    /* of the requests that are under way, by their ids */
    struct {
        uint64_t id, ns;
    } sent[STOPWATCH_SENT];
    uint64_t way_ns;    /* of the last answer; 0: none since the last layer */
    uint64_t waited_ns; /* ns[STAGE_WAIT] as it was then */
} stopwatch;

/* Idle from now on. */
void stopwatch_start(stopwatch *w);

/* From now on it is the time of `s`.  Returns the stage that ended, for the
 * callee that gives the time back. */
stage stopwatch_enter(stopwatch *w, stage s);

/* A request for experts goes out; its answer is here.  An id that is not known
 * any more, or was asked for a comparison, says nothing. */
void stopwatch_sent(stopwatch *w, uint64_t id);
void stopwatch_answered(stopwatch *w, uint64_t id, uint64_t node_us);

/* A layer is over: tell apart what was waited for it. */
void stopwatch_layer(stopwatch *w);

#endif
