/* shuffle.c - see shuffle.h. */
#include "tests/support/shuffle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu.h"
#include "engine/util.h"

#define MAX_ROWS 64

/* ---- a small generator of our own: the same draws everywhere ---- */

static uint64_t random_state;

static uint32_t draw(uint32_t below) {
    random_state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % below;
}

/* ---- running ---- */

typedef struct {
    kv_seq kv;
    uint32_t done;
} progress;

/* Compare, or with `learn` keep, the logits of an item's rows.  Returns the
 * number of rows that differ. */
static int check_rows(shuffle_subject *s, memory_rack *r, uint32_t seq,
                      uint32_t first_row, uint32_t from, uint32_t n,
                      bool learn) {
    uint32_t n_vocab = s->model->config.n_vocab;
    int differ = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t row = first_row + i;
        const float *logits;
        forward_logits(memory_rack_forward(r), &row, 1, &logits);
        float *expected = s->expected[seq] + (size_t)(from + i) * n_vocab;
        if (learn) {
            memcpy(expected, logits, n_vocab * sizeof(float));
        } else if (memcmp(expected, logits, n_vocab * sizeof(float)) != 0) {
            differ++;
        }
    }
    return differ;
}

/* Now and then the rack changes: no node is up, and the coordinator goes on by
 * itself with experts cut in another way; or they are back. */
static void change_rack(memory_rack *r, const holdings *held,
                        uint32_t n_nodes) {
    const holdings *list[MEMORY_RACK_NODES] = {NULL};
    uint32_t what = draw(24);
    for (uint32_t i = 0; i < n_nodes; i++)
        list[i] = draw(8) > 0 ? &held[i] : NULL;
    if (what == 0) memory_rack_post_alone(r, 1u << draw(4));
    if (what > 0 && what < 4) memory_rack_post(r, list);
}

/* Feed all sequences, each in chunks of its own, in batches of any mix. */
static int run_sequences(shuffle_subject *s, memory_rack *r,
                         const holdings *held, uint32_t n_nodes, bool learn) {
    progress p[SHUFFLE_SEQUENCES] = {{{0}, 0}};
    int differ = 0;
    for (;;) {
        if (!learn) change_rack(r, held, n_nodes);
        forward_item items[SHUFFLE_SEQUENCES];
        uint32_t owner[SHUFFLE_SEQUENCES], n_items = 0, room = MAX_ROWS;
        bool left = false;
        for (uint32_t q = 0; q < SHUFFLE_SEQUENCES; q++) {
            uint32_t rest = s->n_tokens[q] - p[q].done;
            if (rest == 0) continue;
            left = true;
            if (!learn && draw(3) == 0) continue; /* not in this batch */
            uint32_t most = draw(4) == 0 ? MAX_ROWS : 20;
            uint32_t n = learn ? rest : 1 + draw(rest < most ? rest : most);
            if (n > room) n = room;
            if (n == 0 || (learn && n_items > 0)) continue;
            assert_int_equal(
                kv_reserve(memory_rack_kv(r), &p[q].kv, p[q].done + n), 0);
            owner[n_items] = q;
            items[n_items++] =
                (forward_item){.tokens = s->tokens[q] + p[q].done,
                               .n_rows = n,
                               .first = p[q].done,
                               .kv = &p[q].kv};
            room -= n;
        }
        if (!left) break;
        if (n_items == 0) continue;
        assert_int_equal(forward_run(memory_rack_forward(r), items, n_items, 0),
                         0);
        uint32_t row = 0;
        for (uint32_t i = 0; i < n_items; i++) {
            assert_false(items[i].lost);
            uint32_t q = owner[i];
            differ +=
                check_rows(s, r, q, row, p[q].done, items[i].n_rows, learn);
            row += items[i].n_rows;
            p[q].done += items[i].n_rows;
        }
    }
    for (uint32_t q = 0; q < SHUFFLE_SEQUENCES; q++) {
        kv_release(memory_rack_kv(r), &p[q].kv);
    }
    return differ;
}

void shuffle_open(shuffle_subject *s, const char *path, uint64_t seed,
                  uint32_t most_tokens) {
    s->model = memory_model_open(path);
    uint32_t n_vocab = s->model->config.n_vocab;
    random_state = seed;
    for (uint32_t q = 0; q < SHUFFLE_SEQUENCES; q++) {
        s->n_tokens[q] = most_tokens / (q + 1);
        for (uint32_t t = 0; t < s->n_tokens[q]; t++) {
            s->tokens[q][t] = draw(n_vocab);
        }
        s->expected[q] =
            calloc((size_t)s->n_tokens[q] * n_vocab, sizeof(float));
        assert_non_null(s->expected[q]);
    }
}

