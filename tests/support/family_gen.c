/* family_gen.c - see family_gen.h.
 *
 * A family is a row: keys as they stand in the file, and the features that
 * decide which tensors there are.  Nothing here is taken from the code under
 * test, which reads both. */
#include "tests/support/family_gen.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/model_gen_internal.h"

enum {
    WIDTH = 64,
    HEADS = 4,
    KV_HEADS = 2,
    HEAD = 32,
    EXPERTS = 8,
    USED = 3,
    EXPERT = 128, /* hidden widths */
    DENSE = 96,
    SHARED = 64,
    VOCAB = 160,
    ROPE_LATENT = 16, /* sizes of latent attention */
    NOPE = 32,
    VALUE = 32,
    LATENT = 64,
    Q_LATENT = 64,
};

/* Which tensors a family has. */
enum {
    QKV_BIAS = 1 << 0,
    OUTPUT_BIAS = 1 << 1, /* of attention */
    FUSED_QKV = 1 << 2,
    HEAD_NORMS = 1 << 3,
    WHOLE_NORMS = 1 << 4,
    SINKS = 1 << 5,
    NORM_BIAS = 1 << 6,
    LOGIT_BIAS = 1 << 7,
    TIED = 1 << 8,
    FACTORS = 1 << 9,
    SHARED_EXPERT = 1 << 10,
    SHARED_GATE = 1 << 11,
    CHOICE_BIAS = 1 << 12,
    ROUTER_BIAS = 1 << 13,
    EXPERT_BIAS = 1 << 14,
    DENSE_BESIDE = 1 << 15,
    LOW_Q = 1 << 16,
    LATENT_SPLIT = 1 << 17,
    LATENT_WHOLE = 1 << 18,
};

typedef struct {
    const char *rest;
    char kind; /* u, f, b or s */
    double value;
    const char *text;
} key;

#define U(rest, value)                                                         \
    { rest, 'u', value, NULL }
#define F(rest, value)                                                         \
    { rest, 'f', value, NULL }
#define B(rest, value)                                                         \
    { rest, 'b', value, NULL }
#define S(rest, text)                                                          \
    { rest, 's', 0, text }

typedef struct {
    const char *name, *arch;
    uint32_t features;
    uint32_t n_layers;    /* of the file */
    uint32_t n_dense;     /* leading ones */
    uint32_t period;      /* then the last of so many has experts; 0: all */
    const char *norms[3]; /* of n_embd, beside attn_norm; the first is that
                             before the FFN */
    key keys[20];
} family;

#define EXPERT_KEY U("expert_feed_forward_length", EXPERT)
#define EXPERT_IS_DENSE U("feed_forward_length", EXPERT)
#define DENSE_KEY U("feed_forward_length", DENSE)
#define HEAD_KEYS                                                              \
    U("attention.key_length", HEAD), U("attention.value_length", HEAD)
#define PARTIAL U("rope.dimension_count", HEAD / 2)
#define YARN                                                                   \
    S("rope.scaling.type", "yarn"), F("rope.scaling.factor", 32),              \
        U("rope.scaling.original_context_length", 256)
#define LATENT_KEYS                                                            \
    U("attention.kv_lora_rank", LATENT),                                       \
        U("rope.dimension_count", ROPE_LATENT),                                \
        U("attention.key_length_mla", NOPE + ROPE_LATENT),                     \
        U("attention.value_length_mla", VALUE)
#define GROUP_KEYS                                                             \
    U("expert_gating_func", 2), B("expert_weights_norm", 1),                   \
        F("expert_weights_scale", 2.5), U("expert_group_count", 4),            \
        U("expert_group_used_count", 2)

