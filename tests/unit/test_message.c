/* test_message.c - what is sealed can be opened, and only that: every kind,
 * every truncation, single flipped bits; and what is too large. */
#include "tests/unit/message_rig.h"

/* ---- round trips ---- */

static bool is_default(const ProtobufCFieldDescriptor *d, const void *body) {
    const char *at = (const char *)body + d->offset;
    if (d->label == PROTOBUF_C_LABEL_REPEATED) {
        return *(const size_t *)((const char *)body + d->quantifier_offset) ==
               0;
    }
    switch (d->type) {
    case PROTOBUF_C_TYPE_STRING:
        return **(const char *const *)at == '\0';
    case PROTOBUF_C_TYPE_BYTES:
        return ((const ProtobufCBinaryData *)at)->len == 0;
    case PROTOBUF_C_TYPE_MESSAGE:
        return *(void *const *)at == NULL;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return *(const uint64_t *)at == 0;
    default:
        return *(const uint32_t *)at == 0;
    }
}

/* The field for which 0 is the only value so far. */
static bool may_be_default(const char *name, message_kind kind) {
    return kind == MESSAGE_ROWS && strcmp(name, "form") == 0;
}

/* message_seal() forgets no field of the schema. */
static void seals_every_field_of_every_kind(void **state) {
    (void)state;
    for (int kind = MESSAGE_HELLO; kind < MESSAGE_KINDS; kind++) {
        frames f;
        seal_sample(&f, (message_kind)kind);
        Roster__Header *h = roster__header__unpack(NULL, frames_bytes(&f, 0),
                                                   frames_data(&f, 0));
        assert_non_null(h);
        assert_int_equal(h->body_case, 15 + kind);

        const ProtobufCMessage *body = &h->hello->base;
        const ProtobufCMessageDescriptor *d = body->descriptor;
        for (unsigned i = 0; i < d->n_fields; i++) {
            if (!is_default(&d->fields[i], body)) continue;
            if (may_be_default(d->fields[i].name, (message_kind)kind)) continue;
            fail_msg("%s.%s was not packed", d->name, d->fields[i].name);
        }
        roster__header__free_unpacked(h, NULL);
        frames_fini(&f);
    }
}

/* message_open() forgets none either: sealing again gives the same bytes. */
static void opens_what_was_sealed(void **state) {
    (void)state;
    for (int kind = MESSAGE_HELLO; kind < MESSAGE_KINDS; kind++) {
        frames f;
        message m;
        seal_sample(&f, (message_kind)kind);
        int rc = message_open(&f, arena, &m, why, sizeof(why));
        if (rc != 0) fail_msg("%s: %s", message_kind_name(m.kind), why);
        assert_int_equal(m.kind, kind);

        size_t bytes = frames_bytes(&f, 0);
        uint8_t *first = malloc(bytes);
        assert_non_null(first);
        memcpy(first, frames_data(&f, 0), bytes);
        assert_int_equal(message_seal(&f, &m), 0);
        assert_int_equal(frames_bytes(&f, 0), bytes);
        assert_memory_equal(frames_data(&f, 0), first, bytes);
        free(first);
        frames_fini(&f);
    }
}

static void ends_borrowed_text_with_a_zero(void **state) {
    (void)state;
    frames f;
    message m;
    seal_sample(&f, MESSAGE_TOKEN);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)), 0);
    assert_int_equal(strlen(m.token.text.data), m.token.text.len);
    assert_string_equal(m.cluster, "rack-7");
    frames_fini(&f);
}

static void seals_null_texts_as_empty_ones(void **state) {
    (void)state;
    frames f;
    message m = {.kind = MESSAGE_HELLO, .hello = {.role = ROLE_CLIENT}};
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));
    assert_int_equal(message_seal(&f, &m), 0);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)), 0);
    assert_string_equal(m.cluster, "");
    assert_string_equal(m.hello.name, "");
    assert_false(m.hello.has_profile);
    assert_non_null(m.hello.profile.blas);
    assert_int_equal(m.protocol, PROTOCOL_VERSION);
    frames_fini(&f);
}

