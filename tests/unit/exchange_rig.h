/* exchange_rig.h - an exchange with real threads for nodes, which behave as a
 * test wants and answer rows that can be told apart: unit * 100 + the row. */
#ifndef TESTS_UNIT_EXCHANGE_RIG_H
#define TESTS_UNIT_EXCHANGE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "coordinator/exchange.h"
#include "engine/act.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/memory_rack.h"
#include "tests/support/model_gen.h"

#define NODES 2
#define K 2
#define ROWS 5
#define PAIRS (ROWS * K)
#define FLOOD 3000
#define WITHHELD 128

typedef enum {
    GOOD,
    SILENT,
    DOUBLED,     /* every answer twice */
    LATE,        /* the answer to a batch when the next one comes, or when the
                    node is to be something else */
    WITHHOLDING, /* all answers when the node is to be something else */
    FORGED,      /* rows of requests that nobody made, then the answer */
    FOREIGN,     /* as another process would sign it */
    DAMAGED,     /* a payload byte flipped */
    GARBAGE,     /* no message at all */
    WRONG_LAYER, /* the answer to another question, by size or kind ... */
    TOO_FEW,
    TOO_NARROW,
    REFUSING,
    BUSY,     /* ERR_OVERLOADED once, then the answer */
    FLOODING, /* very many answers that nobody asked for, then the right one */
    FLIPPED,  /* a bit of the answer is another one, under a good seal */
    HANGING_UP, /* the connection is closed when a batch comes */
} manner;

typedef struct {
    pthread_t thread;
    atomic_bool stop;
    atomic_int manner;
    atomic_uint batches; /* received */
    atomic_uint done;    /* of these, answered as the manner wants it */
    struct link *server;
    message_arena *arena;
    uint64_t boot_id;
    frames kept; /* LATE: the answer that was held back */
    frames withheld[WITHHELD];
    size_t n_withheld;
    bool refused_once;
    bool joined; /* the test ended its thread */
} node;

typedef struct {
    memory_model *model;
    pool *threads;
    local_experts *local;
    identity self;
    node nodes[NODES];
    exchange *x;
    holdings all;
    act_form form;
    uint8_t *rows[ROWS];
    exchange_outputs outputs;
    bool lost[ROWS];
    uint64_t serial; /* of both nodes in the next rack */
} rig;

/* every row goes to two experts, together to all four */
static const uint32_t experts[PAIRS] = {0, 1, 1, 2, 2, 3, 3, 0, 1, 3};

/* ---- a node ---- */

static inline message answer_to(const node *n, const message *batch,
                                message_kind kind) {
    return (message){.kind = kind,
                     .cluster = "test",
                     .boot_id = n->boot_id,
                     .to_boot_id = batch->boot_id,
                     .request_id = batch->request_id};
}

static inline void send_to(node *n, const frames *in, frames *f) {
    memcpy(f->address, in->address, in->address_bytes);
    f->address_bytes = in->address_bytes;
    while (link_send(n->server, f) == -EAGAIN && !atomic_load(&n->stop)) {
        poll(NULL, 0, 1); /* the exchange has not read yet */
    }
    frames_fini(f);
}

static inline void send_error(node *n, const frames *in, const message *batch,
                              int code) {
    message m = answer_to(n, batch, MESSAGE_ERROR);
    m.error.code = code;
    m.error.text = "no";
    frames f;
    frames_init(&f);
    frames_add(&f, 0);
    if (message_seal(&f, &m) == 0) send_to(n, in, &f);
    frames_fini(&f);
}

/* The right rows under a header that may be wrong. */
static inline void make_rows(node *n, frames *in, const message *batch,
                             message m, frames *f) {
    m.rows.layer = batch->batch.layer;
    m.rows.n_pairs = (uint32_t)batch->batch.rows.count;
    m.rows.width = batch->batch.width;
    m.rows.form = ACT_F32;
    int how = atomic_load(&n->manner);
    if (how == WRONG_LAYER) m.rows.layer++;
    if (how == TOO_FEW) m.rows.n_pairs++;
    if (how == TOO_NARROW) m.rows.width /= 2;

    const uint8_t *x = frames_data(in, 1);
    size_t row_bytes = frames_bytes(in, 1) / batch->batch.n_rows;
    frames_init(f);
    frames_add(f, 0);
    float *y =
        frames_add(f, (size_t)m.rows.n_pairs * m.rows.width * sizeof(float));
    memset(y, 0, frames_bytes(f, 1));
    size_t pair = 0;
    for (size_t g = 0; g < batch->batch.experts.count; g++) {
        for (uint32_t i = 0; i < batch->batch.counts.items[g]; i++, pair++) {
            const uint8_t *row = x + batch->batch.rows.items[pair] * row_bytes;
            float value = (float)(batch->batch.experts.items[g] * 100 + row[0]);
            for (uint32_t j = 0; j < m.rows.width; j++) {
                y[pair * m.rows.width + j] = value;
            }
        }
    }
    if (how == FLIPPED) ((uint8_t *)y)[0] ^= 1;
    if (message_seal(f, &m) < 0) abort();
    if (how == DAMAGED) ((uint8_t *)y)[3] ^= 0x40;
}

