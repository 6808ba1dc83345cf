/* bench_dispatch.c - what a layer costs that goes to expert nodes, beyond the
 * round trip that ZeroMQ itself takes for messages of those sizes.
 *
 * A coordinator's exchange asks the workers of nodes in threads of this
 * process, over TCP on loopback and over shared memory; a bare DEALER and bare
 * ROUTERs pass messages of the same bytes to and fro between as many threads.
 * Experts are tiny, and what a node says that it computed is taken off.  All
 * take turns in short blocks, so that a machine's drift meets each of them.
 *
 * `bench_dispatch [--json]`: microseconds for each layer and node, medians;
 * takes about ten seconds. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>
#include "coordinator/exchange.h"
#include "engine/act.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/worker.h"
#include "tests/support/fixture.h"
#include "tests/support/memory_rack.h"
#include "tests/support/model_gen.h"

#define WIDTH 2048
#define EXPERT_WIDTH 32
#define MAX_NODES 2
#define OF_EACH 4 /* experts of a node, all of which every row uses */
#define MAX_ROWS 16
#define WARM_UP 100
#define BLOCKS 30
#define BLOCK 50 /* layers of one sort before the next sort's turn */
#define SAMPLES (BLOCKS * BLOCK)

#define CLUSTER "bench"
#define COORDINATOR_BOOT 77
#define PROBE_BOOT 78
#define NODE_BOOT 1000 /* and those after it */

static void must(int rc, const char *what, const char *why) {
    if (rc >= 0) return;
    fprintf(stderr, "bench_dispatch: %s: %s %s\n", what, err_text(rc), why);
    exit(EXIT_FAILURE);
}

static void must_zmq(int rc, const char *what) {
    if (rc < 0) must(-errno, what, "");
}

/* ---- samples ---- */

typedef struct {
    double us[SAMPLES];
    size_t count;
} timing;

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void take(timing *t, uint64_t us) {
    if (t->count < SAMPLES) t->us[t->count++] = (double)us;
}

static double median(timing *t) {
    qsort(t->us, t->count, sizeof(t->us[0]), by_size);
    return t->us[t->count / 2];
}

/* ---- the model, and the rows that are sent ---- */

typedef struct {
    memory_model *model;
    pool *threads;
    local_experts *local; /* knows the form of rows; computes nothing */
    act_form form;
    uint8_t *rows; /* [MAX_ROWS] encoded */
    const void *row_list[MAX_ROWS];
    uint32_t experts[MAX_ROWS * MAX_NODES * OF_EACH];
} material;

static void make_rows(material *m) {
    float x[WIDTH];
    size_t bytes = act_row_bytes(m->form, WIDTH);
    uint32_t random = 1;
    m->rows = malloc(MAX_ROWS * bytes);
    if (m->rows == NULL) must(-ENOMEM, "rows", "");
    for (uint32_t i = 0; i < MAX_ROWS; i++) {
        for (uint32_t j = 0; j < WIDTH; j++) {
            random = random * 1664525u + 1013904223u;
            x[j] = (float)(int32_t)random / (float)INT32_MAX;
        }
        act_encode(m->form, WIDTH, x, m->rows + i * bytes);
        m->row_list[i] = m->rows + i * bytes;
    }
}

static void material_open(material *m) {
    char why[256] = "";
    model_shape shape = model_shape_small();
    shape.n_layers = 1;
    shape.width = WIDTH;
    shape.n_heads = shape.n_kv_heads = 1;
    shape.head_dim = 64;
    shape.expert_width = EXPERT_WIDTH;
    shape.n_experts = shape.n_used = MAX_NODES * OF_EACH;
    const char *path = fixture_path("dispatch.gguf");
    must(model_gen(&shape, path, why, sizeof(why)), "a model", why);
    m->model = memory_model_open(path);
    must(pool_new(&m->threads, 1), "a pool", "");
    const local_config local = {
        m->model->file, &m->model->config,     NULL, m->threads,
        UINT64_MAX,     ARRAY_LEN(m->experts), false};
    must(local_experts_new(&m->local, &local, why, sizeof(why)), "local", why);
    m->form = local_experts_form(m->local, 0);
    make_rows(m);
}

