/* session.c - see session.h.
 *
 * Two kinds of doubt are met here.  Time: a lease counts from when the last
 * answered request was sent, which is never later than when etcd began to
 * count, so this side always believes in its lease for a shorter time than etcd
 * does.  Outcomes: a write names the revision that it goes over, so whatever an
 * earlier write of unknown outcome does, and whenever it does it, at most one
 * of the two is carried out, and a look at the key tells which.
 *
 * An answer may come to a question that is not ours any more (the lease was
 * lost meanwhile, the store was replaced).  Such a request is marked stale when
 * that happens; its answer then only says that the way is free again. */
#include "discovery/session.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define NEVER UINT64_MAX
#define BACKOFF_DOUBLINGS 3 /* 8 times */

typedef enum { IDLE, GRANTING, KEEPING, READING, WRITING, RELEASING } request;

typedef struct {
    request busy;
    bool stale;        /* its answer is about what is no more */
    uint32_t failures; /* in a row */
    uint64_t not_before;
} line;

typedef struct {
    line line;
    bool wanted;
    uint64_t version;         /* of the contents, from 1 */
    uint64_t sent_version;    /* of the write under way */
    uint64_t written_version; /* as it stands in etcd */
    bool sent_over_nothing;   /* the write under way makes the key */
    bool sent_over_another;   /* it goes over another process's */
    /* A RELEASE was sent and may still be carried out: the key is ours for
     * sure again only when it was written once more. */
    bool releasing;
    bool known;
    session_found found;
    int64_t newest; /* revision of the newest that was seen or written */
} slot_state;

struct session {
    session_config config;
    bool ended;

    line line; /* of the lease */
    int64_t lease;
    uint32_t ttl_ms;     /* as etcd granted it */
    uint64_t sent_ms;    /* of the request under way */
    uint64_t counted_ms; /* when the last answered one was sent */

    slot_state slots[SESSION_SLOTS];
    bool campaigned;       /* at any time: the leader key may be ours */
    uint64_t take_over_ms; /* not before: going over another's record */
};

int session_new(session **out, const session_config *c) {
    assert(c->ttl_ms >= 2000 && c->retry_ms > 0 && c->boot != 0);
    *out = calloc(1, sizeof(**out));
    if (*out == NULL) return -ENOMEM;
    (*out)->config = *c;
    session_campaign(*out, c->campaign);
    return 0;
}

void session_free(session *s) {
    free(s);
}

/* ---- requests: one line each ---- */

static void begin(line *l, request what) {
    assert(l->busy == IDLE);
    l->busy = what;
    l->stale = false;
}

/* The request under way was answered: is the answer still about something? */
static bool answered(line *l, request what) {
    assert(l->busy == what);
    l->busy = IDLE;
    return !l->stale;
}

static void failed(const session *s, line *l, uint64_t now_ms) {
    uint32_t doublings =
        l->failures < BACKOFF_DOUBLINGS ? l->failures : BACKOFF_DOUBLINGS;
    l->failures++;
    l->not_before = now_ms + ((uint64_t)s->config.retry_ms << doublings);
}

static void worked(line *l) {
    l->failures = 0;
    l->not_before = 0;
}

/* ---- the lease ---- */

static uint64_t lease_end(const session *s) {
    return s->counted_ms + s->ttl_ms;
}

/* Until when this process may act as the leader that it is. */
static uint64_t lead_end(const session *s) {
    return s->counted_ms + (uint64_t)s->ttl_ms * 2 / 3;
}

static bool is_own(const session *s, const slot_state *slot) {
    return slot->known && slot->found.boot == s->config.boot && s->lease != 0 &&
           slot->found.lease == s->lease;
}

static void forget_slot(slot_state *slot) {
    slot->known = false;
    slot->newest = 0;
    slot->written_version = 0;
    slot->line.stale = true;
}

/* The keys go with their lease, sooner or later: look again before anything is
 * written with the next one. */
