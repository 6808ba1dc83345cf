/* jinja_value.c - see jinja_value.h: making, asking, comparing, walking. */
#include "engine/jinja_value.h"

#include <math.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_chars.h"
#include "engine/jinja_loop.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

/* ---- making ---- */

value value_string(const char *zero_terminated) {
    return value_text(zero_terminated, strlen(zero_terminated));
}

int value_seq(run *r, value_type type, size_t n, value *out) {
    seq *s = run_alloc(r, 1, sizeof(*s));
    if (s == NULL) return run_full(r);
    s->n = s->capacity = n;
    s->items = n > 0 ? run_alloc(r, n, sizeof(*s->items)) : NULL;
    if (n > 0 && s->items == NULL) return run_full(r);
    *out = (value){.type = (uint8_t)type, .as.seq = s};
    return run_steps(r, n / 4);
}

int seq_insert(run *r, seq *s, size_t at, value v) {
    if (s->n == s->capacity) {
        size_t capacity = s->capacity * 2 + 8;
        value *items = run_alloc(r, capacity, sizeof(*items));
        if (items == NULL) return run_full(r);
        if (s->n > 0) memcpy(items, s->items, s->n * sizeof(*items));
        s->items = items;
        s->capacity = capacity;
    }
    memmove(s->items + at + 1, s->items + at, (s->n - at) * sizeof(*s->items));
    s->items[at] = v;
    s->n++;
    return run_steps(r, 1 + (s->n - at) / 16);
}

int value_append(run *r, value list, value v) {
    return seq_insert(r, list.as.seq, list.as.seq->n, v);
}

int seq_remove(run *r, seq *s, size_t at) {
    s->n--;
    memmove(s->items + at, s->items + at + 1, (s->n - at) * sizeof(*s->items));
    return run_steps(r, 1 + (s->n - at) / 16);
}

int value_pair(run *r, value first, value second, value *out) {
    int rc = value_seq(r, VALUE_TUPLE, 2, out);
    if (rc < 0) return rc;
    out->as.seq->items[0] = first;
    out->as.seq->items[1] = second;
    return 0;
}

static int new_undefined(run *r, undefined u, value *out) {
    undefined *kept = run_alloc(r, 1, sizeof(*kept));
    if (kept == NULL) return run_full(r);
    *kept = u;
    *out = (value){.type = VALUE_UNDEFINED, .as.undefined = kept};
    return 0;
}

int value_undefined(run *r, const char *owner, value name, value *out) {
    return new_undefined(r, (undefined){.owner = owner, .name = name}, out);
}

int value_undefined_because(run *r, const char *reason, value *out) {
    return new_undefined(r, (undefined){.reason = reason}, out);
}

int value_bound(run *r, value self, const builtin *b, value *out) {
    method *m = run_alloc(r, 1, sizeof(*m));
    if (m == NULL) return run_full(r);
    *m = (method){.self = self, .builtin = b};
    *out = (value){.type = VALUE_METHOD, .as.method = m};
    return 0;
}

/* ---- asking ---- */

bool value_is_integer(value v) {
    return v.type == VALUE_INT || v.type == VALUE_BOOL;
}

bool value_is_number(value v) {
    return value_is_integer(v) || v.type == VALUE_FLOAT;
}

int64_t value_integer(value v) {
    return v.type == VALUE_BOOL ? v.as.truth : v.as.integer;
}

double value_real(value v) {
    return v.type == VALUE_FLOAT ? v.as.real : (double)value_integer(v);
}

const char *value_type_name(value v) {
    static const char *const names[VALUE_TYPES] = {
        [VALUE_MISSING] = "missing",
        [VALUE_UNDEFINED] = "Undefined",
        [VALUE_NONE] = "NoneType",
        [VALUE_BOOL] = "bool",
        [VALUE_INT] = "int",
        [VALUE_FLOAT] = "float",
        [VALUE_TEXT] = "str",
        [VALUE_LIST] = "list",
        [VALUE_TUPLE] = "tuple",
        [VALUE_ITERATOR] = "generator",
        [VALUE_DICT] = "dict",
        [VALUE_RANGE] = "range",
        [VALUE_NAMESPACE] = "Namespace",
        [VALUE_FUNCTION] = "function",
        [VALUE_METHOD] = "method",
        [VALUE_MACRO] = "Macro",
        [VALUE_LOOP] = "LoopContext",
        [VALUE_CYCLER] = "Cycler",
        [VALUE_JOINER] = "Joiner",
    };
    return v.type == VALUE_VIEW ? v.as.seq->name : names[v.type];
}

