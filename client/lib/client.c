/* client.c - see client.h: sending, receiving, deadlines, the end of calls.
 *
 * The link says when a connection broke, and refuses to send while there is
 * none.  A coordinator that hangs keeps its connection: so while calls wait and
 * nothing is heard, pings are sent, and when several in a row were not answered
 * and there is somebody else to turn to, it counts as lost.  (They are counted,
 * rather than time, so that a client that was stopped itself does not blame its
 * coordinator.)  An answer from another boot id means that the coordinator was
 * restarted and knows nothing of our calls: lost as well. */
#include "client/lib/client.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define PROBE_MS 250u
#define HANG_PINGS 6u /* unanswered: with PROBE_MS, one and a half seconds */
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
    m->to_boot_id = c->peer.boot_id;
    m->has_fingerprint = c->peer.has_fingerprint;
    memcpy(m->fingerprint, c->peer.fingerprint, sizeof(m->fingerprint));
    m->request_id = request_id;
}

int client_send(roster_client *c, const message *m) {
    frames f;

    if (c->link == NULL) return -EAGAIN;
    frames_init(&f);
    int rc = -ENOMEM;
    if (frames_add(&f, 0) != NULL) rc = message_seal(&f, m);
    if (rc == 0) rc = link_send(c->link, &f);
    c->stale = true;
    frames_fini(&f);
    return rc;
}

int client_ready(roster_client *c, bool waits) {
    /* The sentence of the loss stays. */
    if (c->lost && !client_can_move(c)) return ERR_CLOSED;
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

    /* A call that is being cancelled keeps its deadline, and so does one that
     * waits for a coordinator: the news is not of it. */
    if (!c->cancelling && !c->homeless)
        set_deadline(c, (uint64_t)c->timeout_ms + config->grace_ms);
}

/* Send it, or let it wait for a coordinator.  Every queue is above what we may
 * send, so a link that takes no more leads to nobody. */
static int send_first(call *c, message *m) {
    roster_client *k = c->client;

    for (;;) {
        if (c->kind->again == NULL && (k->link == NULL || k->gone) &&
            client_can_move(k)) {
            int rc = move_wait(k);
            if (rc < 0) return rc;
            m->to_boot_id = k->peer.boot_id;
        }
        int rc = k->gone ? -EAGAIN : client_send(k, m);
        c->asked = rc == 0;
        if (rc != -EAGAIN || !client_can_move(k)) return rc;
        if (k->link != NULL) k->gone = true;
        if (c->kind->again == NULL) continue;
        c->homeless = true;
        move_wanted(k);
        return 0;
    }
}

