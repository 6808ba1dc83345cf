/* jinja_filter_list.c - filters of lists, dicts and whatever can be walked. */
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_sort.h"
#include "engine/jinja_words.h"
#include "engine/util.h"

#define FILTER(name)                                                           \
    static int name(run *r, value self, const value *args,                     \
                    const call_args *all, value *out)
#define UNUSED (void)r, (void)self, (void)args, (void)all

/* A list of its own with the items of any value. */
static int list_of(run *r, value v, value *out) {
    seq *s;
    int rc = value_items(r, v, &s);
    if (rc == 0) rc = value_seq(r, VALUE_LIST, s->n, out);
    if (rc == 0 && s->n > 0)
        memcpy(out->as.seq->items, s->items, s->n * sizeof(*s->items));
    return rc;
}

static value as_iterator(value list) {
    list.type = VALUE_ITERATOR;
    return list;
}

/* The attribute of an item, in small letters unless case counts: by what sort
 * and its like compare. */
static int key_of(run *r, value item, value attribute, bool case_counts,
                  value *out) {
    int rc = attribute.type == VALUE_NONE
                 ? (*out = item, 0)
                 : arg_attribute(r, item, attribute, value_none(), out);
    if (rc == 0 && !case_counts && out->type == VALUE_TEXT)
        rc = words_lower(r, *out, out);
    return rc;
}

static int keys_of(run *r, const seq *s, value attribute, bool case_counts,
                   value **out) {
    int rc = 0;
    *out = run_alloc(r, s->n, sizeof(**out));
    if (*out == NULL) return run_full(r);
    for (size_t i = 0; rc == 0 && i < s->n; i++)
        rc = key_of(r, s->items[i], attribute, case_counts, &(*out)[i]);
    return rc;
}

/* ---- size and ends ---- */

FILTER(length) {
    UNUSED;
    size_t n;
    if (!value_length(self, &n))
        return run_raise(r, "object of type '%s' has no len()",
                         value_type_name(self));
    *out = value_int((int64_t)n);
    return self.type == VALUE_TEXT ? run_steps(r, self.len / 64) : 0;
}

/* (An iterator loses no more than its first item.) */
FILTER(first) {
    UNUSED;
    seq *s = self.as.seq;
    if (self.type == VALUE_ITERATOR && s->at < s->n) {
        *out = s->items[s->at++];
        return 0;
    }
    int rc = value_items(r, self, &s);
    if (rc < 0) return rc;
    if (s->n == 0)
        return value_undefined_because(r, "No first item, sequence was empty.",
                                       out);
    *out = s->items[0];
    return 0;
}

FILTER(last) {
    UNUSED;
    seq *s;
    if (self.type == VALUE_ITERATOR)
        return run_raise(r, "'generator' object is not reversible");
    int rc = value_items(r, self, &s);
    if (rc < 0) return rc;
    if (s->n == 0)
        return value_undefined_because(r, "No last item, sequence was empty.",
                                       out);
    *out = s->items[s->n - 1];
    return 0;
}

FILTER(list) {
    UNUSED;
    return list_of(r, self, out);
}

FILTER(reverse) {
    UNUSED;
    if (self.type == VALUE_TEXT) {
        value bounds[3] = {value_none(), value_none(), value_int(-1)};
        return run_slice(r, self, bounds, out);
    }
    int rc = list_of(r, self, out);
    seq *s = out->as.seq;
    for (size_t i = 0; rc == 0 && i < s->n / 2; i++) {
        value swap = s->items[i];
        s->items[i] = s->items[s->n - 1 - i];
        s->items[s->n - 1 - i] = swap;
    }
    /* what cannot be walked backwards becomes a list */
    if (rc == 0 && self.type != VALUE_ITERATOR) *out = as_iterator(*out);
    return rc;
}

FILTER(join) {
    UNUSED;
    value glue, list;
    int rc =
        run_str(r, arg_given(args[0]) ? args[0] : value_text("", 0), &glue);
    if (rc == 0) rc = list_of(r, self, &list);
    bool mapped = arg_given(args[1]) && args[1].type != VALUE_NONE;
    for (size_t i = 0; rc == 0 && mapped && i < list.as.seq->n; i++) {
        value *item = &list.as.seq->items[i];
        rc = arg_attribute(r, *item, args[1], value_none(), item);
    }
    return rc < 0 ? rc : words_join(r, glue, list.as.seq, out);
}

/* ---- order ---- */

static value path_or_none(value v) {
    return arg_given(v) ? v : value_none();
}

