/* jinja_parser.c - statements, and what both halves of the parser need.
 *
 * Recursion follows the template's nesting, which is limited; so is the depth
 * of the tree that comes out, also where a loop built it (a long sum), since
 * whoever walks it calls himself. */
#include "engine/jinja_parser.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

/* ---- failing ---- */

int parser_fail(const parser *p, int code, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return err_why(p->why, p->why_size, code, "line %u: %s", p->at->line, text);
}

static const char *const token_names[] = {
    [TOKEN_END] = "the template's end", [TOKEN_DATA] = "text",
    [TOKEN_PRINT_BEGIN] = "'{{'",       [TOKEN_PRINT_END] = "'}}'",
    [TOKEN_BLOCK_BEGIN] = "'{%'",       [TOKEN_BLOCK_END] = "'%}'",
    [TOKEN_STRING] = "a string",        [TOKEN_INTEGER] = "an integer",
    [TOKEN_FLOAT] = "a number",
};

int parser_unexpected(const parser *p, const char *wanted) {
    const token *t = p->at;
    char seen[64];
    if (t->type == TOKEN_NAME) {
        snprintf(seen, sizeof(seen), "'%.*s'", (int)size_min(t->v.len, 40),
                 t->v.as.text);
    } else {
        bool is_operator = t->type == TOKEN_OPERATOR;
        snprintf(seen, sizeof(seen), is_operator ? "'%s'" : "%s",
                 is_operator ? op_text(t->op) : token_names[t->type]);
    }
    return wanted != NULL
               ? parser_refuse(p, "expected %s, found %s", wanted, seen)
               : parser_refuse(p, "unexpected %s", seen);
}

int parser_enter(parser *p) {
    if (p->depth == JINJA_MAX_NESTING)
        return parser_fail(p, ERR_TOO_LARGE,
                           "the template nests deeper than %d",
                           JINJA_MAX_NESTING);
    p->depth++;
    return 0;
}

void parser_leave(parser *p) {
    p->depth--;
}

/* ---- tokens ---- */

bool parser_sees(const parser *p, node_op op) {
    return p->at->type == TOKEN_OPERATOR && p->at->op == op;
}

bool parser_sees_word(const parser *p, const char *word) {
    return p->at->type == TOKEN_NAME && value_is_text(p->at->v, word);
}

bool parser_skip(parser *p, node_op op) {
    if (!parser_sees(p, op)) return false;
    p->at++;
    return true;
}

bool parser_skip_word(parser *p, const char *word) {
    if (!parser_sees_word(p, word)) return false;
    p->at++;
    return true;
}

int parser_expect(parser *p, node_op op) {
    char wanted[16];
    if (parser_skip(p, op)) return 0;
    snprintf(wanted, sizeof(wanted), "'%s'", op_text(op));
    return parser_unexpected(p, wanted);
}

int parser_expect_name(parser *p, value *name) {
    if (p->at->type != TOKEN_NAME) return parser_unexpected(p, "a name");
    *name = p->at++->v;
    return 0;
}

static int expect_word(parser *p, const char *word) {
    return parser_skip_word(p, word) ? 0 : parser_unexpected(p, word);
}

static int expect_type(parser *p, token_type type) {
    if (p->at->type != type) return parser_unexpected(p, token_names[type]);
    p->at++;
    return 0;
}

/* ---- nodes ---- */

node *parser_node(parser *p, node_kind kind) {
    node *n = arena_alloc(&p->t->memory, 1, sizeof(*n));
    if (n == NULL) {
        parser_fail(p, -ENOMEM, "no memory for the template");
        return NULL;
    }
    n->kind = kind;
    n->line = p->at->line;
    n->depth = 1;
    return n;
}

static void deepen(node *n, const node *child) {
    if (child != NULL && child->depth >= n->depth) n->depth = child->depth + 1;
}

static void deepen_all(node *n, node *const *items, size_t count) {
    for (size_t i = 0; i < count; i++)
        deepen(n, items[i]);
}