static void seals_nothing_that_would_be_refused(void **state) {
    (void)state;
    char name[MESSAGE_NAME_MAX + 2];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    frames f;
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));

    message m = {.kind = MESSAGE_PING, .cluster = name};
    assert_int_equal(message_seal(&f, &m), ERR_TOO_LARGE);
    m.cluster = "\xff";
    assert_int_equal(message_seal(&f, &m), ERR_RANGE);
    m.cluster = "c";
    m.kind = MESSAGE_EVAL;
    m.eval.tokens = (message_u32s){NULL, MESSAGE_TOKENS_MAX + 1};
    assert_int_equal(message_seal(&f, &m), ERR_TOO_LARGE);
    assert_int_equal(frames_bytes(&f, 0), 0);
    frames_fini(&f);
}

static void answers_a_refused_message_in_its_own_frames(void **state) {
    (void)state;
    frames f;
    message m, self, reply;
    seal_sample(&f, MESSAGE_BATCH);
    f.address_bytes = 5;
    memcpy(f.address, "\0abcd", 5);
    ((uint8_t *)frames_data(&f, 1))[0] ^= 1;
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)),
                     ERR_CHECKSUM);
    assert_int_equal(m.kind, MESSAGE_NONE);

    sample_message(MESSAGE_PING, &self);
    assert_int_equal(
        message_error(&f, &self, &m, ERR_CHECKSUM, "a\xff\xe2\x9c\xa8"), 0);
    assert_int_equal(f.count, 1);
    assert_int_equal(f.address_bytes, 5);
    assert_int_equal(message_open(&f, arena, &reply, why, sizeof(why)), 0);
    assert_int_equal(reply.error.code, ERR_CHECKSUM);
    assert_string_equal(reply.error.text, "a?\xe2\x9c\xa8");
    assert_true(reply.request_id == m.request_id);
    assert_true(reply.to_boot_id == m.boot_id);
    assert_true(reply.boot_id == self.boot_id);
    frames_fini(&f);
}

static void cuts_a_long_error_text_at_a_whole_character(void **state) {
    (void)state;
    char text[3 * MESSAGE_WHY_MAX + 1];
    for (size_t i = 0; i < MESSAGE_WHY_MAX; i++) {
        memcpy(text + 3 * i, "\xe2\x9c\xa8", 3);
    }
    text[sizeof(text) - 1] = '\0';
    frames f;
    frames_init(&f);
    message m = {0};
    assert_int_equal(message_error(&f, &m, &m, ERR_INTERNAL, text), 0);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)), 0);
    assert_int_equal(strlen(m.error.text), MESSAGE_WHY_MAX / 3 * 3);
    frames_fini(&f);
}

/* ---- damage ---- */

static void refuses_every_truncation_of_a_header(void **state) {
    (void)state;
    for (int kind = MESSAGE_HELLO; kind < MESSAGE_KINDS; kind++) {
        frames f;
        message m;
        seal_sample(&f, (message_kind)kind);
        for (size_t n = 0; n < frames_bytes(&f, 0); n++) {
            int rc = open_bytes(&f, frames_data(&f, 0), n, &m);
            assert_true(rc == ERR_MALFORMED || rc == ERR_CHECKSUM);
            assert_int_equal(m.kind, MESSAGE_NONE);
        }
        frames_fini(&f);
    }
}

