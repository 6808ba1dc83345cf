/* cmd_bench.c - `roster bench`: how fast a model is served, measured through
 * the client protocol, as llama-bench measures llama.cpp.
 *
 * Between repetitions the machine's read bandwidth is measured: on a shared
 * machine a figure without it says little. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "client/bench_run.h"
#include "client/bench_table.h"
#include "client/cli.h"
#include "client/commands.h"
#include "client/inspect.h"
#include "client/read_probe.h"
#include "client/session.h"
#include "engine/census.h"
#include "engine/err.h"
#include "engine/pool.h"
#include "engine/util.h"
#include "engine/weight.h"

#define NAME "roster bench"
#define OWN_OPTIONS 11
#define MOST_TOKENS (1u << 20)
#define MOST_REPETITIONS 10000
#define TIMEOUT_MS 600000 /* for the first token of a long prompt */

/* Numbers that an option gives: "1,2,3", and again. */
typedef struct {
    const char *name;
    option_list given;
    uint32_t fallback; /* if it is not given */
    uint32_t least, most;
    uint32_t *items; /* owned, [count] */
    size_t count;
} number_list;

typedef struct {
    const char *model;
    session_config session; /* without its model, if there is an endpoint */
    number_list prompts, gens, threads, streams;
    uint32_t repetitions;
    bool no_warmup, breakdown;
    const char *output;
    bench_format format;
} bench_config;

/* ---- options ---- */

static void config_init(bench_config *c) {
    *c = (bench_config){
        .prompts = {.name = "n-prompt", .fallback = 512, .most = MOST_TOKENS},
        .gens = {.name = "n-gen", .fallback = 128, .most = MOST_TOKENS},
        .threads = {.name = "threads", .most = POOL_MAX_THREADS},
        .streams = {.name = "streams",
                    .fallback = 1,
                    .least = 1,
                    .most = BENCH_MAX_STREAMS},
        .repetitions = 5,
        .output = "md",
    };
    session_config_init(&c->session);
    c->session.timeout_ms = TIMEOUT_MS;
}

static void config_fini(bench_config *c) {
    free(c->prompts.items);
    free(c->gens.items);
    free(c->threads.items);
    free(c->streams.items);
}

static int add_number(number_list *l, uint32_t value) {
    uint32_t *grown = realloc(l->items, (l->count + 1) * sizeof(*grown));
    if (grown == NULL) return -ENOMEM;
    l->items = grown;
    l->items[l->count++] = value;
    return 0;
}

/* "512" or "128,256,512" */
static int add_numbers(number_list *l, const char *text, char *why,
                       size_t why_size) {
    const char *at = text;
    char *end;

    for (;;) {
        errno = 0;
        unsigned long value = strtoul(at, &end, 10);
        bool whole = *at >= '0' && *at <= '9' && errno == 0 &&
                     (*end == '\0' || *end == ',');
        if (!whole || value < l->least || value > l->most) {
            return err_why(why, why_size, ERR_USAGE,
                           "--%s: '%s' is not a list of numbers from %u to %u",
                           l->name, text, l->least, l->most);
        }
        int rc = add_number(l, (uint32_t)value);
        if (rc < 0) return err_why(why, why_size, rc, "no memory");
        if (*end == '\0') return 0;
        at = end + 1;
    }
}

static int read_list(number_list *l, char *why, size_t why_size) {
    for (size_t i = 0; i < l->given.count; i++) {
        int rc = add_numbers(l, l->given.items[i], why, why_size);
        if (rc < 0) return rc;
    }
    if (l->count > 0 || add_number(l, l->fallback) == 0) return 0;
    return err_why(why, why_size, -ENOMEM, "no memory");
}

