/* client_rig.h - a libroster client and the scripted coordinator it talks to,
 * over memory: what the tests of libroster share. */
#ifndef TESTS_CLIENT_RIG_H
#define TESTS_CLIENT_RIG_H

#include "client/lib/client.h"
#include "tests/unit/scripted_peer.h"

typedef struct {
    peer peer;
    roster_client *client;
    roster_config *config;
    struct link *end; /* the client's */
} rig;

static inline void set(roster_config *c, const char *key, const char *value) {
    assert_int_equal(roster_config_set(c, key, value, NULL, 0), 0);
}

static inline void rig_start(rig *r, peer_script script) {
    struct link *server = NULL;
    memset(r, 0, sizeof(*r));
    assert_int_equal(roster_config_create(&r->config), 0);
    set(r->config, "grace_ms", "100");
    assert_int_equal(link_memory(&r->end, &server, 64), 0);
    peer_start(&r->peer, server, script);
}

static inline int rig_connect(rig *r, char *why, size_t why_size) {
    return client_create_over(&r->client, r->end, r->config, why, why_size);
}

static inline void rig_open(rig *r, peer_script script) {
    char why[ROSTER_WHY_BYTES] = "";
    rig_start(r, script);
    assert_int_equal(rig_connect(r, why, sizeof(why)), 0);
}

/* The script ends first: closing drops what is still on its way to it. */
static inline void rig_close(rig *r) {
    peer_join(&r->peer);
    roster_client_destroy(&r->client);
    roster_config_destroy(&r->config);
    peer_close(&r->peer);
}

static inline roster_request ask_for(const char *text) {
    roster_request q;
    roster_request_init(&q);
    q.text = text;
    q.text_bytes = strlen(text);
    return q;
}

static inline int generate(rig *r, roster_on_token on_token, void *opaque,
                           roster_generation **out) {
    roster_request q = ask_for("Once");
    return roster_generate(r->client, &q, on_token, opaque, out);
}

#endif
