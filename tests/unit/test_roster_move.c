/* test_roster_move.c - libroster among several scripted coordinators, of which
 * some go, hang, refuse or are unfit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "engine/err.h"
#include "tests/unit/stage_rig.h"

/* ---- a generation that is taken over ---- */

static void tell_two_and_go(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p);
    peer_token(p, 0, 2, "a");
    peer_token(p, 1, 4, "b");
    go(p);
}

/* Accept a resume after tokens 2 and 4. */
static bool accept_resume(peer *p) {
    static const uint32_t all[] = {1, 5, 3, 2, 4};
    if (!peer_take(p, MESSAGE_GENERATE)) return false;
    if (p->m.generate.text.len != 0 || p->m.generate.tokens.count != 5 ||
        memcmp(p->m.generate.tokens.items, all, sizeof(all)) != 0 ||
        p->m.generate.resumed_tokens != 2 ||
        p->m.generate.delivered_bytes != 2 ||
        p->m.generate.sampling.seed != 77 || !p->m.generate.sampling.has_seed ||
        !p->m.generate.ignore_end)
        peer_fail(p, "the resume is not what was accepted and told");
    message m = peer_answer(p, MESSAGE_ACCEPTED);
    m.accepted.sampling.seed = 77;
    m.accepted.prompt_tokens.items = all;
    m.accepted.prompt_tokens.count = 5;
    peer_send(p, &m);
    return true;
}

static void take_over(peer *p) {
    peer_welcome(p);
    if (!accept_resume(p)) return;
    peer_token(p, 2, 6, "c");
    peer_finish(p, FINISH_END, "!");
}

static int tell(stage *s, roster_generation **g) {
    roster_request q = ask_for("Once");
    q.ignore_end = 1;
    return roster_generate(s->client, &q, NULL, NULL, g);
}

static void check_story(const roster_generation *g, uint32_t moves) {
    static const uint32_t ids[] = {2, 4, 6};
    size_t n;
    assert_string_equal(roster_generation_text(g, NULL), "abc!");
    assert_memory_equal(roster_generation_tokens(g, &n), ids, sizeof(ids));
    assert_int_equal(n, 3);
    roster_generation_prompt(g, &n);
    assert_int_equal(n, 3);
    assert_int_equal(roster_generation_seed(g), 77);
    assert_int_equal(roster_generation_moves(g), moves);
    roster_stats figures;
    roster_stats_init(&figures);
    assert_int_equal(roster_generation_stats(g, &figures), 0);
    assert_int_equal(figures.moves, moves);
}

static void a_lost_coordinators_text_goes_on_elsewhere(void **state) {
    static const part parts[] = {{ONE, tell_two_and_go}, {TWO, take_over}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    int fd = roster_poll_fd(s.client);
    assert_int_equal(tell(&s, &g), 0);
    check_story(g, 1);
    assert_string_equal(roster_client_endpoint(s.client), TWO);
    assert_string_equal(roster_client_model(s.client), "toy");
    assert_int_equal(roster_poll_fd(s.client), fd);
    close_stage(&s);
}

static void a_poll_loop_sees_the_move_through(void **state) {
    static const part parts[] = {{ONE, tell_two_and_go}, {TWO, take_over}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    roster_request q = ask_for("Once");
    q.ignore_end = 1;
    assert_int_equal(roster_submit(s.client, &q, NULL, NULL, NULL, &g), 0);
    struct pollfd fd = {.fd = roster_poll_fd(s.client), .events = POLLIN};
    while (roster_generation_result(g) == -EINPROGRESS) {
        assert_true(poll(&fd, 1, roster_poll_timeout(s.client)) >= 0);
        assert_true(roster_process(s.client, 0) >= 0);
    }
    check_story(g, 1);
    close_stage(&s);
}

static void name_the_other_and_go(peer *p) {
    static const message_member list[] = {
        {.name = "one", .endpoint = ONE, .http = ""},
        {.name = "two", .endpoint = TWO, .http = ""},
    };
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p);
    peer_token(p, 0, 2, "a");
    message m = peer_answer(p, MESSAGE_MEMBERS);
    m.members.items = list;
    m.members.count = 2;
    peer_send(p, &m);
    peer_token(p, 1, 4, "b");
    go(p);
}

static void learns_of_others_from_the_first(void **state) {
    static const part parts[] = {{ONE, name_the_other_and_go},
                                 {TWO, take_over}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE, parts, 2);
    assert_int_equal(tell(&s, &g), 0);
    check_story(g, 1);
    close_stage(&s);
}

/* Its system still takes what is sent, but it says no more. */
static void tell_two_and_hang(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p);
    peer_token(p, 0, 2, "a");
    peer_token(p, 1, 4, "b");
}

