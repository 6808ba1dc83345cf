/* jinja_grammar.c - expressions, with Jinja's own precedence: or, and, not,
 * comparisons, + -, ~, * / // %, ** (to the left), signs, then filters and
 * tests, which bind tighter than a sign's operand ends. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_parser.h"
#include "engine/util.h"

typedef int (*level)(parser *p, node **out);

static int unary(parser *p, bool filters, node **out);

/* ---- small parts ---- */

static int make(parser *p, node_kind kind, node *a, node *b, node **out) {
    node *n = parser_node(p, kind);
    if (n == NULL) return -ENOMEM;
    n->a = a;
    n->b = b;
    *out = n;
    return parser_finish(p, n);
}

static int make_const(parser *p, value v, node **out) {
    node *n = parser_node(p, NODE_CONST);
    if (n == NULL) return -ENOMEM;
    n->v = v;
    *out = n;
    return 0;
}

/* Expressions with commas between, up to and with `end`. */
static int listed(parser *p, node_kind kind, node_op end, node **out) {
    node_list list = {0};
    node *made = parser_node(p, kind), *item = NULL;
    int rc = made != NULL ? parser_enter(p) : -ENOMEM;
    if (rc < 0) return rc;

    while (rc == 0 && !parser_sees(p, end)) {
        if (list.n > 0) rc = parser_expect(p, OP_COMMA);
        if (rc < 0 || parser_sees(p, end)) break;
        rc = parser_expression(p, &item);
        if (rc == 0) rc = parser_append(p, &list, item);
        if (rc == 0 && kind == NODE_DICT) {
            rc = parser_expect(p, OP_COLON);
            if (rc == 0) rc = parser_expression(p, &item);
            if (rc == 0) rc = parser_append(p, &list, item);
        }
    }
    if (rc == 0) rc = parser_expect(p, end);
    if (rc == 0) rc = parser_gather(p, &list, &made->items, &made->n);
    if (rc == 0) rc = parser_finish(p, made);
    free(list.items);
    parser_leave(p);
    *out = made;
    return rc;
}

/* Strings side by side are one. */
static int strings(parser *p, node **out) {
    size_t total = 0, at = 0;
    const token *first = p->at;
    for (; p->at->type == TOKEN_STRING; p->at++)
        total += p->at->v.len;
    if (p->at == first + 1) return make_const(p, first->v, out);

    char *text = arena_alloc(&p->t->memory, total + 1, 1);
    if (text == NULL) return parser_fail(p, -ENOMEM, "no memory");
    for (const token *t = first; t < p->at; t++) {
        memcpy(text + at, t->v.as.text, t->v.len);
        at += t->v.len;
    }
    return make_const(p, value_text(text, total), out);
}

static int name(parser *p, bool members, node **out) {
    static const struct {
        const char *word;
        value_type type;
        bool truth;
    } constants[] = {
        {"true", VALUE_BOOL, true},   {"True", VALUE_BOOL, true},
        {"false", VALUE_BOOL, false}, {"False", VALUE_BOOL, false},
        {"none", VALUE_NONE, false},  {"None", VALUE_NONE, false},
    };
    value text = p->at->v;
    node *n = parser_node(p, NODE_NAME);
    if (n == NULL) return -ENOMEM;

    p->at++;
    n->v = text;
    for (size_t i = 0; i < ARRAY_LEN(constants); i++) {
        if (!value_is_text(text, constants[i].word)) continue;
        n->kind = NODE_CONST;
        n->v = constants[i].type == VALUE_NONE ? value_none()
                                               : value_bool(constants[i].truth);
        *out = n;
        return 0;
    }
    if (p->macro != NULL) {
        p->macro->uses_caller |= value_is_text(text, "caller");
        p->macro->uses_varargs |= value_is_text(text, "varargs");
        p->macro->uses_kwargs |= value_is_text(text, "kwargs");
    }
    int rc = parser_symbol(p, text, &n->symbol);
    if (rc == 0 && members && parser_skip(p, OP_DOT)) {
        n->kind = NODE_MEMBER;
        rc = parser_expect_name(p, &n->v);
    }
    *out = n;
    return rc;
}

static int primary(parser *p, bool members, node **out) {
    const token *t = p->at;
    switch (t->type) {
    case TOKEN_NAME:
        return name(p, members, out);
    case TOKEN_STRING:
        return strings(p, out);
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        p->at++;
        return make_const(p, t->v, out);
    default:
        break;
    }
    if (parser_skip(p, OP_LPAREN)) {
        int rc = parser_tuple(p, TUPLE_EMPTY, out);
        return rc < 0 ? rc : parser_expect(p, OP_RPAREN);
    }
    if (parser_skip(p, OP_LBRACKET))
        return listed(p, NODE_LIST, OP_RBRACKET, out);
    if (parser_skip(p, OP_LBRACE)) return listed(p, NODE_DICT, OP_RBRACE, out);
    return parser_unexpected(p, NULL);
}