static void material_close(material *m) {
    local_experts_free(m->local);
    pool_free(m->threads);
    memory_model_close(m->model);
    free(m->rows);
}

/* ---- a rack: an exchange, and nodes that it is linked to ---- */

typedef struct {
    struct link *server;
    worker *worker;
    pthread_t thread;
} bench_node;

typedef struct {
    const material *of;
    void *near, *far; /* ZeroMQ contexts of the coordinator and the nodes */
    bench_node nodes[MAX_NODES];
    uint32_t n_nodes;
    identity self;
    exchange *exchange;
} bench_rack;

static link_config links_of(void *zmq, bool shared) {
    return (link_config){.zmq = zmq,
                         .max_part_bytes = MESSAGE_PART_MAX,
                         .queue_messages = 64,
                         .local = shared};
}

static void *serve(void *arg) {
    must(worker_run(arg), "a worker", "");
    return NULL;
}

static void start_node(bench_rack *r, uint32_t i, bool shared) {
    char why[256] = "";
    bench_node *n = &r->nodes[i];
    const link_config links = links_of(r->far, shared);
    const worker_config c = {.store = memory_model_store(r->of->model, 1),
                             .width = WIDTH,
                             .expert_dim = EXPERT_WIDTH,
                             .cluster = CLUSTER,
                             .boot_id = NODE_BOOT + i,
                             .threads = 1,
                             .max_reply_bytes = (uint64_t)1 << 30};
    must(link_bind(&n->server, &links, "tcp://127.0.0.1:*", why, sizeof(why)),
         "a node", why);
    must(worker_new(&n->worker, &c, n->server), "a node", "");
    if (pthread_create(&n->thread, NULL, serve, n->worker) != 0)
        must(-EAGAIN, "a node's thread", "");
}

/* Every node holds OF_EACH experts of its own. */
static void post_nodes(const bench_rack *r) {
    const model_config *m = &r->of->model->config;
    const placement_shape shape = {
        .epoch = 1, .n_layers = m->n_layers, .n_experts = m->n_experts};
    holdings held[MAX_NODES];
    const holdings *list[MAX_NODES];
    rack_node seen[MAX_NODES] = {{0}};
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        must(holdings_init(&held[i], m->n_layers, m->n_experts), "a node", "");
        for (uint32_t e = 0; e < OF_EACH; e++)
            holdings_add(&held[i], 0, i * OF_EACH + e);
        list[i] = &held[i];
        seen[i].up = true;
        seen[i].boot_id = NODE_BOOT + i;
        snprintf(seen[i].endpoint, sizeof(seen[i].endpoint), "%s",
                 link_endpoint(r->nodes[i].server));
    }
    placement *where;
    rack *snapshot;
    must(placement_new(&where, &shape, list, r->n_nodes), "a placement", "");
    must(rack_new(&snapshot, where, seen, r->n_nodes), "a rack", "");
    exchange_post(r->exchange, snapshot);
    for (uint32_t i = 0; i < r->n_nodes; i++)
        holdings_fini(&held[i]);
}

static void rack_open(bench_rack *r, const material *of, uint32_t n_nodes,
                      bool shared) {
    *r = (bench_rack){.of = of, .n_nodes = n_nodes};
    r->near = zmq_ctx_new();
    r->far = zmq_ctx_new();
    for (uint32_t i = 0; i < n_nodes; i++)
        start_node(r, i, shared);
    snprintf(r->self.cluster, sizeof(r->self.cluster), CLUSTER);
    r->self.boot_id = COORDINATOR_BOOT;
    const exchange_config x = {
        .self = &r->self,
        .model = &of->model->config,
        .local = of->local,
        .dispatch = {.max_nodes = n_nodes,
                     .max_pairs = ARRAY_LEN(of->experts),
                     .reply_row_bytes = WIDTH * sizeof(float),
                     .piece_bytes = 1 << 20,
                     .credit_bytes = 16 << 20,
                     .hedge_min_us = 10000000, /* nobody else could be asked */
                     .hedge_factor = 10,
                     .patience_us = 60000000},
        .max_rows = MAX_ROWS,
        .links = links_of(r->near, shared),
    };
    must(exchange_new(&r->exchange, &x), "an exchange", "");
    post_nodes(r);
}

