/* test_gguf.c - what a model file says, and what a bad one is refused for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/gguf.h"
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/fixture.h"
#include "tests/support/gguf_memory.h"
#include "tests/support/gguf_writer.h"

static char why[512];

/* ---- helpers ---- */

static gguf_writer *new_writer(void) {
    gguf_writer *w = gguf_writer_new();
    assert_non_null(w);
    return w;
}

/* Write and free; the path. */
static const char *finish(gguf_writer *w, const char *name) {
    const char *path = fixture_path(name);
    assert_int_equal(gguf_writer_finish(w, path), 0);
    gguf_writer_free(w);
    return path;
}

static gguf *open_good(const char *path) {
    gguf *g;
    why[0] = '\0';
    int rc = gguf_open(&g, path, why, sizeof(why));
    if (rc < 0) print_message("%s\n", why);
    assert_int_equal(rc, 0);
    return g;
}

static gguf *finish_and_open(gguf_writer *w) {
    return open_good(finish(w, "model.gguf"));
}

/* The sentence must contain `part`. */
static void assert_refused(const char *path, int code, const char *part) {
    gguf *g;
    why[0] = '\0';
    assert_int_equal(gguf_open(&g, path, why, sizeof(why)), code);
    assert_null(g);
    if (strstr(why, part) == NULL) print_message("said: %s\n", why);
    assert_non_null(strstr(why, part));
    assert_non_null(strstr(why, path));
}

static void finish_and_refuse(gguf_writer *w, int code, const char *part) {
    assert_refused(finish(w, "bad.gguf"), code, part);
}

static const float four_values[4] = {1, 2, 3, 4};
static const uint64_t two_by_two[2] = {2, 2};

static void put_tensor(gguf_writer *w, const char *name) {
    gguf_writer_tensor(w, name, WEIGHT_F32, 2, two_by_two, four_values);
}

/* A file with a tensor, for tests that overwrite parts of it. */
static uint8_t *plain_image(size_t *n) {
    gguf_writer *w = new_writer();
    gguf_writer_u32(w, "some.key", 7);
    put_tensor(w, "the.tensor");
    return fixture_read(finish(w, "plain.gguf"), n);
}

/* Overwrite `bytes` at `skip` behind the first place where `text` stands. */
static void patch(uint8_t *image, size_t n, const char *text, size_t skip,
                  const void *value, size_t bytes) {
    uint8_t *at = memmem(image, n, text, strlen(text));
    assert_non_null(at);
    at += strlen(text) + skip;
    assert_true(at + bytes <= image + n);
    memcpy(at, value, bytes);
}

static void refuse_image(uint8_t *image, size_t n, int code, const char *part) {
    const char *path = fixture_path("patched.gguf");
    fixture_write(path, image, n);
    assert_refused(path, code, part);
    free(image);
}

/* Where "the.tensor"'s fields are, behind its name. */
enum {
    AT_N_DIMS = 0,
    AT_DIM_0 = 4,
    AT_DIM_1 = 12,
    AT_TYPE = 20,
    AT_OFFSET = 24
};

/* ---- metadata ---- */

static void put_all_types(gguf_writer *w) {
    const uint8_t u8 = 200;
    const int8_t i8 = -100;
    const uint16_t u16 = 60000;
    const int16_t i16 = -30000;
    const int32_t i32 = -2000000000;
    const uint64_t u64 = UINT64_MAX;
    const int64_t i64 = INT64_MIN;
    const double f64 = 2.5;
    gguf_writer_value(w, "u8", GGUF_U8, &u8);
    gguf_writer_value(w, "i8", GGUF_I8, &i8);
    gguf_writer_value(w, "u16", GGUF_U16, &u16);
    gguf_writer_value(w, "i16", GGUF_I16, &i16);
    gguf_writer_u32(w, "u32", 4000000000u);
    gguf_writer_value(w, "i32", GGUF_I32, &i32);
    gguf_writer_f32(w, "f32", 1.5f);
    gguf_writer_bool(w, "bool", true);
    gguf_writer_string(w, "string", "text");
    gguf_writer_value(w, "u64", GGUF_U64, &u64);
    gguf_writer_value(w, "i64", GGUF_I64, &i64);
    gguf_writer_value(w, "f64", GGUF_F64, &f64);
    const char *const words[3] = {"a", "", "ccc"};
    gguf_writer_strings(w, "strings", 3, words);
    gguf_writer_array(w, "floats", GGUF_F32, 4, four_values);
}