bool value_length(value v, size_t *n) {
    switch ((value_type)v.type) {
    case VALUE_UNDEFINED:
        *n = 0;
        return true;
    case VALUE_TEXT:
        *n = chars_count(v.as.text, v.len);
        return true;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
        *n = v.as.seq->n;
        return true;
    case VALUE_DICT:
        *n = v.as.dict->n;
        return true;
    case VALUE_RANGE:
        *n = v.as.range->n;
        return true;
    case VALUE_LOOP:
        *n = loop_length(v.as.loop);
        return true;
    default:
        return false;
    }
}

bool value_truth(value v) {
    size_t n;
    switch ((value_type)v.type) {
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return v.as.truth;
    case VALUE_INT:
        return v.as.integer != 0;
    case VALUE_FLOAT:
        return v.as.real != 0.0;
    case VALUE_TEXT:
        return v.len > 0;
    default:
        return !value_length(v, &n) || n > 0;
    }
}

bool value_is_iterable(value v) {
    size_t n;
    return v.type == VALUE_ITERATOR || value_length(v, &n);
}

bool value_same(value a, value b) {
    if (a.type != b.type) return false;
    switch ((value_type)a.type) {
    case VALUE_NONE:
        return true;
    case VALUE_BOOL:
        return a.as.truth == b.as.truth;
    case VALUE_INT:
        return a.as.integer == b.as.integer;
    case VALUE_FLOAT:
        return a.as.real == b.as.real;
    case VALUE_TEXT:
        return a.as.text == b.as.text && a.len == b.len;
    default:
        return a.as.seq == b.as.seq; /* all are pointers */
    }
}

/* ---- comparing ---- */

static int compare_numbers(value a, value b) {
    if (value_is_integer(a) && value_is_integer(b)) {
        int64_t x = value_integer(a), y = value_integer(b);
        return (x > y) - (x < y);
    }
    /* 64 bits of mantissa hold either exactly */
    long double x = a.type == VALUE_FLOAT ? (long double)a.as.real
                                          : (long double)value_integer(a);
    long double y = b.type == VALUE_FLOAT ? (long double)b.as.real
                                          : (long double)value_integer(b);
    if (x != x || y != y) return 2;
    return (x > y) - (x < y);
}

/* By code point, which UTF-8 keeps as the order of bytes. */
static int compare_texts(value a, value b) {
    size_t n = size_min(a.len, b.len);
    int order = n > 0 ? memcmp(a.as.text, b.as.text, n) : 0;
    if (order == 0) return (a.len > b.len) - (a.len < b.len);
    return order < 0 ? -1 : 1;
}

static int equal_seqs(run *r, const seq *a, const seq *b, bool *equal) {
    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++) {
        int rc = value_equal(r, a->items[i], b->items[i], equal);
        if (rc < 0) return rc;
    }
    return 0;
}

static int equal_dicts(run *r, const dict *a, const dict *b, bool *equal) {
    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++) {
        const value *other;
        int rc = dict_find(r, b, a->entries[i].key, &other);
        *equal = other != NULL;
        if (rc == 0 && other != NULL)
            rc = value_equal(r, a->entries[i].item, *other, equal);
        if (rc < 0) return rc;
    }
    return 0;
}

static bool equal_ranges(const value_range *a, const value_range *b) {
    if (a->n != b->n || a->n == 0) return a->n == b->n;
    return a->start == b->start && (a->n == 1 || a->step == b->step);
}

int value_equal(run *r, value a, value b, bool *equal) {
    *equal = false;
    if (value_is_number(a) && value_is_number(b)) {
        *equal = compare_numbers(a, b) == 0;
        return 0;
    }
    if (a.type != b.type) return 0;
    int rc = run_enter(r);
    if (rc < 0) return rc;
    switch ((value_type)a.type) {
    case VALUE_TEXT:
        *equal = a.len == b.len && compare_texts(a, b) == 0;
        rc = run_steps(r, size_min(a.len, b.len) / 64);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
        rc = equal_seqs(r, a.as.seq, b.as.seq, equal);
        break;
    case VALUE_DICT:
        rc = equal_dicts(r, a.as.dict, b.as.dict, equal);
        break;
    case VALUE_RANGE:
        *equal = equal_ranges(a.as.range, b.as.range);
        break;
    case VALUE_UNDEFINED:
        *equal = true;
        break;
    default:
        *equal = value_same(a, b);
        break;
    }
    run_leave(r);
    return rc;
}

