/* jinja_json.c - values to JSON as Python's json.dumps() writes it, and a
 * request's JSON to values. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_chars.h"
#include "engine/jinja_run.h"
#include "engine/jinja_sort.h"
#include "engine/util.h"

/* ---- to JSON ---- */

static int put_escape(run *r, unsigned unit) {
    char text[8];
    snprintf(text, sizeof(text), "\\u%04x", unit & 0xFFFF);
    return run_put_string(r, text);
}

static int put_wide(run *r, int32_t c) {
    if (c < 0x10000) return put_escape(r, (unsigned)c);
    c -= 0x10000;
    int rc = put_escape(r, 0xD800u + ((unsigned)c >> 10));
    return rc < 0 ? rc : put_escape(r, 0xDC00u + ((unsigned)c & 0x3FF));
}

/* How many bytes from `at` on need no escape. */
static size_t plain_run(value v, size_t at, bool ascii) {
    size_t n = at;
    for (; n < v.len; n++) {
        uint8_t b = (uint8_t)v.as.text[n];
        if (b < 0x20 || b == '"' || b == '\\' || (ascii && b >= 0x7F)) break;
    }
    return n - at;
}

static int text_to_json(run *r, value v, bool ascii) {
    static const char specials[] = "\"\\\n\r\t\f\b", letters[] = "\"\\nrtfb";
    int rc = run_put(r, "\"", 1);

    for (size_t at = 0; rc == 0 && at < v.len;) {
        size_t n = plain_run(v, at, ascii);
        rc = run_put(r, v.as.text + at, n);
        at += n;
        if (rc < 0 || at == v.len) break;
        int32_t c;
        size_t bytes = chars_at(v.as.text + at, v.len - at, &c);
        const char *special =
            memchr(specials, v.as.text[at], sizeof(specials) - 1);
        if (special != NULL) {
            char escape[2] = {'\\', letters[special - specials]};
            rc = run_put(r, escape, 2);
        } else if (c == 0x7F) {
            rc = run_put(r, "\x7f", 1);
        } else {
            rc = put_wide(r, c < 0 ? 0xFFFD : c);
        }
        at += bytes;
    }
    return rc < 0 ? rc : run_put(r, "\"", 1);
}

static int number_to_json(run *r, value v) {
    if (v.type == VALUE_FLOAT && isnan(v.as.real))
        return run_put_string(r, "NaN");
    if (v.type == VALUE_FLOAT && isinf(v.as.real))
        return run_put_string(r, v.as.real < 0 ? "-Infinity" : "Infinity");
    return run_repr(r, v);
}

static int key_to_json(run *r, value key, bool ascii) {
    if (key.type == VALUE_TEXT) return text_to_json(r, key, ascii);
    if (key.type != VALUE_NONE && !value_is_number(key))
        return run_raise(r, "JSON keys must not be %s", value_type_name(key));
    int rc = run_put(r, "\"", 1);
    if (rc == 0 && key.type == VALUE_NONE)
        rc = run_put_string(r, "null");
    else if (rc == 0 && key.type == VALUE_BOOL)
        rc = run_put_string(r, key.as.truth ? "true" : "false");
    else if (rc == 0)
        rc = number_to_json(r, key);
    return rc < 0 ? rc : run_put(r, "\"", 1);
}

static int new_line(run *r, const json_style *style, size_t level) {
    int rc = style->pretty ? run_put(r, "\n", 1) : 0;
    for (size_t i = 0; rc == 0 && style->pretty && i < level; i++)
        rc = run_put_text(r, style->indent);
    return rc;
}

static int to_json(run *r, value v, const json_style *style, size_t level);

static int separate(run *r, const json_style *style, size_t level, bool first) {
    int rc = first ? 0 : run_put_text(r, style->item_sep);
    return rc < 0 ? rc : new_line(r, style, level + 1);
}

static int seq_to_json(run *r, const seq *s, const json_style *style,
                       size_t level) {
    if (s->n == 0) return run_put(r, "[]", 2);
    int rc = run_put(r, "[", 1);
    for (size_t i = 0; rc == 0 && i < s->n; i++) {
        rc = separate(r, style, level, i == 0);
        if (rc == 0) rc = to_json(r, s->items[i], style, level + 1);
    }
    if (rc == 0) rc = new_line(r, style, level);
    return rc < 0 ? rc : run_put(r, "]", 1);
}

