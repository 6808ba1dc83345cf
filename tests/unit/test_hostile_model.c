/* test_hostile_model.c - a damaged model file is served or refused with a
 * sentence; it never crashes or hangs a program, nor takes memory that the file
 * does not account for.
 *
 * Files are tried in children with a time limit and, but under a sanitizer, a
 * limit on address space: there an allocation that is out of proportion shows
 * as -ENOMEM, which counts as a failure.  ROSTER_VARIANTS sets how many random
 * ones are tried of each model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/gguf_internal.h"
#include "engine/log.h"
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/fixture.h"
#include "tests/support/gguf_edit.h"
#include "tests/support/model_base.h"
#include "tests/support/whole_model.h"

#define GOLDEN(name) "tests/golden/data/logits/" name "/model.gguf"
#define LIMIT_BYTES ((rlim_t)512 << 20)
#define LIMIT_RSS_KB (700L << 10)
#define LIMIT_SECONDS 120
#define CHUNK 25 /* variants of one child */

/* ---- children ---- */

extern void __asan_init(void) __attribute__((weak));
extern void __tsan_init(void) __attribute__((weak));
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "max_allocation_size_mb=256";
}

/* What a child tells: shared, so that it is there when the child is not. */
typedef struct {
    int variant;
    int rc;
    char why[512];
} report;

static report *told;

static void limit_memory(void) {
    if (__asan_init != NULL || __tsan_init != NULL) return; /* huge shadows */
    struct rlimit limit = {LIMIT_BYTES, LIMIT_BYTES};
    if (setrlimit(RLIMIT_AS, &limit) < 0) abort();
}

/* Bytes of variant `number`; the caller frees them. */
typedef uint8_t *(*make_variant)(const void *ctx, int number, size_t *n);

/* In the child: 0, or 1 for a code that no file should lead to. */
static int try_variants(make_variant make, const void *ctx, int first,
                        int last) {
    limit_memory();
    for (told->variant = first; told->variant < last; told->variant++) {
        alarm(LIMIT_SECONDS);
        size_t n;
        uint8_t *bytes = make(ctx, told->variant, &n);
        told->rc = whole_model_try(bytes, n, told->why, sizeof(told->why));
        free(bytes);
        if (told->rc == -ENOMEM) return 1;
        if (told->rc < 0 && told->why[0] == '\0') return 1;
    }
    bool leaks = __lsan_do_recoverable_leak_check != NULL &&
                 __lsan_do_recoverable_leak_check() != 0;
    return leaks ? 1 : 0;
}

static void assert_survived(make_variant make, const void *ctx, int first,
                            int last) {
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(try_variants(make, ctx, first, last));

    int status;
    struct rusage used;
    assert_int_equal(wait4(child, &status, 0, &used), child);
    if (WIFSIGNALED(status)) {
        fail_msg("variant %d: %s", told->variant, strsignal(WTERMSIG(status)));
    }
    if (WEXITSTATUS(status) != 0) {
        fail_msg("variant %d (leaks, if it is %d): %s: %s", told->variant, last,
                 err_name(told->rc), told->why);
    }
    if (used.ru_maxrss > LIMIT_RSS_KB)
        fail_msg("variants %d to %d: %ld KB", first, last, used.ru_maxrss);
}

/* ---- one file ---- */

typedef struct {
    const uint8_t *bytes;
    size_t n;
} image;

static uint8_t *copy_image(const void *ctx, int number, size_t *n) {
    const image *i = ctx;
    (void)number;
    uint8_t *bytes = malloc(i->n + 1);
    if (bytes == NULL) abort();
    memcpy(bytes, i->bytes, i->n);
    *n = i->n;
    return bytes;
}

/* Frees the bytes.  `word` NULL: it must be served. */
static void assert_outcome(uint8_t *bytes, size_t n, const char *word) {
    image i = {bytes, n};
    assert_survived(copy_image, &i, 0, 1);
    if (word == NULL) {
        if (told->rc != 0) fail_msg("%s: %s", err_name(told->rc), told->why);
    } else if (told->rc == 0 || strstr(told->why, word) == NULL) {
        fail_msg("%s instead of '%s': %s", err_name(told->rc), word, told->why);
    }
    free(bytes);
}