/* clang-format off */
static const family families[] = {
    {"qwen2moe", "qwen2moe", QKV_BIAS | SHARED_EXPERT | SHARED_GATE, 2, 0, 0,
     {"ffn_norm"},
     {EXPERT_KEY, U("expert_shared_feed_forward_length", SHARED)}},
    {"olmoe", "olmoe", WHOLE_NORMS, 2, 0, 0, {"ffn_norm"}, {EXPERT_IS_DENSE}},
    {"glm4moe", "glm4moe",
     QKV_BIAS | HEAD_NORMS | SHARED_EXPERT | CHOICE_BIAS, 4, 1, 0,
     {"post_attention_norm"},
     {DENSE_KEY, EXPERT_KEY, HEAD_KEYS, PARTIAL, U("expert_shared_count", 1),
      U("expert_shared_feed_forward_length", SHARED),
      U("leading_dense_block_count", 1), U("nextn_predict_layers", 1),
      B("expert_weights_norm", 1), F("expert_weights_scale", 1.5)}},
    {"granitemoe", "granitemoe", SHARED_EXPERT | TIED, 2, 0, 0, {"ffn_norm"},
     {EXPERT_IS_DENSE, F("embedding_scale", 3), F("residual_scale", 0.6),
      F("logit_scale", 3), F("attention.scale", 0.15),
      U("expert_shared_feed_forward_length", SHARED)}},
    {"ernie4_5-moe", "ernie4_5-moe", SHARED_EXPERT | CHOICE_BIAS, 4, 1, 2,
     {"ffn_norm"},
     {DENSE_KEY, EXPERT_KEY, HEAD_KEYS, U("leading_dense_block_count", 1),
      U("interleave_moe_layer_step", 2),
      U("expert_shared_feed_forward_length", SHARED)}},
    {"phimoe", "phimoe",
     QKV_BIAS | OUTPUT_BIAS | NORM_BIAS | LOGIT_BIAS | FACTORS, 2, 0, 0,
     {"ffn_norm"},
     {EXPERT_IS_DENSE, U("rope.dimension_count", WIDTH / HEADS),
      U("rope.scaling.original_context_length", 256),
      F("rope.scaling.attn_factor", 1.19)}},
    {"minimax-m2", "minimax-m2", WHOLE_NORMS | CHOICE_BIAS, 2, 0, 0,
     {"ffn_norm"}, {EXPERT_KEY, HEAD_KEYS, PARTIAL}},
    {"bailingmoe2", "bailingmoe2",
     FUSED_QKV | HEAD_NORMS | SHARED_EXPERT | CHOICE_BIAS, 3, 1, 0,
     {"ffn_norm"},
     {DENSE_KEY, EXPERT_KEY, HEAD_KEYS, PARTIAL, GROUP_KEYS,
      U("expert_shared_feed_forward_length", SHARED),
      U("leading_dense_block_count", 1)}},
    {"hunyuan-moe", "hunyuan-moe", HEAD_NORMS | SHARED_EXPERT, 2, 0, 0,
     {"ffn_norm"},
     {EXPERT_KEY, HEAD_KEYS, U("expert_shared_feed_forward_length", SHARED)}},
    {"dots1", "dots1", HEAD_NORMS | SHARED_EXPERT | CHOICE_BIAS, 3, 1, 0,
     {"ffn_norm"},
     {DENSE_KEY, EXPERT_KEY, HEAD_KEYS, U("leading_dense_block_count", 1),
      U("expert_shared_feed_forward_length", SHARED),
      B("expert_weights_norm", 1), F("expert_weights_scale", 2.5)}},
    {"deepseek", "deepseek", SHARED_EXPERT, 3, 1, 0, {"ffn_norm"},
     {DENSE_KEY, EXPERT_KEY, U("leading_dense_block_count", 1),
      U("expert_shared_feed_forward_length", SHARED),
      F("expert_weights_scale", 2)}},
    {"dbrx", "dbrx", FUSED_QKV, 2, 0, 0, {"attn_output_norm"},
     {EXPERT_IS_DENSE, F("attention.clamp_kqv", 1)}},
    {"gpt-oss", "gpt-oss",
     QKV_BIAS | OUTPUT_BIAS | SINKS | ROUTER_BIAS | EXPERT_BIAS, 4, 0, 0,
     {"post_attention_norm"},
     {EXPERT_KEY, HEAD_KEYS, YARN, U("attention.sliding_window", 9)}},
    {"llama4", "llama4", SHARED_EXPERT, 4, 0, 2, {"ffn_norm"},
     {DENSE_KEY, EXPERT_KEY, U("interleave_moe_layer_step", 2)}},
    {"grok", "grok", DENSE_BESIDE, 2, 0, 0,
     {"ffn_norm", "attn_output_norm", "post_ffw_norm"},
     {DENSE_KEY, EXPERT_KEY, F("embedding_scale", 4),
      F("attention.output_scale", 0.3), F("final_logit_softcapping", 15)}},
    {"deepseek2", "deepseek2",
     LOW_Q | LATENT_SPLIT | SHARED_EXPERT | CHOICE_BIAS, 3, 1, 0, {"ffn_norm"},
     {DENSE_KEY, EXPERT_KEY, LATENT_KEYS, GROUP_KEYS, YARN,
      F("rope.scaling.yarn_log_multiplier", 0.1),
      U("attention.q_lora_rank", Q_LATENT), U("expert_shared_count", 1),
      U("leading_dense_block_count", 1)}},
    {"deepseek2-lite", "deepseek2", LATENT_WHOLE | SHARED_EXPERT, 3, 1, 0,
     {"ffn_norm"},
     {DENSE_KEY, EXPERT_KEY, LATENT_KEYS, U("expert_shared_count", 1),
      U("leading_dense_block_count", 1), F("expert_weights_scale", 1)}},
};
/* clang-format on */

