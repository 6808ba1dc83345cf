/* rack_view.h - what etcd says of a rack, as one typed picture.
 *
 * Fed with keys and values (a listing, then the events of a watch), it keeps
 * the records and the newest placement that makes sense.  Documents that cannot
 * be read are passed over, counted, and named in `why` for the log.  Pure: no
 * socket, no clock; one thread, but for placements, which are immutable and
 * counted references.
 *
 * The newest placement never goes back: one with a lower incarnation or epoch
 * than the one accepted before (etcd was restored or wiped) is not taken, and
 * neither is none at all; rack_view_rolled_back() says so until a newer one
 * comes. */
#ifndef DISCOVERY_RACK_VIEW_H
#define DISCOVERY_RACK_VIEW_H

#include "discovery/layer_map.h"
#include "discovery/records.h"

typedef struct rack_view rack_view;

int rack_view_new(rack_view **out);
void rack_view_free(rack_view *v);

/* ---- feeding ---- */

/* Everything is listed anew: forget the records (not the placement), then put
 * what is listed, then rack_view_settle(). */
void rack_view_clear(rack_view *v);
/* One key, without the cluster's prefix.  Values are copied.  ERR_FORMAT and
 * the like with a sentence for a document that was passed over (an earlier one
 * under that key is forgotten), -ENOMEM (list anew). */
int rack_view_put(rack_view *v, const void *key, size_t key_len,
                  const void *value, size_t value_len, int64_t create_revision,
                  int64_t mod_revision, char *why, size_t why_size);
void rack_view_delete(rack_view *v, const void *key, size_t key_len);
/* A whole revision (or listing) has been fed: take up its placement if it is
 * complete, consistent and newer.  ERR_FORMAT with a sentence if it is not
 * consistent: the accepted one stays. */
int rack_view_settle(rack_view *v, char *why, size_t why_size);

/* ---- reading: pointers are valid until the next feeding call ---- */
const node_record *rack_view_nodes(const rack_view *v, size_t *n); /* by name */
const node_record *rack_view_node(const rack_view *v, const char *name);
const coordinator_record *rack_view_coordinators(const rack_view *v, size_t *n);
const leader_record *rack_view_leader(const rack_view *v); /* NULL: none */
const ready_record *rack_view_ready(const rack_view *v, const char *name);
/* Up to which epoch (packed) all that is assigned to a node is resident, as far
 * as its report can be believed: it has to be of the process that is
 * registered, and of what the placement says; 0: not at all. */
uint64_t rack_view_ready_epoch(const rack_view *v, const char *name);
const drain_record *rack_view_drain(const rack_view *v, const char *name);
const drain_record *rack_view_drains(const rack_view *v, size_t *n);

/* mod_revision of placement/epoch as it stands in etcd, 0: there is none. */
int64_t rack_view_epoch_revision(const rack_view *v);
/* The epoch (packed) that it names, whether or not that was accepted; 0: there
 * is none, or it cannot be read. */
uint64_t rack_view_head_epoch(const rack_view *v);
bool rack_view_rolled_back(const rack_view *v);
/* Documents that could not be read, since the view was made. */
uint64_t rack_view_passed_over(const rack_view *v);

/* ---- placements ---- */

typedef struct rack_placement rack_placement;
/* The accepted one; NULL: none yet.  Borrowed; ref it to keep it. */
const rack_placement *rack_view_placement(const rack_view *v);

rack_placement *rack_placement_ref(const rack_placement *p); /* any thread */
void rack_placement_unref(rack_placement *p);
const epoch_record *rack_placement_head(const rack_placement *p);
uint64_t rack_placement_epoch(const rack_placement *p); /* epoch_pack()ed */
/* NULL: a layer without experts. */
const layer_map *rack_placement_layer(const rack_placement *p, uint32_t layer);
/* A node's number in the placement; -1: not in it. */
int32_t rack_placement_node(const rack_placement *p, const char *name);
bool rack_placement_assigns(const rack_placement *p, int32_t node,
                            uint32_t layer, uint32_t unit);
/* XXH3-64 over (layer, unit) of all that is assigned to a node: what a ready
 * record is compared with.  0 for a node that nothing is assigned to. */
uint64_t rack_placement_digest(const rack_placement *p, int32_t node);
/* Of all that a placement says, its number but not its writer; never 0. */
uint64_t rack_placement_sum(const rack_placement *p);
uint64_t rack_placement_units(const rack_placement *p, int32_t node);

#endif
