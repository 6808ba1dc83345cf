/* test_jinja.c - the template language: what it prints, what it refuses and by
 * what sentence, and that no template gets past its limits.
 *
 * (tests/golden/test_jinja_differential.py compares far more with Jinja.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja.h"
#include "engine/util.h"

static const char request[] =
    "{\"n\":7,\"s\":\"Gr\\u00fc\\u00dfe\",\"l\":[3,1,2],"
    "\"d\":{\"b\":1,\"A\":[true,null,0.5]},"
    "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}";

static const jinja_limits small = {.steps = 200000,
                                   .memory_bytes = (size_t)4 << 20,
                                   .output_bytes = (size_t)64 << 10};

/* The code, and the text or the sentence in `out`. */
static int render_with(const char *source, const jinja_limits *limits,
                       char *out, size_t out_size) {
    jinja *t;
    char *text;
    size_t len;
    jinja_input in = {.limits = *limits,
                      .now = {.tm_year = 126, .tm_mon = 2, .tm_mday = 5}};

    int rc = jinja_new(&t, source, strlen(source), out, out_size);
    if (rc < 0) {
        assert_null(t);
        return rc;
    }
    json_t *variables = json_loads(request, 0, NULL);
    assert_non_null(variables);
    in.variables = variables;
    rc = jinja_render(t, &in, &text, &len, out, out_size);
    if (rc == 0) {
        assert_int_equal(strlen(text), len);
        assert_true(len < out_size);
        memcpy(out, text, len + 1);
    }
    free(text);
    json_decref(variables);
    jinja_free(t);
    return rc;
}

static int render(const char *source, char *out, size_t out_size) {
    const jinja_limits limits = JINJA_DEFAULT_LIMITS;
    return render_with(source, &limits, out, out_size);
}

static void gives(const char *source, const char *expected) {
    char out[1024] = "";
    int rc = render(source, out, sizeof(out));
    if (rc < 0) print_error("%s: %s\n", source, out);
    assert_int_equal(rc, 0);
    assert_string_equal(out, expected);
}

static void fails(const char *source, int code, const char *word) {
    char why[1024] = "";
    int rc = render(source, why, sizeof(why));
    if (rc != code || strstr(why, word) == NULL)
        print_error("%s: %d %s\n", source, rc, why);
    assert_int_equal(rc, code);
    assert_non_null(strstr(why, word));
}

static void stops(const char *source, const char *word) {
    char why[1024] = "";
    int rc = render_with(source, &small, why, sizeof(why));
    if (rc != ERR_TOO_LARGE || strstr(why, word) == NULL)
        print_error("%s: %d %s\n", source, rc, why);
    assert_int_equal(rc, ERR_TOO_LARGE);
    assert_non_null(strstr(why, word));
}

/* ---- the language ---- */

static void prints_values_as_python_does(void **state) {
    (void)state;
    gives("{{ [1, 2.0, none, true, 'a\\'b', {'k': (1,)}] }}",
          "[1, 2.0, None, True, \"a'b\", {'k': (1,)}]");
    gives("{{ 1e16 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 7 // -2 }} {{ -7 % 3 }}",
          "1e+16 0.30000000000000004 1e-05 -4 2");
    gives("{{ missing }}|{{ missing is defined }}", "|False");
}

static void counts_text_in_characters(void **state) {
    (void)state;
    gives("{{ s|length }} {{ s[2:4] }} {{ s[::-1] }} {{ s.upper() }}",
          "5 \xc3\xbc\xc3\x9f e\xc3\x9f\xc3\xbcrG GR\xc3\x9cSSE");
}

static void trims_white_space_around_tags(void **state) {
    (void)state;
    gives("a\n  {% if n %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc");
    gives("a \n {%- if n -%} \n b {%- endif %} c", "ab c");
    gives("  {%+ if n %}x{% endif +%}\ny", "  x\ny");
    gives("a\r\nb\r\n", "a\nb");
}

static void keeps_the_scopes_of_blocks(void **state) {
    (void)state;
    gives("{% set x = 1 %}{% for i in l %}{% set x = i %}{% endfor %}{{ x }}",
          "1");
    gives("{% set ns = namespace(x=1) %}{% for i in l %}{% set ns.x = i %}"
          "{% endfor %}{{ ns.x }}",
          "2");
    gives("{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}"
          "{{ m() }}",
          "2");
}

static void writes_json_with_keys_in_order(void **state) {
    (void)state;
    gives("{{ d|tojson }}", "{\"b\": 1, \"A\": [true, null, 0.5]}");
    gives("{{ d|tojson(indent=1) }}",
          "{\n \"b\": 1,\n \"A\": [\n  true,\n  null,\n  0.5\n ]\n}");
    gives("{{ s|tojson }}{{ s|tojson(ensure_ascii=true) }}",
          "\"Gr\xc3\xbc\xc3\x9f"
          "e\"\"Gr\\u00fc\\u00dfe\"");
}