int parser_finish(parser *p, node *n) {
    const node *children[] = {n->a,
                              n->b,
                              n->c,
                              n->test,
                              n->orelse,
                              n->args.more_items,
                              n->args.more_named};
    for (size_t i = 0; i < ARRAY_LEN(children); i++)
        deepen(n, children[i]);
    deepen_all(n, n->items, n->n);
    deepen_all(n, n->defaults, n->n_defaults);
    deepen_all(n, n->args.items, n->args.n);
    for (size_t i = 0; i < n->args.n_named; i++)
        deepen(n, n->args.named[i].v);
    if (n->depth <= JINJA_MAX_NESTING) return 0;
    return parser_fail(p, ERR_TOO_LARGE, "the template nests deeper than %d",
                       JINJA_MAX_NESTING);
}

int parser_symbol(parser *p, value name, uint32_t *out) {
    jinja *t = p->t;
    for (size_t i = 0; i < t->n_symbols; i++) {
        value known = t->symbols[i];
        *out = (uint32_t)i;
        if (known.len == name.len &&
            memcmp(known.as.text, name.as.text, name.len) == 0)
            return 0;
    }
    if (t->n_symbols == JINJA_MAX_NAMES)
        return parser_fail(p, ERR_TOO_LARGE, "more than %d names",
                           JINJA_MAX_NAMES);
    if (t->n_symbols == t->symbols_capacity) {
        size_t capacity = t->symbols_capacity * 2 + 64;
        value *grown = realloc(t->symbols, capacity * sizeof(*grown));
        if (grown == NULL) return parser_fail(p, -ENOMEM, "no memory");
        t->symbols = grown;
        t->symbols_capacity = capacity;
    }
    *out = (uint32_t)t->n_symbols;
    t->symbols[t->n_symbols++] = name;
    return 0;
}

int parser_append(parser *p, node_list *list, node *n) {
    if (list->n == list->capacity) {
        size_t capacity = list->capacity * 2 + 8;
        node **grown = realloc(list->items, capacity * sizeof(*grown));
        if (grown == NULL) return parser_fail(p, -ENOMEM, "no memory");
        list->items = grown;
        list->capacity = capacity;
    }
    list->items[list->n++] = n;
    return 0;
}

int parser_gather(parser *p, node_list *list, node ***items, size_t *n) {
    *n = list->n;
    if (list->n == 0) return 0;
    *items = arena_alloc(&p->t->memory, list->n, sizeof(**items));
    if (*items == NULL) return parser_fail(p, -ENOMEM, "no memory");
    memcpy(*items, list->items, list->n * sizeof(**items));
    list->n = 0;
    return 0;
}

/* ---- bodies ---- */

static int statement(parser *p, node **out);

/* Does one of the words that end a body come next? */
static bool ends_body(const parser *p, const char *const *ends) {
    for (; ends != NULL && *ends != NULL; ends++) {
        if (parser_sees_word(p, *ends)) return true;
    }
    return false;
}

/* One part of a body; *ended: it was the tag that ends it, up to its word. */
static int part(parser *p, const char *const *ends, node **out, bool *ended) {
    if (p->at->type == TOKEN_DATA) {
        *out = parser_node(p, NODE_DATA);
        if (*out == NULL) return -ENOMEM;
        (*out)->v = p->at++->v;
        return 0;
    }
    if (p->at->type == TOKEN_PRINT_BEGIN) {
        *out = parser_node(p, NODE_PRINT);
        if (*out == NULL) return -ENOMEM;
        p->at++;
        int rc = parser_tuple(p, TUPLE_ANY, &(*out)->a);
        if (rc == 0) rc = parser_finish(p, *out);
        return rc < 0 ? rc : expect_type(p, TOKEN_PRINT_END);
    }
    int rc = expect_type(p, TOKEN_BLOCK_BEGIN);
    *ended = rc == 0 && ends_body(p, ends);
    if (rc < 0 || *ended) return rc;
    rc = statement(p, out);
    return rc < 0 ? rc : expect_type(p, TOKEN_BLOCK_END);
}

