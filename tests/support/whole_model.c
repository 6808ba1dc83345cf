/* whole_model.c - see whole_model.h. */
#include "tests/support/whole_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "coordinator/forward.h"
#include "discovery/holdings.h"
#include "engine/blas.h"
#include "engine/err.h"
#include "engine/fingerprint.h"
#include "engine/gguf_internal.h"
#include "engine/manifest.h"
#include "engine/tokenizer.h"

#define KV_BYTES ((uint64_t)64 << 20)
#define MAX_CONTEXT 512
#define MAX_ROWS 8
#define MAX_IDS 64

typedef struct {
    gguf *file;
    model_config config;
    manifest *checks;
    tokenizer *words;
    weights *weights;
    pool *threads;
    kv_cache *kv;
    local_experts *local;
    identity self;
    exchange *experts;
    forward *forward;
    holdings held;
    expert_store *store;
    char *why;
    size_t why_size;
} whole;

/* The sentence of a step that has only a code, as the programs print it. */
static int say(const whole *w, int rc, const char *what) {
    if (rc >= 0 || *w->why != '\0') return rc;
    return err_why(w->why, w->why_size, rc, "%s: %s", what, err_text(rc));
}

static int open_file(whole *w, const void *bytes, size_t n) {
    int fd = memfd_create("model", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n) abort();
    return gguf_open_fd(&w->file, fd, "hostile.gguf", w->why, w->why_size);
}

/* ---- the coordinator ---- */

static int open_model(whole *w) {
    fingerprint print;
    int rc = model_read(&w->config, w->file, w->why, w->why_size);
    if (rc < 0) return rc;
    rc = manifest_open(&w->checks, w->file, false, w->why, w->why_size);
    if (rc < 0) return rc;
    rc = say(w, fingerprint_of(w->file, w->checks, &print), "fingerprint");
    if (rc < 0) return rc;
    rc = tokenizer_new(&w->words, w->file, w->why, w->why_size);
    if (rc < 0) return say(w, rc, "tokenizer");
    if ((uint32_t)tokenizer_n_vocab(w->words) > w->config.n_vocab) {
        return err_why(w->why, w->why_size, ERR_FORMAT,
                       "the tokenizer has %d tokens, the embedding %u rows",
                       tokenizer_n_vocab(w->words), w->config.n_vocab);
    }
    return weights_load(&w->weights, w->file, &w->config, NULL, w->why,
                        w->why_size);
}

static int open_kv(whole *w) {
    kv_config k = forward_kv(&w->config, KV_F16);
    uint64_t page = kv_page_bytes(&k);
    if (page == 0) return say(w, ERR_RANGE, "KV cache");
    uint64_t wanted = MAX_CONTEXT / KV_PAGE, fit = KV_BYTES / page;
    k.n_pages = (uint32_t)(fit < wanted ? fit : wanted);
    if (k.n_pages == 0) return say(w, ERR_TOO_LARGE, "KV cache");
    return say(w, kv_cache_new(&w->kv, &k), "KV cache");
}

static int open_experts(whole *w) {
    const model_config *m = &w->weights->config;
    uint32_t max_pairs = MAX_ROWS * (m->n_used > 0 ? m->n_used : 1);
    local_config l = {.g = w->file,
                      .model = m,
                      .checks = w->checks,
                      .threads = w->threads,
                      .budget_bytes = UINT64_MAX,
                      .max_pairs = max_pairs};
    int rc = local_experts_new(&w->local, &l, w->why, w->why_size);
    if (rc == 0) rc = local_experts_load_all(w->local, w->why, w->why_size);
    if (rc < 0) return say(w, rc, "experts");

    snprintf(w->self.cluster, sizeof(w->self.cluster), "hostile");
    exchange_config x = {
        .self = &w->self,
        .model = m,
        .local = w->local,
        .dispatch = {.max_pairs = max_pairs,
                     .reply_row_bytes = m->n_embd * sizeof(float),
                     .piece_bytes = 1 << 20,
                     .credit_bytes = 16 << 20,
                     .hedge_min_us = 100000,
                     .hedge_factor = 6,
                     .patience_us = 1000000,
                     .local = true},
        .max_rows = MAX_ROWS};
    return say(w, exchange_new(&w->experts, &x), "exchange");
}

/* A rack without nodes: everything is computed here. */
static int post_rack(whole *w) {
    placement *where = NULL;
    rack *r = NULL;
    const placement_shape shape = {.epoch = 1,
                                   .n_layers = w->config.n_layers,
                                   .n_experts = w->config.n_experts};
    int rc = placement_new(&where, &shape, NULL, 0);
    if (rc == 0) rc = rack_new(&r, where, NULL, 0);
    if (rc == 0) exchange_post(w->experts, r);
    return say(w, rc, "rack");
}