void shuffle_close(shuffle_subject *s) {
    for (uint32_t q = 0; q < SHUFFLE_SEQUENCES; q++) {
        free(s->expected[q]);
    }
    memory_model_close(s->model);
}

void shuffle_learn(shuffle_subject *s) {
    assert_int_equal(cpu_force(CPU_SCALAR), 0);
    memory_rack_config c = {.threads = 1,
                            .micro_batches = 1,
                            .exact = s->exact,
                            .local = true,
                            .kv = s->kv,
                            .max_rows = MAX_ROWS,
                            .piece_bytes = 1 << 20,
                            .credit_bytes = 16 << 20};
    memory_rack *r = memory_rack_open(s->model, &c);
    assert_int_equal(run_sequences(s, r, NULL, 0, true), 0);
    memory_rack_close(r);
}

/* Every unit on at least one node or, now and then, on none: then it is
 * computed by the coordinator. */
static void draw_holdings(const shuffle_subject *s, holdings *held,
                          uint32_t n_nodes, uint32_t slices) {
    const model_config *m = &s->model->config;
    const expert_store *store = memory_model_store(s->model, slices);
    for (uint32_t i = 0; i < n_nodes; i++) {
        assert_int_equal(
            holdings_init_slices(&held[i], m->n_layers, m->n_experts, slices),
            0);
    }
    for (uint32_t l = 0; l < m->n_layers && n_nodes > 0; l++) {
        for (uint32_t u = 0; u < expert_store_units(store, l); u++) {
            if (draw(16) == 0) continue;
            uint32_t copies = 1 + draw(n_nodes);
            for (uint32_t i = 0; i < copies; i++) {
                holdings_add(&held[draw(n_nodes)], l, u);
            }
        }
    }
}

int shuffle_run(shuffle_subject *s, uint64_t seed) {
    random_state = seed * 1000003;
    uint32_t n_nodes = draw(4), slices = 1u << draw(4);
    holdings held[MEMORY_RACK_NODES];
    draw_holdings(s, held, n_nodes, slices);
    cpu_level level = (cpu_level)draw((uint32_t)cpu_best() + 1);
    assert_int_equal(cpu_force(level), 0);
    memory_rack_config c = {
        .n_nodes = n_nodes,
        .held = held,
        .threads = 1 + draw(3),
        .exact = s->exact,
        .local = true,
        .kv = s->kv,
        .max_rows = MAX_ROWS,
        .piece_bytes = (uint64_t)1 << (12 + draw(9)),
        .credit_bytes = (uint64_t)1 << (16 + draw(9)),
        .split_gain = draw(2) * 1000000, /* whether it pays or not */
        .micro_batches = draw(3),
    };
    memory_rack *r = memory_rack_open(s->model, &c);
    int differ = run_sequences(s, r, held, n_nodes, false);
    dispatch_stats stats;
    exchange_totals(memory_rack_exchange(r), &stats);
    s->splits += stats.splits;
    memory_rack_close(r);
    for (uint32_t i = 0; i < n_nodes; i++) {
        holdings_fini(&held[i]);
    }
    if (differ > 0) {
        print_message("seed %llu: %d rows differ (%u nodes, %u slices, %u "
                      "threads, %u micro-batches, %s)\n",
                      (unsigned long long)seed, differ, n_nodes, slices,
                      c.threads, c.micro_batches, cpu_name(level));
    }
    return differ;
}

uint32_t shuffle_count(uint32_t usual) {
    const char *text = getenv("ROSTER_SHUFFLES");
    if (text != NULL) return (uint32_t)atoi(text);
    bool quick = getenv("ROSTER_TEST_QUICK") != NULL;
    return quick ? (usual + 7) / 8 : usual;
}

void shuffle_model(const char *path, uint32_t most_tokens, uint32_t n,
                   kv_type kv, bool exact) {
    shuffle_subject s = {.kv = kv, .exact = exact};
    shuffle_open(&s, path, 1, most_tokens);
    shuffle_learn(&s);
    int differ = 0;
    for (uint64_t seed = 1; seed <= n; seed++) {
        differ += shuffle_run(&s, seed);
    }
    shuffle_close(&s);
    if (differ > 0) print_message("%s\n", path);
    assert_int_equal(differ, 0);
}
