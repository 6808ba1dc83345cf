/* test_session.c - the lease and its keys: each rule by itself, then everything
 * together against a model of etcd with lost answers, late writes, expiring
 * leases and stopped processes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/session.h"

#define TTL 6000
#define RETRY 200
#define BOOT 77

static session *made(bool campaign) {
    const session_config c = {
        .ttl_ms = TTL, .retry_ms = RETRY, .boot = BOOT, .campaign = campaign};
    session *s;
    assert_int_equal(session_new(&s, &c), 0);
    return s;
}

static session_action expect(session *s, uint64_t now, session_kind kind) {
    session_action a;
    session_next(s, now, &a);
    assert_int_equal(a.kind, kind);
    return a;
}

static session_action expect_slot(session *s, uint64_t now, session_kind kind,
                                  session_slot slot) {
    session_action a = expect(s, now, kind);
    assert_int_equal(a.slot, slot);
    return a;
}

static const session_found nothing = {.mod_revision = 1};

/* With lease 5, granted at `now`, and the record written at revision 10. */
static session *registered(uint64_t now, bool campaign) {
    session *s = made(campaign);
    session_want(s, SLOT_RECORD);
    expect(s, now, SESSION_GRANT);
    session_granted(s, now, SESSION_DONE, 5, TTL);
    expect_slot(s, now, SESSION_READ, SLOT_RECORD);
    session_read(s, now, SLOT_RECORD, SESSION_DONE, &nothing);
    session_action a = expect_slot(s, now, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 0);
    assert_int_equal(a.lease, 5);
    assert_false(session_registered(s));
    session_wrote(s, now, SLOT_RECORD, SESSION_DONE, 10);
    assert_true(session_registered(s));
    return s;
}

static session *leading(uint64_t now) {
    session *s = registered(now, true);
    expect_slot(s, now, SESSION_READ, SLOT_LEADER);
    session_read(s, now, SLOT_LEADER, SESSION_DONE, &nothing);
    session_action a = expect_slot(s, now, SESSION_WRITE, SLOT_LEADER);
    assert_int_equal(a.mod_revision, 0);
    session_wrote(s, now, SLOT_LEADER, SESSION_DONE, 12);
    assert_true(session_term(s, now) == 12);
    return s;
}

static void asks_for_nothing_before_there_is_something_to_say(void **state) {
    session *s = made(true);
    (void)state;
    assert_true(expect(s, 0, SESSION_WAIT).wake_ms == UINT64_MAX);
    session_free(s);
    session_free(NULL);
}

static void registers_and_keeps_the_lease_alive(void **state) {
    session *s = registered(1000, false);
    (void)state;
    assert_true(expect(s, 1000, SESSION_WAIT).wake_ms == 1000 + TTL / 3);
    assert_int_equal(expect(s, 1000 + TTL / 3, SESSION_KEEP).lease, 5);
    expect(s, 1000 + TTL / 3, SESSION_WAIT); /* one at a time */
    session_kept(s, 3400, SESSION_DONE);
    /* counted from when it was asked, not from when it was answered */
    assert_true(expect(s, 3400, SESSION_WAIT).wake_ms == 3000 + TTL / 3);
    session_free(s);
}

static void backs_off_while_nobody_answers(void **state) {
    session *s = made(false);
    uint64_t now = 0;
    (void)state;
    session_want(s, SLOT_RECORD);
    static const uint32_t waits[] = {1, 2, 4, 8, 8, 8};
    for (int i = 0; i < 6; i++) {
        expect(s, now, SESSION_GRANT);
        session_granted(s, now, SESSION_NOT, 0, 0);
        now += (uint64_t)waits[i] * RETRY;
        assert_true(expect(s, now - 1, SESSION_WAIT).wake_ms == now);
    }
    expect(s, now, SESSION_GRANT);
    session_granted(s, now, SESSION_DONE, 5, TTL);
    expect(s, now, SESSION_READ);
    session_free(s);
}

