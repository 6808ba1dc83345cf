/* bench_table.c - see bench_table.h.
 *
 * A row is made into a JSON object of plain values first; CSV is the same
 * object without names, Markdown a choice of it for people. */
#include "client/bench_table.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "engine/err.h"
#include "engine/util.h"

#define GIB (1024.0 * 1024.0 * 1024.0)

int bench_format_find(const char *name, bench_format *out) {
    static const char *const names[] = {
        [BENCH_MARKDOWN] = "md", [BENCH_JSON] = "json", [BENCH_CSV] = "csv"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (bench_format)i;
        return 0;
    }
    return ERR_USAGE;
}

/* ---- figures ---- */

/* Weight bytes read in a second of decoding, in units of 10^9; 0: not known,
 * or no decoding. */
static double gb_s(const bench_row *r) {
    if (r->test.n_gen == 0) return 0.0;
    double steps_per_s = samples_mean(&r->ts) / r->test.streams;
    return bench_step_bytes(&r->work) * steps_per_s / 1e9;
}

static double bandwidth_share(const bench_row *r) {
    double read = samples_mean(&r->read);
    return read > 0 ? gb_s(r) / read : 0.0;
}

/* By the client's clock. */
static double ms_per_token(const bench_row *r) {
    double speed = samples_mean(&r->ts);
    return speed > 0 ? 1e3 / speed : 0.0;
}

/* Of that, what no stage of the coordinator's steps explains. */
static double ms_outside(const bench_row *r) {
    return ms_per_token(r) -
           bench_ms_per_token(&r->work, bench_work_ns(&r->work));
}

/* A number, or null where it would say nothing. */
static json_t *figure(double value) {
    return value > 0 ? json_real(value) : json_null();
}

/* ---- JSON ---- */

/* "1.2.3" as 10203. */
static json_int_t build_number(void) {
    int major = 0, minor = 0, patch = 0;
    (void)sscanf(ROSTER_VERSION, "%d.%d.%d", &major, &minor, &patch);
    return major * 10000 + minor * 100 + patch;
}

/* llama-bench's fields, in its order.  A batch is a step of the coordinator,
 * which is not cut any further. */
static json_t *common_fields(const bench_model *m, const bench_row *r) {
    json_int_t n_batch = (json_int_t)r->work.batch_tokens;
    return json_pack(
        "{s:s, s:I, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:s,"
        " s:I, s:I, s:I, s:s, s:I, s:I, s:f, s:f}",
        "build_commit", ROSTER_VERSION, "build_number", build_number(),
        "cpu_info", m->cpu, "gpu_info", "", "backends", "CPU", "model_filename",
        m->path, "model_type", m->type, "model_size", (json_int_t)m->bytes,
        "model_n_params", (json_int_t)m->params, "n_batch", n_batch, "n_ubatch",
        n_batch, "n_threads", (json_int_t)r->threads, "type_k", r->kv, "type_v",
        r->kv, "n_prompt", (json_int_t)r->test.n_prompt, "n_gen",
        (json_int_t)r->test.n_gen, "n_depth", (json_int_t)0, "test_time",
        r->time, "avg_ns", (json_int_t)samples_mean(&r->ns), "stddev_ns",
        (json_int_t)samples_deviation(&r->ns), "avg_ts", samples_mean(&r->ts),
        "stddev_ts", samples_deviation(&r->ts));
}

static json_t *own_fields(const bench_row *r) {
    bool decodes = r->test.n_gen > 0;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "n_nodes",
        (json_int_t)r->nodes, "n_replicas", (json_int_t)r->replicas, "n_slices",
        (json_int_t)r->work.slices, "streams", (json_int_t)r->test.streams,
        "step_bytes", figure(decodes ? bench_step_bytes(&r->work) : 0.0),
        "step_experts", figure(decodes ? bench_step_experts(&r->work) : 0.0),
        "gb_s", figure(gb_s(r)), "read_gb_s", figure(samples_mean(&r->read)),
        "bandwidth_share", figure(bandwidth_share(r)));
}