FILTER(sort) {
    UNUSED;
    value *keys;
    bool reverse_order = arg_truth(args[0], false);
    value attribute = path_or_none(args[2]);
    if (attribute.type == VALUE_TEXT &&
        memchr(attribute.as.text, ',', attribute.len) != NULL)
        return run_fail(r, ERR_UNSUPPORTED, "sort by several attributes");
    int rc = list_of(r, self, out);
    if (rc == 0)
        rc = keys_of(r, out->as.seq, attribute, arg_truth(args[1], false),
                     &keys);
    return rc < 0 ? rc : seq_sort(r, out->as.seq, keys, reverse_order);
}

FILTER(unique) {
    UNUSED;
    value seen, list;
    value kept;
    int rc = list_of(r, self, &list);
    if (rc == 0) rc = value_dict(r, 0, &seen);
    if (rc == 0) rc = value_seq(r, VALUE_LIST, 0, &kept);
    for (size_t i = 0; rc == 0 && i < list.as.seq->n; i++) {
        value item = list.as.seq->items[i], key;
        const value *before = NULL;
        rc = key_of(r, item, path_or_none(args[1]), arg_truth(args[0], false),
                    &key);
        if (rc == 0) rc = dict_find(r, seen.as.dict, key, &before);
        if (rc < 0 || before != NULL) continue;
        rc = dict_set(r, seen.as.dict, key, item);
        if (rc == 0) rc = value_append(r, kept, item);
    }
    if (rc == 0) *out = as_iterator(kept);
    return rc;
}

/* The item that stands first, or last, in order. */
static int extreme(run *r, value self, const value *args, bool largest,
                   value *out) {
    seq *s;
    value *keys;
    size_t best = 0;
    int rc = value_items(r, self, &s);
    if (rc < 0) return rc;
    if (s->n == 0)
        return value_undefined_because(
            r, "No aggregated item, sequence was empty.", out);
    rc = keys_of(r, s, path_or_none(args[1]), arg_truth(args[0], false), &keys);
    for (size_t i = 1; rc == 0 && i < s->n; i++) {
        int order;
        rc = value_order(r, keys[i], keys[best], largest ? ">" : "<", &order);
        if (rc == 0 && order == (largest ? 1 : -1)) best = i;
    }
    *out = s->items[best];
    return rc;
}

FILTER(smallest) {
    UNUSED;
    return extreme(r, self, args, false, out);
}

FILTER(largest) {
    UNUSED;
    return extreme(r, self, args, true, out);
}

FILTER(sum) {
    UNUSED;
    seq *s;
    int rc = value_items(r, self, &s);
    *out = arg_given(args[1]) ? args[1] : value_int(0);
    if (rc == 0 && out->type == VALUE_TEXT)
        return run_raise(r, "sum() can't sum strings");
    for (size_t i = 0; rc == 0 && i < s->n; i++) {
        value item = s->items[i];
        if (arg_given(args[0]) && args[0].type != VALUE_NONE)
            rc = arg_attribute(r, item, args[0], value_none(), &item);
        if (rc == 0) rc = run_binary(r, OP_ADD, *out, item, out);
    }
    return rc;
}

/* ---- dicts ---- */

FILTER(items_of) {
    UNUSED;
    dict none = {0};
    if (self.type != VALUE_UNDEFINED && self.type != VALUE_DICT)
        return run_raise(r, "Can only get item pairs from a mapping.");
    const dict *d = self.type == VALUE_DICT ? self.as.dict : &none;
    int rc = value_seq(r, VALUE_ITERATOR, d->n, out);
    for (size_t i = 0; rc == 0 && i < d->n; i++)
        rc = value_pair(r, d->entries[i].key, d->entries[i].item,
                        &out->as.seq->items[i]);
    return rc;
}

FILTER(dictsort) {
    UNUSED;
    value by, *keys;
    int rc = arg_text(r, "dictsort", args[1], "key", &by);
    if (rc < 0) return rc;
    bool by_value = value_is_text(by, "value");
    if (!by_value && !value_is_text(by, "key"))
        return run_raise(r, "You can only sort by either \"key\" or \"value\"");
    if (self.type != VALUE_DICT)
        return run_raise(r, "dictsort: a dict is wanted, not %s",
                         value_type_name(self));
    rc = items_of(r, self, args, all, out);
    out->type = VALUE_LIST;
    if (rc == 0)
        rc = keys_of(r, out->as.seq, value_int(by_value),
                     arg_truth(args[0], false), &keys);
    return rc < 0 ? rc
                  : seq_sort(r, out->as.seq, keys, arg_truth(args[2], false));
}

/* ---- groups ---- */