static void takes_no_lease_whose_time_is_over(void **state) {
    session *s = made(false);
    (void)state;
    session_want(s, SLOT_RECORD);
    expect(s, 0, SESSION_GRANT);
    session_granted(s, TTL, SESSION_DONE, 5, TTL);
    expect(s, TTL, SESSION_WAIT);
    expect(s, TTL + RETRY, SESSION_GRANT);
    session_free(s);
}

static void leaves_anothers_record_alone_and_says_so(void **state) {
    session *s = made(true);
    const session_found other = {
        .boot = 9, .create_revision = 3, .mod_revision = 4, .lease = 8};
    (void)state;
    session_want(s, SLOT_RECORD);
    expect(s, 0, SESSION_GRANT);
    session_granted(s, 0, SESSION_DONE, 5, TTL);
    expect_slot(s, 0, SESSION_READ, SLOT_RECORD);
    session_read(s, 0, SLOT_RECORD, SESSION_DONE, &other);
    assert_true(session_name_taken(s));
    assert_false(session_registered(s));
    assert_true(expect(s, 0, SESSION_WAIT).wake_ms == 8 * RETRY);
    expect_slot(s, 8 * RETRY, SESSION_READ, SLOT_RECORD); /* tries again */
    session_read(s, 8 * RETRY, SLOT_RECORD, SESSION_DONE, &other);

    /* The watch says that its lease ran out: at once. */
    const session_found gone = {.mod_revision = 20};
    session_seen(s, SLOT_RECORD, &gone);
    assert_false(session_name_taken(s));
    expect_slot(s, 8 * RETRY, SESSION_WRITE, SLOT_RECORD);
    session_free(s);
}

static void goes_over_a_dead_predecessor_with_its_endpoint(void **state) {
    session *s = made(false);
    const session_found dead = {.boot = 9,
                                .create_revision = 3,
                                .mod_revision = 4,
                                .lease = 8,
                                .same_place = true};
    (void)state;
    session_want(s, SLOT_RECORD);
    expect(s, 0, SESSION_GRANT);
    session_granted(s, 0, SESSION_DONE, 5, TTL);
    expect(s, 0, SESSION_READ);
    session_read(s, 0, SLOT_RECORD, SESSION_DONE, &dead);
    assert_false(session_name_taken(s));
    session_action a = expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 4);
    session_wrote(s, 0, SLOT_RECORD, SESSION_DONE, 10);
    assert_true(session_registered(s));
    session_free(s);
}

static void never_goes_over_a_leader(void **state) {
    session *s = registered(0, true);
    const session_found dead = {.boot = 9,
                                .create_revision = 3,
                                .mod_revision = 4,
                                .lease = 8,
                                .same_place = true};
    (void)state;
    expect_slot(s, 0, SESSION_READ, SLOT_LEADER);
    session_read(s, 0, SLOT_LEADER, SESSION_DONE, &dead);
    expect(s, 0, SESSION_WAIT);
    const session_found gone = {.mod_revision = 20};
    session_seen(s, SLOT_LEADER, &gone);
    session_action a = expect_slot(s, 0, SESSION_WRITE, SLOT_LEADER);
    assert_int_equal(a.mod_revision, 0);
    session_free(s);
}

static void reads_before_it_writes_after_an_unknown_outcome(void **state) {
    session *s = registered(0, false);
    (void)state;
    session_want(s, SLOT_RECORD);
    session_action a = expect_slot(s, 10, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 10);
    session_wrote(s, 10, SLOT_RECORD, SESSION_MAYBE, 0);
    expect(s, 10, SESSION_WAIT);
    expect_slot(s, 10 + RETRY, SESSION_READ, SLOT_RECORD);
    /* It was carried out, but with which contents nobody knows: again. */
    const session_found found = {
        .boot = BOOT, .create_revision = 10, .mod_revision = 15, .lease = 5};
    session_read(s, 300, SLOT_RECORD, SESSION_DONE, &found);
    a = expect_slot(s, 300, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 15);
    session_wrote(s, 300, SLOT_RECORD, SESSION_DONE, 16);
    expect(s, 300, SESSION_WAIT);
    session_free(s);
}

