/* test_leader.c - when a leader writes, and when it does not. */
#include "tests/unit/leader_desk.h"

/* ---- first placement ---- */

static void waits_until_the_nodes_are_there(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    join(&d, "a");
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_int_equal(d.action.wake_ms, d.now_ms + 1000);
    d.now_ms += 900;
    join(&d, "b");
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_int_equal(d.action.wake_ms, d.now_ms + 1000);
    d.now_ms += 1000;
    assert_int_equal(next(&d), LEADER_WRITE);
    assert_int_equal(d.action.step->head.n_nodes, 2);
    desk_fini(&d);
}

static void does_not_wait_for_ever(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    uint64_t begin_ms = d.now_ms;
    for (uint32_t i = 0; i < 12; i++) { /* one comes and goes all the time */
        if (i % 2 == 0) join(&d, "a");
        if (i % 2 == 1) leave(&d, "a");
        join(&d, "b");
        look(&d);
        if (next(&d) == LEADER_WRITE) break;
        d.now_ms += 500;
    }
    assert_int_equal(d.action.kind, LEADER_WRITE);
    assert_int_equal(d.now_ms - begin_ms, 5000);
    desk_fini(&d);
}

static void writes_with_its_term_and_name(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    join(&d, "a");
    look(&d);
    d.now_ms += 1000;
    assert_int_equal(next(&d), LEADER_WRITE);
    assert_int_equal(d.action.term, TERM);
    assert_int_equal(d.action.expected_revision, 0);
    assert_string_equal(d.action.step->head.writer, "first");
    assert_int_equal(d.action.step->head.term, TERM);
    assert_int_equal(d.action.step->head.epoch, 1);
    assert_int_equal(d.action.step->head.incarnation, 1);
    desk_fini(&d);
}

/* ---- who may write ---- */

static void writes_nothing_without_a_term(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    d.term = 0;
    join(&d, "a");
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_true(d.action.wake_ms == UINT64_MAX);
    assert_string_equal(leader_why(d.machine), "");
    d.term = TERM;
    look(&d);
    assert_int_equal(next(&d), LEADER_WRITE);
    desk_fini(&d);
}

static void writes_nothing_while_etcd_is_away(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    join(&d, "a");
    look(&d);
    d.live_since_ms = 0;
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    d.live_since_ms = d.now_ms;
    look(&d);
    assert_int_equal(next(&d), LEADER_WRITE);
    desk_fini(&d);
}

static void sees_nothing_before_the_first_listing(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    leader_picture p = {.term = TERM, .live_since_ms = 1, .model = &d.model};
    assert_null(leader_input(d.machine, d.now_ms));
    assert_int_equal(leader_look(d.machine, d.now_ms, &p), 0);
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_null(leader_input(d.machine, d.now_ms));
    desk_fini(&d);
}

static void writes_nothing_over_a_placement_that_went_back(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    rack_view_clear(d.view); /* etcd was wiped */
    d.revision = 0;
    join(&d, "a");
    join(&d, "b");
    join(&d, "c");
    settle_view(&d);
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_non_null(strstr(leader_why(d.machine), "older"));
    desk_fini(&d);
}

/* This leader never saw the placement that was lost; the nodes did. */
static void writes_nothing_older_than_what_nodes_know(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    join(&d, "a");
    ready_record r = {.boot = 1000, .incarnation = 1, .epoch = 12};
    put_text(&d, "ready/a", ready_record_pack(&r));
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_non_null(strstr(leader_why(d.machine), "newer"));
    desk_fini(&d);
}

static void writes_nothing_over_what_it_cannot_read(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    char why[256];
    d.revision++;
    assert_true(rack_view_put(d.view, "placement/epoch", 15, "{", 1, d.revision,
                              d.revision, why, sizeof(why)) < 0);
    settle_view(&d);
    join(&d, "a");
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_non_null(strstr(leader_why(d.machine), "cannot be used"));
    desk_fini(&d);
}

static void writes_nothing_for_another_model(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    join(&d, "c");
    d.model.model[3]++;
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_non_null(strstr(leader_why(d.machine), "another model"));
    desk_fini(&d);
}