static int open_forward(whole *w) {
    forward_config f = {.weights = w->weights,
                        .experts = w->experts,
                        .forms = w->local,
                        .threads = w->threads,
                        .kv = w->kv,
                        .max_rows = MAX_ROWS,
                        .max_items = 1};
    return say(w, forward_new(&w->forward, &f), "forward");
}

static int open_coordinator(whole *w) {
    int rc = open_model(w);
    if (rc == 0) rc = say(w, pool_new(&w->threads, 1), "threads");
    if (rc == 0) rc = open_kv(w);
    if (rc == 0) rc = open_experts(w);
    if (rc == 0) rc = post_rack(w);
    if (rc == 0) rc = open_forward(w);
    return rc;
}

/* ---- the first tokens ---- */

/* Text to tokens and back; returns how many there are. */
static int encode(whole *w, int32_t *ids, size_t *n) {
    static const char text[] = "The quick brown f\xc3\xb6x 123 </s> <unk>\n";
    char back[1024];
    size_t n_back;
    int rc = tokenizer_encode(w->words, text, sizeof(text) - 1, true, true, ids,
                              MAX_IDS, n);
    if (rc < 0) return say(w, rc, "encode");
    for (size_t i = 0; i < *n; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer_n_vocab(w->words)) abort();
    }
    rc = tokenizer_decode(w->words, ids, *n, true, back, sizeof(back), &n_back);
    return say(w, rc == ERR_RANGE ? 0 : rc, "decode"); /* long tokens */
}

static int run(whole *w) {
    int32_t ids[MAX_IDS];
    uint32_t tokens[MAX_ROWS], n_rows = 0;
    size_t n = 0;
    int rc = encode(w, ids, &n);
    if (rc < 0) return rc;
    for (; n_rows < MAX_ROWS && n_rows < n; n_rows++)
        tokens[n_rows] = (uint32_t)ids[n_rows];
    if (n_rows == 0) return 0;

    kv_seq seq = {0};
    rc = say(w, kv_reserve(w->kv, &seq, n_rows), "reserve");
    forward_item item = {.tokens = tokens, .n_rows = n_rows, .kv = &seq};
    if (rc == 0) rc = say(w, forward_run(w->forward, &item, 1, 0), "run");
    if (rc == 0) {
        const float *logits[1];
        forward_logits(w->forward, &(uint32_t){n_rows - 1}, 1, logits);
        volatile float sink = logits[0][w->config.n_vocab - 1];
        (void)sink;
    }
    kv_release(w->kv, &seq);
    return rc;
}

/* ---- the node ---- */

static int open_node(whole *w) {
    const model_config *m = &w->config;
    int rc = holdings_init(&w->held, m->n_layers, m->n_experts);
    if (rc == 0 && m->n_experts > 0) rc = holdings_add_share(&w->held, 1, 2, 1);
    if (rc < 0) return say(w, rc, "holdings");
    const expert_store_config store = {
        .g = w->file, .model = m, .checks = w->checks};
    rc = expert_store_new(&w->store, &store, w->why, w->why_size);
    for (uint32_t l = 0; l < m->n_layers && rc == 0; l++) {
        for (uint32_t e = 0; e < m->n_experts && rc == 0; e++) {
            if (!model_is_moe(m, l) || !holdings_has(&w->held, l, e)) continue;
            rc = expert_store_load(w->store, l, e, w->why, w->why_size);
        }
    }
    return say(w, rc, "expert store");
}

static void close_all(whole *w) {
    expert_store_free(w->store);
    holdings_fini(&w->held);
    forward_free(w->forward);
    exchange_free(w->experts);
    local_experts_free(w->local);
    kv_cache_free(w->kv);
    pool_free(w->threads);
    weights_free(w->weights);
    tokenizer_free(w->words);
    manifest_close(w->checks);
    gguf_close(w->file);
}

int whole_model_try(const void *bytes, size_t n, char *why, size_t why_size) {
    static bool blas_ready;
    whole w = {.why = why, .why_size = why_size};
    why[0] = '\0';
    if (!blas_ready && blas_open(why, why_size) < 0) abort();
    blas_ready = true;

    int rc = open_file(&w, bytes, n);
    if (rc == 0) rc = open_coordinator(&w);
    if (rc == 0) rc = run(&w);
    if (rc == 0) rc = open_node(&w);
    close_all(&w);
    return rc;
}
