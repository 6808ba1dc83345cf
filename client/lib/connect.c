/* connect.c - a client's beginning and end, and how it greets a coordinator:
 * the link, HELLO and WELCOME.
 *
 * A greeting never blocks: it is looked at until it has come to an end, by the
 * loop below while a client is created, and in every turn while one moves. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/util.h"

#define ARENA_BYTES ((size_t)64 << 20) /* of one unpacked message */
#define QUEUE_MESSAGES 4096 /* above any number of calls, cancels and pings */
#define RETRY_MS 20         /* between looks at a link that is not up yet */

/* ---- links ---- */

/* A ZeroMQ context of its own: clients share nothing. */
static int open_zmq(void *opaque, struct link **out, const char *endpoint_text,
                    char *why, size_t why_size) {
    roster_client *c = opaque;

    if (c->zmq == NULL) c->zmq = zmq_ctx_new();
    if (c->zmq == NULL) {
        return err_why(why, why_size, -errno, "cannot start ZeroMQ: %s",
                       strerror(errno));
    }
    const link_config lc = {
        .zmq = c->zmq,
        .max_part_bytes = MESSAGE_PART_MAX,
        .queue_messages = QUEUE_MESSAGES,
        .insecure = c->config.insecure,
        .tell_broken = true,
    };
    return link_connect(out, &lc, endpoint_text, why, why_size);
}

static int watch(roster_client *c, struct link *l) {
    struct epoll_event event = {.events = EPOLLIN};
    return epoll_ctl(c->poll_fd, EPOLL_CTL_ADD, link_fd(l), &event) == 0
               ? 0
               : -errno;
}

/* Before it is closed: ZeroMQ closes the descriptor when it likes. */
static void unwatch(roster_client *c, struct link *l) {
    (void)epoll_ctl(c->poll_fd, EPOLL_CTL_DEL, link_fd(l), NULL);
}

void client_disconnect(roster_client *c) {
    if (c->link == NULL) return;
    unwatch(c, c->link);
    link_close(c->link);
    c->link = NULL;
}

void client_adopt(roster_client *c, const coordinator_info *info) {
    client_disconnect(c);
    c->link = c->greeting.link;
    c->greeting.link = NULL;
    memcpy(c->endpoint, c->greeting.endpoint, sizeof(c->endpoint));
    if (c->known) {
        /* The texts are on loan to the user, and what must be equal is. */
        c->peer.boot_id = info->boot_id;
    } else {
        c->peer = *info;
        c->known = true;
    }
    snprintf(c->cluster, sizeof(c->cluster), "%s", info->cluster);
    c->peer_progress = 0;
    c->heard_ms = now_ms();
    c->unanswered = 0;
    c->stale = true;
    /* At once, so that it is known before the first request is refused. */
    c->ask_members_ms = 0;
    move_ask_members(c);
}

/* ---- greeting ---- */

static int greet_over(roster_client *c, struct link *l,
                      const char *endpoint_text, uint32_t limit_ms, char *why,
                      size_t why_size) {
    int rc = watch(c, l);
    if (rc < 0) {
        link_close(l);
        return err_why(why, why_size, rc, "cannot wait for %s: %s",
                       endpoint_text, err_text(rc));
    }
    c->greeting = (greeting){
        .link = l,
        .limit_ms = limit_ms,
        .until_ms = now_ms() + limit_ms,
    };
    snprintf(c->greeting.endpoint, sizeof(c->greeting.endpoint), "%s",
             endpoint_text);
    return 0;
}

int greeting_begin(roster_client *c, const char *endpoint_text,
                   uint32_t limit_ms, char *why, size_t why_size) {
    struct link *l;
    int rc = c->open(c->open_opaque, &l, endpoint_text, why, why_size);
    if (rc < 0) return rc;
    return greet_over(c, l, endpoint_text, limit_ms, why, why_size);
}

void greeting_end(roster_client *c) {
    if (c->greeting.link == NULL) return;
    unwatch(c, c->greeting.link);
    link_close(c->greeting.link);
    c->greeting.link = NULL;
}

