/* options_value.c - converts an option's text and stores it.
 *
 * Numbers are decimal and complete: no sign, no blanks, nothing after them but
 * the suffix their kind allows, and nothing is rounded or clamped. */
#include "engine/options_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "engine/err.h"
#include "engine/util.h"

/* ---- memory that targets point into ---- */

/* A copy that lives as long as `o`; NULL if there is no memory. */
static const char *keep_text(options *o, const char *text, size_t len) {
    char **grown = realloc(o->texts, (o->n_texts + 1) * sizeof(*o->texts));
    if (grown == NULL) return NULL;
    o->texts = grown;
    char *copy = strndup(text, len);
    if (copy == NULL) return NULL;
    o->texts[o->n_texts++] = copy;
    return copy;
}

/* Make room for one more item.  The old array stays until options_free(): the
 * caller may have looked at it. */
static int grow_list(options *o, option_list *list) {
    const char ***grown =
        realloc(o->lists, (o->n_lists + 1) * sizeof(*o->lists));
    if (grown == NULL) return -ENOMEM;
    o->lists = grown;
    const char **items = calloc(list->count + 1, sizeof(*items));
    if (items == NULL) return -ENOMEM;
    if (list->count > 0) {
        memcpy(items, list->items, list->count * sizeof(*items));
    }
    o->lists[o->n_lists++] = items;
    list->items = items;
    return 0;
}

static int add_item(options *o, option_list *list, const char *text,
                    size_t len) {
    const char *item = keep_text(o, text, len);
    if (item == NULL || grow_list(o, list) < 0) return -ENOMEM;
    list->items[list->count++] = item;
    return 0;
}

/* Comma-separated items, blanks around them dropped.  Empty text: no items. */
static int add_items(options *o, option_list *list, const char *text) {
    while (*text != '\0') {
        size_t len = strcspn(text, ","), from = strspn(text, " \t");
        size_t to = len;
        while (to > from && (text[to - 1] == ' ' || text[to - 1] == '\t'))
            to--;
        if (from >= to) return ERR_USAGE;
        int rc = add_item(o, list, text + from, to - from);
        if (rc < 0) return rc;
        text += len;
        if (*text == ',' && *++text == '\0') return ERR_USAGE;
    }
    return 0;
}

/* ---- conversions: false if `text` is none ---- */

static bool to_flag(const char *text, bool *out) {
    static const char *const words[2][3] = {{"false", "no", "0"},
                                            {"true", "yes", "1"}};
    for (int value = 0; value < 2; value++) {
        for (size_t i = 0; i < ARRAY_LEN(words[value]); i++) {
            if (strcasecmp(text, words[value][i]) != 0) continue;
            *out = value == 1;
            return true;
        }
    }
    return false;
}

/* Leading digits; *end is what follows them. */
static bool to_u64(const char *text, uint64_t *out, const char **end) {
    if (*text < '0' || *text > '9') return false;
    uint64_t value = 0;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value)) {
            return false;
        }
    }
    *out = value;
    *end = text;
    return true;
}

/* A number with one of the suffixes; the first of them is the empty one. */
typedef struct {
    const char *text;
    uint64_t factor;
} suffix;

static bool to_scaled(const char *text, const suffix *suffixes, size_t n,
                      uint64_t most, uint64_t *out) {
    const char *end;
    uint64_t value;
    if (!to_u64(text, &value, &end)) return false;
    for (size_t i = 0; i < n; i++) {
        if (strcasecmp(end, suffixes[i].text) != 0) continue;
        return !__builtin_mul_overflow(value, suffixes[i].factor, out) &&
               *out <= most;
    }
    return false;
}

static const suffix no_suffix[] = {{"", 1}};
static const suffix size_suffixes[] = {{"", 1},
                                       {"K", (uint64_t)1 << 10},
                                       {"M", (uint64_t)1 << 20},
                                       {"G", (uint64_t)1 << 30},
                                       {"T", (uint64_t)1 << 40}};
static const suffix time_suffixes[] = {
    {"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60000}};

static bool to_u32(const char *text, const suffix *suffixes, size_t n,
                   uint32_t *out) {
    uint64_t value;
    if (!to_scaled(text, suffixes, n, UINT32_MAX, &value)) return false;
    *out = (uint32_t)value;
    return true;
}

static bool to_f32(const char *text, float *out) {
    const char *digits = *text == '-' ? text + 1 : text;
    if ((*digits < '0' || *digits > '9') && *digits != '.') return false;
    if (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X')) {
        return false;
    }
    char *end;
    float value = strtof(text, &end);
    if (end == text || *end != '\0' || !isfinite(value)) return false;
    *out = value;
    return true;
}

/* ---- assignment ---- */

static const char *wanted(option_kind kind) {
    switch (kind) {
    case OPTION_FLAG:
        return "true or false";
    case OPTION_LIST:
        return "a comma-separated list without empty items";
    case OPTION_U32:
        return "a whole number from 0 to 4294967295";
    case OPTION_U64:
        return "a whole number from 0 to 18446744073709551615";
    case OPTION_SIZE:
        return "a number of bytes, such as 4096, 64K, 512M or 2G";
    case OPTION_MS:
        return "a time, such as 250ms, 10s or 5m";
    case OPTION_F32:
        return "a number";
    default:
        return "a text";
    }
}

static int assign_list(options *o, const option *opt, option_source source,
                       const char *text) {
    option_list *list = opt->target;
    if (o->sources[opt - o->set->table] != source) *list = (option_list){0};
    /* On the command line an option is repeated, and a comma is the value's. */
    if (source == SOURCE_COMMAND_LINE) {
        return add_item(o, list, text, strlen(text));
    }
    return add_items(o, list, text);
}

static int assign_string(options *o, const option *opt, const char *text) {
    const char *copy = keep_text(o, text, strlen(text));
    if (copy == NULL) return -ENOMEM;
    *(const char **)opt->target = copy;
    return 0;
}

static int convert(options *o, const option *opt, option_source source,
                   const char *text) {
    bool good = false;
    switch (opt->kind) {
    case OPTION_STRING:
        return assign_string(o, opt, text);
    case OPTION_LIST:
        return assign_list(o, opt, source, text);
    case OPTION_FLAG:
        good = to_flag(text, opt->target);
        break;
    case OPTION_U32:
        good = to_u32(text, no_suffix, ARRAY_LEN(no_suffix), opt->target);
        break;
    case OPTION_U64:
        good = to_scaled(text, no_suffix, ARRAY_LEN(no_suffix), UINT64_MAX,
                         opt->target);
        break;
    case OPTION_SIZE:
        good = to_scaled(text, size_suffixes, ARRAY_LEN(size_suffixes),
                         UINT64_MAX, opt->target);
        break;
    case OPTION_MS:
        good =
            to_u32(text, time_suffixes, ARRAY_LEN(time_suffixes), opt->target);
        break;
    case OPTION_F32:
        good = to_f32(text, opt->target);
        break;
    }
    return good ? 0 : ERR_USAGE;
}

int option_assign(options *o, const option *opt, option_source source,
                  const char *text, const char *where, char *why,
                  size_t why_size) {
    int rc = convert(o, opt, source, text);
    if (rc == ERR_USAGE) {
        return err_why(why, why_size, rc, "%s: '%s' is not %s", where, text,
                       wanted(opt->kind));
    }
    if (rc < 0) return err_why(why, why_size, rc, "%s: no memory", where);
    o->sources[opt - o->set->table] = source;
    return 0;
}