static void reads_every_type_of_value(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_all_types(w);
    gguf *g = finish_and_open(w);

    uint32_t u32;
    uint64_t u64;
    float f32;
    bool flag;
    gguf_string text;
    assert_int_equal(gguf_get_u32(g, "u8", &u32, why, sizeof(why)), 0);
    assert_int_equal(u32, 200);
    assert_int_equal(gguf_get_u32(g, "u16", &u32, why, sizeof(why)), 0);
    assert_int_equal(u32, 60000);
    assert_int_equal(gguf_get_u32(g, "u32", &u32, why, sizeof(why)), 0);
    assert_int_equal(u32, 4000000000u);
    assert_int_equal(gguf_get_u64(g, "u64", &u64, why, sizeof(why)), 0);
    assert_true(u64 == UINT64_MAX);
    assert_int_equal(gguf_get_f32(g, "f32", &f32, why, sizeof(why)), 0);
    assert_true(f32 == 1.5f);
    assert_int_equal(gguf_get_bool(g, "bool", &flag, why, sizeof(why)), 0);
    assert_true(flag);
    assert_int_equal(gguf_get_string(g, "string", &text, why, sizeof(why)), 0);
    assert_int_equal(text.len, 4);
    assert_memory_equal(text.data, "text", 4);
    gguf_close(g);
}

static void lists_keys_in_the_files_order(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_all_types(w);
    gguf *g = finish_and_open(w);
    static const char *const first[3] = {"u8", "i8", "u16"};
    static const gguf_type types[3] = {GGUF_U8, GGUF_I8, GGUF_U16};

    assert_int_equal(gguf_n_keys(g), 14);
    for (size_t i = 0; i < 3; i++) {
        gguf_type type;
        gguf_string key = gguf_key_at(g, i, &type);
        assert_int_equal(type, types[i]);
        assert_int_equal(key.len, strlen(first[i]));
        assert_memory_equal(key.data, first[i], key.len);
    }
    gguf_close(g);
}

static void refuses_integers_that_do_not_fit(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_all_types(w);
    gguf *g = finish_and_open(w);

    static const char *const keys[] = {"i8", "i16", "i32", "u64", "i64"};
    static const char *const parts[] = {"-100", "-30000", "-2000000000",
                                        "18446744073709551615",
                                        "-9223372036854775808"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        uint32_t value;
        assert_int_equal(gguf_get_u32(g, keys[i], &value, why, sizeof(why)),
                         ERR_FORMAT);
        assert_non_null(strstr(why, parts[i]));
    }
    gguf_close(g);
}

static void names_the_type_found_and_the_one_wanted(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_all_types(w);
    gguf *g = finish_and_open(w);
    uint32_t u32;
    float f32;
    bool flag;
    gguf_string text;

    assert_int_equal(gguf_get_u32(g, "f32", &u32, why, sizeof(why)),
                     ERR_FORMAT);
    assert_non_null(strstr(why, "'f32' is f32, not an integer"));
    assert_int_equal(gguf_get_f32(g, "strings", &f32, why, sizeof(why)),
                     ERR_FORMAT);
    assert_non_null(strstr(why, "an array of string, not f32"));
    assert_int_equal(gguf_get_bool(g, "u8", &flag, why, sizeof(why)),
                     ERR_FORMAT);
    assert_int_equal(gguf_get_string(g, "u8", &text, why, sizeof(why)),
                     ERR_FORMAT);
    assert_int_equal(gguf_get_u32(g, "absent", &u32, why, sizeof(why)),
                     ERR_NOT_HERE);
    assert_non_null(strstr(why, "'absent' is missing"));
    assert_true(gguf_has(g, "u8"));
    assert_false(gguf_has(g, "u"));
    assert_false(gguf_has(g, "u88"));
    gguf_close(g);
}

