/* model_gen.c - see model_gen.h.
 *
 * What an architecture has beside attention and experts is a row of a table,
 * and its keys are another's.  The values are model_gen_values.c's. */
#include "tests/support/model_gen.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/model_gen_internal.h"

#define MAX_LAYERS 10000
#define MAX_VOCAB 10000000

/* ---- architectures ---- */

typedef struct {
    const char *name, *ffn_norm;
    float eps;
    bool has_dense;    /* a model without experts is possible */
    bool head_norms;   /* of q and k, with weights */
    bool biases;       /* of attention, router and experts; and sinks */
    bool shared;       /* a shared expert, as wide as the others */
    bool dense_beside; /* a dense network beside the experts */
    bool post_norms;
    bool latent;           /* attention; and routing in groups */
    uint32_t dense_layers; /* at the begin, whatever the others have */
    uint32_t moe_period;   /* experts are in the last layer of so many */
    bool expert_key;       /* expert_feed_forward_length */
} traits;

static const traits archs[] = {
    {.name = "llama",
     .ffn_norm = "ffn_norm",
     .eps = 1e-5f,
     .has_dense = true,
     .moe_period = 1},
    {.name = "qwen3moe",
     .ffn_norm = "ffn_norm",
     .eps = 1e-6f,
     .head_norms = true,
     .moe_period = 1,
     .expert_key = true},
    {.name = "gpt-oss",
     .ffn_norm = "post_attention_norm",
     .eps = 1e-5f,
     .biases = true,
     .moe_period = 1,
     .expert_key = true},
    {.name = "llama4",
     .ffn_norm = "ffn_norm",
     .eps = 1e-5f,
     .shared = true,
     .moe_period = 2,
     .expert_key = true},
    {.name = "grok",
     .ffn_norm = "ffn_norm",
     .eps = 1e-5f,
     .dense_beside = true,
     .post_norms = true,
     .moe_period = 1,
     .expert_key = true},
    {.name = "deepseek2",
     .ffn_norm = "ffn_norm",
     .eps = 1e-6f,
     .shared = true,
     .latent = true,
     .dense_layers = 1,
     .moe_period = 1,
     .expert_key = true},
};

/* Keys that only one of them has. */
static const struct {
    const char *arch, *rest;
    uint32_t value;
} own_keys[] = {
    {"gpt-oss", "attention.sliding_window", 24},
    {"llama4", "interleave_moe_layer_step", 2},
    {"deepseek2", "leading_dense_block_count", 1},
    {"deepseek2", "expert_shared_count", 1},
    {"deepseek2", "expert_gating_func", 2},
    {"deepseek2", "expert_group_count", 2},
    {"deepseek2", "expert_group_used_count", 1},
    {"deepseek2", "rope.scaling.original_context_length", 64},
};

static const traits *find_arch(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(archs); i++) {
        if (strcmp(archs[i].name, name) == 0) return &archs[i];
    }
    return NULL;
}

/* ---- skewed routing ---- */

/* Rows whose first values are given, in F32 or F16. */
typedef struct {
    source random;
    uint64_t at; /* values written */
    uint32_t width, n_rows, n_first;
    float first[]; /* [n_rows * n_first], for row r % n_rows */
} skewed_source;

static float next_skewed(skewed_source *s) {
    uint64_t row = s->at / s->width, column = s->at % s->width;
    float value = next_value(&s->random); /* drawn in any case */
    s->at++;
    if (column >= s->n_first) return value;
    return s->first[row % s->n_rows * s->n_first + column];
}

static void fill_skewed_f32(void *context, size_t bytes, void *out) {
    float *x = out;
    for (size_t i = 0; i < bytes / sizeof(*x); i++)
        x[i] = next_skewed(context);
}

static void fill_skewed_f16(void *context, size_t bytes, void *out) {
    uint16_t *x = out;
    for (size_t i = 0; i < bytes / sizeof(*x); i++)
        x[i] = f32_to_f16(next_skewed(context));
}