static void writes_what_changed_while_a_write_was_under_way(void **state) {
    session *s = registered(0, false);
    (void)state;
    session_want(s, SLOT_READY);
    expect_slot(s, 0, SESSION_READ, SLOT_READY);
    session_read(s, 0, SLOT_READY, SESSION_DONE, &nothing);
    expect_slot(s, 0, SESSION_WRITE, SLOT_READY);
    session_want(s, SLOT_READY);
    expect(s, 0, SESSION_WAIT);
    session_wrote(s, 5, SLOT_READY, SESSION_DONE, 11);
    assert_int_equal(expect_slot(s, 5, SESSION_WRITE, SLOT_READY).mod_revision,
                     11);
    session_free(s);
}

static void reports_nothing_under_a_name_that_is_not_its_own(void **state) {
    session *s = made(false);
    const session_found other = {.boot = 9, .mod_revision = 4, .lease = 8};
    (void)state;
    session_want(s, SLOT_RECORD);
    session_want(s, SLOT_READY);
    expect(s, 0, SESSION_GRANT);
    session_granted(s, 0, SESSION_DONE, 5, TTL);
    expect_slot(s, 0, SESSION_READ, SLOT_RECORD);
    session_read(s, 0, SLOT_RECORD, SESSION_DONE, &other);
    expect(s, 0, SESSION_WAIT);
    session_free(s);
}

static void replaces_what_a_predecessor_reported(void **state) {
    session *s = registered(0, false);
    const session_found old = {.boot = 9, .mod_revision = 4, .lease = 8};
    (void)state;
    session_want(s, SLOT_READY);
    expect_slot(s, 0, SESSION_READ, SLOT_READY);
    session_read(s, 0, SLOT_READY, SESSION_DONE, &old);
    assert_int_equal(expect_slot(s, 0, SESSION_WRITE, SLOT_READY).mod_revision,
                     4);
    session_free(s);
}

static void registers_anew_when_the_lease_is_gone(void **state) {
    session *s = registered(0, false);
    (void)state;
    expect(s, TTL / 3, SESSION_KEEP);
    session_kept(s, TTL / 3, SESSION_LOST);
    assert_false(session_registered(s));
    expect(s, TTL / 3, SESSION_GRANT);
    session_granted(s, 2100, SESSION_DONE, 6, TTL);
    expect_slot(s, 2100, SESSION_READ, SLOT_RECORD);
    const session_found old = {
        .boot = BOOT, .create_revision = 10, .mod_revision = 10, .lease = 5};
    session_read(s, 2100, SLOT_RECORD, SESSION_DONE, &old);
    session_action a = expect_slot(s, 2100, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 10);
    assert_int_equal(a.lease, 6);
    session_free(s);
}

static void counts_a_lease_as_lost_when_its_time_has_passed(void **state) {
    session *s = registered(0, false);
    (void)state;
    expect(s, TTL / 3, SESSION_KEEP); /* never answered in time */
    assert_true(expect(s, TTL - 1, SESSION_WAIT).wake_ms == TTL);
    assert_true(session_registered(s));
    expect(s, TTL, SESSION_WAIT);
    assert_false(session_registered(s));
    session_kept(s, TTL + 50, SESSION_DONE); /* of the lost one */
    assert_false(session_registered(s));
    expect(s, TTL + 50, SESSION_GRANT);
    session_free(s);
}

static void a_write_that_finds_no_lease_loses_it(void **state) {
    session *s = registered(0, false);
    (void)state;
    session_want(s, SLOT_RECORD);
    expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD);
    session_wrote(s, 0, SLOT_RECORD, SESSION_LOST, 0);
    expect(s, 0, SESSION_GRANT);
    session_free(s);
}

