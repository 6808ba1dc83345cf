/* stage_rig.h - a libroster client among several scripted coordinators, each
 * behind an endpoint of its own, over memory. */
#ifndef TESTS_STAGE_RIG_H
#define TESTS_STAGE_RIG_H

#include "tests/unit/client_rig.h"

#define ONE "tcp://127.0.0.1:1"
#define TWO "tcp://127.0.0.1:2"
#define MOST 8

/* Each connection to an endpoint is served by the next script that has it; when
 * there is none, nobody answers there. */
typedef struct {
    const char *endpoint;
    peer_script script;
} part;

typedef struct {
    const part *parts;
    size_t n_parts;
    bool played[MOST], joined[MOST];
    peer peers[MOST];
    roster_client *client;
    roster_config *config;
    unsigned tries; /* connections to nobody */
} stage;

static inline int open_link(void *opaque, struct link **out,
                            const char *endpoint_text, char *why,
                            size_t why_size) {
    stage *s = opaque;
    struct link *server = NULL;
    (void)why;
    (void)why_size;

    int rc = link_memory(out, &server, 64);
    if (rc < 0) return rc;
    for (size_t i = 0; i < s->n_parts; i++) {
        if (s->played[i] || strcmp(s->parts[i].endpoint, endpoint_text) != 0)
            continue;
        s->played[i] = true;
        peer_start_as(&s->peers[i], server, s->parts[i].script, 100 + i);
        return 0;
    }
    s->tries++;
    link_close(server);
    return 0;
}

static inline void open_stage(stage *s, const char *list, const part *parts,
                              size_t n_parts) {
    char why[ROSTER_WHY_BYTES] = "";

    assert_true(n_parts <= MOST);
    *s = (stage){.parts = parts, .n_parts = n_parts};
    assert_int_equal(roster_config_create(&s->config), 0);
    set(s->config, "endpoint", list);
    set(s->config, "grace_ms", "100");
    assert_int_equal(client_create_with(&s->client, open_link, s, s->config,
                                        why, sizeof(why)),
                     0);
}

/* The end of a script. */
static inline void wait_for(stage *s, size_t i) {
    if (!s->joined[i]) peer_join(&s->peers[i]);
    s->joined[i] = true;
}

static inline void close_stage(stage *s) {
    for (size_t i = 0; i < s->n_parts; i++) {
        assert_true(s->played[i]);
        wait_for(s, i);
    }
    roster_client_destroy(&s->client);
    roster_config_destroy(&s->config);
    for (size_t i = 0; i < s->n_parts; i++)
        peer_close(&s->peers[i]);
}

static inline void go(peer *p) {
    link_close(p->link);
    p->link = NULL;
}

#endif
