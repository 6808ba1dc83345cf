/* test_leader_moving.c - how a leader follows traffic: a hot set that moves
 * again and again, and one that stays, seen through counts that are chance in
 * part.
 *
 * The desk's rack with Zipf(1) traffic, counted as by nodes that are asked once
 * a second, and nodes that need a while to load.  A minute's hot set is one of
 * two.  What a node computes is known exactly here, so what is judged has no
 * noise of its own; what the leader sees has. */
#define LAYERS 4
#define EXPERTS_MOST 128
#define EXPERTS EXPERTS_MOST
#include "tests/unit/leader_desk.h"

#include <math.h>
#include "coordinator/leader_job.h"

#define NODES 4
#define USED 8
#define TICK_MS 100
#define MINUTE_MS 60000
#define LOADING_MS 700 /* from a placement to the last node's report */
#define SPARE 1.25
#define ALIKE 3 /* the variance of a count by its mean */

typedef struct {
    desk d;
    uint32_t n_experts;
    double tokens_per_s;
    double popular[2][LAYERS][EXPERTS_MOST]; /* share of tokens */
    bool held[NODES][LAYERS][EXPERTS_MOST];
    uint64_t touched_ms[NODES][LAYERS][EXPERTS_MOST];
    uint64_t report_ms; /* 0: all have reported */
    uint64_t counted_ms;
    uint32_t undone, changes;
} scene;

static const char *const names[NODES] = {"a", "b", "c", "d"};
static uint64_t seed;

static uint64_t next_random(void) {
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* About normal. */
static double noise(void) {
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += (double)(next_random() >> 11) / 9007199254740992.0;
    return sum;
}

/* ---- traffic ---- */

/* Zipf(1), but no token takes an expert twice: the hottest are in every one. */
static void choose_popular(scene *s, uint32_t set, uint32_t layer) {
    uint32_t n = s->n_experts, order[EXPERTS_MOST];
    double low = 0, high = 1000;
    for (uint32_t e = 0; e < n; e++)
        order[e] = e;
    for (uint32_t e = n; e > 1; e--) {
        uint32_t other = (uint32_t)(next_random() % e), was = order[e - 1];
        order[e - 1] = order[other];
        order[other] = was;
    }
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2, sum = 0;
        for (uint32_t r = 1; r <= n; r++)
            sum += fmin(1, middle / r);
        *(sum < USED ? &low : &high) = middle;
    }
    for (uint32_t r = 1; r <= n; r++)
        s->popular[set][layer][order[r - 1]] = fmin(1, low / r);
}

/* What nodes counted since the last time they were asked. */
static void count(scene *s, uint32_t set) {
    double seconds = (double)(s->d.now_ms - s->counted_ms) / 1000;
    s->counted_ms = s->d.now_ms;
    heat_decay(s->d.heat, s->d.now_ms);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t e = 0; e < s->n_experts; e++) {
            double mean = seconds * s->tokens_per_s * s->popular[set][l][e];
            double pairs = mean + sqrt(ALIKE * mean) * noise();
            heat_add(s->d.heat, l, e, pairs * 0.93); /* some of it faded */
        }
    }
}

/* ---- what is so ---- */

static void note_holders(scene *s, bool first) {
    const rack_placement *p = rack_view_placement(s->d.view);
    for (uint32_t i = 0; i < NODES; i++) {
        int32_t at = rack_placement_node(p, names[i]);
        for (uint32_t l = 0; l < LAYERS; l++) {
            for (uint32_t e = 0; e < s->n_experts; e++) {
                bool *was = &s->held[i][l][e];
                bool is = at >= 0 && rack_placement_assigns(p, at, l, e);
                uint64_t *touched = &s->touched_ms[i][l][e];
                if (is == *was) continue;
                *was = is;
                if (first) continue;
                if (*touched != 0 && s->d.now_ms < *touched + MINUTE_MS) {
                    s->undone++;
                }
                *touched = s->d.now_ms;
                s->changes++;
            }
        }
    }
}

/* Max / mean over nodes of all layers' pairs, holders sharing alike. */
static double imbalance(const scene *s, uint32_t set) {
    double pairs[NODES] = {0}, most = 0, sum = 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t e = 0; e < s->n_experts; e++) {
            uint32_t holders = 0;
            for (uint32_t i = 0; i < NODES; i++)
                holders += s->held[i][l][e];
            for (uint32_t i = 0; i < NODES; i++) {
                if (!s->held[i][l][e]) continue;
                pairs[i] += s->popular[set][l][e] / holders;
            }
        }
    }
    for (uint32_t i = 0; i < NODES; i++) {
        sum += pairs[i];
        if (pairs[i] > most) most = pairs[i];
    }
    return most * NODES / sum;
}

/* ---- time ---- */

static void act(scene *s) {
    desk *d = &s->d;
    if (s->report_ms != 0 && d->now_ms >= s->report_ms) {
        report_all(d);
        s->report_ms = 0;
        note_holders(s, false);
    }
    look(d);
    while (next(d) == LEADER_COMPACT)
        ;
    if (d->action.kind != LEADER_WRITE) return;
    bool adds = d->action.step->added > 0;
    commit(d, d->action.step);
    leader_wrote(d->machine, d->now_ms, LEADER_DONE);
    s->report_ms = d->now_ms + (adds ? LOADING_MS : TICK_MS);
    if (!adds) note_holders(s, false);
}

