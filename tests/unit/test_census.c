/* test_census.c - parameters and bytes of small models, counted by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/inspect.h"
#include "engine/census.h"
#include "engine/err.h"
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/gguf_writer.h"

/* ---- a model of two layers: the second has experts ----
 *
 *   token_embd      10 rows of 32, F16       320 values     640 bytes
 *   output          10 rows of 32, F32       320           1280
 *   output_norm     32, F32                   32            128
 *   blk.0.ffn_up    64 rows of 32, Q8_0     2048           2176
 *   blk.1.ffn_gate_inp    4 rows of 32, F32  128            512
 *   blk.1.ffn_up_exps     4 x 8 x 32, Q8_0  1024           1088
 *   blk.1.ffn_down_exps   4 x 2 x 32, F32    256           1024
 *   blk.1.ffn_up_exps     bias, 4 x 8, F32    32            128
 *   blk.2.attn_norm 32, F32: predicts         32            128 */

typedef struct {
    bool no_output, extra_layer, latent, kv_by_layer;
    uint32_t n_experts, n_used;
    const char *arch;
} shape;

static const shape plain = {.n_experts = 4, .n_used = 2, .arch = "llama"};

static void put_tensors(gguf_writer *w, const shape *s) {
    static const uint8_t zeros[4096];
    const struct {
        const char *name;
        uint32_t type, n_dims;
        uint64_t dims[3];
    } tensors[] = {
        {"token_embd.weight", WEIGHT_F16, 2, {32, 10}},
        {"output_norm.weight", WEIGHT_F32, 1, {32}},
        {"blk.0.ffn_up.weight", WEIGHT_Q8_0, 2, {32, 64}},
        {"blk.1.ffn_gate_inp.weight", WEIGHT_F32, 2, {32, 4}},
        {"blk.1.ffn_up_exps.weight", WEIGHT_Q8_0, 3, {32, 8, 4}},
        {"blk.1.ffn_down_exps.weight", WEIGHT_F32, 3, {32, 2, 4}},
        {"blk.1.ffn_up_exps.bias", WEIGHT_F32, 2, {8, 4}},
    };
    for (size_t i = 0; i < ARRAY_LEN(tensors); i++)
        gguf_writer_tensor(w, tensors[i].name, tensors[i].type,
                           tensors[i].n_dims, tensors[i].dims, zeros);
    if (!s->no_output)
        gguf_writer_tensor(w, "output.weight", WEIGHT_F32, 2,
                           (const uint64_t[]){32, 10}, zeros);
    if (s->extra_layer)
        gguf_writer_tensor(w, "blk.2.attn_norm.weight", WEIGHT_F32, 1,
                           (const uint64_t[]){32}, zeros);
}

static void put_u32(gguf_writer *w, const char *arch, const char *rest,
                    uint32_t value) {
    char key[128];
    snprintf(key, sizeof(key), "%s.%s", arch, rest);
    gguf_writer_u32(w, key, value);
}

static void put_keys(gguf_writer *w, const shape *s) {
    gguf_writer_string(w, "general.architecture", s->arch);
    put_u32(w, s->arch, "block_count", s->extra_layer ? 3 : 2);
    put_u32(w, s->arch, "embedding_length", 32);
    put_u32(w, s->arch, "attention.head_count", 4);
    if (s->n_experts > 0) put_u32(w, s->arch, "expert_count", s->n_experts);
    if (s->n_used > 0) put_u32(w, s->arch, "expert_used_count", s->n_used);
    if (s->extra_layer) put_u32(w, s->arch, "nextn_predict_layers", 1);
    if (s->latent) {
        put_u32(w, s->arch, "attention.kv_lora_rank", 16);
        put_u32(w, s->arch, "rope.dimension_count", 4);
    } else if (s->kv_by_layer) {
        const int32_t heads[] = {1, 4};
        gguf_writer_array(w, "llama.attention.head_count_kv", GGUF_I32, 2,
                          heads);
        put_u32(w, s->arch, "attention.key_length", 12);
    } else {
        put_u32(w, s->arch, "attention.head_count_kv", 2);
    }
}