static void assert_edit(gguf_edit *e, const char *word) {
    const char *path = fixture_path("hostile.gguf");
    gguf_edit_finish(e, path);
    size_t n;
    uint8_t *bytes = fixture_read(path, &n);
    assert_outcome(bytes, n, word);
}

static void serves_what_is_whole(void **state) {
    (void)state;
    const char *paths[] = {GOLDEN("mixtral-q8_0"), GOLDEN("qwen3moe-q8_0"),
                           GOLDEN("llama-dense-q8_0"),
                           GOLDEN("llama-dense-odd"), model_base_mixtral()};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        assert_edit(gguf_edit_new(paths[i]), NULL);
}

/* ---- numbers that are valid and absurd ---- */

static void refuses_numbers_that_the_file_does_not_bear_out(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *word; /* NULL: it is served */
    } cases[] = {
        {"llama.expert_count", 65536, "ffn_gate_inp.weight is [64, 8,"},
        {"llama.expert_count", 9, "ffn_gate_inp.weight is [64, 8,"},
        {"llama.expert_used_count", 9, "llama.expert_used_count is 9"},
        {"llama.embedding_length", 4096, "token_embd.weight is [64,"},
        {"llama.embedding_length", 1u << 20, "llama.attention.key_length"},
        {"llama.feed_forward_length", 1u << 20, "exps.weight is ["},
        {"llama.block_count", 1024, "blk.3.attn_norm.weight is missing"},
        {"llama.attention.head_count", 0, "llama.attention.head_count"},
        {"llama.attention.head_count", 128, "llama.attention.key_length"},
        {"llama.attention.head_count_kv", 1, "attn_k.weight is [64, 32,"},
        {"llama.attention.key_length", 1024, "attn_q.weight is [64, 64,"},
        {"llama.attention.value_length", 1024, "attn_v.weight is [64, 32,"},
        {"llama.context_length", 1u << 31, NULL},
        {"llama.context_length", UINT32_MAX, NULL},
        {"llama.vocab_size", UINT32_MAX, NULL}, /* the table counts */
        {"tokenizer.ggml.bos_token_id", 311, "bos_token_id is 311"},
        {"tokenizer.ggml.eos_token_id", UINT32_MAX, "eos_token_id"},
        {"general.alignment", 48, "general.alignment is 48"},
        {"split.count", 4096, "must be named"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        gguf_edit *e = gguf_edit_new(GOLDEN("mixtral-q8_0"));
        gguf_writer_u32(gguf_edit_drop(e, cases[i].key), cases[i].key,
                        cases[i].value);
        if (strcmp(cases[i].key, "split.count") == 0)
            gguf_writer_u32(gguf_edit_drop(e, "split.no"), "split.no", 0);
        assert_edit(e, cases[i].word);
    }
    const char *eps = "llama.attention.layer_norm_rms_epsilon";
    gguf_edit *e = gguf_edit_new(GOLDEN("mixtral-q8_0"));
    gguf_writer_f32(gguf_edit_drop(e, eps), eps, NAN);
    assert_edit(e, eps);
}

/* ---- vocabularies ---- */

static void refuses_more_tokens_than_embeddings(void **state) {
    (void)state;
    const uint64_t dims[2] = {64, 310};
    gguf_edit *e = gguf_edit_new(GOLDEN("mixtral-q8_0"));
    gguf_edit_zeros(e, "token_embd.weight", WEIGHT_Q8_0, 2, dims);
    gguf_edit_zeros(e, "output.weight", WEIGHT_Q8_0, 2, dims);
    assert_edit(e, "the tokenizer has 311 tokens, the embedding 310 rows");

    const uint64_t more[2] = {64, 400};
    e = gguf_edit_new(GOLDEN("mixtral-q8_0"));
    gguf_edit_zeros(e, "token_embd.weight", WEIGHT_Q8_0, 2, more);
    gguf_edit_zeros(e, "output.weight", WEIGHT_Q8_0, 2, more);
    assert_edit(e, NULL);
}

