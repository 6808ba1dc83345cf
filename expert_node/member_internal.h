/* member_internal.h - what member's files share: member.c follows the rack,
 * member_model.c learns which model it works with. */
#ifndef EXPERT_NODE_MEMBER_INTERNAL_H
#define EXPERT_NODE_MEMBER_INTERNAL_H

#include "discovery/registry.h"
#include "expert_node/loader.h"
#include "expert_node/member.h"
#include "expert_node/member_heat.h"
#include "expert_node/unit_server.h"

typedef enum { JOB_MODEL, JOB_LOAD } job_kind;

struct member {
    member_config config;
    uint64_t memory_bytes;
    registry *registry;
    keeper *keeper;
    member_heat heat;
    bool remembers; /* or tried to */
    loader *loader;
    fetch *fetch;      /* NULL: the model is in a file of our own */
    unit_cache *cache; /* NULL: none */
    unit_server *units;
    uv_timer_t timer;
    bool closing, failed;

    shard *learned; /* by the loader, not yet adopted */
    bool learning, known;
    uint64_t pull_at_ms, pull_wait_ms;
    bool has_source; /* a coordinator that has the model is registered, or it
                        is in the cache */
    bool kept;       /* it is */
    bool has_wanted;
    fingerprint wanted; /* the rack's model */
    bool learns_wanted; /* what the loader was told of these two */
    fingerprint learned_print;
    bool said_waiting, said_out;

    bool placement_due;  /* there was no memory to take the newest one up */
    uint64_t stepped_ms; /* the last step since the model is known; 0: none */

    /* Orders to drop that the worker has, oldest first. */
    drop_order drops[ORDERS_MAX_DROPS];
    uint64_t drops_given, drops_done;

    /* Of the assignment that is being loaded; 0: all is here. */
    uint64_t assigned_ms, told_ms, fetched_before, cached_before, told_bytes;

    char load_error[LOADER_WHY]; /* the last one; "" since all was well */
    uint64_t load_error_ms;

    void (*on_closed)(void *ctx);
    void *closed_ctx;
    int open_handles; /* until on_closed */
};

/* NULL: the model is fetched. */
static inline const char *member_path(const member *m) {
    return m->config.config->model;
}

/* NULL: etcd has not been listed yet. */
static inline const rack_view *member_view(const member *m) {
    return m->registry != NULL ? registry_view(m->registry) : NULL;
}

/* Begin to read the file, or to pull what a source has. */
void member_learn(member *m);
/* A node without a file: as soon as somebody has the model, and after a failure
 * when its time has come. */
void member_learn_if_due(member *m, uint64_t now_ms);
/* The loader has come back: serve the model and register.  0 if there is one
 * now; failures that can be tried again are, others end the node. */
int member_learned(member *m, const loader_result *r);

/* Who has the model that this rack works with, for the fetch. */
void member_follow_sources(member *m, const rack_view *view);

/* ---- member_weights.c ---- */

int member_open_weights(member *m, char *why, size_t why_size);
/* The model is known. */
void member_serve_weights(member *m);
/* Then on_idle, with the member. */
void member_close_weights(member *m, void (*on_idle)(void *ctx));
void member_free_weights(member *m);

/* A unit is about to be loaded; it is not, after all; it is; it is dropped. */
void member_ahead(member *m, uint32_t layer, uint32_t unit);
void member_not_ahead(member *m, uint32_t layer, uint32_t unit);
void member_unit_loaded(member *m, uint32_t layer, uint32_t unit);
void member_unit_dropped(member *m, uint32_t layer, uint32_t unit);

/* For the log: there is something to load; all of it is here; now and then. */
void member_begin_assignment(member *m, uint64_t now_ms);
void member_end_assignment(member *m, uint64_t now_ms);
void member_tell_progress(member *m, uint64_t now_ms);
json_t *member_weights_json(const member *m);
/* A source in use, or "". */
const char *member_source(const member *m, char out[FETCH_SOURCE_SIZE]);

#endif