static int count(const shape *s, census *c, char *why, size_t why_size) {
    char path[] = "/tmp/roster-census-XXXXXX";
    gguf *g;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    gguf_writer *w = gguf_writer_new();
    assert_non_null(w);
    put_keys(w, s);
    put_tensors(w, s);
    assert_int_equal(gguf_writer_finish(w, path), 0);
    gguf_writer_free(w);
    assert_int_equal(gguf_open(&g, path, why, why_size), 0);
    int rc = census_take(c, g, why, why_size);
    gguf_close(g);
    unlink(path);
    return rc;
}

static census counted(const shape *s) {
    census c;
    char why[256] = "";
    if (count(s, &c, why, sizeof(why)) < 0) fail_msg("%s", why);
    return c;
}

static void refused(const shape *s, int code, const char *sentence) {
    census c;
    char why[256] = "";
    assert_int_equal(count(s, &c, why, sizeof(why)), code);
    if (strstr(why, sentence) == NULL) fail_msg("it says: %s", why);
}

/* ---- counting ---- */

static void tells_shared_tensors_from_experts(void **state) {
    (void)state;
    census c = counted(&plain);
    assert_string_equal(c.arch, "llama");
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.n_moe_layers, 1);
    assert_int_equal(c.n_extra_layers, 0);
    assert_int_equal(c.shared.params, 320 + 320 + 32 + 2048 + 128);
    assert_int_equal(c.shared.bytes, 640 + 1280 + 128 + 2176 + 512);
    assert_int_equal(c.tables.params, 640);
    assert_int_equal(c.experts.params, 1024 + 256 + 32);
    assert_int_equal(c.experts.bytes, 1088 + 1024 + 128);
    assert_int_equal(c.expert.params, (1024 + 256 + 32) / 4);
    assert_int_equal(c.expert.bytes, (1088 + 1024 + 128) / 4);
    assert_int_equal(c.total.params, c.shared.params + c.experts.params);
    assert_int_equal(c.total.bytes, c.shared.bytes + c.experts.bytes);
    assert_false(c.experts_differ);
}

static void counts_what_a_token_uses(void **state) {
    (void)state;
    census c = counted(&plain);
    assert_int_equal(c.active_params, c.shared.params + 2 * 328);
    /* One row of the embeddings: 64 of 640 bytes. */
    assert_int_equal(c.decode_bytes, c.shared.bytes - 640 + 64 + 2 * 560);
}

static void reads_tied_embeddings_whole(void **state) {
    shape s = plain;
    (void)state;
    s.no_output = true;
    census c = counted(&s);
    assert_int_equal(c.tables.params, 320);
    assert_int_equal(c.shared.params, 320 + 32 + 2048 + 128);
    assert_int_equal(c.decode_bytes, c.shared.bytes + 2 * 560);
}

static void counts_layers_that_are_not_computed_apart(void **state) {
    shape s = plain;
    (void)state;
    s.extra_layer = true;
    census c = counted(&s);
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.n_extra_layers, 1);
    assert_int_equal(c.extra.params, 32);
    assert_int_equal(c.total.params, c.shared.params + c.experts.params + 32);
    assert_int_equal(c.active_params, counted(&plain).active_params);
    assert_int_equal(c.n_cache_values, counted(&plain).n_cache_values);
}

static void knows_what_a_token_adds_to_the_cache(void **state) {
    shape s = plain;
    (void)state;
    /* 2 layers, 2 heads, keys and values of 32 / 4. */
    assert_int_equal(counted(&s).n_cache_values, 2 * 2 * (8 + 8));
    s.kv_by_layer = true; /* 1 and 4 heads, keys of 12 */
    assert_int_equal(counted(&s).n_cache_values, (1 + 4) * (12 + 8));
    s = plain;
    s.latent = true; /* one vector and what is rotated, in 2 layers */
    assert_int_equal(counted(&s).n_cache_values, 2 * (16 + 4));
}

static void does_not_need_to_know_the_architecture(void **state) {
    shape s = plain;
    (void)state;
    s.arch = "from-mars";
    assert_int_equal(counted(&s).active_params, counted(&plain).active_params);
}

static void shares_experts_among_nodes(void **state) {
    (void)state;
    census c = counted(&plain);
    assert_int_equal(census_node_bytes(&c, 1), 4 * 560);
    assert_int_equal(census_node_bytes(&c, 2), 2 * 560);
    assert_int_equal(census_node_bytes(&c, 3), 2 * 560); /* 2, 1 and 1 */
    assert_int_equal(census_node_bytes(&c, 4), 560);
    assert_int_equal(census_node_bytes(&c, 100), 560);
}

