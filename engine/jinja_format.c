/* jinja_format.c - see jinja_format.h, and `text % args`. */
#include "engine/jinja_format.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_chars.h"
#include "engine/util.h"

/* ---- a value in its field ---- */

static int put_fill(run *r, int32_t fill, size_t n) {
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = run_put_char(r, fill);
    return rc;
}

/* `head` (a sign, 0x) and `body`, padded to the width. */
static int put_field(run *r, const field *f, value head, value body,
                     char align) {
    size_t used = head.len + chars_count(body.as.text, body.len);
    size_t width = f->width > 0 ? (size_t)f->width : 0;
    size_t pad = width > used ? width - used : 0;
    size_t before = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    size_t middle = align == '=' ? pad : 0;

    int rc = put_fill(r, f->fill, before);
    if (rc == 0) rc = run_put_text(r, head);
    if (rc == 0) rc = put_fill(r, f->fill, middle);
    if (rc == 0) rc = run_put_text(r, body);
    return rc < 0 ? rc : put_fill(r, f->fill, pad - before - middle);
}

int format_text(run *r, const field *f, value text) {
    if (f->precision >= 0) {
        size_t n = chars_offset(text.as.text, text.len, (size_t)f->precision);
        text = value_text(text.as.text, n);
    }
    return put_field(r, f, value_text("", 0), text,
                     f->align != 0 ? f->align : '<');
}

static const char *sign_of(const field *f, bool negative) {
    if (negative) return "-";
    return f->sign == '+' ? "+" : f->sign == ' ' ? " " : "";
}

/* Digits with a comma before every group of three of the whole part. */
static size_t group(const char *digits, char *out) {
    size_t whole = strspn(digits, "0123456789"), n = 0;
    for (size_t i = 0; digits[i] != '\0'; i++) {
        if (i > 0 && i < whole && (whole - i) % 3 == 0) out[n++] = ',';
        out[n++] = digits[i];
    }
    return n;
}

static int put_number(run *r, const field *f, const char *sign,
                      const char *prefix, const char *digits) {
    char head[8], grouped[2 * FORMAT_MAX];
    snprintf(head, sizeof(head), "%s%s", sign, prefix);
    value body = value_string(digits);
    if (f->grouped && body.len < FORMAT_MAX)
        body = value_text(grouped, group(digits, grouped));
    return put_field(r, f, value_string(head), body,
                     f->align != 0 ? f->align : '>');
}

int format_integer(run *r, const field *f, int64_t integer) {
    uint64_t size = integer < 0 ? 0 - (uint64_t)integer : (uint64_t)integer;
    char digits[72], padded[FORMAT_MAX + 80];
    const char *prefix = "";
    size_t n = 0;

    switch (f->type) {
    case 'x':
        snprintf(digits, sizeof(digits), "%" PRIx64, size);
        break;
    case 'X':
        snprintf(digits, sizeof(digits), "%" PRIX64, size);
        break;
    case 'o':
        snprintf(digits, sizeof(digits), "%" PRIo64, size);
        break;
    case 'b':
        for (uint64_t bits = size; n == 0 || bits > 0; bits >>= 1)
            digits[n++] = (char)('0' + (bits & 1));
        digits[n] = '\0';
        for (size_t i = 0; i < n / 2; i++) {
            char swap = digits[i];
            digits[i] = digits[n - 1 - i];
            digits[n - 1 - i] = swap;
        }
        break;
    default:
        snprintf(digits, sizeof(digits), "%" PRIu64, size);
        break;
    }
    if (f->alternate) {
        prefix = f->type == 'x'   ? "0x"
                 : f->type == 'X' ? "0X"
                 : f->type == 'o' ? "0o"
                 : f->type == 'b' ? "0b"
                                  : "";
    }
    int zeros = f->precision - (int)strlen(digits);
    snprintf(padded, sizeof(padded), "%.*d%s", zeros > 0 ? zeros : 0, 0,
             digits);
    return put_number(r, f, sign_of(f, integer < 0), prefix, padded);
}

int format_real(run *r, const field *f, double real) {
    char digits[FORMAT_MAX + 400], form[8];
    bool percent = f->type == '%';
    char type = percent ? 'f' : f->type != 0 ? f->type : 'g';
    double size = fabs(percent ? real * 100.0 : real);
    int precision = f->precision >= 0 ? f->precision : 6;

    if (isnan(real) || isinf(real)) {
        snprintf(digits, sizeof(digits), "%s", isnan(real) ? "nan" : "inf");
    } else if (f->type == 0 && f->precision < 0) {
        run_real_text(size, digits);
    } else {
        snprintf(form, sizeof(form), f->alternate ? "%%#.*%c" : "%%.*%c", type);
        snprintf(digits, sizeof(digits), form, precision, size);
        bool bare = f->type == 0 && strpbrk(digits, ".e") == NULL;
        if (bare) memcpy(digits + strlen(digits), ".0", 3);
    }
    if (percent) memcpy(digits + strlen(digits), "%", 2);
    bool negative = signbit(real) && !isnan(real);
    return put_number(r, f, sign_of(f, negative), "", digits);
}

