/* test_message_forged.c - messages whose checksums are right and whose contents
 * are not. */
#include "tests/unit/message_rig.h"

/* ---- forgery: the checksums are right, the contents are not ---- */

/* Unpack a sample, let `forge` change it, and open what it has become. */
static int open_changed(message_kind kind, void (*forge)(Roster__Header *h),
                        message *m) {
    frames f;
    seal_sample(&f, kind);
    Roster__Header *h =
        roster__header__unpack(NULL, frames_bytes(&f, 0), frames_data(&f, 0));
    assert_non_null(h);
    h->header_checksum = 0;
    forge(h);
    size_t bytes = roster__header__get_packed_size(h);
    uint8_t *packed = malloc(bytes);
    assert_non_null(packed);
    roster__header__pack(h, packed);
    roster__header__free_unpacked(h, NULL);
    int rc = open_forged(&f, packed, bytes, m);
    free(packed);
    frames_fini(&f);
    return rc;
}

static char *long_text(size_t len) {
    char *text = malloc(len + 1);
    assert_non_null(text);
    memset(text, 'x', len);
    text[len] = '\0';
    return text;
}

/* One forgery a line: name, kind, the code that must come back, the change. */
/* clang-format off */
#define FORGERIES(X)                                                           \
    X(version_0, PING, ERR_WRONG_VERSION, h->protocol = 0)                     \
    X(version_far, PING, ERR_WRONG_VERSION, h->protocol = PROTOCOL_VERSION + 2)\
    X(version_max, PING, ERR_WRONG_VERSION, h->protocol = UINT32_MAX)          \
    X(version_next, PING, 0, h->protocol = PROTOCOL_VERSION + 1)               \
    X(cluster_long, PING, ERR_TOO_LARGE,                                       \
      free(h->cluster); h->cluster = long_text(128))                           \
    X(cluster_utf8, PING, ERR_MALFORMED, h->cluster[1] = (char)0x80)           \
    X(short_fingerprint, PING, ERR_MALFORMED, h->fingerprint.len = 31)         \
    X(no_fingerprint, PING, 0, h->fingerprint.len = 0)                         \
    X(checksum_extra, PING, ERR_MALFORMED, h->n_checksums = 1;                 \
      h->checksums = calloc(1, 8))                                             \
    X(checksum_missing, BATCH, ERR_MALFORMED, h->n_checksums = 0)              \
    X(body_missing, PING, ERR_MALFORMED,                                       \
      roster__ping__free_unpacked(h->ping, NULL);                              \
      h->body_case = ROSTER__HEADER__BODY__NOT_SET)                            \
    X(role_none, HELLO, ERR_MALFORMED, h->hello->role = 0)                     \
    X(role_4, HELLO, ERR_MALFORMED, h->hello->role = 4)                        \
    X(role_minus, WELCOME, ERR_MALFORMED, h->welcome->role = -1)               \
    X(profile_long, HELLO, ERR_TOO_LARGE, free(h->hello->profile->blas);       \
      h->hello->profile->blas = long_text(128))                                \
    X(holdings_short, WELCOME, ERR_MALFORMED, h->welcome->holdings.len = 1)    \
    X(holdings_more, WELCOME, ERR_MALFORMED, h->welcome->n_experts = 9)        \
    X(holdings_spare, WELCOME, ERR_MALFORMED, h->welcome->holdings.data[1] = 0x1f) \
    X(layers_many, WELCOME, ERR_TOO_LARGE, h->welcome->n_layers = 1025)        \
    X(experts_many, WELCOME, ERR_TOO_LARGE, h->welcome->n_experts = 65537)     \
    X(holdings_client, WELCOME, ERR_MALFORMED, h->welcome->role = 2)           \
    X(port_large, WELCOME, ERR_MALFORMED, h->welcome->data_port = 65536)       \
    X(experts_none, BATCH, ERR_MALFORMED, h->batch->n_experts = 0;             \
      h->batch->n_counts = 0; h->batch->n_pairs = 0)                           \
    X(counts_short, BATCH, ERR_MALFORMED, h->batch->n_counts = 2)              \
    X(count_zero, BATCH, ERR_MALFORMED, h->batch->counts[0] = 0)               \
    X(counts_sum, BATCH, ERR_MALFORMED, h->batch->counts[2] = 3)               \
    X(counts_wrap, BATCH, ERR_MALFORMED, h->batch->counts[0] = UINT32_MAX;     \
      h->batch->counts[2] = 5)                                                 \
    X(pair_beyond, BATCH, ERR_MALFORMED, h->batch->pairs[4] = 3)               \
    X(rows_more, BATCH, ERR_MALFORMED, h->batch->n_rows = 4)                   \
    X(rows_none, BATCH, ERR_MALFORMED, h->batch->n_rows = 0)                   \
    X(width_0, BATCH, ERR_MALFORMED, h->batch->width = 0)                      \
    X(width_odd, BATCH, ERR_MALFORMED, h->batch->width = 63)                   \
    X(width_huge, BATCH, ERR_MALFORMED, h->batch->width = 1u << 31)            \
    X(form_new, BATCH, ERR_UNSUPPORTED, h->batch->form = 2)                    \
    X(slices_3, BATCH, ERR_UNSUPPORTED, h->batch->slices = 3)                  \
    X(slices_16, BATCH, ERR_UNSUPPORTED, h->batch->slices = 16)                \
    X(held_slices, WELCOME, ERR_UNSUPPORTED, h->welcome->slices = 3)           \
    X(held_more, WELCOME, ERR_MALFORMED, h->welcome->slices = 4)               \
    X(pairs_none, ROWS, ERR_MALFORMED, h->rows->n_pairs = 0)                   \
    X(pairs_more, ROWS, ERR_MALFORMED, h->rows->n_pairs = 6)                   \
    X(pairs_max, ROWS, ERR_MALFORMED, h->rows->n_pairs = UINT32_MAX)           \
    X(rows_form, ROWS, ERR_UNSUPPORTED, h->rows->form = 1)                     \
    X(code_0, ERROR, ERR_MALFORMED, h->error->code = 0)                        \
    X(error_long, ERROR, ERR_TOO_LARGE, free(h->error->text);                  \
      h->error->text = long_text(MESSAGE_WHY_MAX + 1))                         \
    X(temperature_nan, GENERATE, ERR_MALFORMED,                                \
      h->generate->sampling->temperature = NAN)                                \
    X(top_p_infinite, ACCEPTED, ERR_MALFORMED,                                 \
      h->accepted->sampling->top_p = INFINITY)                                 \
    X(resumed_more, GENERATE, ERR_MALFORMED, h->generate->resumed_tokens = 5)  \
    X(share_long, FINISHED, ERR_TOO_LARGE, free(h->finished->shares[1]->name); \
      h->finished->shares[1]->name = long_text(128))                           \
    X(vocab_other, LOGITS, ERR_MALFORMED, h->logits->n_vocab = 11)             \
    X(logits_wrap, LOGITS, ERR_MALFORMED, h->logits->n_rows = 1u << 31;        \
      h->logits->n_vocab = 1u << 31)                                           \
    X(k_0, LOGITS, ERR_MALFORMED, h->logits->k = 0)                            \
    X(k_other, LOGITS, ERR_MALFORMED, h->logits->k = 3)                        \
    X(moe_layers_none, LOGITS, ERR_MALFORMED, h->logits->n_moe_layers = 0)     \
    X(files_none, MODEL, ERR_MALFORMED,                                        \
      for (size_t i = 0; i < h->model->n_files; i++)                           \
          roster__model_file__free_unpacked(h->model->files[i], NULL);         \
      h->model->n_files = 0)                                                   \
    X(file_name_long, MODEL, ERR_TOO_LARGE, free(h->model->files[1]->name);    \
      h->model->files[1]->name = long_text(128))                               \
    X(head_beyond, MODEL, ERR_MALFORMED,                                       \
      h->model->files[1]->head_bytes = (1u << 20) + 1)                         \
    X(fetch_nothing, FETCH, ERR_MALFORMED, h->fetch->bytes = 0)                \
    X(fetch_none, FETCH, ERR_MALFORMED, h->fetch->count = 0)                   \
    X(fetch_much, FETCH, ERR_MALFORMED, h->fetch->count = 4096)                \
    X(fetch_wrap, FETCH, ERR_MALFORMED, h->fetch->offset = UINT64_MAX)         \
    X(fetch_stride, FETCH, ERR_MALFORMED, h->fetch->stride = UINT64_MAX / 4)   \
    X(fetch_file, FETCH, ERR_MALFORMED, h->fetch->file = 4097)                 \
    X(drain_nobody, DRAIN, ERR_MALFORMED, h->drain->name[0] = '\0')            \
    X(load_units_more, LOAD, ERR_MALFORMED, h->load->holdings.data[1] = 0x1f)  \
    X(load_units_fewer, LOAD, ERR_MALFORMED, h->load->holdings.len = 1)        \
    X(load_slices, LOAD, ERR_MALFORMED, h->load->slices = 9)                   \
    X(fetch_unit_nothing, FETCH_UNIT, ERR_MALFORMED, h->fetch_unit->bytes = 0) \
    X(fetch_unit_much, FETCH_UNIT, ERR_MALFORMED,                              \
      h->fetch_unit->bytes = (1 << 20) + 1)                                    \
    X(fetch_unit_wrap, FETCH_UNIT, ERR_MALFORMED,                              \
      h->fetch_unit->offset = UINT64_MAX)                                      \
    X(fetch_unit_slices, FETCH_UNIT, ERR_MALFORMED,                            \
      h->fetch_unit->slices = 9)                                               \
    X(fetch_unit_layer, FETCH_UNIT, ERR_MALFORMED,                             \
      h->fetch_unit->layer = 1024)                                             \
    X(fetch_unit_unit, FETCH_UNIT, ERR_MALFORMED,                              \
      h->fetch_unit->unit = 65536 * 8)