/* ---- calls ---- */

/* Named arguments gathered one by one. */
typedef struct {
    node_named *items;
    size_t n, capacity;
} named_list;

static int append_named(parser *p, named_list *list, value key, node *v) {
    if (list->n == list->capacity) {
        size_t capacity = list->capacity * 2 + 8;
        node_named *grown = realloc(list->items, capacity * sizeof(*grown));
        if (grown == NULL) return parser_fail(p, -ENOMEM, "no memory");
        list->items = grown;
        list->capacity = capacity;
    }
    list->items[list->n++] = (node_named){key, v};
    return 0;
}

static int one_argument(parser *p, node_args *args, node_list *items,
                        named_list *named) {
    static const char wrong[] = "invalid syntax for a call's arguments";
    node *v = NULL;

    if (parser_skip(p, OP_MUL)) {
        if (args->more_items != NULL || args->more_named != NULL)
            return parser_refuse(p, wrong);
        return parser_expression(p, &args->more_items);
    }
    if (args->more_named != NULL) return parser_refuse(p, wrong);
    if (parser_skip(p, OP_POW)) return parser_expression(p, &args->more_named);
    if (p->at->type == TOKEN_NAME && p->at[1].op == OP_ASSIGN) {
        value key = p->at->v;
        p->at += 2;
        int rc = parser_expression(p, &v);
        return rc < 0 ? rc : append_named(p, named, key, v);
    }
    if (args->more_items != NULL || named->n > 0)
        return parser_refuse(p, wrong);
    int rc = parser_expression(p, &v);
    return rc < 0 ? rc : parser_append(p, items, v);
}

/* The arguments behind an opening parenthesis, and the closing one. */
static int arguments(parser *p, node_args *args) {
    node_list items = {0};
    named_list named = {0};
    bool first = true;
    int rc = parser_enter(p);
    if (rc < 0) return rc;

    while (rc == 0 && !parser_sees(p, OP_RPAREN)) {
        if (!first) rc = parser_expect(p, OP_COMMA);
        if (rc < 0 || parser_sees(p, OP_RPAREN)) break;
        rc = one_argument(p, args, &items, &named);
        first = false;
    }
    if (rc == 0) rc = parser_expect(p, OP_RPAREN);
    if (rc == 0) rc = parser_gather(p, &items, &args->items, &args->n);
    if (rc == 0 && named.n > 0) {
        args->n_named = named.n;
        args->named = arena_alloc(&p->t->memory, named.n, sizeof(*args->named));
        if (args->named != NULL)
            memcpy(args->named, named.items, named.n * sizeof(*args->named));
        else
            rc = parser_fail(p, -ENOMEM, "no memory");
    }
    free(items.items);
    free(named.items);
    parser_leave(p);
    return rc;
}

static int call(parser *p, node *callee, node **out) {
    node *n = parser_node(p, NODE_CALL);
    if (n == NULL) return -ENOMEM;
    n->a = callee;
    *out = n;
    int rc = arguments(p, &n->args);
    return rc < 0 ? rc : parser_finish(p, n);
}

/* ---- subscripts ---- */

static bool slice_ends(const parser *p) {
    return parser_sees(p, OP_COLON) || parser_sees(p, OP_RBRACKET) ||
           parser_sees(p, OP_COMMA);
}

static int slice(parser *p, node *in, node *first, node **out) {
    node *n = parser_node(p, NODE_SLICE);
    int rc = 0;
    if (n == NULL) return -ENOMEM;
    n->a = in;
    n->n = 3;
    n->items = arena_alloc(&p->t->memory, 3, sizeof(*n->items));
    if (n->items == NULL) return parser_fail(p, -ENOMEM, "no memory");
    n->items[0] = first;
    for (int i = 1; rc == 0 && i < 3; i++) {
        if (!parser_skip(p, OP_COLON)) break;
        if (!slice_ends(p)) rc = parser_expression(p, &n->items[i]);
    }
    *out = n;
    return rc < 0 ? rc : parser_finish(p, n);
}