/* ---- text % args ---- */

typedef struct {
    value format;
    size_t at;
    value args;
    size_t next; /* of a tuple's items */
    bool used;   /* a single argument */
} percent;

static int next_argument(run *r, percent *p, value *out) {
    const seq *s = p->args.type == VALUE_TUPLE ? p->args.as.seq : NULL;
    if (s != NULL && p->next < s->n) {
        *out = s->items[p->next++];
        return 0;
    }
    if (s != NULL || p->used)
        return run_raise(r, "not enough arguments for format string");
    p->used = true;
    *out = p->args;
    return 0;
}

static char peek(const percent *p) {
    return p->at < p->format.len ? p->format.as.text[p->at] : '\0';
}

static int read_count(run *r, percent *p, int *out) {
    value v;
    if (peek(p) == '*') {
        p->at++;
        int rc = next_argument(r, p, &v);
        if (rc < 0) return rc;
        if (!value_is_integer(v)) return run_raise(r, "* wants int");
        int64_t count = value_integer(v);
        if (count < -FORMAT_MAX || count > FORMAT_MAX) count = FORMAT_MAX + 1;
        *out = (int)count;
    } else {
        for (*out = 0; peek(p) >= '0' && peek(p) <= '9'; p->at++)
            *out = *out <= FORMAT_MAX ? *out * 10 + (peek(p) - '0') : *out;
    }
    if (*out > FORMAT_MAX)
        return run_fail(r, ERR_TOO_LARGE, "a field wider than %d", FORMAT_MAX);
    return 0;
}

/* What stands between % and the type. */
static int read_field(run *r, percent *p, field *f) {
    bool zero = false, left = false;
    int rc;
    *f = (field){.fill = ' ', .width = -1, .precision = -1};
    for (; peek(p) != '\0' && strchr("-+ #0", peek(p)) != NULL; p->at++) {
        left |= peek(p) == '-';
        zero |= peek(p) == '0';
        f->alternate |= peek(p) == '#';
        if (peek(p) == '+' || (peek(p) == ' ' && f->sign == 0))
            f->sign = peek(p);
    }
    rc = read_count(r, p, &f->width);
    if (rc < 0) return rc;
    if (f->width < 0) {
        left = true;
        f->width = -f->width;
    }
    if (peek(p) == '.') {
        p->at++;
        rc = read_count(r, p, &f->precision);
        if (f->precision < 0) f->precision = 0;
    }
    while (peek(p) == 'l' || peek(p) == 'h' || peek(p) == 'L')
        p->at++;
    f->align = left ? '<' : zero ? '=' : '>';
    if (zero && !left) f->fill = '0';
    f->type = peek(p);
    p->at++;
    return rc;
}

static int percent_text(run *r, percent *p, field *f, value v) {
    size_t mark = run_mark(r);
    int rc = 0;
    if (f->type == 's') {
        rc = p->format.safe ? run_escaped(r, v, &v) : run_str(r, v, &v);
    } else {
        rc = run_repr(r, v);
        if (rc == 0) rc = run_take(r, mark, &v);
    }
    if (f->align == '=') f->align = '>';
    f->fill = ' ';
    return rc < 0 ? rc : format_text(r, f, v);
}

static int percent_char(run *r, const field *f, value v) {
    size_t mark = run_mark(r);
    if (v.type == VALUE_INT && v.as.integer >= 0 && v.as.integer < 0x110000) {
        int rc = run_put_char(r, (int32_t)v.as.integer);
        if (rc == 0) rc = run_take(r, mark, &v);
        return rc < 0 ? rc : format_text(r, f, v);
    }
    if (v.type != VALUE_TEXT || chars_count(v.as.text, v.len) != 1)
        return run_raise(r, "%%c requires int or char");
    return format_text(r, f, v);
}

static int percent_integer(run *r, const field *f, value v) {
    if (!value_is_number(v))
        return run_raise(r, "%%%c format: a real number is required, not %s",
                         f->type, value_type_name(v));
    if (v.type == VALUE_FLOAT && strchr("xXo", f->type) != NULL)
        return run_raise(r, "%%%c format: an integer is required, not float",
                         f->type);
    double real = value_real(v);
    if (v.type == VALUE_FLOAT && !(fabs(real) < 0x1p63))
        return run_raise(r, "cannot convert float to integer");
    return format_integer(
        r, f, v.type == VALUE_FLOAT ? (int64_t)real : value_integer(v));
}