static void lose_lease(session *s) {
    s->lease = 0;
    s->line.stale = true;
    for (int i = 0; i < SESSION_SLOTS; i++) {
        forget_slot(&s->slots[i]);
        s->slots[i].releasing = false;
    }
}

void session_forget(session *s) {
    for (int i = 0; i < SESSION_SLOTS; i++) {
        forget_slot(&s->slots[i]);
        s->slots[i].line.not_before = 0;
    }
}

void session_reachable(session *s) {
    worked(&s->line);
    for (int i = 0; i < SESSION_SLOTS; i++)
        worked(&s->slots[i].line);
}

void session_granted(session *s, uint64_t now_ms, session_outcome o,
                     int64_t lease, uint32_t ttl_ms) {
    bool ours = answered(&s->line, GRANTING);
    assert(ours && s->lease == 0);
    (void)ours;
    if (o != SESSION_DONE || lease == 0 || s->sent_ms + ttl_ms <= now_ms) {
        failed(s, &s->line, now_ms); /* a lease that nobody keeps goes away */
        return;
    }
    worked(&s->line);
    s->lease = lease;
    s->ttl_ms = ttl_ms;
    s->counted_ms = s->sent_ms;
}

void session_kept(session *s, uint64_t now_ms, session_outcome o) {
    if (!answered(&s->line, KEEPING)) return;

    if (o == SESSION_DONE) {
        worked(&s->line);
        s->counted_ms = s->sent_ms;
    } else if (o == SESSION_LOST) {
        lose_lease(s);
    } else {
        failed(s, &s->line, now_ms);
    }
}

/* false: nothing to ask for now; *wake is when there may be. */
static bool next_for_lease(session *s, uint64_t now_ms, session_action *out,
                           uint64_t *wake) {
    if (s->line.busy != IDLE) return false;

    uint64_t due = s->line.not_before;
    if (s->lease != 0 && due < s->counted_ms + s->ttl_ms / 3) {
        due = s->counted_ms + s->ttl_ms / 3;
    }
    if (s->lease == 0 && !s->slots[SLOT_RECORD].wanted) return false;
    if (now_ms < due) {
        if (due < *wake) *wake = due;
        return false;
    }
    begin(&s->line, s->lease == 0 ? GRANTING : KEEPING);
    s->sent_ms = now_ms;
    out->kind = s->lease == 0 ? SESSION_GRANT : SESSION_KEEP;
    out->lease = s->lease;
    return true;
}

/* ---- the keys ---- */

static bool is_wanted(const session *s, session_slot slot) {
    if (s->lease == 0 || !s->slots[slot].wanted) return false;
    /* Without the name, what else stands under it is another's. */
    return slot == SLOT_RECORD || session_registered(s);
}

typedef enum { SATISFIED, WRITE_IT, ANOTHERS } verdict;

static verdict judge(const session *s, session_slot which) {
    const slot_state *slot = &s->slots[which];
    const session_found *found = &slot->found;

    if (found->boot == 0) return WRITE_IT;
    if (is_own(s, slot)) {
        if (slot->releasing) return WRITE_IT;
        bool current =
            which == SLOT_LEADER || slot->written_version == slot->version;
        return current ? SATISFIED : WRITE_IT;
    }
    if (found->boot == s->config.boot) return WRITE_IT; /* an earlier lease's */
    /* Who has the record may report under its name.  Nobody may go over a
     * leader, dead or not: its term must end before another begins. */
    if (which == SLOT_RECORD && found->same_place) return WRITE_IT;
    return which == SLOT_READY ? WRITE_IT : ANOTHERS;
}

static bool is_anothers(const session *s, const slot_state *slot) {
    return slot->known && slot->found.boot != 0 &&
           slot->found.boot != s->config.boot;
}

/* When the slot's next request may be sent. */
static uint64_t due_at(const session *s, session_slot which, verdict v) {
    const slot_state *slot = &s->slots[which];
    uint64_t due = slot->line.not_before;
    bool takes_over =
        which == SLOT_RECORD && v == WRITE_IT && is_anothers(s, slot);
    return takes_over && due < s->take_over_ms ? s->take_over_ms : due;
}

