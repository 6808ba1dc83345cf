/* test_tokenizer_golden.c - real vocabularies against references.
 *
 * Every <name>.json with its <name>.gguf is a case: those of data/tokenizer
 * beside this file, made for this project with SentencePiece (unigram models
 * trained on our stories), and those of golden/tokenizer in the shared folder
 * ($ROSTER_SHARED, ../shared), other people's vocabularies, which are skipped
 * with a line that says so when it is not there.
 *
 * The shared ones' expected ids are llama.cpp's, but where a text has
 * hf_ids_parse_special, the published tokenizer's, those count, for the same
 * text without special tokens too.  Two things differ on purpose: llama.cpp
 * reports token 11 as BOS or EOS of a BPE file that names none, and it
 * detokenizes some vocabularies with spaces before punctuation removed
 * (text_clean here), which would not give a text back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <assert.h>
#include <dirent.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/util.h"

enum { MAX_IDS = 8192, MAX_CASES = 256, MAX_PATH = 1024 };

/* ---- files ---- */

typedef struct {
    char name[MAX_PATH]; /* path without .json */
} golden_file;

static golden_file files[MAX_CASES];
static size_t n_files;

static int by_name(const void *a, const void *b) {
    return strcmp(((const golden_file *)a)->name,
                  ((const golden_file *)b)->name);
}

/* Every .json of a folder; false if there is no such folder. */
static bool find_files(const char *folder) {
    size_t before = n_files;
    DIR *d = opendir(folder);
    if (d == NULL) return false;

    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        const char *dot = strrchr(e->d_name, '.');
        if (dot == NULL || strcmp(dot, ".json") != 0) continue;
        assert(n_files < MAX_CASES);
        snprintf(files[n_files++].name, MAX_PATH, "%s/%.*s", folder,
                 (int)(dot - e->d_name), e->d_name);
    }
    closedir(d);
    qsort(files + before, n_files - before, sizeof(*files), by_name);
    return true;
}

static const char *path_of(const golden_file *f, const char *suffix) {
    static char path[MAX_PATH + 8];
    snprintf(path, sizeof(path), "%s%s", f->name, suffix);
    return path;
}

/* The whole file, zero-terminated; the caller frees it. */
static char *read_all(const char *path, size_t *len) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail_msg("%s: cannot open", path);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long n = ftell(file);
    assert_true(n >= 0);
    rewind(file);
    char *text = malloc((size_t)n + 1);
    assert_non_null(text);
    *len = fread(text, 1, (size_t)n, file);
    assert_int_equal(*len, n);
    text[n] = '\0';
    fclose(file);
    return text;
}

typedef struct {
    const golden_file *file;
    gguf *g;
    tokenizer *t;
    json_t *golden;
} fixture;

static void open_fixture(fixture *f, const golden_file *file) {
    char why[256] = "";
    json_error_t error;

    *f = (fixture){.file = file};
    if (gguf_open(&f->g, path_of(file, ".gguf"), why, sizeof(why)) < 0 ||
        tokenizer_new(&f->t, f->g, why, sizeof(why)) < 0)
        fail_msg("%s: %s", file->name, why);
    f->golden = json_load_file(path_of(file, ".json"), 0, &error);
    if (f->golden == NULL) fail_msg("%s: %s", file->name, error.text);
}

static void close_fixture(fixture *f) {
    json_decref(f->golden);
    tokenizer_free(f->t);
    gguf_close(f->g);
}

/* ---- lists of ids ---- */

typedef struct {
    int32_t ids[MAX_IDS];
    size_t n;
} id_list;

static void list_of(const json_t *array, id_list *out) {
    out->n = json_array_size(array);
    assert_true(out->n <= MAX_IDS);
    for (size_t i = 0; i < out->n; i++)
        out->ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
}

static void encode(const tokenizer *t, const char *text, size_t len,
                   bool add_special, bool parse_special, id_list *out) {
    assert_int_equal(tokenizer_encode(t, text, len, add_special, parse_special,
                                      out->ids, MAX_IDS, &out->n),
                     0);
}

static void print_ids(const char *what, const id_list *l, size_t from) {
    size_t begin = from > 4 ? from - 4 : 0;
    print_error("  %s (%zu):%s", what, l->n, begin > 0 ? " ..." : "");
    for (size_t i = begin; i < l->n && i < begin + 16; i++)
        print_error(" %d", l->ids[i]);
    print_error("\n");
}

