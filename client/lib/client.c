/* client.c - see client.h: sending, receiving, deadlines, the end of calls.
 *
 * ZeroMQ does not say when a peer has gone, but a DEALER with ZMQ_IMMEDIATE
 * refuses to send then.  So while calls wait and nothing is heard, a ping is
 * sent once a second: refused, the connection is lost and every call ends at
 * once instead of at its deadline.  An answer from another boot id means that
 * the coordinator was restarted and knows nothing of our calls: lost as well.
 */
#include "client/lib/client.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define PROBE_MS 1000u
#define TURN_MESSAGES 256 /* handled before callers get their turn */
#define TURN_MS 1000

int client_fail(roster_client *c, int code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(c->why, sizeof(c->why), fmt, args);
    va_end(args);
    return code;
}

void client_header(const roster_client *c, message *m, message_kind kind,
                   uint64_t request_id) {
    memset(m, 0, sizeof(*m));
    m->kind = kind;
    m->cluster = c->cluster;
    m->boot_id = c->boot_id;
    m->to_boot_id = c->peer_boot_id;
    m->has_fingerprint = c->has_fingerprint;
    memcpy(m->fingerprint, c->fingerprint, sizeof(m->fingerprint));
    m->request_id = request_id;
}

int client_send(roster_client *c, const message *m) {
    frames f;

    frames_init(&f);
    int rc = -ENOMEM;
    if (frames_add(&f, 0) != NULL) rc = message_seal(&f, m);
    if (rc == 0) rc = link_send(c->link, &f);
    c->stale = true;
    frames_fini(&f);
    return rc;
}

int client_ready(roster_client *c, bool waits) {
    if (c->lost) return ERR_CLOSED; /* the sentence of the loss stays */
    if (waits && c->callbacks > 0) {
        return client_fail(c, ERR_USAGE,
                           "a callback may not wait or process messages");
    }
    return 0;
}

/* ---- calls ---- */

static void set_deadline(call *c, uint64_t wait_ms) {
    c->deadline_ms = now_ms() + wait_ms;
}

static void heard_call(call *c) {
    const roster_config *config = &c->client->config;

    /* A call that is being cancelled keeps its deadline. */
    if (!c->cancelling)
        set_deadline(c, (uint64_t)c->timeout_ms + config->grace_ms);
}

int call_start(call *c, const call_kind *kind, roster_client *client,
               message *m, uint32_t timeout_ms) {
    if (client->n_calls >= CLIENT_CALLS_MAX) {
        return client_fail(client, ERR_OVERLOADED,
                           "%d requests are in flight on this client",
                           CLIENT_CALLS_MAX);
    }
    c->id = ++client->last_id;
    m->request_id = c->id;
    int rc = client_send(client, m);
    if (rc < 0) {
        return client_fail(client, rc, "cannot send a %s to %s: %s",
                           message_kind_name(m->kind), client->endpoint,
                           rc == -EAGAIN ? "the connection takes no more now"
                                         : err_text(rc));
    }
    if (client->calls == NULL) client->heard_ms = now_ms();
    c->kind = kind;
    c->client = client;
    c->result = -EINPROGRESS;
    c->timeout_ms = timeout_ms > 0 ? timeout_ms : CALL_SILENCE_MS;
    c->next = client->calls;
    client->calls = c;
    client->n_calls++;
    heard_call(c);
    return 0;
}

static bool in_flight(const call *c) {
    return c->result == -EINPROGRESS;
}

void call_drop(call *c) {
    if (!in_flight(c)) return;
    call **at = &c->client->calls;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    c->client->n_calls--;
    c->result = ERR_CANCELLED;
}

void call_end(call *c, int result, const char *why) {
    assert(result != -EINPROGRESS);
    if (!in_flight(c)) return;
    call_drop(c);
    c->result = result;
    if (why != NULL && why != c->why)
        snprintf(c->why, sizeof(c->why), "%s", why);
    if (result < 0) {
        if (c->why[0] == '\0')
            snprintf(c->why, sizeof(c->why), "%s", err_text(result));
        snprintf(c->client->why, sizeof(c->client->why), "%s", c->why);
    }
    if (c->kind->on_end != NULL) c->kind->on_end(c);
}

