/* kept_rows.h - rows of activations that will be computed again, by number.
 *
 * Equal rows of layers that are cut alike have one number, and no others do:
 * they are compared byte by byte, so what was computed for a number is exactly
 * what its row needs.  So many rows are kept; one more takes the place of the
 * oldest, whose number means nothing from then on.  One thread uses it. */
#ifndef COORDINATOR_KEPT_ROWS_H
#define COORDINATOR_KEPT_ROWS_H

#include <stddef.h>
#include <stdint.h>

typedef struct kept_rows kept_rows;

/* For rows of up to `row_bytes` each.  Memory for them is taken with the first
 * one: most coordinators never need it. */
int kept_rows_new(kept_rows **out, uint32_t capacity, size_t row_bytes);
void kept_rows_free(kept_rows *k); /* NULL is fine */

/* The number of a row of a layer whose experts are in so many slices; 0: it is
 * not there. */
uint64_t kept_rows_find(const kept_rows *k, const void *row, size_t bytes,
                        uint32_t slices);
/* The same; one that is not there is copied.  0: no memory. */
uint64_t kept_rows_add(kept_rows *k, const void *row, size_t bytes,
                       uint32_t slices);

#endif