/* ---- tensors ---- */

typedef struct {
    const model_shape *shape;
    const traits *arch;
    gguf_writer *w;
    bool no_memory;
} generator;

static void seed_source(const generator *g, const char *name, source *r) {
    for (uint64_t i = 0; i < 4; i++)
        r->s[i] =
            XXH3_64bits_withSeed(name, strlen(name), g->shape->seed * 4 + i);
}

static void add(generator *g, const char *name, uint32_t type, float mean,
                float deviation, uint32_t n_dims, const uint64_t *dims) {
    source *r = calloc(1, sizeof(*r));
    if (r == NULL) {
        g->no_memory = true;
        return;
    }
    r->mean = mean;
    r->deviation = deviation;
    seed_source(g, name, r);
    gguf_writer_tensor_fill(g->w, name, type, n_dims, dims, find_fill(type), r);
}

/* For rows of the model's width whose first values, one for each hot set, are
 * the caller's to set; NULL without memory. */
static skewed_source *new_skewed(generator *g, const char *name,
                                 float deviation, uint32_t n_rows) {
    size_t n = (size_t)n_rows * g->shape->hot_sets;
    skewed_source *r = calloc(1, sizeof(*r) + n * sizeof(r->first[0]));
    if (r == NULL) {
        g->no_memory = true;
        return NULL;
    }
    r->random.deviation = deviation;
    r->width = g->shape->width;
    r->n_rows = n_rows;
    r->n_first = g->shape->hot_sets;
    seed_source(g, name, &r->random);
    return r;
}

/* Log-popularities of mean 0, shuffled, over the constant that is read. */
static void rank_experts(const model_shape *s, skewed_source *r, uint32_t set) {
    double mean = 0;
    uint32_t n = s->n_experts;
    float *first = r->first + set;
    for (uint32_t e = 0; e < n; e++)
        mean -= s->skew * log(e + 1) / n;
    for (uint32_t e = 0; e < n; e++) {
        double hot = -s->skew * log(e + 1) - mean;
        first[e * r->n_first] = (float)(hot / sqrt(s->width));
    }
    for (uint32_t e = n - 1; e > 0; e--) {
        uint32_t other = (uint32_t)(next_u64(&r->random) % (e + 1));
        float held = first[e * r->n_first];
        first[e * r->n_first] = first[other * r->n_first];
        first[other * r->n_first] = held;
    }
}

static void add_router(generator *g, const char *name) {
    const model_shape *s = g->shape;
    const uint64_t dims[2] = {s->width, s->n_experts};
    float deviation = 1.5f / sqrtf((float)s->width);
    if (s->skew == 0) {
        add(g, name, WEIGHT_F32, 0.0f, deviation, 2, dims);
        return;
    }
    skewed_source *r = new_skewed(g, name, deviation, s->n_experts);
    if (r == NULL) return;
    for (uint32_t set = 0; set < s->hot_sets; set++)
        rank_experts(s, r, set);
    gguf_writer_tensor_fill(g->w, name, WEIGHT_F32, 2, dims, fill_skewed_f32,
                            r);
}

static void add_embeddings(generator *g) {
    static const char name[] = "token_embd.weight";
    const model_shape *s = g->shape;
    const uint64_t dims[2] = {s->width, s->n_vocab};
    float size = 4.0f * sqrtf((float)s->n_layers);
    if (s->skew == 0) {
        add(g, name, s->type, 0.0f, size, 2, dims);
        return;
    }
    skewed_source *r = new_skewed(g, name, size, s->n_vocab);
    if (r == NULL) return;
    for (uint32_t token = 0; token < s->n_vocab; token++) {
        uint32_t set = (uint32_t)((uint64_t)token * s->hot_sets / s->n_vocab);
        r->first[token * s->hot_sets + set] = size * sqrtf((float)s->width);
    }
    gguf_writer_tensor_fill(g->w, name, WEIGHT_F16, 2, dims, fill_skewed_f16,
                            r);
}