int call_start(call *c, const call_kind *kind, roster_client *client,
               message *m, uint32_t timeout_ms) {
    if (client->n_calls >= CLIENT_CALLS_MAX) {
        return client_fail(client, ERR_OVERLOADED,
                           "%d requests are in flight on this client",
                           CLIENT_CALLS_MAX);
    }
    c->id = ++client->last_id;
    c->kind = kind;
    c->client = client;
    m->request_id = c->id;
    int rc = send_first(c, m);
    if (rc == ERR_CLOSED) return rc; /* and its sentence was told */
    if (rc < 0) {
        return client_fail(client, rc, "cannot send a %s to %s: %s",
                           message_kind_name(m->kind), client->endpoint,
                           rc == -EAGAIN ? "the connection takes no more now"
                                         : err_text(rc));
    }
    if (client->calls == NULL) {
        client->heard_ms = client->pinged_ms = now_ms();
        client->unanswered = 0;
    }
    c->result = -EINPROGRESS;
    c->timeout_ms = timeout_ms > 0 ? timeout_ms : CALL_SILENCE_MS;
    c->next = client->calls;
    client->calls = c;
    client->n_calls++;
    set_deadline(c, (uint64_t)c->timeout_ms + client->config.grace_ms);
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
    if (c->homeless) return; /* nobody has it: the next look ends it */
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

call *call_with_home(roster_client *c, uint64_t last_id) {
    call *at = c->calls;
    while (at != NULL && (at->homeless || at->id > last_id))
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

    err_why(why, sizeof(why), ERR_CLOSED, "the connection to %s was lost: %s",
            c->endpoint, how);
    c->gone = false;
    if (client_can_move(c)) {
        move_lost(c, why);
        return;
    }
    c->lost = true;
    end_all(c, ERR_CLOSED, why);
    client_fail(c, ERR_CLOSED, "%s", why);
}

/* A message that cannot be read ends the call it names.  One that names what we
 * never asked may have been for any of them; what is over (or was a question of
 * our own, as for the members) concerns none. */
static void on_unreadable(roster_client *c, uint64_t id, int code,
                          const char *what) {
    char why[ROSTER_WHY_BYTES];

    err_why(why, sizeof(why), code, "%s sent a message that cannot be used: %s",
            c->endpoint, what);
    /* Damaged on its way: elsewhere the same answer can be had again. */
    if ((code == ERR_CHECKSUM || code == ERR_MALFORMED) && client_can_move(c)) {
        lose(c, "its messages are damaged on their way");
        return;
    }
    call *to = find_call(c, id);
    if (to != NULL) {
        abort_call(to, code, why);
    } else if (id == 0 || id > c->last_id) {
        end_all(c, code, why);
    }
}

static void on_error(roster_client *c, call *to, const message *m) {
    char why[ROSTER_WHY_BYTES];
    /* To us this one number is a call that goes on. */
    int code = m->error.code != -EINPROGRESS ? m->error.code : ERR_INTERNAL;

    err_why(why, sizeof(why), code, "%s answered: %s", c->endpoint,
            m->error.text[0] != '\0' ? m->error.text : err_text(code));
    if (code == ERR_CLOSED && move_refused(to, why)) return;
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
    if (m.boot_id != c->peer.boot_id) {
        lose(c, "the coordinator was restarted");
        return;
    }
    if (m.kind == MESSAGE_PONG) {
        on_pong(c, &m);
        return;
    }
    if (m.kind == MESSAGE_MEMBERS) {
        move_learn(c, &m);
        return;
    }
    if (m.kind == MESSAGE_ERROR && m.error.code == ERR_CHECKSUM &&
        client_can_move(c)) {
        lose(c, "our messages are damaged on their way");
        return;
    }
    call *to = find_call(c, m.request_id);
    /* Late news, of a call that has ended or looks for somebody else. */
    if (to == NULL || to->homeless) return;

    if (m.kind == MESSAGE_ERROR) {
        on_error(c, to, &m);
        return;
    }
    heard_call(to);
    if (m.kind == MESSAGE_TOKEN || m.kind == MESSAGE_LOGITS) heard_all(c);
    if (m.kind != MESSAGE_ACCEPTED) move_settled(to);
    rc = to->kind->on_message(to, &m, f, why, sizeof(why));
    if (rc < 0) abort_call(to, rc, why);
}

/* Messages that have arrived; how many were handled. */
static int drain(roster_client *c) {
    frames f;
    int handled = 0;

    frames_init(&f);
    while (handled < TURN_MESSAGES && c->link != NULL && !c->lost) {
        int rc = link_recv(c->link, &f);
        if (rc == -EAGAIN) {
            c->stale = false;
            break;
        }
        handled++;
        if (rc == -ECONNRESET) {
            lose(c, "the coordinator has gone");
            break;
        }
        c->heard_ms = now_ms();
        c->unanswered = 0;
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
        bool over = at->homeless && at->cancelling;
        if (now < at->deadline_ms && !over) {
            at = at->next;
            continue;
        }
        if (at->cancelling) {
            call_end(at, ERR_CANCELLED, "cancelled");
        } else if (at->homeless) {
            move_expired(at);
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

static uint64_t probe_due(const roster_client *c) {
    uint64_t last = c->heard_ms > c->pinged_ms ? c->heard_ms : c->pinged_ms;
    return last + PROBE_MS;
}

static void probe(roster_client *c) {
    uint64_t now = now_ms();

    if (c->calls == NULL || c->link == NULL || now < probe_due(c)) return;
    if (c->unanswered >= HANG_PINGS && client_can_move(c) &&
        failover_has_others(&c->members)) {
        lose(c, "the coordinator does not answer");
        return;
    }
    c->pinged_ms = now;
    c->unanswered++;
    message m;
    client_header(c, &m, MESSAGE_PING, 0);
    if (client_send(c, &m) == -EAGAIN) lose(c, "the coordinator has gone");
}

/* Milliseconds until something is due; -1: nothing is. */
static int next_due(const roster_client *c) {
    uint64_t due = move_due(c);
    if (c->calls == NULL && due == UINT64_MAX) return -1;

    if (c->link != NULL && c->calls != NULL && probe_due(c) < due)
        due = probe_due(c);
    for (const call *at = c->calls; at != NULL; at = at->next) {
        if (at->deadline_ms < due) due = at->deadline_ms;
    }
    uint64_t now = now_ms();
    return due <= now ? 0 : (int)size_min(due - now, INT_MAX);
}

int roster_poll_fd(const roster_client *client) {
    return client->poll_fd;
}

int roster_poll_timeout(const roster_client *client) {
    bool now =
        client->lost || client->gone || (client->stale && client->link != NULL);
    return now ? 0 : next_due(client);
}

int client_poll(const roster_client *c, int wait_ms) {
    struct pollfd fds[2] = {
        {.fd = c->poll_fd, .events = POLLIN},
        {.fd = c->config.interrupt_fd, .events = POLLIN},
    };
    if (poll(fds, ARRAY_LEN(fds), wait_ms) < 0) return -errno;
    return fds[1].revents != 0 ? -EINTR : 0;
}

bool client_interrupted(const roster_client *c) {
    struct pollfd fd = {.fd = c->config.interrupt_fd, .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

/* One look at messages and clocks. */
static int look(roster_client *c) {
    int handled = drain(c);
    if (c->gone) lose(c, "the coordinator has gone");
    handled += move_look(c);
    if (!c->lost) {
        handled += expire(c);
        probe(c);
    }
    generations_reap(c);
    return handled;
}

int roster_process(roster_client *client, int timeout_ms) {
    int rc = client_ready(client, true);
    if (rc == 0 && client->lost) rc = ERR_CLOSED;
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
        if (rc >= 0 && client_interrupted(c->client))
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
    return client->peer.model;
}

uint32_t roster_client_n_vocab(const roster_client *client) {
    return client->peer.n_vocab;
}

uint32_t roster_client_n_context(const roster_client *client) {
    return client->peer.n_context;
}
