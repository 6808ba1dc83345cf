/* registry_rig.h - registries for tests, each on a loop of its own, so that one
 * can be left standing still while others go on.
 *
 * Waiting turns the loops until something holds; a wait of more than
 * REGISTRY_RIG_PATIENCE_S fails the test. */
#ifndef TESTS_SUPPORT_REGISTRY_RIG_H
#define TESTS_SUPPORT_REGISTRY_RIG_H

#include "discovery/registry.h"

#define REGISTRY_RIG_PATIENCE_S 180

typedef struct {
    uv_loop_t loop;
    registry *registry; /* NULL: closed */
    bool closed;
    unsigned changes; /* told by on_change */
    uint64_t boot;
    char name[RECORD_NAME];
    registry_role role;
    /* of the last write */
    bool done;
    etcd_code code;
    int64_t revision;
} registry_rig;

/* A registry that nothing was published in; the lease lasts `ttl_s`. */
void registry_rig_open(registry_rig *g, const char *const *endpoints, size_t n,
                       registry_role role, const char *name, uint32_t ttl_s);
/* Publish a record that names this port. */
void registry_rig_publish(registry_rig *g, int port);
/* Close it, waiting until that is done, and its loop. */
void registry_rig_close(registry_rig *g);

/* Turn the loops of these rigs until `holds`. */
void registry_rig_until(registry_rig *const *rigs, size_t n,
                        bool (*holds)(void *ctx), void *ctx);

/* Conditions for it, on one rig. */
bool registry_rig_live(void *rig);
bool registry_rig_away(void *rig);
bool registry_rig_registered(void *rig);
bool registry_rig_leads(void *rig);
bool registry_rig_name_taken(void *rig);
bool registry_rig_done(void *rig);

/* A member of the status. */
bool registry_rig_says(const registry_rig *g, const char *member);

/* As registry_done, with the rig for ctx. */
void registry_rig_on_done(void *rig, etcd_code code, const char *why,
                          int64_t revision);

#endif