static void a_coordinator_that_hangs_is_left(void **state) {
    static const part parts[] = {{ONE, tell_two_and_hang}, {TWO, take_over}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    assert_int_equal(tell(&s, &g), 0);
    check_story(g, 1);
    close_stage(&s);
}

static void tell_two_and_restart(peer *p) {
    tell_two_and_hang(p);
    p->boot_id = 4712;
    peer_error(p, ERR_WRONG_BOOT, "who are you?");
}

static void the_only_one_goes_on_when_it_was_restarted(void **state) {
    static const part parts[] = {{ONE, tell_two_and_restart}, {ONE, take_over}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE, parts, 2);
    assert_int_equal(tell(&s, &g), 0);
    check_story(g, 1);
    close_stage(&s);
}

static void accept_and_go(peer *p) {
    peer_welcome(p);
    if (accept_resume(p)) go(p);
}

static void a_second_loss_is_survived_as_well(void **state) {
    static const part parts[] = {
        {ONE, tell_two_and_go}, {TWO, accept_and_go}, {ONE, take_over}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 3);
    assert_int_equal(tell(&s, &g), 0);
    check_story(g, 2);
    close_stage(&s);
}

static void take_and_go(peer *p) {
    peer_welcome(p);
    if (peer_take(p, MESSAGE_GENERATE)) go(p);
}

static void tell_all(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    if (p->m.generate.text.len != 4 || p->m.generate.resumed_tokens != 0)
        peer_fail(p, "the request was not sent as it was");
    peer_accept(p);
    peer_token(p, 0, 2, "a");
    peer_token(p, 1, 4, "b");
    peer_token(p, 2, 6, "c");
    peer_finish(p, FINISH_END, "!");
}

static void what_was_not_accepted_is_asked_anew(void **state) {
    static const part parts[] = {{ONE, take_and_go}, {TWO, tell_all}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    assert_int_equal(tell(&s, &g), 0);
    check_story(g, 1);
    close_stage(&s);
}

static void accept_another(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p); /* the prompt without what followed */
    peer_take(p, MESSAGE_CANCEL);
}

static void a_resume_that_is_taken_as_another_request_fails(void **state) {
    static const part parts[] = {{ONE, tell_two_and_go}, {TWO, accept_another}};
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    assert_int_equal(tell(&s, NULL), ROSTER_ERR_MALFORMED);
    close_stage(&s);
}

/* ---- leaving coordinators ---- */

static void refuse_as_leaving(peer *p) {
    peer_welcome(p);
    if (peer_take(p, MESSAGE_GENERATE))
        peer_error(p, ERR_CLOSED, "the coordinator is ending");
}

static void a_refusal_for_leaving_leads_elsewhere(void **state) {
    static const part parts[] = {{ONE, refuse_as_leaving}, {TWO, tell_all}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    assert_int_equal(tell(&s, &g), 0);
    check_story(g, 1);
    close_stage(&s);
}

static void two_that_refuse_in_turn_end_at_the_deadline(void **state) {
    static const part parts[] = {{ONE, refuse_as_leaving},
                                 {TWO, refuse_as_leaving},
                                 {ONE, refuse_as_leaving}};
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 3); /* and then nobody answers */
    roster_request q = ask_for("Once");
    q.timeout_ms = 1200; /* less than six pings */
    assert_int_equal(roster_generate(s.client, &q, NULL, NULL, NULL),
                     ROSTER_ERR_CLOSED);
    const char *why = roster_client_error(s.client);
    assert_non_null(strstr(why, "the coordinator is ending"));
    assert_non_null(strstr(why, TWO));
    close_stage(&s);
}

static void be_the_first_again(peer *p) {
    p->boot_id = 100;
    peer_welcome(p);
}

static void who_leaves_is_not_turned_to_under_another_name(void **state) {
    static const part parts[] = {{ONE, refuse_as_leaving},
                                 {TWO, be_the_first_again}};
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    assert_int_equal(tell(&s, NULL), ROSTER_ERR_CLOSED);
    assert_non_null(strstr(roster_client_error(s.client), TWO " is the same"));
    close_stage(&s);
}

/* Serves the first request to its end, and takes no second one. */
static void refuse_the_second(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    uint64_t first = p->m.request_id;
    peer_accept(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_error(p, ERR_CLOSED, "drained");
    p->m.request_id = first;
    peer_token(p, 0, 2, "a");
    /* The one who takes over is looked for in vain meanwhile. */
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_error(p, ERR_CLOSED, "drained");
    p->m.request_id = first;
    peer_finish(p, FINISH_END, "");
}

static void what_runs_stays_when_nobody_takes_over(void **state) {
    static const part parts[] = {{ONE, refuse_the_second}};
    roster_generation *first, *g;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 1);
    roster_request q = ask_for("Once");
    assert_int_equal(roster_submit(s.client, &q, NULL, NULL, NULL, &first), 0);
    q.timeout_ms = 1500;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(roster_generate(s.client, &q, NULL, NULL, &g),
                         ROSTER_ERR_CLOSED);
        assert_non_null(strstr(roster_generation_error(g), "drained"));
        assert_non_null(strstr(roster_generation_error(g), TWO));
    }
    while (roster_generation_result(first) == -EINPROGRESS)
        assert_true(roster_process(s.client, 100) >= 0);
    assert_int_equal(roster_generation_result(first), 0);
    assert_int_equal(roster_generation_moves(first), 0);
    assert_string_equal(roster_generation_text(first, NULL), "a");
    close_stage(&s);
}