static void waits_after_a_plan_that_failed(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    d.slices[0] = 2; /* not what the placement says */
    join(&d, "c");
    look(&d);
    d.now_ms += 1000;
    assert_int_equal(leader_next(d.machine, d.now_ms, &d.action), 0);
    assert_int_equal(d.action.kind, LEADER_THINK);
    leader_job_run(d.action.job);
    assert_int_equal(leader_thought(d.machine, d.now_ms, d.action.job),
                     ERR_WRONG_MODEL);
    assert_int_equal(leader_next(d.machine, d.now_ms, &d.action), 0);
    assert_int_equal(d.action.kind, LEADER_WAIT);
    assert_true(d.action.wake_ms > d.now_ms && d.action.wake_ms < UINT64_MAX);
    assert_int_equal(next(&d), LEADER_WAIT);
    d.slices[0] = 1;
    d.now_ms = d.action.wake_ms;
    assert_int_equal(next(&d), LEADER_WRITE);
    desk_fini(&d);
}

/* ---- outcomes ---- */

static void has_one_write_at_a_time(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    join(&d, "c");
    look(&d);
    d.now_ms += 1000;
    assert_int_equal(next(&d), LEADER_WRITE);
    int64_t over = d.action.expected_revision;
    assert_int_equal(over, rack_view_epoch_revision(d.view));
    join(&d, "e");
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    leader_wrote(d.machine, d.now_ms, LEADER_DONE);
    /* the view does not show it yet */
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_in_range(d.action.wake_ms, d.now_ms + 1, d.now_ms + 10000);
    desk_fini(&d);
}

static void goes_on_from_a_view_that_shows_the_last_write(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    join(&d, "c");
    look(&d);
    d.now_ms += 1000;
    assert_int_equal(next(&d), LEADER_WRITE);
    commit(&d, d.action.step);
    leader_wrote(d.machine, d.now_ms, LEADER_DONE);
    look(&d);
    report_all(&d);
    look(&d);
    assert_int_equal(next(&d), LEADER_WRITE);
    assert_true(d.action.step->removed > 0);
    assert_int_equal(d.action.step->head.epoch, 3);
    desk_fini(&d);
}

static void waits_after_an_unknown_outcome(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    join(&d, "c");
    look(&d);
    d.now_ms += 1000;

    assert_int_equal(next(&d), LEADER_WRITE);
    leader_wrote(d.machine, d.now_ms, LEADER_UNKNOWN);
    look(&d);
    d.now_ms += 9999;
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms += 1; /* etcd does not keep a request that long */
    assert_int_equal(next(&d), LEADER_WRITE);

    leader_wrote(d.machine, d.now_ms, LEADER_UNKNOWN);
    d.now_ms += 10;
    d.live_since_ms = d.now_ms; /* listed anew */
    look(&d);
    d.now_ms += 1000;
    assert_int_equal(next(&d), LEADER_WRITE);

    commit(&d, d.action.step); /* it was written after all */
    leader_wrote(d.machine, d.now_ms, LEADER_UNKNOWN);
    report_all(&d);
    look(&d);
    assert_int_equal(next(&d), LEADER_WRITE);
    assert_int_equal(d.action.step->head.epoch, 3);
    desk_fini(&d);
}

/* Something has to be done, and etcd was restored after it was told. */
static void begin_to_write(desk *d) {
    begin(d, 1);
    join(d, "c");
    look(d);
    d->now_ms += 1000;
    assert_int_equal(next(d), LEADER_WRITE);
}

static void waits_until_it_sees_what_it_wrote(void **state) {
    desk d;
    (void)state;
    begin_to_write(&d);
    leader_wrote(d.machine, d.now_ms, LEADER_DONE);
    d.now_ms += 10;
    d.live_since_ms = d.now_ms; /* the watch goes on, and is late */
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_int_equal(d.action.wake_ms, d.now_ms + 3000);
    assert_string_equal(leader_why(d.machine), "");
    d.now_ms += 2999;
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    desk_fini(&d);
}

