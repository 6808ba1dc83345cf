/* move.c - from a coordinator that is lost or leaving to another one.
 *
 * When the connection is lost, or the coordinator refuses work because it is
 * ending, calls become homeless: nobody has them.  Other coordinators are
 * greeted, one after the other, in the turns that the caller gives us anyway;
 * the first that is equal (model, profile, context) takes over everything that
 * is in flight.  A generation is resumed from the tokens it has, an evaluation
 * begins anew and its first rows are passed over: both give what they would
 * have given (see docs/protocol.md), so the user notices a pause at most.
 *
 * A coordinator that merely refuses new work keeps its link, and the calls that
 * it still serves, until another one has welcomed us: if there is none, only
 * what it refused fails.
 *
 * A homeless call keeps its deadline, so the search is bounded by it. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define GREETING_LOOK_MS 5 /* a link that comes up is not always announced */
#define MEMBERS_MS 10000   /* between questions who else there is */

bool client_can_move(const roster_client *c) {
    return c->config.failover && c->open != NULL;
}

/* What is the matter, and who was tried. */
static void explain(const roster_client *c, char *out, size_t size) {
    char tried[ROSTER_WHY_BYTES];

    failover_explain(&c->members, tried, sizeof(tried));
    snprintf(out, size, "%.290s; no coordinator took over, %.190s", c->move_why,
             tried);
}

/* ---- who has to move ---- */

static bool is_wanted(const roster_client *c) {
    if (c->waiters > 0) return true;
    for (const call *at = c->calls; at != NULL; at = at->next) {
        if (at->homeless) return true;
    }
    return false;
}

static void begin(roster_client *c) {
    if (!c->moving) c->move_until_ms = now_ms() + c->config.connect_timeout_ms;
    c->lost = false;
    c->moving = true;
}

void move_wanted(roster_client *c) {
    if (c->moving || c->link != NULL) return; /* or `gone`, which begins it */
    failover_begin(&c->members, now_ms(), (uint32_t)c->boot_id, ERR_CLOSED,
                   c->move_why);
    begin(c);
}

static void note_reason(roster_client *c, const char *why) {
    snprintf(c->move_why, sizeof(c->move_why), "%s", why);
    failover_begin(&c->members, now_ms(), (uint32_t)c->boot_id, ERR_CLOSED,
                   why);
}

/* Every call that the coordinator had is to be asked again.  Callbacks may run:
 * what they begin is homeless from the start. */
static void put_out(roster_client *c, const char *why) {
    uint64_t last = c->last_id;
    call *at;

    while ((at = call_with_home(c, last)) != NULL) {
        if (at->cancelling) {
            call_end(at, ERR_CANCELLED, "cancelled");
        } else if (at->kind->again == NULL) {
            call_end(at, ERR_CLOSED, why);
        } else {
            at->homeless = true;
        }
    }
}

void move_lost(roster_client *c, const char *why) {
    client_disconnect(c);
    note_reason(c, why);
    begin(c);
    put_out(c, c->move_why);
}

bool move_refused(call *c, const char *why) {
    roster_client *k = c->client;

    if (!client_can_move(k) || c->kind->again == NULL || c->cancelling ||
        !failover_has_others(&k->members))
        return false;
    c->homeless = true;
    if (k->moving) return true; /* others were refused before */
    note_reason(k, why);
    begin(k);
    return true;
}

void move_settled(call *c) {
    c->fruitless = 0;
    if (!c->client->moving) failover_settle(&c->client->members);
}

/* ---- the end of a search ---- */

static void end_homeless(roster_client *c, int code, const char *why) {
    uint64_t last = c->last_id;
    call *at = c->calls;

    while (at != NULL) {
        if (!at->homeless || at->id > last) {
            at = at->next;
            continue;
        }
        call_end(at, at->cancelling ? ERR_CANCELLED : code, why);
        at = c->calls; /* a callback may have changed the list */
    }
}

/* Nobody is looked for any more. */
static void stop(roster_client *c) {
    if (c->greeting.link != NULL) {
        greeting_end(c);
        failover_dropped(&c->members);
    }
    c->moving = false;
    c->lost = c->link == NULL;
}

static void give_up(roster_client *c) {
    char why[ROSTER_WHY_BYTES];
    int code = failover_code(&c->members);

    explain(c, why, sizeof(why));
    failover_settle(&c->members); /* whoever asks next tries all again */
    stop(c);
    end_homeless(c, code, why);
    client_fail(c, code, "%s", why);
}

void move_expired(call *c) {
    char why[ROSTER_WHY_BYTES];

    explain(c->client, why, sizeof(why));
    call_end(c, failover_code(&c->client->members), why);
}

/* ---- taking over ---- */

