/* vmath_double.c - exp, log, pow, sin, cos and tanh in double precision.
 *
 * Each is a reduction by fma to a short interval and a series there, long
 * enough that its remainder lies below half a unit in the last place.  They
 * serve rope angles and samplers, where a few thousand calls a token are many;
 * so clarity came before speed, and there is no vector form. */
#include "engine/vmath.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
#include "engine/util.h"

#define LN2_HI 0x1.62e42fefa39efp-1
#define LN2_LO 0x1.abc9e3b39803fp-56
#define LOG2E 0x1.71547652b82fep+0
#define SQRT2 0x1.6a09e667f3bcdp+0

/* pi / 2 as a sum of three doubles. */
#define HALF_PI_1 0x1.921fb54442d18p+0
#define HALF_PI_2 0x1.1a62633145c07p-54
#define HALF_PI_3 (-0x1.f1976b7ed8fbcp-110)
#define TWO_OVER_PI 0x1.45f306dc9c883p-1

/* Adding and subtracting 1.5 * 2^52 rounds to an integer, half to even. */
#define ROUND 6755399441055744.0

/* Beyond this no integer multiple of pi / 2 is left to reduce by. */
#define SINCOS_LIMIT 1e15

static double round_even(double x) {
    return (x + ROUND) - ROUND;
}

/* 2^n for n in [-1022, 1023]. */
static double power_of_two(int n) {
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* c[0] + c[1] x + ... + c[n-1] x^(n-1) */
static double horner(const double *c, size_t n, double x) {
    double p = c[n - 1];
    for (size_t i = n - 1; i > 0; i--) {
        p = fma(p, x, c[i - 1]);
    }
    return p;
}

/* (exp(r) - 1) / r for |r| <= 0.35: 1 + r/2! + r^2/3! + ... + r^13/14! */
static double expm1_over(double r) {
    static const double c[] = {
        1.0,
        1.0 / 2,
        1.0 / 6,
        1.0 / 24,
        1.0 / 120,
        1.0 / 720,
        1.0 / 5040,
        1.0 / 40320,
        1.0 / 362880,
        1.0 / 3628800,
        1.0 / 39916800,
        1.0 / 479001600,
        1.0 / 6227020800,
        1.0 / 87178291200,
    };
    return horner(c, ARRAY_LEN(c), r);
}

double vm_exp(double x) {
    if (x != x) return NAN;
    if (x < -745.2) return 0.0;
    if (x > 709.79) return INFINITY;

    double n = round_even(x * LOG2E);
    double r = fma(-n, LN2_HI, x);
    r = fma(-n, LN2_LO, r);
    double p = fma(r, expm1_over(r), 1.0);

    /* In two steps: 2^n alone may overflow or underflow where p * 2^n does
     * not; only the second multiplication can round. */
    int half = (int)n / 2;
    return p * power_of_two(half) * power_of_two((int)n - half);
}

/* With x = 2^e * m, m in [sqrt(1/2), sqrt(2)), and s = (m - 1) / (m + 1):
 * log m = 2 s (1 + s^2/3 + s^4/5 + ...), |s| <= 0.1716. */
double vm_log(double x) {
    static const double c[] = {
        1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11,
        1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21,
    };
    if (x != x || x < 0) return NAN;
    if (x == 0) return -INFINITY;
    if (x == INFINITY) return INFINITY;

    int e = 0;
    if (x < 0x1p-1022) { /* subnormal: normalize first */
        x *= 0x1p54;
        e = -54;
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    e += (int)(bits >> 52) - 1023;
    bits = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof(m));
    if (m >= SQRT2) {
        m *= 0.5;
        e++;
    }

    double f = m - 1.0;
    double s = f / (m + 1.0);
    double z = s * s;
    /* 2s = f - f*s exactly in the reals; f is exact, so the small correction
     * carries the rounding: log m = f - s * (f - 2 z * series). */
    double log_m = f - s * (f - 2.0 * z * horner(c, ARRAY_LEN(c), z));
    return fma((double)e, LN2_HI, fma((double)e, LN2_LO, log_m));
}

double vm_pow(double base, double exponent) {
    if (exponent == 0) return 1.0;
    double log_base = vm_log(base);
    double x = exponent * log_base;
    if (!(x > -745.2 && x < 709.79)) return vm_exp(x);
    /* What the product rounded away would be a relative error of exp. */
    double rest = fma(exponent, log_base, -x);
    double y = vm_exp(x);
    return fma(y, rest, y);
}

/* sin and cos on |r| <= pi / 4 by their series in z = r^2. */
static double sin_reduced(double r) {
    static const double c[] = {
        -1.0 / 6,
        1.0 / 120,
        -1.0 / 5040,
        1.0 / 362880,
        -1.0 / 39916800,
        1.0 / 6227020800,
        -1.0 / 1307674368000,
        1.0 / 355687428096000,
    };
    double z = r * r;
    return fma(r * z, horner(c, ARRAY_LEN(c), z), r);
}

static double cos_reduced(double r) {
    static const double c[] = {
        1.0,
        -1.0 / 2,
        1.0 / 24,
        -1.0 / 720,
        1.0 / 40320,
        -1.0 / 3628800,
        1.0 / 479001600,
        -1.0 / 87178291200,
        1.0 / 20922789888000,
        -1.0 / 6402373705728000,
    };
    return horner(c, ARRAY_LEN(c), r * r);
}

/* x = n * pi/2 + r.  The first step is exact: x and n * HALF_PI_1 are multiples
 * of 2^-53 when n is not 0, and their difference is below 1. */
void vm_sincos(double x, double *sin_out, double *cos_out) {
    if (!(fabs(x) <= SINCOS_LIMIT)) {
        *sin_out = *cos_out = NAN;
        return;
    }
    double n = round_even(x * TWO_OVER_PI);
    double r = fma(-n, HALF_PI_1, x);
    r = fma(-n, HALF_PI_2, r);
    r = fma(-n, HALF_PI_3, r);

    double s = sin_reduced(r);
    double c = cos_reduced(r);
    switch ((int64_t)n & 3) { /* the quarter turn that n stands for */
    case 0:
        *sin_out = s;
        *cos_out = c;
        break;
    case 1:
        *sin_out = c;
        *cos_out = -s;
        break;
    case 2:
        *sin_out = -s;
        *cos_out = -c;
        break;
    default:
        *sin_out = -c;
        *cos_out = s;
        break;
    }
}

/* tanh |x| = (e^2|x| - 1) / (e^2|x| + 1); near 0 the series gives e^2|x| - 1
 * without cancellation. */
double vm_tanh(double x) {
    double a = fabs(x);
    if (x != x) return NAN;
    if (a > 22.0) return copysign(1.0, x);

    double twice = 2.0 * a;
    double less_one =
        twice < 0.35 ? twice * expm1_over(twice) : vm_exp(twice) - 1.0;
    return copysign(less_one / (less_one + 2.0), x);
}