static void check_ids(const fixture *f, const char *what, const char *text,
                      const id_list *got, const id_list *want) {
    size_t same = 0;
    while (same < got->n && same < want->n && got->ids[same] == want->ids[same])
        same++;
    if (same == got->n && same == want->n) return;
    print_error("%s: %s of \"%s\" differ at %zu\n", f->file->name, what, text,
                same);
    print_ids("expected", want, same);
    print_ids("got", got, same);
    fail();
}

/* What the published tokenizer gives stands in for the tail that the
 * reference's list has in common with its ids_parse_special.  false: the lists
 * have no such tail, so nothing is known. */
static bool prefer_published(const json_t *test, id_list *want) {
    id_list parsed, published;
    const json_t *hf = json_object_get(test, "hf_ids_parse_special");
    if (hf == NULL) return true;

    list_of(json_object_get(test, "ids_parse_special"), &parsed);
    list_of(hf, &published);
    if (want->n < parsed.n) return false;
    size_t head = want->n - parsed.n;
    if (memcmp(want->ids + head, parsed.ids, parsed.n * sizeof(*want->ids)))
        return false;
    memcpy(want->ids + head, published.ids,
           published.n * sizeof(*published.ids));
    want->n = head + published.n;
    return true;
}

static void check_encoding(const fixture *f, const json_t *test) {
    static const struct {
        const char *name;
        bool add_special, parse_special;
    } kinds[] = {
        {"ids", false, false},
        {"ids_add_special", true, false},
        {"ids_parse_special", false, true},
        {"ids_add_and_parse_special", true, true},
    };
    const json_t *text = json_object_get(test, "text");
    id_list got, want;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const json_t *ids = json_object_get(test, kinds[i].name);
        if (ids == NULL) continue; /* the reference cannot tell */
        list_of(ids, &want);
        if (!prefer_published(test, &want)) continue;
        encode(f->t, json_string_value(text), json_string_length(text),
               kinds[i].add_special, kinds[i].parse_special, &got);
        check_ids(f, kinds[i].name, json_string_value(text), &got, &want);
    }
}

/* ---- bytes ---- */

static size_t from_hex(const char *hex, char *out) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)byte;
    }
    return n;
}

static void check_bytes(const fixture *f, const char *what, const char *got,
                        size_t n_got, const char *want, size_t n_want) {
    if (n_got == n_want && memcmp(got, want, n_got) == 0) return;
    fail_msg("%s: %s: expected \"%.*s\", got \"%.*s\"", f->file->name, what,
             (int)n_want, want, (int)n_got, got);
}

/* The reference's tidying: no space before ? ! . , nor before 's 'm 're 've,
 * and none around a lone apostrophe. */
static size_t text_clean(char *s, size_t n) {
    size_t made = 0;
    for (size_t i = 0; i < n; i++) {
        if (made > 0 && s[made - 1] == ' ' && memchr("?!.,", s[i], 4) != NULL)
            made--;
        s[made++] = s[i];
    }
    n = made;
    made = 0;
    for (size_t i = 0; i < n; i++) {
        bool before = made > 0 && s[made - 1] == ' ' && s[i] == '\'';
        const char *rest = s + i + 1;
        size_t left = n - i - 1;
        if (before && left > 0 && *rest == ' ') {
            s[made - 1] = '\'';
            i++;
            continue;
        }
        if (before && ((left > 0 && (*rest == 's' || *rest == 'm')) ||
                       (left > 1 && (memcmp(rest, "re", 2) == 0 ||
                                     memcmp(rest, "ve", 2) == 0))))
            made--;
        s[made++] = s[i];
    }
    return made;
}

/* The text itself counts where the reference tidies it. */
static void check_decoding(const fixture *f, const json_t *test) {
    static char got[1 << 16], want[1 << 16];
    id_list ids;
    size_t n;

    const char *hex =
        json_string_value(json_object_get(test, "detokenized_hex"));
    if (hex == NULL) return;
    size_t n_want = from_hex(hex, want);
    list_of(json_object_get(test, "ids"), &ids);
    assert_int_equal(
        tokenizer_decode(f->t, ids.ids, ids.n, false, got, sizeof(got), &n), 0);
    if (n != n_want || memcmp(got, want, n) != 0) {
        const json_t *text = json_object_get(test, "text");
        check_bytes(f, "text", got, n, json_string_value(text),
                    json_string_length(text));
        n = text_clean(got, n);
    }
    check_bytes(f, "detokenized", got, n, want, n_want);
}

