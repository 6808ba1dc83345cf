/* sim_plants.c - see sim_plants.h. */
#include "tests/sim/sim_plants.h"

#include <stdlib.h>
#include <string.h>

const sim_plant_entry sim_plants[PLANT_COUNT] = {
    [PLANT_NONE] = {"none", "nothing is wrong", ""},
    [PLANT_ARRIVAL_ORDER] = {"arrival-order",
                             "a row's experts are added as they arrive",
                             "token"},
    [PLANT_SLICE_ORDER] = {"slice-order",
                           "slices are added in turn, not as a tree", "token"},
    [PLANT_DOUBLE_COUNT] = {"double-count",
                            "an answer that comes twice is added twice",
                            "token"},
    [PLANT_HEDGE_ADDED] = {"hedge-added",
                           "the answer of a replica is added to the one that "
                           "came first",
                           "token"},
    [PLANT_LATE_LAYER] = {"late-layer",
                          "an answer to an earlier layer is used in this one",
                          "token"},
    [PLANT_SKIP_LOST] = {"skip-lost",
                         "an expert that nobody computed is left out of the "
                         "sum",
                         "token"},
    [PLANT_KEEP_CREDIT] = {"keep-credit",
                           "an answer that came too late is just dropped",
                           "credit"},
    [PLANT_CHECKSUM] = {"checksum",
                        "a damaged unit is loaded without a comparison of its "
                        "checksum",
                        "token"},
    [PLANT_DROP_IN_MERGE] = {"drop-in-merge",
                             "a unit is dropped while it is computed with",
                             "computes"},
    [PLANT_RESUME_EMPTY] = {"resume-empty",
                            "a client that moves does not say which tokens it "
                            "has",
                            "token"},
    [PLANT_OLD_STREAM] = {"old-stream",
                          "a client takes tokens of the coordinator that it "
                          "left",
                          "token"},
    [PLANT_STALL_DROPS] = {"stall-drops",
                           "a request whose experts were lost is forgotten",
                           "request"},
    [PLANT_NO_FENCE] = {"no-fence",
                        "placements are written without comparing the term",
                        "stale term"},
    [PLANT_NO_REVISION] = {"no-revision",
                           "placements are written without comparing the "
                           "revision that they were planned from",
                           "is written after"},
    [PLANT_OLD_EPOCH] = {"old-epoch",
                         "a placement of a lower epoch is taken up",
                         "goes back"},
    [PLANT_LEASE_DOWN] = {"lease-down",
                          "a node whose lease ran out is not asked any more",
                          "gave up"},
    [PLANT_BLIND_SWITCH] = {"blind-switch",
                            "a new placement is used before its nodes have "
                            "said what they hold",
                            "gave up"},
    [PLANT_UNASSIGNED] = {"unassigned",
                          "nodes are asked for what they hold, assigned or not",
                          "still uses"},
    [PLANT_NO_WAIT] = {"no-wait", "nodes take every coordinator for up to date",
                       "still uses"},
    [PLANT_EARLY_READY] = {"early-ready",
                           "nodes report an epoch before they have loaded it",
                           "before it holds"},
    [PLANT_OVER_MEMORY] = {"over-memory", "a node does not watch its memory",
                           "bytes"},
    [PLANT_WATCH_GAP] = {"watch-gap",
                         "a watch that was cut begins anew at the newest "
                         "revision",
                         "no rest"},
    [PLANT_DEAF_PONG] = {"deaf-pong",
                         "a coordinator does not ask a node again that holds "
                         "other units now",
                         "no rest"},
    [PLANT_FORGET_NOTHING] = {"forget-nothing",
                              "what was seen of a store that was wiped still "
                              "counts",
                              "no rest"},
    [PLANT_SLEEPING_CLOCK] = {"sleeping-clock",
                              "leases are counted by a clock that stops while "
                              "the machine sleeps",
                              "two lead"},
    [PLANT_SAME_INCARNATION] = {"same-incarnation",
                                "an operator's recovery does not begin a new "
                                "incarnation",
                                "is written after"},
};

sim_plant sim_plant_find(const char *text) {
    for (int i = 0; i < PLANT_COUNT; i++) {
        if (strcmp(text, sim_plants[i].name) == 0) return (sim_plant)i;
    }
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*end != '\0' || end == text || n > PLANT_COUNT) return PLANT_COUNT;
    return (sim_plant)n;
}
