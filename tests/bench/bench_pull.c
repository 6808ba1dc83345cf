/* bench_pull.c - how fast a node gets its weights over loopback: bytes alone
 * (checked against the manifest), with a cache on disk, and loaded into a
 * store; beside them the disk's own speed and loading from the file.
 *
 * Server and fetch share this process, so both ends' work is in the figures.
 * ROSTER_BENCH_MIB: of the model, 512 by default.  Prints a table. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "coordinator/weight_server.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/unit_reader.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

#define AHEAD 4
#define PORTION ((size_t)256 << 10)
#define UNIT_MIB 6.375 /* of the shape below */

static void fail(const char *what, const char *why) {
    fprintf(stderr, "bench_pull: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

typedef struct {
    gguf *g;
    model_config model;
    manifest *checks;
    identity self;
    char why[512];
    const char *path;

    uv_loop_t loop;
    uv_async_t end;
    weight_server *server;
    pthread_t thread;
    void *zmq;
    fetch *f;
} bench;

/* ---- the source ---- */

static void on_end(uv_async_t *end) {
    bench *b = end->data;
    weight_server_close(b->server);
    uv_close((uv_handle_t *)end, NULL);
}

static void *serve(void *arg) {
    bench *b = arg;
    uv_run(&b->loop, UV_RUN_DEFAULT);
    return NULL;
}

static void open_source(bench *b) {
    b->zmq = zmq_ctx_new();
    strcpy(b->self.cluster, "bench");
    b->self.boot_id = 7;
    b->self.model.bytes[0] = 1;
    uv_loop_init(&b->loop);
    const weight_server_config c = {
        .loop = &b->loop,
        .self = &b->self,
        .file = b->g,
        .checks = b->checks,
        .model = &b->model,
        .links = {.zmq = b->zmq},
        .listen = "tcp://127.0.0.1:*",
    };
    if (weight_server_open(&b->server, &c, b->why, sizeof(b->why)) < 0)
        fail("weight server", b->why);
    b->end.data = b;
    uv_async_init(&b->loop, &b->end, on_end);
    pthread_create(&b->thread, NULL, serve, b);
}

static void close_source(bench *b) {
    uv_async_send(&b->end);
    pthread_join(b->thread, NULL);
    uv_loop_close(&b->loop);
    weight_server_free(b->server);
    zmq_ctx_term(b->zmq);
}

static void open_fetch(bench *b) {
    const fetch_config c = {.cluster = "bench", .boot_id = 9};
    if (fetch_new(&b->f, &c) < 0) fail("fetch", "out of memory");
    const char *const from[] = {weight_server_endpoint(b->server)};
    fetch_set_sources(b->f, from, 1);
}

static void open_model(bench *b, uint32_t n_experts) {
    model_shape s = model_shape_small();
    s.n_layers = 1;
    s.width = 1024;
    s.expert_width = 2048;
    s.n_experts = n_experts;
    b->path = fixture_path("pull.gguf");
    if (model_gen(&s, b->path, b->why, sizeof(b->why)) < 0 ||
        gguf_open(&b->g, b->path, b->why, sizeof(b->why)) < 0 ||
        model_read(&b->model, b->g, b->why, sizeof(b->why)) < 0 ||
        manifest_open(&b->checks, b->g, false, b->why, sizeof(b->why)) < 0) {
        fail("model", b->why);
    }
}

/* ---- what is measured ---- */

typedef struct {
    uint64_t us;
    double cpu_s; /* of all threads */
} moment;

static moment moment_now(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (moment){
        now_us(), (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
                      (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6};
}

static void report(const char *what, uint64_t bytes, moment began) {
    moment now = moment_now();
    double s = (double)(now.us - began.us) / 1e6;
    printf("%-44s %6.0f MiB %7.2f s %6.2f GB/s %6.2f s of CPU\n", what,
           (double)bytes / (1 << 20), s, (double)bytes / 1e9 / s,
           now.cpu_s - began.cpu_s);
}

static fetch_unit *begin_unit(bench *b, uint32_t unit, unit_cache *cache,
                              unit_image *image) {
    fetch_unit *u;
    fetch_order o = {.cache = cache};
    if (unit_image_of(&o.image, b->g, &b->model, 0, unit, 1, b->why,
                      sizeof(b->why)) < 0 ||
        unit_image_key(&o.image, b->checks, &o.key) < 0 ||
        fetch_unit_begin(b->f, &o, &u) < 0) {
        fail("unit", b->why);
    }
    *image = o.image;
    return u;
}

static void read_unit(bench *b, fetch_unit *u, const unit_image *image) {
    static uint8_t portion[PORTION];
    unit_check *check;
    if (unit_check_open(&check, image, b->checks) < 0) fail("check", "memory");
    for (uint64_t at = 0; at < image->bytes; at += PORTION) {
        size_t n = size_min(PORTION, image->bytes - at);
        if (fetch_unit_read(u, at, n, portion, b->why, sizeof(b->why)) < 0)
            fail("read", b->why);
        unit_check_add(check, portion, n);
    }
    int rc = unit_check_result(check);
    if (rc < 0) fail("unit", err_text(rc));
    unit_check_close(check);
    fetch_unit_end(u, 0);
}

/* Every unit, AHEAD of them on their way. */
static void pull(bench *b, const char *what, unit_cache *cache) {
    uint32_t n = b->model.n_experts;
    fetch_unit *units[AHEAD];
    unit_image images[AHEAD];
    uint64_t bytes = 0;
    moment began = moment_now();
    for (uint32_t i = 0; i < n + AHEAD; i++) {
        uint32_t at = i % AHEAD;
        if (i >= AHEAD) {
            read_unit(b, units[at], &images[at]);
            bytes += images[at].bytes;
        }
        if (i < n) units[at] = begin_unit(b, i, cache, &images[at]);
    }
    report(what, bytes, began);
}

/* Into a store, as a node does; `r` NULL: from the file. */
static void load(bench *b, const char *what, unit_reader *r) {
    expert_store_config c = {
        .g = b->g, .model = &b->model, .checks = b->checks, .slices = 1};
    if (r != NULL) c.source = (expert_source){unit_reader_read, r};
    expert_store *s;
    if (expert_store_new(&s, &c, b->why, sizeof(b->why)) < 0)
        fail("store", b->why);
    moment began = moment_now();
    for (uint32_t i = 0; i < b->model.n_experts; i++) {
        for (uint32_t k = 0; r != NULL && k < AHEAD; k++)
            unit_reader_ahead(r, 0, i + k, 1, NULL, 0);
        int rc = r != NULL
                     ? unit_reader_load(r, s, 0, i, b->why, sizeof(b->why))
                     : expert_store_load(s, 0, i, b->why, sizeof(b->why));
        if (rc < 0) fail("load", b->why);
    }
    report(what, expert_store_bytes(s), began);
    expert_store_free(s);
}

static void load_pulled(bench *b) {
    unit_reader *r;
    const unit_reader_config c = {
        .fetch = b->f, .g = b->g, .model = &b->model, .checks = b->checks};
    if (unit_reader_new(&r, &c) < 0) fail("reader", "out of memory");
    load(b, "pulled and packed into a store", r);
    unit_reader_free(r);
}

/* The disk alone: written and synced. */
static void write_disk(uint64_t bytes) {
    static uint8_t piece[1 << 20];
    memset(piece, 0x5a, sizeof(piece));
    int fd = open(fixture_path("disk"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    moment began = moment_now();
    for (uint64_t at = 0; at < bytes; at += sizeof(piece)) {
        if (write(fd, piece, sizeof(piece)) != sizeof(piece))
            fail("disk", "cannot be written");
    }
    fsync(fd);
    report("the disk: written and synced", bytes, began);
    close(fd);
    unlink(fixture_path("disk"));
}

static void pull_into_cache(bench *b) {
    unit_cache *cache;
    const unit_cache_config c = {.dir = fixture_path("cache"),
                                 .max_bytes = UINT64_MAX / 2};
    if (unit_cache_open(&cache, &c, b->why, sizeof(b->why)) < 0)
        fail("cache", b->why);
    pull(b, "pulled and kept on disk", cache);
    fetch_free(b->f); /* the rest goes to the cache */
    moment began = moment_now();
    unit_cache_close(cache);
    report("  until all of it was synced", 0, began);
    if (unit_cache_open(&cache, &c, b->why, sizeof(b->why)) < 0)
        fail("cache", b->why);
    open_fetch(b);
    pull(b, "read from the cache", cache);
    fetch_free(b->f);
    b->f = NULL;
    unit_cache_close(cache);
}

int main(void) {
    const char *text = getenv("ROSTER_BENCH_MIB");
    double mib = text != NULL ? atof(text) : 512;
    uint32_t n_experts = (uint32_t)size_max((size_t)(mib / UNIT_MIB), AHEAD);
    bench *b = calloc(1, sizeof(*b));
    if (b == NULL) return EXIT_FAILURE;
    log_setup("bench", LOG_WARN);
    open_model(b, n_experts);
    open_source(b);
    open_fetch(b);
    pull(b, "pulled (first time: checked at the source)", NULL);
    pull(b, "pulled", NULL);
    load(b, "loaded from the file and packed", NULL);
    load_pulled(b);
    write_disk((uint64_t)(mib * (1 << 20)));
    pull_into_cache(b);
    close_source(b);
    manifest_close(b->checks);
    gguf_close(b->g);
    free(b);
    return EXIT_SUCCESS;
}