static int order_seqs(run *r, const seq *a, const seq *b, const char *sign,
                      int *order) {
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool equal;
        int rc = value_equal(r, a->items[i], b->items[i], &equal);
        if (rc < 0) return rc;
        if (!equal)
            return value_order(r, a->items[i], b->items[i], sign, order);
    }
    *order = (a->n > b->n) - (a->n < b->n);
    return 0;
}

int value_order(run *r, value a, value b, const char *sign, int *order) {
    if (value_is_number(a) && value_is_number(b)) {
        *order = compare_numbers(a, b);
        return 0;
    }
    if (a.type == VALUE_TEXT && b.type == VALUE_TEXT) {
        *order = compare_texts(a, b);
        return run_steps(r, size_min(a.len, b.len) / 64);
    }
    if (value_is_seq(a) && a.type == b.type) {
        int rc = run_enter(r);
        if (rc < 0) return rc;
        rc = order_seqs(r, a.as.seq, b.as.seq, sign, order);
        run_leave(r);
        return rc;
    }
    if (a.type == VALUE_UNDEFINED) return run_undefined(r, a);
    if (b.type == VALUE_UNDEFINED) return run_undefined(r, b);
    return run_raise(r, "'%s' not supported between instances of '%s' and '%s'",
                     sign, value_type_name(a), value_type_name(b));
}

int value_contains(run *r, value container, value item, bool *found) {
    seq *s;
    const value *at;

    *found = false;
    if (container.type == VALUE_DICT) {
        int rc = dict_find(r, container.as.dict, item, &at);
        *found = at != NULL;
        return rc;
    }
    if (container.type == VALUE_TEXT) {
        if (item.type != VALUE_TEXT)
            return run_raise(r,
                             "'in <string>' requires string as left operand, "
                             "not %s",
                             value_type_name(item));
        *found = item.len == 0 || memmem(container.as.text, container.len,
                                         item.as.text, item.len) != NULL;
        return run_steps(r, container.len / 64);
    }
    if (!value_is_iterable(container))
        return run_raise(r, "argument of type '%s' is not iterable",
                         value_type_name(container));
    int rc = value_items(r, container, &s);
    for (size_t i = 0; rc == 0 && !*found && i < s->n; i++)
        rc = value_equal(r, s->items[i], item, found);
    return rc;
}

/* ---- walking ---- */

static int text_items(run *r, value v, seq *s) {
    for (size_t i = 0, at = 0; i < s->n; i++) {
        int32_t c;
        size_t bytes = chars_at(v.as.text + at, v.len - at, &c);
        s->items[i] = value_text(v.as.text + at, bytes);
        at += bytes;
    }
    return run_steps(r, s->n);
}

static void dict_keys(const dict *d, seq *s) {
    for (size_t i = 0; i < d->n; i++)
        s->items[i] = d->entries[i].key;
}

static void range_items(const value_range *range, seq *s) {
    for (size_t i = 0; i < range->n; i++)
        s->items[i] = value_int(range->start + (int64_t)i * range->step);
}

/* What is left of an iterator, which is then at its end. */
static int rest_of(run *r, seq *iterator, seq **out) {
    seq *s = run_alloc(r, 1, sizeof(*s));
    if (s == NULL) return run_full(r);
    s->n = iterator->n - iterator->at;
    if (s->n > 0) s->items = iterator->items + iterator->at;
    iterator->at = iterator->n;
    *out = s;
    return 0;
}

int value_items(run *r, value v, seq **out) {
    value list;
    size_t n = 0;

    if (value_is_seq(v) || v.type == VALUE_VIEW) {
        *out = v.as.seq;
        return 0;
    }
    if (v.type == VALUE_ITERATOR) return rest_of(r, v.as.seq, out);
    if (v.type == VALUE_LOOP) return loop_rest(r, v.as.loop, out);
    if (!value_length(v, &n))
        return run_raise(r, "'%s' object is not iterable", value_type_name(v));
    int rc = value_seq(r, VALUE_LIST, n, &list);
    if (rc < 0) return rc;
    *out = list.as.seq;
    if (v.type == VALUE_TEXT) return text_items(r, v, *out);
    if (v.type == VALUE_DICT) dict_keys(v.as.dict, *out);
    if (v.type == VALUE_RANGE) range_items(v.as.range, *out);
    return 0;
}
