/* test_load_meter.c - what is new in a node's counters, and how fast it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "coordinator/load_meter.h"
#include "engine/err.h"

#define LAYERS 2
#define EXPERTS 4
#define UNITS (LAYERS * EXPERTS)
#define SECOND_MS 1000
/* What counts of one second are worth at its end. */
#define FADE ((1 - exp2(-0.2)) / (0.2 * M_LN2))

typedef struct {
    heat *heat;
    load_meter *meter;
    uint64_t now_ms;
    /* the next word: counters of all units, of which `held` are told */
    uint8_t held;
    uint32_t counters[UNITS];
    load_word word;
} rig;

static void open_rig(rig *r) {
    static const uint32_t units[LAYERS] = {EXPERTS, EXPERTS};
    *r = (rig){.now_ms = 10000, .held = 0xff};
    r->word.boot_id = 7;
    r->word.slices = 1;
    assert_int_equal(heat_new(&r->heat, LAYERS, units), 0);
    assert_int_equal(load_meter_new(&r->meter, LAYERS, EXPERTS), 0);
}

static void close_rig(rig *r) {
    load_meter_free(r->meter);
    heat_free(r->heat);
}

/* Say what stands in the rig, so much later. */
static int say(rig *r, uint64_t after_ms) {
    uint8_t told[1 + UNITS * sizeof(uint32_t)]; /* counters at an odd address */
    size_t n = 0;
    for (size_t i = 0; i < UNITS; i++) {
        if ((r->held >> i & 1) == 0) continue;
        memcpy(told + 1 + 4 * n++, &r->counters[i], sizeof(uint32_t));
    }
    r->now_ms += after_ms;
    heat_decay(r->heat, r->now_ms);
    r->word.held = &r->held;
    if (r->word.held_bytes == 0) r->word.held_bytes = 1;
    r->word.counters = told + 1;
    return load_meter_take(r->meter, r->now_ms, 1, &r->word, r->heat);
}

/* One more second in which a unit got so many pairs. */
static void compute(rig *r, uint32_t unit, uint32_t pairs) {
    r->counters[unit] += pairs;
    r->word.pairs += pairs;
    assert_int_equal(say(r, SECOND_MS), 0);
}

static double heat_of(const rig *r, uint32_t unit) {
    return heat_layer(r->heat, unit / EXPERTS)[unit % EXPERTS];
}

/* ---- what is new ---- */

static void counts_nothing_before_the_second_word(void **state) {
    (void)state;
    rig r;
    open_rig(&r);
    for (size_t i = 0; i < UNITS; i++)
        r.counters[i] = 1000000;
    r.word.pairs = 8000000;
    assert_int_equal(say(&r, 0), 0);
    assert_true(heat_total(r.heat, 0) == 0);
    assert_true(load_meter_layer(r.meter, 1) == 0);
    compute(&r, 5, 300);
    assert_float_equal(heat_of(&r, 5), 300 * FADE, 0.01);
    assert_float_equal(heat_total(r.heat, 1), 300 * FADE, 0.01);
    assert_float_equal(load_meter_layer(r.meter, 1), 300 * FADE, 0.01);
    assert_true(heat_total(r.heat, 0) == 0);
    close_rig(&r);
}

static void counts_across_the_end_of_32_bits(void **state) {
    (void)state;
    rig r;
    open_rig(&r);
    r.counters[2] = UINT32_MAX - 9;
    assert_int_equal(say(&r, 0), 0);
    compute(&r, 2, 30);
    assert_int_equal(r.counters[2], 20);
    assert_float_equal(heat_of(&r, 2), 30 * FADE, 0.01);
    close_rig(&r);
}

static void a_unit_that_is_new_counts_from_its_first_value(void **state) {
    (void)state;
    rig r;
    open_rig(&r);
    r.held = 0xfb; /* all but unit 2 */
    r.counters[2] = 5000;
    assert_int_equal(say(&r, 0), 0);
    compute(&r, 3, 10);
    r.held = 0xfd; /* 2 came, 1 went */
    compute(&r, 3, 10);
    assert_true(heat_of(&r, 2) == 0);
    assert_float_equal(heat_of(&r, 3), 10 * FADE * (1 + exp2(-0.2)), 0.01);
    compute(&r, 2, 40);
    assert_float_equal(heat_of(&r, 2), 40 * FADE, 0.01);
    close_rig(&r);
}

