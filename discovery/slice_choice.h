/* slice_choice.h - into how many slices the experts of a rack are best cut, by
 * the predicted time of a layer while one stream decodes.
 *
 * A token uses k experts.  Whole, they keep at most k nodes busy, and one node
 * may have two of them; in slices, each is read by as many nodes at once.  But
 * every node that is asked costs the coordinator something, and every slice
 * answers a row of its own.  A pure function. */
#ifndef DISCOVERY_SLICE_CHOICE_H
#define DISCOVERY_SLICE_CHOICE_H

#include <stdint.h>

#define SLICE_CHOICE_MOST 8

typedef struct {
    uint32_t n_nodes;
    uint32_t n_used;       /* experts of a token */
    uint32_t most;         /* slices that the layers allow: 1, 2, 4 or 8 */
    uint64_t expert_bytes; /* of a whole one */
    uint64_t row_bytes;    /* of an answer */
    /* What is usual, unless it is set: */
    double node_bytes_us; /* that a node reads in a microsecond */
    double link_bytes_us; /* that arrive at the coordinator */
    double call_us;       /* of a node that is asked, for the coordinator */
} slice_question;

/* A layer's predicted time with so many slices. */
double slice_choice_us(const slice_question *q, uint32_t slices);

/* 1, 2, 4 or 8: the fewest that are not clearly beaten by more. */
uint32_t slice_choice(const slice_question *q);

#endif