static int check(bench_config *c, char *why, size_t why_size) {
    if (bench_format_find(c->output, &c->format) < 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--output: '%s' is not md, json or csv", c->output);
    }
    if (c->repetitions == 0 || c->repetitions > MOST_REPETITIONS) {
        return err_why(why, why_size, ERR_USAGE,
                       "--repetitions: expected 1 to %d", MOST_REPETITIONS);
    }
    int rc = read_list(&c->prompts, why, why_size);
    if (rc == 0) rc = read_list(&c->gens, why, why_size);
    if (rc == 0) rc = read_list(&c->threads, why, why_size);
    if (rc == 0) rc = read_list(&c->streams, why, why_size);
    if (rc < 0) return rc;
    return local_rack_check(&c->session.rack, why, why_size);
}

/* The rack's options but --threads, which is a list here. */
static size_t add_rack_options(bench_config *c, option *table) {
    option rows[LOCAL_RACK_OPTIONS];
    size_t n = 0, all = local_rack_options(&c->session.rack, rows);

    for (size_t i = 0; i < all; i++) {
        if (strcmp(rows[i].name, "threads") != 0) table[n++] = rows[i];
    }
    return n;
}

static int parse(bench_config *c, options **o, int argc, char **argv) {
    option table[OWN_OPTIONS + LOCAL_RACK_OPTIONS] = {
        {"n-prompt", 'p', OPTION_LIST, &c->prompts.given, "P[,...]",
         "Tokens of a prompt; 0: no prompt test. (512)"},
        {"n-gen", 'n', OPTION_LIST, &c->gens.given, "N[,...]",
         "Tokens to decode; 0: no decode test. (128)"},
        {"threads", 't', OPTION_LIST, &c->threads.given, "T[,...]",
         "Compute threads of each process; 0: one per CPU, which they share. "
         "(0)"},
        {"streams", 'b', OPTION_LIST, &c->streams.given, "B[,...]",
         "Requests at once, each with a prompt of its own; tokens/s are of all "
         "together. (1)"},
        {"repetitions", 'r', OPTION_U32, &c->repetitions, "R",
         "How often each test is repeated."},
        {"no-warmup", 0, OPTION_FLAG, &c->no_warmup, NULL,
         "Leave out the run before the repetitions, which does not count."},
        {"output", 'o', OPTION_STRING, &c->output, "md|json|csv",
         "Form of the results."},
        {"breakdown", 0, OPTION_FLAG, &c->breakdown, NULL,
         "Say, too, where a step's time goes: attention, router, experts, "
         "messages and waiting for nodes, and the rest."},
        {"timeout", 0, OPTION_MS, &c->session.timeout_ms, "TIME",
         "Longest wait for the next token."},
        {"endpoint", 0, OPTION_STRING, &c->session.endpoint, "tcp://HOST:PORT",
         "Measure a rack that runs already and serves MODEL, instead of one of "
         "its own; --threads and --nodes then only say what it has."},
        {"insecure", 0, OPTION_FLAG, &c->session.insecure, NULL,
         "Allow an endpoint beyond loopback; nothing is encrypted yet."},
    };
    const option_set set = {
        .program = NAME,
        .usage = "MODEL [options]",
        .about =
            "Measures how fast a rack serves the GGUF file MODEL. It starts "
            "one for that, of a coordinator alone unless --nodes asks for "
            "more, and measures from the client's side. A test ppP takes from "
            "sending prompts of P random tokens to the arrival of the one "
            "token that each asks for; tgN counts N decoding steps of every "
            "stream from the moment when all have their first token. Each "
            "value of a list is tested with each of the others. GB/s are the "
            "weights that decoding reads, share is that of what this machine's "
            "memory gave to as many threads between the repetitions.",
        .table = table,
        .count = OWN_OPTIONS + add_rack_options(c, table + OWN_OPTIONS),
    };
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(o, &set, argc, argv, 1, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    c->model = args[0];
    if (c->session.endpoint == NULL) c->session.rack.model = c->model;
    int rc = check(c, why, sizeof(why));
    if (rc == ERR_USAGE) return cli_usage(NAME, "%s", why);
    return rc < 0 ? cli_fail(NAME, "%s", why) : CLI_RUN;
}

/* ---- what is measured ---- */

/* The format that most bytes of the file are in. */
static const char *main_format(const gguf *g) {
    uint64_t most = 0;
    uint32_t type = 0;

    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        uint64_t bytes = 0;
        uint32_t candidate = gguf_tensor_at(g, i)->type;
        for (size_t j = 0; j < gguf_n_tensors(g); j++) {
            const gguf_tensor *t = gguf_tensor_at(g, j);
            if (t->type == candidate) bytes += t->bytes;
        }
        if (bytes <= most) continue;
        most = bytes;
        type = candidate;
    }
    return weight_type_name(type);
}

