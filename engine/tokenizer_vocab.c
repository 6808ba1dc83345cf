/* tokenizer_vocab.c - the vocabulary of a model file: strings, kinds, special
 * tokens, the tokens that end a generation.
 *
 * A file may leave out the kinds and the flags, and some that have them are
 * wrong in the same few ways; what is put right here is listed where it is
 * done.  Lengths come from the file and are checked against each other. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

#define KEY(name) "tokenizer.ggml." name

/* ---- symbols ---- */

void symbols_fini(symbol_table *s) {
    free(s->pool);
    free(s->end);
    free(s->slots);
    *s = (symbol_table){0};
}

gguf_string symbols_bytes(const symbol_table *s, uint32_t symbol) {
    size_t begin = symbol > 0 ? s->end[symbol - 1] : 0;
    return (gguf_string){s->pool + begin, s->end[symbol] - begin};
}

/* The slot that holds these bytes, or the empty one where they belong. */
static uint32_t *find_slot(const symbol_table *s, const char *bytes, size_t n) {
    uint32_t at = (uint32_t)XXH3_64bits_withSeed(bytes, n, s->seed);
    for (at &= s->n_slots - 1;; at = (at + 1) & (s->n_slots - 1)) {
        if (s->slots[at] == 0) return &s->slots[at];
        gguf_string there = symbols_bytes(s, s->slots[at] - 1);
        if (there.len == n && memcmp(there.data, bytes, n) == 0)
            return &s->slots[at];
    }
}

uint32_t symbols_find(const symbol_table *s, const char *bytes, size_t n) {
    if (s->n_slots == 0) return SYMBOL_NONE;
    return *find_slot(s, bytes, n) - 1; /* an empty slot: 0 - 1 */
}

int symbols_append(symbol_table *s, const char *bytes, size_t n) {
    void *pool = s->pool, *end = s->end;
    size_t room = s->room;

    /* One byte more: an empty symbol has a place, too. */
    bool grown = grow_array(&pool, &s->pool_room, s->pool_bytes + n + 1, 1);
    s->pool = pool;
    if (!grown) return -ENOMEM;
    grown = grow_array(&end, &room, (size_t)s->n + 1, sizeof(*s->end));
    s->end = end;
    s->room = (uint32_t)room;
    if (!grown) return -ENOMEM;

    if (n > 0) memcpy(s->pool + s->pool_bytes, bytes, n);
    s->pool_bytes += n;
    s->end[s->n++] = s->pool_bytes;
    return 0;
}

static int double_slots(symbol_table *s) {
    uint32_t *old = s->slots;
    uint32_t n_old = s->n_slots;
    uint32_t n_new = n_old > 0 ? n_old * 2 : 1024;

    s->slots = calloc(n_new, sizeof(*s->slots));
    if (s->slots == NULL) {
        s->slots = old;
        return -ENOMEM;
    }
    s->n_slots = n_new;
    if (s->seed == 0) s->seed = random_boot_id();
    for (uint32_t i = 0; i < n_old; i++) {
        if (old[i] == 0) continue;
        gguf_string b = symbols_bytes(s, old[i] - 1);
        *find_slot(s, b.data, b.len) = old[i];
    }
    free(old);
    return 0;
}

int symbols_index(symbol_table *s, uint32_t symbol) {
    if (s->n_used >= s->n_slots / 2) {
        int rc = double_slots(s);
        if (rc < 0) return rc;
    }
    gguf_string b = symbols_bytes(s, symbol);
    uint32_t *slot = find_slot(s, b.data, b.len);
    if (*slot == 0) {
        *slot = symbol + 1;
        s->n_used++;
    }
    return 0;
}

/* ---- kinds of token ---- */

/* The file's numbers: 1 normal, 2 unknown, 3 control, 4 user-defined,
 * 5 unused, 6 byte.  Unused ones are texts that training never met. */
static uint8_t flags_of_type(int32_t type) {
    switch (type) {
    case 2:
    case 3:
        return TOKEN_CONTROL;
    case 4:
        return TOKEN_USER;
    case 5:
        return TOKEN_NORMAL | TOKEN_UNUSED;
    case 6:
        return TOKEN_BYTE;
    default:
        return TOKEN_NORMAL;
    }
}