/* Parts up to a tag that begins with one of `ends`, whose word is then next;
 * NULL: up to the template's end. */
static int parts(parser *p, const char *const *ends, node **out) {
    node_list list = {0};
    node *body = parser_node(p, NODE_BODY);
    bool ended = false;
    int rc = body == NULL ? -ENOMEM : parser_enter(p);
    if (rc < 0) return rc;

    while (rc == 0 && !ended && p->at->type != TOKEN_END) {
        node *n = NULL;
        rc = part(p, ends, &n, &ended);
        if (rc == 0 && !ended) rc = parser_append(p, &list, n);
    }
    if (rc == 0 && !ended && ends != NULL) rc = parser_unexpected(p, ends[0]);
    if (rc == 0) rc = parser_gather(p, &list, &body->items, &body->n);
    if (rc == 0) rc = parser_finish(p, body);
    free(list.items);
    parser_leave(p);
    *out = body;
    return rc;
}

/* The end of a tag, then a body; the word that ended it is next. */
static int body_of(parser *p, const char *const *ends, node **out) {
    parser_skip(p, OP_COLON);
    int rc = expect_type(p, TOKEN_BLOCK_END);
    return rc < 0 ? rc : parts(p, ends, out);
}

/* The same with one possible end, which is taken too. */
static int whole_body(parser *p, const char *end, node **out) {
    const char *ends[] = {end, NULL};
    int rc = body_of(p, ends, out);
    return rc < 0 ? rc : expect_word(p, end);
}

/* ---- statements: each is called behind its word ---- */

static int parse_set(parser *p, node *n) {
    int rc = parser_target(p, true, &n->a);
    if (rc < 0) return rc;
    if (parser_skip(p, OP_ASSIGN)) return parser_tuple(p, TUPLE_ANY, &n->b);

    /* {% set x | filter %}text{% endset %}: the filters wait for their text */
    node *text = parser_node(p, NODE_CAPTURE);
    if (text == NULL) return -ENOMEM;
    rc = parser_filters(p, text, false, &n->b);
    if (rc == 0) rc = whole_body(p, "endset", &text->a);
    if (rc == 0) rc = parser_finish(p, text);
    if (rc == 0) deepen(n, text);
    return rc;
}

static int parse_filter(parser *p, node *n) {
    node *text = parser_node(p, NODE_CAPTURE);
    if (text == NULL) return -ENOMEM;
    int rc = parser_filters(p, text, true, &n->a);
    if (rc == 0) rc = whole_body(p, "endfilter", &text->a);
    if (rc == 0) rc = parser_finish(p, text);
    if (rc == 0) deepen(n, text);
    return rc;
}

/* A chain of elif is as deep as its deepest branch: it is walked in a loop. */
static int parse_if(parser *p, node *n) {
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    node *first = n;
    for (;;) {
        int rc = parser_tuple(p, TUPLE_NO_COND, &n->a);
        if (rc == 0) rc = body_of(p, ends, &n->b);
        if (rc < 0) return rc;
        deepen(first, n->a);
        deepen(first, n->b);
        if (parser_skip_word(p, "endif")) return 0;
        if (!parser_skip_word(p, "elif")) break;
        n->c = parser_node(p, NODE_IF);
        if (n->c == NULL) return -ENOMEM;
        n = n->c;
    }
    int rc = expect_word(p, "else");
    if (rc == 0) rc = whole_body(p, "endif", &n->c);
    if (rc == 0) deepen(first, n->c);
    return rc;
}