static void refuses_token_arrays_of_other_lengths(void **state) {
    (void)state;
    static const char *const keys[] = {"tokenizer.ggml.token_type",
                                       "tokenizer.ggml.scores"};
    const float values[512] = {0};
    const uint64_t lengths[] = {0, 1, 258, 260};
    for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
        gguf_type type = k == 0 ? GGUF_I32 : GGUF_F32;
        for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
            gguf_edit *e = gguf_edit_new(model_base_mixtral());
            gguf_writer_array(gguf_edit_drop(e, keys[k]), keys[k], type,
                              lengths[i], values);
            assert_edit(e, keys[k]);
        }
    }
    const char *tokens = "tokenizer.ggml.tokens";
    gguf_edit *e = gguf_edit_new(model_base_mixtral());
    gguf_writer_array(gguf_edit_drop(e, tokens), tokens, GGUF_STRING, 0, NULL);
    assert_edit(e, tokens);
    e = gguf_edit_new(model_base_mixtral());
    gguf_writer_array(gguf_edit_drop(e, tokens), tokens, GGUF_F32, 259, values);
    assert_edit(e, tokens);
}

static void refuses_merges_that_are_no_pairs(void **state) {
    (void)state;
    static const char *const key = "tokenizer.ggml.merges";
    static const char *const bad[] = {"", " ", "ab", "a ", " a", "  "};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        gguf_edit *e = gguf_edit_new(GOLDEN("mixtral-q8_0"));
        gguf_writer_strings(gguf_edit_drop(e, key), key, 1, &bad[i]);
        assert_edit(e, key);
    }
    /* odd, but pairs */
    static const char *const odd[] = {"a b c", "\xff \xfe", "h e", "h e"};
    gguf_edit *e = gguf_edit_new(GOLDEN("mixtral-q8_0"));
    gguf_writer_strings(gguf_edit_drop(e, key), key, ARRAY_LEN(odd), odd);
    assert_edit(e, NULL);
}

/* ---- the tensor table ---- */

/* Where a tensor's entry stands in the file, behind its name: the number of
 * dimensions, the dimensions, the type, the offset. */
typedef struct {
    uint8_t *bytes;
    size_t n;
    size_t dims_at, type_at, offset_at;
} table_entry;

static table_entry find_entry(const char *path, const char *name) {
    gguf *g = NULL;
    table_entry e = {0};
    e.bytes = fixture_read(path, &e.n);
    assert_int_equal(gguf_open(&g, path, NULL, 0), 0);
    const gguf_tensor *t = gguf_find_tensor(g, name);
    size_t at = (size_t)((const uint8_t *)t->name.data - g->files[0].map);
    e.dims_at = at + t->name.len + 4;
    e.type_at = e.dims_at + 8 * t->n_dims;
    e.offset_at = e.type_at + 4;
    gguf_close(g);
    return e;
}

static void assert_patched(const char *name, int dim, uint64_t value,
                           const char *word) {
    table_entry e = find_entry(GOLDEN("mixtral-q8_0"), name);
    size_t at = dim < 0 ? e.offset_at : e.dims_at + 8 * (size_t)dim;
    memcpy(e.bytes + at, &value, sizeof(value));
    assert_outcome(e.bytes, e.n, word);
}

static void refuses_tensors_that_the_file_has_no_bytes_for(void **state) {
    (void)state;
    const char *exps = "blk.1.ffn_up_exps.weight";
    assert_patched("token_embd.weight", 1, (uint64_t)1 << 40, "past the end");
    assert_patched("token_embd.weight", 1, UINT64_MAX, "impossible");
    assert_patched("token_embd.weight", 0, (uint64_t)1 << 62, "impossible");
    assert_patched("token_embd.weight", 1, 0, "impossible");
    assert_patched(exps, 2, 65536, "past the end");
    assert_patched(exps, -1, (uint64_t)1 << 40, "past the end");
    assert_patched(exps, -1, UINT64_MAX - 31, "past the end");
    assert_patched(exps, -1, 7, "not aligned");
    assert_patched(exps, 2, 7, "[64, 32, 7, 1], not [64, 32, 8, 1]");
}