static void read_cpu(char *out, size_t size) {
    static const char key[] = "model name";
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");

    snprintf(out, size, "unknown");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        char *value = strchr(line, ':');
        if (strncmp(line, key, sizeof(key) - 1) != 0 || value == NULL) continue;
        value += strspn(value, ": ");
        snprintf(out, size, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    if (f != NULL) fclose(f);
}

static int read_model(bench_model *m, const char *path, char *why,
                      size_t why_size) {
    gguf *g;
    census c;
    char params[32], what[CLI_WHY] = "";

    int rc = gguf_open(&g, path, why, why_size);
    if (rc < 0) return rc;
    rc = census_take(&c, g, what, sizeof(what));
    if (rc < 0) {
        err_why(why, why_size, rc, "%s: %s", path,
                what[0] != '\0' ? what : err_text(rc));
    } else {
        inspect_format_params(c.total.params, params, sizeof(params));
        *m = (bench_model){
            .path = path, .bytes = c.total.bytes, .params = c.total.params};
        snprintf(m->type, sizeof(m->type), "%s %s %s", c.arch, params,
                 main_format(g));
        read_cpu(m->cpu, sizeof(m->cpu));
    }
    gguf_close(g);
    return rc;
}

/* ---- measuring ---- */

typedef struct {
    const bench_config *config;
    bench_model model;
    bench_table table;
    session session;
    read_probe *probe;
    uint32_t threads;
    bool terminal; /* for progress */
    char *why;
    size_t why_size;
} bench;

static void show(const bench *b, const bench_test *t, uint32_t repetition) {
    if (!b->terminal) return;
    fprintf(stderr, "\r%s%u, %u stream%s: %u of %u   ",
            t->n_gen > 0 ? "tg" : "pp", t->n_gen > 0 ? t->n_gen : t->n_prompt,
            t->streams, t->streams == 1 ? "" : "s", repetition,
            b->config->repetitions);
    if (repetition == b->config->repetitions) fputs("\r\033[K", stderr);
}

/* So that pages, caches and pools are as they will be. */
static int warm_up(bench *b, const bench_test *t) {
    bench_test once = *t;
    bench_sample sample;

    if (b->config->no_warmup) return 0;
    if (once.n_gen > 0) once.n_gen = 1;
    return bench_run(&b->session, &once, 0, &sample, b->why, b->why_size);
}

static int add_sample(bench_row *row, double read, const bench_sample *s) {
    static const bench_work nothing;
    double us = (double)(s->us > 0 ? s->us : 1);

    bench_work_add(&row->work, &nothing, &s->work);
    int rc = samples_add(&row->read, read);
    if (rc == 0) rc = samples_add(&row->ns, us * 1e3);
    if (rc == 0)
        rc = samples_add(&row->ts, (double)bench_tokens(&row->test) * 1e6 / us);
    return rc;
}

static int repeat(bench *b, bench_row *row) {
    for (uint32_t i = 0; i < b->config->repetitions; i++) {
        bench_sample sample;
        double read = read_probe_look(b->probe);
        int rc = bench_run(&b->session, &row->test, i + 1, &sample, b->why,
                           b->why_size);
        if (rc < 0) return rc;
        rc = add_sample(row, read, &sample);
        if (rc < 0) return err_why(b->why, b->why_size, rc, "no memory");
        show(b, &row->test, i + 1);
    }
    return 0;
}

static void fill_row(const bench *b, const bench_test *t, bench_row *row) {
    const local_rack_config *rack = &b->config->session.rack;
    time_t now = time(NULL);
    struct tm utc;

    *row = (bench_row){
        .test = *t,
        .threads = b->threads,
        .nodes = rack->nodes,
        .replicas = rack->nodes > 0 ? rack->replicas : 1,
        .kv = rack->kv != NULL ? rack->kv : "f16",
    };
    gmtime_r(&now, &utc);
    strftime(row->time, sizeof(row->time), "%Y-%m-%dT%H:%M:%SZ", &utc);
}

static void cannot_write(const bench *b, int rc) {
    err_why(b->why, b->why_size, rc, "cannot write to stdout: %s",
            err_text(rc));
}

static int run_test(bench *b, const bench_test *t) {
    bench_row row;

    fill_row(b, t, &row);
    int rc = warm_up(b, t);
    if (rc == 0) rc = repeat(b, &row);
    if (rc == 0) {
        rc = bench_table_row(&b->table, &row);
        if (rc < 0) cannot_write(b, rc);
    }
    bench_row_fini(&row);
    return rc;
}

/* All tests with one number of streams: prompts first. */
static int run_tests(bench *b, uint32_t streams) {
    const bench_config *c = b->config;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < c->prompts.count; i++) {
        const bench_test t = {.n_prompt = c->prompts.items[i],
                              .streams = streams};
        if (t.n_prompt > 0) rc = run_test(b, &t);
    }
    for (size_t i = 0; rc == 0 && i < c->gens.count; i++) {
        const bench_test t = {.n_gen = c->gens.items[i], .streams = streams};
        if (t.n_gen > 0) rc = run_test(b, &t);
    }
    return rc;
}

