/* profile.h - the numerics profile: what must be equal for equal bits.
 *
 * A coordinator and a node must agree on what the node computes (version,
 * activation, rows); two coordinators, for failover, on everything. */
#ifndef ENGINE_PROFILE_H
#define ENGINE_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROFILE_VERSION 3 /* rises when any bit of any result may change */

typedef struct {
    uint32_t version;
    const char *activation; /* "a8": quantized weights see A8 rows; "f32" */
    const char *rows;       /* output rows travel as: "f32" */
    const char *kv;         /* kv_type_name(); "" on nodes */
    const char *mla;        /* "absorbed"; "" on nodes */
    const char *blas;       /* OpenBLAS core type; "" on nodes */
} profile;

/* The profile of a process that runs with `exact`.  Static strings. */
profile profile_of_node(bool exact);
profile profile_of_coordinator(bool exact, const char *kv, const char *blas);

/* May these two compute experts for the same token?  If not, `why` names the
 * field and both values. */
bool profile_same_experts(const profile *a, const profile *b, char *why,
                          size_t why_size);

#endif
