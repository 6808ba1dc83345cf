/* member_heat.h - what this node's units were asked for, over restarts; a part
 * of member.c.  Loop thread only. */
#ifndef EXPERT_NODE_MEMBER_HEAT_H
#define EXPERT_NODE_MEMBER_HEAT_H

#include "expert_node/heat_memory.h"
#include "expert_node/service.h"

typedef struct {
    heat_memory *memory;  /* NULL: nothing is remembered */
    const tally *counted; /* whose counters `last` are, of which store */
    const expert_store *of;
    uint32_t *last; /* [units of all layers] */
    uint64_t looked_ms;
    bool said_failed;
} member_heat;

/* The model is known: remember what is in `dir`.  Failures are logged, and then
 * nothing is remembered. */
void member_heat_open(member_heat *h, const heat_memory_config *c);
void member_heat_close(member_heat *h); /* zeroed is fine */

/* How much a unit was needed: for keeper_config. */
uint64_t member_heat_of(const member_heat *h, const shard *s, uint32_t layer,
                        uint32_t unit);
/* From time to time: take in what was counted, and save it. */
void member_heat_look(member_heat *h, const service *s, uint64_t now_ms);

#endif