/* Lists of `n` items each; the last one filled up if there is what with. */
FILTER(batch) {
    UNUSED;
    int64_t n;
    seq *s;
    value lists;
    int rc = arg_integer(r, "batch", args[0], 0, &n);
    if (rc == 0 && n < 1)
        rc = run_raise(r, "batch: a positive number is wanted");
    if (rc == 0) rc = value_items(r, self, &s);
    if (rc == 0) rc = value_seq(r, VALUE_LIST, 0, &lists);
    for (size_t at = 0; rc == 0 && at < s->n; at += (size_t)n) {
        size_t count = size_min((size_t)n, s->n - at);
        bool fill = arg_given(args[1]) && args[1].type != VALUE_NONE;
        size_t total = fill ? (size_t)n : count;
        value list;
        rc = value_seq(r, VALUE_LIST, total, &list);
        for (size_t i = 0; rc == 0 && i < total; i++)
            list.as.seq->items[i] = i < count ? s->items[at + i] : args[1];
        if (rc == 0) rc = value_append(r, lists, list);
        if ((size_t)n > s->n) break; /* the sum could overflow */
    }
    if (rc == 0) *out = as_iterator(lists);
    return rc;
}

/* One list of what is in `s` from `at` on, with `fill` behind if it is one. */
static int take_slice(run *r, const seq *s, size_t at, size_t n, value fill,
                      value *lists) {
    value list;
    bool filled = arg_given(fill) && fill.type != VALUE_NONE;
    int rc = value_seq(r, VALUE_LIST, n + filled, &list);
    if (rc < 0) return rc;
    for (size_t i = 0; i < n; i++)
        list.as.seq->items[i] = s->items[at + i];
    if (filled) list.as.seq->items[n] = fill;
    return value_append(r, *lists, list);
}

/* `n` lists, the first ones longer by one where it does not divide. */
FILTER(slices) {
    UNUSED;
    int64_t n;
    seq *s;
    value lists;
    int rc = arg_integer(r, "slice", args[0], 0, &n);
    if (rc == 0 && n < 1)
        rc = run_raise(r, "slice: a positive number is wanted");
    if (rc == 0) rc = value_items(r, self, &s);
    if (rc == 0) rc = value_seq(r, VALUE_LIST, 0, &lists);
    size_t at = 0, more = rc == 0 ? s->n % (size_t)n : 0;
    for (size_t i = 0; rc == 0 && i < (size_t)n; i++) {
        size_t count = s->n / (size_t)n + (i < more);
        rc = take_slice(r, s, at, count, i >= more ? args[1] : value_missing(),
                        &lists);
        at += count;
    }
    if (rc == 0) *out = as_iterator(lists);
    return rc;
}

/* (key, list) of one group; .grouper and .list are its names. */
static int add_group(run *r, value key, const seq *s, size_t from, size_t to,
                     value *groups) {
    value list, group;
    int rc = value_seq(r, VALUE_LIST, to - from, &list);
    for (size_t i = from; rc == 0 && i < to; i++)
        list.as.seq->items[i - from] = s->items[i];
    if (rc == 0) rc = value_pair(r, key, list, &group);
    if (rc < 0) return rc;
    group.as.seq->name = "group";
    return value_append(r, *groups, group);
}

FILTER(groupby) {
    UNUSED;
    value list, *keys, key;
    value groups;
    if (arg_given(args[1]))
        return run_fail(r, ERR_UNSUPPORTED, "groupby with a default");
    bool case_counts = arg_truth(args[2], false);
    int rc = list_of(r, self, &list);
    seq *s = list.as.seq;
    if (rc == 0) rc = keys_of(r, s, args[0], case_counts, &keys);
    if (rc == 0) rc = seq_sort(r, s, keys, false);
    if (rc == 0) rc = value_seq(r, VALUE_LIST, 0, &groups);
    for (size_t from = 0, to; rc == 0 && from < s->n; from = to) {
        bool equal = true;
        for (to = from + 1; rc == 0 && to < s->n; to++) {
            rc = value_equal(r, keys[from], keys[to], &equal);
            if (rc < 0 || !equal) break;
        }
        if (rc == 0)
            rc = arg_attribute(r, s->items[from], args[0], value_none(), &key);
        if (rc == 0) rc = add_group(r, key, s, from, to, &groups);
    }
    *out = groups;
    return rc;
}

static const builtin items[] = {
    {"length", "", 0, length},
    {"count", "", 0, length},
    {"first", "", 0, first},
    {"last", "", 0, last},
    {"list", "", 0, list},
    {"join", "d attribute", 0, join},
    {"reverse", "", 0, reverse},
    {"sort", "reverse case_sensitive attribute", 0, sort},
    {"unique", "case_sensitive attribute", 0, unique},
    {"min", "case_sensitive attribute", 0, smallest},
    {"max", "case_sensitive attribute", 0, largest},
    {"sum", "attribute start", 0, sum},
    {"items", "", 0, items_of},
    {"dictsort", "case_sensitive by reverse", 0, dictsort},
    {"batch", "linecount fill_with", 1, batch},
    {"slice", "slices fill_with", 1, slices},
    {"groupby", "attribute default case_sensitive", 1, groupby},
    {"random", "", 0, NULL},
};

const builtin_table builtin_list_filters = {items, ARRAY_LEN(items)};