static void puts_its_key_again_at_once_when_it_vanishes(void **state) {
    session *s = registered(0, false);
    const session_found gone = {.mod_revision = 30};
    (void)state;
    session_seen(s, SLOT_RECORD, &gone);
    assert_int_equal(expect_slot(s, 1, SESSION_WRITE, SLOT_RECORD).mod_revision,
                     0);
    session_free(s);
}

static void ignores_sightings_older_than_what_it_wrote(void **state) {
    session *s = registered(0, false);
    const session_found before = {.mod_revision = 9};
    const session_found other = {.boot = 9, .mod_revision = 8, .lease = 2};
    (void)state;
    session_seen(s, SLOT_RECORD, &before);
    session_seen(s, SLOT_RECORD, &other);
    assert_true(session_registered(s));
    expect(s, 0, SESSION_WAIT);
    session_free(s);
}

static void sees_its_write_before_the_answer_comes(void **state) {
    session *s = registered(0, true);
    const session_found mine = {
        .boot = BOOT, .create_revision = 12, .mod_revision = 12, .lease = 5};
    const session_found gone = {.mod_revision = 13};
    (void)state;
    expect_slot(s, 0, SESSION_READ, SLOT_LEADER);
    session_read(s, 0, SLOT_LEADER, SESSION_DONE, &nothing);
    expect_slot(s, 0, SESSION_WRITE, SLOT_LEADER);
    session_seen(s, SLOT_LEADER, &mine);
    assert_true(session_term(s, 0) == 12);
    session_seen(s, SLOT_LEADER, &gone);
    session_wrote(s, 0, SLOT_LEADER, SESSION_DONE, 12);
    assert_true(session_term(s, 0) == 0); /* it is gone already */
    expect_slot(s, 0, SESSION_WRITE, SLOT_LEADER);
    session_free(s);
}

static void leads_until_two_thirds_of_the_lease(void **state) {
    session *s = leading(0);
    (void)state;
    expect(s, TTL / 3, SESSION_KEEP);
    assert_true(expect(s, TTL / 3, SESSION_WAIT).wake_ms == TTL * 2 / 3);
    assert_true(session_term(s, TTL * 2 / 3 - 1) == 12);
    assert_true(session_term(s, TTL * 2 / 3) == 0);
    /* A late answer: the lease was ours all the time, and so was the key. */
    session_kept(s, TTL - 10, SESSION_DONE);
    assert_true(session_term(s, TTL - 10) == 12);
    session_free(s);
}

static void does_not_lead_after_it_was_stopped(void **state) {
    session *s = leading(0);
    (void)state;
    assert_true(session_term(s, TTL + 1) == 0); /* before anything else */
    expect(s, TTL + 1, SESSION_GRANT);
    session_free(s);
}

static void loses_the_lead_when_another_has_the_key(void **state) {
    session *s = leading(0);
    const session_found other = {
        .boot = 9, .create_revision = 40, .mod_revision = 40, .lease = 8};
    (void)state;
    session_seen(s, SLOT_LEADER, &other);
    assert_true(session_term(s, 0) == 0);
    session_free(s);
}

static void campaigns_only_while_it_wants(void **state) {
    session *s = registered(0, true);
    (void)state;
    session_campaign(s, false);
    expect(s, 0, SESSION_WAIT);
    session_campaign(s, true);
    expect_slot(s, 0, SESSION_READ, SLOT_LEADER);
    session_free(s);
}

static void gives_everything_up_at_the_end(void **state) {
    session *s = leading(0);
    (void)state;
    session_end(s);
    assert_true(session_term(s, 0) == 0);
    assert_int_equal(expect(s, 0, SESSION_REVOKE).lease, 5);
    assert_false(session_registered(s));
    assert_true(expect(s, 0, SESSION_WAIT).wake_ms == UINT64_MAX);
    session_free(s);

    s = made(false); /* while the lease is being granted */
    session_want(s, SLOT_RECORD);
    expect(s, 0, SESSION_GRANT);
    session_end(s);
    expect(s, 0, SESSION_WAIT);
    session_granted(s, 10, SESSION_DONE, 6, TTL);
    assert_int_equal(expect(s, 10, SESSION_REVOKE).lease, 6);
    expect(s, 10, SESSION_WAIT);
    session_free(s);
}