static inline void send_rows(node *n, frames *in, const message *batch,
                             message m) {
    frames f;
    make_rows(n, in, batch, m, &f);
    send_to(n, in, &f);
}

static inline void send_strangers(node *n, frames *in, const message *batch,
                                  int count) {
    for (int i = 0; i < count && !atomic_load(&n->stop); i++) {
        message m = answer_to(n, batch, MESSAGE_ROWS);
        m.request_id += 1 + (uint64_t)i * 7919;
        send_rows(n, in, batch, m);
    }
}

static inline void keep_for_later(node *n, frames *in, const message *batch) {
    frames f;
    make_rows(n, in, batch, answer_to(n, batch, MESSAGE_ROWS), &f);
    memcpy(f.address, in->address, in->address_bytes);
    f.address_bytes = in->address_bytes;
    if (n->kept.count > 0) send_to(n, in, &n->kept);
    frames_init(&n->kept);
    frames_move(&n->kept, &f);
}

static inline void send_kept(node *n) {
    frames to = n->kept; /* for its address */
    send_to(n, &to, &n->kept);
}

/* Beyond those there is room for, it is silent. */
static inline void withhold(node *n, frames *in, const message *batch) {
    if (n->n_withheld == WITHHELD) return;
    frames *f = &n->withheld[n->n_withheld++];
    make_rows(n, in, batch, answer_to(n, batch, MESSAGE_ROWS), f);
    memcpy(f->address, in->address, in->address_bytes);
    f->address_bytes = in->address_bytes;
}

static inline void send_withheld(node *n) {
    for (size_t i = 0; i < n->n_withheld; i++) {
        frames to = n->withheld[i]; /* for its address */
        send_to(n, &to, &n->withheld[i]);
    }
    n->n_withheld = 0;
}

static inline void answer(node *n, frames *in, const message *batch) {
    message m = answer_to(n, batch, MESSAGE_ROWS);
    frames f;
    switch ((manner)atomic_load(&n->manner)) {
    case SILENT:
        return;
    case LATE:
        keep_for_later(n, in, batch);
        return;
    case WITHHOLDING:
        withhold(n, in, batch);
        return;
    case REFUSING:
        send_error(n, in, batch, ERR_NOT_HERE);
        return;
    case BUSY:
        if (!n->refused_once) send_error(n, in, batch, ERR_OVERLOADED);
        if (n->refused_once) send_rows(n, in, batch, m);
        n->refused_once = true;
        return;
    case FOREIGN:
        m.boot_id++;
        break;
    case DOUBLED:
        send_rows(n, in, batch, m);
        break;
    case FORGED:
        send_strangers(n, in, batch, 20);
        break;
    case FLOODING:
        send_strangers(n, in, batch, FLOOD);
        break;
    case GARBAGE:
        frames_init(&f);
        memset(frames_add(&f, 100), 0xa5, 100);
        send_to(n, in, &f);
        return;
    default:
        break;
    }
    send_rows(n, in, batch, m);
}

static inline void *node_main(void *arg) {
    node *n = arg;
    while (!atomic_load(&n->stop)) {
        int how = atomic_load(&n->manner);
        if (how != LATE && n->kept.count > 0) send_kept(n);
        if (how != WITHHOLDING) send_withheld(n);
        frames in;
        frames_init(&in);
        message m;
        char why[160] = "";
        if (link_recv(n->server, &in) == 0) {
            if (message_open(&in, n->arena, &m, why, sizeof(why)) < 0) {
                fprintf(stderr, "a bad batch: %s\n", why);
                abort();
            }
            atomic_fetch_add(&n->batches, 1);
            if (atomic_load(&n->manner) == HANGING_UP) {
                frames_fini(&in);
                link_close(n->server);
                n->server = NULL;
                return NULL;
            }
            answer(n, &in, &m);
            atomic_fetch_add(&n->done, 1);
        } else {
            struct pollfd fd = {.fd = link_fd(n->server), .events = POLLIN};
            poll(&fd, 1, 5);
        }
        frames_fini(&in);
    }
    return NULL;
}

