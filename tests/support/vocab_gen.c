/* vocab_gen.c - see vocab_gen.h. */
#include "tests/support/vocab_gen.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "engine/gguf.h"
#include "tests/support/gguf_writer.h"

static char bpe_names[256][3];
static char spm_names[256][7];

/* GPT-2 writes a printable byte as itself and the others as U+0100 and up. */
static const char *bpe_name(int byte) {
    uint32_t c = 0, unprintable = 0;
    for (int i = 0; i <= byte; i++) {
        bool itself = (i >= 0x21 && i <= 0x7E) || (i >= 0xA1 && i != 0xAD);
        c = itself ? (uint32_t)i : 0x100 + unprintable++;
    }
    char *out = bpe_names[byte];
    if (c < 0x80) {
        out[0] = (char)c;
        out[1] = '\0';
    } else {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        out[2] = '\0';
    }
    return out;
}

vocab vocab_bpe(const char *pre) {
    vocab v = {.model = "gpt2", .pre = pre};
    for (int b = 0; b < 256; b++)
        vocab_add(&v, bpe_name(b), TYPE_NORMAL, 0.0f);
    return v;
}

vocab vocab_spm(void) {
    vocab v = {.model = "llama", .pre = "default"};
    vocab_add(&v, "<unk>", TYPE_UNKNOWN, 0.0f);
    vocab_add(&v, "<s>", TYPE_CONTROL, 0.0f);
    vocab_add(&v, "</s>", TYPE_CONTROL, 0.0f);
    for (unsigned b = 0; b < 256; b++) {
        snprintf(spm_names[b], sizeof(spm_names[b]), "<0x%02X>", b & 0xFF);
        vocab_add(&v, spm_names[b], TYPE_BYTE, 0.0f);
    }
    return v;
}

vocab vocab_unigram(void) {
    vocab v = {.model = "t5"};
    vocab_add(&v, "<pad>", TYPE_CONTROL, 0.0f);
    vocab_add(&v, "</s>", TYPE_CONTROL, 0.0f);
    vocab_add(&v, "<unk>", TYPE_UNKNOWN, 0.0f);
    return v;
}

uint32_t vocab_add(vocab *v, const char *text, int32_t type, float score) {
    assert(v->n < VOCAB_TOKENS);
    v->tokens[v->n] = text;
    v->types[v->n] = type;
    v->scores[v->n] = score;
    return (uint32_t)v->n++;
}

void vocab_merge(vocab *v, const char *merge) {
    assert(v->n_merges < VOCAB_MERGES);
    v->merges[v->n_merges++] = merge;
}

void vocab_id(vocab *v, const char *key, uint32_t id) {
    assert(v->n_ids < VOCAB_KEYS);
    v->ids[v->n_ids] = key;
    v->id_values[v->n_ids++] = id;
}

void vocab_flag(vocab *v, const char *key, bool value) {
    assert(v->n_flags < VOCAB_KEYS);
    v->flags[v->n_flags] = key;
    v->flag_values[v->n_flags++] = value;
}

static void write_text(gguf_writer *w, const char *key, const char *text) {
    if (text != NULL) gguf_writer_string(w, key, text);
}

int vocab_write(const vocab *v, const char *path) {
    gguf_writer *w = gguf_writer_new();
    assert(w != NULL);
    write_text(w, "general.architecture", "llama");
    write_text(w, "general.name", v->name);
    write_text(w, "tokenizer.ggml.model", v->model);
    write_text(w, "tokenizer.ggml.pre", v->pre);
    if (!v->no_tokens)
        gguf_writer_strings(w, "tokenizer.ggml.tokens", v->n, v->tokens);
    if (!v->no_types)
        gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32,
                          v->n - v->types_short, v->types);
    if (!v->no_scores)
        gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_F32, v->n,
                          v->scores);
    if (v->rules != NULL)
        gguf_writer_array(w, "tokenizer.ggml.precompiled_charsmap", GGUF_U8,
                          v->rules_bytes, v->rules);
    if (!v->no_merges)
        gguf_writer_strings(w, "tokenizer.ggml.merges", v->n_merges, v->merges);
    for (size_t i = 0; i < v->n_ids; i++)
        gguf_writer_u32(w, v->ids[i], v->id_values[i]);
    for (size_t i = 0; i < v->n_flags; i++)
        gguf_writer_bool(w, v->flags[i], v->flag_values[i]);
    int rc = gguf_writer_finish(w, path);
    gguf_writer_free(w);
    return rc;
}

int vocab_open(const vocab *v, tokenizer **out, char *why, size_t why_size) {
    char path[] = "/tmp/roster-vocab-XXXXXX";
    gguf *g;
    int fd = mkstemp(path);
    assert(fd >= 0);
    close(fd);
    int rc = vocab_write(v, path);
    assert(rc == 0);
    rc = gguf_open(&g, path, why, why_size);
    assert(rc == 0);
    rc = tokenizer_new(out, g, why, why_size);
    /* The tokenizer owns what it keeps. */
    gguf_close(g);
    unlink(path);
    return rc;
}