static void rack_close(bench_rack *r) {
    exchange_free(r->exchange);
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        worker_stop(r->nodes[i].worker);
        pthread_join(r->nodes[i].thread, NULL);
        worker_free(r->nodes[i].worker);
        link_close(r->nodes[i].server);
    }
    zmq_ctx_term(r->near);
    zmq_ctx_term(r->far);
}

/* One layer; every row uses all experts of all nodes.  Its microseconds. */
static uint64_t run_layer(bench_rack *r, uint32_t n_rows) {
    bool lost[MAX_ROWS];
    exchange_outputs out;
    const exchange_layer layer = {.n_rows = n_rows,
                                  .k = r->n_nodes * OF_EACH,
                                  .rows = r->of->row_list,
                                  .experts = r->of->experts};
    uint64_t began_us = now_us();
    int rc = exchange_begin(r->exchange, 0, &layer);
    if (rc == 0) rc = exchange_finish(r->exchange, 0, &out, lost);
    uint64_t us = now_us() - began_us;
    if (rc > 0) rc = ERR_UNAVAILABLE;
    must(rc, "a layer", "");
    return us;
}

/* ---- what goes to and fro, and what a node computes for it ---- */

#define PARTS 2 /* header and rows */
#define MAX_PART (OF_EACH * MAX_ROWS * WIDTH * sizeof(float))

typedef struct {
    size_t asked[PARTS], answer[PARTS];
} sizes;

static void build_batch(const material *m, uint32_t n_rows, frames *f) {
    uint32_t experts[OF_EACH], counts[OF_EACH], rows[OF_EACH * MAX_ROWS];
    for (uint32_t e = 0; e < OF_EACH; e++) {
        experts[e] = e;
        counts[e] = n_rows;
        for (uint32_t i = 0; i < n_rows; i++)
            rows[e * n_rows + i] = i;
    }
    static const uint8_t any_model[MESSAGE_FINGERPRINT];
    message batch = message_from(CLUSTER, any_model, PROBE_BOOT);
    batch.kind = MESSAGE_BATCH;
    batch.to_boot_id = NODE_BOOT;
    batch.epoch = 1;
    batch.request_id = 1;
    batch.batch.form = m->form;
    batch.batch.width = WIDTH;
    batch.batch.slices = 1;
    batch.batch.n_rows = n_rows;
    batch.batch.experts = (message_u32s){experts, OF_EACH};
    batch.batch.counts = (message_u32s){counts, OF_EACH};
    batch.batch.rows = (message_u32s){rows, (size_t)OF_EACH * n_rows};

    size_t bytes = n_rows * act_row_bytes(m->form, WIDTH);
    frames_init(f);
    void *header = frames_add(f, 0), *payload = frames_add(f, bytes);
    if (header == NULL || payload == NULL) must(-ENOMEM, "a batch", "");
    memcpy(payload, m->rows, bytes);
    must(message_seal(f, &batch), "a batch", "");
}

static void note_sizes(frames *f, size_t *bytes) {
    for (size_t i = 0; i < PARTS; i++)
        bytes[i] = frames_bytes(f, i);
}

/* Ask a node for what the exchange asks it.  What it says that it computed. */
static uint64_t probe(struct link *l, message_arena *arena, const material *m,
                      uint32_t n_rows, sizes *s) {
    frames f;
    message answer;
    char why[160] = "";
    int rc;
    build_batch(m, n_rows, &f);
    note_sizes(&f, s->asked);
    while ((rc = link_send(l, &f)) == -EAGAIN)
        poll(NULL, 0, 1);
    must(rc, "a probe", "");
    while ((rc = link_recv(l, &f)) == -EAGAIN) {
        struct pollfd fd = {.fd = link_fd(l), .events = POLLIN};
        poll(&fd, 1, 10);
    }
    must(rc, "a probe's answer", "");
    rc = message_open(&f, arena, &answer, why, sizeof(why));
    if (rc == 0 && answer.kind != MESSAGE_ROWS) rc = ERR_MALFORMED;
    must(rc, "a probe's answer", why);
    note_sizes(&f, s->answer);
    frames_fini(&f);
    return answer.rows.compute_us;
}