/* Milliseconds of a token, by stage. */
static json_t *stage_fields(const bench_row *r) {
    json_t *stages = json_object();
    for (size_t i = 0; i < r->work.n_stages; i++) {
        const bench_stage *s = &r->work.stages[i];
        json_object_set_new(stages, s->name,
                            json_real(bench_ms_per_token(&r->work, s->ns)));
    }
    json_object_set_new(stages, "outside", json_real(ms_outside(r)));
    return json_pack("{s:f, s:o}", "ms_per_token", ms_per_token(r),
                     "breakdown_ms", stages);
}

/* NULL: no memory. */
static json_t *row_fields(const bench_table *t, const bench_row *r) {
    json_t *all = common_fields(t->model, r), *own = own_fields(r);
    json_t *stages = t->breakdown ? stage_fields(r) : json_object();
    if (json_object_update(all, own) < 0 ||
        json_object_update(all, stages) < 0) {
        json_decref(all);
        all = NULL;
    }
    json_decref(own);
    json_decref(stages);
    return all;
}

static json_t *list(const samples *s, bool whole) {
    json_t *array = json_array();
    for (size_t i = 0; i < s->count; i++) {
        double v = s->values[i];
        json_array_append_new(array, whole ? json_integer((json_int_t)v)
                                           : json_real(v));
    }
    return array;
}

static int print_json(const bench_table *t, const bench_row *r) {
    json_t *o = row_fields(t, r);
    if (o == NULL) return -ENOMEM;

    int rc = json_object_set_new(o, "samples_ns", list(&r->ns, true));
    rc |= json_object_set_new(o, "samples_ts", list(&r->ts, false));
    rc |= json_object_set_new(o, "samples_read_gb_s", list(&r->read, false));
    char *text =
        rc == 0 ? json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (text == NULL) return -ENOMEM;
    printf("%s%s", t->n_rows == 0 ? "[\n" : ",\n", text);
    free(text);
    return 0;
}

/* ---- CSV ---- */

static void print_quoted(const char *text) {
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    putchar('"');
}

static void print_value(const json_t *v) {
    char text[64] = "";

    if (json_is_string(v)) {
        print_quoted(json_string_value(v));
        return;
    }
    if (json_is_integer(v))
        snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT,
                 json_integer_value(v));
    if (json_is_real(v))
        snprintf(text, sizeof(text), "%.9g", json_real_value(v));
    print_quoted(text);
}

/* One line of names or of values; the stages are columns, too. */
static void print_columns(const json_t *o, bool names, const char *suffix,
                          const char *comma) {
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)o, name, value) {
        if (json_is_object(value)) {
            print_columns(value, names, "_ms", comma);
            continue;
        }
        fputs(comma, stdout);
        if (names)
            printf("%s%s", name, suffix);
        else
            print_value(value);
        comma = ",";
    }
}

static int print_csv(const bench_table *t, const bench_row *r) {
    json_t *o = row_fields(t, r);
    if (o == NULL) return -ENOMEM;

    for (int names = t->n_rows == 0; names >= 0; names--) {
        print_columns(o, names == 1, "", "");
        putchar('\n');
    }
    json_decref(o);
    return 0;
}

/* ---- Markdown ---- */

static void print_head(void) {
    printf("| %-30s | %10s | %10s | %-10s | %7s | %5s | %7s | %8s | %18s | "
           "%6s | %5s |\n",
           "model", "size", "params", "backend", "threads", "nodes", "streams",
           "test", "t/s", "GB/s", "share");
    printf("| %.30s | %.9s: | %.9s: | %.10s | %.6s: | %.4s: | %.6s: | %.7s: | "
           "%.17s: | %.5s: | %.4s: |\n",
           "------------------------------", "---------", "---------",
           "----------", "------", "----", "------", "-------",
           "-----------------", "-----", "----");
}

static void format_test(const bench_test *t, char *out, size_t size) {
    snprintf(out, size, "%s%u", t->n_gen > 0 ? "tg" : "pp",
             t->n_gen > 0 ? t->n_gen : t->n_prompt);
}