/* ---- what other coordinators know ---- */

static void say(desk *d, const char *name, uint64_t epoch, uint64_t placement) {
    char key[RECORD_KEY];
    coordinator_record r = {
        .boot = 7,
        .client = "tcp://127.0.0.1:7100",
        .protocol = 1,
        .incarnation = epoch_incarnation(epoch),
        .profile = {.version = 1, .activation = "a8", .rows = "f32"},
        .epoch = epoch_number(epoch),
        .placement = placement};
    snprintf(key, sizeof(key), "coordinators/%s", name);
    put_text(d, key, coordinator_record_pack(&r));
}

/* No node that is there knows it. */
static void writes_nothing_older_than_what_a_coordinator_knows(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    join(&d, "a");
    say(&d, "c2", epoch_pack(1, 12), 1);
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_non_null(strstr(leader_why(d.machine), "newer placement"));
    assert_true(leader_known_epoch(d.machine) == epoch_pack(1, 12));
    desk_fini(&d);
}

/* The store was restored from a snapshot: its records tell what the others knew
 * then.  They renew them as soon as they have seen it. */
static void
lets_others_speak_before_it_writes_into_an_etcd_that_is_back(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    say(&d, "c2", epoch_pack(1, 1), 0);
    join(&d, "c");
    look(&d);
    d.now_ms += 1000;
    d.live_since_ms = d.now_ms;
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_int_equal(d.action.wake_ms, d.now_ms + 1000);
    d.now_ms += 999;
    say(&d, "c2", epoch_pack(1, 2), 0);
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_non_null(strstr(leader_why(d.machine), "newer placement"));
    desk_fini(&d);
}

static void is_frozen_while_a_number_stands_for_two_placements(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    uint64_t sum = rack_placement_sum(rack_view_placement(d.view));
    say(&d, "c2", epoch_pack(1, 1), sum);
    look(&d);
    assert_string_equal(leader_why(d.machine), "");
    assert_false(leader_at_odds(d.machine));
    say(&d, "c2", epoch_pack(1, 1), sum + 1);
    look(&d);
    assert_non_null(strstr(leader_why(d.machine), "under the number"));
    assert_true(leader_at_odds(d.machine));
    say(&d, "c2", epoch_pack(1, 1), 0); /* it does not say */
    look(&d);
    assert_string_equal(leader_why(d.machine), "");
    report(&d, "a", 1000, 1); /* a node that was given something else */
    look(&d);
    assert_non_null(strstr(leader_why(d.machine), "under the number"));
    desk_fini(&d);
}

static void is_frozen_if_etcd_lost_what_it_wrote(void **state) {
    desk d;
    (void)state;
    begin_to_write(&d);
    leader_wrote(d.machine, d.now_ms, LEADER_DONE);
    d.now_ms += 10;
    d.live_since_ms = d.now_ms; /* restored from before that write */
    look(&d);
    d.now_ms += 3000;
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_non_null(strstr(leader_why(d.machine), "newer placement"));
    assert_true(leader_known_epoch(d.machine) == epoch_pack(1, 2));
    desk_fini(&d);
}

static void goes_on_when_a_late_view_shows_it(void **state) {
    desk d;
    (void)state;
    begin_to_write(&d);
    planner_step step = *d.action.step;
    commit(&d, &step);
    leader_wrote(d.machine, d.now_ms, LEADER_DONE);
    look(&d);
    report_all(&d);
    look(&d);
    assert_string_equal(leader_why(d.machine), "");
    assert_int_equal(next(&d), LEADER_WRITE);
    desk_fini(&d);
}

static void writes_nothing_below_what_nodes_answer(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    join(&d, "c");
    d.told_epoch = epoch_pack(1, 4);
    look(&d);
    d.now_ms += 1000;
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_string_equal(leader_why(d.machine), ""); /* the view may be late */
    d.now_ms += 2000;
    look(&d);
    assert_non_null(strstr(leader_why(d.machine), "newer placement"));
    assert_true(leader_known_epoch(d.machine) == epoch_pack(1, 4));

    d.told_epoch = 0; /* who knew it is gone */
    look(&d);
    assert_string_equal(leader_why(d.machine), "");
    assert_int_equal(next(&d), LEADER_WRITE);
    desk_fini(&d);
}