static void sees_the_time_that_it_is_given(void **state) {
    (void)state;
    gives("{{ strftime_now('%Y-%m-%d') }}", "2026-03-05");
}

static void keeps_macros_of_blocks_that_ended(void **state) {
    (void)state;
    gives("{% set ns = namespace() %}{% for x in [] %}{% else %}{% set y = 5 %}"
          "{% macro m() %}{{ y }}{% endmacro %}{% set ns.m = m %}{% endfor %}"
          "{% for i in range(50) %}{% set z = i %}{% endfor %}{{ ns.m() }}",
          "5");
}

static void walks_lists_that_change_meanwhile(void **state) {
    (void)state;
    gives("{% set a = [1, 2, 3, 4] %}{% for x in a if a.pop() %}{{ x }}"
          "{% endfor %}",
          "12");
    gives("{% set a = [1, 2, 3] %}{% for x in a %}{% set _ = a.pop() %}{{ x }}"
          "{% endfor %}{{ a }}",
          "12[1]");
    gives("{% set a = [1] %}{% set _ = a.extend(a) %}{{ a }}", "[1, 1]");
}

/* ---- refusals ---- */

static void names_line_and_construct_that_is_unknown(void **state) {
    (void)state;
    fails("a\n{% nope %}", ERR_UNSUPPORTED, "line 2: unknown tag 'nope'");
    fails("\n\n{{ s|nope }}", ERR_UNSUPPORTED,
          "line 3: no filter named 'nope'");
    fails("{{ s is nope }}", ERR_UNSUPPORTED, "no test named 'nope'");
    fails("{% include 'x' %}", ERR_UNSUPPORTED, "'include'");
    fails("{{ s.encode() }}", ERR_UNSUPPORTED, "'encode'");
    fails("{{ lipsum() }}", ERR_UNSUPPORTED, "'lipsum'");
    gives("{% if false %}{{ s|nope }}{% include 'x' %}{% endif %}ok", "ok");
}

static void passes_on_what_a_template_raises(void **state) {
    (void)state;
    fails("\n{{ raise_exception('Roles must ' ~ 'alternate!') }}", ERR_USAGE,
          "line 2: the template raises: Roles must alternate!");
    fails("{{ missing.x }}", ERR_USAGE, "'missing' is undefined");
    fails("{{ d.zz.x }}", ERR_USAGE, "'dict object' has no attribute 'zz'");
    fails("{{ 1 + 'a' }}", ERR_USAGE, "unsupported operand");
    fails("{{ 1 // 0 }}", ERR_USAGE, "division by zero");
    fails("{{ none() }}", ERR_USAGE, "not callable");
}