static int parse_for(parser *p, node *n) {
    static const char *const ends[] = {"endfor", "else", NULL};
    int rc = parser_target(p, false, &n->a);
    if (rc == 0) rc = expect_word(p, "in");
    if (rc == 0) rc = parser_tuple(p, TUPLE_NO_COND, &n->b);
    if (rc == 0 && parser_skip_word(p, "if"))
        rc = parser_expression(p, &n->test);
    if (rc < 0) return rc;
    n->recursive = parser_skip_word(p, "recursive");
    p->n_loops++;
    rc = body_of(p, ends, &n->c);
    p->n_loops--;
    if (rc < 0 || parser_skip_word(p, "endfor")) return rc;
    rc = expect_word(p, "else");
    return rc < 0 ? rc : whole_body(p, "endfor", &n->orelse);
}

static int parse_jump(parser *p, node *n) {
    if (p->n_loops > 0) return 0;
    return parser_refuse(p, "'%s' outside of a loop",
                         n->kind == NODE_BREAK ? "break" : "continue");
}

/* (a, b=1): names into items, values of the last ones into defaults. */
static int signature(parser *p, node *n) {
    node_list names = {0}, defaults = {0};
    int rc = parser_expect(p, OP_LPAREN);

    while (rc == 0 && !parser_sees(p, OP_RPAREN)) {
        node *param = NULL, *v = NULL;
        if (names.n > 0) rc = parser_expect(p, OP_COMMA);
        if (rc == 0) param = parser_node(p, NODE_NAME);
        if (rc == 0 && param == NULL) rc = -ENOMEM;
        if (rc == 0) rc = parser_expect_name(p, &param->v);
        if (rc == 0) rc = parser_symbol(p, param->v, &param->symbol);
        if (rc == 0) rc = parser_append(p, &names, param);
        if (rc == 0 && parser_skip(p, OP_ASSIGN)) {
            rc = parser_expression(p, &v);
            if (rc == 0) rc = parser_append(p, &defaults, v);
        } else if (rc == 0 && defaults.n > 0) {
            rc = parser_refuse(p, "a parameter without default follows one "
                                  "with a default");
        }
    }
    if (rc == 0) rc = parser_expect(p, OP_RPAREN);
    if (rc == 0) rc = parser_gather(p, &names, &n->items, &n->n);
    if (rc == 0) rc = parser_gather(p, &defaults, &n->defaults, &n->n_defaults);
    free(names.items);
    free(defaults.items);
    return rc;
}

/* The body of a macro, in which loops and macros around do not count. */
static int macro_body(parser *p, node *n, const char *end) {
    node *outer = p->macro;
    unsigned n_loops = p->n_loops;
    p->macro = n;
    p->n_loops = 0;
    int rc = whole_body(p, end, &n->c);
    p->macro = outer;
    p->n_loops = n_loops;
    return rc;
}

static int parse_macro(parser *p, node *n) {
    int rc = parser_expect_name(p, &n->v);
    if (rc == 0) rc = parser_symbol(p, n->v, &n->symbol);
    if (rc == 0) rc = signature(p, n);
    return rc < 0 ? rc : macro_body(p, n, "endmacro");
}

static int parse_call(parser *p, node *n) {
    node *caller = parser_node(p, NODE_MACRO);
    if (caller == NULL) return -ENOMEM;
    caller->v = value_string("caller");
    int rc = parser_sees(p, OP_LPAREN) ? signature(p, caller) : 0;
    if (rc == 0) rc = parser_expression(p, &n->a);
    if (rc == 0 && n->a->kind != NODE_CALL)
        rc = parser_refuse(p, "expected a call behind 'call'");
    if (rc == 0) rc = macro_body(p, caller, "endcall");
    if (rc == 0) rc = parser_finish(p, caller);
    n->b = caller;
    return rc;
}