static void refuses_every_flipped_bit_of_a_header(void **state) {
    (void)state;
    for (int kind = MESSAGE_HELLO; kind < MESSAGE_KINDS; kind++) {
        frames f;
        message m;
        seal_sample(&f, (message_kind)kind);
        uint8_t *header = frames_data(&f, 0);
        for (size_t bit = 0; bit < 8 * frames_bytes(&f, 0); bit++) {
            header[bit / 8] ^= (uint8_t)(1u << bit % 8);
            int rc = open_bytes(&f, header, frames_bytes(&f, 0), &m);
            assert_true(rc == ERR_CHECKSUM || rc == ERR_MALFORMED);
            header[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        frames_fini(&f);
    }
}

static void refuses_every_flipped_bit_of_a_payload(void **state) {
    const message_kind kinds[] = {MESSAGE_BATCH, MESSAGE_ROWS, MESSAGE_LOGITS};
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        frames f;
        message m;
        seal_sample(&f, kinds[k]);
        for (size_t part = 1; part < f.count; part++) {
            uint8_t *data = frames_data(&f, part);
            for (size_t bit = 0; bit < 8 * frames_bytes(&f, part); bit++) {
                data[bit / 8] ^= (uint8_t)(1u << bit % 8);
                int rc = message_open(&f, arena, &m, why, sizeof(why));
                assert_int_equal(rc, ERR_CHECKSUM);
                data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            }
        }
        frames_fini(&f);
    }
}

static void keeps_the_ids_of_a_message_it_refuses(void **state) {
    (void)state;
    frames f;
    message m;
    seal_sample(&f, MESSAGE_GENERATE);
    size_t bytes = frames_bytes(&f, 0);
    assert_true(open_bytes(&f, frames_data(&f, 0), bytes - 20, &m) < 0);
    assert_true(m.request_id == 1ull << 50);
    assert_true(m.boot_id == 0x1122334455667788);
    assert_true(m.to_boot_id == 0x99aabbccddeeff00);
    assert_string_equal(m.cluster, "");
    frames_fini(&f);
}

/* ---- bounds ---- */

static void refuses_an_empty_message(void **state) {
    (void)state;
    frames f;
    message m;
    frames_init(&f);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)),
                     ERR_MALFORMED);
    assert_non_null(frames_add(&f, 0));
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)),
                     ERR_MALFORMED);
    frames_fini(&f);
}

static void refuses_parts_above_the_limits(void **state) {
    (void)state;
    frames f;
    message m;
    frames_init(&f);
    assert_non_null(frames_add(&f, MESSAGE_HEADER_MAX + 1));
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)),
                     ERR_TOO_LARGE);
    frames_fini(&f);

    sample_message(MESSAGE_ROWS, &m);
    assert_non_null(frames_add(&f, 0));
    assert_non_null(frames_add(&f, MESSAGE_PART_MAX + 1));
    assert_int_equal(message_seal(&f, &m), ERR_TOO_LARGE);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)),
                     ERR_MALFORMED); /* the header was not written */
    frames_fini(&f);
}

/* 17 replies of 4 MiB would be asked for with one row. */
static void refuses_a_batch_whose_reply_cannot_be_sent(void **state) {
    (void)state;
    static const uint32_t expert[] = {0}, count[] = {17}, rows[17];
    frames f;
    message m;
    sample_message(MESSAGE_BATCH, &m);
    m.batch.form = 0;
    m.batch.width = MESSAGE_WIDTH_MAX;
    m.batch.n_rows = 1;
    m.batch.experts = (message_u32s){expert, 1};
    m.batch.counts = (message_u32s){count, 1};
    m.batch.rows = (message_u32s){rows, 17};
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));
    void *row = frames_add(&f, (size_t)MESSAGE_WIDTH_MAX * 4);
    assert_non_null(row);
    memset(row, 0, (size_t)MESSAGE_WIDTH_MAX * 4);
    assert_int_equal(message_seal(&f, &m), 0);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)),
                     ERR_TOO_LARGE);
    frames_fini(&f);
}