/* Behind `[`: an index, several (a tuple), or a slice. */
static int subscript(parser *p, node *in, node **out) {
    node *index = NULL;
    if (parser_sees(p, OP_COLON)) {
        int rc = slice(p, in, NULL, out);
        return rc < 0 ? rc : parser_expect(p, OP_RBRACKET);
    }
    if (parser_sees(p, OP_RBRACKET)) return parser_unexpected(p, NULL);
    int rc = parser_expression(p, &index);
    if (rc == 0 && parser_sees(p, OP_COLON)) {
        rc = slice(p, in, index, out);
        return rc < 0 ? rc : parser_expect(p, OP_RBRACKET);
    }
    if (rc == 0 && parser_skip(p, OP_COMMA)) {
        node_list list = {0};
        node *rest = NULL;
        rc = listed(p, NODE_TUPLE, OP_RBRACKET, &rest);
        if (rc == 0) rc = parser_append(p, &list, index);
        for (size_t i = 0; rc == 0 && i < rest->n; i++)
            rc = parser_append(p, &list, rest->items[i]);
        if (rc == 0) rc = parser_gather(p, &list, &rest->items, &rest->n);
        free(list.items);
        if (rc == 0) rc = parser_finish(p, rest);
        return rc < 0 ? rc : make(p, NODE_ITEM, in, rest, out);
    }
    if (rc == 0) rc = parser_expect(p, OP_RBRACKET);
    return rc < 0 ? rc : make(p, NODE_ITEM, in, index, out);
}

static int attribute(parser *p, node *in, node **out) {
    const token *t = p->at++;
    node *index = NULL;
    if (t->type == TOKEN_NAME) {
        int rc = make(p, NODE_ATTR, in, NULL, out);
        if (rc == 0) (*out)->v = t->v;
        return rc;
    }
    p->at--;
    if (t->type != TOKEN_INTEGER)
        return parser_unexpected(p, "a name or a number");
    p->at++;
    int rc = make_const(p, t->v, &index);
    return rc < 0 ? rc : make(p, NODE_ITEM, in, index, out);
}

static int postfix(parser *p, node **n) {
    int rc = 0;
    while (rc == 0) {
        if (parser_skip(p, OP_DOT))
            rc = attribute(p, *n, n);
        else if (parser_skip(p, OP_LBRACKET))
            rc = subscript(p, *n, n);
        else if (parser_skip(p, OP_LPAREN))
            rc = call(p, *n, n);
        else
            break;
    }
    return rc;
}

/* ---- filters and tests ---- */

/* A name, maybe with dots in it. */
static int dotted(parser *p, value *out) {
    int rc = parser_expect_name(p, out);
    const char *begin = out->as.text;
    while (rc == 0 && parser_skip(p, OP_DOT)) {
        rc = parser_expect_name(p, out);
        if (rc == 0) {
            out->len = (uint32_t)(out->as.text + out->len - begin);
            out->as.text = begin;
        }
    }
    return rc;
}

static int one_filter(parser *p, node *in, node **out) {
    node *n = parser_node(p, NODE_FILTER);
    if (n == NULL) return -ENOMEM;
    n->a = in;
    int rc = dotted(p, &n->v);
    if (rc == 0 && parser_skip(p, OP_LPAREN)) rc = arguments(p, &n->args);
    if (rc < 0) return rc;
    n->builtin = builtin_filter(n->v);
    *out = n;
    return parser_finish(p, n);
}

int parser_filters(parser *p, node *in, bool begun, node **out) {
    int rc = 0;
    *out = in;
    while (rc == 0 && (begun || parser_skip(p, OP_PIPE))) {
        rc = one_filter(p, *out, out);
        begun = false;
    }
    return rc;
}

/* Does what follows a test's name begin its argument? */
static bool begins_argument(const parser *p) {
    switch (p->at->type) {
    case TOKEN_STRING:
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return true;
    case TOKEN_NAME:
        return !parser_sees_word(p, "else") && !parser_sees_word(p, "or") &&
               !parser_sees_word(p, "and");
    default:
        return parser_sees(p, OP_LBRACKET) || parser_sees(p, OP_LBRACE);
    }
}

static int test_argument(parser *p, node *test) {
    node_list list = {0};
    node *argument = NULL;
    if (parser_sees_word(p, "is"))
        return parser_refuse(p, "tests with 'is' cannot be chained");
    int rc = primary(p, false, &argument);
    if (rc == 0) rc = postfix(p, &argument);
    if (rc == 0) rc = parser_append(p, &list, argument);
    if (rc == 0) rc = parser_gather(p, &list, &test->args.items, &test->args.n);
    free(list.items);
    return rc;
}