/* A matrix, or a stack of them; its products keep their input's size. */
static void add_typed(generator *g, const char *name, uint32_t type,
                      uint64_t n_in, uint64_t n_out, uint64_t n_stacked) {
    const uint64_t dims[3] = {n_in, n_out, n_stacked};
    add(g, name, type, 0.0f, 1.0f / sqrtf((float)n_in), n_stacked > 0 ? 3 : 2,
        dims);
}

static void add_matrix(generator *g, const char *name, uint64_t n_in,
                       uint64_t n_out) {
    add_typed(g, name, g->shape->type, n_in, n_out, 0);
}

static void add_norm(generator *g, const char *name, uint64_t n) {
    add(g, name, WEIGHT_F32, 1.0f, 0.1f, 1, &n);
}

/* A vector, or one for each expert. */
static void add_bias(generator *g, const char *name, uint64_t n,
                     uint64_t n_stacked) {
    const uint64_t dims[2] = {n, n_stacked};
    add(g, name, WEIGHT_F32, 0.0f, 0.3f, n_stacked > 0 ? 2 : 1, dims);
}

/* "blk.3.attn_q.weight", in storage that the next call reuses. */
static const char *named(uint32_t layer, const char *name, const char *suffix) {
    static char text[64];
    snprintf(text, sizeof(text), "blk.%u.%s.%s", layer, name, suffix);
    return text;
}

static const char *in_layer(uint32_t layer, const char *name) {
    return named(layer, name, "weight");
}

static const char *bias_of(uint32_t layer, const char *name) {
    return named(layer, name, "bias");
}

static void add_attention_biases(generator *g, uint32_t layer, uint64_t q,
                                 uint64_t kv) {
    add_bias(g, bias_of(layer, "attn_q"), q, 0);
    add_bias(g, bias_of(layer, "attn_k"), kv, 0);
    add_bias(g, bias_of(layer, "attn_v"), kv, 0);
    add_bias(g, bias_of(layer, "attn_output"), g->shape->width, 0);
    add_bias(g, in_layer(layer, "attn_sinks"), g->shape->n_heads, 0);
}

/* Sizes of latent attention: of what rotates, and of the latents. */
static uint32_t rope_dim(const model_shape *s) {
    return s->head_dim / 2;
}
static uint32_t latent_dim(const model_shape *s) {
    return s->head_dim * 2;
}

static void add_latent(generator *g, uint32_t layer) {
    const model_shape *s = g->shape;
    const uint64_t rank = latent_dim(s), turned = rope_dim(s);
    const uint64_t heads = s->n_heads, dim = s->head_dim;

    add_norm(g, in_layer(layer, "attn_norm"), s->width);
    add_matrix(g, in_layer(layer, "attn_q_a"), s->width, s->width);
    add_norm(g, in_layer(layer, "attn_q_a_norm"), s->width);
    add_matrix(g, in_layer(layer, "attn_q_b"), s->width,
               heads * (dim + turned));
    add_matrix(g, in_layer(layer, "attn_kv_a_mqa"), s->width, rank + turned);
    add_norm(g, in_layer(layer, "attn_kv_a_norm"), rank);
    if (s->unsplit) {
        add_matrix(g, in_layer(layer, "attn_kv_b"), rank, heads * 2 * dim);
    } else {
        add_typed(g, in_layer(layer, "attn_k_b"), s->type, dim, rank, heads);
        add_typed(g, in_layer(layer, "attn_v_b"), s->type, rank, dim, heads);
    }
    add_matrix(g, in_layer(layer, "attn_output"), heads * dim, s->width);
}