static void reads_arrays_of_integers_of_any_width(void **state) {
    (void)state;
    const uint8_t u8[3] = {1, 2, 255};
    const int16_t i16[3] = {-1, 2, -3};
    const uint64_t u64[2] = {5, INT32_MAX};
    const int64_t too_large[1] = {(int64_t)INT32_MAX + 1};
    gguf_writer *w = new_writer();
    gguf_writer_array(w, "u8", GGUF_U8, 3, u8);
    gguf_writer_array(w, "i16", GGUF_I16, 3, i16);
    gguf_writer_array(w, "u64", GGUF_U64, 2, u64);
    gguf_writer_array(w, "large", GGUF_I64, 1, too_large);
    gguf *g = finish_and_open(w);

    int32_t out[3];
    assert_int_equal(gguf_array_i32(g, "u8", out, 3, why, sizeof(why)), 0);
    assert_int_equal(out[2], 255);
    assert_int_equal(gguf_array_i32(g, "i16", out, 3, why, sizeof(why)), 0);
    assert_int_equal(out[0], -1);
    assert_int_equal(out[2], -3);
    assert_int_equal(gguf_array_i32(g, "u64", out, 2, why, sizeof(why)), 0);
    assert_int_equal(out[1], INT32_MAX);
    assert_int_equal(gguf_array_i32(g, "large", out, 1, why, sizeof(why)),
                     ERR_FORMAT);
    assert_int_equal(gguf_array_i32(g, "u8", out, 2, why, sizeof(why)),
                     ERR_FORMAT);
    assert_non_null(strstr(why, "has 3 elements, not 2"));
    gguf_close(g);
}

static void reads_arrays_of_strings_and_floats(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_all_types(w);
    gguf_writer_array(w, "none", GGUF_STRING, 0, NULL);
    gguf *g = finish_and_open(w);

    gguf_type type;
    uint64_t n;
    assert_int_equal(gguf_get_array(g, "strings", &type, &n, why, sizeof(why)),
                     0);
    assert_int_equal(type, GGUF_STRING);
    assert_int_equal(n, 3);

    gguf_string text[3];
    float values[4];
    int32_t ints[4];
    assert_int_equal(
        gguf_array_strings(g, "strings", text, 3, why, sizeof(why)), 0);
    assert_int_equal(text[1].len, 0);
    assert_memory_equal(text[2].data, "ccc", 3);
    assert_int_equal(gguf_array_f32(g, "floats", values, 4, why, sizeof(why)),
                     0);
    assert_memory_equal(values, four_values, sizeof(values));
    assert_int_equal(gguf_array_i32(g, "floats", ints, 4, why, sizeof(why)),
                     ERR_FORMAT);
    assert_int_equal(gguf_array_f32(g, "strings", values, 3, why, sizeof(why)),
                     ERR_FORMAT);
    assert_int_equal(gguf_array_strings(g, "floats", text, 4, why, sizeof(why)),
                     ERR_FORMAT);
    assert_int_equal(gguf_array_strings(g, "none", text, 0, why, sizeof(why)),
                     0);
    gguf_close(g);
}