static void starts_over_in_a_store_that_was_replaced(void **state) {
    session *s = leading(0);
    (void)state;
    session_want(s, SLOT_RECORD);
    expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD);
    session_forget(s);
    assert_false(session_registered(s));
    assert_true(session_term(s, 0) == 0);
    session_wrote(s, 0, SLOT_RECORD, SESSION_DONE, 500); /* in the old one */
    assert_false(session_registered(s));
    expect_slot(s, 0, SESSION_READ, SLOT_RECORD);
    session_read(s, 0, SLOT_RECORD, SESSION_DONE, &nothing);
    assert_int_equal(expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD).mod_revision,
                     0);
    session_wrote(s, 0, SLOT_RECORD, SESSION_DONE, 2); /* lower than before */
    assert_true(session_registered(s));
    session_free(s);
}

static void does_not_spin_when_revisions_went_back_unnoticed(void **state) {
    session *s = registered(0, false);
    (void)state;
    session_want(s, SLOT_RECORD);
    expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD);
    session_wrote(s, 0, SLOT_RECORD, SESSION_NOT, 0);
    expect_slot(s, RETRY, SESSION_READ, SLOT_RECORD);
    session_read(s, RETRY, SLOT_RECORD, SESSION_DONE, &nothing);
    assert_true(expect(s, RETRY, SESSION_WAIT).wake_ms > RETRY);
    session_free(s);
}

/* ---- against a model of etcd ---- */

#define PROCESSES                                                              \
    4 /* 0 and 1 have one name; so have 2 and 3, and one place                 \
       */
#define NAMES 2
#define MODEL_TTL 3000
#define KEYS (NAMES * 2 + 1) /* records, readies, the leader */
#define LEASES 4096
#define EVENTS 16384
#define LATE 64

typedef struct {
    session_action action;
    bool active;
    uint64_t boot, apply_ms, answer_ms;
    bool applied, lost; /* lost: the answer does not arrive as it is */
    session_outcome outcome;
    int64_t number;
    session_found found;
} call;

typedef struct {
    session *s;
    uint64_t boot, stopped_until;
    call calls[1 + SESSION_SLOTS];
    size_t seen; /* of the events */
    uint64_t watch_ms;
} process;

typedef struct {
    uint64_t rng, now;
    int64_t revision;
    session_found keys[KEYS];
    uint64_t lease_end[LEASES]; /* 0: gone */
    int64_t n_leases;
    struct {
        int key;
        session_found found;
    } events[EVENTS];
    size_t n_events;
    process processes[PROCESSES];
    struct {
        size_t who;
        call call;
    } late[LATE]; /* given up by the one who asked, but still under way */
    size_t n_late;
    uint64_t next_boot;
    bool calm;
    uint64_t terms;
} world;

static uint64_t draw(world *w, uint64_t n) {
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return w->rng % n;
}

static int key_of(size_t who, session_slot slot) {
    int name = (int)who / 2;
    if (slot == SLOT_LEADER) return 2 * NAMES;
    return slot == SLOT_RECORD ? name : NAMES + name;
}

static void event(world *w, int key) {
    assert_true(w->n_events < EVENTS);
    w->events[w->n_events].key = key;
    w->events[w->n_events++].found = w->keys[key];
}

static void end_lease(world *w, int64_t lease) {
    bool any = false;
    w->lease_end[lease] = 0;
    for (int k = 0; k < KEYS; k++) {
        if (w->keys[k].boot == 0 || w->keys[k].lease != lease) continue;
        if (!any) w->revision++;
        any = true;
        w->keys[k] = (session_found){.mod_revision = w->revision};
        event(w, k);
    }
}

static bool alive(const world *w, int64_t lease) {
    return lease > 0 && lease < LEASES && w->lease_end[lease] > 0;
}