static void print_markdown(const bench_table *t, const bench_row *r) {
    const bench_model *m = t->model;
    char size[24], params[24], test[24], speed[48];
    char read[16] = "", share[16] = "";

    snprintf(size, sizeof(size), "%.2f GiB", (double)m->bytes / GIB);
    snprintf(params, sizeof(params), "%.2f B", (double)m->params / 1e9);
    format_test(&r->test, test, sizeof(test));
    snprintf(speed, sizeof(speed), "%.2f ± %.2f", samples_mean(&r->ts),
             samples_deviation(&r->ts));
    if (gb_s(r) > 0) {
        snprintf(read, sizeof(read), "%.2f", gb_s(r));
        snprintf(share, sizeof(share), "%.2f", bandwidth_share(r));
    }
    if (t->n_rows == 0) print_head();
    /* (± has two bytes and one column) */
    printf("| %-30s | %10s | %10s | %-10s | %7u | %5u | %7u | %8s | %19s | "
           "%6s | %5s |\n",
           m->type, size, params, "CPU", r->threads, r->nodes, r->test.streams,
           test, speed, read, share);
}

/* ---- Markdown: where a step's time goes ---- */

static void print_cell(double ms, double whole) {
    char text[32];
    double share = whole > 0 ? 100 * ms / whole : 0.0;
    snprintf(text, sizeof(text), "%.3f %3.0f%%", ms, share);
    printf(" %13s |", text);
}

static void print_stage_head(const bench_work *w) {
    printf("\nMilliseconds of a token, by stage:\n\n"
           "| %7s | %7s | %8s | %8s |",
           "threads", "streams", "test", "ms/token");
    for (size_t i = 0; i < w->n_stages; i++)
        printf(" %13s |", w->stages[i].name);
    printf(" %13s |\n| ------: | ------: | -------: | -------: |", "outside");
    for (size_t i = 0; i < w->n_stages + 1; i++)
        fputs(" ------------: |", stdout);
    putchar('\n');
}

static void print_stages(const bench_row *r) {
    const bench_work *w = &r->work;
    char test[24];
    double whole = ms_per_token(r);

    format_test(&r->test, test, sizeof(test));
    printf("| %7u | %7u | %8s | %8.3f |", r->threads, r->test.streams, test,
           whole);
    for (size_t i = 0; i < w->n_stages; i++)
        print_cell(bench_ms_per_token(w, w->stages[i].ns), whole);
    print_cell(ms_outside(r), whole);
    putchar('\n');
}

/* ---- the table ---- */

void bench_row_fini(bench_row *r) {
    samples_fini(&r->ns);
    samples_fini(&r->ts);
    samples_fini(&r->read);
}

static int keep(bench_table *t, bench_row *row) {
    bench_row *grown = realloc(t->kept, (t->n_rows + 1) * sizeof(*grown));
    if (grown == NULL) return -ENOMEM;
    t->kept = grown;
    t->kept[t->n_rows++] = *row;
    *row = (bench_row){.threads = 0};
    return 0;
}

static int flushed(void) {
    return fflush(stdout) == 0 ? 0 : -errno;
}

int bench_table_row(bench_table *t, bench_row *row) {
    int rc = 0;

    if (t->format == BENCH_JSON) rc = print_json(t, row);
    if (t->format == BENCH_CSV) rc = print_csv(t, row);
    if (t->format == BENCH_MARKDOWN) print_markdown(t, row);
    if (rc == 0) rc = keep(t, row);
    return rc < 0 ? rc : flushed();
}

int bench_table_end(bench_table *t) {
    bool stages = t->breakdown && t->format == BENCH_MARKDOWN && t->n_rows > 0;

    if (t->format == BENCH_JSON) printf("%s]\n", t->n_rows > 0 ? "\n" : "[");
    if (stages) print_stage_head(&t->kept[0].work);
    for (size_t i = 0; stages && i < t->n_rows; i++)
        print_stages(&t->kept[i]);
    return flushed();
}

void bench_table_fini(bench_table *t) {
    for (size_t i = 0; i < t->n_rows; i++)
        bench_row_fini(&t->kept[i]);
    free(t->kept);
    *t = (bench_table){.n_rows = 0};
}