static int dict_to_json(run *r, const dict *d, const json_style *style,
                        size_t level) {
    seq *keys;
    value v = {.type = VALUE_DICT, .as.dict = (dict *)d};
    if (d->n == 0) return run_put(r, "{}", 2);
    int rc = value_items(r, v, &keys);
    if (rc == 0 && style->sort_keys) rc = seq_sort(r, keys, keys->items, false);
    if (rc == 0) rc = run_put(r, "{", 1);
    for (size_t i = 0; rc == 0 && i < keys->n; i++) {
        const value *item = NULL;
        rc = separate(r, style, level, i == 0);
        if (rc == 0) rc = dict_find(r, d, keys->items[i], &item);
        if (rc == 0) rc = key_to_json(r, keys->items[i], style->ascii);
        if (rc == 0) rc = run_put_text(r, style->key_sep);
        if (rc == 0) rc = to_json(r, *item, style, level + 1);
    }
    if (rc == 0) rc = new_line(r, style, level);
    return rc < 0 ? rc : run_put(r, "}", 1);
}

static int any_to_json(run *r, value v, const json_style *style, size_t level) {
    switch ((value_type)v.type) {
    case VALUE_NONE:
        return run_put_string(r, "null");
    case VALUE_BOOL:
        return run_put_string(r, v.as.truth ? "true" : "false");
    case VALUE_INT:
    case VALUE_FLOAT:
        return number_to_json(r, v);
    case VALUE_TEXT:
        return text_to_json(r, v, style->ascii);
    case VALUE_LIST:
    case VALUE_TUPLE:
        return seq_to_json(r, v.as.seq, style, level);
    case VALUE_DICT:
        return dict_to_json(r, v.as.dict, style, level);
    default:
        return run_raise(r, "Object of type %s is not JSON serializable",
                         value_type_name(v));
    }
}

static int to_json(run *r, value v, const json_style *style, size_t level) {
    int rc = run_enter(r);
    if (rc < 0) return rc;
    rc = any_to_json(r, v, style, level);
    run_leave(r);
    return rc;
}

int run_to_json(run *r, value v, const json_style *style) {
    return to_json(r, v, style, 0);
}

/* ---- from JSON ---- */

static int array_from_json(run *r, const json_t *json, value *out) {
    int rc = value_seq(r, VALUE_LIST, json_array_size(json), out);
    for (size_t i = 0; rc == 0 && i < json_array_size(json); i++)
        rc = run_from_json(r, json_array_get(json, i), &out->as.seq->items[i]);
    return rc;
}

static int object_from_json(run *r, const json_t *json, value *out) {
    int rc = value_dict(r, json_object_size(json), out);
    json_t *object = (json_t *)json; /* iterating does not change it */
    for (void *at = json_object_iter(object); rc == 0 && at != NULL;
         at = json_object_iter_next(object, at)) {
        value key, item;
        const char *name = json_object_iter_key(at);
        rc = run_copy_text(r, name, strlen(name), &key);
        if (rc == 0) rc = run_from_json(r, json_object_iter_value(at), &item);
        if (rc == 0) rc = dict_set(r, out->as.dict, key, item);
    }
    return rc;
}

static int any_from_json(run *r, const json_t *json, value *out) {
    *out = value_none();
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return object_from_json(r, json, out);
    case JSON_ARRAY:
        return array_from_json(r, json, out);
    case JSON_STRING:
        return run_copy_text(r, json_string_value(json),
                             json_string_length(json), out);
    case JSON_INTEGER:
        *out = value_int(json_integer_value(json));
        return 0;
    case JSON_REAL:
        *out = value_float(json_real_value(json));
        return 0;
    case JSON_TRUE:
        *out = value_bool(true);
        return 0;
    case JSON_FALSE:
        *out = value_bool(false);
        return 0;
    default:
        return 0;
    }
}

int run_from_json(run *r, const json_t *json, value *out) {
    int rc = run_enter(r);
    if (rc < 0) return rc;
    rc = any_from_json(r, json, out);
    run_leave(r);
    return rc;
}
