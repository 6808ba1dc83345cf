/* sim_plants.h - mistakes made on purpose, to prove that the simulator notices
 * them.
 *
 * Each is one that a shell around the machines could make, or a machine at its
 * boundary; none is in the product's code.  sim_plants.c says what each does
 * and which check is to find it. */
#ifndef TESTS_SIM_SIM_PLANTS_H
#define TESTS_SIM_SIM_PLANTS_H

#include <stdint.h>

typedef enum {
    PLANT_NONE,
    PLANT_ARRIVAL_ORDER,
    PLANT_SLICE_ORDER,
    PLANT_DOUBLE_COUNT,
    PLANT_HEDGE_ADDED,
    PLANT_LATE_LAYER,
    PLANT_SKIP_LOST,
    PLANT_KEEP_CREDIT,
    PLANT_CHECKSUM,
    PLANT_DROP_IN_MERGE,
    PLANT_RESUME_EMPTY,
    PLANT_OLD_STREAM,
    PLANT_STALL_DROPS,
    PLANT_NO_FENCE,
    PLANT_NO_REVISION,
    PLANT_OLD_EPOCH,
    PLANT_LEASE_DOWN,
    PLANT_BLIND_SWITCH,
    PLANT_UNASSIGNED,
    PLANT_NO_WAIT,
    PLANT_EARLY_READY,
    PLANT_OVER_MEMORY,
    PLANT_WATCH_GAP,
    PLANT_DEAF_PONG,
    PLANT_FORGET_NOTHING,
    PLANT_SLEEPING_CLOCK,
    PLANT_SAME_INCARNATION,
    PLANT_COUNT
} sim_plant;

typedef struct {
    const char *name;      /* for --plant */
    const char *what;      /* the mistake */
    const char *complaint; /* how a run that notices it begins to complain */
} sim_plant_entry;

/* [PLANT_COUNT] */
extern const sim_plant_entry sim_plants[];

/* By name or number; PLANT_COUNT: there is no such. */
sim_plant sim_plant_find(const char *text);

#endif
