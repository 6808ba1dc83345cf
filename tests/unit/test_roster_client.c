/* test_roster_client.c - libroster against a scripted coordinator that does as
 * it should: what is delivered, and what can be asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "engine/err.h"
#include "tests/unit/client_rig.h"

/* ---- generating ---- */

static void tell_story(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    if (p->m.generate.text.len != 4 || p->m.generate.max_tokens != 9 ||
        p->m.generate.sampling.top_k != 5 || !p->m.generate.add_special)
        peer_fail(p, "the request arrived changed");
    peer_accept(p);
    peer_token(p, 0, 6, "upon ");
    peer_token(p, 1, 2, "a");
    peer_finish(p, FINISH_END, "\xc3");
}

typedef struct {
    char text[64];
    uint32_t last_id;
    int calls;
} heard;

static int listen_to(void *opaque, roster_generation *g,
                     const roster_token *t) {
    heard *h = opaque;
    size_t len = strlen(h->text);
    assert_non_null(g);
    memcpy(h->text + len, t->text, t->text_bytes);
    h->last_id = t->id;
    h->calls++;
    return 0;
}

static void delivers_text_ids_prompt_seed_and_figures(void **state) {
    rig r;
    heard h = {.calls = 0};
    roster_generation *g = NULL;
    (void)state;

    rig_open(&r, tell_story);
    assert_string_equal(roster_client_model(r.client), "toy");
    assert_int_equal(roster_client_n_vocab(r.client), PEER_VOCAB);
    assert_int_equal(roster_client_n_context(r.client), 64);

    roster_request q = ask_for("Once");
    q.max_tokens = 9;
    q.top_k = 5;
    q.add_special = 1;
    assert_int_equal(roster_generate(r.client, &q, listen_to, &h, &g), 0);
    assert_string_equal(h.text, "upon a\xc3");
    assert_int_equal(h.calls, 3);
    assert_int_equal(h.last_id, ROSTER_NO_TOKEN);

    size_t n;
    assert_string_equal(roster_generation_text(g, &n), "upon a\xc3");
    assert_int_equal(n, 7);
    const uint32_t *ids = roster_generation_tokens(g, &n);
    assert_int_equal(n, 2);
    assert_int_equal(ids[1], 2);
    const uint32_t *prompt = roster_generation_prompt(g, &n);
    assert_int_equal(n, 3);
    assert_int_equal(prompt[1], 5);
    assert_int_equal(roster_generation_seed(g), 77);
    assert_int_equal(roster_generation_finish(g), ROSTER_FINISH_END);

    roster_stats s;
    roster_stats_init(&s);
    assert_int_equal(roster_generation_stats(g, &s), 0);
    assert_int_equal(s.experts_stored, 16);
    assert_int_equal(s.n_shares, 2);
    assert_string_equal(s.shares[1].name, "local");
    assert_int_equal(s.shares[0].pairs, 30);
    roster_generation_destroy(&g);
    assert_null(g);
    rig_close(&r);
}