/* Does that boot run, under whatever process? */
static const process *running(const world *w, uint64_t boot) {
    for (int i = 0; i < PROCESSES; i++) {
        if (w->processes[i].boot == boot) return &w->processes[i];
    }
    return NULL;
}

static void write_key(world *w, size_t who, call *c) {
    int k = key_of(who, c->action.slot);
    session_found *at = &w->keys[k];
    int64_t stands = at->boot != 0 ? at->mod_revision : 0;
    c->outcome = SESSION_NOT;
    if (!alive(w, c->action.lease)) {
        c->outcome = SESSION_LOST;
        return;
    }
    if (stands != c->action.mod_revision) return;

    /* Nobody's key is taken from a process that runs, but by itself. */
    const process *owner = running(w, at->boot);
    if (at->boot != 0 && owner != NULL && at->boot != c->boot) {
        assert_int_not_equal(c->action.slot, SLOT_LEADER);
        assert_int_not_equal(c->action.slot, SLOT_RECORD);
    }
    w->revision++;
    int64_t create = at->boot != 0 ? at->create_revision : w->revision;
    *at = (session_found){.boot = c->boot,
                          .create_revision = create,
                          .mod_revision = w->revision,
                          .lease = c->action.lease};
    event(w, k);
    c->outcome = SESSION_DONE;
    c->number = w->revision;
}

static void apply(world *w, size_t who, call *c) {
    int64_t lease = c->action.lease;
    c->applied = true;
    c->outcome = SESSION_DONE;
    switch (c->action.kind) {
    case SESSION_GRANT:
        c->number = ++w->n_leases;
        assert_true(c->number < LEASES);
        w->lease_end[c->number] = w->now + MODEL_TTL;
        break;
    case SESSION_KEEP:
        if (!alive(w, lease)) {
            c->outcome = SESSION_LOST;
        } else {
            w->lease_end[lease] = w->now + MODEL_TTL;
        }
        break;
    case SESSION_REVOKE:
        if (alive(w, lease)) end_lease(w, lease);
        break;
    case SESSION_READ:
        c->found = w->keys[key_of(who, c->action.slot)];
        if (c->found.boot == 0) c->found.mod_revision = w->revision;
        break;
    case SESSION_WRITE:
        write_key(w, who, c);
        break;
    case SESSION_WAIT:
        break;
    }
}

/* A predecessor is dead if it ran in our place: places are by process. */
static session_found as_seen_by(const world *w, size_t who,
                                session_found found) {
    const process *owner = running(w, found.boot);
    found.same_place = who >= 2 && found.boot != 0 && owner == NULL &&
                       found.boot % PROCESSES == w->processes[who].boot % 4;
    return found;
}

static void answer(world *w, size_t who, call *c) {
    process *p = &w->processes[who];
    session_outcome o = c->outcome;
    c->active = false;
    if (!c->applied && w->n_late < LATE) {
        w->late[w->n_late].who = who;
        w->late[w->n_late++].call = *c;
    }
    if (c->lost) {
        bool writes = c->action.kind == SESSION_WRITE;
        o = writes || c->applied ? SESSION_MAYBE : SESSION_NOT;
    }
    session_found found = as_seen_by(w, who, c->found);
    switch (c->action.kind) {
    case SESSION_GRANT:
        session_granted(p->s, w->now, o, c->number, MODEL_TTL);
        break;
    case SESSION_KEEP:
        session_kept(p->s, w->now, o);
        break;
    case SESSION_READ:
        session_read(p->s, w->now, c->action.slot, o, &found);
        break;
    case SESSION_WRITE:
        session_wrote(p->s, w->now, c->action.slot, o, c->number);
        break;
    default:
        break;
    }
}

static void start(world *w, size_t who) {
    process *p = &w->processes[who];
    p->boot = w->next_boot * PROCESSES + who;
    w->next_boot++;
    const session_config c = {
        .ttl_ms = MODEL_TTL, .retry_ms = 50, .boot = p->boot, .campaign = true};
    assert_int_equal(session_new(&p->s, &c), 0);
    session_want(p->s, SLOT_RECORD);
    session_want(p->s, SLOT_READY);
    p->seen = w->n_events;
}

