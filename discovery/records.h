/* records.h - the documents that a rack keeps in etcd, as plain C: the only
 * code that packs, unpacks and checks them (layer maps have layer_map.h).
 *
 *   /roster/<cluster>/nodes/<name>             node_record          lease
 *   /roster/<cluster>/coordinators/<name>      coordinator_record   lease
 *   /roster/<cluster>/leader                   leader_record        lease
 *   /roster/<cluster>/placement/epoch          epoch_record
 *   /roster/<cluster>/placement/layer/<n>      layer_map
 *   /roster/<cluster>/ready/<name>             ready_record         lease
 *   /roster/<cluster>/drain/<name>             drain_record
 *   /roster/<cluster>/recovered/<incarnation>  recovered_record
 *
 * JSON; unknown members are passed over, so that versions can differ.  Names
 * are printable ASCII without '/', see record_is_name(). */
#ifndef DISCOVERY_RECORDS_H
#define DISCOVERY_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_NAME 128                    /* with the zero byte */
#define RECORD_ENDPOINT 256                /* with the zero byte */
#define RECORD_MODEL 32                    /* bytes of a fingerprint */
#define RECORD_BYTES_MAX ((size_t)1 << 20) /* of one document */
#define RECORD_NODES_MAX 1024              /* of one placement */

/* An incarnation and an epoch as one number that orders them: what headers of
 * messages carry. */
#define EPOCH_BITS 40
static inline uint64_t epoch_pack(uint64_t incarnation, uint64_t epoch) {
    return incarnation << EPOCH_BITS | epoch;
}
static inline uint64_t epoch_incarnation(uint64_t packed) {
    return packed >> EPOCH_BITS;
}
static inline uint64_t epoch_number(uint64_t packed) {
    return packed & (((uint64_t)1 << EPOCH_BITS) - 1);
}

typedef struct {
    uint32_t version;
    char activation[16], rows[16], kv[16], mla[16], blas[32]; /* "" on nodes */
} record_profile;

typedef struct {
    char name[RECORD_NAME]; /* of the key, not in the document */
    uint64_t boot;
    char control[RECORD_ENDPOINT];
    char weights[RECORD_ENDPOINT]; /* it gives units there; "": it does not */
    uint64_t memory_bytes;         /* for packed experts */
    char zone[RECORD_NAME], cpu[32], version[32];
    uint32_t threads, protocol;
    bool has_model;
    uint8_t model[RECORD_MODEL]; /* of its own file or the one it pulls */
    record_profile profile;
    int64_t create_revision, mod_revision; /* of the key */
} node_record;

typedef struct {
    char name[RECORD_NAME];
    uint64_t boot;
    char client[RECORD_ENDPOINT], weights[RECORD_ENDPOINT];
    char http[RECORD_ENDPOINT], version[32];
    uint32_t protocol;
    uint32_t drained;            /* 1: it takes no requests and has none left */
    uint64_t incarnation, epoch; /* the newest placement it knows; 0, 0: none */
    uint64_t placement;          /* ... the digest of that; 0: none */
    bool has_model;
    uint8_t model[RECORD_MODEL];
    record_profile profile;
    int64_t create_revision, mod_revision;
} coordinator_record;

typedef struct {
    char name[RECORD_NAME];
    uint64_t boot;
    int64_t create_revision; /* the term: what writes are fenced with */
} leader_record;

typedef struct {
    uint64_t incarnation, epoch;
    uint8_t model[RECORD_MODEL];
    uint32_t n_layers, n_experts, slices, min_replicas;
    char (*nodes)[RECORD_NAME]; /* [n_nodes], malloc'ed; a free place is "" */
    uint32_t n_nodes;
    char writer[RECORD_NAME];
    int64_t term;
    int64_t mod_revision;
} epoch_record;

typedef struct {
    char name[RECORD_NAME];
    uint64_t boot, incarnation, epoch;
    uint64_t digest; /* of the units that the epoch assigns to the node */
    uint64_t bytes;  /* resident */
    uint32_t units, waiting; /* resident; still to load */
    int64_t mod_revision;
} ready_record;

typedef struct {
    char name[RECORD_NAME];
    char by[RECORD_NAME], at[32];
    int64_t mod_revision;
} drain_record;

/* That an operator had a new incarnation begun: for whoever asks later. */
typedef struct {
    char by[RECORD_NAME], at[32]; /* who asked, when */
    char was[64], became[64];     /* epochs, as in 1.12; "" if there was none */
    char writer[RECORD_NAME];     /* the coordinator */
} recovered_record;

/* Now, as records have it: 2026-11-22T21:30:00Z. */
void record_time(char out[32]);

/* 1 to 127 printable ASCII characters, no '/'. */
bool record_is_name(const char *name);

/* ---- documents.  pack: malloc'ed text, NULL without memory.  unpack: from any
 * bytes, which need not be text; ERR_FORMAT with a sentence naming the member,
 * -ENOMEM.  Names and revisions are the caller's to fill in. ---- */
char *node_record_pack(const node_record *r);
int node_record_unpack(node_record *r, const void *data, size_t bytes,
                       char *why, size_t why_size);
char *coordinator_record_pack(const coordinator_record *r);
int coordinator_record_unpack(coordinator_record *r, const void *data,
                              size_t bytes, char *why, size_t why_size);
char *leader_record_pack(const leader_record *r);
int leader_record_unpack(leader_record *r, const void *data, size_t bytes,
                         char *why, size_t why_size);
char *epoch_record_pack(const epoch_record *r);
int epoch_record_unpack(epoch_record *r, const void *data, size_t bytes,
                        char *why, size_t why_size);
void epoch_record_fini(epoch_record *r);
char *ready_record_pack(const ready_record *r);
int ready_record_unpack(ready_record *r, const void *data, size_t bytes,
                        char *why, size_t why_size);
char *drain_record_pack(const drain_record *r);
int drain_record_unpack(drain_record *r, const void *data, size_t bytes,
                        char *why, size_t why_size);

char *recovered_record_pack(const recovered_record *r);
int recovered_record_unpack(recovered_record *r, const void *data, size_t bytes,
                            char *why, size_t why_size);

/* ---- keys ---- */
typedef enum {
    RECORD_NODE,
    RECORD_COORDINATOR,
    RECORD_LEADER,
    RECORD_EPOCH,
    RECORD_LAYER,
    RECORD_READY,
    RECORD_DRAIN,
    RECORD_RECOVERED,
    RECORD_KINDS /* something else: not ours to judge */
} record_kind;

#define RECORD_KEY 384
/* "/roster/<cluster>/" into `out`; its length. */
size_t record_prefix(const char *cluster, char out[RECORD_KEY]);
/* The key of a record: `name` for nodes, coordinators, ready, drain and (the
 * incarnation's digits) recovered; `layer` for RECORD_LAYER.  Returns `out`. */
char *record_key(const char *cluster, record_kind kind, const char *name,
                 uint32_t layer, char out[RECORD_KEY]);
/* What a key (without the cluster's prefix) names. */
record_kind record_parse_key(const void *rest, size_t bytes,
                             char name[RECORD_NAME], uint32_t *layer);

#endif