/* A store that is empty, and nodes that are in use. */
static void begins_no_rack_that_nodes_know(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    join(&d, "a");
    d.told_epoch = epoch_pack(2, 1);
    look(&d);
    d.now_ms += 5000;
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_non_null(strstr(leader_why(d.machine), "newer placement"));
    desk_fini(&d);
}

static void backs_off_after_a_refusal(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    join(&d, "c");
    look(&d);
    d.now_ms += 1000;
    uint64_t waited[6];
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(next(&d), LEADER_WRITE);
        leader_wrote(d.machine, d.now_ms, LEADER_NOT);
        assert_int_equal(next(&d), LEADER_WAIT);
        waited[i] = d.action.wake_ms - d.now_ms;
        d.now_ms = d.action.wake_ms;
    }
    assert_int_equal(waited[0], 500);
    assert_int_equal(waited[1], 1000);
    assert_int_equal(waited[5], 8000);
    desk_fini(&d);
}

/* ---- nodes ---- */

static void gives_a_node_time_to_come_back(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    d.now_ms += 100000;
    leave(&d, "b");
    look(&d);
    d.now_ms += 1000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_int_equal(d.action.wake_ms, d.now_ms + 14000);
    const planner_input *in = leader_input(d.machine, d.now_ms);
    assert_int_equal(in->n_nodes, 2);
    assert_true(in->nodes[1].missing && !in->nodes[1].live);
    assert_int_equal(in->nodes[1].memory_bytes, 100000); /* as it was */
    d.now_ms += 13999;
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms++;
    write_it(&d);
    assert_int_equal(units_of(&d, "a"), LAYERS * EXPERTS);
    desk_fini(&d);
}

static void counts_absence_from_its_own_beginning(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    leave(&d, "b");
    look(&d);
    d.now_ms += 10000;
    d.term = 0;
    look(&d);
    d.now_ms += 4000;
    d.term = TERM + 1;
    look(&d);
    d.now_ms += 14999;
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms++;
    assert_int_equal(next(&d), LEADER_WRITE);
    desk_fini(&d);
}

static void counts_absence_from_the_return_of_etcd(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    d.live_since_ms = 0;
    look(&d);
    d.now_ms += 70000;
    d.live_since_ms = d.now_ms;
    leave(&d, "b"); /* its lease ran out meanwhile */
    look(&d);
    d.now_ms += 14999;
    assert_int_equal(next(&d), LEADER_WAIT);
    join(&d, "b"); /* it registers again */
    report(&d, "b", 1000, 0);
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);
    desk_fini(&d);
}

static void ignores_nodes_that_cannot_work_with_us(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    node_record other = node_of(&d, "model");
    other.model[0]++;
    put_node(&d, &other);
    other = node_of(&d, "profile");
    snprintf(other.profile.activation, sizeof(other.profile.activation), "f32");
    put_node(&d, &other);
    other = node_of(&d, "version");
    other.profile.version++;
    put_node(&d, &other);
    look(&d);
    d.now_ms += 60000;
    assert_int_equal(next(&d), LEADER_WAIT);

    node_record fresh = node_of(&d, "fresh"); /* has not pulled it yet */
    fresh.has_model = false;
    memset(fresh.model, 0, sizeof(fresh.model));
    put_node(&d, &fresh);
    look(&d);
    d.now_ms += 1000;
    write_it(&d);
    assert_int_equal(units_of(&d, "fresh"), LAYERS * EXPERTS);
    assert_int_equal(units_of(&d, "model"), 0);
    desk_fini(&d);
}

static uint64_t believed(desk *d, const char *name) {
    look(d);
    const planner_input *in = leader_input(d->machine, d->now_ms);
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        if (strcmp(in->nodes[i].name, name) == 0) {
            return in->nodes[i].ready_epoch;
        }
    }
    fail_msg("no %s", name);
    return 0;
}