/* Ask the coordinator that is ours now for what is still missing. */
static void ask_again(call *c) {
    roster_client *k = c->client;
    char why[ROSTER_WHY_BYTES] = "";
    message m;

    if (c->fruitless >= CALL_MOVES_MAX) {
        call_end(c, ERR_CLOSED, "coordinators take it over and then fail");
        return;
    }
    client_header(k, &m, MESSAGE_PING, c->id);
    int rc = c->kind->again(c, &m, why, sizeof(why));
    if (rc == 0) rc = client_send(k, &m);
    if (rc == -EAGAIN) {
        k->gone = true; /* it still is homeless */
        return;
    }
    c->homeless = false;
    if (rc < 0) {
        call_end(c, rc, why[0] != '\0' ? why : err_text(rc));
        return;
    }
    if (c->asked) {
        c->moves++;
        c->fruitless++;
    }
    c->asked = true;
}

static call *next_homeless(roster_client *c, uint64_t last_id) {
    call *at = c->calls;
    while (at != NULL && (!at->homeless || at->id > last_id))
        at = at->next;
    return at;
}

/* The old coordinator, if it is still there, need not go on. */
static void leave(roster_client *c) {
    message m;

    if (c->link == NULL) return;
    for (const call *at = c->calls; at != NULL; at = at->next) {
        if (at->homeless) continue;
        client_header(c, &m, MESSAGE_CANCEL, at->id);
        (void)client_send(c, &m); /* it notices our absence, too */
    }
}

static void move_in(roster_client *c, const coordinator_info *info) {
    uint64_t last = c->last_id;
    call *at;

    leave(c);
    client_adopt(c, info);
    failover_took(&c->members);
    c->moving = false;
    c->gone = false;
    put_out(c, c->move_why);
    while (!c->gone && (at = next_homeless(c, last)) != NULL) {
        if (at->cancelling) {
            call_end(at, ERR_CANCELLED, "cancelled");
        } else {
            ask_again(at);
        }
    }
}

/* ---- looking for somebody ---- */

static bool try_next(roster_client *c) {
    char why[ROSTER_WHY_BYTES] = "";
    failover_choice next = failover_next(&c->members, now_ms());

    if (next.step == FAILOVER_WAIT) return false;
    if (next.step == FAILOVER_OVER) {
        give_up(c);
        return true;
    }
    int rc = greeting_begin(c, c->members.members[next.member].endpoint,
                            next.limit_ms, why, sizeof(why));
    if (rc < 0) failover_failed(&c->members, rc, why);
    return rc < 0;
}

static bool greet_on(roster_client *c) {
    char why[ROSTER_WHY_BYTES] = "";
    coordinator_info info;

    int rc = greeting_look(c, &info, why, sizeof(why));
    if (rc == -EINPROGRESS) return false;
    if (rc == 0) {
        move_in(c, &info);
    } else {
        failover_failed(&c->members, rc, why);
    }
    return true;
}

void move_ask_members(roster_client *c) {
    uint64_t now = now_ms();
    message m;

    if (c->link == NULL || !client_can_move(c) || now < c->ask_members_ms)
        return;
    c->ask_members_ms = now + MEMBERS_MS;
    client_header(c, &m, MESSAGE_MEMBERS_REQUEST, ++c->last_id);
    (void)client_send(c, &m); /* a link that does not take it is found out */
}

void move_learn(roster_client *c, const message *m) {
    failover_learn(&c->members, m->members.items, m->members.count);
}

/* Nobody waits.  With a link there is nothing to be done; without, the search
 * goes on for a while, so that the next call finds a coordinator. */
static bool is_over(roster_client *c) {
    if (is_wanted(c)) return false;
    if (c->link != NULL) stop(c);
    if (c->moving && now_ms() >= c->move_until_ms) give_up(c);
    return !c->moving;
}

int move_look(roster_client *c) {
    bool done = true;
    int handled = 0;

    move_ask_members(c);
    while (c->moving && done) {
        if (is_over(c)) break;
        done = c->greeting.link != NULL ? greet_on(c) : try_next(c);
        handled += done;
    }
    return handled;
}

uint64_t move_due(const roster_client *c) {
    if (!c->moving) return UINT64_MAX;
    if (c->greeting.link != NULL) return now_ms() + GREETING_LOOK_MS;
    return c->members.not_before_ms;
}

int move_wait(roster_client *c) {
    uint64_t until = now_ms() + c->config.connect_timeout_ms;
    int rc = 0;

    if (c->link == NULL) move_wanted(c);
    c->waiters++;
    while (rc >= 0 && (c->gone || c->link == NULL)) {
        if (now_ms() >= until) {
            char why[ROSTER_WHY_BYTES];
            explain(c, why, sizeof(why));
            rc = client_fail(c, ERR_CLOSED, "%s", why);
            break;
        }
        rc = roster_process(c, GREETING_LOOK_MS);
    }
    c->waiters--;
    return rc < 0 ? rc : 0;
}
