/* jinja_operator.c - arithmetic and comparison as Python defines them, except
 * that integers have 64 bits: what does not fit is an error. */
#include <math.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

static int too_big(run *r) {
    return run_fail(r, ERR_UNSUPPORTED, "an integer of more than 64 bits");
}

static int zero_division(run *r) {
    return run_raise(r, "division by zero");
}

/* Neither operand can be used so. */
static int mismatch(run *r, node_op op, value a, value b) {
    if (a.type == VALUE_UNDEFINED) return run_undefined(r, a);
    if (b.type == VALUE_UNDEFINED) return run_undefined(r, b);
    if (op == OP_ADD && a.type == VALUE_TEXT)
        return run_raise(r, "can only concatenate str (not \"%s\") to str",
                         value_type_name(b));
    return run_raise(r, "unsupported operand type(s) for %s: '%s' and '%s'",
                     op_text(op), value_type_name(a), value_type_name(b));
}

/* ---- integers ---- */

static int64_t floor_div(int64_t a, int64_t b) {
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static int integer_power(run *r, int64_t base, int64_t exponent, value *out) {
    int64_t power = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(power, base, &power))
            return too_big(r);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            return too_big(r);
    }
    *out = value_int(power);
    return 0;
}

static int integers(run *r, node_op op, int64_t a, int64_t b, value *out) {
    int64_t result = 0;
    bool overflow = false;

    if (b == 0 && (op == OP_FLOORDIV || op == OP_MOD || op == OP_DIV))
        return zero_division(r);
    switch (op) {
    case OP_ADD:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
    case OP_SUB:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
    case OP_MUL:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
    case OP_FLOORDIV:
        overflow = b == -1 && a == INT64_MIN;
        if (!overflow) result = floor_div(a, b);
        break;
    case OP_MOD:
        result = b == -1 ? 0 : a - floor_div(a, b) * b;
        break;
    case OP_POW:
        return integer_power(r, a, b, out);
    default:
        *out = value_float((double)((long double)a / b));
        return 0;
    }
    if (overflow) return too_big(r);
    *out = value_int(result);
    return 0;
}

/* ---- floats ---- */

/* Quotient and remainder that has the divisor's sign. */
static double float_divmod(double a, double b, double *remainder) {
    double mod = fmod(a, b);
    double div = (a - mod) / b;
    if (mod != 0.0 && (b < 0) != (mod < 0)) {
        mod += b;
        div -= 1.0;
    }
    if (mod == 0.0) mod = copysign(0.0, b);
    *remainder = mod;
    if (div == 0.0) return copysign(0.0, a / b);
    double whole = floor(div);
    return div - whole > 0.5 ? whole + 1.0 : whole;
}

static int float_power(run *r, double a, double b, value *out) {
    if (a == 0.0 && b < 0.0)
        return run_raise(r, "0.0 cannot be raised to a negative power");
    if (a < 0.0 && isfinite(a) && isfinite(b) && b != floor(b))
        return run_fail(r, ERR_UNSUPPORTED, "complex numbers");
    double power = pow(a, b);
    if (isinf(power) && isfinite(a) && isfinite(b))
        return run_raise(r, "numerical result out of range");
    *out = value_float(power);
    return 0;
}

static int floats(run *r, node_op op, double a, double b, value *out) {
    double result, remainder;
    if (b == 0.0 && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD))
        return zero_division(r);
    switch (op) {
    case OP_ADD:
        result = a + b;
        break;
    case OP_SUB:
        result = a - b;
        break;
    case OP_MUL:
        result = a * b;
        break;
    case OP_DIV:
        result = a / b;
        break;
    case OP_FLOORDIV:
        result = float_divmod(a, b, &remainder);
        break;
    case OP_MOD:
        float_divmod(a, b, &remainder);
        result = remainder;
        break;
    default:
        return float_power(r, a, b, out);
    }
    *out = value_float(result);
    return 0;
}

static int numbers(run *r, node_op op, value a, value b, value *out) {
    bool whole = value_is_integer(a) && value_is_integer(b);
    if (whole && !(op == OP_POW && value_integer(b) < 0))
        return integers(r, op, value_integer(a), value_integer(b), out);
    return floats(r, op, value_real(a), value_real(b), out);
}

/* ---- sequences ---- */