static void a_restarted_node_counts_anew(void **state) {
    (void)state;
    rig r;
    open_rig(&r);
    assert_int_equal(say(&r, 0), 0);
    compute(&r, 1, 100);
    double before = heat_of(&r, 1);
    memset(r.counters, 0, sizeof(r.counters));
    r.word.pairs = 0;
    r.word.boot_id = 8;
    assert_int_equal(say(&r, SECOND_MS), 0);
    assert_float_equal(heat_of(&r, 1), before * exp2(-0.2), 0.01);
    assert_true(load_meter_layer(r.meter, 0) == 0);
    compute(&r, 1, 50);
    assert_float_equal(load_meter_layer(r.meter, 0), 50 * FADE, 0.01);
    close_rig(&r);
}

static void totals_that_went_back_are_a_new_beginning(void **state) {
    (void)state;
    rig r;
    open_rig(&r);
    r.word.pairs = r.counters[0] = 500;
    assert_int_equal(say(&r, 0), 0);
    r.word.pairs = 20;
    r.counters[0] = 510;
    assert_int_equal(say(&r, SECOND_MS), 0);
    assert_true(heat_of(&r, 0) == 0);
    close_rig(&r);
}

/* ---- words that are not taken ---- */

static void a_word_of_another_shape_is_not_taken(void **state) {
    (void)state;
    rig r;
    open_rig(&r);
    assert_int_equal(say(&r, 0), 0);
    r.word.held_bytes = 2;
    assert_int_equal(say(&r, SECOND_MS), ERR_RANGE);
    r.word.held_bytes = 1;
    r.word.slices = 2;
    assert_int_equal(say(&r, SECOND_MS), ERR_RANGE);
    r.word.slices = 1;
    r.counters[0] = 90;
    assert_int_equal(say(&r, SECOND_MS), 0);
    assert_true(heat_of(&r, 0) > 0); /* the last word that was taken counts */
    close_rig(&r);
}

static void more_than_can_be_computed_is_not_counted(void **state) {
    (void)state;
    rig r;
    open_rig(&r);
    assert_int_equal(say(&r, 0), 0);
    compute(&r, 0, 100);
    double before = heat_of(&r, 0);
    for (size_t i = 0; i < UNITS; i++)
        r.counters[i] += 1000000000;
    assert_int_equal(say(&r, SECOND_MS), ERR_MALFORMED);
    assert_float_equal(heat_of(&r, 0), before * exp2(-0.2), 0.01);
    r.word.pairs = UINT64_MAX; /* the same of a total */
    assert_int_equal(say(&r, SECOND_MS), ERR_MALFORMED);
    close_rig(&r);
}

static void a_unit_beyond_its_layer_is_passed_over(void **state) {
    (void)state;
    rig r;
    static const uint32_t fewer[LAYERS] = {EXPERTS / 2, 0};
    open_rig(&r);
    heat_free(r.heat);
    assert_int_equal(heat_new(&r.heat, LAYERS, fewer), 0);
    assert_int_equal(say(&r, 0), 0);
    compute(&r, 3, 10);
    compute(&r, 6, 10);
    compute(&r, 1, 10);
    assert_float_equal(heat_total(r.heat, 0), 10 * FADE, 0.01);
    assert_true(load_meter_layer(r.meter, 1) == 0);
    close_rig(&r);
}

/* ---- of late ---- */

static void counts_of_a_long_silence_are_faded(void **state) {
    (void)state;
    rig often, seldom;
    open_rig(&often);
    open_rig(&seldom);
    assert_int_equal(say(&often, 0), 0);
    assert_int_equal(say(&seldom, 0), 0);
    for (int i = 0; i < 60; i++)
        compute(&often, 0, 100);
    seldom.counters[0] = 6000;
    seldom.word.pairs = 6000;
    assert_int_equal(say(&seldom, 60 * SECOND_MS), 0);
    assert_float_equal(heat_of(&often, 0), heat_of(&seldom, 0), 1);
    close_rig(&often);
    close_rig(&seldom);
}

static void tells_rates_of_late(void **state) {
    (void)state;
    rig r;
    load_figures f;
    open_rig(&r);
    assert_int_equal(say(&r, 0), 0);
    load_meter_look(r.meter, &f);
    assert_true(f.pairs_per_s == 0 && f.busy == 0 && f.speed[0] == 0);
    for (int i = 0; i < 20; i++) {
        r.word.busy_us += 250000;
        compute(&r, 0, 400);
    }
    load_meter_look(r.meter, &f);
    assert_float_equal(f.pairs_per_s, 400, 0.5);
    assert_float_equal(f.busy, 0.25, 0.001);
    for (int i = 0; i < 20; i++) /* and now it rests */
        compute(&r, 0, 0);
    load_meter_look(r.meter, &f);
    assert_true(f.pairs_per_s < 40);
    close_rig(&r);
}

