/* jinja_run.c - see jinja_run.h: limits, memory, output, variables. */
#include "engine/jinja_run.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

/* ---- failing and limits ---- */

int run_fail(run *r, int code, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return err_why(r->why, r->why_size, code, "line %u: %s", r->line, text);
}

int run_steps(run *r, uint64_t n) {
    if (n > r->steps_left) {
        r->steps_left = 0;
        return run_fail(r, ERR_TOO_LARGE, "the template takes too many steps");
    }
    r->steps_left -= n;
    return 0;
}

int run_enter(run *r) {
    if (r->depth == JINJA_MAX_DEPTH)
        return run_fail(r, ERR_TOO_LARGE,
                        "calls, blocks or values nest deeper than %d",
                        JINJA_MAX_DEPTH);
    r->depth++;
    return run_steps(r, 1);
}

void run_leave(run *r) {
    r->depth--;
}

void *run_alloc(run *r, size_t count, size_t size) {
    return arena_alloc(&r->memory, count, size);
}

int run_full(run *r) {
    if (!r->memory.at_limit) return run_fail(r, -ENOMEM, "no memory");
    return run_fail(r, ERR_TOO_LARGE, "the template uses too much memory");
}

int run_copy_text(run *r, const char *text, size_t len, value *out) {
    char *copy = run_alloc(r, len + 1, 1);
    if (copy == NULL) return run_full(r);
    memcpy(copy, text, len);
    *out = value_text(copy, len);
    return run_steps(r, len / 64);
}

/* ---- output ---- */

static int grow(run *r, size_t need) {
    if (need > r->output_limit)
        return run_fail(r, ERR_TOO_LARGE, "the output exceeds %zu bytes",
                        r->output_limit);
    size_t capacity =
        size_min(size_max(need, r->out_capacity * 2 + 4096), r->output_limit);
    char *grown = realloc(r->out, capacity + 1);
    if (grown == NULL) return run_fail(r, -ENOMEM, "no memory");
    r->out = grown;
    r->out_capacity = capacity;
    return 0;
}

/* Room for n more bytes behind the output; they are paid for. */
static int reserve(run *r, size_t n) {
    size_t need;
    if (!size_add(r->out_len, n, &need)) need = SIZE_MAX;
    int rc = run_steps(r, n / 64);
    return rc < 0 || need <= r->out_capacity ? rc : grow(r, need);
}

int run_put(run *r, const char *text, size_t len) {
    if (len == 0) return 0;
    int rc = reserve(r, len);
    if (rc < 0) return rc;
    memcpy(r->out + r->out_len, text, len);
    r->out_len += len;
    return 0;
}

int run_put_string(run *r, const char *zero_terminated) {
    return run_put(r, zero_terminated, strlen(zero_terminated));
}

int run_put_text(run *r, value text) {
    return run_put(r, text.as.text, text.len);
}

int run_put_times(run *r, char c, size_t n) {
    if (n == 0) return 0;
    int rc = reserve(r, n);
    if (rc < 0) return rc;
    memset(r->out + r->out_len, c, n);
    r->out_len += n;
    return 0;
}

int run_put_char(run *r, int32_t c) {
    char text[4];
    if (c < 0x80) {
        text[0] = (char)c;
        return run_put(r, text, 1);
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6)
        text[i] = (char)(0x80 | (c & 0x3F));
    text[0] = (char)((0xF00 >> n & 0xFF) | c);
    return run_put(r, text, n);
}

int run_take(run *r, size_t mark, value *out) {
    size_t len = r->out_len - mark;
    r->out_len = mark;
    if (len == 0) {
        *out = value_text("", 0);
        return 0;
    }
    return run_copy_text(r, r->out + mark, len, out);
}

/* ---- variables ---- */

void run_push(run *r, scope *s) {
    *s = (scope){.parent = r->scope};
    r->scope = s;
}

void run_pop(run *r, const scope *s) {
    r->scope = s->parent;
}

static int add_binding(run *r, scope *s, uint32_t symbol, value v) {
    if (s->n == s->capacity) {
        size_t capacity = s->capacity * 2 + 4;
        binding *grown = run_alloc(r, capacity, sizeof(*grown));
        if (grown == NULL) return run_full(r);
        if (s->n > 0) memcpy(grown, s->items, s->n * sizeof(*grown));
        s->items = grown;
        s->capacity = capacity;
    }
    s->items[s->n++] = (binding){symbol, v};
    return 0;
}

int run_set(run *r, uint32_t symbol, value v) {
    scope *s = r->scope;
    if (s == NULL) {
        r->variables[symbol] = v;
        return 0;
    }
    for (size_t i = 0; i < s->n; i++) {
        if (s->items[i].symbol != symbol) continue;
        s->items[i].v = v;
        return run_steps(r, i / 16);
    }
    return add_binding(r, s, symbol, v);
}

int run_get(run *r, uint32_t symbol, value *out) {
    size_t looked = 0;
    for (const scope *s = r->scope; s != NULL; s = s->parent) {
        for (size_t i = 0; i < s->n; i++) {
            if (s->items[i].symbol != symbol) continue;
            *out = s->items[i].v;
            return run_steps(r, (looked + i) / 16);
        }
        looked += s->n + 1;
    }
    *out = r->variables[symbol];
    int rc = run_steps(r, looked / 16);
    if (rc < 0 || out->type != VALUE_MISSING) return rc;
    return value_undefined(r, NULL, r->template->symbols[symbol], out);
}
