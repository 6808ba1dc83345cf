/* test_chat_template.c - a model's own template: where it is found, what it is
 * given, and what a model without one says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/chat_template.h"
#include "engine/err.h"
#include "tests/support/gguf_writer.h"

#define SHOW                                                                   \
    "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }};"      \
    "{% endfor %}{{ tools }}{{ extra }}{{ eos_token }}"

static const char *const tokens[] = {"<unk>", "<s>", "</s>"};

/* A model's file with these templates (NULL: none), opened. */
static int open_model(chat_template **out, const char *plain,
                      const char *tool_use, char *why, size_t why_size) {
    char path[] = "/tmp/test_chat_template.XXXXXX";
    gguf_writer *w = gguf_writer_new();
    gguf *g;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    gguf_writer_string(w, "general.architecture", "llama");
    if (plain != NULL) gguf_writer_string(w, CHAT_TEMPLATE_KEY, plain);
    if (tool_use != NULL)
        gguf_writer_string(w, CHAT_TEMPLATE_KEY ".tool_use", tool_use);
    gguf_writer_strings(w, "tokenizer.ggml.tokens", 3, tokens);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
    assert_int_equal(gguf_writer_finish(w, path), 0);
    gguf_writer_free(w);
    assert_int_equal(gguf_open(&g, path, why, why_size), 0);
    unlink(path);
    int rc = chat_template_from_model(out, g, why, why_size);
    gguf_close(g);
    return rc;
}

static void renders(const chat_template *t, const char *request,
                    const char *expected) {
    char why[256] = "", *out;
    size_t len;
    json_t *json = json_loads(request, 0, NULL);
    assert_non_null(json);
    int rc = chat_template_render(t, json, NULL, &out, &len, why, sizeof(why));
    assert_string_equal(why, "");
    assert_int_equal(rc, 0);
    assert_string_equal(out, expected);
    free(out);
    json_decref(json);
}

static void takes_template_and_tokens_from_the_model(void **state) {
    chat_template *t;
    char why[256] = "";
    (void)state;
    assert_int_equal(open_model(&t, SHOW, NULL, why, sizeof(why)), 0);
    renders(t, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}",
            "<s>user:Hi;None</s>");
    chat_template_free(t);
}

static void uses_the_variant_for_tools(void **state) {
    chat_template *t;
    char why[256] = "";
    (void)state;
    assert_int_equal(open_model(&t, "plain", "with", why, sizeof(why)), 0);
    renders(t, "{\"messages\":[]}", "plain");
    renders(t, "{\"messages\":[],\"tools\":null}", "plain");
    renders(t, "{\"messages\":[],\"tools\":[1]}", "with");
    chat_template_free(t);
}

static void makes_the_keys_of_a_request_variables(void **state) {
    chat_template *t;
    char why[256] = "";
    (void)state;
    assert_int_equal(
        chat_template_from_source(&t, SHOW, strlen(SHOW), why, sizeof(why)), 0);
    renders(t, "{\"messages\":[],\"extra\":\"x\"}", "Nonex");
    renders(t, "{\"messages\":[],\"chat_template_kwargs\":{\"extra\":5}}",
            "None5");
    assert_int_equal(chat_template_set_tokens(t, "[", "]"), 0);
    renders(t, "{\"messages\":[]}", "[None]");
    renders(t, "{\"messages\":[],\"bos_token\":\"b\"}", "bNone]");
    chat_template_free(t);
    chat_template_free(NULL);
}

static void says_which_key_is_missing_or_wrong(void **state) {
    chat_template *t;
    char why[256] = "";
    (void)state;
    assert_int_equal(open_model(&t, NULL, NULL, why, sizeof(why)),
                     ERR_UNSUPPORTED);
    assert_null(t);
    assert_non_null(strstr(why, CHAT_TEMPLATE_KEY));
    assert_int_equal(open_model(&t, "ok", "{% if", why, sizeof(why)),
                     ERR_FORMAT);
    assert_null(t);
    assert_non_null(strstr(why, CHAT_TEMPLATE_KEY ".tool_use: line 1"));
}

static void has_a_form_to_fall_back_to(void **state) {
    chat_template *t;
    char why[256] = "";
    (void)state;
    assert_int_equal(chat_template_from_source(&t, chat_template_chatml,
                                               strlen(chat_template_chatml),
                                               why, sizeof(why)),
                     0);
    renders(t,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
            "\"add_generation_prompt\":true}",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    chat_template_free(t);
}

static void wants_an_object(void **state) {
    chat_template *t;
    char why[256] = "", *out;
    size_t len;
    json_t *list = json_array();
    (void)state;
    assert_int_equal(chat_template_from_source(&t, "a", 1, why, sizeof(why)),
                     0);
    assert_int_equal(
        chat_template_render(t, list, NULL, &out, &len, why, sizeof(why)),
        ERR_USAGE);
    assert_null(out);
    json_decref(list);
    chat_template_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_template_and_tokens_from_the_model),
        cmocka_unit_test(uses_the_variant_for_tools),
        cmocka_unit_test(makes_the_keys_of_a_request_variables),
        cmocka_unit_test(says_which_key_is_missing_or_wrong),
        cmocka_unit_test(has_a_form_to_fall_back_to),
        cmocka_unit_test(wants_an_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