/* ---- speed ---- */

/* A node of this speed, asked for runs of so many rows of units of 1 MB: a run
 * takes 100 us at speed 1, and this part of it more for each row. */
static load_figures measure(double speed, double pair_cost, double runs_per_s,
                            double rows) {
    rig r;
    load_figures f;
    open_rig(&r);
    assert_int_equal(say(&r, 0), 0);
    for (int i = 0; i < 30; i++) {
        r.word.runs += (uint64_t)runs_per_s;
        r.word.weight_bytes += (uint64_t)(runs_per_s * 1e6);
        double us = runs_per_s * 100 * (1 + rows * pair_cost) / speed;
        r.word.busy_us += (uint64_t)us;
        compute(&r, 0, (uint32_t)(runs_per_s * rows));
    }
    load_meter_look(r.meter, &f);
    close_rig(&r);
    return f;
}

/* Whatever a pair costs: of a small part of a reading's to all of it. */
static const double costs[] = {1.0 / 16, 1.0 / 6, 1.0 / 3, 1.0};

static void a_hot_node_is_as_fast_as_a_cold_one(void **state) {
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        load_figures cold = measure(1, costs[i], 1000, 1);
        load_figures hot = measure(1, costs[i], 400, 16);
        assert_float_equal(load_meter_speed(&hot, cold.speed), 1, 0.01);
        assert_float_equal(load_meter_speed(&cold, hot.speed), 1, 0.01);
    }
}

static void a_slow_node_is_slow_beside_equals(void **state) {
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        load_figures usual = measure(1, costs[i], 1000, 4);
        load_figures slow = measure(0.5, costs[i], 300, 4);
        load_figures fast = measure(2, costs[i], 2000, 4);
        assert_float_equal(load_meter_speed(&slow, usual.speed), 0.5, 0.01);
        assert_float_equal(load_meter_speed(&fast, usual.speed), 2, 0.02);
    }
}

static void a_much_slower_node_is_seen_however_it_is_used(void **state) {
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        load_figures usual = measure(1, costs[i], 1000, 4);
        load_figures hot = measure(0.25, costs[i], 100, 8);
        load_figures cold = measure(0.25, costs[i], 300, 2);
        assert_true(load_meter_speed(&hot, usual.speed) < 0.5);
        assert_true(load_meter_speed(&cold, usual.speed) < 0.5);
    }
}

static void a_hiccup_of_a_few_seconds_is_no_slowness(void **state) {
    (void)state;
    rig r;
    load_figures f, usual = measure(1, 1, 1000, 4);
    open_rig(&r);
    assert_int_equal(say(&r, 0), 0);
    for (int i = 0; i < 120; i++) {
        double speed = i >= 115 ? 0.4 : 1;
        r.word.runs += 1000;
        r.word.weight_bytes += 1000000000;
        r.word.busy_us += (uint64_t)(500000 / speed);
        compute(&r, 0, 4000);
    }
    load_meter_look(r.meter, &f);
    assert_true(load_meter_speed(&f, usual.speed) > 0.8);
    close_rig(&r);
}

static void too_little_work_tells_no_speed(void **state) {
    (void)state;
    load_figures usual = measure(1, 1, 1000, 1);
    load_figures little = measure(1, 1, 100, 1); /* 20 ms of a second */
    load_figures none = measure(1, 1, 0, 0);
    assert_true(load_meter_speed(&little, usual.speed) == 0);
    assert_true(load_meter_speed(&none, usual.speed) == 0);
    assert_true(load_meter_speed(&usual, none.speed) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_nothing_before_the_second_word),
        cmocka_unit_test(counts_across_the_end_of_32_bits),
        cmocka_unit_test(a_unit_that_is_new_counts_from_its_first_value),
        cmocka_unit_test(a_restarted_node_counts_anew),
        cmocka_unit_test(totals_that_went_back_are_a_new_beginning),
        cmocka_unit_test(a_word_of_another_shape_is_not_taken),
        cmocka_unit_test(more_than_can_be_computed_is_not_counted),
        cmocka_unit_test(a_unit_beyond_its_layer_is_passed_over),
        cmocka_unit_test(counts_of_a_long_silence_are_faded),
        cmocka_unit_test(tells_rates_of_late),
        cmocka_unit_test(a_hot_node_is_as_fast_as_a_cold_one),
        cmocka_unit_test(a_slow_node_is_slow_beside_equals),
        cmocka_unit_test(a_much_slower_node_is_seen_however_it_is_used),
        cmocka_unit_test(a_hiccup_of_a_few_seconds_is_no_slowness),
        cmocka_unit_test(too_little_work_tells_no_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