/* ---- nobody who could ---- */

static void welcome_as(peer *p, uint8_t print, const char *kv) {
    if (!peer_take(p, MESSAGE_HELLO)) return;
    message m = peer_answer(p, MESSAGE_WELCOME);
    m.welcome.role = ROLE_COORDINATOR;
    m.welcome.model = "other";
    m.has_fingerprint = print != 0;
    memset(m.fingerprint, print, sizeof(m.fingerprint));
    m.welcome.has_profile = kv != NULL;
    m.welcome.profile = (profile){1, "a8", "f32", kv, "absorbed", "Zen"};
    m.welcome.n_vocab = PEER_VOCAB;
    m.welcome.n_context = 64;
    peer_send(p, &m);
}

static void welcome_with_another_model(peer *p) {
    welcome_as(p, 7, NULL);
}

static void another_model_does_not_take_over(void **state) {
    static const part parts[] = {{ONE, tell_two_and_go},
                                 {TWO, welcome_with_another_model}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    assert_int_equal(tell(&s, &g), ROSTER_ERR_WRONG_MODEL);
    assert_non_null(strstr(roster_generation_error(g), TWO " serves another"));
    assert_non_null(strstr(roster_generation_error(g), ONE " was lost"));
    assert_string_equal(roster_generation_text(g, NULL), "ab");
    close_stage(&s);
}

static void welcome_with_another_profile(peer *p) {
    welcome_as(p, 0, "f32");
}

static void another_profile_does_not_take_over(void **state) {
    static const part parts[] = {{ONE, tell_two_and_go},
                                 {TWO, welcome_with_another_profile}};
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    assert_int_equal(tell(&s, NULL), ROSTER_ERR_WRONG_PROFILE);
    assert_non_null(strstr(roster_client_error(s.client), "kv f32"));
    close_stage(&s);
}

static void all_gone_is_told_within_the_requests_time(void **state) {
    static const part parts[] = {{ONE, tell_two_and_go}, {ONE, tell_all}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 1);
    roster_request q = ask_for("Once");
    q.timeout_ms = 1500;
    uint64_t began = now_ms();
    assert_int_equal(roster_generate(s.client, &q, NULL, NULL, &g),
                     ROSTER_ERR_CLOSED);
    assert_true(now_ms() - began < PEER_WAIT_MS);
    const char *why = roster_generation_error(g);
    assert_non_null(strstr(why, "was lost"));
    assert_non_null(strstr(why, TWO));
    assert_true(s.tries > 0);
    /* Later there is somebody again, and the same client finds them. */
    s.n_parts = 2;
    q.timeout_ms = PEER_WAIT_MS;
    assert_int_equal(roster_generate(s.client, &q, NULL, NULL, NULL), 0);
    close_stage(&s);
}

static void without_failover_a_loss_is_final(void **state) {
    static const part parts[] = {{ONE, tell_two_and_go}};
    char why[ROSTER_WHY_BYTES] = "";
    stage s = {.parts = parts, .n_parts = 1};
    (void)state;

    assert_int_equal(roster_config_create(&s.config), 0);
    set(s.config, "endpoint", ONE "," TWO);
    set(s.config, "failover", "off");
    assert_int_equal(client_create_with(&s.client, open_link, &s, s.config, why,
                                        sizeof(why)),
                     0);
    assert_int_equal(tell(&s, NULL), ROSTER_ERR_CLOSED);
    assert_int_equal(tell(&s, NULL), ROSTER_ERR_CLOSED);
    assert_int_equal(s.tries, 0);
    close_stage(&s);
}

/* ---- the first connection ---- */

static void the_next_of_a_list_is_taken_if_the_first_is_dead(void **state) {
    static const part parts[] = {{TWO, tell_all}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 1);
    assert_int_equal(tell(&s, &g), 0);
    check_story(g, 0);
    close_stage(&s);
}

static void a_list_of_the_dead_names_them(void **state) {
    char why[ROSTER_WHY_BYTES] = "";
    stage s = {.n_parts = 0};
    (void)state;

    assert_int_equal(roster_config_create(&s.config), 0);
    set(s.config, "endpoint", ONE "," TWO);
    set(s.config, "connect_timeout_ms", "700");
    assert_int_equal(client_create_with(&s.client, open_link, &s, s.config, why,
                                        sizeof(why)),
                     ROSTER_ERR_DEADLINE);
    assert_non_null(strstr(why, ONE));
    assert_non_null(strstr(why, TWO));
    close_stage(&s);
}

/* ---- other calls ---- */

static void send_rows(peer *p, uint32_t first, uint32_t n) {
    static const uint32_t layers[] = {0, 2};
    frames f;
    message m = peer_answer(p, MESSAGE_LOGITS);
    m.logits.first = first;
    m.logits.n_rows = n;
    m.logits.n_vocab = PEER_VOCAB;
    m.logits.moe_layers.items = layers;
    m.logits.moe_layers.count = 2;
    m.logits.k = 1;
    frames_init(&f);
    frames_add(&f, 0);
    float *logits = frames_add(&f, n * PEER_VOCAB * sizeof(float));
    uint32_t *experts = frames_add(&f, 2 * n * sizeof(uint32_t));
    float *weights = frames_add(&f, 2 * n * sizeof(float));
    for (uint32_t i = 0; i < n * PEER_VOCAB; i++)
        logits[i] = (float)(first * PEER_VOCAB + i);
    for (uint32_t l = 0; l < 2; l++) {
        for (uint32_t i = 0; i < n; i++) {
            experts[l * n + i] = 10 * l + first + i;
            weights[l * n + i] = (float)(10 * l + first + i) / 4;
        }
    }
    if (message_seal(&f, &m) < 0) peer_fail(p, "logits could not be sealed");
    peer_send_frames(p, &f);
}

static void send_one_row_and_go(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_EVAL)) return;
    send_rows(p, 0, 1);
    send_rows(p, 1, 1);
    go(p);
}

