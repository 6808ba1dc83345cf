/* layer_map.h - one layer's placement: which nodes hold each of its units, and
 * its packed form for etcd.
 *
 * Nodes are numbers: places in the list of names that the placement's epoch
 * record carries.  A unit is a slice of an expert (expert * slices + slice).
 * The packed form is a few bytes a unit, so that all layers of a large model
 * fit into few transactions: version byte, slices, number of units, per unit
 * its number of holders and the holders (LEB128 varints), XXH3-64 of all before
 * it, lowest byte first. */
#ifndef DISCOVERY_LAYER_MAP_H
#define DISCOVERY_LAYER_MAP_H

#include <stddef.h>
#include <stdint.h>

#define LAYER_MAP_MAX_HOLDERS 64 /* of one unit */
#define LAYER_MAP_MAX_SLICES 8   /* of one expert */

typedef struct {
    uint32_t slices;   /* of each expert: 1, 2, 4, 8 */
    uint32_t n_units;  /* experts * slices */
    uint32_t *first;   /* [n_units + 1], into holders */
    uint16_t *holders; /* of all units, each unit's ascending and distinct */
} layer_map;

/* Room for `n_units` units with `n_holders` holders in all; first[] and
 * holders[] are the caller's to fill.  ERR_RANGE above the limits, -ENOMEM. */
int layer_map_init(layer_map *m, uint32_t slices, uint32_t n_units,
                   uint32_t n_holders);
void layer_map_fini(layer_map *m); /* zeroed is fine */
int layer_map_copy(layer_map *to, const layer_map *from);
int layer_map_equal(const layer_map *a, const layer_map *b);

static inline const uint16_t *layer_map_holders(const layer_map *m,
                                                uint32_t unit, uint32_t *n) {
    *n = m->first[unit + 1] - m->first[unit];
    return m->holders + m->first[unit];
}

/* *out is malloc'ed.  -ENOMEM. */
int layer_map_pack(const layer_map *m, uint8_t **out, size_t *bytes);

/* Anything may come in.  ERR_FORMAT, ERR_CHECKSUM, ERR_UNSUPPORTED (a newer
 * version), ERR_RANGE (a holder that is not below n_nodes), -ENOMEM, with a
 * sentence. */
int layer_map_unpack(layer_map *m, const void *data, size_t bytes,
                     uint32_t n_nodes, char *why, size_t why_size);

#endif