/* HELLO goes out when the link is up: until then it refuses. */
static int send_hello(roster_client *c, char *why, size_t why_size) {
    greeting *g = &c->greeting;
    frames f;
    message m;

    client_header(c, &m, MESSAGE_HELLO, ++c->last_id);
    m.to_boot_id = 0; /* whoever is there */
    m.has_fingerprint = false;
    m.hello.role = ROLE_CLIENT;
    m.hello.name = c->config.name;
    frames_init(&f);
    int rc = frames_add(&f, 0) == NULL ? -ENOMEM : message_seal(&f, &m);
    if (rc == 0) rc = link_send(g->link, &f);
    frames_fini(&f);
    g->sent = rc == 0;
    if (rc == 0 || (rc == -EAGAIN && now_ms() < g->until_ms))
        return -EINPROGRESS;
    if (rc != -EAGAIN) {
        return err_why(why, why_size, rc, "cannot greet %s: %s", g->endpoint,
                       err_text(rc));
    }
    return err_why(why, why_size, ERR_DEADLINE,
                   "no coordinator answers at %s (tried for %u ms)",
                   g->endpoint, g->limit_ms);
}

static void write_profile(char *out, size_t size, const message *m) {
    const profile *p = &m->welcome.profile;

    out[0] = '\0';
    if (!m->welcome.has_profile) return;
    snprintf(out, size, "%u %s %s kv %s mla %s blas %s", p->version,
             p->activation, p->rows, p->kv, p->mla, p->blas);
}

static void read_info(coordinator_info *info, const message *m) {
    memset(info, 0, sizeof(*info));
    snprintf(info->model, sizeof(info->model), "%s", m->welcome.model);
    snprintf(info->cluster, sizeof(info->cluster), "%s", m->cluster);
    write_profile(info->profile, sizeof(info->profile), m);
    info->n_vocab = m->welcome.n_vocab;
    info->n_context = m->welcome.n_context;
    info->boot_id = m->boot_id;
    info->has_fingerprint = m->has_fingerprint;
    memcpy(info->fingerprint, m->fingerprint, sizeof(info->fingerprint));
}

/* May it take over from the one before?  Only what gives the same tokens. */
static int check_equal(const roster_client *c, const coordinator_info *info,
                       char *why, size_t why_size) {
    const coordinator_info *ours = &c->peer;
    const char *at = c->greeting.endpoint;

    /* Under another name, or again: what it refuses it would refuse there. */
    if (c->link != NULL && info->boot_id == ours->boot_id) {
        return err_why(why, why_size, -EALREADY, "%s is the same coordinator",
                       at);
    }
    if (info->has_fingerprint != ours->has_fingerprint ||
        memcmp(info->fingerprint, ours->fingerprint,
               sizeof(info->fingerprint)) != 0 ||
        info->n_vocab != ours->n_vocab) {
        return err_why(why, why_size, ERR_WRONG_MODEL,
                       "%s serves another model ('%s')", at, info->model);
    }
    if (strcmp(info->profile, ours->profile) != 0) {
        return err_why(why, why_size, ERR_WRONG_PROFILE,
                       "%s computes with another profile ('%s', not '%s')", at,
                       info->profile, ours->profile);
    }
    if (info->n_context < ours->n_context) {
        return err_why(why, why_size, ERR_CONTEXT,
                       "%s has a context of %u tokens only, not %u", at,
                       info->n_context, ours->n_context);
    }
    return 0;
}

/* Who has another address than was meant is told what is at this one. */
static int refuse_other(const message *m, const char *at, char *why,
                        size_t why_size) {
    char name[65];
    if (m->welcome.role != ROLE_NODE)
        return err_why(why, why_size, ERR_USAGE, "%s is no coordinator", at);
    snprintf(name, sizeof(name), "%s", m->welcome.name);
    make_printable(name);
    return err_why(why, why_size, ERR_USAGE,
                   "%s is no coordinator but an expert node, '%s': ask a "
                   "coordinator, which knows how its nodes are",
                   at, name);
}