static void refuses_bad_syntax_by_line(void **state) {
    static const char *const bad[] = {
        "{{",
        "{{ 1 +",
        "{% if n %}",
        "{% endif %}",
        "{{ (1 }}",
        "{{ 'a }}",
        "{% for %}",
        "{# a",
        "{{ 1) }}",
        "{% set %}",
        "{{ a b }}",
        "{% break %}",
        "{{ [1, }",
        "{{ ''' }}",
        "{{ 3i",
        "{{ '\\x4' }}",
        "{{ 99999999999999999999 }}",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        fails(bad[i], ERR_FORMAT, "line 1: ");
}

static void refuses_integers_that_do_not_fit(void **state) {
    (void)state;
    fails("{{ 9223372036854775807 + 1 }}", ERR_UNSUPPORTED, "64 bits");
    fails("{{ 2 ** 64 }}", ERR_UNSUPPORTED, "64 bits");
    fails("{{ (-9223372036854775807 - 1) // -1 }}", ERR_UNSUPPORTED, "64 bits");
    gives("{{ (-9223372036854775807 - 1) % -1 }}", "0");
}

/* ---- limits ---- */

static void ends_what_would_run_for_ever(void **state) {
    (void)state;
    stops("{% set a = [1] %}{% for x in a %}{% set _ = a.append(1) %}"
          "{% endfor %}",
          "steps");
    stops("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}"
          "{% endfor %}",
          "too");
    stops("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "deeper");
    stops("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "deeper");
}

static void bounds_memory_and_output(void **state) {
    (void)state;
    stops("{% for i in range(9999) %}0123456789{% endfor %}", "output");
    stops("{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
          "{% set ns.x = ns.x + ns.x %}{% endfor %}",
          "memory");
    stops("{{ 'a' * 100000000 }}", "output");
    stops("{{ [0] * 9223372036854775807 }}", "memory");
    stops("{{ range(99999999) }}", "100000");
    stops("{{ '%1000000d' % 1 }}", "wider");
}

static void bounds_values_that_contain_themselves(void **state) {
    (void)state;
    stops("{% set a = [] %}{% set _ = a.append(a) %}{{ a }}", "deeper");
    stops("{% set a = [] %}{% set _ = a.append(a) %}{{ a|tojson }}", "deeper");
    stops("{% set n = namespace() %}{% set n.a = n %}{{ n }}", "deeper");
    stops("{% set a = [] %}{% set b = [] %}{% set _ = a.append(a) %}"
          "{% set _ = b.append(b) %}{{ a == b }}",
          "deeper");
    stops("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}"
          "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x }}",
          "steps");
}

/* `n` times `part`, in a block of its own. */
static char *repeated(const char *part, size_t n) {
    size_t len = strlen(part);
    char *text = malloc(n * len + 1);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        memcpy(text + i * len, part, len);
    text[n * len] = '\0';
    return text;
}

static void bounds_the_nesting_of_syntax(void **state) {
    static const char *const parts[] = {
        "{{ (",
        "{{ [",
        "{% if n %}",
        "{% for x in l %}",
        "{{ not not not ",
        "{{ - - -",
        "{{ {1:",
    };
    char why[256];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        char *source = repeated(parts[i], 20000);
        int rc = render_with(source, &small, why, sizeof(why));
        assert_true(rc == ERR_FORMAT || rc == ERR_TOO_LARGE);
        free(source);
    }
}

static void bounds_long_sums_but_not_long_elif_chains(void **state) {
    char why[256], *part = repeated("+1", 5000), *elifs;
    char *source = malloc(200000);
    (void)state;
    assert_non_null(source);
    strcpy(stpcpy(stpcpy(source, "{{ 1"), part), " }}");
    assert_int_equal(render_with(source, &small, why, sizeof(why)),
                     ERR_TOO_LARGE);
    free(part);
    elifs = repeated("{% elif n == 1 %}", 1000);
    strcpy(stpcpy(stpcpy(source, "{% if n == 1 %}"), elifs),
           "{% else %}ok{% endif %}");
    gives(source, "ok");
    free(elifs);
    free(source);
}

#define STACK_BYTES ((size_t)2 << 20)

/* The deepest recursion that is allowed, on a thread with a small stack. */
static void *recurse(void *unused) {
    (void)unused;
    stops("{% macro m(x) %}{% if x %}{% for i in [1] %}{% set y %}"
          "{{ (m(x ~ '')|trim) + '' }}{% endset %}{{ y }}{% endfor %}"
          "{% endif %}{% endmacro %}{{ m('1') }}",
          "deeper");
    return NULL;
}

static void recurses_within_two_megabytes_of_stack(void **state) {
    pthread_attr_t attributes;
    pthread_t thread;
    (void)state;
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setstacksize(&attributes, STACK_BYTES), 0);
    assert_int_equal(pthread_create(&thread, &attributes, recurse, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attributes);
}

static void wants_an_object_of_variables(void **state) {
    jinja *t;
    char why[256], *out;
    size_t len;
    json_t *list = json_array();
    jinja_input in = {.variables = list, .limits = small};
    (void)state;
    assert_int_equal(jinja_new(&t, "a", 1, why, sizeof(why)), 0);
    assert_int_equal(jinja_render(t, &in, &out, &len, why, sizeof(why)),
                     ERR_USAGE);
    assert_null(out);
    json_decref(list);
    jinja_free(t);
    jinja_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_values_as_python_does),
        cmocka_unit_test(counts_text_in_characters),
        cmocka_unit_test(trims_white_space_around_tags),
        cmocka_unit_test(keeps_the_scopes_of_blocks),
        cmocka_unit_test(writes_json_with_keys_in_order),
        cmocka_unit_test(sees_the_time_that_it_is_given),
        cmocka_unit_test(keeps_macros_of_blocks_that_ended),
        cmocka_unit_test(walks_lists_that_change_meanwhile),
        cmocka_unit_test(names_line_and_construct_that_is_unknown),
        cmocka_unit_test(passes_on_what_a_template_raises),
        cmocka_unit_test(refuses_bad_syntax_by_line),
        cmocka_unit_test(refuses_integers_that_do_not_fit),
        cmocka_unit_test(ends_what_would_run_for_ever),
        cmocka_unit_test(bounds_memory_and_output),
        cmocka_unit_test(bounds_values_that_contain_themselves),
        cmocka_unit_test(bounds_the_nesting_of_syntax),
        cmocka_unit_test(bounds_long_sums_but_not_long_elif_chains),
        cmocka_unit_test(recurses_within_two_megabytes_of_stack),
        cmocka_unit_test(wants_an_object_of_variables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