/* `depth` arrays of one array each, around an empty array of bytes. */
static void put_nested(gguf_writer *w, const char *key, int depth) {
    uint8_t bytes[12 * 16];
    size_t n = 0;
    for (int i = 1; i <= depth; i++) {
        uint32_t element = i < depth ? GGUF_ARRAY : GGUF_U8;
        uint64_t count = i < depth ? 1 : 0;
        memcpy(bytes + n, &element, 4);
        memcpy(bytes + n + 4, &count, 8);
        n += 12;
    }
    gguf_writer_raw(w, key, GGUF_ARRAY, bytes, n);
}

static void steps_over_nested_arrays(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_nested(w, "nested", 4);
    gguf_writer_u32(w, "after", 5);
    gguf *g = finish_and_open(w);
    uint32_t value;
    gguf_type type;
    uint64_t n;
    assert_int_equal(gguf_get_u32(g, "after", &value, why, sizeof(why)), 0);
    assert_int_equal(gguf_get_array(g, "nested", &type, &n, why, sizeof(why)),
                     0);
    assert_int_equal(type, GGUF_ARRAY);
    gguf_close(g);
}

static void refuses_arrays_nested_too_deep(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_nested(w, "deep.key", 5);
    finish_and_refuse(w, ERR_UNSUPPORTED, "'deep.key' nests");
}

static void refuses_values_that_are_none(void **state) {
    (void)state;
    const uint8_t two = 2;
    gguf_writer *w = new_writer();
    gguf_writer_value(w, "flag", GGUF_BOOL, &two);
    finish_and_refuse(w, ERR_FORMAT, "'flag' has a bool of 2");

    w = new_writer();
    gguf_writer_raw(w, "odd", 13, &two, 1);
    finish_and_refuse(w, ERR_FORMAT, "'odd' has the unknown type 13");

    w = new_writer();
    gguf_writer_u32(w, "", 1);
    finish_and_refuse(w, ERR_FORMAT, "a key has 0 bytes");
}

static void refuses_a_key_that_is_there_twice(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    gguf_writer_u32(w, "a.key", 1);
    gguf_writer_u32(w, "another", 1);
    gguf_writer_u32(w, "a.key", 1);
    finish_and_refuse(w, ERR_FORMAT, "the key 'a.key' is there twice");
}

static void shows_no_control_characters_of_a_file(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    gguf_writer_u32(w, "\033[31mred", 1);
    gguf_writer_u32(w, "\033[31mred", 1);
    finish_and_refuse(w, ERR_FORMAT, "'?[31mred'");
}

/* ---- counts and lengths ---- */

static void refuses_counts_the_file_cannot_hold(void **state) {
    (void)state;
    const uint64_t counts[] = {UINT64_MAX, (uint64_t)1 << 40, 1000};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        size_t n;
        uint8_t *image = plain_image(&n);
        memcpy(image + 8, &counts[i], 8);
        refuse_image(image, n, ERR_FORMAT, "tensors, more than fit");
        image = plain_image(&n);
        memcpy(image + 16, &counts[i], 8);
        refuse_image(image, n, ERR_FORMAT, "keys, more than fit");
    }
}

static void refuses_array_lengths_the_file_cannot_hold(void **state) {
    (void)state;
    const gguf_type elements[] = {GGUF_U8, GGUF_F64, GGUF_STRING, GGUF_ARRAY};
    const uint64_t counts[] = {UINT64_MAX, (uint64_t)1 << 61, 1000};
    for (size_t i = 0; i < ARRAY_LEN(elements); i++) {
        for (size_t j = 0; j < ARRAY_LEN(counts); j++) {
            uint8_t bytes[12];
            memcpy(bytes, &elements[i], 4);
            memcpy(bytes + 4, &counts[j], 8);
            gguf_writer *w = new_writer();
            gguf_writer_raw(w, "list", GGUF_ARRAY, bytes, sizeof(bytes));
            finish_and_refuse(w, ERR_FORMAT, "'list' is an array of");
        }
    }
}