/* clang-format on */

#define FORGE_FUNCTION(id, kind, code, change)                                 \
    static void forge_##id(Roster__Header *h) {                                \
        change;                                                                \
    }
FORGERIES(FORGE_FUNCTION)

static const struct {
    const char *name;
    message_kind kind;
    int code;
    void (*forge)(Roster__Header *h);
} forgeries[] = {
#define FORGE_ROW(id, kind, code, change)                                      \
    {#id, MESSAGE_##kind, code, forge_##id},
    FORGERIES(FORGE_ROW)};

static void refuses_forged_fields_with_a_typed_error(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(forgeries); i++) {
        message m;
        why[0] = '\0';
        int rc = open_changed(forgeries[i].kind, forgeries[i].forge, &m);
        if (rc != forgeries[i].code) {
            fail_msg("%s: %s (%s)", forgeries[i].name, err_name(rc), why);
        }
        assert_true((rc == 0) == (m.kind != MESSAGE_NONE));
        assert_true(rc == 0 || why[0] != '\0');
        assert_true(m.request_id == 1ull << 50);
    }
}

static void forge_reason(Roster__Header *h) {
    h->finished->reason = 77;
}

static void takes_a_newer_reason_for_an_unknown_one(void **state) {
    (void)state;
    message m;
    assert_int_equal(open_changed(MESSAGE_FINISHED, forge_reason, &m), 0);
    assert_int_equal(m.finished.reason, FINISH_UNKNOWN);
}