static int load_flags(tokenizer *t, const gguf *g, char *why, size_t why_size) {
    const char *key = KEY("token_type");
    size_t n = (size_t)t->n_vocab;

    t->flags = malloc(n);
    if (t->flags == NULL) return -ENOMEM;
    memset(t->flags, TOKEN_NORMAL, n);
    if (!gguf_has(g, key)) return 0;

    gguf_type type;
    uint64_t n_types;
    int rc = gguf_get_array(g, key, &type, &n_types, why, why_size);
    if (rc < 0) return rc;
    if (n_types != n)
        return err_why(why, why_size, ERR_FORMAT,
                       "%s has %llu entries for %zu tokens", key,
                       (unsigned long long)n_types, n);
    int32_t *types = malloc(n * sizeof(*types));
    if (types == NULL) return -ENOMEM;
    rc = gguf_array_i32(g, key, types, n, why, why_size);
    for (size_t i = 0; rc == 0 && i < n; i++)
        t->flags[i] = flags_of_type(types[i]);
    free(types);
    return rc;
}

/* ---- tokens ---- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

/* The byte that "<0xNN>" stands for; -1 for any other text. */
static int byte_of_name(gguf_string s) {
    if (s.len != 6 || memcmp(s.data, "<0x", 3) != 0 || s.data[5] != '>')
        return -1;
    int high = hex_digit(s.data[3]), low = hex_digit(s.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static int load_byte(tokenizer *t, int32_t id, gguf_string s, char *why,
                     size_t why_size) {
    int byte = byte_of_name(s);
    if (byte < 0)
        return err_why(why, why_size, ERR_FORMAT,
                       KEY("tokens") "[%d] is a byte, but not named <0xNN>",
                       id);
    return symbols_append(&t->symbols, &(char){(char)byte}, 1);
}

/* Copy one token's bytes; `buffer` has room for VOCAB_MAX_TOKEN_BYTES. */
static int load_token(tokenizer *t, int32_t id, gguf_string s, char *buffer,
                      char *why, size_t why_size) {
    if (s.len > VOCAB_MAX_TOKEN_BYTES)
        return err_why(why, why_size, ERR_FORMAT,
                       KEY("tokens") "[%d] is longer than %zu bytes", id,
                       VOCAB_MAX_TOKEN_BYTES);
    if ((t->flags[id] & TOKEN_BYTE) != 0)
        return load_byte(t, id, s, why, why_size);
    if ((t->flags[id] & TOKEN_NORMAL) == 0)
        return symbols_append(&t->symbols, s.data, s.len);

    size_t n = t->kind->token_bytes(s, buffer);
    t->longest = size_max(t->longest, n);
    return symbols_append(&t->symbols, buffer, n);
}

/* Without kinds, bytes are known by their names. */
static void guess_bytes(tokenizer *t, const gguf_string *strings) {
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if (byte_of_name(strings[id]) >= 0) t->flags[id] = TOKEN_BYTE;
    }
}

static int load_tokens(tokenizer *t, const gguf *g, char *why,
                       size_t why_size) {
    size_t n = (size_t)t->n_vocab;
    gguf_string *strings = calloc(n, sizeof(*strings));
    char *buffer = malloc(VOCAB_MAX_TOKEN_BYTES);
    int rc = strings == NULL || buffer == NULL ? -ENOMEM : 0;

    if (rc == 0)
        rc = gguf_array_strings(g, KEY("tokens"), strings, n, why, why_size);
    if (rc == 0 && t->kind->has_bytes && !gguf_has(g, KEY("token_type")))
        guess_bytes(t, strings);
    for (int32_t id = 0; rc == 0 && id < t->n_vocab; id++)
        rc = load_token(t, id, strings[id], buffer, why, why_size);
    free(strings);
    free(buffer);
    return rc;
}

static int count_tokens(tokenizer *t, const gguf *g, char *why,
                        size_t why_size) {
    gguf_type type;
    uint64_t n;
    int rc = gguf_get_array(g, KEY("tokens"), &type, &n, why, why_size);
    if (rc == ERR_NOT_HERE)
        return err_why(why, why_size, ERR_FORMAT,
                       "the file has no vocabulary (" KEY("tokens") ")");
    if (rc < 0) return rc;
    if (type != GGUF_STRING)
        return err_why(why, why_size, ERR_FORMAT,
                       KEY("tokens") " is not an array of strings");
    if (n == 0 || n > VOCAB_MAX_TOKENS)
        return err_why(why, why_size, ERR_FORMAT,
                       KEY("tokens") " has %llu entries, 1 to %llu are allowed",
                       (unsigned long long)n,
                       (unsigned long long)VOCAB_MAX_TOKENS);
    t->n_vocab = (int32_t)n;
    return 0;
}

/* ---- BOS, EOS and flags ---- */

/* An optional token id.  `fallback` counts only if the vocabulary has it. */
static int load_id(const tokenizer *t, const gguf *g, const char *key,
                   int32_t fallback, int32_t *out, char *why, size_t why_size) {
    *out = fallback < t->n_vocab ? fallback : -1;
    if (!gguf_has(g, key)) return 0;

    uint32_t id;
    int rc = gguf_get_u32(g, key, &id, why, why_size);
    if (rc < 0) return rc;
    if (id >= (uint32_t)t->n_vocab)
        return err_why(why, why_size, ERR_FORMAT,
                       "%s is %u, the vocabulary has %d tokens", key, id,
                       t->n_vocab);
    *out = (int32_t)id;
    return 0;
}

/* Whether BOS or EOS is added.  Asking for a token that is not there is a
 * mistake in the file only if it asks in words. */
static int load_adds(const gguf *g, const char *key, bool fallback, int32_t id,
                     bool *out, char *why, size_t why_size) {
    *out = fallback && id >= 0;
    if (!gguf_has(g, key)) return 0;

    int rc = gguf_get_bool(g, key, out, why, why_size);
    if (rc < 0) return rc;
    if (*out && id < 0)
        return err_why(why, why_size, ERR_FORMAT,
                       "%s is true, but the file does not name the token", key);
    return 0;
}

static int load_specials(tokenizer *t, const gguf *g, char *why,
                         size_t why_size) {
    const tokenizer_kind *k = t->kind;
    bool adds_bos = k->adds_bos || (t->pre != NULL && pre_adds_bos(t->pre));

    int rc = load_id(t, g, KEY("bos_token_id"), k->bos, &t->bos, why, why_size);
    if (rc == 0)
        rc = load_id(t, g, KEY("eos_token_id"), k->eos, &t->eos, why, why_size);
    if (rc == 0)
        rc = load_id(t, g, KEY("unknown_token_id"), k->unknown, &t->unknown,
                     why, why_size);
    if (rc == 0)
        rc = load_adds(g, KEY("add_bos_token"), adds_bos, t->bos, &t->add_bos,
                       why, why_size);
    if (rc == 0)
        rc = load_adds(g, KEY("add_eos_token"), k->adds_eos, t->eos,
                       &t->add_eos, why, why_size);
    return rc;
}

/* ---- ends of a generation ---- */

/* Few files list all of theirs, so they are known by name.  A name counts only
 * for a token that is special, or in a file without kinds. */
static const char *const end_names[] = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|EOT|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
    "<eos>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "[e~[",
    "<|flush|>",
    "<|calls|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<｜end▁of▁sentence｜>",
};

static bool has_end_name(gguf_string s) {
    for (size_t i = 0; i < ARRAY_LEN(end_names); i++) {
        if (gguf_string_is(s, end_names[i])) return true;
    }
    return false;
}

/* An end of generation is a control token, whatever the file says: a user's
 * text must not be able to spell it. */
static void mark_end(tokenizer *t, int32_t id) {
    if (id >= 0) t->flags[id] = TOKEN_CONTROL | TOKEN_END;
}

static int32_t find_special(const tokenizer *t, const char *name) {
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if ((t->flags[id] & (TOKEN_CONTROL | TOKEN_USER)) != 0 &&
            gguf_string_is(symbols_bytes(&t->symbols, (uint32_t)id), name))
            return id;
    }
    return -1;
}

/* Where a turn has several messages, <|end|> closes one of them and <|return|>
 * or <|call|> the turn. */
static void keep_message_end(tokenizer *t) {
    if (find_special(t, "<|return|>") < 0 || find_special(t, "<|call|>") < 0)
        return;
    int32_t id = find_special(t, "<|end|>");
    if (id >= 0 && id != t->eos) t->flags[id] &= (uint8_t)~TOKEN_END;
}

static int mark_ends(tokenizer *t, const gguf *g, char *why, size_t why_size) {
    static const char *const keys[] = {KEY("eot_token_id"),
                                       KEY("eom_token_id")};
    bool has_types = gguf_has(g, KEY("token_type"));

    for (int32_t id = 0; id < t->n_vocab; id++) {
        bool special = (t->flags[id] & (TOKEN_CONTROL | TOKEN_USER)) != 0;
        if ((special || !has_types) &&
            has_end_name(symbols_bytes(&t->symbols, (uint32_t)id)))
            mark_end(t, id);
    }
    keep_message_end(t);
    mark_end(t, t->eos);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        int32_t id;
        int rc = load_id(t, g, keys[i], -1, &id, why, why_size);
        if (rc < 0) return rc;
        mark_end(t, id);
    }
    if (t->bos >= 0 && (t->flags[t->bos] & TOKEN_NORMAL) != 0)
        t->flags[t->bos] = TOKEN_CONTROL;
    return 0;
}

