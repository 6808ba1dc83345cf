/* jinja_test.c - tests: what stands behind `is`. */
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_run.h"
#include "engine/jinja_words.h"
#include "engine/util.h"

#define TEST(name)                                                             \
    static int name(run *r, value self, const value *args,                     \
                    const call_args *all, value *out)
#define UNUSED (void)r, (void)self, (void)args, (void)all

/* A test that asks for the type alone. */
#define TYPE_TEST(name, condition)                                             \
    TEST(name) {                                                               \
        UNUSED;                                                                \
        *out = value_bool(condition);                                          \
        return 0;                                                              \
    }

TYPE_TEST(is_defined, self.type != VALUE_UNDEFINED)
TYPE_TEST(is_undefined, self.type == VALUE_UNDEFINED)
TYPE_TEST(is_none, self.type == VALUE_NONE)
TYPE_TEST(is_string, self.type == VALUE_TEXT)
TYPE_TEST(is_number, value_is_number(self))
TYPE_TEST(is_integer, self.type == VALUE_INT)
TYPE_TEST(is_float, self.type == VALUE_FLOAT)
TYPE_TEST(is_boolean, self.type == VALUE_BOOL)
TYPE_TEST(is_mapping, self.type == VALUE_DICT)
TYPE_TEST(is_iterable, value_is_iterable(self))
TYPE_TEST(is_sequence, value_is_seq(self) || self.type == VALUE_TEXT ||
                           self.type == VALUE_DICT ||
                           self.type == VALUE_RANGE ||
                           self.type == VALUE_UNDEFINED)
TYPE_TEST(is_callable,
          self.type == VALUE_FUNCTION || self.type == VALUE_METHOD ||
              self.type == VALUE_MACRO || self.type == VALUE_LOOP ||
              self.type == VALUE_JOINER || self.type == VALUE_UNDEFINED)
TYPE_TEST(is_true, self.type == VALUE_BOOL && self.as.truth)
TYPE_TEST(is_false, self.type == VALUE_BOOL && !self.as.truth)
TYPE_TEST(is_escaped, self.type == VALUE_TEXT && self.safe)
TYPE_TEST(is_filter, self.type == VALUE_TEXT && builtin_filter(self) != NULL)
TYPE_TEST(is_test, self.type == VALUE_TEXT && builtin_test(self) != NULL)
TYPE_TEST(is_same, value_same(self, args[0]))

/* ---- numbers ---- */

static int remainder_is(run *r, value v, value by, int64_t wanted, value *out) {
    value rest;
    bool equal;
    int rc = run_binary(r, OP_MOD, v, by, &rest);
    if (rc == 0) rc = value_equal(r, rest, value_int(wanted), &equal);
    if (rc == 0) *out = value_bool(equal);
    return rc;
}

TEST(is_odd) {
    UNUSED;
    return remainder_is(r, self, value_int(2), 1, out);
}

TEST(is_even) {
    UNUSED;
    return remainder_is(r, self, value_int(2), 0, out);
}

TEST(is_divisible) {
    UNUSED;
    return remainder_is(r, self, args[0], 0, out);
}

/* ---- comparison ---- */

static int compare(run *r, node_op op, value a, value b, value *out) {
    bool holds = false;
    int rc = run_compare(r, op, a, b, &holds);
    *out = value_bool(holds);
    return rc;
}

#define COMPARE_TEST(name, op)                                                 \
    TEST(name) {                                                               \
        UNUSED;                                                                \
        return compare(r, op, self, args[0], out);                             \
    }

COMPARE_TEST(is_eq, OP_EQ)
COMPARE_TEST(is_ne, OP_NE)
COMPARE_TEST(is_lt, OP_LT)
COMPARE_TEST(is_le, OP_LE)
COMPARE_TEST(is_gt, OP_GT)
COMPARE_TEST(is_ge, OP_GE)
COMPARE_TEST(is_in, OP_IN)

/* ---- case ---- */

static int in_case(run *r, value self, const char *asks, value *out) {
    const call_args none = {0};
    int rc = run_str(r, self, &self);
    if (rc < 0) return rc;
    const builtin *b = builtin_method(self, value_string(asks));
    return builtin_call(r, b, "test", self, &none, out);
}

TEST(is_lower) {
    UNUSED;
    return in_case(r, self, "islower", out);
}

TEST(is_upper) {
    UNUSED;
    return in_case(r, self, "isupper", out);
}

static const builtin items[] = {
    {"defined", "", 0, is_defined},
    {"undefined", "", 0, is_undefined},
    {"none", "", 0, is_none},
    {"string", "", 0, is_string},
    {"number", "", 0, is_number},
    {"integer", "", 0, is_integer},
    {"float", "", 0, is_float},
    {"boolean", "", 0, is_boolean},
    {"mapping", "", 0, is_mapping},
    {"iterable", "", 0, is_iterable},
    {"sequence", "", 0, is_sequence},
    {"callable", "", 0, is_callable},
    {"true", "", 0, is_true},
    {"false", "", 0, is_false},
    {"escaped", "", 0, is_escaped},
    {"filter", "", 0, is_filter},
    {"test", "", 0, is_test},
    {"sameas", "other", 1, is_same},
    {"odd", "", 0, is_odd},
    {"even", "", 0, is_even},
    {"divisibleby", "num", 1, is_divisible},
    {"eq", "other", 1, is_eq},
    {"equalto", "other", 1, is_eq},
    {"==", "other", 1, is_eq},
    {"ne", "other", 1, is_ne},
    {"!=", "other", 1, is_ne},
    {"lt", "other", 1, is_lt},
    {"lessthan", "other", 1, is_lt},
    {"<", "other", 1, is_lt},
    {"le", "other", 1, is_le},
    {"<=", "other", 1, is_le},
    {"gt", "other", 1, is_gt},
    {"greaterthan", "other", 1, is_gt},
    {">", "other", 1, is_gt},
    {"ge", "other", 1, is_ge},
    {">=", "other", 1, is_ge},
    {"in", "seq", 1, is_in},
    {"lower", "", 0, is_lower},
    {"upper", "", 0, is_upper},
};

const builtin_table builtin_tests = {items, ARRAY_LEN(items)};
