/* jinja_function.c - functions that every template may call. */
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

#define FUNCTION(name)                                                         \
    static int name(run *r, value self, const value *args,                     \
                    const call_args *all, value *out)
#define UNUSED (void)r, (void)self, (void)args, (void)all

/* ---- range ---- */

/* How many numbers; UINT64_MAX for more than can be counted. */
static uint64_t range_count(int64_t start, int64_t stop, int64_t step) {
    bool up = step > 0;
    if (up ? start >= stop : start <= stop) return 0;
    uint64_t distance = up ? (uint64_t)stop - (uint64_t)start
                           : (uint64_t)start - (uint64_t)stop;
    uint64_t stride = up ? (uint64_t)step : 0 - (uint64_t)step;
    return (distance - 1) / stride + 1;
}

FUNCTION(range) {
    UNUSED;
    int64_t start, stop, step;
    bool one = !arg_given(args[1]);
    int rc = arg_integer(r, "range()", one ? value_int(0) : args[0], 0, &start);
    if (rc == 0)
        rc = arg_integer(r, "range()", one ? args[0] : args[1], 0, &stop);
    if (rc == 0) rc = arg_integer(r, "range()", args[2], 1, &step);
    if (rc < 0) return rc;
    if (step == 0) return run_raise(r, "range() arg 3 must not be zero");
    uint64_t n = range_count(start, stop, step);
    if (n > JINJA_MAX_RANGE)
        return run_fail(r, ERR_TOO_LARGE,
                        "Range too big. The sandbox blocks ranges larger than "
                        "MAX_RANGE (%d).",
                        JINJA_MAX_RANGE);
    value_range *made = run_alloc(r, 1, sizeof(*made));
    if (made == NULL) return run_full(r);
    *made = (value_range){start, stop, step, (size_t)n};
    *out = (value){.type = VALUE_RANGE, .as.range = made};
    return 0;
}

/* ---- dict and namespace ---- */

static int add_pairs(run *r, value from, dict *to) {
    seq *s;
    int rc = value_items(r, from, &s);
    for (size_t i = 0; rc == 0 && i < s->n; i++) {
        seq *pair;
        rc = value_items(r, s->items[i], &pair);
        if (rc == 0 && pair->n != 2)
            rc = run_raise(r, "a dict is made of pairs");
        if (rc == 0) rc = dict_set(r, to, pair->items[0], pair->items[1]);
    }
    return rc;
}

static int add_all(run *r, const dict *from, dict *to) {
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < from->n; i++)
        rc = dict_set(r, to, from->entries[i].key, from->entries[i].item);
    return rc < 0 ? rc : run_steps(r, from->n);
}

FUNCTION(make_dict) {
    UNUSED;
    if (all->n > 1)
        return run_raise(r, "dict expected at most 1 argument, got %zu",
                         all->n);
    int rc = value_dict(r, all->n_named, out);
    for (size_t i = 0; rc == 0 && i < all->n; i++) {
        value from = all->items[i];
        rc = from.type == VALUE_DICT || from.type == VALUE_NAMESPACE
                 ? add_all(r, from.as.dict, out->as.dict)
                 : add_pairs(r, from, out->as.dict);
    }
    for (size_t i = 0; rc == 0 && i < all->n_named; i++)
        rc = dict_set(r, out->as.dict, all->named[i].name, all->named[i].v);
    return rc;
}

FUNCTION(make_namespace) {
    int rc = make_dict(r, self, args, all, out);
    out->type = VALUE_NAMESPACE;
    return rc;
}

/* ---- joiner and cycler ---- */

FUNCTION(joiner) {
    UNUSED;
    value sep;
    int rc = arg_text(r, "joiner()", args[0], ", ", &sep);
    if (rc == 0) rc = value_seq(r, VALUE_JOINER, 1, out);
    if (rc == 0) out->as.seq->items[0] = sep;
    return rc;
}

FUNCTION(cycler) {
    UNUSED;
    if (all->n == 0)
        return run_raise(r, "at least one item has to be provided");
    int rc = value_seq(r, VALUE_CYCLER, all->n, out);
    for (size_t i = 0; rc == 0 && i < all->n; i++)
        out->as.seq->items[i] = all->items[i];
    return rc;
}

/* ---- what chat templates are given beside Jinja's own ---- */

FUNCTION(raise_exception) {
    UNUSED;
    value text;
    (void)out;
    int rc = run_str(r, args[0], &text);
    if (rc < 0) return rc;
    return run_raise(r, "the template raises: %.*s", (int)text.len,
                     text.as.text);
}

/* One directive, behind its %: a flag of the C library and a letter. */
static int put_time(run *r, const char *s, size_t n, size_t *used) {
    static const char letters[] = "aAwdbBmyYHIpMSjUWcxXGuVCDeFhkRrTnt%lPs";
    char form[4] = "%", text[128];
    size_t at = 0;
    if (n > 0 && memchr("-_0^#", s[0], 5) != NULL) form[1] = s[at++];
    if (at >= n) return run_raise(r, "strftime_now: the format is cut off");
    *used = at + 1;
    if (s[at] == 'f') return run_put(r, "000000", 6);
    if (s[at] == 'z' || s[at] == 'Z') return 0; /* a time without a zone */
    if (memchr(letters, s[at], sizeof(letters) - 1) == NULL)
        return run_fail(r, ERR_UNSUPPORTED, "strftime_now: %%%c", s[at]);
    form[at + 1] = s[at];
    form[at + 2] = '\0';
    return run_put(r, text, strftime(text, sizeof(text), form, &r->now));
}

FUNCTION(strftime_now) {
    UNUSED;
    value format;
    size_t mark = run_mark(r), used = 0;
    int rc = arg_text(r, "strftime_now()", args[0], NULL, &format);
    for (size_t at = 0; rc == 0 && at < format.len;) {
        if (format.as.text[at] != '%') {
            rc = run_put(r, format.as.text + at++, 1);
            continue;
        }
        at++;
        rc = put_time(r, format.as.text + at, format.len - at, &used);
        at += rc == 0 ? used : 0;
    }
    return rc < 0 ? rc : run_take(r, mark, out);
}

static const builtin items[] = {
    {"range", "start stop step", 1, range},
    {"dict", "*", 0, make_dict},
    {"namespace", "*", 0, make_namespace},
    {"joiner", "sep", 0, joiner},
    {"cycler", "*", 0, cycler},
    {"raise_exception", "message", 1, raise_exception},
    {"strftime_now", "format", 1, strftime_now},
    {"lipsum", "*", 0, NULL},
};

const builtin_table builtin_functions = {items, ARRAY_LEN(items)};