static void begin_write(session *s, session_slot which, session_action *out) {
    slot_state *slot = &s->slots[which];
    bool nothing = slot->found.boot == 0;

    begin(&slot->line, WRITING);
    slot->sent_version = slot->version;
    slot->sent_over_nothing = nothing;
    slot->sent_over_another = is_anothers(s, slot);
    out->kind = SESSION_WRITE;
    out->slot = which;
    out->lease = s->lease;
    out->mod_revision = nothing ? 0 : slot->found.mod_revision;
}

static bool next_for_slot(session *s, session_slot which, uint64_t now_ms,
                          session_action *out, uint64_t *wake) {
    slot_state *slot = &s->slots[which];
    if (slot->line.busy != IDLE || !is_wanted(s, which)) return false;

    verdict v = slot->known ? judge(s, which) : WRITE_IT;
    if (v == SATISFIED) return false;
    uint64_t due = due_at(s, which, v);
    if (now_ms < due) {
        if (due < *wake) *wake = due;
        return false;
    }
    if (slot->known && v == WRITE_IT) {
        begin_write(s, which, out);
        return true;
    }
    /* Not known, or another's: the watch says when that one is gone, and if
     * there is none, looking does. */
    begin(&slot->line, READING);
    out->kind = SESSION_READ;
    out->slot = which;
    return true;
}

/* Take what was found; false: something newer was known before. */
static bool look(slot_state *slot, const session_found *found) {
    if (found->mod_revision < slot->newest) return false;
    slot->newest = found->mod_revision;
    slot->found = *found;
    slot->known = true;
    if (found->boot == 0) slot->releasing = false;
    return true;
}

void session_read(session *s, uint64_t now_ms, session_slot which,
                  session_outcome o, const session_found *found) {
    slot_state *slot = &s->slots[which];
    if (!answered(&slot->line, READING)) return;

    if (o != SESSION_DONE) {
        failed(s, &slot->line, now_ms);
        return;
    }
    /* Something newer may have been seen meanwhile: then that is known.  If
     * nothing is, revisions went back, and session_forget() is to come. */
    look(slot, found);
    if (!slot->known || judge(s, which) == ANOTHERS) {
        slot->line.failures = BACKOFF_DOUBLINGS;
        failed(s, &slot->line, now_ms);
    } else if (judge(s, which) == SATISFIED) {
        worked(&slot->line);
    } else {
        /* The write comes at once, but that failures are over is for it to
         * show: an etcd without space reads well. */
        slot->line.not_before = 0;
    }
}

void session_seen(session *s, session_slot which, const session_found *found) {
    slot_state *slot = &s->slots[which];
    bool was_own = is_own(s, slot);

    /* While the outcome of a write is open, seeing the key closes it as well
     * as reading would. */
    if (!look(slot, found)) return;
    if (found->boot == 0 || was_own) slot->line.not_before = 0;
}

void session_wrote(session *s, uint64_t now_ms, session_slot which,
                   session_outcome o, int64_t revision) {
    slot_state *slot = &s->slots[which];
    if (!answered(&slot->line, WRITING)) return;

    if (o == SESSION_LOST) {
        lose_lease(s);
        return;
    }
    if (o != SESSION_DONE) {
        slot->known = false;
        failed(s, &slot->line, now_ms);
        return;
    }
    worked(&slot->line);
    slot->releasing = false;
    slot->written_version = slot->sent_version;
    /* If that one lives after all, it takes its record back: two of one place
     * must not write as fast as etcd can. */
    if (slot->sent_over_another) s->take_over_ms = now_ms + s->ttl_ms;
    if (revision < slot->newest) return; /* what followed was seen already */
    session_found ours = {.boot = s->config.boot,
                          .create_revision = slot->found.create_revision,
                          .mod_revision = revision,
                          .lease = s->lease};
    if (slot->sent_over_nothing) ours.create_revision = revision;
    look(slot, &ours);
}

