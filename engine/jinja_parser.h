/* jinja_parser.h - what the two halves of the parser share: jinja_parser.c
 * reads statements, jinja_grammar.c expressions. */
#ifndef ENGINE_JINJA_PARSER_H
#define ENGINE_JINJA_PARSER_H

#include "engine/jinja.h"
#include "engine/jinja_node.h"

typedef struct {
    jinja *t;
    const token *at;
    unsigned depth;   /* of the functions that call themselves */
    unsigned n_loops; /* around what is being parsed, in its macro */
    node *macro;      /* around what is being parsed; may be NULL */
    char *why;
    size_t why_size;
} parser;

/* "line 3: ..." into `why`; returns the code. */
int parser_fail(const parser *p, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define parser_refuse(p, ...) parser_fail(p, ERR_FORMAT, __VA_ARGS__)
/* "unexpected X" for the token at hand; `wanted` may be NULL. */
int parser_unexpected(const parser *p, const char *wanted);

int parser_enter(parser *p);
void parser_leave(parser *p);

/* ---- tokens ---- */
bool parser_sees(const parser *p, node_op op);
bool parser_sees_word(const parser *p, const char *word);
bool parser_skip(parser *p, node_op op);
bool parser_skip_word(parser *p, const char *word);
int parser_expect(parser *p, node_op op);
int parser_expect_name(parser *p, value *name);

/* ---- nodes ---- */

/* A node at the present line; NULL: no memory, parser_fail() was called. */
node *parser_node(parser *p, node_kind kind);
/* Before a node is used: check how deep it is, its children being set. */
int parser_finish(parser *p, node *n);
/* The number of a variable's name; interns it. */
int parser_symbol(parser *p, value name, uint32_t *out);

/* Nodes gathered one by one, then copied to the template's arena. */
typedef struct {
    node **items; /* malloc'd */
    size_t n, capacity;
} node_list;
int parser_append(parser *p, node_list *list, node *n);
/* Into the arena; empties the list. */
int parser_gather(parser *p, node_list *list, node ***items, size_t *n);

/* ---- expressions ---- */
typedef enum {
    TUPLE_ANY = 0,
    TUPLE_NO_COND = 1, /* no `a if b`: the `if` belongs to a `for` */
    TUPLE_EMPTY = 2    /* () is one */
} tuple_form;

int parser_expression(parser *p, node **out);
/* An expression, or several with commas: a tuple. */
int parser_tuple(parser *p, unsigned form, node **out);
/* What can be assigned to; `members`: also namespace.name. */
int parser_target(parser *p, bool members, node **out);
/* `|filter|filter` on `in`; `begun`: the first has no bar before it. */
int parser_filters(parser *p, node *in, bool begun, node **out);

#endif
