/* samples.c - see samples.h. */
#include "client/samples.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

int samples_add(samples *s, double value) {
    if (s->count == s->capacity) {
        size_t capacity = s->capacity > 0 ? 2 * s->capacity : 8;
        double *grown = realloc(s->values, capacity * sizeof(*grown));
        if (grown == NULL) return -ENOMEM;
        s->values = grown;
        s->capacity = capacity;
    }
    s->values[s->count++] = value;
    return 0;
}

void samples_fini(samples *s) {
    free(s->values);
    *s = (samples){0};
}

double samples_mean(const samples *s) {
    double sum = 0;
    for (size_t i = 0; i < s->count; i++)
        sum += s->values[i];
    return s->count > 0 ? sum / (double)s->count : 0.0;
}

double samples_deviation(const samples *s) {
    double mean = samples_mean(s), squares = 0;

    if (s->count < 2) return 0.0;
    for (size_t i = 0; i < s->count; i++)
        squares += (s->values[i] - mean) * (s->values[i] - mean);
    return sqrt(squares / (double)(s->count - 1));
}
