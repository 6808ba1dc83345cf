/* layer_map.c - see layer_map.h.
 *
 * Packed:
 *   version (1 byte) | slices | n_units | n_units x (n, n x holder) | XXH3-64
 * Every number between is a varint, so a unit with two holders on a rack of up
 * to 127 nodes takes 3 bytes, and DeepSeek-V3's 14,848 experts less than
 * 50 KiB.  A reader counts before it allocates: a holder and a unit take a byte
 * each at least, so no input asks for more than a few times its own size. */
#include "discovery/layer_map.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "discovery/holdings.h"
#include "engine/err.h"

#define LAYER_MAP_VERSION 1
#define SUM_BYTES 8
#define VARINT_MOST 5 /* bytes of 32 bits */

static bool slices_known(uint32_t slices) {
    return slices >= 1 && slices <= LAYER_MAP_MAX_SLICES &&
           (slices & (slices - 1)) == 0;
}

static bool sizes_fit(uint32_t slices, uint32_t n_units, uint64_t n_holders) {
    return slices_known(slices) && n_units % slices == 0 &&
           n_units / slices <= HOLDINGS_MAX_EXPERTS &&
           n_holders <= (uint64_t)n_units * LAYER_MAP_MAX_HOLDERS;
}

int layer_map_init(layer_map *m, uint32_t slices, uint32_t n_units,
                   uint32_t n_holders) {
    memset(m, 0, sizeof(*m));
    if (!sizes_fit(slices, n_units, n_holders)) return ERR_RANGE;

    m->first = calloc((size_t)n_units + 1, sizeof(*m->first));
    m->holders = calloc((size_t)n_holders + 1, sizeof(*m->holders));
    if (m->first == NULL || m->holders == NULL) {
        layer_map_fini(m);
        return -ENOMEM;
    }
    m->slices = slices;
    m->n_units = n_units;
    return 0;
}

void layer_map_fini(layer_map *m) {
    if (m == NULL) return;
    free(m->first);
    free(m->holders);
    memset(m, 0, sizeof(*m));
}

int layer_map_copy(layer_map *to, const layer_map *from) {
    uint32_t n_holders = from->first[from->n_units];
    int rc = layer_map_init(to, from->slices, from->n_units, n_holders);
    if (rc < 0) return rc;
    memcpy(to->first, from->first,
           ((size_t)from->n_units + 1) * sizeof(*to->first));
    memcpy(to->holders, from->holders, n_holders * sizeof(*to->holders));
    return 0;
}

int layer_map_equal(const layer_map *a, const layer_map *b) {
    return a->slices == b->slices && a->n_units == b->n_units &&
           memcmp(a->first, b->first,
                  ((size_t)a->n_units + 1) * sizeof(*a->first)) == 0 &&
           memcmp(a->holders, b->holders,
                  a->first[a->n_units] * sizeof(*a->holders)) == 0;
}

/* ---- packing ---- */

static uint8_t *put_varint(uint8_t *at, uint32_t number) {
    while (number >= 0x80) {
        *at++ = (uint8_t)(number | 0x80);
        number >>= 7;
    }
    *at++ = (uint8_t)number;
    return at;
}

static void put_sum(uint8_t *at, uint64_t sum) {
    for (int i = 0; i < SUM_BYTES; i++)
        at[i] = (uint8_t)(sum >> 8 * i);
}

static uint64_t get_sum(const uint8_t *at) {
    uint64_t sum = 0;
    for (int i = 0; i < SUM_BYTES; i++)
        sum |= (uint64_t)at[i] << 8 * i;
    return sum;
}

int layer_map_pack(const layer_map *m, uint8_t **out, size_t *bytes) {
    /* A holder is 16 bits (3 bytes), a count at most 64 (1). */
    size_t room = 1 + 2 * VARINT_MOST + (size_t)m->n_units +
                  (size_t)m->first[m->n_units] * 3 + SUM_BYTES;
    uint8_t *made = malloc(room), *at = made;
    *out = NULL;
    *bytes = 0;
    if (made == NULL) return -ENOMEM;

    *at++ = LAYER_MAP_VERSION;
    at = put_varint(at, m->slices);
    at = put_varint(at, m->n_units);
    for (uint32_t unit = 0; unit < m->n_units; unit++) {
        uint32_t n;
        const uint16_t *holders = layer_map_holders(m, unit, &n);
        at = put_varint(at, n);
        for (uint32_t i = 0; i < n; i++)
            at = put_varint(at, holders[i]);
    }
    put_sum(at, XXH3_64bits(made, (size_t)(at - made)));
    *bytes = (size_t)(at - made) + SUM_BYTES;
    *out = made;
    return 0;
}

