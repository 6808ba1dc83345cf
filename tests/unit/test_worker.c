/* test_worker.c - a node's worker over links in memory: the rows it answers
 * with and everything it refuses.  Limits and faults: test_worker_limits.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "tests/support/node_rig.h"

/* ---- rows ---- */

static void check_rows_of(const model_shape *shape, bool exact,
                          uint32_t n_rows) {
    node_rig r;
    node_rig_make(&r, shape);
    r.config.exact = exact;
    node_rig_connect(&r, 1, 8);
    node_rig_start(&r);
    for (uint32_t layer = 0; layer < 2; layer++) {
        node_rig_request q =
            node_rig_make_request(&r, 1 + layer, layer, n_rows, 3);
        node_rig_send_request(r.clients[0], &q);
        node_rig_expect_rows(&r, r.clients[0], &q);
        node_rig_request_fini(&q);
    }
    node_rig_fini(&r);
}

static void answers_with_the_bits_of_a_direct_run(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    check_rows_of(&shape, false, 1);
    check_rows_of(&shape, false, 5);
    check_rows_of(&shape, true, 5);
}

static void cuts_a_long_batch_into_pieces_without_changing_a_bit(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    check_rows_of(&shape, false, 700); /* 2,100 pairs */
}

static void keeps_the_padding_of_odd_widths_out_of_the_reply(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    shape.type = WEIGHT_F32;
    shape.width = 40;
    shape.n_heads = 2;
    shape.n_kv_heads = 1;
    shape.head_dim = 20;
    shape.expert_width = 72;
    check_rows_of(&shape, false, 7);
}

static uint32_t counted(const node_rig *r, uint32_t layer) {
    uint32_t pairs = 0;
    for (uint32_t e = 0; e < r->model.n_experts; e++)
        pairs += tally_pairs(r->tally, layer, e);
    return pairs;
}

static void counts_what_each_unit_computed(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 8);
    node_rig_start(&r);
    node_rig_request q = node_rig_make_request(&r, 1, 0, 700, 3);
    node_rig_send_request(r.clients[0], &q);
    node_rig_expect_rows(&r, r.clients[0], &q);
    node_rig_stop(&r);

    for (uint32_t e = 0; e < 3; e++)
        assert_int_equal(tally_pairs(r.tally, 0, e), 700);
    assert_int_equal(counted(&r, 0), 2100);
    assert_int_equal(counted(&r, 1), 0);
    tally_totals t;
    tally_read(r.tally, &t);
    assert_int_equal(t.pairs, 2100);
    assert_true(t.runs >= 3 && t.runs < 200); /* pieces cut units */
    assert_int_equal(t.weight_bytes,
                     t.runs * expert_store_unit_bytes(r.store, 0));
    assert_true(t.busy_us > 0);
    node_rig_request_fini(&q);
    node_rig_fini(&r);
}

static void a_merge_reads_a_unit_once(void **state) {
    (void)state;
    node_rig r;
    node_rig_request q[4];
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 8);
    for (uint32_t i = 0; i < 4; i++) { /* all wait before the worker runs */
        q[i] = node_rig_make_request(&r, 1 + i, 0, 2, 3);
        node_rig_send_request(r.clients[0], &q[i]);
    }
    node_rig_start(&r);
    for (uint32_t i = 0; i < 4; i++)
        node_rig_expect_rows(&r, r.clients[0], &q[i]);
    node_rig_stop(&r);
    tally_totals t;
    tally_read(r.tally, &t);
    assert_int_equal(t.runs, 3);
    assert_int_equal(t.pairs, 24);
    for (uint32_t i = 0; i < 4; i++)
        node_rig_request_fini(&q[i]);
    node_rig_fini(&r);
}

