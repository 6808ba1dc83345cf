/* test_gguf_split.c - split models, and model files of other makers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/gguf.h"
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/fixture.h"
#include "tests/support/gguf_writer.h"

static char why[512];

static const float four_values[4] = {1, 2, 3, 4};
static const uint64_t two_by_two[2] = {2, 2};

static gguf *open_good(const char *path) {
    gguf *g;
    why[0] = '\0';
    int rc = gguf_open(&g, path, why, sizeof(why));
    if (rc < 0) print_message("%s\n", why);
    assert_int_equal(rc, 0);
    return g;
}

typedef struct {
    const char *name;
    uint32_t number, count, n_tensors;
    const char *tensor;
} part;

static const char *write_part(const part *p) {
    gguf_writer *w = gguf_writer_new();
    assert_non_null(w);
    const uint16_t number = (uint16_t)p->number, count = (uint16_t)p->count;
    const int32_t n_tensors = (int32_t)p->n_tensors;
    if (p->number == 0) gguf_writer_string(w, "general.name", "parts");
    gguf_writer_value(w, "split.no", GGUF_U16, &number);
    gguf_writer_value(w, "split.count", GGUF_U16, &count);
    gguf_writer_value(w, "split.tensors.count", GGUF_I32, &n_tensors);
    gguf_writer_tensor(w, p->tensor, WEIGHT_F32, 2, two_by_two, four_values);
    const char *path = fixture_path(p->name);
    assert_int_equal(gguf_writer_finish(w, path), 0);
    gguf_writer_free(w);
    return path;
}

static const part good_parts[3] = {
    {"m-00001-of-00003.gguf", 0, 3, 3, "a"},
    {"m-00002-of-00003.gguf", 1, 3, 3, "b"},
    {"m-00003-of-00003.gguf", 2, 3, 3, "c"},
};

/* Write three good parts, one of them replaced; the path of the first. */
static const char *write_parts(const part *instead, size_t index) {
    const char *first = NULL;
    for (size_t i = 0; i < 3; i++) {
        bool replace = instead != NULL && i == index;
        const char *path = write_part(replace ? instead : &good_parts[i]);
        if (i == 0) first = path;
    }
    return first;
}

static void joins_the_parts_of_a_split_model(void **state) {
    (void)state;
    gguf *g = open_good(write_parts(NULL, 0));
    gguf_string name;

    assert_int_equal(gguf_n_files(g), 3);
    assert_int_equal(gguf_n_tensors(g), 3);
    assert_int_equal(
        gguf_get_string(g, "general.name", &name, why, sizeof(why)), 0);
    const gguf_tensor *t = gguf_find_tensor(g, "c");
    float out[4];
    assert_int_equal(t->file, 2);
    assert_memory_equal(gguf_data(g, t), four_values, 16);
    assert_int_equal(gguf_read(g, t, 0, 16, out), 0);
    assert_memory_equal(out, four_values, 16);
    assert_non_null(strstr(gguf_file_path(g, 2), "m-00003-of-00003.gguf"));
    size_t head_bytes;
    assert_memory_equal(gguf_head(g, 1, &head_bytes), "GGUF", 4);
    assert_true(head_bytes > 24 && head_bytes < gguf_file_bytes(g, 1));
    gguf_close(g);
}

/* The sentence may name any of the parts. */
static void refuse_parts(const char *first, int code, const char *text) {
    gguf *g;
    assert_int_equal(gguf_open(&g, first, why, sizeof(why)), code);
    assert_null(g);
    if (strstr(why, text) == NULL) print_message("said: %s\n", why);
    assert_non_null(strstr(why, text));
}

