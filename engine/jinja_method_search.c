/* jinja_method_search.c - methods of str that look for parts, cut it up, put it
 * together and fill it in. */
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_chars.h"
#include "engine/jinja_format.h"
#include "engine/jinja_words.h"
#include "engine/util.h"

#define METHOD(name)                                                           \
    static int name(run *r, value self, const value *args,                     \
                    const call_args *all, value *out)
#define UNUSED (void)r, (void)self, (void)args, (void)all

/* ---- searching ---- */

/* The part of self that start and end (characters, may be negative) name, and
 * the character it begins at; false: they name none. */
static int window(run *r, value self, const value *bounds, value *out,
                  int64_t *first, bool *none) {
    int64_t n = (int64_t)chars_count(self.as.text, self.len), at[2];
    for (int i = 0; i < 2; i++) {
        value bound = bounds[i];
        if (bound.type == VALUE_NONE) bound = value_missing();
        int rc = arg_integer(r, "a slice index", bound, i == 0 ? 0 : n, &at[i]);
        if (rc < 0) return rc;
        if (at[i] < 0) at[i] = at[i] < -n ? 0 : at[i] + n;
    }
    *none = at[0] > n || at[0] > at[1];
    if (at[1] > n) at[1] = n;
    *first = at[0];
    if (*none) return 0;
    size_t begin = chars_offset(self.as.text, self.len, (size_t)at[0]);
    size_t bytes = chars_offset(self.as.text + begin, self.len - begin,
                                (size_t)(at[1] - at[0]));
    *out = value_text(self.as.text + begin, bytes);
    return run_steps(r, self.len / 64);
}

static int search(run *r, const char *name, value self, const value *args,
                  bool last, bool must, value *out) {
    value part, in;
    int64_t first;
    bool none;
    int rc = arg_text(r, name, args[0], NULL, &part);
    if (rc == 0) rc = window(r, self, args + 1, &in, &first, &none);
    if (rc < 0) return rc;
    *out = value_int(-1);
    size_t at = 0;
    if (!none) {
        at = last ? chars_find_last(in.as.text, in.len, part.as.text, part.len)
                  : chars_find(in.as.text, in.len, part.as.text, part.len);
        none = at == in.len && part.len > 0;
    }
    if (none) return must ? run_raise(r, "substring not found") : 0;
    *out = value_int(first + (int64_t)chars_count(in.as.text, at));
    return run_steps(r, in.len / 16);
}

METHOD(find) {
    UNUSED;
    return search(r, "find()", self, args, false, false, out);
}

METHOD(rfind) {
    UNUSED;
    return search(r, "rfind()", self, args, true, false, out);
}

METHOD(index_of) {
    UNUSED;
    return search(r, "index()", self, args, false, true, out);
}

METHOD(rindex_of) {
    UNUSED;
    return search(r, "rindex()", self, args, true, true, out);
}

METHOD(count) {
    UNUSED;
    value part, in;
    int64_t first, n = 0;
    bool none;
    int rc = arg_text(r, "count()", args[0], NULL, &part);
    if (rc == 0) rc = window(r, self, args + 1, &in, &first, &none);
    if (rc < 0) return rc;
    if (!none && part.len == 0)
        n = (int64_t)chars_count(in.as.text, in.len) + 1;
    for (size_t at = 0; !none && part.len > 0; n++) {
        size_t next =
            chars_find(in.as.text + at, in.len - at, part.as.text, part.len);
        if (next == in.len - at) break;
        at += next + part.len;
    }
    *out = value_int(n);
    return run_steps(r, self.len / 16);
}

static bool has_part(value in, value part, bool at_end) {
    if (part.len > in.len) return false;
    size_t at = at_end ? in.len - part.len : 0;
    return memcmp(in.as.text + at, part.as.text, part.len) == 0;
}

/* A text, or a tuple of them. */
static int affix(run *r, value self, const value *args, bool at_end,
                 value *out) {
    const char *name = at_end ? "endswith()" : "startswith()";
    value in, part;
    int64_t first;
    bool none, found = false;
    int rc = window(r, self, args + 1, &in, &first, &none);
    if (rc < 0) return rc;
    bool many = args[0].type == VALUE_TUPLE;
    size_t n = many ? args[0].as.seq->n : 1;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = arg_text(r, name, many ? args[0].as.seq->items[i] : args[0], NULL,
                      &part);
        if (rc == 0) found |= !none && has_part(in, part, at_end);
    }
    *out = value_bool(found);
    return rc < 0 ? rc : run_steps(r, n);
}