static void add_attention(generator *g, uint32_t layer) {
    const model_shape *s = g->shape;
    if (g->arch->latent) {
        add_latent(g, layer);
        return;
    }
    uint64_t q = (uint64_t)s->n_heads * s->head_dim;
    uint64_t kv = (uint64_t)s->n_kv_heads * s->head_dim;

    add_norm(g, in_layer(layer, "attn_norm"), s->width);
    add_matrix(g, in_layer(layer, "attn_q"), s->width, q);
    add_matrix(g, in_layer(layer, "attn_k"), s->width, kv);
    add_matrix(g, in_layer(layer, "attn_v"), s->width, kv);
    add_matrix(g, in_layer(layer, "attn_output"), q, s->width);
    if (g->arch->head_norms) {
        add_norm(g, in_layer(layer, "attn_q_norm"), s->head_dim);
        add_norm(g, in_layer(layer, "attn_k_norm"), s->head_dim);
    }
    if (g->arch->biases) add_attention_biases(g, layer, q, kv);
    if (g->arch->post_norms) {
        add_norm(g, in_layer(layer, "attn_output_norm"), s->width);
        add_norm(g, in_layer(layer, "post_ffw_norm"), s->width);
    }
}

/* Gate, up and down of a network of the experts' width, by these names. */
static void add_network(generator *g, uint32_t layer,
                        const char *const names[3]) {
    const model_shape *s = g->shape;
    add_matrix(g, in_layer(layer, names[0]), s->width, s->expert_width);
    add_matrix(g, in_layer(layer, names[1]), s->width, s->expert_width);
    add_matrix(g, in_layer(layer, names[2]), s->expert_width, s->width);
}

/* Two stacks in one: of each expert, a matrix of the first, then one of the
 * second.  The values are those that the two have by themselves. */
typedef struct {
    source of[2];
    gguf_fill fill;
    uint64_t at, matrix_bytes;
} merged_source;

static void fill_merged(void *context, size_t bytes, void *out) {
    merged_source *m = context;
    uint8_t *to = out;
    while (bytes > 0) {
        uint64_t left = m->matrix_bytes - m->at % m->matrix_bytes;
        size_t n = (size_t)size_min(bytes, left);
        m->fill(&m->of[m->at / m->matrix_bytes % 2], n, to);
        m->at += n;
        to += n;
        bytes -= n;
    }
}

/* gate_exps and up_exps as gate_up_exps: weights [n_in, n_out], or, with 0
 * n_in, biases [n_out]. */
static void add_merged(generator *g, uint32_t layer, const char *suffix,
                       uint32_t type, float deviation, uint64_t n_in,
                       uint64_t n_out) {
    const uint64_t n = g->shape->n_experts;
    const uint64_t weights[3] = {n_in, 2 * n_out, n},
                   biases[2] = {2 * n_out, n};
    merged_source *m = calloc(1, sizeof(*m));
    if (m == NULL) {
        g->no_memory = true;
        return;
    }
    size_t len, bytes;
    weight_type_size(type, &len, &bytes);
    m->matrix_bytes = (n_in > 0 ? n_in : 1) * n_out / len * bytes;
    m->fill = find_fill(type);
    m->of[0].deviation = m->of[1].deviation = deviation;
    seed_source(g, named(layer, "ffn_gate_exps", suffix), &m->of[0]);
    seed_source(g, named(layer, "ffn_up_exps", suffix), &m->of[1]);
    gguf_writer_tensor_fill(g->w, named(layer, "ffn_gate_up_exps", suffix),
                            type, n_in > 0 ? 3 : 2, n_in > 0 ? weights : biases,
                            fill_merged, m);
}

static void add_expert_biases(generator *g, uint32_t layer) {
    const model_shape *s = g->shape;
    add_bias(g, bias_of(layer, "ffn_gate_inp"), s->n_experts, 0);
    if (s->merged) {
        add_merged(g, layer, "bias", WEIGHT_F32, 0.3f, 0, s->expert_width);
    } else {
        add_bias(g, bias_of(layer, "ffn_gate_exps"), s->expert_width,
                 s->n_experts);
        add_bias(g, bias_of(layer, "ffn_up_exps"), s->expert_width,
                 s->n_experts);
    }
    add_bias(g, bias_of(layer, "ffn_down_exps"), s->width, s->n_experts);
}

