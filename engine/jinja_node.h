/* jinja_node.h - a template as a tree, and how it is made from source.
 *
 * The lexer cuts the source into tokens with all rules about white space
 * applied; the parser builds nodes.  Both live in the template's arena. */
#ifndef ENGINE_JINJA_NODE_H
#define ENGINE_JINJA_NODE_H

#include "engine/jinja_arena.h"
#include "engine/jinja_value.h"

/* ---- tokens ---- */
typedef enum {
    TOKEN_END, /* of the source */
    TOKEN_DATA,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR
} token_type;

typedef enum {
    /* clang-format off */
    OP_NONE, OP_POW, OP_FLOORDIV, OP_EQ, OP_NE, OP_GE, OP_LE, /* of two chars */
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_MOD, OP_TILDE, OP_GT, OP_LT,
    OP_ASSIGN, OP_DOT, OP_COLON, OP_PIPE, OP_COMMA, OP_SEMICOLON,
    OP_LPAREN, OP_RPAREN, OP_LBRACKET, OP_RBRACKET, OP_LBRACE, OP_RBRACE,
    OP_IN, OP_NOT_IN /* words that the parser makes operators */
    /* clang-format on */
} node_op;

/* As written; "" for OP_NONE. */
const char *op_text(node_op op);

typedef struct {
    token_type type;
    node_op op;
    uint32_t line;
    value v; /* data, names, strings, numbers */
} token;

/* ---- nodes ---- */
typedef enum {
    /* expressions */
    NODE_CONST,   /* v */
    NODE_NAME,    /* symbol; v is its text */
    NODE_TUPLE,   /* items */
    NODE_LIST,    /* items */
    NODE_DICT,    /* items: key, value, key, ... */
    NODE_ATTR,    /* a.v */
    NODE_ITEM,    /* a[b] */
    NODE_SLICE,   /* a[items[0]:items[1]:items[2]], each may be NULL */
    NODE_CALL,    /* a(args) */
    NODE_FILTER,  /* a|v(args), builtin */
    NODE_TEST,    /* a is v(args), builtin */
    NODE_NOT,     /* not a */
    NODE_SIGN,    /* op a */
    NODE_BINARY,  /* a op b */
    NODE_AND,     /* a and b */
    NODE_OR,      /* a or b */
    NODE_COMPARE, /* a, then items of kind NODE_OPERAND */
    NODE_OPERAND, /* op a */
    NODE_CONCAT,  /* items, with ~ between */
    NODE_COND,    /* b if a else c; c may be NULL */
    NODE_MEMBER,  /* only a target: namespace `symbol`, attribute v */
    NODE_CAPTURE, /* the text of body a */
    /* statements */
    NODE_BODY,       /* items */
    NODE_DATA,       /* v */
    NODE_PRINT,      /* a */
    NODE_SET,        /* target a = b */
    NODE_IF,         /* a: body b, else c (a body, another NODE_IF, or NULL) */
    NODE_FOR,        /* target a in b if test; body c, orelse; recursive */
    NODE_MACRO,      /* symbol, params (items), defaults, body c */
    NODE_CALL_BLOCK, /* a: the call, b: a NODE_MACRO, the caller */
    NODE_WITH,       /* items: target, value, ...; body c */
    NODE_SCOPE,      /* body c in a scope of its own */
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_UNSUPPORTED, /* v: the tag */
    NODE_KINDS
} node_kind;

typedef struct node node;

typedef struct {
    value name;
    node *v;
} node_named;

/* Of a call, a filter or a test. */
typedef struct {
    node **items;
    size_t n;
    node_named *named;
    size_t n_named;
    node *more_items, *more_named; /* *a and **b; may be NULL */
} node_args;

struct node {
    node_kind kind;
    node_op op;
    uint32_t line;
    uint32_t depth; /* of the tree below, at most JINJA_MAX_NESTING */
    uint32_t symbol;
    value v;
    node *a, *b, *c;
    node **items;
    size_t n;
    /* of some kinds */
    node_args args;
    const builtin *builtin; /* NULL: there is none of that name */
    node *test, *orelse;
    node **defaults; /* of the last n_defaults parameters */
    size_t n_defaults;
    bool recursive;
    bool uses_caller, uses_varargs, uses_kwargs; /* a macro's body */
};

/* ---- a template ---- */
struct jinja {
    arena memory;
    char *source; /* newlines normalised; owned */
    size_t source_len;
    token *tokens; /* owned; ends with TOKEN_END */
    size_t n_tokens;
    value *symbols; /* names of variables, by number; owned */
    size_t n_symbols, symbols_capacity;
    node *root;
};

/* Fill tokens from the source. */
int lexer_run(struct jinja *t, char *why, size_t why_size);
/* Fill the root from tokens. */
int parser_run(struct jinja *t, char *why, size_t why_size);

#endif