METHOD(startswith) {
    UNUSED;
    return affix(r, self, args, false, out);
}

METHOD(endswith) {
    UNUSED;
    return affix(r, self, args, true, out);
}

/* ---- splitting ---- */

static value piece(value self, size_t begin, size_t end) {
    value v = value_text(self.as.text + begin, end - begin);
    v.safe = self.safe;
    return v;
}

/* At runs of white space; what is left after `most` cuts keeps its own. */
static int split_space(run *r, value self, uint64_t most, value *parts) {
    const char *s = self.as.text;
    size_t n = self.len, bytes;
    int rc = 0;
    chars_strip(&s, &n, true, false);
    while (rc == 0 && n > 0) {
        size_t end = 0;
        int32_t c;
        while (end < n && most > 0 && chars_space(s + end, n - end) == 0)
            end += chars_at(s + end, n - end, &c);
        bytes = most > 0 ? end : n;
        rc = value_append(r, *parts, value_text(s, bytes));
        s += bytes;
        n -= bytes;
        most -= most > 0;
        chars_strip(&s, &n, true, false);
    }
    return rc;
}

static int rsplit_space(run *r, value self, uint64_t most, value *parts) {
    const char *s = self.as.text;
    size_t n = self.len;
    int rc = 0;
    chars_strip(&s, &n, false, true);
    while (rc == 0 && n > 0) {
        size_t begin = n;
        if (most == 0) begin = 0;
        while (begin > 0 && chars_space_before(s, begin) == 0)
            begin--;
        rc = value_append(r, *parts, value_text(s + begin, n - begin));
        n = begin;
        most -= most > 0;
        chars_strip(&s, &n, false, true);
    }
    return rc;
}

static int split_at(run *r, value self, value at, uint64_t most, value *parts) {
    size_t begin = 0;
    int rc = 0;
    for (; rc == 0 && most > 0; most--) {
        size_t left = self.len - begin;
        size_t next =
            chars_find(self.as.text + begin, left, at.as.text, at.len);
        if (next == left) break;
        rc = value_append(r, *parts, piece(self, begin, begin + next));
        begin += next + at.len;
    }
    return rc < 0 ? rc : value_append(r, *parts, piece(self, begin, self.len));
}

static int rsplit_at(run *r, value self, value at, uint64_t most,
                     value *parts) {
    size_t end = self.len;
    int rc = 0;
    for (; rc == 0 && most > 0; most--) {
        size_t next = chars_find_last(self.as.text, end, at.as.text, at.len);
        if (next == end) break;
        rc = value_append(r, *parts, piece(self, next + at.len, end));
        end = next;
    }
    return rc < 0 ? rc : value_append(r, *parts, piece(self, 0, end));
}

static void turn_round(seq *s) {
    for (size_t i = 0; i < s->n / 2; i++) {
        value swap = s->items[i];
        s->items[i] = s->items[s->n - 1 - i];
        s->items[s->n - 1 - i] = swap;
    }
}

static int split_any(run *r, value self, const value *args, bool from_right,
                     value *out) {
    value parts;
    int64_t most;
    bool space = !arg_given(args[0]) || args[0].type == VALUE_NONE;
    int rc = arg_integer(r, "maxsplit", args[1], -1, &most);
    uint64_t cuts = most < 0 ? UINT64_MAX : (uint64_t)most;
    if (rc == 0) rc = value_seq(r, VALUE_LIST, 0, &parts);
    if (rc == 0) rc = run_steps(r, self.len / 16);
    if (rc < 0) return rc;
    if (!space && args[0].type != VALUE_TEXT)
        return run_raise(r, "must be str or None, not %s",
                         value_type_name(args[0]));
    if (!space && args[0].len == 0) return run_raise(r, "empty separator");

    if (space)
        rc = from_right ? rsplit_space(r, self, cuts, &parts)
                        : split_space(r, self, cuts, &parts);
    else
        rc = from_right ? rsplit_at(r, self, args[0], cuts, &parts)
                        : split_at(r, self, args[0], cuts, &parts);
    if (from_right) turn_round(parts.as.seq);
    *out = parts;
    return rc;
}

