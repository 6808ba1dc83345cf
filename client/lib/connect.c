/* connect.c - a client's beginning and end: the link, HELLO and WELCOME. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define ARENA_BYTES ((size_t)64 << 20) /* of one unpacked message */
#define QUEUE_MESSAGES 4096 /* above any number of calls, cancels and pings */
#define RETRY_MS 20         /* between looks at a link that is not up yet */

/* A ZeroMQ context of its own: clients share nothing. */
static int open_link(roster_client *c, char *why, size_t why_size) {
    const char *endpoint_text;
    int rc = client_config_endpoint(&c->config, &endpoint_text, why, why_size);
    if (rc < 0) return rc;
    snprintf(c->endpoint, sizeof(c->endpoint), "%s", endpoint_text);

    c->zmq = zmq_ctx_new();
    if (c->zmq == NULL) {
        return err_why(why, why_size, -errno, "cannot start ZeroMQ: %s",
                       strerror(errno));
    }
    const link_config lc = {
        .zmq = c->zmq,
        .max_part_bytes = MESSAGE_PART_MAX,
        .queue_messages = QUEUE_MESSAGES,
        .insecure = c->config.insecure,
    };
    return link_connect(&c->link, &lc, endpoint_text, why, why_size);
}

/* -EINTR only if the caller's descriptor asks to give up. */
static int wait_link(roster_client *c, char *why, size_t why_size) {
    int rc = client_poll(c, RETRY_MS);
    if (rc == -EINTR && c->config.interrupt_fd >= 0)
        return err_why(why, why_size, rc, "interrupted");
    return 0; /* another failure only shortens the wait */
}

/* HELLO goes out when the link is up: until then it refuses. */
static int send_hello(roster_client *c, uint64_t until, char *why,
                      size_t why_size) {
    message m;

    client_header(c, &m, MESSAGE_HELLO, ++c->last_id);
    m.hello.role = ROLE_CLIENT;
    m.hello.name = c->config.name;
    for (;;) {
        int rc = client_send(c, &m);
        if (rc == 0) return 0;
        if (rc != -EAGAIN) {
            return err_why(why, why_size, rc, "cannot greet %s: %s",
                           c->endpoint, err_text(rc));
        }
        if (now_ms() >= until) {
            return err_why(why, why_size, ERR_DEADLINE,
                           "no coordinator answers at %s (tried for %u ms)",
                           c->endpoint, c->config.connect_timeout_ms);
        }
        rc = wait_link(c, why, why_size);
        if (rc < 0) return rc;
    }
}

static int take_welcome(roster_client *c, const message *m, char *why,
                        size_t why_size) {
    if (m->kind == MESSAGE_ERROR) {
        return err_why(
            why, why_size, m->error.code, "%s refused: %s", c->endpoint,
            m->error.text[0] ? m->error.text : err_text(m->error.code));
    }
    if (m->kind != MESSAGE_WELCOME) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "%s answered a greeting with %s", c->endpoint,
                       message_kind_name(m->kind));
    }
    if (m->welcome.role != ROLE_COORDINATOR) {
        return err_why(
            why, why_size, ERR_USAGE, "%s is no coordinator%s", c->endpoint,
            m->welcome.role == ROLE_NODE ? " but an expert node" : "");
    }
    if (c->config.cluster[0] != '\0' &&
        strcmp(c->config.cluster, m->cluster) != 0) {
        return err_why(why, why_size, ERR_WRONG_CLUSTER,
                       "%s belongs to cluster '%s', not '%s'", c->endpoint,
                       m->cluster, c->config.cluster);
    }
    snprintf(c->model, sizeof(c->model), "%s", m->welcome.model);
    snprintf(c->cluster, sizeof(c->cluster), "%s", m->cluster);
    c->n_vocab = m->welcome.n_vocab;
    c->n_context = m->welcome.n_context;
    c->peer_boot_id = m->boot_id;
    c->has_fingerprint = m->has_fingerprint;
    memcpy(c->fingerprint, m->fingerprint, sizeof(c->fingerprint));
    return 0;
}

static int receive_welcome(roster_client *c, uint64_t until, char *why,
                           size_t why_size) {
    frames f;
    message m;

    frames_init(&f);
    int rc = link_recv(c->link, &f);
    while (rc == -EAGAIN && now_ms() < until) {
        int given_up = wait_link(c, why, why_size);
        if (given_up < 0) return given_up;
        rc = link_recv(c->link, &f);
    }
    if (rc == -EAGAIN) {
        return err_why(why, why_size, ERR_DEADLINE,
                       "%s does not answer (waited %u ms)", c->endpoint,
                       c->config.connect_timeout_ms);
    }
    char what[ROSTER_WHY_BYTES] = "";
    if (rc == 0) rc = message_open(&f, c->arena, &m, what, sizeof(what));
    if (rc < 0) {
        err_why(why, why_size, rc,
                "%s sent a greeting that cannot be used: "
                "%s",
                c->endpoint, what[0] ? what : err_text(rc));
    } else {
        rc = take_welcome(c, &m, why, why_size);
    }
    frames_fini(&f);
    return rc;
}

/* Everything but the link. */
static int new_client(roster_client **out, const roster_config *config) {
    *out = NULL;
    roster_client *c = calloc(1, sizeof(*c));
    if (c == NULL) return -ENOMEM;

    client_config_defaults(&c->config);
    if (config != NULL) c->config = *config;
    snprintf(c->cluster, sizeof(c->cluster), "%s", c->config.cluster);
    int rc = message_arena_new(&c->arena, ARENA_BYTES);
    if (rc < 0) {
        free(c);
        return rc;
    }
    c->boot_id = random_boot_id();
    c->stale = true;
    *out = c;
    return 0;
}

static int greet(roster_client *c, char *why, size_t why_size) {
    uint64_t until = now_ms() + c->config.connect_timeout_ms;

    int rc = send_hello(c, until, why, why_size);
    return rc < 0 ? rc : receive_welcome(c, until, why, why_size);
}

int roster_client_create(roster_client **out, const roster_config *config,
                         char *why, size_t why_size) {
    *out = NULL;
    roster_client *c;
    int rc = new_client(&c, config);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));

    rc = open_link(c, why, why_size);
    if (rc == 0) rc = greet(c, why, why_size);
    if (rc < 0) {
        roster_client_destroy(&c);
        return rc;
    }
    *out = c;
    return 0;
}

int client_create_over(roster_client **out, struct link *l,
                       const roster_config *config, char *why,
                       size_t why_size) {
    *out = NULL;
    roster_client *c;
    int rc = new_client(&c, config);
    if (rc < 0) {
        link_close(l);
        return err_why(why, why_size, rc, "%s", err_text(rc));
    }
    c->link = l;
    snprintf(c->endpoint, sizeof(c->endpoint), "memory");
    rc = greet(c, why, why_size);
    if (rc < 0) {
        roster_client_destroy(&c);
        return rc;
    }
    *out = c;
    return 0;
}

void roster_client_destroy(roster_client **client) {
    if (client == NULL || *client == NULL) return;
    roster_client *c = *client;
    if (c->callbacks > 0) return;

    generations_free_all(c);
    evaluation_free(c->evaluation);
    link_close(c->link);
    if (c->zmq != NULL) zmq_ctx_term(c->zmq);
    message_arena_free(c->arena);
    free(c->status);
    free(c);
    *client = NULL;
}