/* Dies without a word; what it sent may still be carried out. */
static void restart(world *w, size_t who) {
    process *p = &w->processes[who];
    session_free(p->s);
    for (size_t i = 0; i <= SESSION_SLOTS; i++) {
        call *c = &p->calls[i];
        if (c->active && !c->applied && draw(w, 2) == 0) apply(w, who, c);
        c->active = false;
    }
    start(w, who);
}

static void send(world *w, process *p, const session_action *a) {
    bool of_lease = a->kind == SESSION_GRANT || a->kind == SESSION_KEEP;
    call *c = &p->calls[of_lease ? 0 : 1 + a->slot];
    assert_false(c->active); /* one at a time */
    *c = (call){.action = *a, .active = true, .boot = p->boot};
    c->apply_ms = w->now + 1 + draw(w, 20);
    c->answer_ms = c->apply_ms + 1 + draw(w, 20);
    if (w->calm) return;
    if (draw(w, 10) == 0) c->apply_ms += draw(w, 2 * MODEL_TTL);
    if (draw(w, 10) == 0) c->answer_ms += draw(w, MODEL_TTL);
    c->lost = draw(w, 8) == 0;
    if (c->answer_ms < c->apply_ms) {
        c->lost = true; /* answered by a deadline before it is carried out */
    }
}

/* Carry out what is due, of stopped processes too: it is under way. */
static void deliver(world *w, size_t who) {
    process *p = &w->processes[who];
    for (size_t i = 0; i <= SESSION_SLOTS; i++) {
        call *c = &p->calls[i];
        if (c->active && !c->applied && w->now >= c->apply_ms) {
            apply(w, who, c);
        }
    }
}

static void deliver_late(world *w) {
    for (size_t i = 0; i < w->n_late;) {
        if (w->now < w->late[i].call.apply_ms) {
            i++;
            continue;
        }
        apply(w, w->late[i].who, &w->late[i].call);
        w->late[i] = w->late[--w->n_late];
    }
}

static void step(world *w, size_t who) {
    process *p = &w->processes[who];
    if (w->now < p->stopped_until) return;

    for (size_t i = 0; i <= SESSION_SLOTS; i++) {
        call *c = &p->calls[i];
        if (c->active && w->now >= c->answer_ms && (c->applied || c->lost)) {
            answer(w, who, c);
        }
    }
    if (w->now >= p->watch_ms) {
        for (; p->seen < w->n_events; p->seen++) {
            int key = w->events[p->seen].key;
            session_found found = as_seen_by(w, who, w->events[p->seen].found);
            for (int slot = 0; slot < SESSION_SLOTS; slot++) {
                if (key_of(who, (session_slot)slot) != key) continue;
                session_seen(p->s, (session_slot)slot, &found);
            }
        }
        p->watch_ms = w->now + draw(w, w->calm ? 30 : MODEL_TTL);
    }
    session_action a;
    for (session_next(p->s, w->now, &a); a.kind != SESSION_WAIT;
         session_next(p->s, w->now, &a)) {
        send(w, p, &a);
    }
}

static void check(world *w) {
    int leaders = 0;
    const session_found *key = &w->keys[2 * NAMES];
    for (int i = 0; i < PROCESSES; i++) {
        const process *p = &w->processes[i];
        /* A stopped one, too: it must not believe in its term when it wakes. */
        int64_t term = session_term(p->s, w->now);
        if (term == 0) continue;
        leaders++;
        w->terms++;
        assert_true(key->boot == p->boot && key->create_revision == term);
    }
    assert_true(leaders <= 1);
}

