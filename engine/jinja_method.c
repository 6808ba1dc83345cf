/* jinja_method.c - methods of dicts, lists, loops, cyclers and numbers. */
#include <math.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_loop.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

#define METHOD(name)                                                           \
    static int name(run *r, value self, const value *args,                     \
                    const call_args *all, value *out)
#define UNUSED (void)r, (void)self, (void)args, (void)all

/* ---- dicts ---- */

METHOD(get) {
    UNUSED;
    const value *found;
    int rc = dict_find(r, self.as.dict, args[0], &found);
    if (rc < 0) return rc;
    *out = found != NULL ? *found : arg_given(args[1]) ? args[1] : value_none();
    return 0;
}

static int view(run *r, const dict *d, const char *name, value *out) {
    int rc = value_seq(r, VALUE_VIEW, d->n, out);
    if (rc == 0) out->as.seq->name = name;
    return rc;
}

METHOD(keys) {
    UNUSED;
    const dict *d = self.as.dict;
    int rc = view(r, d, "dict_keys", out);
    for (size_t i = 0; rc == 0 && i < d->n; i++)
        out->as.seq->items[i] = d->entries[i].key;
    return rc;
}

METHOD(values) {
    UNUSED;
    const dict *d = self.as.dict;
    int rc = view(r, d, "dict_values", out);
    for (size_t i = 0; rc == 0 && i < d->n; i++)
        out->as.seq->items[i] = d->entries[i].item;
    return rc;
}

METHOD(items_of) {
    UNUSED;
    const dict *d = self.as.dict;
    int rc = view(r, d, "dict_items", out);
    for (size_t i = 0; rc == 0 && i < d->n; i++)
        rc = value_pair(r, d->entries[i].key, d->entries[i].item,
                        &out->as.seq->items[i]);
    return rc;
}

/* Everything of a mapping, or of pairs. */
static int merge(run *r, value from, dict *to) {
    seq *s, *pair;
    if (from.type == VALUE_DICT) {
        const dict *d = from.as.dict;
        int rc = run_steps(r, d->n);
        for (size_t i = 0, n = d->n; rc == 0 && i < n; i++)
            rc = dict_set(r, to, d->entries[i].key, d->entries[i].item);
        return rc;
    }
    int rc = value_items(r, from, &s);
    for (size_t i = 0; rc == 0 && i < s->n; i++) {
        rc = value_items(r, s->items[i], &pair);
        if (rc == 0 && pair->n != 2)
            rc = run_raise(r, "a dict is updated with pairs");
        if (rc == 0) rc = dict_set(r, to, pair->items[0], pair->items[1]);
    }
    return rc;
}

METHOD(copy_dict) {
    UNUSED;
    int rc = value_dict(r, self.as.dict->n, out);
    return rc < 0 ? rc : merge(r, self, out->as.dict);
}

METHOD(update) {
    UNUSED;
    int rc = 0;
    *out = value_none();
    if (all->n > 1) return run_raise(r, "update() takes one argument");
    if (all->n == 1) rc = merge(r, all->items[0], self.as.dict);
    for (size_t i = 0; rc == 0 && i < all->n_named; i++)
        rc = dict_set(r, self.as.dict, all->named[i].name, all->named[i].v);
    return rc;
}

METHOD(pop_key) {
    UNUSED;
    const value *found;
    int rc = dict_find(r, self.as.dict, args[0], &found);
    if (rc < 0) return rc;
    if (found == NULL && !arg_given(args[1]))
        return run_raise(r, "KeyError: the dict has no such key");
    *out = found != NULL ? *found : args[1];
    return dict_remove(r, self.as.dict, args[0]);
}

METHOD(setdefault) {
    UNUSED;
    const value *found;
    int rc = dict_find(r, self.as.dict, args[0], &found);
    *out = arg_given(args[1]) ? args[1] : value_none();
    if (rc == 0 && found != NULL) *out = *found;
    return rc < 0 || found != NULL ? rc
                                   : dict_set(r, self.as.dict, args[0], *out);
}

METHOD(clear_dict) {
    UNUSED;
    *self.as.dict = (dict){0};
    *out = value_none();
    return 0;
}

static const builtin dict_items[] = {
    {"get", "key default", 1, get},
    {"items", "", 0, items_of},
    {"keys", "", 0, keys},
    {"values", "", 0, values},
    {"copy", "", 0, copy_dict},
    {"pop", "key default", 1, pop_key},
    {"update", "*", 0, update},
    {"setdefault", "key default", 1, setdefault},
    {"clear", "", 0, clear_dict},
    {"popitem", "", 0, NULL},
    {"fromkeys", "*", 0, NULL},
};
const builtin_table builtin_dict_methods = {dict_items, ARRAY_LEN(dict_items)};

/* ---- lists and tuples ---- */

METHOD(count) {
    UNUSED;
    const seq *s = self.as.seq;
    int64_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        bool equal;
        int rc = value_equal(r, s->items[i], args[0], &equal);
        if (rc == 0) rc = run_steps(r, 1);
        if (rc < 0) return rc;
        n += equal;
    }
    *out = value_int(n);
    return 0;
}

