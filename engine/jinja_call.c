/* jinja_call.c - binding arguments to parameters, and calling values. */
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_loop.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

/* ---- finding ---- */

static const builtin *find(const builtin_table *table, value name) {
    for (size_t i = 0; i < table->n; i++) {
        if (value_is_text(name, table->items[i].name)) return &table->items[i];
    }
    return NULL;
}

const builtin *builtin_filter(value name) {
    const builtin_table *const tables[] = {
        &builtin_text_filters, &builtin_number_filters, &builtin_list_filters,
        &builtin_pick_filters};
    const builtin *b = NULL;
    for (size_t i = 0; b == NULL && i < ARRAY_LEN(tables); i++)
        b = find(tables[i], name);
    return b;
}

const builtin *builtin_test(value name) {
    return find(&builtin_tests, name);
}

const builtin *builtin_function(value name) {
    return find(&builtin_functions, name);
}

const builtin *builtin_method(value v, value name) {
    const builtin *b = NULL;
    switch ((value_type)v.type) {
    case VALUE_TEXT:
        b = find(&builtin_text_methods, name);
        return b != NULL ? b : find(&builtin_search_methods, name);
    case VALUE_DICT:
        return find(&builtin_dict_methods, name);
    case VALUE_LIST:
        return find(&builtin_list_methods, name);
    case VALUE_TUPLE:
        return find(&builtin_tuple_methods, name);
    case VALUE_LOOP:
        return find(&builtin_loop_methods, name);
    case VALUE_CYCLER:
        return find(&builtin_cycler_methods, name);
    case VALUE_FLOAT:
    case VALUE_INT:
        return find(&builtin_number_methods, name);
    default:
        return NULL;
    }
}

/* ---- binding ---- */

/* The index of a parameter; n_params if there is none of that name. */
static size_t param_index(const char *params, value name, size_t *n_params) {
    size_t index = SIZE_MAX, i = 0;
    for (const char *at = params; *at != '\0'; i++) {
        size_t len = strcspn(at, " ");
        if (name.type == VALUE_TEXT && len == name.len &&
            memcmp(at, name.as.text, len) == 0)
            index = i;
        at += len + (at[len] == ' ');
    }
    *n_params = i;
    return index != SIZE_MAX ? index : i;
}

static int bind(run *r, const builtin *b, const char *kind,
                const call_args *args, value bound[BUILTIN_MAX_PARAMS]) {
    size_t n_params;
    (void)param_index(b->params, value_none(), &n_params);
    if (args->n > n_params)
        return run_raise(r, "%s '%s' takes at most %zu argument(s), %zu given",
                         kind, b->name, n_params, args->n);
    for (size_t i = 0; i < BUILTIN_MAX_PARAMS; i++)
        bound[i] = i < args->n ? args->items[i] : value_missing();
    for (size_t i = 0; i < args->n_named; i++) {
        value name = args->named[i].name;
        size_t at = param_index(b->params, name, &n_params);
        if (at == n_params || arg_given(bound[at]))
            return run_raise(r, "%s '%s' cannot take an argument '%.*s'", kind,
                             b->name, (int)size_min(name.len, 40),
                             name.as.text);
        bound[at] = args->named[i].v;
    }
    for (size_t i = 0; i < b->required; i++) {
        if (!arg_given(bound[i]))
            return run_raise(r, "%s '%s' wants %zu argument(s) at least", kind,
                             b->name, b->required);
    }
    return 0;
}

int builtin_call(run *r, const builtin *b, const char *kind, value self,
                 const call_args *args, value *out) {
    value bound[BUILTIN_MAX_PARAMS];
    if (b->call == NULL)
        return run_fail(r, ERR_UNSUPPORTED, "%s '%s' is not supported", kind,
                        b->name);
    if (strcmp(b->params, "*") == 0) return b->call(r, self, NULL, args, out);
    int rc = bind(r, b, kind, args, bound);
    return rc < 0 ? rc : b->call(r, self, bound, args, out);
}

/* ---- calling ---- */

static int joiner_call(run *r, value joiner, const call_args *args,
                       value *out) {
    seq *s = joiner.as.seq; /* its one item is the separator */
    if (args->n + args->n_named > 0)
        return run_raise(r, "a joiner takes no arguments");
    *out = s->at == 0 ? value_text("", 0) : s->items[0];
    s->at = 1;
    return 0;
}

int value_call(run *r, value callee, const call_args *args, value *out) {
    const method *m = callee.as.method;
    switch ((value_type)callee.type) {
    case VALUE_FUNCTION:
        return builtin_call(r, callee.as.builtin, "function", value_none(),
                            args, out);
    case VALUE_METHOD:
        return builtin_call(r, m->builtin, "method", m->self, args, out);
    case VALUE_MACRO:
        return macro_call(r, callee.as.macro, args, out);
    case VALUE_LOOP:
        return loop_call(r, callee.as.loop, args, out);
    case VALUE_JOINER:
        return joiner_call(r, callee, args, out);
    case VALUE_UNDEFINED:
        return run_undefined(r, callee);
    default:
        return run_raise(r, "'%s' object is not callable",
                         value_type_name(callee));
    }
}

/* ---- reading arguments ---- */

int arg_integer(run *r, const char *what, value v, int64_t fallback,
                int64_t *out) {
    *out = fallback;
    if (!arg_given(v)) return 0;
    if (!value_is_integer(v))
        return run_raise(r, "%s: an integer is wanted, not %s", what,
                         value_type_name(v));
    *out = value_integer(v);
    return 0;
}

int arg_text(run *r, const char *what, value v, const char *fallback,
             value *out) {
    *out = v;
    if (!arg_given(v) && fallback != NULL) *out = value_string(fallback);
    if (out->type == VALUE_TEXT) return 0;
    return run_raise(r, "%s: a text is wanted, not %s", what,
                     value_type_name(v));
}

/* One step of a path: a number where it is all digits. */
static int step_of(run *r, value v, const char *part, size_t n, value *out) {
    int64_t index = 0;
    bool digits = n > 0 && n < 18;
    for (size_t i = 0; i < n && digits; i++) {
        digits = part[i] >= '0' && part[i] <= '9';
        index = index * 10 + (part[i] - '0');
    }
    return run_item(r, v, digits ? value_int(index) : value_text(part, n), out);
}

int arg_attribute(run *r, value v, value path, value fallback, value *out) {
    *out = v;
    if (!arg_given(path)) return 0;
    if (path.type != VALUE_TEXT) return run_item(r, v, path, out);
    const char *at = path.as.text;
    size_t left = path.len;
    for (;;) {
        size_t n = 0;
        while (n < left && at[n] != '.')
            n++;
        int rc = step_of(r, *out, at, n, out);
        if (rc == 0 && out->type == VALUE_UNDEFINED &&
            fallback.type != VALUE_NONE)
            *out = fallback;
        if (rc < 0 || n == left) return rc;
        at += n + 1;
        left -= n + 1;
    }
}