static void merges_what_two_coordinators_ask(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 2, 16);
    node_rig_request asked[2][6];
    for (uint32_t c = 0; c < 2; c++) { /* all waits before the worker runs */
        for (uint32_t i = 0; i < 6; i++) {
            asked[c][i] =
                node_rig_make_request(&r, 10 * c + i, i % 2, i + 1, 3);
            asked[c][i].m.boot_id = 100 + c;
            node_rig_send_request(r.clients[c], &asked[c][i]);
        }
    }
    node_rig_start(&r);
    for (uint32_t c = 0; c < 2; c++) {
        bool seen[6] = {false};
        for (uint32_t n = 0; n < 6; n++) {
            node_rig_answer a;
            node_rig_wait_answer(r.clients[c], &a);
            uint64_t i = a.m.request_id - 10 * c;
            assert_true(i < 6 && !seen[i]);
            seen[i] = true;
            assert_int_equal(a.m.to_boot_id, 100 + c);
            node_rig_assert_right_rows(&r, &asked[c][i], &a);
            node_rig_answer_fini(&a);
        }
    }
    for (uint32_t c = 0; c < 2; c++) {
        for (uint32_t i = 0; i < 6; i++)
            node_rig_request_fini(&asked[c][i]);
    }
    worker_counts n;
    node_rig_stop(&r);
    worker_read_counts(r.worker, &n);
    assert_int_equal(n.batches, 12);
    assert_int_equal(n.pairs, 2 * 3 * (1 + 2 + 3 + 4 + 5 + 6));
    assert_int_equal(n.jobs, 0);
    assert_int_equal(n.reply_bytes, 0);
    assert_int_equal(n.refused, 0);
    assert_true(n.progress > 0);
    node_rig_fini(&r);
}

static void answers_a_request_once_although_it_came_twice(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 8);
    node_rig_request q = node_rig_make_request(&r, 1, 0, 2, 2);
    node_rig_send_request(r.clients[0], &q);
    node_rig_send_request(r.clients[0], &q);
    node_rig_start(&r);

    node_rig_expect_rows(&r, r.clients[0], &q);
    node_rig_stop(&r);
    node_rig_assert_no_answer(r.clients[0]);
    node_rig_request_fini(&q);
    node_rig_fini(&r);
}

/* ---- refusals ---- */

/* One wrong thing in an otherwise good request. */
static void wrong_cluster(const node_rig *r, node_rig_request *q) {
    (void)r;
    q->m.cluster = "other";
}
static void wrong_fingerprint(const node_rig *r, node_rig_request *q) {
    (void)r;
    q->m.fingerprint[31] ^= 1;
}
static void no_fingerprint(const node_rig *r, node_rig_request *q) {
    (void)r;
    q->m.has_fingerprint = false;
}
static void wrong_boot(const node_rig *r, node_rig_request *q) {
    (void)r;
    q->m.to_boot_id++;
}
static void no_boot(const node_rig *r, node_rig_request *q) {
    (void)r;
    q->m.to_boot_id = 0;
}
static void expert_not_held(const node_rig *r, node_rig_request *q) {
    (void)r;
    q->m.batch.layer = NODE_RIG_MISSING_LAYER;
    q->numbers[2] = NODE_RIG_MISSING_EXPERT;
}
static void expert_beyond_the_model(const node_rig *r, node_rig_request *q) {
    q->numbers[2] = r->model.n_experts;
}
static void layer_beyond_the_model(const node_rig *r, node_rig_request *q) {
    q->m.batch.layer = r->model.n_layers;
}
static void wrong_slices(const node_rig *r, node_rig_request *q) {
    (void)r;
    q->m.batch.slices = 2;
}
static void wrong_width(const node_rig *r, node_rig_request *q) {
    (void)r;
    q->m.batch.width /= 2;
    q->row_bytes /= 2;
}
static void wrong_form(const node_rig *r, node_rig_request *q) {
    q->m.batch.form = ACT_F32;
    q->row_bytes = act_row_bytes(ACT_F32, r->model.n_embd);
    free(q->rows);
    q->rows = calloc(q->m.batch.n_rows, q->row_bytes);
}
static void useless_rows(const node_rig *r, node_rig_request *q) {
    (void)r;
    q->m.batch.experts.count = q->m.batch.counts.count = 1;
    q->numbers[3] = 1; /* of one pair, for two rows */
    q->m.batch.rows.count = 1;
}
static void value_that_saturates(const node_rig *r, node_rig_request *q) {
    ((int8_t *)q->rows)[q->row_bytes + r->model.n_embd / 8] = -128;
}
static void scale_that_is_not_finite(const node_rig *r, node_rig_request *q) {
    (void)r;
    const float bad = NAN;
    memcpy(q->rows, &bad, sizeof(bad));
}

