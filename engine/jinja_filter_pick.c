/* jinja_filter_pick.c - filters that apply another filter or test to every
 * item: map, select, reject and their like. */
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_words.h"
#include "engine/util.h"

#define FILTER(name)                                                           \
    static int name(run *r, value self, const value *args,                     \
                    const call_args *all, value *out)
#define UNUSED (void)r, (void)self, (void)args, (void)all

static const value *named(const call_args *all, const char *name) {
    for (size_t i = 0; i < all->n_named; i++) {
        if (value_is_text(all->named[i].name, name)) return &all->named[i].v;
    }
    return NULL;
}

static value iterator(value list) {
    list.type = VALUE_ITERATOR;
    return list;
}

/* (These filters ask whether there is anything before they walk it.) */
static int items_of(run *r, value v, seq **out) {
    value none;
    if (value_truth(v)) return value_items(r, v, out);
    int rc = value_seq(r, VALUE_LIST, 0, &none);
    *out = none.as.seq;
    return rc;
}

/* The arguments behind the first `n`. */
static call_args behind(const call_args *all, size_t n) {
    return (call_args){.items = all->items + n,
                       .n = all->n - n,
                       .named = all->named,
                       .n_named = all->n_named};
}

/* The builtin that an argument names. */
static int find(run *r, const char *kind, value name, bool test,
                const builtin **out) {
    *out = NULL;
    if (name.type == VALUE_TEXT)
        *out = test ? builtin_test(name) : builtin_filter(name);
    if (*out != NULL) return 0;
    if (name.type != VALUE_TEXT)
        return run_raise(r, "the name of a %s is wanted, not %s", kind,
                         value_type_name(name));
    return run_fail(r, ERR_UNSUPPORTED, "no %s named '%.*s'", kind,
                    (int)size_min(name.len, 40), name.as.text);
}

/* ---- map ---- */

static int map_attribute(run *r, const call_args *all, value item, value *out) {
    const value *fallback = named(all, "default");
    return arg_attribute(r, item, *named(all, "attribute"),
                         fallback != NULL ? *fallback : value_none(), out);
}

FILTER(map) {
    UNUSED;
    bool by_attribute = all->n == 0 && named(all, "attribute") != NULL;
    const builtin *filter = NULL;
    value made;
    seq *s;
    int rc = 0;
    if (!by_attribute) {
        if (all->n == 0) return run_raise(r, "map requires a filter argument");
        rc = find(r, "filter", all->items[0], false, &filter);
    }
    if (rc == 0) rc = items_of(r, self, &s);
    if (rc == 0) rc = value_seq(r, VALUE_LIST, 0, &made);
    for (size_t i = 0; rc == 0 && i < s->n; i++) {
        call_args rest = by_attribute ? *all : behind(all, 1);
        value v;
        rc = by_attribute
                 ? map_attribute(r, all, s->items[i], &v)
                 : builtin_call(r, filter, "filter", s->items[i], &rest, &v);
        if (rc == 0) rc = value_append(r, made, v);
    }
    if (rc == 0) *out = iterator(made);
    return rc;
}

/* ---- select ---- */

/* Does the item pass the test that argument `at` names (or truth)? */
static int passes(run *r, const call_args *all, size_t at, value item,
                  bool *pass) {
    const builtin *test;
    value v;
    if (at >= all->n) {
        *pass = value_truth(item);
        return 0;
    }
    call_args rest = behind(all, at + 1);
    int rc = find(r, "test", all->items[at], true, &test);
    if (rc == 0) rc = builtin_call(r, test, "test", item, &rest, &v);
    *pass = rc == 0 && value_truth(v);
    return rc;
}

static int pick(run *r, value self, const call_args *all, bool by_attribute,
                bool wanted, value *out) {
    value kept;
    seq *s;
    if (by_attribute && all->n == 0)
        return run_raise(r, "the name of an attribute is wanted");
    int rc = items_of(r, self, &s);
    if (rc == 0) rc = value_seq(r, VALUE_LIST, 0, &kept);
    for (size_t i = 0; rc == 0 && i < s->n; i++) {
        value item = s->items[i], v = item;
        bool pass = false;
        if (by_attribute)
            rc = arg_attribute(r, item, all->items[0], value_none(), &v);
        if (rc == 0) rc = passes(r, all, by_attribute ? 1 : 0, v, &pass);
        if (rc == 0 && pass == wanted) rc = value_append(r, kept, item);
    }
    if (rc == 0) *out = iterator(kept);
    return rc;
}

FILTER(select_by) {
    UNUSED;
    return pick(r, self, all, false, true, out);
}

FILTER(reject) {
    UNUSED;
    return pick(r, self, all, false, false, out);
}

FILTER(selectattr) {
    UNUSED;
    return pick(r, self, all, true, true, out);
}

FILTER(rejectattr) {
    UNUSED;
    return pick(r, self, all, true, false, out);
}

/* Only what the type has, never an item. */
FILTER(attr) {
    UNUSED;
    value name;
    int rc = arg_text(r, "attr", args[0], NULL, &name);
    if (rc < 0) return rc;
    if (self.type == VALUE_DICT && builtin_method(self, name) == NULL)
        return value_undefined(r, "dict", name, out);
    return run_attribute(r, self, name, out);
}

static const builtin items[] = {
    {"map", "*", 0, map},
    {"select", "*", 0, select_by},
    {"reject", "*", 0, reject},
    {"selectattr", "*", 0, selectattr},
    {"rejectattr", "*", 0, rejectattr},
    {"attr", "name", 1, attr},
};

const builtin_table builtin_pick_filters = {items, ARRAY_LEN(items)};
