/* weight_pages.h - memory for packed weights: huge pages where the system gives
 * them, and none wasted.
 *
 * Reading all weights of a token from small pages costs a look into the page
 * tables every 4 KiB.  Huge pages need large aligned mappings, and one expert's
 * matrix is often smaller than a single one; so matrices lie side by side in
 * chunks.  What is freed goes back to the system at once.
 *
 * One store for the process; any thread. */
#ifndef ENGINE_WEIGHT_PAGES_H
#define ENGINE_WEIGHT_PAGES_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed, aligned to 64 bytes or more; NULL if there is no memory. */
void *weight_pages_new(size_t bytes);

/* With the size that it was made with.  NULL is fine. */
void weight_pages_free(void *p, size_t bytes);

/* Bytes handed out, rounded up to whole pages; for tests. */
uint64_t weight_pages_in_use(void);

#endif