/* Rows 0 and 1 are known; the second message has one of them, too. */
static void send_rows_anew(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_EVAL)) return;
    if (p->m.eval.tokens.count != 4 || !p->m.eval.routing)
        peer_fail(p, "the request changed on its way to the second");
    send_rows(p, 0, 1);
    send_rows(p, 1, 3);
    peer_finish(p, FINISH_DONE, "");
}

static int check_rows(void *opaque, const roster_rows *rows) {
    uint32_t *n = opaque;
    assert_int_equal(rows->first, *n);
    assert_int_equal(rows->n_moe_layers, 2);
    for (uint32_t i = 0; i < rows->n_rows; i++) {
        uint32_t row = rows->first + i;
        assert_float_equal(rows->logits[i * PEER_VOCAB],
                           (float)(row * PEER_VOCAB), 0);
        for (uint32_t l = 0; l < 2; l++) {
            assert_int_equal(rows->experts[l * rows->n_rows + i], 10 * l + row);
            assert_float_equal(rows->weights[l * rows->n_rows + i],
                               (float)(10 * l + row) / 4, 0);
        }
    }
    *n += rows->n_rows;
    return 0;
}

static void an_evaluation_begins_anew_and_gives_each_row_once(void **state) {
    static const part parts[] = {{ONE, send_one_row_and_go},
                                 {TWO, send_rows_anew}};
    static const uint32_t tokens[] = {1, 2, 3, 4};
    uint32_t n = 0;
    roster_eval_request q;
    roster_stats figures;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    roster_eval_request_init(&q);
    q.tokens = tokens;
    q.n_tokens = 4;
    q.routing = 1;
    roster_stats_init(&figures);
    assert_int_equal(roster_eval(s.client, &q, check_rows, &n, &figures), 0);
    assert_int_equal(n, 4);
    assert_int_equal(figures.moves, 1);
    close_stage(&s);
}

