/* jinja_part.c - parts of values: attributes, items, slices.
 *
 * As in Jinja, `a.b` asks for what Python's type has (methods) before the item
 * named b, `a["b"]` the other way round; what neither has is undefined, and
 * only to ask an undefined value for anything is an error. */
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_chars.h"
#include "engine/jinja_loop.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

/* What Python's type of v has of that name, MISSING if nothing. */
static int own_attribute(run *r, value v, value name, value *out) {
    *out = value_missing();
    if (v.type == VALUE_NAMESPACE) {
        const value *item = dict_get(v.as.dict, name.as.text, name.len);
        if (item != NULL) *out = *item;
        return 0;
    }
    if (v.type == VALUE_LOOP) {
        int rc = loop_attribute(r, v.as.loop, name, out);
        if (rc < 0 || out->type != VALUE_MISSING) return rc;
    }
    if (v.type == VALUE_CYCLER && value_is_text(name, "current")) {
        *out = v.as.seq->items[v.as.seq->at];
        return 0;
    }
    if (v.type == VALUE_MACRO && value_is_text(name, "name")) {
        *out = v.as.macro->node->v;
        return 0;
    }
    bool is_group = v.type == VALUE_TUPLE && v.as.seq->name != NULL;
    if (is_group && value_is_text(name, "grouper")) {
        *out = v.as.seq->items[0];
        return 0;
    }
    if (is_group && value_is_text(name, "list")) {
        *out = v.as.seq->items[1];
        return 0;
    }
    const builtin *b = builtin_method(v, name);
    return b != NULL ? value_bound(r, v, b, out) : 0;
}

static const char *owner_name(value v) {
    return v.type == VALUE_NONE ? "None" : value_type_name(v);
}

int run_attribute(run *r, value v, value name, value *out) {
    if (v.type == VALUE_UNDEFINED) return run_undefined(r, v);
    int rc = own_attribute(r, v, name, out);
    if (rc < 0 || out->type != VALUE_MISSING) return rc;
    if (v.type == VALUE_DICT) {
        const value *item = dict_get(v.as.dict, name.as.text, name.len);
        if (item != NULL) {
            *out = *item;
            return 0;
        }
    }
    return value_undefined(r, owner_name(v), name, out);
}

/* ---- items ---- */

/* The place that an index means in n items; false: outside. */
static bool place(int64_t index, size_t n, size_t *at) {
    if (index < 0) index += (int64_t)n;
    *at = (size_t)index;
    return index >= 0 && (uint64_t)index < n;
}

static int char_at(run *r, value text, int64_t index, value *out) {
    size_t at, n = chars_count(text.as.text, text.len);
    if (!place(index, n, &at)) return 0;
    size_t begin = chars_offset(text.as.text, text.len, at);
    size_t end =
        begin + chars_offset(text.as.text + begin, text.len - begin, 1);
    *out = value_text(text.as.text + begin, end - begin);
    out->safe = text.safe;
    return run_steps(r, text.len / 64);
}

/* The item, MISSING if v has none there. */
static int own_item(run *r, value v, value index, value *out) {
    size_t at;
    *out = value_missing();
    if (v.type == VALUE_DICT) {
        const value *item;
        bool hashable = index.type != VALUE_LIST && index.type != VALUE_DICT &&
                        index.type != VALUE_NAMESPACE;
        if (!hashable) return 0;
        int rc = dict_find(r, v.as.dict, index, &item);
        if (rc == 0 && item != NULL) *out = *item;
        return rc;
    }
    if (!value_is_integer(index)) return 0;
    int64_t integer = value_integer(index);
    if (value_is_seq(v) && place(integer, v.as.seq->n, &at))
        *out = v.as.seq->items[at];
    if (v.type == VALUE_RANGE && place(integer, v.as.range->n, &at))
        *out = value_int(v.as.range->start + (int64_t)at * v.as.range->step);
    return v.type == VALUE_TEXT ? char_at(r, v, integer, out) : 0;
}

int run_item(run *r, value v, value index, value *out) {
    if (v.type == VALUE_UNDEFINED) return run_undefined(r, v);
    int rc = own_item(r, v, index, out);
    if (rc < 0 || out->type != VALUE_MISSING) return rc;
    if (index.type == VALUE_TEXT) rc = own_attribute(r, v, index, out);
    if (rc < 0 || out->type != VALUE_MISSING) return rc;
    return value_undefined(r, owner_name(v), index, out);
}