static void add_experts(generator *g, uint32_t layer) {
    const model_shape *s = g->shape;
    uint64_t n = s->n_experts, hidden = s->expert_width;
    bool other = layer % 2 == 1 && s->odd_type != 0;
    uint32_t type = other ? s->odd_type : s->type;
    uint32_t down = !other && s->down_type != 0 ? s->down_type : type;
    if (s->merged) {
        add_merged(g, layer, "weight", type, 1.0f / sqrtf((float)s->width),
                   s->width, hidden);
    } else {
        add_typed(g, in_layer(layer, "ffn_gate_exps"), type, s->width, hidden,
                  n);
        add_typed(g, in_layer(layer, "ffn_up_exps"), type, s->width, hidden, n);
    }
    add_typed(g, in_layer(layer, "ffn_down_exps"), down, hidden, s->width, n);
    if (g->arch->biases) add_expert_biases(g, layer);
}

static void add_ffn(generator *g, uint32_t layer) {
    static const char *const dense[] = {"ffn_gate", "ffn_up", "ffn_down"};
    static const char *const shared[] = {"ffn_gate_shexp", "ffn_up_shexp",
                                         "ffn_down_shexp"};
    bool moe = g->shape->n_experts > 0 && layer >= g->arch->dense_layers &&
               (layer + 1) % g->arch->moe_period == 0;

    add_norm(g, in_layer(layer, g->arch->ffn_norm), g->shape->width);
    if (!moe || g->arch->dense_beside) add_network(g, layer, dense);
    if (!moe) return;
    add_router(g, in_layer(layer, "ffn_gate_inp"));
    if (g->arch->latent)
        add_bias(g, bias_of(layer, "exp_probs_b"), g->shape->n_experts, 0);
    add_experts(g, layer);
    if (g->arch->shared) add_network(g, layer, shared);
}

static void add_tensors(generator *g) {
    const model_shape *s = g->shape;
    add_embeddings(g);
    add_norm(g, "output_norm.weight", s->width);
    add_matrix(g, "output.weight", s->width, s->n_vocab);
    for (uint32_t layer = 0; layer < s->n_layers; layer++) {
        add_attention(g, layer);
        add_ffn(g, layer);
    }
}

/* ---- metadata ---- */

static void put_u32(generator *g, const char *name, uint32_t value) {
    char key[96];
    snprintf(key, sizeof(key), "%s.%s", g->shape->arch, name);
    gguf_writer_u32(g->w, key, value);
}

static void put_f32(generator *g, const char *name, float value) {
    char key[96];
    snprintf(key, sizeof(key), "%s.%s", g->shape->arch, name);
    gguf_writer_f32(g->w, key, value);
}

/* New files say what is cached, and the heads' own sizes apart. */
static void add_latent_keys(generator *g) {
    const model_shape *s = g->shape;
    uint32_t key = s->head_dim + rope_dim(s);
    uint32_t cached = latent_dim(s) + rope_dim(s);

    put_u32(g, "attention.head_count_kv", s->unsplit ? s->n_heads : 1);
    put_u32(g, "attention.key_length", s->unsplit ? key : cached);
    put_u32(g, "attention.value_length",
            s->unsplit ? s->head_dim : latent_dim(s));
    if (!s->unsplit) {
        put_u32(g, "attention.key_length_mla", key);
        put_u32(g, "attention.value_length_mla", s->head_dim);
    }
    put_u32(g, "attention.q_lora_rank", s->width);
    put_u32(g, "attention.kv_lora_rank", latent_dim(s));
    put_u32(g, "rope.dimension_count", rope_dim(s));
    gguf_writer_string(g->w, "deepseek2.rope.scaling.type", "yarn");
    put_f32(g, "rope.scaling.factor", 4.0f);
    put_f32(g, "rope.scaling.yarn_log_multiplier", 0.1f);
    gguf_writer_bool(g->w, "deepseek2.expert_weights_norm", true);
    put_f32(g, "expert_weights_scale", 2.5f);
}