/* Two bytes on the wire are a struct of 40 and a pointer in memory. */
static void bounds_the_memory_of_a_message_that_blows_up(void **state) {
    (void)state;
    const size_t n_shares = 1 << 20;
    uint8_t *raw = malloc(2 * n_shares + 16);
    assert_non_null(raw);
    size_t at = 0;
    raw[at++] = 0x08; /* protocol 1 */
    raw[at++] = 1;
    raw[at++] = 0xd2; /* finished, 2^21 bytes */
    raw[at++] = 0x01;
    raw[at++] = 0x80;
    raw[at++] = 0x80;
    raw[at++] = 0x80;
    raw[at++] = 0x01;
    for (size_t i = 0; i < n_shares; i++) {
        raw[at++] = 0x52;
        raw[at++] = 0;
    }
    frames f;
    message m;
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));
    assert_int_equal(open_forged(&f, raw, at, &m), ERR_TOO_LARGE);
    frames_fini(&f);
    free(raw);

    /* The arena is as good as before. */
    seal_sample(&f, MESSAGE_FINISHED);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)), 0);
    frames_fini(&f);
}

static void opens_the_longest_prompt_and_then_a_small_message(void **state) {
    (void)state;
    uint32_t *tokens = calloc(MESSAGE_TOKENS_MAX, sizeof(*tokens));
    assert_non_null(tokens);
    frames f;
    message m;
    sample_message(MESSAGE_EVAL, &m);
    m.eval.tokens = (message_u32s){tokens, MESSAGE_TOKENS_MAX};
    for (size_t i = 0; i < MESSAGE_TOKENS_MAX; i++) {
        tokens[i] = (uint32_t)i % 200000;
    }
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));
    assert_int_equal(message_seal(&f, &m), 0);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)), 0);
    assert_int_equal(m.eval.tokens.count, MESSAGE_TOKENS_MAX);
    assert_memory_equal(m.eval.tokens.items, tokens,
                        MESSAGE_TOKENS_MAX * sizeof(*tokens));

    message_arena *small;
    assert_int_equal(message_arena_new(&small, 64 << 10), 0);
    assert_int_equal(message_open(&f, small, &m, why, sizeof(why)),
                     ERR_TOO_LARGE);
    frames_fini(&f);
    seal_sample(&f, MESSAGE_HELLO);
    assert_int_equal(message_open(&f, small, &m, why, sizeof(why)), 0);
    assert_string_equal(m.hello.profile.kv, "f16");
    frames_fini(&f);
    message_arena_free(small);
    free(tokens);
}

static void counts_the_bytes_of_rows(void **state) {
    (void)state;
    assert_int_equal(message_rows_bytes(0, 3, 10), 120);
    assert_int_equal(message_rows_bytes(1, 3, 64), 3 * (64 + 8));
    assert_true(message_rows_bytes(1, 3, 65) == SIZE_MAX);
    assert_true(message_rows_bytes(2, 3, 64) == SIZE_MAX);
    assert_true(message_rows_bytes(0, UINT64_MAX, 64) == SIZE_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seals_every_field_of_every_kind),
        cmocka_unit_test(opens_what_was_sealed),
        cmocka_unit_test(ends_borrowed_text_with_a_zero),
        cmocka_unit_test(seals_null_texts_as_empty_ones),
        cmocka_unit_test(seals_nothing_that_would_be_refused),
        cmocka_unit_test(answers_a_refused_message_in_its_own_frames),
        cmocka_unit_test(cuts_a_long_error_text_at_a_whole_character),
        cmocka_unit_test(refuses_every_truncation_of_a_header),
        cmocka_unit_test(refuses_every_flipped_bit_of_a_header),
        cmocka_unit_test(refuses_every_flipped_bit_of_a_payload),
        cmocka_unit_test(keeps_the_ids_of_a_message_it_refuses),
        cmocka_unit_test(refuses_an_empty_message),
        cmocka_unit_test(refuses_parts_above_the_limits),
        cmocka_unit_test(refuses_a_batch_whose_reply_cannot_be_sent),
        cmocka_unit_test(bounds_the_memory_of_a_message_that_blows_up),
        cmocka_unit_test(opens_the_longest_prompt_and_then_a_small_message),
        cmocka_unit_test(counts_the_bytes_of_rows),
    };
    return cmocka_run_group_tests(tests, make_arena, free_arena);
}