/* ---- slices ---- */

typedef struct {
    int64_t start, stop, step;
    size_t n;
} span;

/* Bring a bound into what can be indexed, as slice.indices() does. */
static int64_t clamp(value bound, int64_t missing, int64_t n, int64_t low,
                     int64_t high) {
    if (bound.type == VALUE_NONE) return missing;
    int64_t at = value_integer(bound);
    if (at < 0) at = at < -n ? low : at + n;
    return at < low ? low : at > high ? high : at;
}

static int span_of(run *r, const value bounds[3], size_t length, span *out) {
    int64_t n = (int64_t)length;
    int64_t step = bounds[2].type == VALUE_NONE ? 1 : value_integer(bounds[2]);
    if (step == 0) return run_raise(r, "slice step cannot be zero");
    if (step < -INT64_MAX) step = -INT64_MAX;
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    int64_t start = clamp(bounds[0], step < 0 ? high : low, n, low, high);
    int64_t stop = clamp(bounds[1], step < 0 ? low : high, n, low, high);
    int64_t distance = step < 0 ? start - stop : stop - start;
    int64_t stride = step < 0 ? -step : step;

    *out = (span){.start = start, .stop = stop, .step = step};
    if (distance > 0) out->n = (size_t)((distance - 1) / stride) + 1;
    return 0;
}

static int slice_text(run *r, value text, const span *s, value *out) {
    const char *t = text.as.text;
    size_t mark = run_mark(r);
    int rc = run_steps(r, text.len / 64);
    if (rc < 0) return rc;

    if (s->n == 0 || s->step == 1) {
        size_t begin = chars_offset(t, text.len, (size_t)s->start);
        size_t n = chars_offset(t + begin, text.len - begin, s->n);
        *out = value_text(t + begin, n);
        out->safe = text.safe;
        return 0;
    }
    seq *chars;
    rc = value_items(r, text, &chars);
    int64_t at = s->start;
    for (size_t i = 0; rc == 0 && i < s->n; i++, at += i < s->n ? s->step : 0)
        rc = run_put_text(r, chars->items[at]);
    if (rc == 0) rc = run_take(r, mark, out);
    out->safe = text.safe;
    return rc;
}

static int slice_seq(run *r, value v, const span *s, value *out) {
    const seq *from = v.as.seq;
    int rc = value_seq(r, (value_type)v.type, s->n, out);
    int64_t at = s->start;
    for (size_t i = 0; rc == 0 && i < s->n; i++, at += i < s->n ? s->step : 0)
        out->as.seq->items[i] = from->items[at];
    return rc;
}

static bool range_at(const value_range *range, int64_t index, int64_t *out) {
    return !__builtin_mul_overflow(index, range->step, out) &&
           !__builtin_add_overflow(*out, range->start, out);
}

static int slice_range(run *r, value v, const span *s, value *out) {
    const value_range *from = v.as.range;
    value_range *range = run_alloc(r, 1, sizeof(*range));
    if (range == NULL) return run_full(r);
    if (!range_at(from, s->start, &range->start) ||
        !range_at(from, s->stop, &range->stop) ||
        __builtin_mul_overflow(from->step, s->step, &range->step))
        return run_fail(r, ERR_UNSUPPORTED, "an integer of more than 64 bits");
    range->n = s->n;
    *out = (value){.type = VALUE_RANGE, .as.range = range};
    return 0;
}

int run_slice(run *r, value v, const value bounds[3], value *out) {
    size_t n;
    span s = {0};
    if (v.type == VALUE_UNDEFINED) return run_undefined(r, v);
    bool sliceable =
        value_is_seq(v) || v.type == VALUE_TEXT || v.type == VALUE_RANGE;
    for (int i = 0; i < 3; i++)
        sliceable &=
            bounds[i].type == VALUE_NONE || value_is_integer(bounds[i]);
    if (!sliceable || !value_length(v, &n))
        return value_undefined(r, owner_name(v), value_none(), out);
    int rc = span_of(r, bounds, n, &s);
    if (rc < 0) return rc;
    if (v.type == VALUE_TEXT) return slice_text(r, v, &s, out);
    if (v.type == VALUE_RANGE) return slice_range(r, v, &s, out);
    return slice_seq(r, v, &s, out);
}
