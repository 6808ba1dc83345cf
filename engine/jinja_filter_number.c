/* jinja_filter_number.c - filters that make or change numbers, and default. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_chars.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

#define FILTER(name)                                                           \
    static int name(run *r, value self, const value *args,                     \
                    const call_args *all, value *out)
#define UNUSED (void)r, (void)self, (void)args, (void)all

#define NUMBER_BYTES 400 /* longest text that is read as a number */

/* ---- reading numbers as Python does ---- */

static bool is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
           (c >= 'A' && c <= 'Z');
}

/* Without white space around and single underscores between digits, and zero-
 * terminated; false: this can be no number. */
static bool clean(value text, char out[NUMBER_BYTES]) {
    const char *s = text.as.text;
    size_t n = text.len, made = 0;
    chars_strip(&s, &n, true, true);
    if (n == 0 || n >= NUMBER_BYTES) return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '_') {
            bool between =
                i > 0 && i + 1 < n && is_word(s[i - 1]) && is_word(s[i + 1]);
            if (!between) return false;
            continue;
        }
        bool allowed = is_word(s[i]) || strchr("+-.", s[i]) != NULL;
        if (!allowed || s[i] == '\0') return false;
        out[made++] = s[i];
    }
    out[made] = '\0';
    return true;
}

static bool read_integer(value text, int64_t base, int64_t *out, bool *big) {
    char digits[NUMBER_BYTES], *end;
    *big = false;
    if (!clean(text, digits)) return false;
    char *at = digits + (digits[0] == '-' || digits[0] == '+');
    bool prefixed =
        at[0] == '0' && ((at[1] | 0x20) == 'x' || (at[1] | 0x20) == 'o' ||
                         (at[1] | 0x20) == 'b');
    if (prefixed) {
        int64_t own = (at[1] | 0x20) == 'x'   ? 16
                      : (at[1] | 0x20) == 'o' ? 8
                                              : 2;
        if (base != 0 && base != own) {
            if (own != 2 || base < 16) return false;
        } else {
            base = own;
            memmove(at, at + 2, strlen(at + 2) + 1);
        }
    }
    if (base == 0) base = 10;
    if (!is_word(at[0])) return false;
    errno = 0;
    long long number = strtoll(digits, &end, (int)base);
    *big = errno == ERANGE;
    *out = number;
    return *end == '\0' && end > digits;
}

/* What float() reads: decimals, inf and nan; nothing in hexadecimal. */
static bool read_real(value text, double *out) {
    char digits[NUMBER_BYTES], *end;
    if (!clean(text, digits) || strpbrk(digits, "xXpP(") != NULL) return false;
    *out = strtod(digits, &end);
    return *end == '\0' && end > digits;
}

/* ---- int and float ---- */

static int from_real(run *r, double real, value fallback, value *out) {
    if (isnan(real) || isinf(real)) {
        *out = fallback;
        return 0;
    }
    if (!(fabs(real) < 0x1p63))
        return run_fail(r, ERR_UNSUPPORTED, "an integer of more than 64 bits");
    *out = value_int((int64_t)real);
    return 0;
}

FILTER(to_int) {
    UNUSED;
    int64_t base, integer;
    double real;
    bool big = false;
    value fallback = arg_given(args[0]) ? args[0] : value_int(0);
    int rc = arg_integer(r, "int", args[1], 10, &base);
    if (rc < 0) return rc;
    if (base < 0 || base > 36 || base == 1)
        return run_raise(r, "int() base must be >= 2 and <= 36, or 0");
    *out = fallback;
    if (self.type == VALUE_UNDEFINED) return run_undefined(r, self);
    if (self.type == VALUE_FLOAT)
        return from_real(r, self.as.real, fallback, out);
    if (value_is_integer(self)) {
        *out = value_int(value_integer(self));
        return 0;
    }
    if (self.type != VALUE_TEXT) return 0;
    if (read_integer(self, base, &integer, &big)) {
        if (big)
            return run_fail(r, ERR_UNSUPPORTED,
                            "an integer of more than 64 bits");
        *out = value_int(integer);
        return 0;
    }
    return read_real(self, &real) ? from_real(r, real, fallback, out) : 0;
}