static void interleave(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    uint64_t first = p->m.request_id;
    peer_accept(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    uint64_t second = p->m.request_id;
    peer_accept(p);
    const uint64_t turn[] = {second, first, first, second};
    const char *const text[] = {"S", "f", "g", "T"};
    for (uint32_t i = 0; i < 4; i++) {
        p->m.request_id = turn[i];
        peer_token(p, i == 2 || i == 3, i, text[i]);
    }
    p->m.request_id = second;
    peer_finish(p, FINISH_LENGTH, "");
    p->m.request_id = first;
    peer_finish(p, FINISH_END, "");
}

static void count_end(void *opaque, roster_generation *g) {
    assert_int_equal(roster_generation_result(g), 0);
    ++*(int *)opaque;
}

static void keeps_two_generations_on_one_connection_apart(void **state) {
    rig r;
    roster_generation *a, *b;
    int ended = 0;
    (void)state;

    rig_open(&r, interleave);
    roster_request q = ask_for("x");
    assert_int_equal(roster_submit(r.client, &q, NULL, count_end, &ended, &a),
                     0);
    assert_int_equal(roster_submit(r.client, &q, NULL, count_end, &ended, &b),
                     0);
    assert_int_equal(roster_generation_result(a), -EINPROGRESS);
    while (ended < 2)
        assert_true(roster_process(r.client, 1000) >= 0);
    assert_string_equal(roster_generation_text(a, NULL), "fg");
    assert_string_equal(roster_generation_text(b, NULL), "ST");
    assert_int_equal(roster_generation_finish(b), ROSTER_FINISH_LENGTH);
    rig_close(&r); /* frees both */
}

static void a_poll_loop_misses_no_message(void **state) {
    rig r;
    roster_generation *g, *other;
    int ended = 0;
    (void)state;

    rig_open(&r, interleave);
    roster_request q = ask_for("x");
    assert_int_equal(roster_submit(r.client, &q, NULL, count_end, &ended, &g),
                     0);
    assert_int_equal(
        roster_submit(r.client, &q, NULL, count_end, &ended, &other), 0);
    while (ended < 2) {
        struct pollfd fd = {.fd = roster_poll_fd(r.client), .events = POLLIN};
        assert_true(poll(&fd, 1, roster_poll_timeout(r.client)) >= 0);
        assert_true(roster_process(r.client, 0) >= 0);
    }
    assert_int_equal(roster_poll_timeout(r.client), -1);
    rig_close(&r);
}

/* ---- cancelling ---- */

static void stop_when_told(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p);
    peer_token(p, 0, 1, "one");
    if (!peer_take(p, MESSAGE_CANCEL)) return;
    peer_token(p, 1, 1, "late");
    peer_finish(p, FINISH_CANCELLED, "");
}

static int stop_at_once(void *opaque, roster_generation *g,
                        const roster_token *t) {
    (void)g;
    (void)t;
    ++*(int *)opaque;
    return 1;
}

static void a_callback_can_cancel(void **state) {
    rig r;
    int calls = 0;
    roster_generation *g = NULL;
    (void)state;

    rig_open(&r, stop_when_told);
    assert_int_equal(generate(&r, stop_at_once, &calls, &g), 0);
    assert_int_equal(calls, 1);
    assert_int_equal(roster_generation_finish(g), ROSTER_FINISH_CANCELLED);
    assert_string_equal(roster_generation_text(g, NULL), "one");
    rig_close(&r);
}

static void ignore_cancel(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p);
    peer_token(p, 0, 1, "one");
    peer_take(p, MESSAGE_CANCEL);
}

static void an_unanswered_cancel_ends_after_the_grace(void **state) {
    rig r;
    int calls = 0;
    roster_generation *g = NULL;
    (void)state;

    rig_open(&r, ignore_cancel);
    assert_int_equal(generate(&r, stop_at_once, &calls, &g), 0);
    assert_int_equal(roster_generation_finish(g), ROSTER_FINISH_CANCELLED);
    rig_close(&r);
}

static int destroy_it(void *opaque, roster_generation *g,
                      const roster_token *t) {
    roster_generation *mine = g;
    roster_generation_destroy(&mine);
    ++*(int *)opaque;
    return t->index == 1000; /* the token is still on loan */
}

static void a_callback_can_destroy_its_generation(void **state) {
    rig r;
    int calls = 0;
    roster_generation *g = NULL;
    (void)state;

    rig_open(&r, ignore_cancel);
    roster_request q = ask_for("x");
    assert_int_equal(roster_submit(r.client, &q, destroy_it, NULL, &calls, &g),
                     0);
    while (calls == 0)
        assert_true(roster_process(r.client, 1000) >= 0);
    assert_int_equal(roster_poll_timeout(r.client) <= 0, true);
    rig_close(&r);
}

static int wait_inside(void *opaque, roster_generation *g,
                       const roster_token *t) {
    roster_client *c = opaque;
    roster_client *same = c;
    const char *json;
    (void)g;
    (void)t;

    assert_int_equal(roster_process(c, 0), ROSTER_ERR_USAGE);
    assert_int_equal(roster_status(c, &json), ROSTER_ERR_USAGE);
    roster_client_destroy(&same);
    assert_ptr_equal(same, c);
    return 1;
}