METHOD(split) {
    UNUSED;
    return split_any(r, self, args, false, out);
}

METHOD(rsplit) {
    UNUSED;
    return split_any(r, self, args, true, out);
}

METHOD(splitlines) {
    UNUSED;
    return words_lines(r, self, arg_truth(args[0], false), out);
}

/* Before, the separator, behind; or the text and two empty ones. */
static int partition_by(run *r, value self, value at, bool last, value *out) {
    value sep;
    int rc = arg_text(r, "partition()", at, NULL, &sep);
    if (rc < 0) return rc;
    if (sep.len == 0) return run_raise(r, "empty separator");
    size_t found =
        last ? chars_find_last(self.as.text, self.len, sep.as.text, sep.len)
             : chars_find(self.as.text, self.len, sep.as.text, sep.len);
    rc = value_seq(r, VALUE_TUPLE, 3, out);
    if (rc < 0) return rc;
    value *items = out->as.seq->items;
    bool none = found == self.len;
    items[0] = none && last ? value_text("", 0) : piece(self, 0, found);
    items[1] = none ? value_text("", 0) : sep;
    items[2] = none ? (last ? self : value_text("", 0))
                    : piece(self, found + sep.len, self.len);
    return run_steps(r, self.len / 16);
}

METHOD(partition) {
    UNUSED;
    return partition_by(r, self, args[0], false, out);
}

METHOD(rpartition) {
    UNUSED;
    return partition_by(r, self, args[0], true, out);
}

METHOD(join) {
    UNUSED;
    seq *parts;
    int rc = value_items(r, args[0], &parts);
    for (size_t i = 0; rc == 0 && i < parts->n; i++) {
        if (parts->items[i].type == VALUE_TEXT) continue;
        if (parts->items[i].type == VALUE_UNDEFINED)
            return run_undefined(r, parts->items[i]);
        return run_raise(r,
                         "sequence item %zu: expected str instance, %s found",
                         i, value_type_name(parts->items[i]));
    }
    return rc < 0 ? rc : words_join(r, self, parts, out);
}

/* ---- format() ---- */

typedef struct {
    const char *at, *end;
    const call_args *args;
    size_t next;
    int numbering; /* 0: not begun, 1: automatic, 2: by number */
} filling;

/* The argument that a field's name begins with; *at is moved behind it. */
static int field_argument(run *r, filling *f, const char **at, const char *end,
                          value *out) {
    const char *begin = *at;
    while (*at < end && **at != '.' && **at != '[')
        (*at)++;
    size_t n = (size_t)(*at - begin), index = 0;
    bool digits = n < 9;
    for (size_t i = 0; i < n && digits; i++) {
        digits = begin[i] >= '0' && begin[i] <= '9';
        index = index * 10 + (size_t)(begin[i] - '0');
    }
    if (!digits) {
        for (size_t i = 0; i < f->args->n_named; i++) {
            value name = f->args->named[i].name;
            if (name.len != n || memcmp(name.as.text, begin, n) != 0) continue;
            *out = f->args->named[i].v;
            return 0;
        }
        return run_raise(r, "KeyError: '%.*s'", (int)size_min(n, 100), begin);
    }
    int numbering = n == 0 ? 1 : 2;
    if (f->numbering != 0 && f->numbering != numbering)
        return run_raise(r, "cannot switch between automatic field numbering "
                            "and manual field specification");
    f->numbering = numbering;
    if (n == 0) index = f->next++;
    if (index >= f->args->n)
        return run_raise(r,
                         "Replacement index %zu out of range for "
                         "positional args tuple",
                         index);
    *out = f->args->items[index];
    return 0;
}

/* .name and [key] behind it. */
static int field_path(run *r, const char *at, const char *end, value *v) {
    int rc = 0;
    while (rc == 0 && at < end) {
        bool item = *at++ == '[';
        const char *begin = at;
        while (at < end && (item ? *at != ']' : *at != '.' && *at != '['))
            at++;
        value name = value_text(begin, (size_t)(at - begin)), path = name;
        at += item && at < end;
        rc = item ? arg_attribute(r, *v, path, value_none(), v)
                  : run_attribute(r, *v, name, v);
        if (rc == 0 && v->type == VALUE_UNDEFINED) rc = run_undefined(r, *v);
    }
    return rc;
}

