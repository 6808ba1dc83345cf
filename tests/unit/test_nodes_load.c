/* test_nodes_load.c - what a coordinator makes of the counters that nodes tell
 * it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "coordinator/nodes_internal.h"
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/nodes_rig.h"
#include "tests/support/over_tcp.h"
#include "tests/support/rack_feed.h"

#define BOOT NODES_RIG_BOOT
#define MOST_UNITS 64

/* A node's part: it comes up with r->held, and counts. */
typedef struct {
    nodes_rig *r;
    scripted_node *node;
    uint64_t boot;
    uint32_t counters[MOST_UNITS]; /* of each unit that is held */
    uint64_t pairs, busy_us;
    bool asked; /* a question was heard and waits for its answer */
} teller;

/* The next question: one that is not answered is long waited for. */
static void hear_question(teller *t) {
    if (!t->asked) nodes_rig_take(t->r, t->node, MESSAGE_LOAD_REQUEST);
    t->asked = true;
}

/* Who is asked is up. */
static void come_up(teller *t, const char *name) {
    nodes_rig_take(t->r, t->node, MESSAGE_HELLO);
    message m = nodes_rig_welcome(t->r);
    m.welcome.name = name;
    m.boot_id = t->boot;
    nodes_rig_send(t->node, &m);
    hear_question(t);
}

static uint32_t count_units(const teller *t) {
    return (uint32_t)holdings_count(&t->r->held);
}

static message load(const teller *t) {
    message m = {.kind = MESSAGE_LOAD,
                 .cluster = "test",
                 .boot_id = t->boot,
                 .request_id = t->node->m.request_id};
    m.load.holdings = t->r->held.bits;
    m.load.holdings_bytes = holdings_bytes(&t->r->held);
    m.load.slices = t->r->held.slices;
    m.load.pairs = t->pairs;
    m.load.runs = t->pairs;
    m.load.weight_bytes = t->pairs * 1000;
    m.load.busy_us = t->busy_us;
    return m;
}

static void send_load(teller *t, const message *m) {
    frames f;
    frames_init(&f);
    size_t bytes = count_units(t) * sizeof(t->counters[0]);
    assert_non_null(frames_add(&f, 0));
    void *payload = frames_add(&f, bytes);
    assert_non_null(payload);
    memcpy(payload, t->counters, bytes);
    assert_int_equal(message_seal(&f, m), 0);
    frames_copy_address(&f, &t->node->in);
    assert_int_equal(link_send(t->node->link, &f), 0);
    t->asked = false;
}

/* Answer the next question. */
static void tell(teller *t) {
    hear_question(t);
    assert_int_equal(t->node->m.to_boot_id, t->boot);
    message m = load(t);
    send_load(t, &m);
}

static void compute(teller *t, uint32_t unit, uint32_t pairs,
                    uint64_t busy_us) {
    t->counters[unit] += pairs;
    t->pairs += pairs;
    t->busy_us += busy_us;
}

static double total(const nodes_rig *r) {
    const heat *h = nodes_heat(r->nodes);
    return h != NULL ? heat_total(h, 0) : 0;
}

/* All of it was counted, and once; counts halve every few seconds, and a
 * computer may be slow. */
static void assert_counted(double counted, double all) {
    assert_true(counted > all / 16 && counted < all * 1.01);
}

/* Until what was told has been counted: the next question comes after that. */
static void wait_counted(teller *t) {
    hear_question(t);
}

static teller open_one(nodes_rig *r) {
    teller t = {.r = r, .node = &r->one, .boot = BOOT};
    assert_true(count_units(&t) <= MOST_UNITS);
    come_up(&t, "scripted");
    return t;
}

/* ---- one node ---- */

static void counts_what_is_new_between_two_answers(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    teller t = open_one(r);
    compute(&t, 1, 1000, 0); /* before we asked */
    tell(&t);
    compute(&t, 1, 300, 2000000);
    compute(&t, 2, 100, 0);
    tell(&t);
    wait_counted(&t);
    assert_counted(total(r), 400);
    assert_float_equal(heat_layer(nodes_heat(r->nodes), 0)[1] / total(r), 0.75,
                       0.01);
    assert_float_equal(nodes_speed(r->nodes, 0), 1, 0.001);
    assert_float_equal(nodes_measure_layer(r->nodes, 0), 1, 0.001);
    nodes_rig_close(r);
}