/* ---- the rig ---- */

static inline int connect_node(void *ctx, struct link **out,
                               const link_config *c, const char *to, char *why,
                               size_t why_size) {
    rig *r = ctx;
    (void)c;
    if (strcmp(to, "nowhere") == 0) {
        return err_why(why, why_size, ERR_USAGE, "no such place");
    }
    struct link *server = r->nodes[atoi(to)].server; /* in use by its node */
    return link_memory(out, &server, 16);
}

/* A rack of that epoch, and of experts in so many slices, with as many places
 * for nodes.  up: bits of nodes; each holds everything. */
static inline void post_rack(rig *r, uint64_t epoch, uint32_t slices,
                             uint32_t places, uint32_t up) {
    const model_config *m = &r->model->config;
    const placement_shape shape = {.epoch = epoch,
                                   .n_layers = m->n_layers,
                                   .n_experts = m->n_experts,
                                   .slices = slices};
    holdings all;
    assert_int_equal(
        holdings_init_slices(&all, m->n_layers, m->n_experts, slices), 0);
    assert_int_equal(holdings_add_spec(&all, "*:*", NULL, 0), 0);
    const holdings *held[NODES] = {NULL};
    rack_node seen[NODES] = {{0}};
    for (uint32_t i = 0; i < places; i++) {
        if ((up >> i & 1) == 0) continue;
        held[i] = &all;
        seen[i].up = true;
        seen[i].serial = r->serial;
        seen[i].boot_id = r->nodes[i].boot_id;
        snprintf(seen[i].endpoint, sizeof(seen[i].endpoint), "%u", i);
    }
    placement *where;
    rack *snapshot;
    assert_int_equal(placement_new(&where, &shape, held, places), 0);
    assert_int_equal(rack_new(&snapshot, where, seen, places), 0);
    exchange_post(r->x, snapshot);
    holdings_fini(&all);
}

/* up: bits of nodes; each holds everything. */
static inline void post(rig *r, uint32_t up, uint64_t boot_offset) {
    const model_config *m = &r->model->config;
    const holdings *held[NODES] = {NULL};
    rack_node seen[NODES] = {{0}};
    for (uint32_t i = 0; i < NODES; i++) {
        if ((up >> i & 1) == 0) continue;
        held[i] = &r->all;
        seen[i].up = true;
        seen[i].boot_id = r->nodes[i].boot_id + boot_offset;
        snprintf(seen[i].endpoint, sizeof(seen[i].endpoint), "%u", i);
    }
    const placement_shape shape = {
        .epoch = 1, .n_layers = m->n_layers, .n_experts = m->n_experts};
    placement *where;
    rack *snapshot;
    assert_int_equal(placement_new(&where, &shape, held, NODES), 0);
    assert_int_equal(rack_new(&snapshot, where, seen, NODES), 0);
    exchange_post(r->x, snapshot);
}

static inline void open_parts(rig *r) {
    char why[256] = "";
    model_shape shape = model_shape_small();
    const char *path = fixture_path("exchange.gguf");
    assert_int_equal(model_gen(&shape, path, why, sizeof(why)), 0);
    r->model = memory_model_open(path);
    const model_config *m = &r->model->config;
    assert_int_equal(pool_new(&r->threads, 1), 0);
    local_config l = {r->model->file, m,     NULL, r->threads,
                      UINT64_MAX,     PAIRS, false};
    assert_int_equal(local_experts_new(&r->local, &l, why, sizeof(why)), 0);
    r->form = local_experts_form(r->local, 0);
    assert_int_equal(holdings_init(&r->all, m->n_layers, m->n_experts), 0);
    for (uint32_t l2 = 0; l2 < m->n_layers; l2++) {
        for (uint32_t e = 0; e < m->n_experts; e++) {
            holdings_add(&r->all, l2, e);
        }
    }
    for (uint32_t i = 0; i < ROWS; i++) {
        r->rows[i] = calloc(1, act_row_bytes(r->form, m->n_embd));
        r->rows[i][0] = (uint8_t)(10 + i);
    }
}

