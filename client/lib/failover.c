/* failover.c - see failover.h.
 *
 * Order of attempts: whoever was tried least; of those, the one that was lost
 * last (it may have been restarted), and before it who is leaving; of the
 * others, in the order of the list, from a place that differs from client to
 * client, so that the clients of a dead coordinator do not all go to one. */
#include "client/lib/failover.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

void failover_init(failover *f) {
    *f = (failover){.current = -1, .trying = -1};
}

/* ---- who there is ---- */

static bool is_there(const failover_member *m) {
    return m->endpoint[0] != '\0';
}

static int find(const failover *f, const char *text) {
    for (int i = 0; i < FAILOVER_MEMBERS; i++) {
        if (strcmp(f->members[i].endpoint, text) == 0) return i;
    }
    return -1;
}

/* The place of an endpoint, a new one if need be; -1: there is no room. */
static int place_of(failover *f, const char *text) {
    int i = find(f, text);
    if (i < 0) i = find(f, "");
    if (i < 0 || is_there(&f->members[i])) return i;
    failover_member *m = &f->members[i];
    *m = (failover_member){.given = false};
    snprintf(m->endpoint, sizeof(m->endpoint), "%s", text);
    return i;
}

/* One way to write each endpoint, so that nobody is listed twice. */
static int normal(char out[FAILOVER_ENDPOINT], const char *text, char *why,
                  size_t why_size) {
    endpoint e;

    /* Other transports are the link's to judge. */
    if (strncmp(text, "inproc://", 9) == 0) {
        if (strlen(text) < FAILOVER_ENDPOINT) {
            strcpy(out, text);
            return 0;
        }
        return err_why(why, why_size, ERR_USAGE, "an endpoint is too long");
    }
    int rc = endpoint_parse(&e, text, why, why_size);
    if (rc == 0) endpoint_format(&e, out, FAILOVER_ENDPOINT);
    return rc;
}

static int give_one(failover *f, const char *text, size_t len, char *why,
                    size_t why_size) {
    char one[FAILOVER_ENDPOINT], clean[FAILOVER_ENDPOINT];

    while (len > 0 && *text == ' ')
        text++, len--;
    while (len > 0 && text[len - 1] == ' ')
        len--;
    if (len >= sizeof(one)) {
        return err_why(why, why_size, ERR_USAGE,
                       "endpoint '%.40s...' is too long", text);
    }
    memcpy(one, text, len);
    one[len] = '\0';
    int rc = normal(clean, one, why, why_size);
    if (rc < 0) return rc;
    int i = place_of(f, clean);
    if (i < 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "more than %d endpoints are given", FAILOVER_MEMBERS);
    }
    f->members[i].given = true;
    return 0;
}

int failover_give(failover *f, const char *list, char *why, size_t why_size) {
    for (;;) {
        size_t len = strcspn(list, ",");
        int rc = give_one(f, list, len, why, why_size);
        if (rc < 0) return rc;
        if (list[len] == '\0') return 0;
        list += len + 1;
    }
}

/* Note that it is listed, if it is known or `make`s a place for it. */
static void list_one(failover *f, const message_member *item, bool make) {
    char clean[FAILOVER_ENDPOINT];

    if (normal(clean, item->endpoint, NULL, 0) < 0) return;
    int i = make ? place_of(f, clean) : find(f, clean);
    if (i < 0) return;
    f->members[i].listed = true;
    f->members[i].leaving = item->leaving;
}

void failover_learn(failover *f, const message_member *items, size_t n) {
    for (int i = 0; i < FAILOVER_MEMBERS; i++)
        f->members[i].listed = f->members[i].leaving = false;
    for (size_t i = 0; i < n; i++)
        list_one(f, &items[i], false);
    /* Those who are not on the list any more make room for the others. */
    for (int i = 0; i < FAILOVER_MEMBERS; i++) {
        failover_member *m = &f->members[i];
        if (m->given || m->listed || i == f->current || i == f->trying)
            continue;
        m->endpoint[0] = '\0';
    }
    for (size_t i = 0; i < n; i++)
        list_one(f, &items[i], true);
}

size_t failover_count(const failover *f) {
    size_t n = 0;
    for (int i = 0; i < FAILOVER_MEMBERS; i++)
        n += is_there(&f->members[i]);
    return n;
}

bool failover_has_others(const failover *f) {
    for (int i = 0; i < FAILOVER_MEMBERS; i++) {
        const failover_member *m = &f->members[i];
        if (is_there(m) && i != f->current && !m->final) return true;
    }
    return false;
}

/* ---- an episode ---- */

/* Nothing that passes with time, as a full queue or a silent peer does. */
static bool is_final(int code) {
    switch (code) {
    case ERR_USAGE:
    case ERR_WRONG_MODEL:
    case ERR_WRONG_PROFILE:
    case ERR_WRONG_VERSION:
    case ERR_WRONG_CLUSTER:
    case ERR_MALFORMED:
    case ERR_UNSUPPORTED:
    case ERR_CONTEXT:
    case -EALREADY: /* it is the one that is to be left */
        return true;
    default:
        return false;
    }
}

