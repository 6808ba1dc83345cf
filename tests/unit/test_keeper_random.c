/* test_keeper_random.c - the keeper's rules under drawn sequences of
 * placements, loads that fail, coordinators that lag, stop and come back.
 *
 * The test keeps its own, plain picture of what should be and compares after
 * each step; the seed of a failure is printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "expert_node/keeper.h"
#include "tests/support/rack_feed.h"

#define SEEDS 300
#define STEPS 250
#define LAYERS 2
#define EXPERTS 6
#define COORDINATORS 3
#define UNIT_BYTES 10
#define ROOM_UNITS 8
#define GRACE_MS 10000
#define SILENT_MS 5000

typedef enum { ABSENT, LOADING, RESIDENT, UNLOADING } unit_state;

typedef struct {
    uint64_t epoch; /* that it uses */
    uint64_t pinged_ms;
    bool running, stale, seen;
} coordinator;

typedef struct {
    uint64_t random, seed, now, epoch;
    keeper *k;
    rack_feed feed;
    coordinator coordinators[COORDINATORS];
    unit_state units[LAYERS][EXPERTS];
    uint64_t given_up[LAYERS][EXPERTS]; /* the epoch; 0: it is assigned */
    uint64_t version;
    bool reported;
} world;

static uint32_t plan[LAYERS][EXPERTS];
static const uint64_t unit_bytes[LAYERS] = {UNIT_BYTES, UNIT_BYTES};

static uint32_t planned(uint32_t layer, uint32_t unit) {
    return plan[layer][unit];
}

static uint32_t draw(world *w, uint32_t below) {
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((w->random >> 33) % below);
}

#define HOLD(w, condition)                                                     \
    do {                                                                       \
        if (!(condition))                                                      \
            fail_msg("seed %llu, time %llu: not so: %s",                       \
                     (unsigned long long)(w)->seed,                            \
                     (unsigned long long)(w)->now, #condition);                \
    } while (0)

static uint32_t count_assigned(void) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++)
            n += plan[l][u] & 1;
    }
    return n;
}

/* ---- what happens ---- */

static void new_placement(world *w) {
    for (int tries = 0; tries < 4; tries++) {
        uint32_t *unit = &plan[draw(w, LAYERS)][draw(w, EXPERTS)];
        if ((*unit & 1) != 0 || count_assigned() < ROOM_UNITS) *unit ^= 1;
    }
    w->epoch++;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++) {
            if ((plan[l][u] & 1) != 0) {
                w->given_up[l][u] = 0;
            } else if (w->given_up[l][u] == 0) {
                w->given_up[l][u] = epoch_pack(1, w->epoch);
            }
        }
    }
    const uint32_t cuts[LAYERS] = {1, 1};
    const char *const nodes[] = {"me", "other"};
    const rack_feed_plan p = {.epoch = w->epoch,
                              .n_layers = LAYERS,
                              .n_experts = EXPERTS,
                              .max_slices = 1,
                              .slices = cuts,
                              .nodes = nodes,
                              .n_nodes = 2,
                              .on = planned};
    rack_feed_placement(&w->feed, &p);
    rack_feed_settle(&w->feed);
    const rack_placement *made = rack_view_placement(w->feed.view);
    assert_int_equal(keeper_placement(w->k, w->now, made), 0);
    w->reported = false;
}

/* Finish some load or unload that is under way. */
static void finish_one(world *w, bool may_fail) {
    uint32_t begin = draw(w, LAYERS * EXPERTS);
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
        uint32_t at = (begin + i) % (LAYERS * EXPERTS);
        uint32_t l = at / EXPERTS, u = at % EXPERTS;
        if (w->units[l][u] == LOADING) {
            bool fails = may_fail && draw(w, 4) == 0;
            w->units[l][u] = fails ? ABSENT : RESIDENT;
            keeper_loaded(w->k, w->now, l, u, fails ? ERR_CHECKSUM : 0);
            return;
        }
        if (w->units[l][u] == UNLOADING) {
            w->units[l][u] = ABSENT;
            keeper_unloaded(w->k, w->now, l, u);
            return;
        }
    }
}

static void ping(world *w, uint32_t i) {
    coordinator *c = &w->coordinators[i];
    c->pinged_ms = w->now;
    c->seen = true;
    if (draw(w, 8) == 0) {
        assert_int_equal(keeper_hello(w->k, w->now, 100 + i), 0);
    }
    int rc = keeper_ping(w->k, w->now, 100 + i, c->epoch, 0);
    HOLD(w, rc == 0 || rc == ERR_STALE);
    HOLD(w, rc == 0 || c->stale);
}

/* ---- what the keeper asks for ---- */

static bool counts(const world *w, const coordinator *c) {
    return c->seen && !c->stale && w->now - c->pinged_ms < SILENT_MS;
}

