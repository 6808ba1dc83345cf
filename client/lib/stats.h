/* stats.h - inside libroster: the figures that come with FINISHED. */
#ifndef CLIENT_LIB_STATS_H
#define CLIENT_LIB_STATS_H

#include "client/include/roster.h"
#include "proto/message.h"

typedef struct {
    roster_stats figures; /* size 0: none were taken yet */
    roster_share *shares; /* owned; the names follow in the same block */
} stats;

int client_stats_take(stats *s, const message *finished);
void client_stats_fini(stats *s);

/* As roster_generation_stats(). */
int client_stats_give(const stats *s, roster_stats *out);

#endif
