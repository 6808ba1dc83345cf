/* rack_placement.h - inside rack_view: how placements are made.
 *
 * A placement is immutable and counted.  Its layers are counted on their own,
 * because a new placement shares all that did not change with the one before
 * it.  Reading is rack_view.h's. */
#ifndef DISCOVERY_RACK_PLACEMENT_H
#define DISCOVERY_RACK_PLACEMENT_H

#include <stdatomic.h>
#include "discovery/rack_view.h"

typedef struct {
    atomic_uint refs;
    layer_map map;
} shared_layer;

/* From packed bytes, with one reference.  As layer_map_unpack(), with as many
 * nodes as there may be. */
int shared_layer_unpack(shared_layer **out, const void *data, size_t bytes,
                        char *why, size_t why_size);
void shared_layer_unref(shared_layer *l); /* NULL is fine */

/* Of a head (copied) and its layers (referenced; NULL: dense), one for each
 * number below head->n_layers.  ERR_FORMAT with a sentence if they do not fit
 * together, -ENOMEM.  The caller has one reference. */
int rack_placement_new(rack_placement **out, const epoch_record *head,
                       shared_layer *const *layers, char *why, size_t why_size);

/* Do both say the same of every unit? */
bool rack_placement_same(const rack_placement *a, const rack_placement *b);

#endif
