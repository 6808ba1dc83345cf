/* jinja_loop.c - for loops and the `loop` in them; macros and their calls. */
#include "engine/jinja_loop.h"

#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

/* ---- what a loop knows ---- */

size_t loop_length(const loop *l) {
    return l->items->n;
}

int loop_rest(run *r, loop *l, seq **out) {
    (void)l;
    *out = NULL;
    return run_fail(r, ERR_UNSUPPORTED, "to iterate over 'loop' itself");
}

static int neighbour(run *r, const loop *l, int64_t offset, value *out) {
    int64_t at = (int64_t)l->index + offset;
    if (at < 0)
        return value_undefined_because(r, "there is no previous item", out);
    if ((size_t)at >= l->items->n)
        return value_undefined_because(r, "there is no next item", out);
    *out = l->items->items[at];
    return 0;
}

int loop_attribute(run *r, const loop *l, value name, value *out) {
    int64_t index = (int64_t)l->index, n = (int64_t)l->items->n;
    const struct {
        const char *name;
        value v;
    } known[] = {
        {"index", value_int(index + 1)},
        {"index0", value_int(index)},
        {"revindex", value_int(n - index)},
        {"revindex0", value_int(n - index - 1)},
        {"first", value_bool(index == 0)},
        {"last", value_bool(index == n - 1)},
        {"length", value_int(n)},
        {"depth", value_int(l->depth + 1)},
        {"depth0", value_int(l->depth)},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (!value_is_text(name, known[i].name)) continue;
        *out = known[i].v;
        return 0;
    }
    if (value_is_text(name, "previtem")) return neighbour(r, l, -1, out);
    if (value_is_text(name, "nextitem")) return neighbour(r, l, 1, out);
    *out = value_missing();
    return 0;
}

/* ---- running a loop ---- */

/* The items that pass the loop's own `if`, in which there is no `loop`. */
static int filter_items(run *r, const node *n, seq *items, seq **out) {
    value list;
    scope *inner = run_alloc(r, 1, sizeof(*inner));
    if (inner == NULL) return run_full(r);
    int rc = value_seq(r, VALUE_LIST, 0, &list);
    if (rc < 0) return rc;
    run_push(r, inner);
    for (size_t i = 0; rc == 0 && i < items->n; i++) {
        value pass = value_bool(false);
        inner->n = 0;
        rc = run_assign(r, n->a, items->items[i]);
        if (rc == 0) rc = run_eval(r, n->test, &pass);
        if (rc == 0 && value_truth(pass) && i < items->n)
            rc = value_append(r, list, items->items[i]);
    }
    run_pop(r, inner);
    *out = list.as.seq;
    return rc;
}

/* The number of the name `loop`, if the template has it. */
static bool loop_symbol(const jinja *t, uint32_t *symbol) {
    for (size_t i = 0; i < t->n_symbols; i++) {
        *symbol = (uint32_t)i;
        if (value_is_text(t->symbols[i], "loop")) return true;
    }
    return false;
}

static int run_else(run *r, const node *n, int *flow) {
    if (n->orelse == NULL) return 0;
    scope *inner = run_alloc(r, 1, sizeof(*inner));
    if (inner == NULL) return run_full(r);
    run_push(r, inner);
    int rc = run_body(r, n->orelse, flow);
    run_pop(r, inner);
    return rc;
}

/* One scope serves all turns, emptied before each; it is in the arena since a
 * macro that is defined inside keeps it. */
static int run_turns(run *r, const node *n, loop *l) {
    uint32_t symbol = 0;
    int flow = FLOW_ON, rc = 0;
    bool named = loop_symbol(r->template, &symbol);
    value self = {.type = VALUE_LOOP, .as.loop = l};
    scope *inner = run_alloc(r, 1, sizeof(*inner));
    if (inner == NULL) return run_full(r);

    run_push(r, inner);
    for (; rc == 0 && flow != FLOW_BREAK && l->index < l->items->n;
         l->index++) {
        inner->n = 0;
        flow = FLOW_ON;
        rc = run_steps(r, 1);
        if (rc == 0 && named) rc = run_set(r, symbol, self);
        if (rc == 0) rc = run_assign(r, n->a, l->items->items[l->index]);
        if (rc == 0) rc = run_body(r, n->c, &flow);
    }
    run_pop(r, inner);
    return rc;
}

int loop_run(run *r, const node *n, seq *items, int64_t depth) {
    int flow = FLOW_ON, rc = 0;
    if (n->test != NULL) rc = filter_items(r, n, items, &items);
    if (rc < 0) return rc;
    if (items->n == 0) return run_else(r, n, &flow);

    loop *l = run_alloc(r, 1, sizeof(*l));
    if (l == NULL) return run_full(r);
    *l = (loop){.node = n, .items = items, .depth = depth, .outer = r->scope};
    return run_turns(r, n, l);
}

int loop_call(run *r, const loop *l, const call_args *args, value *out) {
    seq *items;
    scope *here = r->scope;
    size_t mark = run_mark(r);
    if (!l->node->recursive)
        return run_raise(r, "only a loop with 'recursive' can be called");
    if (args->n != 1 || args->n_named > 0)
        return run_raise(r, "loop() takes one argument");
    int rc = value_items(r, args->items[0], &items);
    if (rc == 0) rc = run_enter(r);
    if (rc < 0) return rc;
    r->scope = l->outer;
    rc = loop_run(r, l->node, items, l->depth + 1);
    r->scope = here;
    run_leave(r);
    return rc < 0 ? rc : run_take(r, mark, out);
}