static int take_welcome(const roster_client *c, const message *m,
                        coordinator_info *info, char *why, size_t why_size) {
    const char *at = c->greeting.endpoint;

    if (m->kind == MESSAGE_ERROR) {
        int code = m->error.code != -EINPROGRESS ? m->error.code : ERR_INTERNAL;
        return err_why(why, why_size, code, "%s refused: %s", at,
                       m->error.text[0] ? m->error.text : err_text(code));
    }
    if (m->kind != MESSAGE_WELCOME) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "%s answered a greeting with %s", at,
                       message_kind_name(m->kind));
    }
    if (m->welcome.role != ROLE_COORDINATOR)
        return refuse_other(m, at, why, why_size);
    /* The one named, or that of the coordinator before. */
    if (c->cluster[0] != '\0' && strcmp(c->cluster, m->cluster) != 0) {
        return err_why(why, why_size, ERR_WRONG_CLUSTER,
                       "%s belongs to cluster '%s', not '%s'", at, m->cluster,
                       c->cluster);
    }
    read_info(info, m);
    return c->known ? check_equal(c, info, why, why_size) : 0;
}

static int read_welcome(roster_client *c, frames *f, coordinator_info *info,
                        char *why, size_t why_size) {
    char what[ROSTER_WHY_BYTES] = "";
    message m;

    int rc = message_open(f, c->arena, &m, what, sizeof(what));
    if (rc == 0) return take_welcome(c, &m, info, why, why_size);
    return err_why(why, why_size, rc,
                   "%s sent a greeting that cannot be used: %s",
                   c->greeting.endpoint, what[0] ? what : err_text(rc));
}

static int receive_welcome(roster_client *c, coordinator_info *info, char *why,
                           size_t why_size) {
    greeting *g = &c->greeting;
    frames f;

    frames_init(&f);
    int rc = link_recv(g->link, &f);
    if (rc == -ECONNRESET) {
        g->sent = false; /* whoever comes next behind it is greeted anew */
        return -EINPROGRESS;
    }
    if (rc == -EAGAIN && now_ms() < g->until_ms) return -EINPROGRESS;
    if (rc == -EAGAIN) {
        return err_why(why, why_size, ERR_DEADLINE,
                       "%s does not answer (waited %u ms)", g->endpoint,
                       g->limit_ms);
    }
    if (rc < 0) {
        return err_why(why, why_size, rc,
                       "%s sent a greeting that cannot be used: %s",
                       g->endpoint, err_text(rc));
    }
    rc = read_welcome(c, &f, info, why, why_size);
    frames_fini(&f);
    return rc;
}

int greeting_look(roster_client *c, coordinator_info *info, char *why,
                  size_t why_size) {
    int rc = -EINPROGRESS;
    if (!c->greeting.sent) rc = send_hello(c, why, why_size);
    if (c->greeting.sent) rc = receive_welcome(c, info, why, why_size);
    if (rc < 0 && rc != -EINPROGRESS) greeting_end(c);
    return rc;
}

/* ---- the beginning ---- */

/* -EINTR only if the caller's descriptor asks to give up: a signal, or another
 * failure, only shortens the wait. */
static int wait_a_little(roster_client *c, char *why, size_t why_size) {
    (void)client_poll(c, RETRY_MS);
    return client_interrupted(c) ? err_why(why, why_size, -EINTR, "interrupted")
                                 : 0;
}

static int greet_to_the_end(roster_client *c, char *why, size_t why_size) {
    coordinator_info info;

    for (;;) {
        int rc = greeting_look(c, &info, why, why_size);
        if (rc == 0) client_adopt(c, &info);
        if (rc != -EINPROGRESS) return rc;
        rc = wait_a_little(c, why, why_size);
        if (rc < 0) return rc;
    }
}