static void refuses_to_wait_inside_a_callback(void **state) {
    rig r;
    (void)state;

    rig_open(&r, stop_when_told);
    assert_int_equal(generate(&r, wait_inside, r.client, NULL), 0);
    rig_close(&r);
}

static void interrupt_later(peer *p) {
    peer_welcome(p);
    peer_take(p, MESSAGE_GENERATE);
    peer_take(p, MESSAGE_CANCEL);
}

static void an_interrupt_ends_a_wait(void **state) {
    rig r;
    char fd[16];
    (void)state;

    int event = eventfd(0, EFD_CLOEXEC);
    assert_true(event >= 0);
    snprintf(fd, sizeof(fd), "%d", event);
    rig_start(&r, interrupt_later);
    set(r.config, "interrupt_fd", fd);
    assert_int_equal(rig_connect(&r, NULL, 0), 0);
    assert_int_equal(eventfd_write(event, 1), 0);
    assert_int_equal(generate(&r, NULL, NULL, NULL), -EINTR);
    rig_close(&r);
    close(event);
}

/* ---- evaluating ---- */

static void send_rows(peer *p, uint32_t first, uint32_t n, bool routing,
                      bool flip) {
    static const uint32_t layers[] = {0, 2};
    frames f;
    message m = peer_answer(p, MESSAGE_LOGITS);
    m.logits.first = first;
    m.logits.n_rows = n;
    m.logits.n_vocab = PEER_VOCAB;
    frames_init(&f);
    frames_add(&f, 0);
    float *logits = frames_add(&f, n * PEER_VOCAB * sizeof(float));
    for (uint32_t i = 0; i < n * PEER_VOCAB; i++)
        logits[i] = (float)(first * 100 + i);
    if (routing) {
        m.logits.moe_layers.items = layers;
        m.logits.moe_layers.count = 2;
        m.logits.k = 1;
        uint32_t *experts = frames_add(&f, 2 * n * sizeof(uint32_t));
        float *weights = frames_add(&f, 2 * n * sizeof(float));
        for (uint32_t i = 0; i < 2 * n; i++) {
            experts[i] = first + i;
            weights[i] = 0.5f;
        }
    }
    if (message_seal(&f, &m) < 0) peer_fail(p, "logits could not be sealed");
    if (flip) ((uint8_t *)frames_data(&f, 1))[3] ^= 1;
    peer_send_frames(p, &f);
}

static void answer_eval(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_EVAL)) return;
    if (p->m.eval.tokens.count != 3 || !p->m.eval.routing ||
        p->m.eval.chunk != 2)
        peer_fail(p, "the request arrived changed");
    send_rows(p, 0, 2, true, false);
    send_rows(p, 2, 1, true, false);
    peer_finish(p, FINISH_DONE, "");
}

typedef struct {
    uint32_t rows;
    float sum;
    uint32_t last_expert;
} tally;

static int add_rows(void *opaque, const roster_rows *rows) {
    tally *t = opaque;
    assert_int_equal(rows->first, t->rows);
    t->rows += rows->n_rows;
    t->sum += rows->logits[0];
    if (rows->n_moe_layers > 0) {
        assert_int_equal(rows->moe_layers[1], 2);
        t->last_expert = rows->experts[rows->n_rows * rows->k];
        assert_float_equal(rows->weights[0], 0.5f, 0);
    }
    return 0;
}

static int evaluate(rig *r, bool routing, tally *t) {
    static const uint32_t tokens[] = {1, 2, 3};
    roster_eval_request q;
    roster_stats s;
    roster_eval_request_init(&q);
    roster_stats_init(&s);
    q.tokens = tokens;
    q.n_tokens = 3;
    q.chunk = 2;
    q.routing = routing;
    return roster_eval(r->client, &q, add_rows, t, &s);
}