/* ---- macros ---- */

int macro_new(run *r, const node *n, value *out) {
    macro *m = run_alloc(r, 1, sizeof(*m));
    if (m == NULL) return run_full(r);
    *m = (macro){.node = n, .scope = r->scope};
    *out = (value){.type = VALUE_MACRO, .as.macro = m};
    return 0;
}

static int find_symbol(const jinja *t, const char *name, uint32_t *symbol) {
    for (size_t i = 0; i < t->n_symbols; i++) {
        *symbol = (uint32_t)i;
        if (value_is_text(t->symbols[i], name)) return 0;
    }
    return ERR_NOT_HERE;
}

/* The named argument for a parameter; NULL: it is not there. */
static const value *named_for(const call_args *args, value name) {
    for (size_t i = 0; i < args->n_named; i++) {
        value given = args->named[i].name;
        if (given.len == name.len &&
            memcmp(given.as.text, name.as.text, name.len) == 0)
            return &args->named[i].v;
    }
    return NULL;
}

static bool is_param(const node *n, value name) {
    for (size_t i = 0; i < n->n; i++) {
        value param = n->items[i]->v;
        if (param.len == name.len &&
            memcmp(param.as.text, name.as.text, name.len) == 0)
            return true;
    }
    return false;
}

/* Bind one parameter, in the macro's scope. */
static int bind_param(run *r, const node *n, size_t index,
                      const call_args *args) {
    const node *param = n->items[index];
    const value *named = named_for(args, param->v);
    size_t first_default = n->n - n->n_defaults;
    value v;
    int rc = 0;

    if (index < args->n && named != NULL)
        return run_raise(r, "macro '%.*s' got two values for '%.*s'",
                         (int)size_min(n->v.len, 40), n->v.as.text,
                         (int)size_min(param->v.len, 40), param->v.as.text);
    if (index < args->n)
        v = args->items[index];
    else if (named != NULL)
        v = *named;
    else if (index >= first_default)
        rc = run_eval(r, n->defaults[index - first_default], &v);
    else
        rc = value_undefined_because(r, "a macro's parameter was not provided",
                                     &v);
    return rc < 0 ? rc : run_set(r, param->symbol, v);
}

/* varargs: what is left of the arguments. */
static int bind_varargs(run *r, const node *n, const call_args *args) {
    value rest;
    uint32_t symbol;
    size_t extra = args->n > n->n ? args->n - n->n : 0;
    if (!n->uses_varargs && extra > 0)
        return run_raise(r, "macro '%.*s' takes not more than %zu argument(s)",
                         (int)size_min(n->v.len, 40), n->v.as.text, n->n);
    if (!n->uses_varargs) return 0;
    int rc = value_seq(r, VALUE_TUPLE, extra, &rest);
    for (size_t i = 0; rc == 0 && i < extra; i++)
        rest.as.seq->items[i] = args->items[n->n + i];
    if (rc == 0) rc = find_symbol(r->template, "varargs", &symbol);
    return rc < 0 ? rc : run_set(r, symbol, rest);
}

/* kwargs and caller: what is left of the named ones. */
static int bind_kwargs(run *r, const node *n, const call_args *args) {
    value rest, caller;
    uint32_t symbol;
    int rc = value_dict(r, 0, &rest);
    if (rc == 0 && n->uses_caller)
        rc = value_undefined_because(r, "No caller defined", &caller);
    for (size_t i = 0; rc == 0 && i < args->n_named; i++) {
        value name = args->named[i].name;
        if (is_param(n, name)) continue;
        if (value_is_text(name, "caller") && n->uses_caller)
            caller = args->named[i].v;
        else if (n->uses_kwargs)
            rc = dict_set(r, rest.as.dict, name, args->named[i].v);
        else
            rc = run_raise(r, "macro '%.*s' takes no keyword argument '%.*s'",
                           (int)size_min(n->v.len, 40), n->v.as.text,
                           (int)size_min(name.len, 40), name.as.text);
    }
    if (rc == 0 && n->uses_caller) {
        rc = find_symbol(r->template, "caller", &symbol);
        if (rc == 0) rc = run_set(r, symbol, caller);
    }
    if (rc == 0 && n->uses_kwargs) {
        rc = find_symbol(r->template, "kwargs", &symbol);
        if (rc == 0) rc = run_set(r, symbol, rest);
    }
    return rc;
}

static int macro_body(run *r, const node *n, const call_args *args) {
    int flow = FLOW_ON;
    int rc = bind_kwargs(r, n, args);
    if (rc == 0) rc = bind_varargs(r, n, args);
    for (size_t i = 0; rc == 0 && i < n->n; i++)
        rc = bind_param(r, n, i, args);
    return rc < 0 ? rc : run_body(r, n->c, &flow);
}

int macro_call(run *r, const macro *m, const call_args *args, value *out) {
    scope *here = r->scope;
    uint32_t line = r->line;
    size_t mark = run_mark(r);
    int rc = run_enter(r);
    if (rc < 0) return rc;
    scope *inner = run_alloc(r, 1, sizeof(*inner));
    if (inner == NULL) return run_full(r);

    r->scope = m->scope;
    run_push(r, inner);
    rc = macro_body(r, m->node, args);
    if (rc < 0) return rc;
    r->scope = here;
    r->line = line;
    run_leave(r);
    return run_take(r, mark, out);
}