size_t family_count(void) {
    return ARRAY_LEN(families);
}

const char *family_name(size_t i) {
    return families[i].name;
}

/* ---- keys ---- */

static void put_key(gguf_writer *w, const char *arch, const key *k) {
    char name[96];
    snprintf(name, sizeof(name), "%s.%s", arch, k->rest);
    if (k->kind == 'u') gguf_writer_u32(w, name, (uint32_t)k->value);
    if (k->kind == 'f') gguf_writer_f32(w, name, (float)k->value);
    if (k->kind == 'b') gguf_writer_bool(w, name, k->value != 0);
    if (k->kind == 's') gguf_writer_string(w, name, k->text);
}

static bool has_key(const family *f, const char *rest) {
    for (size_t i = 0; i < ARRAY_LEN(f->keys); i++) {
        const char *name = f->keys[i].rest;
        if (name != NULL && strcmp(name, rest) == 0) return true;
    }
    return false;
}

static uint32_t used_experts(const family *f) {
    return strcmp(f->arch, "llama4") == 0 ? 1 : USED;
}

static void put_keys(gguf_writer *w, const family *f) {
    const key common[] = {
        U("block_count", f->n_layers),
        U("context_length", 512),
        U("embedding_length", WIDTH),
        U("attention.head_count", HEADS),
        U("attention.head_count_kv", KV_HEADS),
        F("attention.layer_norm_rms_epsilon", 1e-5),
        F("attention.layer_norm_epsilon", 1e-5),
        F("rope.freq_base", 10000),
        U("expert_count", EXPERTS),
        U("expert_used_count", used_experts(f)),
    };
    gguf_writer_string(w, "general.architecture", f->arch);
    for (size_t i = 0; i < ARRAY_LEN(common); i++)
        put_key(w, f->arch, &common[i]);
    for (size_t i = 0; i < ARRAY_LEN(f->keys) && f->keys[i].rest != NULL; i++)
        put_key(w, f->arch, &f->keys[i]);
}

/* ---- tensors ---- */

typedef struct {
    const family *f;
    gguf_writer *w;
    uint32_t type;
    uint64_t seed;
} generator;

static bool has(const generator *g, uint32_t feature) {
    return (g->f->features & feature) != 0;
}

static void add(generator *g, const char *name, uint32_t type, float mean,
                float deviation, const uint64_t dims[3]) {
    uint32_t n_dims = dims[2] > 0 ? 3 : dims[1] > 0 ? 2 : 1;
    source *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    r->mean = mean;
    r->deviation = deviation;
    for (size_t i = 0; i < 4; i++)
        r->s[i] = ++g->seed * 0x9e3779b97f4a7c15u;
    gguf_writer_tensor_fill(g->w, name, type, n_dims, dims, find_fill(type), r);
}