static int put_formatted(run *r, value v, value spec) {
    field f;
    int rc = format_spec(r, spec, &f);
    if (rc < 0) return rc;
    if (spec.len == 0) {
        rc = run_str(r, v, &v);
        return rc < 0 ? rc : run_put_text(r, v);
    }
    bool real_type = f.type != 0 && strchr("eEfFgG%", f.type) != NULL;
    if (v.type == VALUE_TEXT && (f.type == 0 || f.type == 's'))
        return format_text(r, &f, v);
    if (value_is_number(v) && (real_type || v.type == VALUE_FLOAT))
        return format_real(r, &f, value_real(v));
    if (value_is_integer(v) && f.type != 's' && f.precision < 0)
        return format_integer(r, &f, value_integer(v));
    return run_raise(r, "unsupported format string passed to %s.__format__",
                     value_type_name(v));
}

/* What stands between braces: name, !r or !s, :spec. */
static int put_one(run *r, filling *f, const char *begin, const char *end) {
    const char *colon = memchr(begin, ':', (size_t)(end - begin));
    const char *name_end = colon != NULL ? colon : end, *at = begin;
    const char *bang = memchr(begin, '!', (size_t)(name_end - begin));
    value v, spec = value_text("", 0);
    size_t mark = run_mark(r);

    if (colon != NULL) spec = value_text(colon + 1, (size_t)(end - colon - 1));
    if (memchr(spec.as.text, '{', spec.len) != NULL)
        return run_fail(r, ERR_UNSUPPORTED, "a format within a format");
    int rc = field_argument(r, f, &at, bang != NULL ? bang : name_end, &v);
    if (rc == 0) rc = field_path(r, at, bang != NULL ? bang : name_end, &v);
    if (rc == 0 && bang != NULL) {
        bool repr = bang + 2 == name_end && bang[1] == 'r';
        bool str = bang + 2 == name_end && bang[1] == 's';
        if (!repr && !str) return run_raise(r, "unknown conversion in format");
        rc = repr ? run_repr(r, v) : run_print(r, v);
        if (rc == 0) rc = run_take(r, mark, &v);
    }
    return rc < 0 ? rc : put_formatted(r, v, spec);
}

METHOD(format) {
    UNUSED;
    filling f = {
        .at = self.as.text, .end = self.as.text + self.len, .args = all};
    size_t mark = run_mark(r);
    int rc = 0;
    while (rc == 0 && f.at < f.end) {
        char c = *f.at++;
        bool twice = f.at < f.end && *f.at == c;
        if ((c != '{' && c != '}') || twice) {
            rc = run_put(r, &c, 1);
            f.at += (c == '{' || c == '}') && twice;
            continue;
        }
        const char *end =
            c == '{' ? memchr(f.at, '}', (size_t)(f.end - f.at)) : NULL;
        if (end == NULL)
            return run_raise(r, "Single '%c' encountered in format string", c);
        rc = put_one(r, &f, f.at, end);
        f.at = end + 1;
    }
    if (rc == 0) rc = run_take(r, mark, out);
    out->safe = self.safe;
    return rc;
}

static const builtin items[] = {
    {"find", "sub start end", 1, find},
    {"rfind", "sub start end", 1, rfind},
    {"index", "sub start end", 1, index_of},
    {"rindex", "sub start end", 1, rindex_of},
    {"count", "sub start end", 1, count},
    {"startswith", "prefix start end", 1, startswith},
    {"endswith", "suffix start end", 1, endswith},
    {"split", "sep maxsplit", 0, split},
    {"rsplit", "sep maxsplit", 0, rsplit},
    {"splitlines", "keepends", 0, splitlines},
    {"partition", "sep", 1, partition},
    {"rpartition", "sep", 1, rpartition},
    {"join", "iterable", 1, join},
    {"format", "*", 0, format},
    {"format_map", "*", 0, NULL},
};

const builtin_table builtin_search_methods = {items, ARRAY_LEN(items)};