/* Else a few kilobytes could claim to be a thousand large layers. */
static void refuses_tensors_that_share_bytes(void **state) {
    (void)state;
    assert_patched("blk.1.ffn_up_exps.weight", -1, 0, "overlap");
    table_entry e = find_entry(GOLDEN("mixtral-q8_0"), "blk.0.attn_q.weight");
    memset(e.bytes + e.type_at, 0, 4); /* F32 takes more */
    assert_outcome(e.bytes, e.n, "overlap");
}

static void refuses_weights_in_integers(void **state) {
    (void)state;
    table_entry e =
        find_entry(GOLDEN("mixtral-q8_0"), "blk.0.ffn_gate_exps.weight");
    e.bytes[e.type_at] = 24; /* i8 */
    assert_outcome(e.bytes, e.n, "weight format i8");
}

/* ---- truncation ---- */

static uint8_t *cut_off(const void *ctx, int number, size_t *n) {
    const image *i = ctx;
    uint8_t *bytes = copy_image(i, 0, n);
    *n = number < 100 ? i->n * (size_t)number / 100
                      : (size_t)(number - 100) * 83; /* through the head */
    return bytes;
}

static void refuses_a_file_that_is_cut_off_anywhere(void **state) {
    (void)state;
    image i = {0};
    uint8_t *bytes = fixture_read(GOLDEN("qwen3moe-q8_0"), &i.n);
    i.bytes = bytes;
    for (int first = 0; first < 200; first += CHUNK) {
        assert_survived(cut_off, &i, first, first + CHUNK);
        assert_true(told->rc < 0);
    }
    free(bytes);
}

/* ---- random damage ---- */

typedef struct {
    image original;
    size_t head_bytes;
} target;

