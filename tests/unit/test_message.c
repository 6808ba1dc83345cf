/* test_message.c - what is sealed can be opened, and only that: every kind,
 * every truncation, single flipped bits, and headers forged with a right
 * checksum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/util.h"
#include "proto/message.h"
#include "proto/roster.pb-c.h"
#include "tests/support/message_samples.h"

static message_arena *arena;
static char why[256];

static int make_arena(void **state) {
    (void)state;
    return message_arena_new(&arena, MESSAGE_ARENA_MAX);
}

static int free_arena(void **state) {
    (void)state;
    message_arena_free(arena);
    return 0;
}

static void seal_sample(frames *f, message_kind kind) {
    frames_init(f);
    assert_int_equal(sample_frames(kind, f), 0);
}

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

/* Open header bytes that lie in a block of exactly their size, where a
 * sanitizer sees one byte too far, with the payloads of *f. */
static int open_bytes(frames *f, const uint8_t *header, size_t bytes,
                      message *m) {
    frames damaged;
    frames_init(&damaged);
    void *part = frames_add(&damaged, bytes);
    assert_non_null(part);
    memcpy(part, header, bytes);
    for (size_t i = 1; i < f->count; i++) {
        zmq_msg_init(&damaged.part[i]);
        zmq_msg_copy(&damaged.part[i], &f->part[i]);
        damaged.count++;
    }
    int rc = message_open(&damaged, arena, m, why, sizeof(why));
    frames_fini(&damaged);
    return rc;
}

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

/* ---- forgery: the checksums are right, the contents are not ---- */

/* Open raw header bytes after giving them the trailer they need. */
static int open_forged(frames *f, const uint8_t *bytes, size_t n, message *m) {
    uint8_t *whole = malloc(n + 9);
    assert_non_null(whole);
    memcpy(whole, bytes, n);
    uint64_t sum = XXH3_64bits(whole, n);
    whole[n] = 0x79;
    memcpy(whole + n + 1, &sum, 8);
    int rc = open_bytes(f, whole, n + 9, m);
    free(whole);
    return rc;
}

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
        cmocka_unit_test(refuses_forged_fields_with_a_typed_error),
        cmocka_unit_test(takes_a_newer_reason_for_an_unknown_one),
        cmocka_unit_test(ignores_unknown_fields),
        cmocka_unit_test(refuses_two_bodies),
        cmocka_unit_test(says_that_a_newer_kind_is_not_supported),
        cmocka_unit_test(refuses_a_zero_byte_inside_a_name),
        cmocka_unit_test(refuses_payloads_where_none_belong),
        cmocka_unit_test(refuses_a_missing_payload),
        cmocka_unit_test(refuses_an_empty_message),
        cmocka_unit_test(refuses_parts_above_the_limits),
        cmocka_unit_test(refuses_a_batch_whose_reply_cannot_be_sent),
        cmocka_unit_test(bounds_the_memory_of_a_message_that_blows_up),
        cmocka_unit_test(opens_the_longest_prompt_and_then_a_small_message),
        cmocka_unit_test(counts_the_bytes_of_rows),
    };
    return cmocka_run_group_tests(tests, make_arena, free_arena);
}