/* The name within the layer, in storage that the next call reuses. */
static const char *in(uint32_t layer, const char *name, const char *suffix) {
    static char text[64];
    snprintf(text, sizeof(text), "blk.%u.%s.%s", layer, name, suffix);
    return text;
}

static void matrix(generator *g, uint32_t layer, const char *name,
                   uint64_t n_in, uint64_t n_out, uint64_t n_stacked) {
    add(g, in(layer, name, "weight"), g->type, 0, 1 / sqrtf((float)n_in),
        (uint64_t[3]){n_in, n_out, n_stacked});
}

/* Values in F32 that no format rounds. */
static void floats(generator *g, const char *name, float mean, uint64_t n,
                   uint64_t rows) {
    add(g, name, WEIGHT_F32, mean, 0.2f, (uint64_t[3]){n, rows, 0});
}

static void norm(generator *g, uint32_t layer, const char *name, uint64_t n) {
    floats(g, in(layer, name, "weight"), 1, n, 0);
}

static void bias(generator *g, uint32_t layer, const char *name, uint64_t n,
                 uint64_t rows) {
    floats(g, in(layer, name, "bias"), 0, n, rows);
}

static void latent_attention(generator *g, uint32_t layer) {
    const uint64_t head = NOPE + ROPE_LATENT;
    if (has(g, LOW_Q)) {
        matrix(g, layer, "attn_q_a", WIDTH, Q_LATENT, 0);
        norm(g, layer, "attn_q_a_norm", Q_LATENT);
        matrix(g, layer, "attn_q_b", Q_LATENT, HEADS * head, 0);
    } else {
        matrix(g, layer, "attn_q", WIDTH, HEADS * head, 0);
    }
    matrix(g, layer, "attn_kv_a_mqa", WIDTH, LATENT + ROPE_LATENT, 0);
    norm(g, layer, "attn_kv_a_norm", LATENT);
    if (has(g, LATENT_SPLIT)) {
        matrix(g, layer, "attn_k_b", NOPE, LATENT, HEADS);
        matrix(g, layer, "attn_v_b", LATENT, VALUE, HEADS);
    } else {
        matrix(g, layer, "attn_kv_b", LATENT, HEADS * (NOPE + VALUE), 0);
    }
    matrix(g, layer, "attn_output", HEADS * VALUE, WIDTH, 0);
}

static void qkv(generator *g, uint32_t layer, uint64_t head) {
    const struct {
        const char *name;
        uint64_t n;
    } parts[] = {
        {"attn_q", HEADS * head},
        {"attn_k", KV_HEADS * head},
        {"attn_v", KV_HEADS * head},
        {"attn_qkv", (HEADS + 2 * KV_HEADS) * head},
    };
    size_t first = has(g, FUSED_QKV) ? 3 : 0, last = has(g, FUSED_QKV) ? 4 : 3;
    for (size_t i = first; i < last; i++) {
        matrix(g, layer, parts[i].name, WIDTH, parts[i].n, 0);
        if (has(g, QKV_BIAS)) bias(g, layer, parts[i].name, parts[i].n, 0);
    }
}

static void grouped_attention(generator *g, uint32_t layer) {
    uint64_t head =
        has_key(g->f, "attention.key_length") ? HEAD : WIDTH / HEADS;
    qkv(g, layer, head);
    if (has(g, HEAD_NORMS | WHOLE_NORMS)) {
        bool heads = has(g, HEAD_NORMS);
        norm(g, layer, "attn_q_norm", heads ? head : HEADS * head);
        norm(g, layer, "attn_k_norm", heads ? head : KV_HEADS * head);
    }
    if (has(g, SINKS)) norm(g, layer, "attn_sinks", HEADS);
    matrix(g, layer, "attn_output", HEADS * head, WIDTH, 0);
    if (has(g, OUTPUT_BIAS)) bias(g, layer, "attn_output", WIDTH, 0);
}