/* ---- unpacking ---- */

typedef struct {
    const uint8_t *at, *end;
} reader;

/* false: it ends within the number, or that does not fit 32 bits. */
static bool get_varint(reader *r, uint32_t *out) {
    uint32_t number = 0;
    for (int i = 0; i < VARINT_MOST && r->at < r->end; i++) {
        uint8_t byte = *r->at++;
        if (i == VARINT_MOST - 1 && byte > 0x0f) return false;
        number |= (uint32_t)(byte & 0x7f) << 7 * i;
        if (byte < 0x80) {
            *out = number;
            return true;
        }
    }
    return false;
}

/* All holders of all units, if the units fill the reader exactly. */
static int count_holders(reader r, uint32_t n_units, uint32_t n_nodes,
                         uint32_t *n_holders, char *why, size_t why_size) {
    *n_holders = 0;
    for (uint32_t unit = 0; unit < n_units; unit++) {
        uint32_t n, holder;
        int64_t before = -1;
        if (!get_varint(&r, &n) || n > LAYER_MAP_MAX_HOLDERS) {
            return err_why(why, why_size, ERR_FORMAT,
                           "unit %u: the number of holders cannot be read",
                           unit);
        }
        for (uint32_t i = 0; i < n; i++) {
            if (!get_varint(&r, &holder) || holder <= before) {
                return err_why(why, why_size, ERR_FORMAT,
                               "unit %u: the holders are not ascending "
                               "numbers",
                               unit);
            }
            if (holder >= n_nodes) {
                return err_why(why, why_size, ERR_RANGE,
                               "unit %u: holder %u of %u nodes", unit, holder,
                               n_nodes);
            }
            before = holder;
        }
        *n_holders += n;
    }
    if (r.at == r.end) return 0;
    return err_why(why, why_size, ERR_FORMAT, "%zu bytes too many",
                   (size_t)(r.end - r.at));
}

/* What count_holders() has found sound. */
static void fill(layer_map *m, reader r) {
    uint32_t at = 0, n = 0, holder = 0;
    for (uint32_t unit = 0; unit < m->n_units; unit++) {
        m->first[unit] = at;
        get_varint(&r, &n);
        for (uint32_t i = 0; i < n; i++) {
            get_varint(&r, &holder);
            m->holders[at++] = (uint16_t)holder;
        }
    }
    m->first[m->n_units] = at;
}

int layer_map_unpack(layer_map *m, const void *data, size_t bytes,
                     uint32_t n_nodes, char *why, size_t why_size) {
    const uint8_t *begin = data;
    memset(m, 0, sizeof(*m));
    if (bytes < 1 + SUM_BYTES) {
        return err_why(why, why_size, ERR_FORMAT,
                       "%zu bytes are not a layer's placement", bytes);
    }
    if (begin[0] > LAYER_MAP_VERSION) {
        return err_why(why, why_size, ERR_UNSUPPORTED,
                       "version %d of a layer's placement", begin[0]);
    }
    size_t body = bytes - SUM_BYTES;
    if (get_sum(begin + body) != XXH3_64bits(begin, body)) {
        return err_why(why, why_size, ERR_CHECKSUM,
                       "the checksum does not match");
    }
    reader r = {begin + 1, begin + body};
    uint32_t slices, n_units, n_holders;
    if (begin[0] == 0 || !get_varint(&r, &slices) ||
        !get_varint(&r, &n_units) || !sizes_fit(slices, n_units, 0) ||
        n_units > (size_t)(r.end - r.at)) {
        return err_why(why, why_size, ERR_FORMAT,
                       "slices and units cannot be read");
    }
    if (n_nodes > UINT16_MAX + 1) n_nodes = UINT16_MAX + 1;
    int rc = count_holders(r, n_units, n_nodes, &n_holders, why, why_size);
    if (rc < 0) return rc;

    rc = layer_map_init(m, slices, n_units, n_holders);
    if (rc < 0) {
        return err_why(why, why_size, rc, "%s", err_text(rc));
    }
    fill(m, r);
    return 0;
}