void call_cancel(call *c) {
    if (!in_flight(c) || c->cancelling) return;

    c->cancelling = true;
    set_deadline(c, c->client->config.grace_ms);
    message m;
    client_header(c->client, &m, MESSAGE_CANCEL, c->id);
    /* A cancel that cannot be sent has nobody to reach: the deadline above, or
     * the loss of the connection, ends the call. */
    (void)client_send(c->client, &m);
}

static call *find_call(roster_client *c, uint64_t id) {
    call *at = c->calls;
    while (at != NULL && at->id != id)
        at = at->next;
    return at;
}

/* ---- what arrives ---- */

/* Stop it here and, since it still goes on there, there too. */
static void abort_call(call *c, int code, const char *why) {
    if (!in_flight(c)) return;
    call_cancel(c);
    call_end(c, code, why);
}

/* End what is in flight now: callbacks may drop calls, and start new ones. */
static void end_all(roster_client *c, int code, const char *why) {
    uint64_t last = c->last_id;
    call *at = c->calls;

    while (at != NULL) {
        if (at->id > last) {
            at = at->next;
            continue;
        }
        call_end(at, code, why);
        at = c->calls;
    }
}

static void lose(roster_client *c, const char *how) {
    char why[ROSTER_WHY_BYTES];

    c->lost = true;
    err_why(why, sizeof(why), ERR_CLOSED, "the connection to %s was lost: %s",
            c->endpoint, how);
    end_all(c, ERR_CLOSED, why);
    client_fail(c, ERR_CLOSED, "%s", why);
}

/* A message that cannot be read ends the call it names; if it names none, it
 * may have been for any of them. */
static void on_unreadable(roster_client *c, uint64_t id, int code,
                          const char *what) {
    char why[ROSTER_WHY_BYTES];

    err_why(why, sizeof(why), code, "%s sent a message that cannot be used: %s",
            c->endpoint, what);
    call *to = find_call(c, id);
    if (to != NULL) {
        abort_call(to, code, why);
    } else {
        end_all(c, code, why);
    }
}

static void on_error(roster_client *c, call *to, const message *m) {
    char why[ROSTER_WHY_BYTES];
    /* To us this one number is a call that goes on. */
    int code = m->error.code != -EINPROGRESS ? m->error.code : ERR_INTERNAL;

    err_why(why, sizeof(why), code, "%s answered: %s", c->endpoint,
            m->error.text[0] != '\0' ? m->error.text : err_text(code));
    call_end(to, code, why);
}

/* A long prompt gives no token for a while: steps that go on are news, too.
 * What becomes of one request among them is the coordinator's to say. */
static void heard_all(roster_client *c) {
    for (call *at = c->calls; at != NULL; at = at->next)
        heard_call(at);
}

static void on_pong(roster_client *c, const message *m) {
    if (m->pong.progress == c->peer_progress) return;
    c->peer_progress = m->pong.progress;
    heard_all(c);
}

static void on_frames(roster_client *c, frames *f) {
    char why[ROSTER_WHY_BYTES] = "";
    message m;

    int rc = message_open(f, c->arena, &m, why, sizeof(why));
    if (rc < 0) {
        on_unreadable(c, m.request_id, rc, why[0] ? why : err_text(rc));
        return;
    }
    if (m.boot_id != c->peer_boot_id) {
        lose(c, "the coordinator was restarted");
        return;
    }
    if (m.kind == MESSAGE_PONG) {
        on_pong(c, &m);
        return;
    }
    call *to = find_call(c, m.request_id);
    if (to == NULL) return; /* late news of a call that has ended */

    heard_call(to);
    if (m.kind == MESSAGE_TOKEN || m.kind == MESSAGE_LOGITS) heard_all(c);
    if (m.kind == MESSAGE_ERROR) {
        on_error(c, to, &m);
        return;
    }
    rc = to->kind->on_message(to, &m, f, why, sizeof(why));
    if (rc < 0) abort_call(to, rc, why);
}

/* Messages that have arrived; how many were handled. */
static int drain(roster_client *c) {
    frames f;
    int handled = 0;

    frames_init(&f);
    while (handled < TURN_MESSAGES && !c->lost) {
        int rc = link_recv(c->link, &f);
        if (rc == -EAGAIN) {
            c->stale = false;
            break;
        }
        handled++;
        c->heard_ms = now_ms();
        if (rc < 0) {
            on_unreadable(c, 0, rc, err_text(rc));
        } else {
            on_frames(c, &f);
        }
        frames_fini(&f);
        frames_init(&f);
    }
    return handled;
}

