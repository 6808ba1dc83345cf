/* jinja_loop.h - what a for loop knows of itself, and macros. */
#ifndef ENGINE_JINJA_LOOP_H
#define ENGINE_JINJA_LOOP_H

#include "engine/jinja_builtin.h"
#include "engine/jinja_node.h"
#include "engine/jinja_run.h"

struct loop {
    const node *node; /* NODE_FOR */
    seq *items;
    size_t index; /* from 0 */
    int64_t depth;
    scope *outer;  /* where the loop stands */
    value changed; /* what loop.changed() saw last; MISSING: nothing */
};

struct macro {
    const node *node; /* NODE_MACRO */
    scope *scope;     /* where it was defined */
};

size_t loop_length(const loop *l);
/* The items behind the present one, which are used up. */
int loop_rest(run *r, loop *l, seq **out);
/* loop.index and its like; MISSING: there is none of that name. */
int loop_attribute(run *r, const loop *l, value name, value *out);

/* Run NODE_FOR over items; the body's text goes to the output. */
int loop_run(run *r, const node *n, seq *items, int64_t depth);
/* loop(items): the same loop again, one level deeper, as text. */
int loop_call(run *r, const loop *l, const call_args *args, value *out);

int macro_new(run *r, const node *n, value *out);
int macro_call(run *r, const macro *m, const call_args *args, value *out);

#endif
