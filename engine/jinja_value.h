/* jinja_value.h - what a template's expression can be: values as in Python.
 *
 * Values are small and passed by copy; what they point to is in the rendering's
 * arena (or in the template) and is shared.  Lists, dicts and namespaces change
 * when the template says so, and may then contain themselves: whoever walks
 * into values counts his depth.  Only evaluating can change them, so a loop
 * that does must look at the length on every turn. */
#ifndef ENGINE_JINJA_VALUE_H
#define ENGINE_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    VALUE_MISSING, /* no value at all: an argument that was not given */
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_TEXT,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_VIEW,     /* dict.keys() and its like */
    VALUE_ITERATOR, /* can be walked once */
    VALUE_DICT,
    VALUE_RANGE,
    VALUE_NAMESPACE,
    VALUE_FUNCTION,
    VALUE_METHOD, /* bound to its value */
    VALUE_MACRO,
    VALUE_LOOP,
    VALUE_CYCLER,
    VALUE_JOINER,
    VALUE_TYPES
} value_type;

typedef struct seq seq;
typedef struct dict dict;
typedef struct value_range value_range;
typedef struct undefined undefined;
typedef struct method method;
typedef struct macro macro;
typedef struct loop loop;
typedef struct builtin builtin;
typedef struct run run;

typedef struct {
    uint8_t type; /* value_type */
    bool safe;    /* text that `+` and `%` must not escape: Markup */
    uint32_t len; /* bytes of text */
    union {
        bool truth;
        int64_t integer;
        double real;
        const char *text; /* UTF-8, not zero-terminated */
        seq *seq;         /* list, tuple, view, iterator, cycler, joiner */
        dict *dict;       /* dict, namespace */
        value_range *range;
        undefined *undefined;
        const builtin *builtin;
        method *method;
        macro *macro;
        loop *loop;
    } as;
} value;

struct seq {
    value *items;
    size_t n, capacity;
    size_t at;        /* iterator: the next one; cycler, joiner: likewise */
    const char *name; /* view: Python's name of its type */
};

struct value_range {
    int64_t start, stop, step;
    size_t n;
};

struct undefined {
    const char *owner; /* type of what lacks it; NULL: it is a variable */
    value name;
    const char *reason; /* instead of the usual sentence; may be NULL */
};

struct method {
    value self;
    const builtin *builtin;
};

/* ---- making ---- */
static inline value value_missing(void) {
    return (value){.type = VALUE_MISSING};
}
static inline value value_none(void) {
    return (value){.type = VALUE_NONE};
}
static inline value value_bool(bool truth) {
    return (value){.type = VALUE_BOOL, .as.truth = truth};
}
static inline value value_int(int64_t integer) {
    return (value){.type = VALUE_INT, .as.integer = integer};
}
static inline value value_float(double real) {
    return (value){.type = VALUE_FLOAT, .as.real = real};
}
/* Borrows `text`; no text is ever longer than a rendering's memory. */
static inline value value_text(const char *text, size_t len) {
    return (value){.type = VALUE_TEXT, .len = (uint32_t)len, .as.text = text};
}
value value_string(const char *zero_terminated);
static inline value value_builtin(const builtin *b) {
    return (value){.type = VALUE_FUNCTION, .as.builtin = b};
}

/* A sequence with room for n items, to be filled by the caller. */
int value_seq(run *r, value_type type, size_t n, value *out);
int value_pair(run *r, value first, value second, value *out); /* a tuple */
int value_undefined(run *r, const char *owner, value name, value *out);
int value_undefined_because(run *r, const char *reason, value *out);
int value_bound(run *r, value self, const builtin *b, value *out);

/* ---- asking ---- */
static inline bool value_is_text(value v, const char *text) {
    const char *at = v.as.text;
    if (v.type != VALUE_TEXT) return false;
    for (uint32_t i = 0; i < v.len; i++) {
        if (text[i] == '\0' || text[i] != at[i]) return false;
    }
    return text[v.len] == '\0';
}
static inline bool value_is_seq(value v) {
    return v.type == VALUE_LIST || v.type == VALUE_TUPLE;
}
/* bool counts as an integer, as in Python. */
bool value_is_integer(value v);
bool value_is_number(value v);
int64_t value_integer(value v); /* of bool and int */
double value_real(value v);     /* of any number */

const char *value_type_name(value v); /* "dict", "NoneType" */
bool value_truth(value v);

/* len(): false if it has none. */
bool value_length(value v, size_t *n);
/* Can it be walked over?  (Undefined can: it is empty.) */
bool value_is_iterable(value v);

/* Equality never fails but for the limits; order is an error between types that
 * have none.  *order: -1, 0, 1, or 2 where a NaN is in it. */
int value_equal(run *r, value a, value b, bool *equal);
int value_order(run *r, value a, value b, const char *sign, int *order);
int value_contains(run *r, value container, value item, bool *found);
/* Are they the same object?  (The `sameas` test.) */
bool value_same(value a, value b);

/* Append to a list that value_seq() made. */
int value_append(run *r, value list, value v);
/* Put an item at a place from 0 to n; take one out. */
int seq_insert(run *r, seq *s, size_t at, value v);
int seq_remove(run *r, seq *s, size_t at);

/* ---- walking ---- */

/* The items of anything that can be iterated over: a list's own, not a copy.
 * An iterator is used up by it.  ERR_USAGE: it cannot be iterated over. */
int value_items(run *r, value v, seq **out);

/* ---- dicts ---- */
typedef struct {
    value key, item;
    uint64_t hash;
} dict_entry;

struct dict {
    dict_entry *entries; /* in the order of insertion */
    size_t n, capacity;
    uint32_t *slots; /* index + 1 by hash, open addressing; NULL: few entries */
    size_t n_slots;
};

int value_dict(run *r, size_t capacity, value *out);
/* Insert or replace.  ERR_USAGE for a key that cannot be hashed. */
int dict_set(run *r, dict *d, value key, value item);
/* Take a key out, if it is there. */
int dict_remove(run *r, dict *d, value key);
/* NULL: it is not there.  ERR_USAGE as above.  Until the next change. */
int dict_find(run *r, const dict *d, value key, const value **out);
/* For keys that are text. */
const value *dict_get(const dict *d, const char *key, size_t len);

#endif
