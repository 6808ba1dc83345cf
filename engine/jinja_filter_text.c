/* jinja_filter_text.c - filters of text. */
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_chars.h"
#include "engine/jinja_words.h"
#include "engine/util.h"

#define FILTER(name)                                                           \
    static int name(run *r, value self, const value *args,                     \
                    const call_args *all, value *out)
#define UNUSED (void)r, (void)self, (void)args, (void)all

FILTER(upper) {
    UNUSED;
    int rc = run_str(r, self, &self);
    return rc < 0 ? rc : words_upper(r, self, out);
}

FILTER(lower) {
    UNUSED;
    int rc = run_str(r, self, &self);
    return rc < 0 ? rc : words_lower(r, self, out);
}

FILTER(capitalize) {
    UNUSED;
    int rc = run_str(r, self, &self);
    return rc < 0 ? rc : words_capitalize(r, self, out);
}

/* The filter's own idea of words: they begin behind - ( { [ < and spaces. */
static size_t begins_word(const char *s, size_t n) {
    if (n > 0 && memchr("-({[<", s[0], 5) != NULL) return 1;
    return chars_space(s, n);
}

FILTER(title) {
    UNUSED;
    size_t mark = run_mark(r);
    int rc = run_str(r, self, &self);
    const char *s = self.as.text;
    for (size_t at = 0; rc == 0 && at < self.len;) {
        size_t bytes, end = at;
        value word;
        while ((bytes = begins_word(s + end, self.len - end)) > 0)
            end += bytes;
        rc = run_put(r, s + at, end - at);
        for (at = end; end < self.len;) {
            int32_t c;
            if (begins_word(s + end, self.len - end) > 0) break;
            end += chars_at(s + end, self.len - end, &c);
        }
        if (rc < 0 || end == at) break;
        /* (the first letter's upper case, where capitalize has title case) */
        int32_t c;
        size_t first = chars_at(s + at, end - at, &c);
        value head = value_text(s + at, first);
        rc = words_upper(r, head, &head);
        if (rc == 0)
            rc = words_lower(r, value_text(s + at + first, end - at - first),
                             &word);
        if (rc == 0) rc = run_put_text(r, head);
        if (rc == 0) rc = run_put_text(r, word);
        at = end;
    }
    return rc < 0 ? rc : run_take(r, mark, out);
}

FILTER(trim) {
    UNUSED;
    int rc = run_str(r, self, &self);
    return rc < 0 ? rc : words_strip(r, self, args[0], true, true, out);
}

FILTER(replace) {
    UNUSED;
    value old, by;
    int64_t count;
    value most = args[2].type == VALUE_NONE ? value_missing() : args[2];
    int rc = arg_integer(r, "replace", most, -1, &count);
    if (rc == 0) rc = run_str(r, self, &self);
    if (rc == 0) rc = run_str(r, args[0], &old);
    if (rc == 0) rc = run_str(r, args[1], &by);
    self.safe = false;
    return rc < 0 ? rc : words_replace(r, self, old, by, count, out);
}

/* ---- indent ---- */

static int indentation(run *r, value width, value *out) {
    int64_t n;
    size_t mark = run_mark(r);
    if (width.type == VALUE_TEXT) {
        *out = width;
        return 0;
    }
    int rc = arg_integer(r, "indent", width, 4, &n);
    if (rc == 0 && n > 0) rc = run_put_times(r, ' ', (size_t)n);
    return rc < 0 ? rc : run_take(r, mark, out);
}

FILTER(indent) {
    UNUSED;
    value space, lines;
    bool first = arg_truth(args[1], false), blank = arg_truth(args[2], false);
    if (self.type == VALUE_UNDEFINED) return run_undefined(r, self);
    int rc = arg_text(r, "indent", self, NULL, &self);
    if (rc == 0) rc = indentation(r, args[0], &space);
    size_t mark = run_mark(r);
    if (rc == 0) rc = run_put_text(r, self);
    if (rc == 0) rc = run_put(r, "\n", 1); /* so that a last newline stays */
    if (rc == 0) rc = run_take(r, mark, &self);
    if (rc == 0) rc = words_lines(r, self, false, &lines);
    if (rc == 0 && first) rc = run_put_text(r, space);
    for (size_t i = 0; rc == 0 && i < lines.as.seq->n; i++) {
        value line = lines.as.seq->items[i];
        if (i > 0) rc = run_put(r, "\n", 1);
        if (rc == 0 && i > 0 && (blank || line.len > 0))
            rc = run_put_text(r, space);
        if (rc == 0) rc = run_put_text(r, line);
    }
    return rc < 0 ? rc : run_take(r, mark, out);
}

/* ---- JSON ---- */

/* separators=(item, key) */
static int read_separators(run *r, value v, json_style *style) {
    seq *s;
    style->item_sep = value_string(style->pretty ? "," : ", ");
    style->key_sep = value_string(": ");
    if (!arg_given(v) || v.type == VALUE_NONE) return 0;
    int rc = value_items(r, v, &s);
    if (rc < 0) return rc;
    if (s->n != 2) return run_raise(r, "tojson: two separators are wanted");
    rc = arg_text(r, "tojson", s->items[0], NULL, &style->item_sep);
    return rc < 0 ? rc
                  : arg_text(r, "tojson", s->items[1], NULL, &style->key_sep);
}