/* A ping's header with some bytes added before the trailer. */
static int open_extended(const void *extra, size_t n, message *m) {
    frames f;
    seal_sample(&f, MESSAGE_PING);
    size_t bytes = frames_bytes(&f, 0) - 9;
    uint8_t raw[1024];
    assert_true(bytes + n <= sizeof(raw));
    memcpy(raw, frames_data(&f, 0), bytes);
    memcpy(raw + bytes, extra, n);
    int rc = open_forged(&f, raw, bytes + n, m);
    frames_fini(&f);
    return rc;
}

static void ignores_unknown_fields(void **state) {
    (void)state;
    message m;
    /* field 14, varint; field 500, bytes */
    assert_int_equal(open_extended("\x70\x05\xa2\x1f\x02hi", 7, &m), 0);
    assert_int_equal(m.kind, MESSAGE_PING);
}

static void refuses_two_bodies(void **state) {
    (void)state;
    message m;
    assert_int_equal(open_extended("\x92\x01\x00", 3, &m), ERR_MALFORMED);
    assert_int_equal(open_extended("\x9a\x01\x00", 3, &m), ERR_MALFORMED);
}

static void says_that_a_newer_kind_is_not_supported(void **state) {
    (void)state;
    frames f;
    message m;
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));
    /* version 2, request 7, body 98 */
    const uint8_t raw[] = {0x08, 2, 0x38, 7, 0x92, 0x06, 1, 0};
    assert_int_equal(open_forged(&f, raw, sizeof(raw), &m), ERR_UNSUPPORTED);
    assert_int_equal(m.request_id, 7);
    assert_int_equal(m.protocol, 2);
    frames_fini(&f);
}

static void refuses_a_zero_byte_inside_a_name(void **state) {
    (void)state;
    frames f;
    message m;
    seal_sample(&f, MESSAGE_HELLO);
    size_t bytes = frames_bytes(&f, 0) - 9;
    uint8_t raw[1024];
    memcpy(raw, frames_data(&f, 0), bytes);
    uint8_t *name = memmem(raw, bytes, "coordinator-1", 13);
    assert_non_null(name);
    name[4] = 0;
    assert_int_equal(open_forged(&f, raw, bytes, &m), ERR_MALFORMED);
    assert_non_null(strstr(why, "name"));
    frames_fini(&f);
}

static void refuses_payloads_where_none_belong(void **state) {
    (void)state;
    frames f;
    message m;
    frames_init(&f);
    sample_message(MESSAGE_CANCEL, &m);
    assert_non_null(frames_add(&f, 0));
    memset(frames_add(&f, 8), 1, 8);
    assert_int_equal(message_seal(&f, &m), 0);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)),
                     ERR_MALFORMED);
    frames_fini(&f);
}

static void refuses_a_missing_payload(void **state) {
    (void)state;
    frames f;
    message m;
    frames_init(&f);
    sample_message(MESSAGE_ROWS, &m);
    assert_non_null(frames_add(&f, 0));
    assert_int_equal(message_seal(&f, &m), 0);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)),
                     ERR_MALFORMED);
    frames_fini(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_forged_fields_with_a_typed_error),
        cmocka_unit_test(takes_a_newer_reason_for_an_unknown_one),
        cmocka_unit_test(ignores_unknown_fields),
        cmocka_unit_test(refuses_two_bodies),
        cmocka_unit_test(says_that_a_newer_kind_is_not_supported),
        cmocka_unit_test(refuses_a_zero_byte_inside_a_name),
        cmocka_unit_test(refuses_payloads_where_none_belong),
        cmocka_unit_test(refuses_a_missing_payload),
    };
    return cmocka_run_group_tests(tests, make_arena, free_arena);
}