static void check_unload(world *w, const keeper_action *a) {
    HOLD(w, w->units[a->layer][a->unit] == RESIDENT);
    HOLD(w, w->given_up[a->layer][a->unit] != 0);
    for (uint32_t i = 0; i < COORDINATORS; i++) {
        const coordinator *c = &w->coordinators[i];
        HOLD(w, !counts(w, c) || c->epoch >= w->given_up[a->layer][a->unit]);
    }
    w->units[a->layer][a->unit] = UNLOADING;
}

static void check_load(world *w, const keeper_action *a) {
    uint64_t bytes = 0;
    HOLD(w, w->units[a->layer][a->unit] == ABSENT);
    HOLD(w, (plan[a->layer][a->unit] & 1) != 0);
    w->units[a->layer][a->unit] = LOADING;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++)
            bytes += w->units[l][u] != ABSENT ? UNIT_BYTES : 0;
    }
    HOLD(w, bytes <= ROOM_UNITS * UNIT_BYTES);
}

static bool all_resident(const world *w) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++) {
            if ((plan[l][u] & 1) != 0 && w->units[l][u] != RESIDENT) {
                return false;
            }
        }
    }
    return true;
}

static void check_report(world *w, const keeper_action *a) {
    HOLD(w, a->epoch <= epoch_pack(1, w->epoch));
    HOLD(w, (a->waiting == 0) == all_resident(w));
    if (a->epoch != epoch_pack(1, w->epoch)) return;
    HOLD(w, a->waiting == 0);
    HOLD(w, !w->reported);
    HOLD(w, a->digest ==
                rack_placement_digest(rack_view_placement(w->feed.view), 0));
    w->reported = true;
}

static void obey(world *w) {
    keeper_action a;
    for (int i = 0;; i++) {
        HOLD(w, i < 1000);
        keeper_next(w->k, w->now, &a);
        switch (a.kind) {
        case KEEPER_CUT:
            keeper_cut(w->k, w->now, 0, unit_bytes);
            break;
        case KEEPER_LOAD:
            check_load(w, &a);
            break;
        case KEEPER_UNLOAD:
            check_unload(w, &a);
            break;
        case KEEPER_REPORT:
            check_report(w, &a);
            break;
        case KEEPER_STALE:
        case KEEPER_UNSTALE:
            w->coordinators[a.peer - 100].stale = a.kind == KEEPER_STALE;
            break;
        case KEEPER_WAIT:
            HOLD(w, a.wake_ms > w->now);
            return;
        }
    }
}

static void compare(world *w) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++) {
            HOLD(w, keeper_holds(w->k, l, u) == (w->units[l][u] == RESIDENT));
        }
    }
    HOLD(w, keeper_version(w->k) >= w->version);
    w->version = keeper_version(w->k);
}

/* ---- one run ---- */

static void step(world *w) {
    w->now += draw(w, 10) == 0 ? draw(w, 6000) : draw(w, 300);
    if (draw(w, 12) == 0) new_placement(w);
    for (uint32_t i = 0; i < COORDINATORS; i++) {
        coordinator *c = &w->coordinators[i];
        if (draw(w, 40) == 0) c->running = !c->running;
        if (draw(w, 3) == 0) c->epoch = epoch_pack(1, w->epoch);
        if (c->running) ping(w, i);
    }
    if (draw(w, 2) == 0) finish_one(w, true);
    obey(w);
    compare(w);
}

/* Faults have stopped: everybody switches, everything is carried out. */
static void settle(world *w) {
    for (int i = 0; i < 400; i++) {
        w->now += 200;
        for (uint32_t c = 0; c < COORDINATORS; c++) {
            w->coordinators[c].epoch = epoch_pack(1, w->epoch);
            ping(w, c);
        }
        finish_one(w, false);
        obey(w);
        compare(w);
    }
    keeper_figures now;
    keeper_look(w->k, &now);
    HOLD(w, w->reported);
    HOLD(w, now.resident == now.assigned);
    HOLD(w, now.waiting == 0 && now.leaving == 0 && now.unloading == 0);
    HOLD(w, now.stale == 0);
}

static void run(uint64_t seed) {
    world w = {.seed = seed, .random = seed * 7919 + 1, .now = 1000000};
    const keeper_config c = {.name = "me",
                             .memory_bytes = ROOM_UNITS * UNIT_BYTES,
                             .max_loads = 1 + seed % 3,
                             .max_unloads = 1 + seed % 2,
                             .grace_ms = GRACE_MS,
                             .silent_ms = SILENT_MS};
    assert_int_equal(keeper_new(&w.k, &c), 0);
    rack_feed_open(&w.feed);
    memset(plan, 0, sizeof(plan));
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++) {
            plan[l][u] = 2;
            w.given_up[l][u] = 1;
        }
    }
    new_placement(&w);
    for (int i = 0; i < STEPS; i++)
        step(&w);
    settle(&w);
    keeper_free(w.k);
    rack_feed_close(&w.feed);
}

static void keeps_its_rules_whatever_happens(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        run(seed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_its_rules_whatever_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
