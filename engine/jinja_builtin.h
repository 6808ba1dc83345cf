/* jinja_builtin.h - filters, tests, functions and methods: tables of C
 * functions with Python's names for their parameters.
 *
 * A builtin is given its arguments in the order of its parameters, those that
 * were not given being VALUE_MISSING.  One whose parameters are "*" takes the
 * call as it is. */
#ifndef ENGINE_JINJA_BUILTIN_H
#define ENGINE_JINJA_BUILTIN_H

#include "engine/jinja_value.h"

typedef struct {
    value name; /* text */
    value v;
} named_value;

/* The arguments of one call. */
typedef struct {
    value *items;
    size_t n;
    named_value *named;
    size_t n_named;
} call_args;

#define BUILTIN_MAX_PARAMS 6

struct builtin {
    const char *name;
    const char *params; /* names with a space between, or "*" */
    size_t required;    /* how many must be given */
    /* self: what is filtered or tested, or the method's owner.  A test gives a
     * bool.  NULL: known to Python, but not here. */
    int (*call)(run *r, value self, const value *args, const call_args *all,
                value *out);
};

/* NULL: there is none. */
const builtin *builtin_filter(value name);
const builtin *builtin_test(value name);
const builtin *builtin_function(value name);
/* A method or property-like attribute that Python's type of `v` has. */
const builtin *builtin_method(value v, value name);

/* Bind the arguments and call.  `kind` ("filter") is for the sentence. */
int builtin_call(run *r, const builtin *b, const char *kind, value self,
                 const call_args *args, value *out);

/* Call any value: functions, methods, macros, loops, cyclers, joiners. */
int value_call(run *r, value callee, const call_args *args, value *out);

/* ---- the tables, one file each ---- */
typedef struct {
    const builtin *items;
    size_t n;
} builtin_table;

extern const builtin_table builtin_text_filters;   /* jinja_filter_text.c */
extern const builtin_table builtin_number_filters; /* jinja_filter_number.c */
extern const builtin_table builtin_list_filters;   /* jinja_filter_list.c */
extern const builtin_table builtin_pick_filters;   /* jinja_filter_pick.c */
extern const builtin_table builtin_tests;          /* jinja_test.c */
extern const builtin_table builtin_functions;      /* jinja_function.c */
extern const builtin_table builtin_text_methods;   /* jinja_method_text.c */
extern const builtin_table builtin_search_methods; /* jinja_method_search.c */
extern const builtin_table builtin_dict_methods;   /* jinja_method.c */
extern const builtin_table builtin_list_methods;
extern const builtin_table builtin_tuple_methods;
extern const builtin_table builtin_loop_methods;
extern const builtin_table builtin_cycler_methods;
extern const builtin_table builtin_number_methods;

/* ---- reading arguments ---- */

static inline bool arg_given(value v) {
    return v.type != VALUE_MISSING;
}
/* A whole number; `fallback` if it was not given. */
int arg_integer(run *r, const char *what, value v, int64_t fallback,
                int64_t *out);
/* A text; `fallback` (may be NULL) if it was not given. */
int arg_text(run *r, const char *what, value v, const char *fallback,
             value *out);
static inline bool arg_truth(value v, bool fallback) {
    return arg_given(v) ? value_truth(v) : fallback;
}

/* The value at a path such as "function.name" or 0, as filters' `attribute`
 * reads it; `fallback`, unless it is None, for every step that is undefined. */
int arg_attribute(run *r, value v, value path, value fallback, value *out);

#endif