static void tells_the_load_in_the_status(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    teller t = open_one(r);
    tell(&t);
    compute(&t, 3, 75, 100000);
    compute(&t, 0, 25, 0);
    tell(&t);
    wait_counted(&t);
    json_t *all = nodes_rig_status(r, NULL);
    const json_t *own = json_array_get(json_object_get(all, "nodes"), 0);
    const json_t *layer = json_array_get(json_object_get(all, "layers"), 0);
    assert_true(json_real_value(json_object_get(own, "pairs_per_s")) > 0);
    assert_true(json_real_value(json_object_get(own, "busy")) > 0);
    assert_true(json_real_value(json_object_get(layer, "heat")) > 0);
    const json_t *hottest = json_object_get(layer, "hottest");
    assert_int_equal(json_array_size(hottest), 2);
    const json_t *first = json_array_get(hottest, 0);
    assert_int_equal(json_integer_value(json_array_get(first, 0)), 3);
    assert_float_equal(json_real_value(json_array_get(first, 1)), 0.75, 0.01);
    const json_t *balance = json_object_get(all, "balance");
    assert_float_equal(json_real_value(json_object_get(balance, "imbalance")),
                       1, 0.001);
    json_decref(all);
    nodes_rig_close(r);
}

static void an_idle_rack_has_no_imbalance(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    teller t = open_one(r);
    tell(&t);
    tell(&t);
    wait_counted(&t);
    json_t *all = nodes_rig_status(r, NULL);
    const json_t *balance = json_object_get(all, "balance");
    assert_true(json_is_null(json_object_get(balance, "imbalance")));
    assert_true(json_is_null(json_object_get(balance, "worst_layer")));
    json_decref(all);
    nodes_rig_close(r);
}

/* ---- answers that do not count ---- */

static void only_the_answer_to_the_question_counts(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    teller t = open_one(r);
    tell(&t);
    compute(&t, 1, 500, 0);
    hear_question(&t);
    message m = load(&t);
    m.request_id++;
    send_load(&t, &m);
    m = load(&t);
    m.boot_id++;
    send_load(&t, &m);
    nodes_rig_pong(r, &r->one, BOOT, 0);
    nodes_rig_pong(r, &r->one, BOOT, 0);
    assert_true(total(r) == 0);
    assert_true(nodes_rig_says(r, 0, "state", "up"));
    m = load(&t);
    m.request_id = r->nodes->all[0]->load_id;
    send_load(&t, &m); /* and it has waited for this one */
    wait_counted(&t);
    assert_counted(total(r), 500);
    nodes_rig_close(r);
}

static void nonsense_is_not_counted_and_the_node_stays(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    teller t = open_one(r);
    tell(&t);
    for (uint32_t i = 0; i < count_units(&t); i++)
        compute(&t, i, 3000000000u, 0);
    tell(&t);
    wait_counted(&t);
    assert_true(total(r) == 0);
    assert_true(nodes_rig_says(r, 0, "state", "up"));

    message m = load(&t); /* cut in another way, says this one */
    m.load.slices = 2;
    send_load(&t, &m);
    wait_counted(&t);
    assert_true(total(r) == 0);
    assert_true(nodes_rig_says(r, 0, "state", "up"));
    nodes_rig_close(r);
}

static void a_refusal_is_no_sign_of_bad_health(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    teller t = open_one(r);
    hear_question(&t);
    message m = {.kind = MESSAGE_ERROR,
                 .cluster = "test",
                 .boot_id = BOOT,
                 .request_id = r->one.m.request_id};
    m.error.code = ERR_MALFORMED;
    m.error.text = "a load request has no place here";
    nodes_rig_send(&r->one, &m);
    t.asked = false;
    hear_question(&t);
    assert_true(nodes_rig_says(r, 0, "state", "up"));
    assert_true(nodes_rig_says(r, 0, "why", ""));
    tell(&t);
    nodes_rig_close(r);
}

/* ---- a rack ---- */

typedef struct {
    nodes_rig *r;
    rack_feed feed;
    teller one, two;
} rack_rig;

static uint32_t on_both_or_first(uint32_t layer, uint32_t unit) {
    return layer == 0 && unit == 0 ? 1 : 3;
}

