/* model_gen.c - see model_gen.h.
 *
 * Speed matters: test models of hundreds of megabytes are made on the fly.  So
 * values come eight bytes at a time from xoshiro256++ and are written in the
 * stored form at once: integer formats as uniform bytes under one scale, floats
 * as a sum of four uniform values, which is close enough to a normal
 * distribution. */
#include "tests/support/model_gen.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/weight.h"
#include "tests/support/gguf_writer.h"

#define Q8_BLOCK_BYTES 34
#define UNIFORM_BYTE_DEVIATION 73.6f /* of integers in [-127, 127] */
/* Root mean squares of uniform integers, for formats of 4, 5 and 6 bits: */
#define RMS_4_BITS 4.610f      /* in [0, 15], less 7.5 */
#define RMS_5_BITS 9.233f      /* in [0, 31], less 15.5 */
#define RMS_6_BITS 18.48f      /* in [-32, 31] */
#define RMS_SUB_SCALE_6 36.52f /* in [0, 63] */
#define RMS_SUB_SCALE_8 73.90f /* in [-128, 127] */
#define MAX_LAYERS 10000
#define MAX_VOCAB 10000000

/* ---- random values ---- */

typedef struct {
    uint64_t s[4];
    float mean;
    float deviation;
} source;

static uint64_t rotate(uint64_t x, int k) {
    return x << k | x >> (64 - k);
}

/* xoshiro256++ (Blackman and Vigna, public domain). */
static uint64_t next_u64(source *r) {
    uint64_t *s = r->s, result = rotate(s[0] + s[3], 23) + s[0];
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

/* Four 16-bit values: mean 131070, deviation 65536 * sqrt(4 / 12). */
static float next_value(source *r) {
    uint64_t u = next_u64(r);
    uint32_t sum = (uint32_t)(u & 0xffff) + (uint32_t)(u >> 16 & 0xffff) +
                   (uint32_t)(u >> 32 & 0xffff) + (uint32_t)(u >> 48);
    return r->mean + r->deviation * ((float)sum - 131070.0f) / 37837.2f;
}

static void fill_f32(void *context, size_t bytes, void *out) {
    float *x = out;
    for (size_t i = 0; i < bytes / sizeof(*x); i++)
        x[i] = next_value(context);
}

static void fill_f16(void *context, size_t bytes, void *out) {
    uint16_t *x = out;
    for (size_t i = 0; i < bytes / sizeof(*x); i++)
        x[i] = f32_to_f16(next_value(context));
}

/* The upper half of the float, rounded half to even. */
static void fill_bf16(void *context, size_t bytes, void *out) {
    uint16_t *x = out;
    for (size_t i = 0; i < bytes / sizeof(*x); i++) {
        float value = next_value(context);
        uint32_t bits;
        memcpy(&bits, &value, sizeof(bits));
        x[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

/* Lift each byte of -128 to -127: a quantizer never writes the former. */
static uint64_t without_minus_128(uint64_t u) {
    const uint64_t low = 0x0101010101010101u, high = low << 7;
    uint64_t x = u ^ high; /* wanted: the bytes that are zero now */
    uint64_t nonzero = ((x & ~high) + ~high) | x;
    return u | (~nonzero & high) >> 7;
}

static void fill_q8_0(void *context, size_t bytes, void *out) {
    source *r = context;
    uint16_t scale = f32_to_f16(r->deviation / UNIFORM_BYTE_DEVIATION);
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / Q8_BLOCK_BYTES; i++) {
        memcpy(at, &scale, sizeof(scale));
        at += sizeof(scale);
        for (int j = 0; j < 4; j++, at += 8) {
            uint64_t u = without_minus_128(next_u64(r));
            memcpy(at, &u, sizeof(u));
        }
    }
}

/* n random bytes, a multiple of 8. */
static void put_bytes(source *r, size_t n, uint8_t *out) {
    for (size_t i = 0; i < n; i += 8) {
        uint64_t u = next_u64(r);
        memcpy(out + i, &u, sizeof(u));
    }
}

static void put_half(float x, uint8_t *out) {
    uint16_t half = f32_to_f16(x);
    memcpy(out, &half, sizeof(half));
}

/* Values are -8 to 7: scales of either sign make their mean 0. */
static void fill_q4_0(void *context, size_t bytes, void *out) {
    source *r = context;
    float scale = r->deviation / RMS_4_BITS;
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 18; i++, at += 18) {
        put_half(next_u64(r) >> 63 ? scale : -scale, at);
        put_bytes(r, 16, at + 2);
    }
}

/* The head of Q4_K and Q5_K: 8 scales of 6 bits and minima, which are equal to
 * them and multiplied by `middle`, the values' mean. */
static void put_k_head(source *r, float rms, float middle, uint8_t *block) {
    float scale = r->deviation / (RMS_SUB_SCALE_6 * rms);
    put_half(scale, block);
    put_half(scale * middle, block + 2);
    uint64_t u = next_u64(r);
    memcpy(block + 4, &u, 4); /* the first four scales, upper bits of others */
    memcpy(block + 8, &u, 4); /* the same of the minima */
    for (int i = 0; i < 4; i++) {
        block[12 + i] = (uint8_t)((u >> (32 + 4 * i) & 15) * 17);
    }
}

static void fill_q4_k(void *context, size_t bytes, void *out) {
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 144; i++, at += 144) {
        put_k_head(context, RMS_4_BITS, 7.5f, at);
        put_bytes(context, 128, at + 16);
    }
}

static void fill_q5_k(void *context, size_t bytes, void *out) {
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 176; i++, at += 176) {
        put_k_head(context, RMS_5_BITS, 15.5f, at);
        put_bytes(context, 160, at + 16);
    }
}

