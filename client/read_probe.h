/* read_probe.h - how fast this machine reads memory just now, with so many
 * threads: what decoding is measured against.
 *
 * Each look reads a buffer that is larger than the last cache (as far as that
 * is reasonable), once from front to back, a thread a piece at a time.  On a
 * shared machine the answer changes within minutes, so look often and between
 * what is compared.  One thread may use a probe. */
#ifndef CLIENT_READ_PROBE_H
#define CLIENT_READ_PROBE_H

#include <stdint.h>

typedef struct read_probe read_probe;

/* -ENOMEM; ERR_RANGE for more threads than a pool may have. */
int read_probe_new(read_probe **out, uint32_t n_threads);
void read_probe_free(read_probe *p); /* NULL is fine */

/* Bytes a second, in units of 10^9. */
double read_probe_look(read_probe *p);

#endif