/* Text that is marked as safe has what is added to it escaped. */
static int join_texts(run *r, value a, value b, value *out) {
    bool safe = a.safe || b.safe;
    if (safe) {
        int rc = run_escaped(r, a, &a);
        if (rc == 0) rc = run_escaped(r, b, &b);
        if (rc < 0) return rc;
    }
    char *joined = run_alloc(r, (size_t)a.len + b.len + 1, 1);
    if (joined == NULL) return run_full(r);
    memcpy(joined, a.as.text, a.len);
    memcpy(joined + a.len, b.as.text, b.len);
    *out = value_text(joined, (size_t)a.len + b.len);
    out->safe = safe;
    return run_steps(r, out->len / 64);
}

static int join_seqs(run *r, value a, value b, value *out) {
    const seq *x = a.as.seq, *y = b.as.seq;
    int rc = value_seq(r, (value_type)a.type, x->n + y->n, out);
    if (rc < 0) return rc;
    for (size_t i = 0; i < x->n; i++)
        out->as.seq->items[i] = x->items[i];
    for (size_t i = 0; i < y->n; i++)
        out->as.seq->items[x->n + i] = y->items[i];
    return 0;
}

static int repeat_text(run *r, value text, size_t times, value *out) {
    size_t mark = run_mark(r);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < times && text.len > 0; i++) {
        rc = run_put_text(r, text);
        if (rc == 0 && i % 64 == 0) rc = run_steps(r, 1);
    }
    if (rc == 0) rc = run_take(r, mark, out);
    out->safe = text.safe;
    return rc;
}

static int repeat_seq(run *r, value v, size_t times, value *out) {
    const seq *s = v.as.seq;
    size_t n;
    if (s->n == 0) times = 0;
    if (!size_mul(s->n, times, &n)) n = SIZE_MAX / 2;
    int rc = value_seq(r, (value_type)v.type, n, out);
    for (size_t i = 0; rc == 0 && i < n; i++)
        out->as.seq->items[i] = s->items[i % s->n];
    return rc;
}

static int multiply(run *r, value a, value b, value *out) {
    if (value_is_integer(a)) {
        value swap = a;
        a = b;
        b = swap;
    }
    size_t times = value_integer(b) > 0 ? (size_t)value_integer(b) : (size_t)0;
    return a.type == VALUE_TEXT ? repeat_text(r, a, times, out)
                                : repeat_seq(r, a, times, out);
}

static bool can_repeat(value v, value times) {
    return (v.type == VALUE_TEXT || value_is_seq(v)) && value_is_integer(times);
}

int run_binary(run *r, node_op op, value a, value b, value *out) {
    if (value_is_number(a) && value_is_number(b))
        return numbers(r, op, a, b, out);
    if (op == OP_ADD && a.type == b.type) {
        if (a.type == VALUE_TEXT) return join_texts(r, a, b, out);
        if (value_is_seq(a)) return join_seqs(r, a, b, out);
    }
    if (op == OP_MUL && (can_repeat(a, b) || can_repeat(b, a)))
        return multiply(r, a, b, out);
    if (op == OP_MOD && a.type == VALUE_TEXT) return run_percent(r, a, b, out);
    return mismatch(r, op, a, b);
}

int run_negate(run *r, value v, bool negative, value *out) {
    if (v.type == VALUE_UNDEFINED) return run_undefined(r, v);
    if (!value_is_number(v))
        return run_raise(r, "bad operand type for unary %s: '%s'",
                         negative ? "-" : "+", value_type_name(v));
    if (v.type == VALUE_FLOAT) {
        *out = value_float(negative ? -v.as.real : v.as.real);
        return 0;
    }
    int64_t integer = value_integer(v);
    if (negative && integer == INT64_MIN) return too_big(r);
    *out = value_int(negative ? -integer : integer);
    return 0;
}

/* ---- comparison ---- */

int run_compare(run *r, node_op op, value a, value b, bool *out) {
    int order, rc;
    switch (op) {
    case OP_IN:
        return value_contains(r, b, a, out);
    case OP_NOT_IN:
        rc = value_contains(r, b, a, out);
        *out = !*out;
        return rc;
    case OP_EQ:
        return value_equal(r, a, b, out);
    case OP_NE:
        rc = value_equal(r, a, b, out);
        *out = !*out;
        return rc;
    default:
        break;
    }
    rc = value_order(r, a, b, op_text(op), &order);
    if (rc < 0) return rc;
    *out = order != 2 &&
           ((op == OP_LT && order < 0) || (op == OP_LE && order <= 0) ||
            (op == OP_GT && order > 0) || (op == OP_GE && order >= 0));
    return 0;
}