/* Behind `is`. */
static int test(parser *p, node *in, node **out) {
    node *n = parser_node(p, NODE_TEST);
    if (n == NULL) return -ENOMEM;
    bool negated = parser_skip_word(p, "not");
    n->a = in;
    int rc = dotted(p, &n->v);
    if (rc < 0) return rc;
    if (parser_skip(p, OP_LPAREN))
        rc = arguments(p, &n->args);
    else if (begins_argument(p))
        rc = test_argument(p, n);
    if (rc == 0) rc = parser_finish(p, n);
    n->builtin = builtin_test(n->v);
    *out = n;
    return rc < 0 || !negated ? rc : make(p, NODE_NOT, n, NULL, out);
}

static int filters_and_tests(parser *p, node **n) {
    int rc = 0;
    while (rc == 0) {
        if (parser_skip(p, OP_PIPE))
            rc = one_filter(p, *n, n);
        else if (parser_skip_word(p, "is"))
            rc = test(p, *n, n);
        else if (parser_skip(p, OP_LPAREN))
            rc = call(p, *n, n);
        else
            break;
    }
    return rc;
}

/* ---- operators ---- */

static int unary(parser *p, bool filters, node **out) {
    int rc = parser_enter(p);
    if (rc < 0) return rc;
    if (parser_sees(p, OP_SUB) || parser_sees(p, OP_ADD)) {
        node_op op = p->at++->op;
        node *operand = NULL;
        rc = unary(p, false, &operand);
        if (rc == 0) rc = make(p, NODE_SIGN, operand, NULL, out);
        if (rc == 0) (*out)->op = op;
    } else {
        rc = primary(p, false, out);
    }
    if (rc == 0) rc = postfix(p, out);
    if (rc == 0 && filters) rc = filters_and_tests(p, out);
    parser_leave(p);
    return rc;
}

static int filtered(parser *p, node **out) {
    return unary(p, true, out);
}

/* Operands of one level with operators between, taken from the left. */
static int binary(parser *p, level operand, const node_op *ops, node **out) {
    int rc = operand(p, out);
    while (rc == 0) {
        node *right = NULL, *left = *out;
        const node_op *op = ops;
        while (*op != OP_NONE && !parser_sees(p, *op))
            op++;
        if (*op == OP_NONE) break;
        p->at++;
        rc = operand(p, &right);
        if (rc == 0) rc = make(p, NODE_BINARY, left, right, out);
        if (rc == 0) (*out)->op = *op;
    }
    return rc;
}

static int power(parser *p, node **out) {
    static const node_op ops[] = {OP_POW, OP_NONE};
    return binary(p, filtered, ops, out);
}

static int product(parser *p, node **out) {
    static const node_op ops[] = {OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_NONE};
    return binary(p, power, ops, out);
}

static int concat(parser *p, node **out) {
    node_list list = {0};
    node *n = NULL;
    int rc = product(p, out);
    if (rc < 0 || !parser_sees(p, OP_TILDE)) return rc;

    n = parser_node(p, NODE_CONCAT);
    if (n == NULL) return -ENOMEM;
    rc = parser_append(p, &list, *out);
    while (rc == 0 && parser_skip(p, OP_TILDE)) {
        rc = product(p, out);
        if (rc == 0) rc = parser_append(p, &list, *out);
    }
    if (rc == 0) rc = parser_gather(p, &list, &n->items, &n->n);
    free(list.items);
    *out = n;
    return rc < 0 ? rc : parser_finish(p, n);
}

static int sum(parser *p, node **out) {
    static const node_op ops[] = {OP_ADD, OP_SUB, OP_NONE};
    return binary(p, concat, ops, out);
}

/* The comparison at hand, taken; OP_NONE: there is none. */
static node_op take_comparison(parser *p) {
    static const node_op ops[] = {OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        if (parser_skip(p, ops[i])) return ops[i];
    }
    if (parser_skip_word(p, "in")) return OP_IN;
    if (!parser_sees_word(p, "not")) return OP_NONE;
    if (p->at[1].type != TOKEN_NAME || !value_is_text(p->at[1].v, "in"))
        return OP_NONE;
    p->at += 2;
    return OP_NOT_IN;
}

static int comparison(parser *p, node **out) {
    node_list list = {0};
    node *n = NULL, *operand = NULL, *right = NULL;
    int rc = sum(p, out);
    node_op op = rc == 0 ? take_comparison(p) : OP_NONE;
    if (rc < 0 || op == OP_NONE) return rc;

    n = parser_node(p, NODE_COMPARE);
    if (n == NULL) return -ENOMEM;
    n->a = *out;
    while (rc == 0 && op != OP_NONE) {
        rc = sum(p, &right);
        if (rc == 0) rc = make(p, NODE_OPERAND, right, NULL, &operand);
        if (rc == 0) operand->op = op;
        if (rc == 0) rc = parser_append(p, &list, operand);
        if (rc == 0) op = take_comparison(p);
    }
    if (rc == 0) rc = parser_gather(p, &list, &n->items, &n->n);
    free(list.items);
    *out = n;
    return rc < 0 ? rc : parser_finish(p, n);
}

