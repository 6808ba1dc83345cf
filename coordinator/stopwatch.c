/* stopwatch.c - see stopwatch.h. */
#include "coordinator/stopwatch.h"

#include <assert.h>
#include <stddef.h>
#include <time.h>

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

const char *stage_name(stage s) {
    static const char *const names[STAGES] = {
        [STAGE_ATTENTION] = "attention", [STAGE_ROUTER] = "router",
        [STAGE_DENSE] = "dense",         [STAGE_PACK] = "pack",
        [STAGE_WIRE] = "wire",           [STAGE_WAIT] = "wait",
        [STAGE_EXPERTS] = "experts",     [STAGE_ADD] = "add",
        [STAGE_LOGITS] = "logits",       [STAGE_OTHER] = "other",
        [STAGE_IDLE] = "idle",
    };
    assert(s < STAGES);
    return names[s];
}

void stopwatch_start(stopwatch *w) {
    if (w == NULL) return;
    *w = (stopwatch){.now = STAGE_IDLE, .since_ns = clock_ns()};
}

stage stopwatch_enter(stopwatch *w, stage s) {
    if (w == NULL) return s;
    stage before = w->now;
    uint64_t now = clock_ns();
    w->ns[before] += now - w->since_ns;
    w->since_ns = now;
    w->now = s;
    return before;
}

void stopwatch_sent(stopwatch *w, uint64_t id) {
    if (w == NULL) return;
    size_t at = id % STOPWATCH_SENT;
    w->sent[at].id = id;
    w->sent[at].ns = clock_ns();
}

void stopwatch_answered(stopwatch *w, uint64_t id, uint64_t node_us) {
    if (w == NULL) return;
    size_t at = id % STOPWATCH_SENT;
    if (w->sent[at].id != id || w->sent[at].ns == 0) return;
    uint64_t taken = clock_ns() - w->sent[at].ns;
    uint64_t node_ns = node_us * 1000;
    /* (a node that says that it took longer than we waited is not believed) */
    w->way_ns = taken > node_ns ? taken - node_ns : 0;
}

void stopwatch_layer(stopwatch *w) {
    if (w == NULL) return;
    uint64_t *wait = &w->ns[STAGE_WAIT];
    assert(w->now != STAGE_WAIT);
    uint64_t waited = *wait - w->waited_ns;
    uint64_t wire = w->way_ns < waited ? w->way_ns : waited;
    *wait -= wire;
    w->ns[STAGE_WIRE] += wire;
    w->waited_ns = *wait;
    w->way_ns = 0;
}