FILTER(tojson) {
    UNUSED;
    size_t mark = run_mark(r);
    json_style style = {.ascii = arg_truth(args[0], false),
                        .sort_keys = arg_truth(args[3], false),
                        .indent = value_text("", 0)};
    int rc = 0;
    if (arg_given(args[1]) && args[1].type != VALUE_NONE) {
        style.pretty = true;
        rc = indentation(r, args[1], &style.indent);
    }
    if (rc == 0) rc = read_separators(r, args[2], &style);
    if (rc == 0) rc = run_to_json(r, self, &style);
    return rc < 0 ? rc : run_take(r, mark, out);
}

/* ---- the rest ---- */

FILTER(string) {
    UNUSED;
    return run_str(r, self, out);
}

FILTER(safe) {
    UNUSED;
    int rc = run_str(r, self, out);
    out->safe = true;
    return rc;
}

FILTER(escape) {
    UNUSED;
    return run_escaped(r, self, out);
}

FILTER(forceescape) {
    UNUSED;
    self.safe = false;
    return run_escaped(r, self, out);
}

FILTER(wordcount) {
    UNUSED;
    int64_t n = 0;
    bool inside = false;
    int rc = run_str(r, self, &self);
    for (size_t at = 0; rc == 0 && at < self.len;) {
        int32_t c;
        at += chars_at(self.as.text + at, self.len - at, &c);
        bool word = c == '_' || chars_is_alpha(c) || chars_is_numeric(c);
        n += word && !inside;
        inside = word;
    }
    *out = value_int(n);
    return rc < 0 ? rc : run_steps(r, self.len / 16);
}

/* "%s and %s"|format(a, b) */
FILTER(format) {
    UNUSED;
    value given = value_none();
    int rc = run_str(r, self, &self);
    if (rc < 0) return rc;
    if (all->n > 0 && all->n_named > 0)
        return run_raise(r, "can't handle positional and keyword arguments at "
                            "the same time");
    if (all->n_named > 0) {
        rc = value_dict(r, all->n_named, &given);
        for (size_t i = 0; rc == 0 && i < all->n_named; i++)
            rc =
                dict_set(r, given.as.dict, all->named[i].name, all->named[i].v);
    } else {
        rc = value_seq(r, VALUE_TUPLE, all->n, &given);
        for (size_t i = 0; rc == 0 && i < all->n; i++)
            given.as.seq->items[i] = all->items[i];
    }
    return rc < 0 ? rc : run_percent(r, self, given, out);
}

/* Shorter than `length` characters, at a word's end unless `killwords`. */
FILTER(truncate) {
    UNUSED;
    int64_t length, leeway;
    value end;
    size_t mark = run_mark(r), n;
    int rc = arg_integer(r, "truncate", args[0], 255, &length);
    if (rc == 0) rc = arg_text(r, "truncate", args[2], "...", &end);
    if (rc == 0) rc = arg_integer(r, "truncate", args[3], 5, &leeway);
    if (rc < 0) return rc;
    if (!value_length(self, &n))
        return run_raise(r, "object of type '%s' has no len()",
                         value_type_name(self));
    int64_t keep = length - (int64_t)chars_count(end.as.text, end.len);
    if (keep < 0 || leeway < 0)
        return run_raise(r, "truncate: the length or leeway is too small");
    *out = self;
    if ((int64_t)n - leeway <= length) return 0;
    rc = arg_text(r, "truncate", self, NULL, &self);
    if (rc < 0) return rc;
    size_t bytes = chars_offset(self.as.text, self.len, (size_t)keep);
    if (!arg_truth(args[1], false)) {
        size_t space = chars_find_last(self.as.text, bytes, " ", 1);
        bytes = space;
    }
    rc = run_put(r, self.as.text, bytes);
    if (rc == 0) rc = run_put_text(r, end);
    return rc < 0 ? rc : run_take(r, mark, out);
}

FILTER(center) {
    UNUSED;
    static const char name[] = "center";
    value width[1] = {arg_given(args[0]) ? args[0] : value_int(80)};
    call_args passed = {.items = width, .n = 1};
    int rc = run_str(r, self, &self);
    if (rc < 0) return rc;
    const builtin *b = builtin_method(self, value_string(name));
    return builtin_call(r, b, "filter", self, &passed, out);
}

static const builtin items[] = {
    {"tojson", "ensure_ascii indent separators sort_keys", 0, tojson},
    {"trim", "chars", 0, trim},
    {"upper", "", 0, upper},
    {"lower", "", 0, lower},
    {"capitalize", "", 0, capitalize},
    {"title", "", 0, title},
    {"replace", "old new count", 2, replace},
    {"indent", "width first blank", 0, indent},
    {"string", "", 0, string},
    {"safe", "", 0, safe},
    {"escape", "", 0, escape},
    {"e", "", 0, escape},
    {"forceescape", "", 0, forceescape},
    {"wordcount", "", 0, wordcount},
    {"format", "*", 0, format},
    {"truncate", "length killwords end leeway", 0, truncate},
    {"center", "width", 0, center},
    {"filesizeformat", "*", 0, NULL},
    {"pprint", "*", 0, NULL},
    {"striptags", "*", 0, NULL},
    {"urlencode", "*", 0, NULL},
    {"urlize", "*", 0, NULL},
    {"wordwrap", "*", 0, NULL},
    {"xmlattr", "*", 0, NULL},
};

const builtin_table builtin_text_filters = {items, ARRAY_LEN(items)};