FILTER(to_float) {
    UNUSED;
    double real;
    *out = arg_given(args[0]) ? args[0] : value_float(0.0);
    if (self.type == VALUE_UNDEFINED) return run_undefined(r, self);
    if (value_is_number(self))
        *out = value_float(value_real(self));
    else if (self.type == VALUE_TEXT && read_real(self, &real))
        *out = value_float(real);
    return 0;
}

/* ---- abs and round ---- */

FILTER(absolute) {
    UNUSED;
    if (self.type == VALUE_UNDEFINED) return run_undefined(r, self);
    if (!value_is_number(self))
        return run_raise(r, "bad operand type for abs(): '%s'",
                         value_type_name(self));
    bool negative = value_real(self) < 0.0 ||
                    (self.type == VALUE_FLOAT && signbit(self.as.real));
    return run_negate(r, self, negative, out);
}

/* round(): exact decimal digits, ties to even where they are real ties. */
static double round_real(double real, int64_t digits) {
    char text[NUMBER_BYTES];
    if (!isfinite(real) || digits > 323) return real;
    if (digits < -308) return copysign(0.0, real);
    if (digits >= 0) {
        char *wide = text;
        int n = snprintf(text, sizeof(text), "%.*f", (int)digits, real);
        /* (more digits than there is room for change nothing) */
        return (size_t)n < sizeof(text) ? strtod(wide, NULL) : real;
    }
    double unit = pow(10.0, (double)-digits);
    return nearbyint(real / unit) * unit;
}

static int round_integer(run *r, int64_t integer, int64_t digits, value *out) {
    int64_t unit = 1;
    *out = value_int(integer);
    if (digits >= 0) return 0;
    for (; digits < 0 && unit < INT64_MAX / 100; digits++)
        unit *= 10;
    if (digits < 0) {
        *out = value_int(0);
        return 0;
    }
    int64_t rest = integer % unit, whole = integer - rest;
    int64_t size = rest < 0 ? -rest : rest;
    bool up = size * 2 > unit || (size * 2 == unit && whole / unit % 2 != 0);
    int64_t step = integer < 0 ? -unit : unit, result = whole;
    if (up && __builtin_add_overflow(whole, step, &result))
        return run_fail(r, ERR_UNSUPPORTED, "an integer of more than 64 bits");
    *out = value_int(result);
    return 0;
}

FILTER(rounded) {
    UNUSED;
    int64_t digits;
    value way;
    int rc = arg_integer(r, "round", args[0], 0, &digits);
    if (rc == 0) rc = arg_text(r, "round", args[1], "common", &way);
    if (rc < 0) return rc;
    if (self.type == VALUE_UNDEFINED) return run_undefined(r, self);
    if (!value_is_number(self))
        return run_raise(r, "round: a number is wanted, not %s",
                         value_type_name(self));
    if (value_is_text(way, "common")) {
        if (value_is_integer(self))
            return round_integer(r, value_integer(self), digits, out);
        *out = value_float(round_real(self.as.real, digits));
        return 0;
    }
    bool up = value_is_text(way, "ceil");
    if (!up && !value_is_text(way, "floor"))
        return run_raise(r, "method must be common, ceil or floor");
    if (digits < -308 || digits > 308)
        return run_raise(r, "round: the precision is out of range");
    double unit = pow(10.0, (double)digits), scaled = value_real(self) * unit;
    if (!isfinite(scaled))
        return run_raise(r, "cannot convert float to integer");
    *out = value_float((up ? ceil(scaled) : floor(scaled)) / unit);
    return 0;
}

/* ---- default ---- */

FILTER(otherwise) {
    UNUSED;
    bool empty = self.type == VALUE_UNDEFINED ||
                 (arg_truth(args[1], false) && !value_truth(self));
    *out = !empty ? self : arg_given(args[0]) ? args[0] : value_text("", 0);
    return 0;
}

static const builtin items[] = {
    {"int", "default base", 0, to_int},
    {"float", "default", 0, to_float},
    {"abs", "", 0, absolute},
    {"round", "precision method", 0, rounded},
    {"default", "default_value boolean", 0, otherwise},
    {"d", "default_value boolean", 0, otherwise},
};

const builtin_table builtin_number_filters = {items, ARRAY_LEN(items)};