static void check_pieces(const fixture *f) {
    json_t *pieces = json_object_get(f->golden, "pieces_hex");
    const char *id;
    json_t *hex;
    char want[8192], what[64];

    json_object_foreach(pieces, id, hex) {
        gguf_string got =
            tokenizer_piece(f->t, (int32_t)strtol(id, NULL, 10), true);
        size_t n = from_hex(json_string_value(hex), want);
        snprintf(what, sizeof(what), "piece %s", id);
        check_bytes(f, what, got.data, got.len, want, n);
    }
}

/* ---- facts ---- */

static int32_t golden_int(const fixture *f, const char *name) {
    return (int32_t)json_integer_value(json_object_get(f->golden, name));
}

static void check_facts(const fixture *f) {
    bool names_bos = gguf_has(f->g, "tokenizer.ggml.bos_token_id");
    bool names_eos = gguf_has(f->g, "tokenizer.ggml.eos_token_id");

    assert_int_equal(tokenizer_n_vocab(f->t), golden_int(f, "n_vocab"));
    assert_int_equal(tokenizer_bos(f->t),
                     names_bos ? golden_int(f, "bos") : -1);
    assert_int_equal(tokenizer_eos(f->t),
                     names_eos ? golden_int(f, "eos") : -1);
    assert_int_equal(tokenizer_adds_bos(f->t),
                     json_is_true(json_object_get(f->golden, "add_bos")));
    assert_true(tokenizer_is_end(f->t, golden_int(f, "eos")));
}

/* ---- one line of ids a text ---- */

static void check_lines(const fixture *f) {
    static const char mark[] = "\n__ggml_vocab_test__\n";
    size_t n_in, n_out;
    char *texts = read_all(path_of(f->file, ".inp"), &n_in);
    char *lines = read_all(path_of(f->file, ".out"), &n_out);
    char *line = lines;
    id_list got, want;

    for (char *text = texts; text != NULL && *line != '\0';) {
        char *end = strstr(text, mark);
        size_t len = end != NULL ? (size_t)(end - text) : strlen(text);
        char *stop = strchr(line, '\n');
        assert_non_null(stop);
        for (want.n = 0; line + strspn(line, " ") < stop; want.n++) {
            assert_true(want.n < MAX_IDS);
            want.ids[want.n] = (int32_t)strtol(line, &line, 10);
        }
        encode(f->t, text, len, false, false, &got);
        text[len] = '\0';
        check_ids(f, ".inp", text, &got, &want);
        line = stop + 1;
        text = end != NULL ? end + sizeof(mark) - 1 : NULL;
    }
    assert_int_equal(*line, '\0');
    free(texts);
    free(lines);
}

static void matches_the_reference(void **state) {
    fixture f;
    size_t i;
    json_t *test;

    open_fixture(&f, *state);
    json_array_foreach(json_object_get(f.golden, "tests"), i, test) {
        check_encoding(&f, test);
        check_decoding(&f, test);
    }
    assert_true(i > 0);
    check_pieces(&f);
    check_facts(&f);
    if (access(path_of(f.file, ".inp"), R_OK) == 0) check_lines(&f);
    close_fixture(&f);
}

static void is_skipped(void **state) {
    (void)state;
    skip();
}

/* Into tests[MAX_CASES + 1]; returns how many. */
static size_t list_tests(struct CMUnitTest *tests, bool has_shared) {
    for (size_t i = 0; i < n_files; i++)
        tests[i] = (struct CMUnitTest){.name = files[i].name,
                                       .test_func = matches_the_reference,
                                       .initial_state = &files[i]};
    if (has_shared) return n_files;
    tests[n_files] = (struct CMUnitTest){.name = "shared vocabularies",
                                         .test_func = is_skipped};
    return n_files + 1;
}

int main(void) {
    static struct CMUnitTest tests[MAX_CASES + 1];
    const char *shared = getenv("ROSTER_SHARED");
    char folder[512];

    if (!find_files("tests/golden/data/tokenizer")) return 1;
    snprintf(folder, sizeof(folder), "%s/golden/tokenizer",
             shared != NULL ? shared : "../shared");
    bool has_shared = find_files(folder);
    strcat(folder, "/pre");
    if (has_shared)
        find_files(folder);
    else
        printf("skipped: the shared tokenizer vocabularies, no folder %s\n",
               folder);
    return _cmocka_run_group_tests("tokenizers", tests,
                                   list_tests(tests, has_shared), NULL, NULL);
}