static void add_head_keys(generator *g) {
    const model_shape *s = g->shape;
    put_u32(g, "attention.head_count_kv", s->n_kv_heads);
    put_u32(g, "attention.key_length", s->head_dim);
    put_u32(g, "attention.value_length", s->head_dim);
    put_u32(g, "rope.dimension_count", s->head_dim);
}

static void add_shape_keys(generator *g) {
    const model_shape *s = g->shape;

    gguf_writer_string(g->w, "general.architecture", s->arch);
    gguf_writer_string(g->w, "general.name", "random weights");
    gguf_writer_alignment(g->w, 32);
    put_u32(g, "block_count", s->n_layers);
    put_u32(g, "context_length", s->n_context);
    put_u32(g, "embedding_length", s->width);
    put_u32(g, "feed_forward_length", s->expert_width);
    put_u32(g, "attention.head_count", s->n_heads);
    put_f32(g, "attention.layer_norm_rms_epsilon", g->arch->eps);
    put_f32(g, "rope.freq_base", 1e6f);
    put_u32(g, "vocab_size", s->n_vocab);
    if (s->n_experts > 0) {
        put_u32(g, "expert_count", s->n_experts);
        put_u32(g, "expert_used_count", s->n_used);
        if (g->arch->expert_key)
            put_u32(g, "expert_feed_forward_length", s->expert_width);
    }
    if (g->arch->latent) {
        add_latent_keys(g);
    } else {
        add_head_keys(g);
    }
    for (size_t i = 0; i < ARRAY_LEN(own_keys); i++) {
        if (strcmp(own_keys[i].arch, s->arch) == 0)
            put_u32(g, own_keys[i].rest, own_keys[i].value);
    }
}

/* What `tokenizer.ggml.token_type` says of a token. */
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_BYTE = 6 };

typedef struct {
    char (*texts)[16];
    const char **tokens;
    float *scores;
    int32_t *types;
} vocabulary;

static void name_token(vocabulary *v, uint32_t i) {
    static const char *const first[] = {"<unk>", "<s>", "</s>"};
    char *text = v->texts[i];
    v->tokens[i] = text;
    v->scores[i] = 0.0f;
    if (i < 3) {
        strcpy(text, first[i]);
        v->types[i] = i == 0 ? TOKEN_UNKNOWN : TOKEN_CONTROL;
    } else if (i < MODEL_GEN_MIN_VOCAB) {
        snprintf(text, sizeof(v->texts[i]), "<0x%02X>", (i - 3) & 0xff);
        v->types[i] = TOKEN_BYTE;
    } else {
        uint32_t n = i - MODEL_GEN_MIN_VOCAB;
        snprintf(text, sizeof(v->texts[i]), "\u2581t%u", n % MAX_VOCAB);
        v->scores[i] = -(float)n;
        v->types[i] = TOKEN_NORMAL;
    }
}