static void refuses_keys_and_tensors_that_do_not_fit(void **state) {
    shape s = plain;
    (void)state;
    s.n_experts = 3;
    refused(&s, ERR_FORMAT, "blk.1.ffn_up_exps.weight");
    s.n_experts = 0;
    refused(&s, ERR_FORMAT, "llama.expert_count");
    s = plain;
    s.n_used = 5;
    refused(&s, ERR_FORMAT, "llama.expert_used_count");
    s.n_used = 0;
    refused(&s, ERR_FORMAT, "llama.expert_used_count");
}

/* ---- the same as who runs the model sees ---- */

static void agrees_with(const char *path) {
    gguf *g;
    census c;
    model_config m;
    char why[512] = "";
    if (gguf_open(&g, path, why, sizeof(why)) < 0 ||
        model_read(&m, g, why, sizeof(why)) < 0 ||
        census_take(&c, g, why, sizeof(why)) < 0)
        fail_msg("%s: %s", path, why);
    uint64_t one = (uint64_t)m.n_kv_heads * (m.key_dim + m.value_dim);
    if (m.attention.kind == ATTENTION_LATENT)
        one = (uint64_t)m.latent.rank + m.rope.n_dims;
    assert_int_equal(c.n_cache_values, one * m.n_layers);
    assert_int_equal(c.n_layers, m.n_layers);
    assert_int_equal(c.n_extra_layers, m.n_extra_layers);
    assert_int_equal(c.n_moe_layers, model_n_moe(&m));
    assert_int_equal(c.n_experts, m.n_experts);
    assert_int_equal(c.n_used, m.n_used);
    gguf_close(g);
}

static void agrees_with_every_golden_model(void **state) {
    static const char folder[] = "tests/golden/data/logits";
    size_t n = 0;
    DIR *d = opendir(folder);
    (void)state;
    assert_non_null(d);
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        char path[512];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof(path), "%s/%s/model.gguf", folder, e->d_name);
        agrees_with(path);
        n++;
    }
    closedir(d);
    assert_true(n > 0);
}

/* ---- in words ---- */

static void writes_parameters_as_models_are_named(void **state) {
    static const struct {
        uint64_t params;
        const char *text;
    } cases[] = {
        {671026404352, "671.0B"}, {37552297984, "37.6B"},
        {3350000000, "3.35B"},    {1026400000000, "1026.4B"},
        {44040192, "44.0M"},      {999, "999"},
        {1000, "1.00K"},          {999949999, "999.9M"},
        {999999999, "1.00B"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[32];
        inspect_format_params(cases[i].params, text, sizeof(text));
        assert_string_equal(text, cases[i].text);
    }
}

static void finds_what_a_name_claims(void **state) {
    inspect_spec spec;
    (void)state;
    assert_true(inspect_find_spec("Mixtral-8x7B-Instruct-v0.1", &spec));
    assert_string_equal(spec.text, "8x7B");
    assert_int_equal(spec.times, 8);
    assert_int_equal(spec.each, 7000000000);
    assert_true(inspect_find_spec("mixtral 8x22b", &spec));
    assert_int_equal(spec.each, 22000000000);
    assert_true(inspect_find_spec("Qwen 3x1.5B", &spec));
    assert_int_equal(spec.each, 1500000000);
    assert_false(inspect_find_spec("Qwen3-30B-A3B", &spec));
    assert_false(inspect_find_spec("v1.8x7B", &spec));
    assert_false(inspect_find_spec("8x7Bytes 8x 8xB x7B 1x7B", &spec));
    assert_false(inspect_find_spec("", &spec));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_shared_tensors_from_experts),
        cmocka_unit_test(counts_what_a_token_uses),
        cmocka_unit_test(reads_tied_embeddings_whole),
        cmocka_unit_test(counts_layers_that_are_not_computed_apart),
        cmocka_unit_test(knows_what_a_token_adds_to_the_cache),
        cmocka_unit_test(does_not_need_to_know_the_architecture),
        cmocka_unit_test(shares_experts_among_nodes),
        cmocka_unit_test(refuses_keys_and_tensors_that_do_not_fit),
        cmocka_unit_test(agrees_with_every_golden_model),
        cmocka_unit_test(writes_parameters_as_models_are_named),
        cmocka_unit_test(finds_what_a_name_claims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
