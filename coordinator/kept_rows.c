/* kept_rows.c - see kept_rows.h.
 *
 * A ring: row number n is in place (n - 1) % capacity.  A hash keeps a search
 * from comparing more than the row that is meant; it decides nothing. */
#include "coordinator/kept_rows.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/util.h"

typedef struct {
    uint64_t hash;
    size_t bytes;
    uint32_t slices;
} kept_row;

struct kept_rows {
    uint32_t capacity;
    size_t row_bytes;
    uint64_t last;  /* number given; 0: none yet */
    kept_row *rows; /* [capacity] */
    uint8_t *data;  /* [capacity][row_bytes]; NULL: not needed yet */
};

int kept_rows_new(kept_rows **out, uint32_t capacity, size_t row_bytes) {
    size_t all;
    *out = NULL;
    if (capacity == 0 || !size_mul(capacity, row_bytes, &all)) return ERR_RANGE;
    kept_rows *k = calloc(1, sizeof(*k));
    if (k == NULL) return -ENOMEM;
    k->capacity = capacity;
    k->row_bytes = row_bytes;
    k->rows = calloc(capacity, sizeof(*k->rows));
    if (k->rows == NULL) {
        kept_rows_free(k);
        return -ENOMEM;
    }
    *out = k;
    return 0;
}

void kept_rows_free(kept_rows *k) {
    if (k == NULL) return;
    free(k->rows);
    free(k->data);
    free(k);
}

static uint64_t find(const kept_rows *k, const kept_row *r, const void *row) {
    uint64_t n = k->last < k->capacity ? k->last : k->capacity;
    for (uint64_t number = k->last; n > 0; number--, n--) {
        uint32_t place = (uint32_t)((number - 1) % k->capacity);
        const kept_row *its = &k->rows[place];
        if (its->hash == r->hash && its->bytes == r->bytes &&
            its->slices == r->slices &&
            memcmp(k->data + place * k->row_bytes, row, r->bytes) == 0) {
            return number;
        }
    }
    return 0;
}

static kept_row describe(const void *row, size_t bytes, uint32_t slices) {
    return (kept_row){XXH3_64bits(row, bytes), bytes, slices};
}

uint64_t kept_rows_find(const kept_rows *k, const void *row, size_t bytes,
                        uint32_t slices) {
    assert(bytes <= k->row_bytes);
    const kept_row r = describe(row, bytes, slices);
    return find(k, &r, row);
}

uint64_t kept_rows_add(kept_rows *k, const void *row, size_t bytes,
                       uint32_t slices) {
    assert(bytes <= k->row_bytes);
    const kept_row r = describe(row, bytes, slices);
    uint64_t number = find(k, &r, row);
    if (number != 0) return number;

    if (k->data == NULL) k->data = malloc(k->capacity * k->row_bytes);
    if (k->data == NULL) return 0;
    uint32_t place = (uint32_t)(k->last++ % k->capacity);
    k->rows[place] = r;
    memcpy(k->data + place * k->row_bytes, row, bytes);
    return k->last;
}
