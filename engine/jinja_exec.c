/* jinja_exec.c - statements: what they write and set. */
#include "engine/err.h"
#include "engine/jinja_loop.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

/* ---- assigning ---- */

static int assign_member(run *r, const node *target, value v) {
    value space;
    int rc = run_get(r, target->symbol, &space);
    if (rc < 0) return rc;
    if (space.type != VALUE_NAMESPACE)
        return run_raise(r, "cannot assign attribute on non-namespace object");
    return dict_set(r, space.as.dict, target->v, v);
}

static int assign_tuple(run *r, const node *target, value v) {
    seq *s;
    if (v.type == VALUE_UNDEFINED || !value_is_iterable(v)) {
        return run_raise(r, "cannot unpack non-iterable %s object",
                         value_type_name(v));
    }
    int rc = value_items(r, v, &s);
    if (rc < 0) return rc;
    if (s->n < target->n)
        return run_raise(r,
                         "not enough values to unpack (expected %zu, got %zu)",
                         target->n, s->n);
    if (s->n > target->n)
        return run_raise(r, "too many values to unpack (expected %zu)",
                         target->n);
    for (size_t i = 0; rc == 0 && i < target->n; i++)
        rc = run_assign(r, target->items[i], s->items[i]);
    return rc;
}

int run_assign(run *r, const node *target, value v) {
    if (target->kind == NODE_NAME) return run_set(r, target->symbol, v);
    int rc = run_enter(r);
    if (rc < 0) return rc;
    rc = target->kind == NODE_MEMBER ? assign_member(r, target, v)
                                     : assign_tuple(r, target, v);
    run_leave(r);
    return rc;
}

/* ---- statements ---- */

static int exec(run *r, const node *n, int *flow);

static int exec_data(run *r, const node *n, int *flow) {
    (void)flow;
    return run_put_text(r, n->v);
}

static int exec_print(run *r, const node *n, int *flow) {
    value v;
    (void)flow;
    int rc = run_eval(r, n->a, &v);
    r->line = n->line;
    return rc < 0 ? rc : run_print(r, v);
}

static int exec_set(run *r, const node *n, int *flow) {
    value v;
    (void)flow;
    int rc = run_eval(r, n->b, &v);
    r->line = n->line;
    return rc < 0 ? rc : run_assign(r, n->a, v);
}

static int exec_if(run *r, const node *n, int *flow) {
    while (n != NULL && n->kind == NODE_IF) {
        value v;
        int rc = run_eval(r, n->a, &v);
        if (rc < 0) return rc;
        if (value_truth(v)) return run_body(r, n->b, flow);
        n = n->c;
    }
    return n != NULL ? run_body(r, n, flow) : 0;
}

static int exec_for(run *r, const node *n, int *flow) {
    value v;
    seq *items;
    (void)flow; /* a jump ends in its own loop */
    int rc = run_eval(r, n->b, &v);
    if (rc < 0) return rc;
    r->line = n->line;
    rc = value_items(r, v, &items);
    return rc < 0 ? rc : loop_run(r, n, items, 0);
}

static int exec_macro(run *r, const node *n, int *flow) {
    value v;
    (void)flow;
    int rc = macro_new(r, n, &v);
    return rc < 0 ? rc : run_set(r, n->symbol, v);
}

/* The call gets one more argument, `caller`.  The tree is immutable, so it is
 * put into a copy of the call's node. */
static int exec_call_block(run *r, const node *n, int *flow) {
    node call = *n->a, caller = {.kind = NODE_CONST, .line = n->line};
    const node_args *given = &n->a->args;
    value v;
    (void)flow;

    node_named *named = run_alloc(r, given->n_named + 1, sizeof(*named));
    if (named == NULL) return run_full(r);
    int rc = macro_new(r, n->b, &caller.v);
    for (size_t i = 0; i < given->n_named; i++)
        named[i] = given->named[i];
    named[given->n_named] = (node_named){value_string("caller"), &caller};
    call.args.named = named;
    call.args.n_named++;
    if (rc == 0) rc = run_eval(r, &call, &v);
    return rc < 0 ? rc : run_print(r, v);
}

/* The values are of the scope around; then all names are set. */
static int exec_with(run *r, const node *n, int *flow) {
    size_t count = n->n / 2;
    scope *inner = run_alloc(r, 1, sizeof(*inner));
    value *values = run_alloc(r, count + 1, sizeof(*values));
    int rc = 0;
    if (inner == NULL || values == NULL) return run_full(r);

    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = run_eval(r, n->items[2 * i + 1], &values[i]);
    if (rc < 0) return rc;
    run_push(r, inner);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = run_assign(r, n->items[2 * i], values[i]);
    if (rc == 0) rc = run_body(r, n->c, flow);
    run_pop(r, inner);
    return rc;
}

static int exec_scope(run *r, const node *n, int *flow) {
    scope *inner = run_alloc(r, 1, sizeof(*inner));
    if (inner == NULL) return run_full(r);
    run_push(r, inner);
    int rc = run_body(r, n->c, flow);
    run_pop(r, inner);
    return rc;
}

static int exec_break(run *r, const node *n, int *flow) {
    (void)r, (void)n;
    *flow = FLOW_BREAK;
    return 0;
}

static int exec_continue(run *r, const node *n, int *flow) {
    (void)r, (void)n;
    *flow = FLOW_CONTINUE;
    return 0;
}

static int exec_unsupported(run *r, const node *n, int *flow) {
    (void)flow;
    return run_fail(r, ERR_UNSUPPORTED, "the tag '%.*s' is not supported",
                    (int)size_min(n->v.len, 40), n->v.as.text);
}

static int (*const executors[NODE_KINDS])(run *r, const node *n, int *flow) = {
    [NODE_BODY] = run_body,
    [NODE_DATA] = exec_data,
    [NODE_PRINT] = exec_print,
    [NODE_SET] = exec_set,
    [NODE_IF] = exec_if,
    [NODE_FOR] = exec_for,
    [NODE_MACRO] = exec_macro,
    [NODE_CALL_BLOCK] = exec_call_block,
    [NODE_WITH] = exec_with,
    [NODE_SCOPE] = exec_scope,
    [NODE_BREAK] = exec_break,
    [NODE_CONTINUE] = exec_continue,
    [NODE_UNSUPPORTED] = exec_unsupported,
};

static int exec(run *r, const node *n, int *flow) {
    r->line = n->line;
    return executors[n->kind](r, n, flow);
}

int run_body(run *r, const node *body, int *flow) {
    int rc = run_enter(r);
    if (rc < 0) return rc;
    for (size_t i = 0; rc == 0 && *flow == FLOW_ON && i < body->n; i++) {
        rc = run_steps(r, 1);
        if (rc == 0) rc = exec(r, body->items[i], flow);
    }
    run_leave(r);
    return rc;
}

/* A jump does not leave a captured text: the loop around it goes on. */
int run_capture(run *r, const node *body, value *out) {
    size_t mark = run_mark(r);
    int flow = FLOW_ON;
    scope *inner = run_alloc(r, 1, sizeof(*inner));
    if (inner == NULL) return run_full(r);
    run_push(r, inner);
    int rc = run_body(r, body, &flow);
    run_pop(r, inner);
    return rc < 0 ? rc : run_take(r, mark, out);
}