static void dense(generator *g, uint32_t layer, const char *suffix,
                  uint64_t n) {
    static const char *const names[] = {"ffn_gate", "ffn_up", "ffn_down"};
    for (size_t i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof(name), "%s%s", names[i], suffix);
        matrix(g, layer, name, i < 2 ? WIDTH : n, i < 2 ? n : WIDTH, 0);
    }
}

static void experts(generator *g, uint32_t layer) {
    static const char *const names[] = {"ffn_gate_exps", "ffn_up_exps",
                                        "ffn_down_exps"};
    floats(g, in(layer, "ffn_gate_inp", "weight"), 0, WIDTH, EXPERTS);
    if (has(g, ROUTER_BIAS)) bias(g, layer, "ffn_gate_inp", EXPERTS, 0);
    if (has(g, CHOICE_BIAS)) bias(g, layer, "exp_probs_b", EXPERTS, 0);
    for (size_t i = 0; i < 3; i++) {
        uint64_t n_in = i < 2 ? WIDTH : EXPERT, n_out = i < 2 ? EXPERT : WIDTH;
        matrix(g, layer, names[i], n_in, n_out, EXPERTS);
        if (has(g, EXPERT_BIAS)) bias(g, layer, names[i], n_out, EXPERTS);
    }
    if (has(g, SHARED_EXPERT)) {
        bool own = has_key(g->f, "expert_shared_feed_forward_length");
        dense(g, layer, "_shexp", own ? SHARED : EXPERT);
    }
    if (has(g, SHARED_GATE)) {
        floats(g, in(layer, "ffn_gate_inp_shexp", "weight"), 0, WIDTH, 0);
    }
    if (has(g, DENSE_BESIDE)) dense(g, layer, "", DENSE);
}

static void layer_tensors(generator *g, uint32_t layer) {
    const family *f = g->f;
    norm(g, layer, "attn_norm", WIDTH);
    for (size_t i = 0; i < ARRAY_LEN(f->norms) && f->norms[i] != NULL; i++)
        norm(g, layer, f->norms[i], WIDTH);
    if (has(g, NORM_BIAS)) {
        bias(g, layer, "attn_norm", WIDTH, 0);
        bias(g, layer, f->norms[0], WIDTH, 0);
    }
    if (has(g, LATENT_SPLIT | LATENT_WHOLE)) {
        latent_attention(g, layer);
    } else {
        grouped_attention(g, layer);
    }
    bool moe =
        layer >= f->n_dense && (f->period == 0 || (layer + 1) % f->period == 0);
    if (moe) experts(g, layer);
    if (!moe) dense(g, layer, "", DENSE);
}

static void model_tensors(generator *g) {
    const uint64_t table[3] = {WIDTH, VOCAB, 0};
    add(g, "token_embd.weight", g->type, 0, 1, table);
    if (!has(g, TIED)) add(g, "output.weight", g->type, 0, 0.125f, table);
    floats(g, "output_norm.weight", 1, WIDTH, 0);
    if (has(g, NORM_BIAS)) floats(g, "output_norm.bias", 0, WIDTH, 0);
    if (has(g, LOGIT_BIAS)) floats(g, "output.bias", 0, VOCAB, 0);
    if (has(g, FACTORS)) {
        floats(g, "rope_factors_short.weight", 2, WIDTH / HEADS / 2, 0);
        floats(g, "rope_factors_long.weight", 9, WIDTH / HEADS / 2, 0);
    }
    for (uint32_t layer = 0; layer < g->f->n_layers; layer++)
        layer_tensors(g, layer);
}

void family_gen(size_t i, uint32_t type, const char *path) {
    generator g = {&families[i], gguf_writer_new(), type, i * 1000 + 1};
    assert_non_null(g.w);
    put_keys(g.w, g.f);
    model_tensors(&g);
    assert_int_equal(gguf_writer_finish(g.w, path), 0);
    gguf_writer_free(g.w);
}