static inline void open_nodes(rig *r, const manner *manners) {
    for (uint32_t i = 0; i < NODES; i++) {
        node *n = &r->nodes[i];
        struct link *unused; /* a server is made with its first client */
        assert_int_equal(link_memory(&unused, &n->server, 16), 0);
        link_close(unused);
        assert_int_equal(message_arena_new(&n->arena, 1 << 20), 0);
        n->boot_id = 1000 + i;
        frames_init(&n->kept);
        atomic_store(&n->manner, (int)manners[i]);
        assert_int_equal(pthread_create(&n->thread, NULL, node_main, n), 0);
    }
}

/* One answer in `check_every` is compared; 0: none. */
static inline rig *open_checked_rig(manner first, manner second,
                                    uint32_t patience_us, uint32_t check_every,
                                    bool local) {
    log_setup("test", (log_level)(LOG_ERROR + 1));
    rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    open_parts(r);
    const manner manners[NODES] = {first, second};
    open_nodes(r, manners);
    snprintf(r->self.cluster, sizeof(r->self.cluster), "test");
    r->self.boot_id = 77;
    size_t row = r->model->config.n_embd * sizeof(float);
    exchange_config c = {
        .self = &r->self,
        .model = &r->model->config,
        .local = r->local,
        .dispatch = {.max_nodes = NODES,
                     .max_pairs = PAIRS,
                     .reply_row_bytes = row,
                     .piece_bytes = 3 * row,
                     .credit_bytes = 100 * row,
                     .hedge_min_us = 20000,
                     .hedge_factor = 4,
                     .patience_us = patience_us,
                     .local = local},
        .max_rows = ROWS,
        .check_every = check_every,
        .connect = connect_node,
        .connect_ctx = r,
    };
    assert_int_equal(exchange_new(&r->x, &c), 0);
    return r;
}

static inline rig *open_rig(manner first, manner second, uint32_t patience_us) {
    return open_checked_rig(first, second, patience_us, 0, false);
}

static inline void close_rig(rig *r) {
    for (uint32_t i = 0; i < NODES; i++) {
        atomic_store(&r->nodes[i].stop, true);
        if (!r->nodes[i].joined) pthread_join(r->nodes[i].thread, NULL);
    }
    exchange_free(r->x);
    for (uint32_t i = 0; i < NODES; i++) {
        frames_fini(&r->nodes[i].kept);
        for (size_t w = 0; w < r->nodes[i].n_withheld; w++)
            frames_fini(&r->nodes[i].withheld[w]);
        message_arena_free(r->nodes[i].arena);
        link_close(r->nodes[i].server);
    }
    for (uint32_t i = 0; i < ROWS; i++)
        free(r->rows[i]);
    holdings_fini(&r->all);
    local_experts_free(r->local);
    pool_free(r->threads);
    memory_model_close(r->model);
    free(r);
}

static inline int run(rig *r, uint32_t layer) {
    exchange_layer l = {
        .layer = layer,
        .n_rows = ROWS,
        .k = K,
        .rows = (const void *const *)r->rows,
        .experts = experts,
        .deadline_us = now_us() + 60000000,
    };
    return exchange_run(r->x, &l, &r->outputs, r->lost);
}

static inline void assert_all_right(const rig *r) {
    uint32_t width = r->model->config.n_embd;
    for (uint32_t i = 0; i < PAIRS; i++) {
        float value = (float)(experts[i] * 100 + 10 + i / K);
        assert_false(r->lost[i / K]);
        assert_true(r->outputs.rows[i][0] == value);
        assert_true(r->outputs.rows[i][width - 1] == value);
    }
}

/* Every pair has its slices' rows, one after the other. */
static inline void assert_all_slices_right(const rig *r, uint32_t slices) {
    assert_int_equal(r->outputs.slices, slices);
    for (uint32_t i = 0; i < PAIRS * slices; i++) {
        uint32_t pair = i / slices, unit = experts[pair] * slices + i % slices;
        float value = (float)(unit * 100 + 10 + pair / K);
        assert_false(r->lost[pair / K]);
        assert_true(r->outputs.rows[i][0] == value);
    }
}

static inline dispatch_stats totals(rig *r) {
    dispatch_stats s;
    exchange_totals(r->x, &s);
    return s;
}

#define BOTH 3u
#define PATIENT 30000000u
#define HASTY 150000u

#endif