static void turn(world *w) {
    w->now += 1 + draw(w, 10);
    for (int64_t lease = 1; lease <= w->n_leases; lease++) {
        if (alive(w, lease) && w->lease_end[lease] <= w->now) {
            end_lease(w, lease);
        }
    }
    for (size_t i = 0; i < PROCESSES; i++)
        deliver(w, i);
    deliver_late(w);
    check(w);
    for (size_t i = 0; i < PROCESSES; i++)
        step(w, i);
    check(w);
    if (w->calm) return;
    process *one = &w->processes[draw(w, PROCESSES)];
    if (draw(w, 800) == 0) one->stopped_until = w->now + draw(w, 8000);
    if (draw(w, 2000) == 0) restart(w, 2 + draw(w, 2));
    if (draw(w, 300) == 0) session_want(one->s, SLOT_READY);
}

static void run_world(uint64_t seed) {
    world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->rng = seed * 0x9e3779b97f4a7c15u | 1;
    w->next_boot = 1;
    w->revision = 1;
    w->now = 1000;
    for (size_t i = 0; i < PROCESSES; i++)
        start(w, i);
    for (int i = 0; i < 6000; i++)
        turn(w);
    w->calm = true;
    for (uint64_t end = w->now + 40000; w->now < end;)
        turn(w);

    /* Somebody has each name, reports under it, and one leads. */
    for (int name = 0; name < NAMES; name++) {
        const session_found *record = &w->keys[name];
        const process *p = running(w, record->boot);
        assert_non_null(p);
        assert_true(session_registered(p->s));
        assert_true(w->keys[NAMES + name].boot == record->boot);
    }
    const process *leader = running(w, w->keys[2 * NAMES].boot);
    assert_non_null(leader);
    assert_true(session_term(leader->s, w->now) ==
                w->keys[2 * NAMES].create_revision);
    assert_true(w->terms > 0);
    for (size_t i = 0; i < PROCESSES; i++)
        session_free(w->processes[i].s);
    free(w);
}

static void never_has_two_leaders_and_always_finds_one(void **state) {
    const char *seeds = getenv("SESSION_SEEDS");
    uint64_t n = seeds != NULL ? strtoull(seeds, NULL, 10) : 60;
    (void)state;
    for (uint64_t seed = 1; seed <= n; seed++)
        run_world(seed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_for_nothing_before_there_is_something_to_say),
        cmocka_unit_test(registers_and_keeps_the_lease_alive),
        cmocka_unit_test(backs_off_while_nobody_answers),
        cmocka_unit_test(takes_no_lease_whose_time_is_over),
        cmocka_unit_test(leaves_anothers_record_alone_and_says_so),
        cmocka_unit_test(goes_over_a_dead_predecessor_with_its_endpoint),
        cmocka_unit_test(never_goes_over_a_leader),
        cmocka_unit_test(reads_before_it_writes_after_an_unknown_outcome),
        cmocka_unit_test(writes_what_changed_while_a_write_was_under_way),
        cmocka_unit_test(reports_nothing_under_a_name_that_is_not_its_own),
        cmocka_unit_test(replaces_what_a_predecessor_reported),
        cmocka_unit_test(registers_anew_when_the_lease_is_gone),
        cmocka_unit_test(counts_a_lease_as_lost_when_its_time_has_passed),
        cmocka_unit_test(a_write_that_finds_no_lease_loses_it),
        cmocka_unit_test(puts_its_key_again_at_once_when_it_vanishes),
        cmocka_unit_test(ignores_sightings_older_than_what_it_wrote),
        cmocka_unit_test(sees_its_write_before_the_answer_comes),
        cmocka_unit_test(leads_until_two_thirds_of_the_lease),
        cmocka_unit_test(does_not_lead_after_it_was_stopped),
        cmocka_unit_test(loses_the_lead_when_another_has_the_key),
        cmocka_unit_test(campaigns_only_while_it_wants),
        cmocka_unit_test(gives_everything_up_at_the_end),
        cmocka_unit_test(starts_over_in_a_store_that_was_replaced),
        cmocka_unit_test(does_not_spin_when_revisions_went_back_unnoticed),
        cmocka_unit_test(never_has_two_leaders_and_always_finds_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
