/* jinja_run.h - one rendering: its memory, limits, output and scopes.
 *
 * Every function of a rendering returns 0 or an error code, and run_fail() has
 * then written the sentence; the whole rendering ends with it, so nobody undoes
 * anything.  All text is made by appending to one growing output: a captured
 * text is the tail of it, copied to the arena and cut off again. */
#ifndef ENGINE_JINJA_RUN_H
#define ENGINE_JINJA_RUN_H

#include "engine/jinja.h"
#include "engine/jinja_arena.h"
#include "engine/jinja_node.h"
#include "engine/jinja_value.h"

typedef struct {
    uint32_t symbol;
    value v;
} binding;

/* Variables of a block; blocks within see them. */
typedef struct scope {
    struct scope *parent; /* NULL: only the template's own variables */
    binding *items;
    size_t n, capacity;
} scope;

struct run {
    const jinja *template;
    arena memory;
    uint64_t steps_left;
    size_t output_limit;
    unsigned depth;
    uint32_t line; /* of the node at work, for the sentences */
    struct tm now;

    char *out; /* malloc'd */
    size_t out_len, out_capacity;

    value *variables; /* the template's own, by symbol; MISSING: not set */
    scope *scope;     /* the innermost; NULL outside of all blocks */

    char *why;
    size_t why_size;
};

/* ---- failing and limits ---- */

/* "line 3: ..." into `why`; returns code. */
int run_fail(run *r, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* ERR_USAGE with a sentence: what Python would raise. */
#define run_raise(r, ...) run_fail(r, ERR_USAGE, __VA_ARGS__)

/* ERR_USAGE with the sentence for the use of an undefined value. */
int run_undefined(run *r, value v);

int run_steps(run *r, uint64_t n);
/* Every function that can call itself in a circle calls these around its work.
 */
int run_enter(run *r);
void run_leave(run *r);

/* Memory until the rendering ends, zeroed; NULL: return run_full(r). */
void *run_alloc(run *r, size_t count, size_t size);
int run_full(run *r);
int run_copy_text(run *r, const char *text, size_t len, value *out);

/* ---- output ---- */
int run_put(run *r, const char *text, size_t len);
int run_put_string(run *r, const char *zero_terminated);
int run_put_text(run *r, value text);
int run_put_times(run *r, char c, size_t n);
int run_put_char(run *r, int32_t code_point);

/* Everything appended since `mark` as a text of its own. */
static inline size_t run_mark(const run *r) {
    return r->out_len;
}
int run_take(run *r, size_t mark, value *out);

/* ---- variables ---- */
/* An empty scope inside the present one; in the arena, as macros keep it. */
void run_push(run *r, scope *s);
void run_pop(run *r, const scope *s);
int run_set(run *r, uint32_t symbol, value v); /* in the innermost scope */
int run_get(run *r, uint32_t symbol, value *out);

/* ---- text of values (jinja_text.c, jinja_format.c) ---- */
int run_print(run *r, value v); /* str(v) to the output */
int run_repr(run *r, value v);
int run_str(run *r, value v, value *out); /* str(v); text stays as it is */
/* HTML's special characters replaced. */
int run_escaped(run *r, value v, value *out);

/* ---- JSON (jinja_json.c) ---- */
typedef struct {
    bool ascii, sort_keys;
    bool pretty;
    value indent;            /* text; if pretty */
    value item_sep, key_sep; /* text */
} json_style;
int run_to_json(run *r, value v, const json_style *style);
int run_from_json(run *r, const json_t *json, value *out);

/* ---- operators and parts (jinja_operator.c, jinja_part.c) ---- */
int run_binary(run *r, node_op op, value a, value b, value *out);
int run_negate(run *r, value v, bool negative, value *out);
int run_compare(run *r, node_op op, value a, value b, bool *out);
int run_attribute(run *r, value v, value name, value *out);
int run_item(run *r, value v, value index, value *out);
int run_slice(run *r, value v, const value bounds[3], value *out);

/* `text % args` */
int run_percent(run *r, value format, value args, value *out);
/* The text of a float as repr() has it: the shortest that reads back. */
#define RUN_REAL_BYTES 64
void run_real_text(double real, char out[RUN_REAL_BYTES]);

/* ---- evaluating (jinja_eval.c, jinja_exec.c) ---- */
int run_eval(run *r, const node *n, value *out);
/* What a body wants of the loop around it. */
enum { FLOW_ON = 0, FLOW_BREAK = 1, FLOW_CONTINUE = 2 };
int run_body(run *r, const node *body, int *flow);
/* A body in a scope of its own, as text. */
int run_capture(run *r, const node *body, value *out);
/* Set the names of a target: NAME, TUPLE or MEMBER nodes. */
int run_assign(run *r, const node *target, value v);

#endif