METHOD(index_of) {
    UNUSED;
    const seq *s = self.as.seq;
    for (size_t i = 0; i < s->n; i++) {
        bool equal;
        int rc = value_equal(r, s->items[i], args[0], &equal);
        if (rc == 0) rc = run_steps(r, 1);
        if (rc < 0) return rc;
        if (!equal) continue;
        *out = value_int((int64_t)i);
        return 0;
    }
    return run_raise(r, "the %s has no such item", value_type_name(self));
}

METHOD(copy_list) {
    UNUSED;
    const seq *s = self.as.seq;
    int rc = value_seq(r, VALUE_LIST, s->n, out);
    for (size_t i = 0; rc == 0 && i < s->n; i++)
        out->as.seq->items[i] = s->items[i];
    return rc;
}

METHOD(append) {
    UNUSED;
    *out = value_none();
    return value_append(r, self, args[0]);
}

METHOD(extend) {
    UNUSED;
    seq *s;
    *out = value_none();
    int rc = value_items(r, args[0], &s);
    size_t n = rc == 0 ? s->n : 0; /* it may be the list itself */
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = value_append(r, self, s->items[i]);
    return rc;
}

/* A place that may be counted from the end, within 0 and n. */
static size_t clamped(int64_t at, size_t n) {
    if (at < 0) at += (int64_t)n;
    return at < 0 ? 0 : size_min((size_t)at, n);
}

METHOD(insert) {
    UNUSED;
    int64_t at;
    *out = value_none();
    int rc = arg_integer(r, "insert()", args[0], 0, &at);
    if (rc < 0) return rc;
    return seq_insert(r, self.as.seq, clamped(at, self.as.seq->n), args[1]);
}

METHOD(pop) {
    UNUSED;
    seq *s = self.as.seq;
    int64_t at, n = (int64_t)s->n;
    int rc = arg_integer(r, "pop()", args[0], -1, &at);
    if (rc < 0) return rc;
    if (at < -n || at >= n) return run_raise(r, "pop index out of range");
    size_t place = clamped(at, s->n);
    *out = s->items[place];
    return seq_remove(r, s, place);
}

METHOD(remove_item) {
    UNUSED;
    value at;
    int rc = index_of(r, self, args, all, &at);
    *out = value_none();
    return rc < 0 ? rc : seq_remove(r, self.as.seq, (size_t)value_integer(at));
}

METHOD(reverse) {
    UNUSED;
    seq *s = self.as.seq;
    for (size_t i = 0; i < s->n / 2; i++) {
        value swap = s->items[i];
        s->items[i] = s->items[s->n - 1 - i];
        s->items[s->n - 1 - i] = swap;
    }
    *out = value_none();
    return run_steps(r, s->n / 16);
}

METHOD(clear_list) {
    UNUSED;
    self.as.seq->n = 0;
    *out = value_none();
    return 0;
}

static const builtin tuple_items[] = {
    {"count", "value", 1, count},
    {"index", "value", 1, index_of},
};
const builtin_table builtin_tuple_methods = {tuple_items,
                                             ARRAY_LEN(tuple_items)};

static const builtin list_items[] = {
    {"count", "value", 1, count},
    {"index", "value", 1, index_of},
    {"copy", "", 0, copy_list},
    {"append", "object", 1, append},
    {"extend", "iterable", 1, extend},
    {"insert", "index object", 2, insert},
    {"pop", "index", 0, pop},
    {"remove", "value", 1, remove_item},
    {"reverse", "", 0, reverse},
    {"clear", "", 0, clear_list},
    {"sort", "*", 0, NULL},
};
const builtin_table builtin_list_methods = {list_items, ARRAY_LEN(list_items)};

/* ---- loops and cyclers ---- */

METHOD(cycle) {
    UNUSED;
    if (all->n == 0) return run_raise(r, "no items for cycling given");
    *out = all->items[self.as.loop->index % all->n];
    return 0;
}

METHOD(changed) {
    UNUSED;
    loop *l = self.as.loop;
    bool equal = false;
    value now;
    int rc = value_seq(r, VALUE_TUPLE, all->n, &now);
    for (size_t i = 0; rc == 0 && i < all->n; i++)
        now.as.seq->items[i] = all->items[i];
    if (rc == 0) rc = value_equal(r, now, l->changed, &equal);
    l->changed = now;
    *out = value_bool(!equal);
    return rc;
}

static const builtin loop_items[] = {
    {"cycle", "*", 0, cycle},
    {"changed", "*", 0, changed},
};
const builtin_table builtin_loop_methods = {loop_items, ARRAY_LEN(loop_items)};

METHOD(next) {
    UNUSED;
    seq *s = self.as.seq;
    *out = s->items[s->at];
    s->at = (s->at + 1) % s->n;
    return 0;
}

METHOD(reset) {
    UNUSED;
    self.as.seq->at = 0;
    *out = value_none();
    return 0;
}

static const builtin cycler_items[] = {
    {"next", "", 0, next},
    {"reset", "", 0, reset},
};
const builtin_table builtin_cycler_methods = {cycler_items,
                                              ARRAY_LEN(cycler_items)};

/* ---- numbers ---- */

METHOD(is_integer) {
    UNUSED;
    double real = value_real(self);
    *out = value_bool(isfinite(real) && floor(real) == real);
    return 0;
}

static const builtin number_items[] = {
    {"is_integer", "", 0, is_integer},
    {"bit_length", "", 0, NULL},
};
const builtin_table builtin_number_methods = {number_items,
                                              ARRAY_LEN(number_items)};