static void an_evaluation_delivers_rows_and_routing(void **state) {
    rig r;
    tally t = {.rows = 0};
    (void)state;

    rig_open(&r, answer_eval);
    assert_int_equal(evaluate(&r, true, &t), 0);
    assert_int_equal(t.rows, 3);
    assert_float_equal(t.sum, 200.0f, 0);
    assert_int_equal(t.last_expert, 3);
    rig_close(&r);
}

static void end_early(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_EVAL)) return;
    send_rows(p, 0, 2, false, false);
    peer_finish(p, FINISH_DONE, "");
    peer_take(p, MESSAGE_CANCEL);
}

static void leave_a_gap(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_EVAL)) return;
    send_rows(p, 1, 2, false, false);
    peer_take(p, MESSAGE_CANCEL);
}

static void send_too_many(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_EVAL)) return;
    send_rows(p, 0, 4, false, false);
    peer_take(p, MESSAGE_CANCEL);
}

static void an_incomplete_evaluation_is_an_error(void **state) {
    static const peer_script scripts[] = {end_early, leave_a_gap,
                                          send_too_many};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        rig r;
        tally t = {.rows = 0};
        rig_open(&r, scripts[i]);
        assert_int_equal(evaluate(&r, false, &t), ROSTER_ERR_MALFORMED);
        rig_close(&r);
    }
}

static void flip_a_bit(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_EVAL)) return;
    send_rows(p, 0, 3, false, true);
    peer_take(p, MESSAGE_CANCEL);
}

static void a_flipped_payload_is_noticed(void **state) {
    rig r;
    tally t = {.rows = 0};
    (void)state;

    rig_open(&r, flip_a_bit);
    assert_int_equal(evaluate(&r, false, &t), ROSTER_ERR_CHECKSUM);
    assert_int_equal(t.rows, 0);
    rig_close(&r);
}

/* ---- status ---- */

static void tell_status(peer *p) {
    static const char json[] = "{\"model\":\"toy\"}";
    peer_welcome(p);
    for (int i = 0; i < 2; i++) {
        if (!peer_take(p, MESSAGE_STATUS_REQUEST)) return;
        message m = peer_answer(p, MESSAGE_STATUS);
        m.status.json.data = json;
        m.status.json.len = sizeof(json) - 1;
        peer_send(p, &m);
    }
}

static void status_is_the_coordinators_text(void **state) {
    rig r;
    const char *json;
    (void)state;

    rig_open(&r, tell_status);
    assert_int_equal(roster_status(r.client, &json), 0);
    assert_int_equal(roster_status(r.client, &json), 0);
    assert_string_equal(json, "{\"model\":\"toy\"}");
    rig_close(&r);
}

static void drain_twice(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_DRAIN)) return;
    if (strcmp(p->m.drain.name, "one") != 0 || p->m.drain.undo)
        peer_fail(p, "the first wish arrived changed");
    message done = peer_answer(p, MESSAGE_DONE);
    peer_send(p, &done);
    if (!peer_take(p, MESSAGE_DRAIN)) return;
    if (!p->m.drain.undo) peer_fail(p, "the second wish arrived changed");
    peer_error(p, ERR_NOT_LEADER, "etcd is away");
    if (!peer_take(p, MESSAGE_DRAIN)) return;
    message other = peer_answer(p, MESSAGE_PONG);
    other.kind = MESSAGE_FINISHED;
    peer_send(p, &other);
}

static void a_drain_is_recorded_or_refused(void **state) {
    rig r;
    (void)state;

    rig_open(&r, drain_twice);
    assert_int_equal(roster_drain(r.client, "one", 0), 0);
    assert_int_equal(roster_drain(r.client, "one", 1), ROSTER_ERR_NOT_LEADER);
    assert_non_null(strstr(roster_client_error(r.client), "etcd is away"));
    assert_int_equal(roster_drain(r.client, "x", 0), ROSTER_ERR_MALFORMED);
    assert_int_equal(roster_drain(r.client, "", 0), ROSTER_ERR_USAGE);
    assert_int_equal(roster_drain(r.client, NULL, 0), ROSTER_ERR_USAGE);
    rig_close(&r);
}