static double probe_many(bench_rack *r, uint32_t n_rows, sizes *s) {
    static timing computing;
    char why[256] = "";
    message_arena *arena;
    struct link *l;
    const link_config links = links_of(r->near, false);
    must(link_connect(&l, &links, link_endpoint(r->nodes[0].server), why,
                      sizeof(why)),
         "a probe", why);
    must(message_arena_new(&arena, MESSAGE_ARENA_MAX), "a probe", "");
    computing.count = 0;
    for (int i = 0; i < WARM_UP; i++)
        probe(l, arena, r->of, n_rows, s);
    for (int i = 0; i < SAMPLES; i++)
        take(&computing, probe(l, arena, r->of, n_rows, s));
    message_arena_free(arena);
    link_close(l);
    return median(&computing);
}

/* ---- ZeroMQ alone ---- */

typedef struct {
    void *socket;
    const sizes *s;
    pthread_t thread;
} bare_node;

typedef struct {
    void *near, *far;
    sizes s;
    bare_node nodes[MAX_NODES];
    void *to[MAX_NODES];
    uint32_t n_nodes;
} bare_rack;

/* Bytes that lie there already: what is written into a message is no cost of
 * passing it on. */
static int send_parts(void *socket, const size_t *bytes) {
    static uint8_t any[MAX_PART];
    for (int i = 0; i < PARTS; i++) {
        zmq_msg_t part;
        must_zmq(zmq_msg_init_data(&part, any, bytes[i], NULL, NULL), "memory");
        int flags = i + 1 < PARTS ? ZMQ_SNDMORE : 0;
        if (zmq_msg_send(&part, socket, flags) < 0) {
            zmq_msg_close(&part);
            return -errno;
        }
    }
    return 0;
}

/* A whole message, the address in `first` if that is not NULL. */
static int receive_parts(void *socket, zmq_msg_t *first) {
    zmq_msg_t part;
    bool more = true;
    if (first != NULL && zmq_msg_recv(first, socket, 0) < 0) return -errno;
    while (more) {
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, socket, 0) < 0) return -errno;
        more = zmq_msg_more(&part) != 0;
        zmq_msg_close(&part);
    }
    return 0;
}

/* Until the context is shut down. */
static void *answer_bare(void *arg) {
    bare_node *n = arg;
    for (;;) {
        zmq_msg_t address;
        zmq_msg_init(&address);
        if (receive_parts(n->socket, &address) < 0) break;
        if (zmq_msg_send(&address, n->socket, ZMQ_SNDMORE) < 0) break;
        if (send_parts(n->socket, n->s->answer) < 0) break;
    }
    zmq_close(n->socket);
    return NULL;
}

static void bare_open(bare_rack *b, uint32_t n_nodes, const sizes *s) {
    assert(s->answer[PARTS - 1] <= MAX_PART);
    *b = (bare_rack){.n_nodes = n_nodes, .s = *s};
    b->near = zmq_ctx_new();
    b->far = zmq_ctx_new();
    for (uint32_t i = 0; i < n_nodes; i++) {
        bare_node *n = &b->nodes[i];
        char where[64];
        size_t room = sizeof(where);
        n->s = &b->s;
        n->socket = zmq_socket(b->far, ZMQ_ROUTER);
        b->to[i] = zmq_socket(b->near, ZMQ_DEALER);
        must_zmq(zmq_bind(n->socket, "tcp://127.0.0.1:*"), "zmq_bind");
        must_zmq(zmq_getsockopt(n->socket, ZMQ_LAST_ENDPOINT, where, &room),
                 "zmq_getsockopt");
        must_zmq(zmq_connect(b->to[i], where), "zmq_connect");
        if (pthread_create(&n->thread, NULL, answer_bare, n) != 0)
            must(-EAGAIN, "a thread", "");
    }
}