static void refuses_parts_that_do_not_fit(void **state) {
    (void)state;
    static const struct {
        part instead;
        size_t index;
        const char *text;
    } cases[] = {
        {{"m-00002-of-00003.gguf", 2, 3, 3, "b"}, 1, "split.no is 2, not 1"},
        {{"m-00003-of-00003.gguf", 2, 4, 3, "c"}, 2, "split.count is 4, not 3"},
        {{"m-00003-of-00003.gguf", 2, 3, 9, "c"},
         2,
         "split.tensors.count is 9, not 3"},
        {{"m-00002-of-00003.gguf", 1, 3, 3, "a"},
         1,
         "the tensor 'a' is there twice"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        refuse_parts(write_parts(&cases[i].instead, cases[i].index), ERR_FORMAT,
                     cases[i].text);
    }
}

static void refuses_parts_that_hold_too_few_tensors(void **state) {
    (void)state;
    const char *first = NULL;
    for (size_t i = 3; i-- > 0;) {
        part p = good_parts[i];
        p.n_tensors = 4;
        first = write_part(&p);
    }
    refuse_parts(first, ERR_FORMAT,
                 "hold 3 tensors, but split.tensors.count is 4");
}

static void refuses_a_split_model_with_a_part_missing(void **state) {
    (void)state;
    const char *first = write_parts(NULL, 0);
    assert_int_equal(unlink(fixture_path("m-00002-of-00003.gguf")), 0);
    refuse_parts(first, -ENOENT, "part 2 of 3 is missing");
    refuse_parts(fixture_path("m-00003-of-00003.gguf"), ERR_USAGE,
                 "part 3 of 3; open the first part");
}

static void refuses_a_first_part_under_another_name(void **state) {
    (void)state;
    const part odd = {"odd.gguf", 0, 3, 3, "a"};
    refuse_parts(write_part(&odd), ERR_FORMAT, "-00001-of-00003.gguf");
    const part many = {"many.gguf", 0, 5000, 3, "a"};
    refuse_parts(write_part(&many), ERR_FORMAT, "split.count is 5000");
}

/* ---- files of other makers ---- */

static void opens_files_of_other_makers(void **state) {
    (void)state;
    static const char *const names[] = {
        "golden/logits/mixtral/model.gguf",
        "golden/logits/qwen3moe-q8_0/model.gguf",
        "golden/logits/gpt-oss-mxfp4_moe/model.gguf",
        "golden/logits/deepseek-v3-256-q4_k_m/model.gguf",
        "golden/logits/mixtral256-q2_k/model.gguf",
        "golden/logits/qwen3moe256-iq4_xs/model.gguf",
        "golden/split/mixtral-00001-of-00003.gguf",
        "golden/tokenizer/vocab-llama-spm.gguf",
        "golden/tokenizer/vocab-qwen3.gguf",
    };
    if (fixture_shared("golden", "9 GGUF files of other makers") == NULL) {
        skip();
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *path = fixture_shared(names[i], "1 GGUF file");
        if (path == NULL) continue;
        gguf *g = open_good(path);
        assert_true(gguf_n_keys(g) > 3);
        if (strstr(path, "logits") != NULL) {
            assert_non_null(gguf_find_tensor(g, "token_embd.weight"));
        }
        gguf_close(g);
    }
}

static void sees_the_same_tensors_in_a_split_model(void **state) {
    (void)state;
    const char *whole_path = fixture_shared("golden/logits/mixtral/model.gguf",
                                            "1 comparison of split files");
    if (whole_path == NULL) skip();
    gguf *whole = open_good(whole_path);
    gguf *parts = open_good(fixture_shared(
        "golden/split/mixtral-00001-of-00003.gguf", "1 split file"));

    assert_int_equal(gguf_n_tensors(whole), gguf_n_tensors(parts));
    for (size_t i = 0; i < gguf_n_tensors(whole); i++) {
        const gguf_tensor *a = gguf_tensor_at(whole, i);
        char name[128];
        snprintf(name, sizeof(name), "%.*s", (int)a->name.len, a->name.data);
        const gguf_tensor *b = gguf_find_tensor(parts, name);
        assert_non_null(b);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(gguf_data(whole, a), gguf_data(parts, b),
                            (size_t)a->bytes);
    }
    gguf_close(whole);
    gguf_close(parts);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joins_the_parts_of_a_split_model),
        cmocka_unit_test(refuses_parts_that_do_not_fit),
        cmocka_unit_test(refuses_parts_that_hold_too_few_tensors),
        cmocka_unit_test(refuses_a_split_model_with_a_part_missing),
        cmocka_unit_test(refuses_a_first_part_under_another_name),
        cmocka_unit_test(opens_files_of_other_makers),
        cmocka_unit_test(sees_the_same_tensors_in_a_split_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