static void refuses_string_lengths_past_the_end(void **state) {
    (void)state;
    const uint64_t lengths[] = {UINT64_MAX, (uint64_t)1 << 63, 100};
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        gguf_writer *w = new_writer();
        gguf_writer_raw(w, "text", GGUF_STRING, &lengths[i], 8);
        finish_and_refuse(w, ERR_FORMAT, "ends inside a string");
    }
}

/* ---- tensors ---- */

static void finds_tensors_by_name(void **state) {
    (void)state;
    const uint8_t blocks[3 * 68] = {1};
    const uint64_t dims[3] = {64, 3, 1};
    gguf_writer *w = new_writer();
    put_tensor(w, "b");
    gguf_writer_tensor(w, "a", WEIGHT_Q8_0, 3, dims, blocks);
    gguf *g = finish_and_open(w);

    assert_int_equal(gguf_n_tensors(g), 2);
    const gguf_tensor *t = gguf_find_tensor(g, "a");
    assert_ptr_equal(t, gguf_tensor_at(g, 1));
    assert_int_equal(t->n_dims, 3);
    assert_int_equal(t->dims[0], 64);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->dims[3], 1);
    assert_int_equal(t->type, WEIGHT_Q8_0);
    assert_int_equal(t->bytes, sizeof(blocks));
    assert_memory_equal(gguf_data(g, t), blocks, sizeof(blocks));
    assert_memory_equal(gguf_data(g, gguf_find_tensor(g, "b")), four_values,
                        sizeof(four_values));
    assert_null(gguf_find_tensor(g, "c"));
    assert_null(gguf_find_tensor(g, ""));
    gguf_close(g);
}

static void reads_pieces_of_a_tensor(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_tensor(w, "t");
    gguf *g = finish_and_open(w);
    const gguf_tensor *t = gguf_find_tensor(g, "t");
    float out[4];

    assert_int_equal(gguf_read(g, t, 0, 16, out), 0);
    assert_memory_equal(out, four_values, 16);
    assert_int_equal(gguf_read(g, t, 4, 8, out), 0);
    assert_memory_equal(out, four_values + 1, 8);
    assert_int_equal(gguf_read(g, t, 16, 0, out), 0);
    assert_int_equal(gguf_read(g, t, 8, 9, out), ERR_RANGE);
    assert_int_equal(gguf_read(g, t, 17, 0, out), ERR_RANGE);
    assert_int_equal(gguf_read(g, t, UINT64_MAX, 2, out), ERR_RANGE);
    gguf_close(g);
}

static void says_when_a_file_has_shrunk(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_tensor(w, "t");
    const char *path = finish(w, "shrinks.gguf");
    gguf *g = open_good(path);
    const gguf_tensor *t = gguf_find_tensor(g, "t");
    float out[4];

    assert_int_equal(truncate(path, (off_t)t->offset + 8), 0);
    assert_int_equal(gguf_read(g, t, 0, 16, out), ERR_FORMAT);
    gguf_close(g);
}

static void places_tensors_by_the_files_alignment(void **state) {
    (void)state;
    const uint32_t alignments[] = {1, 8, 64, 4096};
    for (size_t i = 0; i < ARRAY_LEN(alignments); i++) {
        gguf_writer *w = new_writer();
        gguf_writer_alignment(w, alignments[i]);
        put_tensor(w, "a");
        put_tensor(w, "b");
        gguf *g = finish_and_open(w);
        const gguf_tensor *t = gguf_find_tensor(g, "b");
        assert_int_equal(t->offset % alignments[i], 0);
        assert_memory_equal(gguf_data(g, t), four_values, 16);
        gguf_close(g);
    }
}

static void refuses_alignments_that_are_none(void **state) {
    (void)state;
    const uint32_t alignments[] = {0, 24, (uint32_t)1 << 21, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(alignments); i++) {
        gguf_writer *w = new_writer();
        gguf_writer_u32(w, "general.alignment", alignments[i]);
        finish_and_refuse(w, ERR_FORMAT, "general.alignment is");
    }
    gguf_writer *w = new_writer();
    gguf_writer_string(w, "general.alignment", "32");
    finish_and_refuse(w, ERR_FORMAT, "general.alignment");
}