static int greet_member(roster_client *c, const failover_choice *choice,
                        uint64_t until, char *why, size_t why_size) {
    uint64_t now = now_ms(), left = until > now ? until - now : 0;
    uint32_t limit = choice->limit_ms;

    /* One that is alone is waited for as long as there is time. */
    if (left < limit || failover_count(&c->members) == 1)
        limit = (uint32_t)left;
    int rc = greeting_begin(c, c->members.members[choice->member].endpoint,
                            limit, why, why_size);
    return rc < 0 ? rc : greet_to_the_end(c, why, why_size);
}

/* The first who welcomes us, of all that the user named. */
static int connect_any(roster_client *c, char *why, size_t why_size) {
    uint64_t until = now_ms() + c->config.connect_timeout_ms;
    bool alone = failover_count(&c->members) == 1;
    char what[ROSTER_WHY_BYTES] = "";
    int rc = ERR_DEADLINE;

    failover_begin(&c->members, now_ms(), 0, 0, "");
    for (;;) {
        failover_choice next = failover_next(&c->members, now_ms());
        if (next.step == FAILOVER_WAIT) {
            int given_up = wait_a_little(c, why, why_size);
            if (given_up < 0) return given_up;
            continue;
        }
        if (next.step == FAILOVER_OVER) break;
        rc = greet_member(c, &next, until, what, sizeof(what));
        if (rc == 0) {
            failover_took(&c->members);
            failover_settle(&c->members);
            return 0;
        }
        failover_failed(&c->members, rc, what);
        if (rc == -EINTR || alone)
            return err_why(why, why_size, rc, "%s", what);
        if (now_ms() >= until) break;
    }
    failover_explain(&c->members, what, sizeof(what));
    return err_why(why, why_size, rc, "no coordinator can be used, %s", what);
}

/* Everything but the link. */
static int new_client(roster_client **out, const roster_config *config) {
    *out = NULL;
    roster_client *c = calloc(1, sizeof(*c));
    if (c == NULL) return -ENOMEM;

    client_config_defaults(&c->config);
    if (config != NULL) c->config = *config;
    snprintf(c->cluster, sizeof(c->cluster), "%s", c->config.cluster);
    failover_init(&c->members);
    c->boot_id = random_boot_id();
    c->stale = true;
    c->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    int rc = c->poll_fd < 0 ? -errno : 0;
    if (rc == 0) rc = message_arena_new(&c->arena, ARENA_BYTES);
    if (rc < 0) {
        roster_client_destroy(&c);
        return rc;
    }
    *out = c;
    return 0;
}

static int create_with(roster_client **out, client_opener open, void *opaque,
                       const roster_config *config, char *why,
                       size_t why_size) {
    const char *list;
    roster_client *c;
    int rc = new_client(&c, config);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));

    c->open = open != NULL ? open : open_zmq;
    c->open_opaque = open != NULL ? opaque : c;
    rc = client_config_endpoint(&c->config, &list, why, why_size);
    if (rc == 0) rc = failover_give(&c->members, list, why, why_size);
    if (rc == 0) rc = connect_any(c, why, why_size);
    if (rc < 0) {
        roster_client_destroy(&c);
        return rc;
    }
    *out = c;
    return 0;
}

int roster_client_create(roster_client **out, const roster_config *config,
                         char *why, size_t why_size) {
    *out = NULL;
    return create_with(out, NULL, NULL, config, why, why_size);
}

int client_create_with(roster_client **out, client_opener open, void *opaque,
                       const roster_config *config, char *why,
                       size_t why_size) {
    *out = NULL;
    return create_with(out, open, opaque, config, why, why_size);
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
    rc =
        greet_over(c, l, "memory", c->config.connect_timeout_ms, why, why_size);
    if (rc == 0) rc = greet_to_the_end(c, why, why_size);
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
    greeting_end(c);
    client_disconnect(c);
    if (c->poll_fd >= 0) close(c->poll_fd);
    if (c->zmq != NULL) zmq_ctx_term(c->zmq);
    message_arena_free(c->arena);
    free(c->status);
    free(c);
    *client = NULL;
}