void session_want(session *s, session_slot slot) {
    s->slots[slot].wanted = true;
    s->slots[slot].version++;
}

/* ---- giving the leader key up ---- */

void session_campaign(session *s, bool wants) {
    s->slots[SLOT_LEADER].wanted = wants;
    s->campaigned = s->campaigned || wants;
}

/* A leader key that is not wanted any more goes; where a write's outcome is
 * open, it is looked at first. */
static bool next_to_release(session *s, uint64_t now_ms, session_action *out,
                            uint64_t *wake) {
    slot_state *slot = &s->slots[SLOT_LEADER];
    if (slot->wanted || !s->campaigned || s->lease == 0) return false;
    if (slot->line.busy != IDLE) return false;
    if (slot->known && !is_own(s, slot)) return false;
    if (now_ms < slot->line.not_before) {
        if (slot->line.not_before < *wake) *wake = slot->line.not_before;
        return false;
    }
    out->slot = SLOT_LEADER;
    out->kind = slot->known ? SESSION_RELEASE : SESSION_READ;
    out->mod_revision = slot->known ? slot->found.mod_revision : 0;
    slot->releasing = slot->releasing || slot->known;
    begin(&slot->line, slot->known ? RELEASING : READING);
    return true;
}

void session_released(session *s, uint64_t now_ms, session_slot which,
                      session_outcome o, int64_t revision) {
    slot_state *slot = &s->slots[which];
    if (!answered(&slot->line, RELEASING)) return;
    if (o != SESSION_DONE) {
        slot->known = false;
        failed(s, &slot->line, now_ms);
        return;
    }
    worked(&slot->line);
    const session_found nothing = {.mod_revision = revision};
    look(slot, &nothing);
}

/* ---- what next ---- */

void session_end(session *s) {
    s->ended = true;
}

/* Whatever is under way: a lease that is being granted is given back when its
 * number is known, and writes with one that is gone are not carried out. */
static void next_at_end(session *s, session_action *out) {
    if (s->lease == 0) return;
    out->kind = SESSION_REVOKE;
    out->lease = s->lease;
    lose_lease(s);
}

void session_next(session *s, uint64_t now_ms, session_action *out) {
    uint64_t wake = NEVER;
    *out = (session_action){.kind = SESSION_WAIT, .wake_ms = NEVER};

    if (s->lease != 0 && now_ms >= lease_end(s)) lose_lease(s);
    if (s->ended) {
        next_at_end(s, out);
        return;
    }
    if (next_for_lease(s, now_ms, out, &wake)) return;
    if (next_to_release(s, now_ms, out, &wake)) return;
    for (int i = 0; i < SESSION_SLOTS; i++) {
        if (next_for_slot(s, (session_slot)i, now_ms, out, &wake)) return;
    }
    /* Also when something ends by itself. */
    if (s->lease != 0 && lease_end(s) < wake) wake = lease_end(s);
    if (session_term(s, now_ms) != 0 && lead_end(s) < wake) wake = lead_end(s);
    out->wake_ms = wake;
}

/* ---- reports ---- */

bool session_registered(const session *s) {
    return is_own(s, &s->slots[SLOT_RECORD]);
}

bool session_name_taken(const session *s) {
    const slot_state *slot = &s->slots[SLOT_RECORD];
    return is_anothers(s, slot) && !slot->found.same_place;
}

bool session_leased(const session *s) {
    return s->lease != 0 || s->line.busy == GRANTING;
}

int64_t session_term(const session *s, uint64_t now_ms) {
    const slot_state *slot = &s->slots[SLOT_LEADER];
    if (s->ended || !slot->wanted || !is_own(s, slot)) return 0;
    if (slot->releasing) return 0;
    return now_ms < lead_end(s) ? slot->found.create_revision : 0;
}