static uint64_t next(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static const uint64_t interesting[] = {
    0,          1,           2,
    3,          7,           8,
    9,          12,          24,
    31,         32,          64,
    255,        256,         1024,
    65535,      65536,       1u << 20,
    INT32_MAX,  0x80000000u, UINT32_MAX,
    1ull << 32, 1ull << 40,  INT64_MAX,
    1ull << 63, UINT64_MAX,  UINT64_MAX - 31,
    0x7fc00000, /* NaN */
};

/* One change within the head, or anywhere once in a while. */
static void damage(const target *t, uint8_t *bytes, uint64_t *seed) {
    uint64_t r = next(seed);
    size_t range = r % 16 == 0 ? t->original.n : t->head_bytes;
    size_t at = next(seed) % (range - 16);
    uint64_t value = interesting[next(seed) % ARRAY_LEN(interesting)];
    switch (r >> 8 & 3) {
    case 0:
        bytes[at] ^= (uint8_t)(1u << (r >> 16 & 7));
        return;
    case 1:
        bytes[at] = (uint8_t)(r >> 16);
        return;
    case 2:
        memcpy(bytes + at, &value, r >> 16 & 1 ? 4 : 8);
        return;
    case 3: /* a piece of the file in another place */
        memmove(bytes + at, bytes + next(seed) % (range - 16),
                1 + (r >> 16 & 15));
        return;
    }
}

static uint8_t *damaged(const void *ctx, int number, size_t *n) {
    const target *t = ctx;
    uint64_t seed = (uint64_t)number;
    uint8_t *bytes = copy_image(&t->original, 0, n);
    for (uint64_t changes = 1 + next(&seed) % 3; changes > 0; changes--)
        damage(t, bytes, &seed);
    return bytes;
}

/* Change the field of a random key or tensor, so that the rest of the file
 * still parses and the change reaches who reads it. */
static uint8_t *swapped(const void *ctx, int number, size_t *n) {
    const target *t = ctx;
    uint64_t seed = ~(uint64_t)number;
    uint8_t *bytes = copy_image(&t->original, 0, n);
    gguf_file f = {.path = (char *)(uintptr_t) "original",
                   .map = t->original.bytes,
                   .bytes = t->original.n};
    if (gguf_parse(&f, NULL, 0) < 0) abort();
    uint64_t value = interesting[next(&seed) % ARRAY_LEN(interesting)];
    uint64_t r = next(&seed);
    if (r % 2 == 0) {
        const gguf_key *k = &f.keys[next(&seed) % f.n_keys];
        size_t at = (size_t)(k->data - f.map);
        bool type = (r >> 8) % 4 == 0 && k->type != GGUF_ARRAY;
        if (type)
            bytes[at - 4] = (uint8_t)((r >> 16) % 13);
        else
            memcpy(bytes + at, &value, k->type == GGUF_BOOL ? 1 : 4);
    } else {
        const gguf_tensor *x = &f.tensors[next(&seed) % f.n_tensors];
        size_t at = (size_t)((const uint8_t *)x->name.data - f.map);
        at += x->name.len + 4;
        switch (r >> 8 & 3) {
        case 0:
            bytes[at + 8 * x->n_dims] = (uint8_t)((r >> 16) % 40);
            break;
        case 1:
            memcpy(bytes + at + 8 * x->n_dims + 4, &value, 8);
            break;
        default:
            memcpy(bytes + at + 8 * ((r >> 16) % x->n_dims), &value, 8);
        }
    }
    free(f.keys);
    free(f.key_order);
    free(f.tensors);
    return bytes;
}

static int n_variants(void) {
    const char *text = getenv("ROSTER_VARIANTS");
    if (text != NULL) return atoi(text);
    return getenv("ROSTER_TEST_QUICK") != NULL ? 50 : 200;
}

static void survives_of(const char *path, make_variant make, int n) {
    gguf *g = NULL;
    target t = {0};
    uint8_t *bytes = fixture_read(path, &t.original.n);
    t.original.bytes = bytes;
    assert_int_equal(gguf_open(&g, path, NULL, 0), 0);
    gguf_head(g, 0, &t.head_bytes);
    gguf_close(g);
    for (int first = 0; first < n; first += CHUNK)
        assert_survived(make, &t, first, first + CHUNK);
    free(bytes);
}

static void survives(make_variant make) {
    const char *paths[] = {GOLDEN("mixtral-q8_0"), GOLDEN("qwen3moe-q8_0"),
                           GOLDEN("llama-dense-q8_0"), model_base_mixtral()};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        survives_of(paths[i], make, n_variants());
}

/* Of every other architecture a file, where there are some. */
static void survives_damage_to_other_families(void **state) {
    (void)state;
    static const char *const names[] = {"bailingmoe2",
                                        "dbrx",
                                        "deepseek-v1",
                                        "deepseek-v2-lite-q8_0",
                                        "deepseek-v3-q8_0",
                                        "deepseek-v3-kvb",
                                        "dots1",
                                        "ernie45moe",
                                        "glm4moe",
                                        "gpt-oss-mxfp4_moe",
                                        "granitemoe",
                                        "grok",
                                        "hunyuan-moe",
                                        "llama4",
                                        "minimax-m2",
                                        "olmoe",
                                        "phimoe",
                                        "qwen2moe"};
    const char *folder = fixture_shared("golden/logits", "other families");
    if (folder == NULL) skip();
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = NULL;
        if (asprintf(&path, "%s/%s/model.gguf", folder, names[i]) < 0) abort();
        if (access(path, R_OK) == 0) {
            survives_of(path, damaged, n_variants() / 4);
            survives_of(path, swapped, n_variants() / 4);
        }
        free(path);
    }
}

static void survives_random_damage(void **state) {
    (void)state;
    survives(damaged);
}

static void survives_fields_that_say_something_else(void **state) {
    (void)state;
    survives(swapped);
}

static int set_up(void **state) {
    (void)state;
    log_setup("test", LOG_ERROR);
    told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return told == MAP_FAILED ? -1 : 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serves_what_is_whole),
        cmocka_unit_test(refuses_numbers_that_the_file_does_not_bear_out),
        cmocka_unit_test(refuses_more_tokens_than_embeddings),
        cmocka_unit_test(refuses_token_arrays_of_other_lengths),
        cmocka_unit_test(refuses_merges_that_are_no_pairs),
        cmocka_unit_test(refuses_tensors_that_the_file_has_no_bytes_for),
        cmocka_unit_test(refuses_tensors_that_share_bytes),
        cmocka_unit_test(refuses_weights_in_integers),
        cmocka_unit_test(refuses_a_file_that_is_cut_off_anywhere),
        cmocka_unit_test(survives_random_damage),
        cmocka_unit_test(survives_fields_that_say_something_else),
        cmocka_unit_test(survives_damage_to_other_families),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