static void feed_placement(rack_rig *a) {
    static const char *const names[] = {"one", "two"};
    const model_config *m = &a->r->model->config;
    rack_feed_plan p = {.epoch = 1,
                        .n_layers = m->n_layers,
                        .n_experts = m->n_experts,
                        .max_slices = 1,
                        .slices = a->r->cut.slices,
                        .nodes = names,
                        .n_nodes = 2,
                        .on = on_both_or_first};
    rack_feed_placement(&a->feed, &p);
}

static void take_up(rack_rig *a) {
    rack_feed_settle(&a->feed);
    assert_int_equal(
        nodes_set(a->r->nodes, a->feed.view, rack_view_placement(a->feed.view)),
        0);
}

static void open_rack(rack_rig *a) {
    a->r = nodes_rig_open_registered(1);
    rack_feed_open(&a->feed);
    a->one = (teller){.r = a->r, .node = &a->r->one, .boot = BOOT};
    a->two = (teller){.r = a->r, .node = &a->r->two, .boot = BOOT + 1};
    rack_feed_node(&a->feed, "one", BOOT, link_endpoint(a->r->one.link));
    rack_feed_node(&a->feed, "two", BOOT + 1, link_endpoint(a->r->two.link));
    feed_placement(a);
    take_up(a);
    come_up(&a->one, "one");
    come_up(&a->two, "two");
}

static void close_rack(rack_rig *a) {
    rack_feed_close(&a->feed);
    nodes_rig_close(a->r);
}

/* Both were asked in the same round. */
static void tell_both(rack_rig *a) {
    tell(&a->one);
    tell(&a->two);
}

static void unevenness_is_the_most_by_the_mean(void **state) {
    (void)state;
    rack_rig a;
    nodes_evenness e;
    open_rack(&a);
    tell_both(&a);
    compute(&a.one, 0, 3000, 6000000);
    compute(&a.two, 0, 1000, 4000000);
    tell_both(&a);
    wait_counted(&a.one);
    wait_counted(&a.two);
    nodes_measure(a.r->nodes, &e);
    assert_float_equal(e.imbalance, 1.5, 0.02);
    assert_float_equal(e.worst, 1.5, 0.02);
    assert_int_equal(e.worst_layer, 0);
    /* the same work for a pair, and twice the time for it */
    assert_float_equal(nodes_speed(a.r->nodes, 0) / nodes_speed(a.r->nodes, 1),
                       2, 0.01);

    rack_feed_drain(&a.feed, "two");
    take_up(&a);
    nodes_measure(a.r->nodes, &e);
    assert_float_equal(e.imbalance, 1, 0.001); /* it is not to do its share */
    close_rack(&a);
}

static void moves_are_what_the_placement_and_the_nodes_differ_in(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a);
    const model_config *m = &a.r->model->config;
    nodes_moves moves;
    uint64_t unit_bytes[8] = {10, 1000};
    assert_true(m->n_layers == 2);
    nodes_count_moves(a.r->nodes, unit_bytes, &moves);
    /* Both hold the first layer; both are to hold the second; two is to give up
     * a unit. */
    assert_int_equal(moves.to_load, 2 * m->n_experts);
    assert_int_equal(moves.to_drop, 1);
    assert_int_equal(moves.bytes_left, 2 * m->n_experts * 1000);
    json_t *all = nodes_rig_status(a.r, a.feed.view);
    const json_t *two = json_array_get(json_object_get(all, "nodes"), 1);
    const json_t *own = json_object_get(two, "moves");
    assert_int_equal(json_integer_value(json_object_get(own, "loading")),
                     m->n_experts);
    assert_int_equal(json_integer_value(json_object_get(own, "leaving")), 1);
    json_decref(all);
    close_rack(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_what_is_new_between_two_answers),
        cmocka_unit_test(tells_the_load_in_the_status),
        cmocka_unit_test(an_idle_rack_has_no_imbalance),
        cmocka_unit_test(only_the_answer_to_the_question_counts),
        cmocka_unit_test(nonsense_is_not_counted_and_the_node_stays),
        cmocka_unit_test(a_refusal_is_no_sign_of_bad_health),
        over_tcp(unevenness_is_the_most_by_the_mean),
        over_tcp(moves_are_what_the_placement_and_the_nodes_differ_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