/* One turn; after how long the rack was even for good. */
static uint64_t run_turn(scene *s, uint32_t set, uint64_t length_ms) {
    uint64_t begun_ms = s->d.now_ms, even_ms = begun_ms;
    while (s->d.now_ms < begun_ms + length_ms) {
        s->d.now_ms += TICK_MS;
        if (s->d.now_ms >= s->counted_ms + 1000) count(s, set);
        act(s);
        if (imbalance(s, set) >= 1.2) even_ms = s->d.now_ms + TICK_MS;
    }
    return even_ms - begun_ms;
}

static void scene_init(scene *s, uint32_t n_experts, double tokens_per_s,
                       uint64_t number) {
    uint32_t units[LAYERS];
    desk *d = &s->d;
    *s = (scene){.n_experts = n_experts, .tokens_per_s = tokens_per_s};
    seed = number;
    desk_init(d, 1);
    d->model.n_experts = n_experts;
    for (uint32_t set = 0; set < 2; set++) {
        for (uint32_t l = 0; l < LAYERS; l++)
            choose_popular(s, set, l);
    }
    for (uint32_t l = 0; l < LAYERS; l++)
        units[l] = n_experts;
    assert_int_equal(heat_new(&d->heat, LAYERS, units), 0);
    for (uint32_t i = 0; i < NODES; i++) {
        node_record r = node_of(d, names[i]);
        r.memory_bytes = (uint64_t)(SPARE * LAYERS * n_experts * 100 / NODES);
        put_node(d, &r);
    }
    settle_view(d);
    s->counted_ms = d->now_ms;
    look(d);
    d->now_ms += 1000;
    act(s);
    note_holders(s, true);
}

static void follow(uint32_t n_experts, double tokens_per_s, uint64_t number) {
    scene s;
    uint64_t longest_ms = 0;
    scene_init(&s, n_experts, tokens_per_s, number);
    for (uint32_t turn = 0; turn < 6; turn++) {
        uint64_t ms = run_turn(&s, turn % 2, MINUTE_MS);
        if (ms > longest_ms) longest_ms = ms;
    }
    assert_int_equal(s.undone, 0);
    assert_true(longest_ms <= 20000);
    desk_fini(&s.d);
}

static void follows_a_hot_set_of_few_experts(void **state) {
    (void)state;
    for (uint64_t number = 1; number <= 6; number++)
        follow(32, number % 2 == 0 ? 300 : 1200, number);
}

static void follows_a_hot_set_of_many_experts(void **state) {
    (void)state;
    for (uint64_t number = 1; number <= 4; number++)
        follow(128, number % 2 == 0 ? 300 : 1200, number);
}

/* Nobody can follow that, and it is not tried by undoing what was done. */
static void undoes_nothing_if_the_hot_set_moves_too_fast(void **state) {
    scene s;
    (void)state;
    scene_init(&s, 32, 1000, 9);
    for (uint32_t turn = 0; turn < 40; turn++)
        (void)run_turn(&s, turn % 2, MINUTE_MS / 4);
    assert_true(s.changes > 20);
    assert_int_equal(s.undone, 0);
    desk_fini(&s.d);
}

/* The hot set stays: once the rack is even, next to nothing moves any more,
 * however little is known at any time. */
static void rests_under_steady_traffic(void **state) {
    static const double rates[] = {10, 30, 100, 300};
    (void)state;
    for (uint64_t number = 1; number <= 8; number++) {
        scene s;
        double rate = rates[number / 2 % 4];
        scene_init(&s, number % 2 == 0 ? 32 : 128, rate, number);
        for (uint32_t turn = 0; turn < 3; turn++)
            (void)run_turn(&s, 0, MINUTE_MS);
        s.changes = 0;
        for (uint32_t turn = 0; turn < 5; turn++)
            (void)run_turn(&s, 0, MINUTE_MS);
        assert_in_range(s.changes, 0, 24);
        if (rate > 20) assert_true(imbalance(&s, 0) < 1.1);
        desk_fini(&s.d);
    }
}

/* What they mean is the balancer's to know. */
static void tells_the_balancer_of_groups(void **state) {
    scene s;
    leader_job *job;
    (void)state;
    scene_init(&s, 32, 1000, 1);
    s.d.n_groups = 8;
    s.d.now_ms += 5000;
    count(&s, 0);
    report_all(&s.d);
    look(&s.d);
    for (;;) {
        assert_int_equal(leader_next(s.d.machine, s.d.now_ms, &s.d.action), 0);
        assert_int_equal(s.d.action.kind, LEADER_THINK);
        job = s.d.action.job;
        if (job->kind == LEADER_JOB_BALANCE) break;
        leader_job_run(job);
        assert_int_equal(leader_thought(s.d.machine, s.d.now_ms, job), 0);
    }
    assert_int_equal(job->question.n_groups, 8);
    leader_job_free(job);
    desk_fini(&s.d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_a_hot_set_of_few_experts),
        cmocka_unit_test(follows_a_hot_set_of_many_experts),
        cmocka_unit_test(undoes_nothing_if_the_hot_set_moves_too_fast),
        cmocka_unit_test(rests_under_steady_traffic),
        cmocka_unit_test(tells_the_balancer_of_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