static int negation(parser *p, node **out) {
    if (!parser_skip_word(p, "not")) return comparison(p, out);
    node *operand = NULL;
    int rc = parser_enter(p);
    if (rc < 0) return rc;
    rc = negation(p, &operand);
    parser_leave(p);
    return rc < 0 ? rc : make(p, NODE_NOT, operand, NULL, out);
}

static int words(parser *p, level operand, const char *word, node_kind kind,
                 node **out) {
    int rc = operand(p, out);
    while (rc == 0 && parser_skip_word(p, word)) {
        node *right = NULL;
        rc = operand(p, &right);
        if (rc == 0) rc = make(p, kind, *out, right, out);
    }
    return rc;
}

static int conjunction(parser *p, node **out) {
    return words(p, negation, "and", NODE_AND, out);
}

static int disjunction(parser *p, node **out) {
    return words(p, conjunction, "or", NODE_OR, out);
}

int parser_expression(parser *p, node **out) {
    int rc = parser_enter(p);
    if (rc < 0) return rc;
    rc = disjunction(p, out);
    while (rc == 0 && parser_skip_word(p, "if")) {
        node *condition = NULL, *otherwise = NULL;
        rc = disjunction(p, &condition);
        if (rc == 0 && parser_skip_word(p, "else"))
            rc = parser_expression(p, &otherwise);
        node *n = rc == 0 ? parser_node(p, NODE_COND) : NULL;
        if (rc == 0 && n == NULL) rc = -ENOMEM;
        if (rc < 0) break;
        n->a = condition;
        n->b = *out;
        n->c = otherwise;
        *out = n;
        rc = parser_finish(p, n);
    }
    parser_leave(p);
    return rc;
}

/* ---- tuples and targets ---- */

static bool tuple_ends(const parser *p) {
    return p->at->type == TOKEN_PRINT_END || p->at->type == TOKEN_BLOCK_END ||
           parser_sees(p, OP_RPAREN) || parser_sees_word(p, "in");
}

/* Items with commas between.  One without a comma is itself. */
static int tuple_of(parser *p, level item, bool may_be_empty, node **out) {
    node_list list = {0};
    node *n = NULL;
    bool is_tuple = false;
    int rc = 0;

    while (rc == 0 && !tuple_ends(p)) {
        rc = item(p, &n);
        if (rc == 0) rc = parser_append(p, &list, n);
        if (rc < 0 || !parser_skip(p, OP_COMMA)) break;
        is_tuple = true;
    }
    if (rc == 0 && list.n == 0 && !may_be_empty)
        rc = parser_unexpected(p, "an expression");
    if (rc == 0 && (is_tuple || list.n == 0)) {
        n = parser_node(p, NODE_TUPLE);
        rc = n == NULL ? -ENOMEM : parser_gather(p, &list, &n->items, &n->n);
        if (rc == 0) rc = parser_finish(p, n);
    }
    free(list.items);
    *out = n;
    return rc;
}

int parser_tuple(parser *p, unsigned form, node **out) {
    level item = form & TUPLE_NO_COND ? disjunction : parser_expression;
    int rc = parser_enter(p);
    if (rc < 0) return rc;
    rc = tuple_of(p, item, (form & TUPLE_EMPTY) != 0, out);
    parser_leave(p);
    return rc;
}

static int check_target(const parser *p, const node *n) {
    if (n->kind == NODE_NAME || n->kind == NODE_MEMBER) return 0;
    if (n->kind != NODE_TUPLE)
        return parser_refuse(p, "this cannot be assigned to");
    for (size_t i = 0; i < n->n; i++) {
        int rc = check_target(p, n->items[i]); /* as deep as it was parsed */
        if (rc < 0) return rc;
    }
    return 0;
}

static int target_name(parser *p, node **out) {
    return primary(p, false, out);
}

static int target_name_or_member(parser *p, node **out) {
    return primary(p, true, out);
}

int parser_target(parser *p, bool members, node **out) {
    int rc =
        tuple_of(p, members ? target_name_or_member : target_name, false, out);
    return rc < 0 ? rc : check_target(p, *out);
}