/* ---- wrong usage ---- */

static void requests_that_make_no_sense_are_not_sent(void **state) {
    rig r;
    struct {
        roster_request known;
        uint64_t unknown;
    } newer;
    (void)state;

    rig_open(&r, peer_welcome);
    roster_request q = ask_for("");
    assert_int_equal(roster_generate(r.client, &q, NULL, NULL, NULL),
                     ROSTER_ERR_USAGE);
    q = ask_for("x");
    q.size = 0;
    assert_int_equal(roster_generate(r.client, &q, NULL, NULL, NULL),
                     ROSTER_ERR_USAGE);
    q = ask_for("x");
    q.text_bytes = MESSAGE_TEXT_MAX + 1;
    assert_int_equal(roster_generate(r.client, &q, NULL, NULL, NULL),
                     ROSTER_ERR_TOO_LARGE);
    q = ask_for("x");
    q.temperature = -1;
    assert_int_equal(roster_generate(r.client, &q, NULL, NULL, NULL),
                     ROSTER_ERR_RANGE);
    memset(&newer, 0, sizeof(newer));
    newer.known = ask_for("x");
    newer.known.size = sizeof(newer);
    newer.unknown = 1;
    assert_int_equal(roster_generate(r.client, &newer.known, NULL, NULL, NULL),
                     ROSTER_ERR_UNSUPPORTED);
    rig_close(&r);
}

static void settings_are_checked(void **state) {
    roster_config *c = NULL;
    char why[ROSTER_WHY_BYTES] = "";
    char name[MESSAGE_NAME_MAX + 2];
    (void)state;

    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(roster_config_create(&c), 0);
    assert_int_equal(roster_config_set(c, "colour", "red", why, sizeof(why)),
                     ROSTER_ERR_USAGE);
    assert_non_null(strstr(why, "colour"));
    assert_int_equal(roster_config_set(c, "timeout_ms", "-1", NULL, 0),
                     ROSTER_ERR_USAGE);
    assert_int_equal(roster_config_set(c, "timeout_ms", "9x", NULL, 0),
                     ROSTER_ERR_USAGE);
    assert_int_equal(roster_config_set(c, "insecure", "maybe", NULL, 0),
                     ROSTER_ERR_USAGE);
    assert_int_equal(roster_config_set(c, "name", name, NULL, 0),
                     ROSTER_ERR_USAGE);
    set(c, "insecure", "yes");
    assert_true(c->insecure);
    assert_true(c->failover);
    set(c, "failover", "off");
    assert_false(c->failover);
    roster_config_destroy(&c);
    roster_config_destroy(&c);
    assert_null(c);
}

static void texts_exist_for_every_code(void **state) {
    (void)state;
    assert_string_equal(roster_strerror(ROSTER_ERR_DEADLINE),
                        err_text(ERR_DEADLINE));
    assert_non_null(roster_strerror(-123456));
    assert_string_equal(roster_version(), ROSTER_VERSION);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delivers_text_ids_prompt_seed_and_figures),
        cmocka_unit_test(keeps_two_generations_on_one_connection_apart),
        cmocka_unit_test(a_poll_loop_misses_no_message),
        cmocka_unit_test(a_callback_can_cancel),
        cmocka_unit_test(an_unanswered_cancel_ends_after_the_grace),
        cmocka_unit_test(a_callback_can_destroy_its_generation),
        cmocka_unit_test(refuses_to_wait_inside_a_callback),
        cmocka_unit_test(an_interrupt_ends_a_wait),
        cmocka_unit_test(an_evaluation_delivers_rows_and_routing),
        cmocka_unit_test(an_incomplete_evaluation_is_an_error),
        cmocka_unit_test(a_flipped_payload_is_noticed),
        cmocka_unit_test(status_is_the_coordinators_text),
        cmocka_unit_test(a_drain_is_recorded_or_refused),
        cmocka_unit_test(requests_that_make_no_sense_are_not_sent),
        cmocka_unit_test(settings_are_checked),
        cmocka_unit_test(texts_exist_for_every_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