static void refuses_a_tensor_that_is_there_twice(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    put_tensor(w, "same");
    put_tensor(w, "other");
    put_tensor(w, "same");
    finish_and_refuse(w, ERR_FORMAT, "the tensor 'same' is there twice");
}

static void names_a_tensor_of_unknown_type(void **state) {
    (void)state;
    const uint32_t types[] = {4, 5, 999, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        size_t n;
        char part[64];
        uint8_t *image = plain_image(&n);
        patch(image, n, "the.tensor", AT_TYPE, &types[i], 4);
        snprintf(part, sizeof(part), "'the.tensor' has the unknown type %u",
                 types[i]);
        refuse_image(image, n, ERR_UNSUPPORTED, part);
    }
}

static void refuses_impossible_shapes(void **state) {
    (void)state;
    static const struct {
        size_t at;
        uint64_t value;
        size_t bytes;
        const char *part;
    } cases[] = {
        {AT_N_DIMS, 0, 4, "has 0 dimensions"},
        {AT_N_DIMS, 5, 4, "has 5 dimensions"},
        {AT_DIM_1, 0, 8, "impossible dimension 1 of 0"},
        {AT_DIM_1, UINT64_MAX, 8, "impossible dimension 1"},
        {AT_DIM_1, (uint64_t)1 << 62, 8, "impossibly large"},
        {AT_DIM_1, (uint64_t)1 << 60, 8, "reaches past the end"},
        {AT_DIM_1, 9, 8, "reaches past the end"},
        {AT_TYPE, WEIGHT_Q8_0, 4, "no multiple of the 32 in a block of q8_0"},
        {AT_TYPE, WEIGHT_MXFP4, 4, "no multiple of the 32 in a block of mxfp4"},
        {AT_TYPE, WEIGHT_Q2_K, 4, "no multiple of the 256 in a block of q2_k"},
        {AT_OFFSET, 16, 8, "not aligned to 32"},
        {AT_OFFSET, 32, 8, "reaches past the end"},
        {AT_OFFSET, UINT64_MAX - 31, 8, "reaches past the end"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t n;
        uint8_t *image = plain_image(&n);
        patch(image, n, "the.tensor", cases[i].at, &cases[i].value,
              cases[i].bytes);
        refuse_image(image, n, ERR_FORMAT, cases[i].part);
    }
}

/* ---- the file as a whole ---- */

static void reads_version_2_and_refuses_others(void **state) {
    (void)state;
    gguf_writer *w = new_writer();
    gguf_writer_version(w, 2);
    put_tensor(w, "t");
    gguf *g = finish_and_open(w);
    assert_int_equal(gguf_n_tensors(g), 1);
    gguf_close(g);

    static const struct {
        uint32_t version;
        const char *part;
    } cases[] = {{0, "version 0"},
                 {1, "version 1"},
                 {4, "version 4"},
                 {0x03000000, "big-endian"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        w = new_writer();
        gguf_writer_version(w, cases[i].version);
        finish_and_refuse(w, ERR_UNSUPPORTED, cases[i].part);
    }
}

static void refuses_what_is_no_model_file(void **state) {
    (void)state;
    const char *path = fixture_path("other");
    fixture_write(path, "", 0);
    assert_refused(path, ERR_FORMAT, "empty");
    static const char zip[] = "PK\003\004 and more text than a head has";
    fixture_write(path, zip, sizeof(zip));
    assert_refused(path, ERR_FORMAT, "not a GGUF file: it begins with 'PK");
    assert_refused(fixture_path("absent"), -ENOENT, "cannot open");
    const char *folder = fixture_path("folder");
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_refused(folder, ERR_FORMAT, "not a regular file");
    const char *fifo = fixture_path("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_refused(fifo, ERR_FORMAT, "not a regular file");
}

/* A file with something of everything, a few hundred bytes long. */
static uint8_t *rich_image(size_t *n, size_t *needed) {
    gguf_writer *w = new_writer();
    put_all_types(w);
    put_nested(w, "nested", 3);
    gguf_writer_alignment(w, 32);
    put_tensor(w, "one");
    put_tensor(w, "two");
    const char *path = finish(w, "rich.gguf");
    gguf *g = open_good(path);
    const gguf_tensor *t = gguf_find_tensor(g, "two");
    *needed = (size_t)(t->offset + t->bytes);
    gguf_close(g);
    return fixture_read(path, n);
}

static void refuses_a_file_cut_anywhere(void **state) {
    (void)state;
    size_t n, needed;
    uint8_t *image = rich_image(&n, &needed);
    for (size_t cut = 0; cut < needed; cut++) {
        gguf *g;
        why[0] = '\0';
        assert_true(gguf_memory_open(&g, image, cut, why, sizeof(why)) < 0);
        assert_null(g);
        assert_true(strlen(why) > 20);
    }
    gguf *g;
    assert_int_equal(gguf_memory_open(&g, image, needed, why, sizeof(why)), 0);
    gguf_memory_close(g);
    free(image);
}

static void survives_any_byte_being_another(void **state) {
    (void)state;
    size_t n, needed;
    uint8_t *image = rich_image(&n, &needed);
    unsigned opened = 0, refused = 0;
    for (size_t at = 0; at < n; at++) {
        const uint8_t right = image[at];
        for (unsigned change = 1; change < 256; change += change < 8 ? 1 : 7) {
            gguf *g;
            image[at] = (uint8_t)(right ^ change);
            if (gguf_memory_open(&g, image, n, why, sizeof(why)) < 0) {
                refused++;
                continue;
            }
            gguf_memory_walk(g);
            gguf_memory_close(g);
            opened++;
        }
        image[at] = right;
    }
    assert_true(opened > 0 && refused > 0);
    free(image);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_type_of_value),
        cmocka_unit_test(lists_keys_in_the_files_order),
        cmocka_unit_test(refuses_integers_that_do_not_fit),
        cmocka_unit_test(names_the_type_found_and_the_one_wanted),
        cmocka_unit_test(reads_arrays_of_integers_of_any_width),
        cmocka_unit_test(reads_arrays_of_strings_and_floats),
        cmocka_unit_test(steps_over_nested_arrays),
        cmocka_unit_test(refuses_arrays_nested_too_deep),
        cmocka_unit_test(refuses_values_that_are_none),
        cmocka_unit_test(refuses_a_key_that_is_there_twice),
        cmocka_unit_test(shows_no_control_characters_of_a_file),
        cmocka_unit_test(refuses_counts_the_file_cannot_hold),
        cmocka_unit_test(refuses_array_lengths_the_file_cannot_hold),
        cmocka_unit_test(refuses_string_lengths_past_the_end),
        cmocka_unit_test(finds_tensors_by_name),
        cmocka_unit_test(reads_pieces_of_a_tensor),
        cmocka_unit_test(says_when_a_file_has_shrunk),
        cmocka_unit_test(places_tensors_by_the_files_alignment),
        cmocka_unit_test(refuses_alignments_that_are_none),
        cmocka_unit_test(refuses_a_tensor_that_is_there_twice),
        cmocka_unit_test(names_a_tensor_of_unknown_type),
        cmocka_unit_test(refuses_impossible_shapes),
        cmocka_unit_test(reads_version_2_and_refuses_others),
        cmocka_unit_test(refuses_what_is_no_model_file),
        cmocka_unit_test(refuses_a_file_cut_anywhere),
        cmocka_unit_test(survives_any_byte_being_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