static void bare_close(bare_rack *b) {
    zmq_ctx_shutdown(b->far);
    for (uint32_t i = 0; i < b->n_nodes; i++) {
        pthread_join(b->nodes[i].thread, NULL);
        zmq_close(b->to[i]);
    }
    zmq_ctx_term(b->near);
    zmq_ctx_term(b->far);
}

/* To all nodes, and back from all. */
static uint64_t run_bare(bare_rack *b) {
    uint64_t began_us = now_us();
    for (uint32_t i = 0; i < b->n_nodes; i++)
        must(send_parts(b->to[i], b->s.asked), "sending", "");
    for (uint32_t i = 0; i < b->n_nodes; i++)
        must(receive_parts(b->to[i], NULL), "receiving", "");
    return now_us() - began_us;
}

/* ---- all of it in turn ---- */

typedef struct {
    uint32_t nodes, rows;
    size_t bytes; /* there and back, of a node */
    double us, shared_us, zmq_us, compute_us;
} figures;

typedef struct {
    bench_rack tcp, shared;
    bare_rack bare;
} rivals;

static void run_in_turn(rivals *all, uint32_t n_rows, figures *f) {
    static timing tcp, shared, bare;
    tcp.count = shared.count = bare.count = 0;
    for (int i = 0; i < WARM_UP; i++) {
        run_layer(&all->tcp, n_rows);
        run_layer(&all->shared, n_rows);
        run_bare(&all->bare);
    }
    for (int block = 0; block < BLOCKS; block++) {
        for (int i = 0; i < BLOCK; i++)
            take(&tcp, run_layer(&all->tcp, n_rows));
        for (int i = 0; i < BLOCK; i++)
            take(&shared, run_layer(&all->shared, n_rows));
        for (int i = 0; i < BLOCK; i++)
            take(&bare, run_bare(&all->bare));
    }
    f->us = (median(&tcp) - f->compute_us) / f->nodes;
    f->shared_us = (median(&shared) - f->compute_us) / f->nodes;
    f->zmq_us = median(&bare) / f->nodes;
}

static figures measure(const material *m, uint32_t n_nodes, uint32_t n_rows) {
    static rivals all;
    figures f = {.nodes = n_nodes, .rows = n_rows};
    sizes s;
    rack_open(&all.tcp, m, n_nodes, false);
    rack_open(&all.shared, m, n_nodes, true);
    f.compute_us = probe_many(&all.tcp, n_rows, &s);
    for (int i = 0; i < PARTS; i++)
        f.bytes += s.asked[i] + s.answer[i];
    bare_open(&all.bare, n_nodes, &s);
    run_in_turn(&all, n_rows, &f);
    bare_close(&all.bare);
    rack_close(&all.shared);
    rack_close(&all.tcp);
    return f;
}

static void print(const figures *f, bool json) {
    const char *form =
        json ? "{\"nodes\": %u, \"rows\": %u, \"bytes\": %zu, \"us\": %.1f, "
               "\"shared_us\": %.1f, \"zmq_us\": %.1f, \"compute_us\": %.1f}\n"
             : "%5u %5u %8zu %10.1f %14.1f %10.1f %14.1f\n";
    printf(form, f->nodes, f->rows, f->bytes, f->us, f->shared_us, f->zmq_us,
           f->compute_us);
    fflush(stdout);
}

int main(int argc, char **argv) {
    static material m;
    static const uint32_t rows[] = {1, 4, MAX_ROWS};
    char why[256] = "";
    bool json = argc > 1 && strcmp(argv[1], "--json") == 0;
    log_setup("bench_dispatch", LOG_ERROR);
    must(cpu_setup(why, sizeof(why)), "the CPU", why);
    material_open(&m);
    if (!json) {
        printf("microseconds of a layer for each node, without computing\n"
               "nodes  rows    bytes   over TCP  shared memory     ZeroMQ  "
               "(and computing)\n");
    }
    for (uint32_t n = 1; n <= MAX_NODES; n++) {
        for (uint32_t i = 0; i < MAX_ROWS * n * OF_EACH; i++)
            m.experts[i] = i % (n * OF_EACH);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            figures f = measure(&m, n, rows[i]);
            print(&f, json);
        }
    }
    material_close(&m);
    return EXIT_SUCCESS;
}
