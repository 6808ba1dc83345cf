/* jinja_eval.c - the value of an expression, one small function a kind. */
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_loop.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

static int eval_const(run *r, const node *n, value *out) {
    (void)r;
    *out = n->v;
    return 0;
}

static int eval_name(run *r, const node *n, value *out) {
    return run_get(r, n->symbol, out);
}

static int eval_items(run *r, const node *n, value_type type, value *out) {
    int rc = value_seq(r, type, n->n, out);
    seq *s = rc == 0 ? out->as.seq : NULL;
    for (size_t i = 0; rc == 0 && i < n->n; i++)
        rc = run_eval(r, n->items[i], &s->items[i]);
    return rc;
}

static int eval_tuple(run *r, const node *n, value *out) {
    return eval_items(r, n, VALUE_TUPLE, out);
}

static int eval_list(run *r, const node *n, value *out) {
    return eval_items(r, n, VALUE_LIST, out);
}

static int eval_dict(run *r, const node *n, value *out) {
    int rc = value_dict(r, n->n / 2, out);
    for (size_t i = 0; rc == 0 && i + 1 < n->n; i += 2) {
        value key, item;
        rc = run_eval(r, n->items[i], &key);
        if (rc == 0) rc = run_eval(r, n->items[i + 1], &item);
        if (rc == 0) rc = dict_set(r, out->as.dict, key, item);
    }
    return rc;
}

static int eval_attr(run *r, const node *n, value *out) {
    value v;
    int rc = run_eval(r, n->a, &v);
    return rc < 0 ? rc : run_attribute(r, v, n->v, out);
}

static int eval_item(run *r, const node *n, value *out) {
    value v, index;
    int rc = run_eval(r, n->a, &v);
    if (rc == 0) rc = run_eval(r, n->b, &index);
    return rc < 0 ? rc : run_item(r, v, index, out);
}

static int eval_slice(run *r, const node *n, value *out) {
    value v, bounds[3];
    int rc = run_eval(r, n->a, &v);
    for (int i = 0; rc == 0 && i < 3; i++) {
        bounds[i] = value_none();
        if (n->items[i] != NULL) rc = run_eval(r, n->items[i], &bounds[i]);
    }
    return rc < 0 ? rc : run_slice(r, v, bounds, out);
}

/* ---- calls ---- */

static int add_more_items(run *r, const node *more, call_args *args) {
    value v;
    seq *s;
    int rc = run_eval(r, more, &v);
    if (rc == 0) rc = value_items(r, v, &s);
    if (rc < 0) return rc;
    value *items = run_alloc(r, args->n + s->n, sizeof(*items));
    if (items == NULL) return run_full(r);
    for (size_t i = 0; i < args->n; i++)
        items[i] = args->items[i];
    for (size_t i = 0; i < s->n; i++)
        items[args->n + i] = s->items[i];
    args->items = items;
    args->n += s->n;
    return run_steps(r, args->n);
}

static int add_more_named(run *r, const node *more, call_args *args) {
    value v;
    int rc = run_eval(r, more, &v);
    if (rc < 0) return rc;
    if (v.type != VALUE_DICT)
        return run_raise(r, "argument after ** must be a mapping, not %s",
                         value_type_name(v));
    const dict *d = v.as.dict;
    named_value *named = run_alloc(r, args->n_named + d->n, sizeof(*named));
    if (named == NULL) return run_full(r);
    for (size_t i = 0; i < args->n_named; i++)
        named[i] = args->named[i];
    for (size_t i = 0; i < d->n; i++) {
        if (d->entries[i].key.type != VALUE_TEXT)
            return run_raise(r, "keywords must be strings");
        named[args->n_named + i] =
            (named_value){d->entries[i].key, d->entries[i].item};
    }
    args->named = named;
    args->n_named += d->n;
    return run_steps(r, args->n_named);
}

static int eval_args(run *r, const node_args *a, call_args *args) {
    int rc = 0;
    *args = (call_args){.n = a->n, .n_named = a->n_named};
    if (a->n > 0) args->items = run_alloc(r, a->n, sizeof(*args->items));
    if (a->n_named > 0)
        args->named = run_alloc(r, a->n_named, sizeof(*args->named));
    if ((a->n > 0 && args->items == NULL) ||
        (a->n_named > 0 && args->named == NULL))
        return run_full(r);
    for (size_t i = 0; rc == 0 && i < a->n; i++)
        rc = run_eval(r, a->items[i], &args->items[i]);
    for (size_t i = 0; rc == 0 && i < a->n_named; i++) {
        args->named[i].name = a->named[i].name;
        rc = run_eval(r, a->named[i].v, &args->named[i].v);
    }
    if (rc == 0 && a->more_items != NULL)
        rc = add_more_items(r, a->more_items, args);
    if (rc == 0 && a->more_named != NULL)
        rc = add_more_named(r, a->more_named, args);
    return rc;
}

static int eval_call(run *r, const node *n, value *out) {
    value callee;
    call_args args;
    int rc = run_eval(r, n->a, &callee);
    if (rc == 0) rc = eval_args(r, &n->args, &args);
    if (rc < 0) return rc;
    r->line = n->line;
    return value_call(r, callee, &args, out);
}