/* As many threads as the rack can have at work at once. */
static uint32_t probe_threads(const bench *b) {
    uint32_t processes = b->config->session.rack.nodes + 1;
    size_t all = (size_t)b->threads * processes;
    return (uint32_t)size_min(all, size_max(pool_cpus(), b->threads));
}

/* All tests with one number of threads, on a rack of their own. */
static int run_threads(bench *b, uint32_t threads) {
    session_config sc = b->config->session;

    sc.rack.threads = threads;
    b->threads = local_rack_threads(&sc.rack);
    int rc = read_probe_new(&b->probe, probe_threads(b));
    if (rc < 0) {
        return err_why(b->why, b->why_size, rc, "cannot measure the memory: %s",
                       err_text(rc));
    }
    rc = session_open(&b->session, &sc, b->why, b->why_size);
    for (size_t i = 0; rc == 0 && i < b->config->streams.count; i++)
        rc = run_tests(b, b->config->streams.items[i]);
    session_close(&b->session);
    read_probe_free(b->probe);
    b->probe = NULL;
    return rc;
}

static int run(const bench_config *c, char *why, size_t why_size) {
    bench b = {.config = c,
               .terminal = isatty(STDERR_FILENO) != 0,
               .why = why,
               .why_size = why_size};

    int rc = read_model(&b.model, c->model, why, why_size);
    b.table = (bench_table){
        .format = c->format, .breakdown = c->breakdown, .model = &b.model};
    for (size_t i = 0; rc == 0 && i < c->threads.count; i++)
        rc = run_threads(&b, c->threads.items[i]);
    if (rc == 0) {
        rc = bench_table_end(&b.table);
        if (rc < 0) cannot_write(&b, rc);
    }
    bench_table_fini(&b.table);
    return rc;
}

int cmd_bench(int argc, char **argv) {
    char why[CLI_WHY] = "";
    options *o = NULL;
    bench_config c;
    config_init(&c);

    int status = parse(&c, &o, argc, argv);
    if (status == CLI_RUN) {
        int rc = run(&c, why, sizeof(why));
        status = rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
    }
    config_fini(&c);
    options_free(o);
    return status;
}