/* ---- time ---- */

static int expire(roster_client *c) {
    uint64_t now = now_ms();
    int handled = 0;
    call *at = c->calls;

    while (at != NULL) {
        if (now < at->deadline_ms) {
            at = at->next;
            continue;
        }
        if (at->cancelling) {
            call_end(at, ERR_CANCELLED, "cancelled");
        } else {
            char why[ROSTER_WHY_BYTES];
            err_why(why, sizeof(why), ERR_DEADLINE,
                    "%s has been silent for %" PRIu64 " ms", c->endpoint,
                    (uint64_t)at->timeout_ms + c->config.grace_ms);
            abort_call(at, ERR_DEADLINE, why);
        }
        handled++;
        at = c->calls; /* a callback may have changed the list */
    }
    return handled;
}

static void probe(roster_client *c) {
    uint64_t now = now_ms();

    if (c->calls == NULL || now - c->heard_ms < PROBE_MS) return;
    c->heard_ms = now;
    message m;
    client_header(c, &m, MESSAGE_PING, 0);
    if (client_send(c, &m) == -EAGAIN) lose(c, "the coordinator has gone");
}

/* Milliseconds until something is due; -1: nothing is. */
static int next_due(const roster_client *c) {
    if (c->calls == NULL) return -1;

    uint64_t due = c->heard_ms + PROBE_MS;
    for (const call *at = c->calls; at != NULL; at = at->next) {
        if (at->deadline_ms < due) due = at->deadline_ms;
    }
    uint64_t now = now_ms();
    return due <= now ? 0 : (int)(due - now);
}

int roster_poll_fd(const roster_client *client) {
    return link_fd(client->link);
}

int roster_poll_timeout(const roster_client *client) {
    return client->stale || client->lost ? 0 : next_due(client);
}

int client_poll(const roster_client *c, int wait_ms) {
    struct pollfd fds[2] = {
        {.fd = link_fd(c->link), .events = POLLIN},
        {.fd = c->config.interrupt_fd, .events = POLLIN},
    };
    if (poll(fds, ARRAY_LEN(fds), wait_ms) < 0) return -errno;
    return fds[1].revents != 0 ? -EINTR : 0;
}

static bool interrupted(const roster_client *c) {
    struct pollfd fd = {.fd = c->config.interrupt_fd, .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

/* One look at messages and clocks. */
static int look(roster_client *c) {
    int handled = drain(c);
    if (!c->lost) {
        handled += expire(c);
        probe(c);
    }
    generations_reap(c);
    return handled;
}

int roster_process(roster_client *client, int timeout_ms) {
    int rc = client_ready(client, true);
    if (rc < 0) return rc;

    uint64_t until = now_ms() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0);
    for (;;) {
        int handled = look(client);
        if (client->lost) return ERR_CLOSED;
        if (handled > 0) return handled;

        uint64_t now = now_ms();
        if (now >= until) return 0;
        uint64_t left = until - now;
        int wait = left < TURN_MS ? (int)left : TURN_MS;
        int due = roster_poll_timeout(client);
        if (due >= 0 && due < wait) wait = due;

        rc = client_poll(client, wait);
        if (rc < 0) return rc == -EINTR ? 0 : rc;
    }
}

int call_wait(call *c) {
    /* Every turn is bounded, and so is every call, by its deadline. */
    while (in_flight(c)) {
        int rc = roster_process(c->client, TURN_MS);
        if (rc < 0) call_end(c, rc, NULL);
        if (rc >= 0 && interrupted(c->client))
            abort_call(c, -EINTR, "interrupted");
    }
    return c->result;
}

/* ---- what the user may ask ---- */

const char *roster_client_error(const roster_client *client) {
    return client->why;
}

const char *roster_client_endpoint(const roster_client *client) {
    return client->endpoint;
}

const char *roster_client_model(const roster_client *client) {
    return client->model;
}

uint32_t roster_client_n_vocab(const roster_client *client) {
    return client->n_vocab;
}

uint32_t roster_client_n_context(const roster_client *client) {
    return client->n_context;
}