static void add_vocabulary(generator *g) {
    uint32_t n = g->shape->n_vocab;
    vocabulary v = {
        .texts = calloc(n, sizeof(*v.texts)),
        .tokens = calloc(n, sizeof(*v.tokens)),
        .scores = calloc(n, sizeof(*v.scores)),
        .types = calloc(n, sizeof(*v.types)),
    };
    if (v.texts == NULL || v.tokens == NULL || v.scores == NULL ||
        v.types == NULL) {
        g->no_memory = true;
        goto done;
    }
    for (uint32_t i = 0; i < n; i++)
        name_token(&v, i);

    gguf_writer_string(g->w, "tokenizer.ggml.model", "llama");
    gguf_writer_strings(g->w, "tokenizer.ggml.tokens", n, v.tokens);
    gguf_writer_array(g->w, "tokenizer.ggml.scores", GGUF_F32, n, v.scores);
    gguf_writer_array(g->w, "tokenizer.ggml.token_type", GGUF_I32, n, v.types);
    gguf_writer_u32(g->w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(g->w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_u32(g->w, "tokenizer.ggml.unknown_token_id", 0);

done:
    free(v.texts);
    free(v.tokens);
    free(v.scores);
    free(v.types);
}

/* ---- the model ---- */

model_shape model_shape_small(void) {
    return (model_shape){
        .arch = "llama",
        .n_layers = 2,
        .width = 64,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 16,
        .expert_width = 128,
        .n_experts = 4,
        .n_used = 2,
        .n_vocab = 300,
        .n_context = 512,
        .type = WEIGHT_Q8_0,
        .seed = 1,
        .hot_sets = 1,
    };
}

/* Can a tensor of this type have rows of so many values? */
static bool fits(uint32_t type, uint64_t values) {
    size_t len, bytes;
    return find_fill(type) != NULL && weight_type_size(type, &len, &bytes) &&
           values % len == 0;
}

/* NULL, or what is wrong with the types. */
static const char *type_fault(const model_shape *s) {
    const uint32_t types[] = {s->type, s->down_type, s->odd_type};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (find_fill(types[i]) == NULL)
            return "the weight type is none that we compute with";
    }
    if (!fits(s->type, s->width) || !fits(s->type, s->expert_width) ||
        !fits(s->type, (uint64_t)s->n_heads * s->head_dim) ||
        !fits(s->down_type, s->expert_width) || !fits(s->odd_type, s->width) ||
        !fits(s->odd_type, s->expert_width)) {
        return "widths must be multiples of the weight type's block";
    }
    return NULL;
}

/* NULL, or what is wrong. */
static const char *fault(const model_shape *s) {
    const traits *arch = find_arch(s->arch);
    if (arch == NULL) {
        return "the architecture is none of llama, qwen3moe, gpt-oss, "
               "llama4, grok and deepseek2";
    }
    if (s->n_layers == 0 || s->n_layers > MAX_LAYERS || s->width == 0 ||
        s->expert_width == 0 || s->n_context == 0) {
        return "layers, width, expert width and context must not be 0";
    }
    if (s->n_kv_heads == 0 || s->n_heads % s->n_kv_heads != 0) {
        return "heads must be a multiple of KV heads";
    }
    if (s->head_dim == 0 || s->head_dim % (arch->latent ? 4 : 2) != 0) {
        return "the head dimension must be even, or a multiple of 4 if half of "
               "it rotates";
    }
    if (arch->latent && !fits(s->type, s->head_dim)) {
        return "a head must be a multiple of the weight type's block";
    }
    if (!(s->skew >= 0 && s->skew <= 8) || (s->skew > 0 && s->n_experts == 0)) {
        return "the skew must be 0 to 8, and 0 without experts";
    }
    if (s->hot_sets == 0 || s->hot_sets > 16) {
        return "there must be 1 to 16 hot sets";
    }
    if (!arch->has_dense && s->n_experts == 0) {
        return "the architecture has experts";
    }
    if (s->n_experts > 0 && (s->n_used == 0 || s->n_used > s->n_experts)) {
        return "the experts used must be 1 to the number of experts";
    }
    if (s->n_vocab < MODEL_GEN_MIN_VOCAB || s->n_vocab > MAX_VOCAB) {
        return "the vocabulary must have 259 to 10000000 tokens";
    }
    return type_fault(s);
}

int model_gen(const model_shape *shape, const char *path, char *why,
              size_t why_size) {
    const char *wrong = fault(shape);
    if (wrong != NULL) return err_why(why, why_size, ERR_RANGE, "%s", wrong);

    generator g = {
        .shape = shape, .arch = find_arch(shape->arch), .w = gguf_writer_new()};
    if (g.w == NULL) return err_why(why, why_size, -ENOMEM, "no memory");

    add_shape_keys(&g);
    add_vocabulary(&g);
    add_tensors(&g);
    int rc = g.no_memory ? -ENOMEM : gguf_writer_finish(g.w, path);
    gguf_writer_free(g.w);
    if (rc < 0) err_why(why, why_size, rc, "%s: %s", path, err_text(rc));
    return rc;
}