static void refuses_every_request_it_cannot_compute(void **state) {
    (void)state;
    static const struct {
        void (*spoil)(const node_rig *r, node_rig_request *q);
        int code;
        const char *says;
    } cases[] = {
        {wrong_cluster, ERR_WRONG_CLUSTER, "'other'"},
        {wrong_fingerprint, ERR_WRONG_MODEL, "model"},
        {no_fingerprint, ERR_WRONG_MODEL, "model"},
        {wrong_boot, ERR_WRONG_BOOT, "earlier process"},
        {no_boot, ERR_WRONG_BOOT, "earlier process"},
        {expert_not_held, ERR_NOT_HERE, "expert 3 of layer 1"},
        {expert_beyond_the_model, ERR_NOT_HERE, "expert 4 of layer 0"},
        {layer_beyond_the_model, ERR_NOT_HERE, "layer 2"},
        {wrong_slices, ERR_RANGE, "layer 0 are cut into 1 slices here, not 2"},
        {wrong_width, ERR_MALFORMED, "32 wide"},
        {wrong_form, ERR_MALFORMED, "form 0"},
        {useless_rows, ERR_MALFORMED, "2 rows for 1 pairs"},
        {value_that_saturates, ERR_MALFORMED, "row 1"},
        {scale_that_is_not_finite, ERR_MALFORMED, "row 0"},
    };
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 8);
    node_rig_start(&r);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        node_rig_request q = node_rig_make_request(&r, 50 + i, 0, 2, 3);
        cases[i].spoil(&r, &q);
        node_rig_send_request(r.clients[0], &q);
        node_rig_expect_refusal(r.clients[0], 50 + i, cases[i].code,
                                cases[i].says);
        node_rig_request_fini(&q);
    }
    /* and is none the worse for it */
    node_rig_request q = node_rig_make_request(&r, 1, 0, 2, 3);
    node_rig_send_request(r.clients[0], &q);
    node_rig_expect_rows(&r, r.clients[0], &q);
    node_rig_request_fini(&q);

    worker_counts n;
    worker_read_counts(r.worker, &n);
    assert_int_equal(n.refused, ARRAY_LEN(cases));
    node_rig_fini(&r);
}

static void refuses_what_does_not_belong_among_batches(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 8);
    node_rig_start(&r);
    const message ping = {
        .kind = MESSAGE_PING, .cluster = "test", .request_id = 3};
    frames f;
    frames_init(&f);
    frames_add(&f, 0);
    assert_int_equal(message_seal(&f, &ping), 0);
    node_rig_send_frames(r.clients[0], &f);
    node_rig_expect_refusal(r.clients[0], 3, ERR_MALFORMED, "ping");
    node_rig_fini(&r);
}

static void refuses_a_flipped_byte_and_a_message_cut_short(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 8);
    node_rig_start(&r);
    node_rig_request q = node_rig_make_request(&r, 4, 0, 2, 3);
    frames f;

    node_rig_seal_request(&q, &f);
    ((uint8_t *)frames_data(&f, 1))[7] ^= 1;
    node_rig_send_frames(r.clients[0], &f);
    node_rig_expect_refusal(r.clients[0], 4, ERR_CHECKSUM, "");

    node_rig_seal_request(&q, &f);
    zmq_msg_close(&f.part[--f.count]); /* the payload is lost */
    node_rig_send_frames(r.clients[0], &f);
    node_rig_answer a;
    node_rig_wait_answer(r.clients[0], &a);
    assert_int_equal(a.m.kind, MESSAGE_ERROR);
    node_rig_answer_fini(&a);
    node_rig_request_fini(&q);
    node_rig_fini(&r);
}

static void never_answers_an_error_with_an_error(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 8);
    const message from = {.cluster = "test"}, to = {.request_id = 8};
    frames f;
    frames_init(&f);
    assert_int_equal(message_error(&f, &from, &to, ERR_INTERNAL, "x"), 0);
    node_rig_send_frames(r.clients[0], &f);
    node_rig_request q = node_rig_make_request(&r, 1, 0, 1, 1);
    node_rig_send_request(r.clients[0], &q);
    node_rig_start(&r);

    node_rig_expect_rows(&r, r.clients[0], &q); /* which came after it */
    node_rig_stop(&r);
    node_rig_assert_no_answer(r.clients[0]);
    node_rig_request_fini(&q);
    node_rig_fini(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_with_the_bits_of_a_direct_run),
        cmocka_unit_test(cuts_a_long_batch_into_pieces_without_changing_a_bit),
        cmocka_unit_test(keeps_the_padding_of_odd_widths_out_of_the_reply),
        cmocka_unit_test(counts_what_each_unit_computed),
        cmocka_unit_test(a_merge_reads_a_unit_once),
        cmocka_unit_test(merges_what_two_coordinators_ask),
        cmocka_unit_test(answers_a_request_once_although_it_came_twice),
        cmocka_unit_test(refuses_every_request_it_cannot_compute),
        cmocka_unit_test(refuses_what_does_not_belong_among_batches),
        cmocka_unit_test(refuses_a_flipped_byte_and_a_message_cut_short),
        cmocka_unit_test(never_answers_an_error_with_an_error),
    };
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