static void note(failover_member *m, int code, const char *why) {
    m->tries++;
    m->code = code;
    m->final = is_final(code);
    snprintf(m->why, sizeof(m->why), "%s", why);
}

void failover_begin(failover *f, uint64_t now_ms, uint32_t first, int code,
                    const char *why) {
    if (!f->active) {
        for (int i = 0; i < FAILOVER_MEMBERS; i++) {
            failover_member *m = &f->members[i];
            m->tries = 0;
            m->final = false;
            m->code = 0;
            m->why[0] = '\0';
        }
        f->active = true;
        f->round = 0;
        f->not_before_ms = now_ms;
        f->first = first % FAILOVER_MEMBERS;
    }
    if (f->current >= 0) note(&f->members[f->current], code, why);
}

void failover_settle(failover *f) {
    f->active = false;
}

/* Is `a` to be tried before `b`, which comes earlier in the list? */
static bool is_better(const failover *f, int a, int b) {
    const failover_member *x = &f->members[a], *y = &f->members[b];

    if (x->tries != y->tries) return x->tries < y->tries;
    if (b == f->current) return true;
    return a != f->current && y->leaving && !x->leaving;
}

static int best(const failover *f) {
    int found = -1;

    for (int k = 0; k < FAILOVER_MEMBERS; k++) {
        int i = (int)((f->first + (uint32_t)k) % FAILOVER_MEMBERS);
        const failover_member *m = &f->members[i];
        if (!is_there(m) || m->final) continue;
        if (found < 0 || is_better(f, i, found)) found = i;
    }
    return found;
}

static uint64_t doubled(uint64_t ms, uint32_t times, uint64_t most) {
    for (uint32_t i = 0; i < times && ms < most; i++)
        ms *= 2;
    return ms < most ? ms : most;
}

failover_choice failover_next(failover *f, uint64_t now_ms) {
    failover_choice c = {.step = FAILOVER_OVER, .member = -1};
    assert(f->trying < 0);

    int i = best(f);
    if (i < 0) return c;
    failover_member *m = &f->members[i];
    /* The one that failed is given one more chance, but not waited for. */
    if (i == f->current && m->tries >= 2 && !failover_has_others(f)) return c;

    if (m->tries > f->round) {
        f->round = m->tries;
        f->not_before_ms = now_ms + doubled(FAILOVER_PAUSE_MS, f->round - 1,
                                            FAILOVER_PAUSE_MOST_MS);
    }
    if (now_ms < f->not_before_ms) {
        c.step = FAILOVER_WAIT;
        c.at_ms = f->not_before_ms;
        return c;
    }
    c.step = FAILOVER_TRY;
    c.member = i;
    c.limit_ms =
        (uint32_t)doubled(FAILOVER_LIMIT_MS, f->round, FAILOVER_LIMIT_MOST_MS);
    f->trying = i;
    return c;
}

void failover_failed(failover *f, int code, const char *why) {
    assert(f->trying >= 0);
    note(&f->members[f->trying], code, why);
    f->trying = -1;
}

void failover_took(failover *f) {
    assert(f->trying >= 0);
    f->current = f->trying;
    f->trying = -1;
}

void failover_dropped(failover *f) {
    f->trying = -1;
}

/* ---- why it has failed ---- */

int failover_code(const failover *f) {
    int code = 0;

    for (int i = 0; i < FAILOVER_MEMBERS; i++) {
        const failover_member *m = &f->members[i];
        if (!is_there(m) || i == f->current) continue;
        if (!m->final) return ERR_CLOSED;
        if (code == 0 && m->code != -EALREADY) code = m->code;
    }
    return code != 0 ? code : ERR_CLOSED;
}

/* Or is just being tried. */
static bool was_tried(const failover *f, int i) {
    const failover_member *m = &f->members[i];
    return is_there(m) && i != f->current && (m->tries > 0 || i == f->trying);
}

void failover_explain(const failover *f, char *out, size_t size) {
    size_t others = 0, at = 0;

    for (int i = 0; i < FAILOVER_MEMBERS; i++)
        others += was_tried(f, i);
    if (size == 0) return;
    if (others == 0) {
        snprintf(out, size, "nobody else is known");
        return;
    }
    int n = snprintf(out, size, "%zu tried", others);
    bool first = true;
    for (int i = 0; i < FAILOVER_MEMBERS && n > 0; i++) {
        const failover_member *m = &f->members[i];
        if (!was_tried(f, i)) continue;
        at += (size_t)n;
        if (at >= size) return; /* cut: the first ones say enough */
        const char *sign = first ? ":" : ";";
        if (m->tries > 0) {
            n = snprintf(out + at, size - at, "%s %s", sign, m->why);
        } else {
            n = snprintf(out + at, size - at, "%s %s has not answered yet",
                         sign, m->endpoint);
        }
        first = false;
    }
}
