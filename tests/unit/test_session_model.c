/* test_session_model.c - sessions against a model of etcd with lost answers,
 * late writes, expiring leases, and processes that are stopped or die.
 *
 * The model judges every write by what it knows and the sessions do not: nobody
 * who lives may lose a key to another, and at no time may two processes, one of
 * them stopped or not, believe that they lead.  SESSION_SEEDS=N runs more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/session.h"

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

static void release_key(world *w, size_t who, call *c) {
    int k = key_of(who, c->action.slot);
    session_found *at = &w->keys[k];
    c->outcome = SESSION_NOT;
    if (at->boot == 0 || at->mod_revision != c->action.mod_revision) return;
    assert_true(at->boot == c->boot);
    *at = (session_found){.mod_revision = ++w->revision};
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
    case SESSION_RELEASE:
        release_key(w, who, c);
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
        bool writes = c->action.kind == SESSION_WRITE ||
                      c->action.kind == SESSION_RELEASE;
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
    case SESSION_RELEASE:
        session_released(p->s, w->now, c->action.slot, o, c->number);
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
    if (draw(w, 200) == 0) session_campaign(one->s, draw(w, 3) != 0);
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
    for (size_t i = 0; i < PROCESSES; i++)
        session_campaign(w->processes[i].s, true);
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
        cmocka_unit_test(never_has_two_leaders_and_always_finds_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
