/* samples.h - the figures of repeated measurements, and what they say
 * together. */
#ifndef CLIENT_SAMPLES_H
#define CLIENT_SAMPLES_H

#include <stddef.h>

/* Zeroed is empty. */
typedef struct {
    double *values; /* owned, in the order they came */
    size_t count, capacity;
} samples;

int samples_add(samples *s, double value); /* -ENOMEM */
void samples_fini(samples *s);

/* Of no values: 0. */
double samples_mean(const samples *s);
/* Of the population that the values were drawn from (by n - 1); of fewer than
 * two values: 0. */
double samples_deviation(const samples *s);

#endif
