/* tokenizer_charsmap.c - the rules by which a unigram vocabulary rewrites a
 * text before it looks for tokens: forms of letters, kinds of white space,
 * control characters.
 *
 * They come compiled, as tokenizer.ggml.precompiled_charsmap: the length in
 * bytes of a double array (32 bits, little-endian), the array, and behind it
 * the right sides, each ended by a zero.  A unit of the array describes a node:
 *
 *   bits 0-7    the byte that leads to it; bit 31 is set in a value's unit
 *   bit 8       a left side ends here: the unit at its offset is a value
 *   bit 9       the offset is in units of 256
 *   bits 10-30  offset: its own place XOR this is where its children stand,
 *               each at that place XOR its byte
 *   bits 0-30   of a value: where its right side begins
 *
 * An array may say anything: every place is checked, and a walk ends after
 * RULE_MAX_BYTES, so that a circle costs no more than a rule. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

#define KEY "tokenizer.ggml.precompiled_charsmap"
/* Published maps have about 240,000 bytes; their longest right side has 33. */
#define MAP_MAX_BYTES ((uint64_t)1 << 26)
#define RULE_MAX_BYTES ((size_t)256)

#define UNIT_LEAF (1u << 8)
#define UNIT_VALUE (1u << 31)

static uint32_t unit_label(uint32_t unit) {
    return unit & (UNIT_VALUE | 0xFF);
}

static uint32_t unit_offset(uint32_t unit) {
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

static uint32_t little_endian(const uint8_t *b) {
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
           (uint32_t)b[3] << 24;
}

/* ---- loading ---- */

/* The key's bytes, be they written as signed or unsigned ones. */
static int read_bytes(const gguf *g, uint8_t **out, size_t *n_out, char *why,
                      size_t why_size) {
    gguf_type type;
    uint64_t n;
    int rc = gguf_get_array(g, KEY, &type, &n, why, why_size);
    if (rc < 0) return rc;
    if ((type != GGUF_U8 && type != GGUF_I8) || n < 4 || n > MAP_MAX_BYTES)
        return err_why(why, why_size, ERR_FORMAT,
                       KEY " is not an array of 4 to %llu bytes",
                       (unsigned long long)MAP_MAX_BYTES);

    int32_t *wide = malloc((size_t)n * sizeof(*wide));
    uint8_t *bytes = calloc((size_t)n, 1);
    rc = wide == NULL || bytes == NULL
             ? -ENOMEM
             : gguf_array_i32(g, KEY, wide, n, why, why_size);
    for (uint64_t i = 0; rc == 0 && i < n; i++)
        bytes[i] = (uint8_t)wide[i];
    free(wide);
    if (rc < 0) {
        free(bytes);
        return rc;
    }
    *out = bytes;
    *n_out = (size_t)n;
    return 0;
}

static int take_units(charsmap *m, const uint8_t *bytes, size_t n_bytes) {
    m->n_units = n_bytes / 4;
    m->units = calloc(m->n_units + 1, sizeof(*m->units));
    if (m->units == NULL) return -ENOMEM;
    for (size_t i = 0; i < m->n_units; i++)
        m->units[i] = little_endian(bytes + 4 * i);
    return 0;
}

static int take_texts(charsmap *m, const uint8_t *bytes, size_t n, char *why,
                      size_t why_size) {
    if (n > 0 && bytes[n - 1] != 0)
        return err_why(why, why_size, ERR_FORMAT,
                       KEY ": its last text has no end");
    m->texts = malloc(n + 1);
    if (m->texts == NULL) return -ENOMEM;
    memcpy(m->texts, bytes, n);
    m->n_texts = n;

    for (size_t at = 0; at < n;) {
        size_t len = strlen(m->texts + at);
        m->longest = size_max(m->longest, len);
        at += len + 1;
    }
    if (m->longest > RULE_MAX_BYTES)
        return err_why(why, why_size, ERR_FORMAT,
                       KEY ": a text has %zu bytes, %zu are allowed",
                       m->longest, RULE_MAX_BYTES);
    return 0;
}

int charsmap_load(charsmap *m, const gguf *g, char *why, size_t why_size) {
    uint8_t *bytes = NULL;
    size_t n = 0;

    if (!gguf_has(g, KEY)) return 0;
    int rc = read_bytes(g, &bytes, &n, why, why_size);
    if (rc < 0) return rc;

    uint32_t array_bytes = little_endian(bytes);
    if (array_bytes > n - 4 || array_bytes % 4 != 0)
        rc = err_why(why, why_size, ERR_FORMAT,
                     KEY " has %zu bytes, and an array of %u in it", n,
                     array_bytes);
    if (rc == 0) rc = take_units(m, bytes + 4, array_bytes);
    if (rc == 0)
        rc = take_texts(m, bytes + 4 + array_bytes, n - 4 - array_bytes, why,
                        why_size);
    free(bytes);
    return rc;
}

void charsmap_fini(charsmap *m) {
    free(m->units);
    free(m->texts);
    *m = (charsmap){0};
}

/* ---- matching ---- */

/* The right side that the value at `place` names; false if it names none. */
static bool right_side(const charsmap *m, uint32_t place, gguf_string *out) {
    if (place >= m->n_units) return false;
    uint32_t at = m->units[place] & ~UNIT_VALUE;
    if (at >= m->n_texts) return false;
    *out = (gguf_string){m->texts + at, strlen(m->texts + at)};
    return true;
}

size_t charsmap_match(const charsmap *m, const char *text, size_t len,
                      gguf_string *out) {
    size_t found = 0;
    if (m->n_units == 0) return 0;

    uint32_t place = unit_offset(m->units[0]);
    for (size_t i = 0; i < size_min(len, RULE_MAX_BYTES); i++) {
        uint8_t byte = (uint8_t)text[i];
        place ^= byte;
        if (byte == 0 || place >= m->n_units) break;
        uint32_t unit = m->units[place];
        if (unit_label(unit) != byte) break;
        place ^= unit_offset(unit);
        if ((unit & UNIT_LEAF) != 0 && right_side(m, place, out)) found = i + 1;
    }
    return found;
}
