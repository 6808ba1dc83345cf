/* output.h - a result file that is complete or absent.
 *
 * It is written beside its place under a temporary name and renamed at the end.
 * What is no regular file (a pipe, /dev/null) is written directly. */
#ifndef CLIENT_OUTPUT_H
#define CLIENT_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef struct {
    FILE *file;
    char *path; /* final */
    char *temp; /* NULL: written directly */
} output;

/* On failure nothing is left behind and `why` names the file. */
int output_open(output *o, const char *path, char *why, size_t why_size);

/* Write out, check, put in place.  The output is closed either way. */
int output_commit(output *o, char *why, size_t why_size);

/* Remove what was written.  Fine on a zeroed or committed output. */
void output_discard(output *o);

#endif