static void believes_a_report_only_of_this_process_and_set(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    assert_int_equal(believed(&d, "a"), epoch_pack(1, 1));
    report(&d, "a", 1001, 0); /* of an earlier process */
    assert_int_equal(believed(&d, "a"), 0);
    report(&d, "a", 1000, 1); /* of another set */
    assert_int_equal(believed(&d, "a"), 0);
    report(&d, "a", 1000, 0);
    assert_int_equal(believed(&d, "a"), epoch_pack(1, 1));
    desk_fini(&d);
}

static void empties_a_node_that_is_to_be_drained(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    drain_record r = {.by = "somebody", .at = "2026-01-01T00:00:00Z"};
    put_text(&d, "drain/a", drain_record_pack(&r));
    look(&d);
    write_it(&d);
    report_all(&d);
    look(&d);
    write_it(&d);
    assert_int_equal(units_of(&d, "a"), 0);
    assert_int_equal(units_of(&d, "b"), LAYERS * EXPERTS);
    report_all(&d);
    look(&d);
    assert_int_equal(next(&d), LEADER_WAIT);
    desk_fini(&d);
}

/* ---- compaction ---- */

static void compacts_what_is_five_minutes_old(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    int64_t old = 2; /* two nodes, when it first looked */
    d.now_ms += 299000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_int_equal(d.action.wake_ms, d.now_ms + 1000);
    d.now_ms += 1000;
    int64_t newest = d.revision;
    assert_int_equal(next(&d), LEADER_COMPACT);
    assert_int_equal(d.action.revision, old);
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms += 300000;
    assert_int_equal(next(&d), LEADER_COMPACT);
    assert_int_equal(d.action.revision, newest);

    d.term = 0;
    look(&d);
    d.now_ms += 900000;
    assert_int_equal(next(&d), LEADER_WAIT);
    desk_fini(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_until_the_nodes_are_there),
        cmocka_unit_test(does_not_wait_for_ever),
        cmocka_unit_test(writes_with_its_term_and_name),
        cmocka_unit_test(writes_nothing_without_a_term),
        cmocka_unit_test(writes_nothing_while_etcd_is_away),
        cmocka_unit_test(sees_nothing_before_the_first_listing),
        cmocka_unit_test(writes_nothing_over_a_placement_that_went_back),
        cmocka_unit_test(writes_nothing_older_than_what_nodes_know),
        cmocka_unit_test(writes_nothing_over_what_it_cannot_read),
        cmocka_unit_test(writes_nothing_for_another_model),
        cmocka_unit_test(waits_after_a_plan_that_failed),
        cmocka_unit_test(has_one_write_at_a_time),
        cmocka_unit_test(goes_on_from_a_view_that_shows_the_last_write),
        cmocka_unit_test(waits_after_an_unknown_outcome),
        cmocka_unit_test(waits_until_it_sees_what_it_wrote),
        cmocka_unit_test(writes_nothing_older_than_what_a_coordinator_knows),
        cmocka_unit_test(
            lets_others_speak_before_it_writes_into_an_etcd_that_is_back),
        cmocka_unit_test(is_frozen_while_a_number_stands_for_two_placements),
        cmocka_unit_test(is_frozen_if_etcd_lost_what_it_wrote),
        cmocka_unit_test(goes_on_when_a_late_view_shows_it),
        cmocka_unit_test(writes_nothing_below_what_nodes_answer),
        cmocka_unit_test(begins_no_rack_that_nodes_know),
        cmocka_unit_test(backs_off_after_a_refusal),
        cmocka_unit_test(gives_a_node_time_to_come_back),
        cmocka_unit_test(counts_absence_from_its_own_beginning),
        cmocka_unit_test(counts_absence_from_the_return_of_etcd),
        cmocka_unit_test(ignores_nodes_that_cannot_work_with_us),
        cmocka_unit_test(believes_a_report_only_of_this_process_and_set),
        cmocka_unit_test(empties_a_node_that_is_to_be_drained),
        cmocka_unit_test(compacts_what_is_five_minutes_old),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
