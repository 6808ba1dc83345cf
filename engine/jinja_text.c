/* jinja_text.c - str() and repr() of values, byte for byte as Python has them,
 * appended to the output. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_chars.h"
#include "engine/jinja_loop.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

/* ---- numbers ---- */

/* The digits of the shortest decimal that reads back as `real`, which is
 * positive and finite, and the power of ten of the first one. */
static int shortest(double real, char digits[20]) {
    char text[40];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof(text), "%.*e", precision, real);
        if (strtod(text, NULL) == real) break;
    }
    char *e = strchr(text, 'e');
    size_t n = 0;
    for (char *at = text; at < e; at++) {
        if (*at != '.') digits[n++] = *at;
    }
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = '\0';
    return (int)strtol(e + 1, NULL, 10);
}

void run_real_text(double real, char out[RUN_REAL_BYTES]) {
    char digits[20];
    const char *sign = signbit(real) ? "-" : "";

    if (isnan(real)) {
        memcpy(out, "nan", 4);
        return;
    }
    if (isinf(real) || real == 0.0) {
        snprintf(out, RUN_REAL_BYTES, "%s%s", sign,
                 real != 0.0 ? "inf" : "0.0");
        return;
    }
    int power = shortest(fabs(real), digits);
    int n = (int)strlen(digits);
    if (power < -4 || power >= 16) {
        snprintf(out, RUN_REAL_BYTES, "%s%c%s%se%c%02d", sign, digits[0],
                 n > 1 ? "." : "", digits + 1, power < 0 ? '-' : '+',
                 abs(power));
    } else if (power < 0) {
        snprintf(out, RUN_REAL_BYTES, "%s0.%.*s%s", sign, -power - 1, "0000",
                 digits);
    } else if (n <= power + 1) {
        snprintf(out, RUN_REAL_BYTES, "%s%s%.*s.0", sign, digits, power + 1 - n,
                 "0000000000000000");
    } else {
        snprintf(out, RUN_REAL_BYTES, "%s%.*s.%s", sign, power + 1, digits,
                 digits + power + 1);
    }
}

static int print_number(run *r, value v) {
    char text[RUN_REAL_BYTES];
    if (v.type == VALUE_FLOAT)
        run_real_text(v.as.real, text);
    else
        snprintf(text, sizeof(text), "%" PRId64, v.as.integer);
    return run_put_string(r, text);
}

/* ---- text in quotes ---- */

static int put_quoted_char(run *r, const char *s, size_t bytes, int32_t c,
                           char quote) {
    static const char plain[] = "\\\n\r\t", letters[] = "\\nrt";
    char text[16];

    if (c < 0) { /* a byte that is no character */
        snprintf(text, sizeof(text), "\\x%02x", (uint8_t)s[0]);
        return run_put_string(r, text);
    }
    const char *special = c > 0 && c < 128 ? strchr(plain, c) : NULL;
    if (special != NULL || c == quote) {
        char escape[2] = {'\\',
                          special != NULL ? letters[special - plain] : quote};
        return run_put(r, escape, 2);
    }
    if (c >= ' ' && c < 0x7F) return run_put(r, s, bytes);
    if (c > 0x7F && chars_is_printable(c)) return run_put(r, s, bytes);
    snprintf(text, sizeof(text),
             c < 0x100     ? "\\x%02x"
             : c < 0x10000 ? "\\u%04x"
                           : "\\U%08x",
             (unsigned)c);
    return run_put_string(r, text);
}

static int repr_text(run *r, value v) {
    bool single = memchr(v.as.text, '\'', v.len) != NULL;
    bool twofold = memchr(v.as.text, '"', v.len) != NULL;
    char quote = single && !twofold ? '"' : '\'';

    int rc = v.safe ? run_put_string(r, "Markup(") : 0;
    if (rc == 0) rc = run_put(r, &quote, 1);
    for (size_t at = 0; rc == 0 && at < v.len;) {
        int32_t c;
        size_t bytes = chars_at(v.as.text + at, v.len - at, &c);
        rc = put_quoted_char(r, v.as.text + at, bytes, c, quote);
        at += bytes;
    }
    if (rc == 0) rc = run_put(r, &quote, 1);
    return rc == 0 && v.safe ? run_put_string(r, ")") : rc;
}

/* ---- containers ---- */

static int repr_items(run *r, const seq *s, const char *open,
                      const char *close) {
    int rc = run_put_string(r, open);
    for (size_t i = 0; rc == 0 && i < s->n; i++) {
        if (i > 0) rc = run_put(r, ", ", 2);
        if (rc == 0) rc = run_repr(r, s->items[i]);
    }
    return rc < 0 ? rc : run_put_string(r, close);
}