static int parse_with(parser *p, node *n) {
    node_list list = {0};
    int rc = 0;
    while (rc == 0 && p->at->type != TOKEN_BLOCK_END) {
        node *target = NULL, *v = NULL;
        if (list.n > 0) rc = parser_expect(p, OP_COMMA);
        if (rc == 0) rc = parser_target(p, false, &target);
        if (rc == 0) rc = parser_expect(p, OP_ASSIGN);
        if (rc == 0) rc = parser_expression(p, &v);
        if (rc == 0) rc = parser_append(p, &list, target);
        if (rc == 0) rc = parser_append(p, &list, v);
    }
    if (rc == 0) rc = parser_gather(p, &list, &n->items, &n->n);
    free(list.items);
    return rc < 0 ? rc : whole_body(p, "endwith", &n->c);
}

static int parse_generation(parser *p, node *n) {
    return whole_body(p, "endgeneration", &n->c);
}

/* {% print a, b %} */
static int parse_print(parser *p, node *n) {
    n->a = parser_node(p, NODE_CONCAT);
    if (n->a == NULL) return -ENOMEM;
    node_list list = {0};
    int rc = 0;
    while (rc == 0 && p->at->type != TOKEN_BLOCK_END) {
        node *v = NULL;
        if (list.n > 0) rc = parser_expect(p, OP_COMMA);
        if (rc == 0) rc = parser_expression(p, &v);
        if (rc == 0) rc = parser_append(p, &list, v);
    }
    if (rc == 0) rc = parser_gather(p, &list, &n->a->items, &n->a->n);
    if (rc == 0) rc = parser_finish(p, n->a);
    free(list.items);
    return rc;
}

/* What loads other templates parses, and fails where it would run. */
static int parse_unsupported(parser *p, node *n) {
    n->v = p->at[-1].v;
    while (p->at->type != TOKEN_BLOCK_END && p->at->type != TOKEN_END)
        p->at++;
    return 0;
}

static const struct {
    const char *word;
    node_kind kind;
    int (*parse)(parser *p, node *n);
} statements[] = {
    {"if", NODE_IF, parse_if},
    {"for", NODE_FOR, parse_for},
    {"set", NODE_SET, parse_set},
    {"macro", NODE_MACRO, parse_macro},
    {"call", NODE_CALL_BLOCK, parse_call},
    {"filter", NODE_PRINT, parse_filter},
    {"with", NODE_WITH, parse_with},
    {"print", NODE_PRINT, parse_print},
    {"break", NODE_BREAK, parse_jump},
    {"continue", NODE_CONTINUE, parse_jump},
    {"generation", NODE_SCOPE, parse_generation},
    {"include", NODE_UNSUPPORTED, parse_unsupported},
    {"import", NODE_UNSUPPORTED, parse_unsupported},
    {"from", NODE_UNSUPPORTED, parse_unsupported},
    {"extends", NODE_UNSUPPORTED, parse_unsupported},
};

/* A word that only goes on with, or ends, another statement. */
static bool continues_statement(const parser *p) {
    value word = p->at->v;
    return parser_sees_word(p, "else") || parser_sees_word(p, "elif") ||
           (word.len > 3 && memcmp(word.as.text, "end", 3) == 0);
}

static int statement(parser *p, node **out) {
    for (size_t i = 0; i < ARRAY_LEN(statements); i++) {
        if (!parser_sees_word(p, statements[i].word)) continue;
        node *n = parser_node(p, statements[i].kind);
        if (n == NULL) return -ENOMEM;
        p->at++;
        *out = n;
        int rc = statements[i].parse(p, n);
        /* (an elif chain has measured itself) */
        return rc < 0 || n->kind == NODE_IF ? rc : parser_finish(p, n);
    }
    if (p->at->type != TOKEN_NAME) return parser_unexpected(p, "a tag's name");
    if (continues_statement(p)) return parser_unexpected(p, NULL);
    return parser_fail(p, ERR_UNSUPPORTED, "unknown tag '%.*s'",
                       (int)size_min(p->at->v.len, 40), p->at->v.as.text);
}

int parser_run(jinja *t, char *why, size_t why_size) {
    parser p = {.t = t, .at = t->tokens, .why = why, .why_size = why_size};
    return parts(&p, NULL, &t->root);
}