/* Phi-3's tokens were trained without the white space that follows them; GGUF
 * has no key for it, so the model is known by its name. */
static void mark_rstrip(tokenizer *t, const gguf *g) {
    static const char *const kept[] = {"<unk>", "<s>", "<|endoftext|>"};
    gguf_string name;
    char text[128];

    if (t->kind != &spm_kind) return;
    if (gguf_get_string(g, "general.name", &name, NULL, 0) < 0) return;
    size_t n = size_min(name.len, sizeof(text) - 1);
    memcpy(text, name.data, n);
    text[n] = '\0';
    if (strcasestr(text, "phi-3") == NULL && strcasestr(text, "phi3") == NULL)
        return;

    for (int32_t id = 0; id < t->n_vocab; id++) {
        if ((t->flags[id] & (TOKEN_CONTROL | TOKEN_USER)) != 0)
            t->flags[id] |= TOKEN_RSTRIP;
    }
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        int32_t id = find_special(t, kept[i]);
        if (id >= 0) t->flags[id] &= (uint8_t)~TOKEN_RSTRIP;
    }
}

/* ---- special tokens in a text ---- */

/* Of tokens with the same text the lowest id is found. */
static int list_special(const tokenizer *t, uint8_t flags, byte_trie *out) {
    for (int32_t id = 0; id < t->n_vocab; id++) {
        gguf_string s = symbols_bytes(&t->symbols, (uint32_t)id);
        if ((t->flags[id] & flags) == 0 || s.len == 0) continue;
        int rc = trie_add(out, s.data, s.len, id);
        if (rc < 0) return rc;
    }
    return 0;
}

/* ---- all of it ---- */

int vocab_load(tokenizer *t, const gguf *g, char *why, size_t why_size) {
    int rc = count_tokens(t, g, why, why_size);
    if (rc == 0) rc = load_flags(t, g, why, why_size);
    if (rc == 0) rc = load_tokens(t, g, why, why_size);
    if (rc == 0) rc = load_specials(t, g, why, why_size);
    if (rc == 0) rc = mark_ends(t, g, why, why_size);
    if (rc < 0) return rc;

    mark_rstrip(t, g);
    rc = list_special(t, TOKEN_CONTROL | TOKEN_USER, &t->special);
    if (rc == 0) rc = list_special(t, TOKEN_USER, &t->user_defined);
    return rc;
}
