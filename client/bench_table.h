/* bench_table.h - what `roster bench` has measured, as a Markdown table, as
 * CSV or as JSON.  Names and units of the fields are those of llama-bench where
 * it has them, so that scripts can read both. */
#ifndef CLIENT_BENCH_TABLE_H
#define CLIENT_BENCH_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "client/bench_run.h"
#include "client/samples.h"

/* What a file says of its model; the same for all rows. */
typedef struct {
    const char *path;
    char type[160]; /* "olmoe 6.92B q4_k": architecture, size, main format */
    char cpu[128];
    uint64_t bytes, params;
} bench_model;

/* One test, all its repetitions. */
typedef struct {
    bench_test test;
    uint32_t threads; /* of each process */
    uint32_t nodes, replicas;
    const char *kv;
    char time[32];   /* when it began, in UTC */
    samples ns;      /* of each repetition */
    samples ts;      /* tokens a second, of all streams together */
    samples read;    /* what could be read before it, GB/s */
    bench_work work; /* of the coordinator, all repetitions together */
} bench_row;

void bench_row_fini(bench_row *r);

typedef enum { BENCH_MARKDOWN, BENCH_JSON, BENCH_CSV } bench_format;

/* ERR_USAGE for a name that is none. */
int bench_format_find(const char *name, bench_format *out);

typedef struct {
    bench_format format;
    bool breakdown;           /* where a step's time goes, too */
    const bench_model *model; /* borrowed */
    size_t n_rows;            /* printed so far */
    bench_row *kept;          /* owned, [n_rows]: for what Markdown ends with */
} bench_table;

/* Print one row on stdout now, with what comes before the first one, and take
 * what it owns; then the end.  -errno, or -ENOMEM. */
int bench_table_row(bench_table *t, bench_row *row);
int bench_table_end(bench_table *t);
void bench_table_fini(bench_table *t);

#endif