static int repr_dict(run *r, const dict *d) {
    int rc = run_put(r, "{", 1);
    for (size_t i = 0; rc == 0 && i < d->n; i++) {
        if (i > 0) rc = run_put(r, ", ", 2);
        if (rc == 0) rc = run_repr(r, d->entries[i].key);
        if (rc == 0) rc = run_put(r, ": ", 2);
        if (rc == 0) rc = run_repr(r, d->entries[i].item);
    }
    return rc < 0 ? rc : run_put(r, "}", 1);
}

static int repr_view(run *r, const seq *s) {
    int rc = run_put_string(r, s->name);
    return rc < 0 ? rc : repr_items(r, s, "([", "])");
}

static int repr_namespace(run *r, const dict *d) {
    int rc = run_put_string(r, "<Namespace ");
    if (rc == 0) rc = repr_dict(r, d);
    return rc < 0 ? rc : run_put(r, ">", 1);
}

static int repr_range(run *r, const value_range *range) {
    char text[80];
    int n = snprintf(text, sizeof(text), "range(%" PRId64 ", %" PRId64,
                     range->start, range->stop);
    if (range->step != 1)
        n += snprintf(text + n, sizeof(text) - (size_t)n, ", %" PRId64,
                      range->step);
    int rc = run_put(r, text, (size_t)n);
    return rc < 0 ? rc : run_put(r, ")", 1);
}

static int repr_loop(run *r, const loop *l) {
    char text[64];
    snprintf(text, sizeof(text), "<LoopContext %zu/%zu>", l->index + 1,
             l->items->n);
    return run_put_string(r, text);
}

static int repr(run *r, value v) {
    switch ((value_type)v.type) {
    case VALUE_UNDEFINED:
        return run_put_string(r, "Undefined");
    case VALUE_NONE:
        return run_put_string(r, "None");
    case VALUE_BOOL:
        return run_put_string(r, v.as.truth ? "True" : "False");
    case VALUE_INT:
    case VALUE_FLOAT:
        return print_number(r, v);
    case VALUE_TEXT:
        return repr_text(r, v);
    case VALUE_LIST:
        return repr_items(r, v.as.seq, "[", "]");
    case VALUE_TUPLE:
        return repr_items(r, v.as.seq, "(", v.as.seq->n == 1 ? ",)" : ")");
    case VALUE_VIEW:
        return repr_view(r, v.as.seq);
    case VALUE_DICT:
        return repr_dict(r, v.as.dict);
    case VALUE_NAMESPACE:
        return repr_namespace(r, v.as.dict);
    case VALUE_RANGE:
        return repr_range(r, v.as.range);
    case VALUE_LOOP:
        return repr_loop(r, v.as.loop);
    default:
        /* Python would show an address: nothing that a template means. */
        return run_raise(r, "a %s cannot be printed", value_type_name(v));
    }
}

int run_repr(run *r, value v) {
    int rc = run_enter(r);
    if (rc < 0) return rc;
    rc = repr(r, v);
    run_leave(r);
    return rc;
}

int run_print(run *r, value v) {
    if (v.type == VALUE_TEXT) return run_put_text(r, v);
    if (v.type == VALUE_UNDEFINED) return 0;
    return run_repr(r, v);
}

int run_str(run *r, value v, value *out) {
    *out = v;
    if (v.type == VALUE_TEXT) return 0;
    size_t mark = run_mark(r);
    int rc = run_print(r, v);
    return rc < 0 ? rc : run_take(r, mark, out);
}

int run_escaped(run *r, value v, value *out) {
    static const char specials[] = "&<>'\"";
    static const char *const names[] = {"&amp;", "&lt;", "&gt;", "&#39;",
                                        "&#34;"};
    int rc = run_str(r, v, out);
    if (rc < 0 || out->safe) return rc;
    value text = *out;
    size_t mark = run_mark(r);
    for (size_t i = 0; rc == 0 && i < text.len; i++) {
        const char *at = text.as.text + i;
        const char *special = memchr(specials, *at, sizeof(specials) - 1);
        rc = special != NULL ? run_put_string(r, names[special - specials])
                             : run_put(r, at, 1);
    }
    if (rc == 0) rc = run_take(r, mark, out);
    out->safe = true;
    return rc;
}

/* ---- undefined ---- */

int run_undefined(run *r, value v) {
    const undefined *u = v.as.undefined;
    value name = u->name;
    int len = (int)size_min(name.len, 100);

    if (u->reason != NULL) return run_raise(r, "%s", u->reason);
    if (u->owner == NULL)
        return run_raise(r, "'%.*s' is undefined", len, name.as.text);
    if (name.type == VALUE_TEXT)
        return run_raise(r, "'%s object' has no attribute '%.*s'", u->owner,
                         len, name.as.text);
    if (name.type == VALUE_INT)
        return run_raise(r, "%s object has no element %" PRId64, u->owner,
                         name.as.integer);
    return run_raise(r, "%s object has no such element", u->owner);
}