static int no_builtin(run *r, const char *kind, const node *n) {
    return run_fail(r, ERR_UNSUPPORTED, "no %s named '%.*s'", kind,
                    (int)size_min(n->v.len, 40), n->v.as.text);
}

static int eval_filter(run *r, const node *n, value *out) {
    value v;
    call_args args;
    int rc = run_eval(r, n->a, &v);
    if (rc < 0) return rc;
    r->line = n->line;
    if (n->builtin == NULL) return no_builtin(r, "filter", n);
    rc = eval_args(r, &n->args, &args);
    return rc < 0 ? rc : builtin_call(r, n->builtin, "filter", v, &args, out);
}

static int eval_test(run *r, const node *n, value *out) {
    value v;
    call_args args;
    int rc = run_eval(r, n->a, &v);
    if (rc < 0) return rc;
    r->line = n->line;
    if (n->builtin == NULL) return no_builtin(r, "test", n);
    rc = eval_args(r, &n->args, &args);
    return rc < 0 ? rc : builtin_call(r, n->builtin, "test", v, &args, out);
}

/* ---- operators ---- */

static int eval_not(run *r, const node *n, value *out) {
    value v;
    int rc = run_eval(r, n->a, &v);
    *out = value_bool(rc == 0 && !value_truth(v));
    return rc;
}

static int eval_sign(run *r, const node *n, value *out) {
    value v;
    int rc = run_eval(r, n->a, &v);
    return rc < 0 ? rc : run_negate(r, v, n->op == OP_SUB, out);
}

static int eval_binary(run *r, const node *n, value *out) {
    value a, b;
    int rc = run_eval(r, n->a, &a);
    if (rc == 0) rc = run_eval(r, n->b, &b);
    r->line = n->line;
    return rc < 0 ? rc : run_binary(r, n->op, a, b, out);
}

static int eval_and(run *r, const node *n, value *out) {
    int rc = run_eval(r, n->a, out);
    return rc < 0 || !value_truth(*out) ? rc : run_eval(r, n->b, out);
}

static int eval_or(run *r, const node *n, value *out) {
    int rc = run_eval(r, n->a, out);
    return rc < 0 || value_truth(*out) ? rc : run_eval(r, n->b, out);
}

/* a < b < c: each pair, the first that fails decides. */
static int eval_compare(run *r, const node *n, value *out) {
    value left, right;
    bool holds = true;
    int rc = run_eval(r, n->a, &left);
    for (size_t i = 0; rc == 0 && holds && i < n->n; i++) {
        rc = run_eval(r, n->items[i]->a, &right);
        r->line = n->line;
        if (rc == 0) rc = run_compare(r, n->items[i]->op, left, right, &holds);
        left = right;
    }
    *out = value_bool(holds);
    return rc;
}

static int eval_concat(run *r, const node *n, value *out) {
    call_args parts = {.n = n->n};
    size_t mark;
    int rc = 0;
    parts.items = run_alloc(r, n->n, sizeof(*parts.items));
    if (parts.items == NULL) return run_full(r);
    for (size_t i = 0; rc == 0 && i < n->n; i++)
        rc = run_eval(r, n->items[i], &parts.items[i]);
    mark = run_mark(r);
    for (size_t i = 0; rc == 0 && i < n->n; i++)
        rc = run_print(r, parts.items[i]);
    return rc < 0 ? rc : run_take(r, mark, out);
}

static int eval_cond(run *r, const node *n, value *out) {
    value condition;
    int rc = run_eval(r, n->a, &condition);
    if (rc < 0) return rc;
    if (value_truth(condition)) return run_eval(r, n->b, out);
    if (n->c != NULL) return run_eval(r, n->c, out);
    return value_undefined_because(
        r,
        "the inline if-expression evaluated to false and no else section was "
        "defined",
        out);
}

static int eval_capture(run *r, const node *n, value *out) {
    return run_capture(r, n->a, out);
}

static int eval_nothing(run *r, const node *n, value *out) {
    (void)n, (void)out;
    return run_fail(r, ERR_INTERNAL, "this is no expression");
}

static int (*const evaluators[NODE_KINDS])(run *r, const node *n,
                                           value *out) = {
    [NODE_CONST] = eval_const,     [NODE_NAME] = eval_name,
    [NODE_TUPLE] = eval_tuple,     [NODE_LIST] = eval_list,
    [NODE_DICT] = eval_dict,       [NODE_ATTR] = eval_attr,
    [NODE_ITEM] = eval_item,       [NODE_SLICE] = eval_slice,
    [NODE_CALL] = eval_call,       [NODE_FILTER] = eval_filter,
    [NODE_TEST] = eval_test,       [NODE_NOT] = eval_not,
    [NODE_SIGN] = eval_sign,       [NODE_BINARY] = eval_binary,
    [NODE_AND] = eval_and,         [NODE_OR] = eval_or,
    [NODE_COMPARE] = eval_compare, [NODE_OPERAND] = eval_nothing,
    [NODE_CONCAT] = eval_concat,   [NODE_COND] = eval_cond,
    [NODE_MEMBER] = eval_nothing,  [NODE_CAPTURE] = eval_capture,
};

int run_eval(run *r, const node *n, value *out) {
    int rc = run_enter(r);
    if (rc < 0) return rc;
    r->line = n->line;
    rc = evaluators[n->kind](r, n, out);
    run_leave(r);
    return rc;
}