static void fill_q6_k(void *context, size_t bytes, void *out) {
    source *r = context;
    float scale = r->deviation / (RMS_SUB_SCALE_8 * RMS_6_BITS);
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 210; i++, at += 210) {
        put_bytes(r, 208, at); /* values and sub-scales */
        put_half(scale, at + 208);
    }
}

static const struct {
    uint32_t type;
    gguf_fill fill;
} fills[] = {
    {WEIGHT_F32, fill_f32},   {WEIGHT_F16, fill_f16},
    {WEIGHT_BF16, fill_bf16}, {WEIGHT_Q8_0, fill_q8_0},
    {WEIGHT_Q4_0, fill_q4_0}, {WEIGHT_Q4_K, fill_q4_k},
    {WEIGHT_Q5_K, fill_q5_k}, {WEIGHT_Q6_K, fill_q6_k},
};

static gguf_fill find_fill(uint32_t type) {
    for (size_t i = 0; i < sizeof(fills) / sizeof(fills[0]); i++) {
        if (fills[i].type == type) return fills[i].fill;
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
static void add_matrix(generator *g, const char *name, uint64_t n_in,
                       uint64_t n_out, uint64_t n_stacked) {
    const uint64_t dims[3] = {n_in, n_out, n_stacked};
    add(g, name, g->shape->type, 0.0f, 1.0f / sqrtf((float)n_in),
        n_stacked > 0 ? 3 : 2, dims);
}

static void add_norm(generator *g, const char *name, uint64_t n) {
    add(g, name, WEIGHT_F32, 1.0f, 0.1f, 1, &n);
}

/* "blk.3.attn_q.weight", in storage that the next call reuses. */
static const char *in_layer(uint32_t layer, const char *name) {
    static char text[64];
    snprintf(text, sizeof(text), "blk.%u.%s.weight", layer, name);
    return text;
}

static void add_attention(generator *g, uint32_t layer) {
    const model_shape *s = g->shape;
    uint64_t q = (uint64_t)s->n_heads * s->head_dim;
    uint64_t kv = (uint64_t)s->n_kv_heads * s->head_dim;

    add_norm(g, in_layer(layer, "attn_norm"), s->width);
    add_matrix(g, in_layer(layer, "attn_q"), s->width, q, 0);
    add_matrix(g, in_layer(layer, "attn_k"), s->width, kv, 0);
    add_matrix(g, in_layer(layer, "attn_v"), s->width, kv, 0);
    add_matrix(g, in_layer(layer, "attn_output"), q, s->width, 0);
    if (strcmp(s->arch, "qwen3moe") == 0) {
        add_norm(g, in_layer(layer, "attn_q_norm"), s->head_dim);
        add_norm(g, in_layer(layer, "attn_k_norm"), s->head_dim);
    }
}

static void add_ffn(generator *g, uint32_t layer) {
    const model_shape *s = g->shape;
    uint64_t n = s->n_experts, hidden = s->expert_width;

    add_norm(g, in_layer(layer, "ffn_norm"), s->width);
    if (n == 0) {
        add_matrix(g, in_layer(layer, "ffn_gate"), s->width, hidden, 0);
        add_matrix(g, in_layer(layer, "ffn_up"), s->width, hidden, 0);
        add_matrix(g, in_layer(layer, "ffn_down"), hidden, s->width, 0);
        return;
    }
    add_router(g, in_layer(layer, "ffn_gate_inp"));
    add_matrix(g, in_layer(layer, "ffn_gate_exps"), s->width, hidden, n);
    add_matrix(g, in_layer(layer, "ffn_up_exps"), s->width, hidden, n);
    add_matrix(g, in_layer(layer, "ffn_down_exps"), hidden, s->width, n);
}

static void add_tensors(generator *g) {
    const model_shape *s = g->shape;
    add_embeddings(g);
    add_norm(g, "output_norm.weight", s->width);
    add_matrix(g, "output.weight", s->width, s->n_vocab, 0);
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

static void add_shape_keys(generator *g) {
    const model_shape *s = g->shape;
    bool qwen = strcmp(s->arch, "qwen3moe") == 0;

    gguf_writer_string(g->w, "general.architecture", s->arch);
    gguf_writer_string(g->w, "general.name", "random weights");
    gguf_writer_alignment(g->w, 32);
    put_u32(g, "block_count", s->n_layers);
    put_u32(g, "context_length", s->n_context);
    put_u32(g, "embedding_length", s->width);
    put_u32(g, "feed_forward_length", s->expert_width);
    put_u32(g, "attention.head_count", s->n_heads);
    put_u32(g, "attention.head_count_kv", s->n_kv_heads);
    put_f32(g, "attention.layer_norm_rms_epsilon", qwen ? 1e-6f : 1e-5f);
    put_f32(g, "rope.freq_base", 1e6f);
    put_u32(g, "vocab_size", s->n_vocab);
    if (s->n_experts > 0) {
        put_u32(g, "expert_count", s->n_experts);
        put_u32(g, "expert_used_count", s->n_used);
        if (qwen) put_u32(g, "expert_feed_forward_length", s->expert_width);
    }
    put_u32(g, "attention.key_length", s->head_dim);
    put_u32(g, "attention.value_length", s->head_dim);
    put_u32(g, "rope.dimension_count", s->head_dim);
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

/* NULL, or what is wrong. */
static const char *fault(const model_shape *s) {
    bool qwen = strcmp(s->arch, "qwen3moe") == 0;
    if (!qwen && strcmp(s->arch, "llama") != 0) {
        return "the architecture is neither llama nor qwen3moe";
    }
    if (find_fill(s->type) == NULL) {
        return "the weight type is none that we compute with";
    }
    if (s->n_layers == 0 || s->n_layers > MAX_LAYERS || s->width == 0 ||
        s->expert_width == 0 || s->n_context == 0) {
        return "layers, width, expert width and context must not be 0";
    }
    if (s->n_kv_heads == 0 || s->n_heads % s->n_kv_heads != 0) {
        return "heads must be a multiple of KV heads";
    }
    if (s->head_dim == 0 || s->head_dim % 2 != 0) {
        return "the head dimension must be even";
    }
    if (!(s->skew >= 0 && s->skew <= 8) || (s->skew > 0 && s->n_experts == 0)) {
        return "the skew must be 0 to 8, and 0 without experts";
    }
    if (s->hot_sets == 0 || s->hot_sets > 16) {
        return "there must be 1 to 16 hot sets";
    }
    if (qwen && s->n_experts == 0) {
        return "qwen3moe has experts";
    }
    if (s->n_experts > 0 && (s->n_used == 0 || s->n_used > s->n_experts)) {
        return "the experts used must be 1 to the number of experts";
    }
    if (s->n_vocab < MODEL_GEN_MIN_VOCAB || s->n_vocab > MAX_VOCAB) {
        return "the vocabulary must have 259 to 10000000 tokens";
    }
    size_t len, bytes;
    weight_type_size(s->type, &len, &bytes);
    if (s->width % len != 0 || s->expert_width % len != 0 ||
        s->n_heads * s->head_dim % len != 0) {
        return "widths must be multiples of the weight type's block";
    }
    return NULL;
}

int model_gen(const model_shape *shape, const char *path, char *why,
              size_t why_size) {
    const char *wrong = fault(shape);
    if (wrong != NULL) return err_why(why, why_size, ERR_RANGE, "%s", wrong);

    generator g = {.shape = shape, .w = gguf_writer_new()};
    if (g.w == NULL) return err_why(why, why_size, -ENOMEM, "no memory");

    add_shape_keys(&g);
    add_vocabulary(&g);
    add_tensors(&g);
    int rc = g.no_memory ? -ENOMEM : gguf_writer_finish(g.w, path);
    gguf_writer_free(g.w);
    if (rc < 0) err_why(why, why_size, rc, "%s: %s", path, err_text(rc));
    return rc;
}
