/* leader_peers.c - see leader_peers.h. */
#include "coordinator/leader_peers.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"

/* Three quarters of a step: a speed halfway between two steps stays where it
 * is, from whichever side it came. */
#define STICKS (0.75 * LEADER_SPEED_STEP)

void leader_peers_fini(leader_peers *p) {
    free(p->items);
    *p = (leader_peers){0};
}

static int grow(leader_peers *p) {
    if (p->n < p->room) return 0;
    if (p->n == LEADER_PEERS_MAX) return ERR_RANGE;
    uint32_t room = p->room > 0 ? 2 * p->room : 16;
    leader_peer *items = realloc(p->items, room * sizeof(*items));
    if (items == NULL) return -ENOMEM;
    p->items = items;
    p->room = room;
    return 0;
}

int leader_peers_number(leader_peers *p, const char *name, uint32_t *number) {
    uint64_t hash = XXH3_64bits(name, strlen(name));
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->items[i].hash != hash) continue;
        if (strcmp(p->items[i].name, name) != 0) continue;
        *number = i;
        return 0;
    }
    int rc = grow(p);
    if (rc < 0) return rc;
    leader_peer *peer = &p->items[p->n];
    *peer = (leader_peer){.hash = hash, .speed = 1};
    snprintf(peer->name, sizeof(peer->name), "%s", name);
    *number = p->n++;
    return 0;
}

/* Does it go on with what was heard last, on the same side? */
static bool goes_on(const leader_peer *p, uint64_t now_ms, double speed) {
    return p->other_since_ms != 0 &&
           now_ms <= p->other_until_ms + LEADER_SPEED_GAP_MS &&
           (speed > p->speed) == (p->other > p->speed);
}

void leader_peer_set_speed(leader_peer *p, uint64_t now_ms, double speed) {
    bool known = isfinite(speed) && speed > 0;
    if (!known || fabs(speed - p->speed) < STICKS) {
        p->other_since_ms = 0;
        return;
    }
    if (!goes_on(p, now_ms, speed)) {
        p->other_since_ms = now_ms;
        p->other = speed;
    }
    p->other_until_ms = now_ms;
    if (fabs(speed - p->speed) < fabs(p->other - p->speed)) p->other = speed;
    if (now_ms < p->other_since_ms + LEADER_SPEED_LASTS_MS) return;

    double steps = round(p->other / LEADER_SPEED_STEP) * LEADER_SPEED_STEP;
    p->speed = fmin(fmax(steps, LEADER_SPEED_LEAST), LEADER_SPEED_MOST);
    p->other_since_ms = 0;
}