static void welcome_and_go(peer *p) {
    peer_welcome(p);
    go(p);
}

static void tell_status(peer *p) {
    static const char json[] = "{\"model\":\"toy\"}";
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_STATUS_REQUEST)) return;
    message m = peer_answer(p, MESSAGE_STATUS);
    m.status.json.data = json;
    m.status.json.len = sizeof(json) - 1;
    peer_send(p, &m);
}

static void a_status_is_asked_of_whoever_is_there(void **state) {
    static const part parts[] = {{ONE, welcome_and_go}, {TWO, tell_status}};
    const char *json;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 2);
    wait_for(&s, 0);
    assert_int_equal(roster_status(s.client, &json), 0);
    assert_string_equal(json, "{\"model\":\"toy\"}");
    assert_string_equal(roster_client_endpoint(s.client), TWO);
    close_stage(&s);
}

static int stop_at_the_second(void *opaque, roster_generation *g,
                              const roster_token *t) {
    (void)opaque;
    (void)g;
    return t->index == 1;
}

static void what_is_being_cancelled_is_not_moved(void **state) {
    static const part parts[] = {{ONE, tell_two_and_go}};
    roster_generation *g = NULL;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 1);
    roster_request q = ask_for("Once");
    assert_int_equal(
        roster_generate(s.client, &q, stop_at_the_second, NULL, &g), 0);
    assert_int_equal(roster_generation_finish(g), ROSTER_FINISH_CANCELLED);
    assert_int_equal(roster_generation_moves(g), 0);
    close_stage(&s);
}

static void a_generation_without_a_coordinator_can_be_destroyed(void **state) {
    static const part parts[] = {{ONE, tell_two_and_go}};
    roster_generation *g;
    stage s;
    (void)state;

    open_stage(&s, ONE "," TWO, parts, 1);
    roster_request q = ask_for("Once");
    assert_int_equal(roster_submit(s.client, &q, NULL, NULL, NULL, &g), 0);
    while (s.tries == 0)
        assert_true(roster_process(s.client, 100) >= 0);
    assert_int_equal(roster_generation_result(g), -EINPROGRESS);
    assert_int_equal(roster_cancel(g), 0);
    assert_true(roster_process(s.client, 1000) >= 0);
    assert_int_equal(roster_generation_finish(g), ROSTER_FINISH_CANCELLED);
    roster_generation_destroy(&g);
    assert_int_equal(roster_submit(s.client, &q, NULL, NULL, NULL, &g), 0);
    roster_generation_destroy(&g);
    close_stage(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lost_coordinators_text_goes_on_elsewhere),
        cmocka_unit_test(a_poll_loop_sees_the_move_through),
        cmocka_unit_test(learns_of_others_from_the_first),
        cmocka_unit_test(a_coordinator_that_hangs_is_left),
        cmocka_unit_test(the_only_one_goes_on_when_it_was_restarted),
        cmocka_unit_test(a_second_loss_is_survived_as_well),
        cmocka_unit_test(what_was_not_accepted_is_asked_anew),
        cmocka_unit_test(a_resume_that_is_taken_as_another_request_fails),
        cmocka_unit_test(a_refusal_for_leaving_leads_elsewhere),
        cmocka_unit_test(two_that_refuse_in_turn_end_at_the_deadline),
        cmocka_unit_test(who_leaves_is_not_turned_to_under_another_name),
        cmocka_unit_test(what_runs_stays_when_nobody_takes_over),
        cmocka_unit_test(another_model_does_not_take_over),
        cmocka_unit_test(another_profile_does_not_take_over),
        cmocka_unit_test(all_gone_is_told_within_the_requests_time),
        cmocka_unit_test(without_failover_a_loss_is_final),
        cmocka_unit_test(the_next_of_a_list_is_taken_if_the_first_is_dead),
        cmocka_unit_test(a_list_of_the_dead_names_them),
        cmocka_unit_test(an_evaluation_begins_anew_and_gives_each_row_once),
        cmocka_unit_test(a_status_is_asked_of_whoever_is_there),
        cmocka_unit_test(what_is_being_cancelled_is_not_moved),
        cmocka_unit_test(a_generation_without_a_coordinator_can_be_destroyed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