static int percent_value(run *r, percent *p, field *f, value v) {
    if (f->type == 's' || f->type == 'r') return percent_text(r, p, f, v);
    if (f->type == 'c') return percent_char(r, f, v);
    if (f->type != '\0' && strchr("diuxXo", f->type) != NULL)
        return percent_integer(r, f, v);
    if (f->type == '\0' || strchr("eEfFgG", f->type) == NULL)
        return run_raise(r, "unsupported format character in a %% format");
    if (!value_is_number(v))
        return run_raise(r, "must be real number, not %s", value_type_name(v));
    return format_real(r, f, value_real(v));
}

/* One field, behind its %. */
static int percent_field(run *r, percent *p) {
    value v = value_missing();
    field f;
    if (peek(p) == '(') {
        size_t left = p->format.len - p->at;
        const char *begin = p->format.as.text + p->at + 1;
        const char *end = memchr(begin, ')', left - 1);
        if (end == NULL || p->args.type != VALUE_DICT)
            return run_raise(r, "format requires a mapping");
        const value *item =
            dict_get(p->args.as.dict, begin, (size_t)(end - begin));
        if (item == NULL)
            return run_raise(r, "KeyError: '%.*s'",
                             (int)size_min((size_t)(end - begin), 100), begin);
        v = *item;
        p->used = true;
        p->at += (size_t)(end - begin) + 2;
    }
    int rc = read_field(r, p, &f);
    if (rc < 0) return rc;
    if (f.type == '%') return run_put(r, "%", 1);
    if (f.type == '\0') return run_raise(r, "incomplete format");
    if (v.type == VALUE_MISSING) rc = next_argument(r, p, &v);
    return rc < 0 ? rc : percent_value(r, p, &f, v);
}

int run_percent(run *r, value format, value args, value *out) {
    percent p = {.format = format, .args = args};
    size_t mark = run_mark(r);
    int rc = 0;

    while (rc == 0 && p.at < format.len) {
        const char *text = format.as.text + p.at;
        size_t n = chars_find(text, format.len - p.at, "%", 1);
        rc = run_put(r, text, n);
        p.at += n + 1;
        if (rc == 0 && n < format.len - (p.at - n - 1))
            rc = percent_field(r, &p);
    }
    bool left_over =
        args.type == VALUE_TUPLE ? p.next < args.as.seq->n : !p.used;
    /* what could be asked for items by name need not be used */
    bool may_stay = args.type == VALUE_DICT || args.type == VALUE_LIST ||
                    args.type == VALUE_RANGE || args.type == VALUE_UNDEFINED;
    if (rc == 0 && left_over && !may_stay)
        rc = run_raise(r, "not all arguments converted during string "
                          "formatting");
    if (rc == 0) rc = run_take(r, mark, out);
    out->safe = format.safe;
    return rc;
}

/* ---- specs ---- */

static int spec_count(run *r, const char *s, size_t n, size_t *at, int *out) {
    size_t begin = *at;
    int count = 0;
    while (*at < n && s[*at] >= '0' && s[*at] <= '9' && count <= FORMAT_MAX)
        count = count * 10 + (s[(*at)++] - '0');
    if (count > FORMAT_MAX)
        return run_fail(r, ERR_TOO_LARGE, "a field wider than %d", FORMAT_MAX);
    if (*at > begin) *out = count;
    return 0;
}

static bool take_one(value spec, size_t *at, const char *set, char *out) {
    if (*at >= spec.len || strchr(set, spec.as.text[*at]) == NULL ||
        spec.as.text[*at] == '\0')
        return false;
    *out = spec.as.text[(*at)++];
    return true;
}

int format_spec(run *r, value spec, field *out) {
    size_t at = 0;
    char c = 0, ignored;
    *out = (field){.fill = ' ', .width = -1, .precision = -1};

    if (spec.len > 0) {
        int32_t fill;
        size_t bytes = chars_at(spec.as.text, spec.len, &fill);
        size_t behind = bytes;
        if (take_one(spec, &behind, "<>^=", &c) && fill >= 0) {
            out->fill = fill;
            out->align = c;
            at = behind;
        }
    }
    if (out->align == 0) (void)take_one(spec, &at, "<>^=", &out->align);
    (void)take_one(spec, &at, "+- ", &out->sign);
    out->alternate = take_one(spec, &at, "#", &ignored);
    if (take_one(spec, &at, "0", &ignored) && out->align == 0) {
        out->fill = '0';
        out->align = '=';
    }
    int rc = spec_count(r, spec.as.text, spec.len, &at, &out->width);
    out->grouped = take_one(spec, &at, ",", &ignored);
    if (rc == 0 && take_one(spec, &at, ".", &ignored))
        rc = spec_count(r, spec.as.text, spec.len, &at, &out->precision);
    (void)take_one(spec, &at, "sdbxXoeEfFgG%", &out->type);
    if (rc == 0 && at < spec.len) rc = run_raise(r, "Invalid format specifier");
    return rc;
}
