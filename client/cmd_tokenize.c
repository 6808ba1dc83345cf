/* cmd_tokenize.c - `roster tokenize` and `roster detokenize`: a model's
 * tokenizer on stdin and stdout, without any server. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "client/commands.h"
#include "engine/err.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/util.h"

#define ID_DIGITS 11 /* an int32 with its separator */

static int open_tokenizer(tokenizer **out, const char *path, char *why,
                          size_t why_size) {
    gguf *g;
    char what[CLI_WHY] = "";

    *out = NULL;
    int rc = gguf_open(&g, path, why, why_size);
    if (rc < 0) return rc;
    rc = tokenizer_new(out, g, what, sizeof(what));
    if (rc < 0) {
        err_why(why, why_size, rc, "%s: %s", path,
                what[0] != '\0' ? what : err_text(rc));
    }
    gguf_close(g);
    return rc;
}

static int read_stdin(char **data, size_t *bytes, char *why, size_t why_size) {
    int rc = cli_read_stdin(data, bytes);
    return rc < 0 ? err_why(why, why_size, rc, "cannot read stdin: %s",
                            err_text(rc))
                  : 0;
}

static int write_stdout(const char *data, size_t bytes, char *why,
                        size_t why_size) {
    int rc = cli_write(data, bytes);
    return rc < 0 ? err_why(why, why_size, rc, "cannot write to stdout: %s",
                            err_text(rc))
                  : 0;
}

/* ---- tokenize ---- */

typedef struct {
    bool add_special, parse_special;
} tokenize_config;

static int encode(const tokenizer *t, const tokenize_config *c,
                  const char *text, size_t bytes, int32_t **ids, size_t *n,
                  char *why, size_t why_size) {
    size_t capacity = tokenizer_room(t, bytes);

    *ids = calloc(capacity, sizeof(**ids));
    if (*ids == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    int rc = tokenizer_encode(t, text, bytes, c->add_special, c->parse_special,
                              *ids, capacity, n);
    return rc < 0
               ? err_why(why, why_size, rc, "cannot tokenize: %s", err_text(rc))
               : 0;
}

static int print_ids(const int32_t *ids, size_t n, char *why, size_t why_size) {
    size_t capacity, at = 0;

    if (!size_mul(n + 1, ID_DIGITS + 1, &capacity)) capacity = 0;
    char *line = capacity > 0 ? malloc(capacity) : NULL;
    if (line == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    for (size_t i = 0; i < n; i++) {
        at += (size_t)snprintf(line + at, capacity - at, "%s%d",
                               i > 0 ? " " : "", ids[i]);
    }
    line[at++] = '\n';
    int rc = write_stdout(line, at, why, why_size);
    free(line);
    return rc;
}

static int tokenize(const tokenize_config *c, const char *model, char *why,
                    size_t why_size) {
    tokenizer *t = NULL;
    char *text = NULL;
    int32_t *ids = NULL;
    size_t bytes = 0, n = 0;

    int rc = open_tokenizer(&t, model, why, why_size);
    if (rc == 0) rc = read_stdin(&text, &bytes, why, why_size);
    if (rc == 0) rc = encode(t, c, text, bytes, &ids, &n, why, why_size);
    if (rc == 0) rc = print_ids(ids, n, why, why_size);
    free(ids);
    free(text);
    tokenizer_free(t);
    return rc;
}

int cmd_tokenize(int argc, char **argv) {
    tokenize_config c = {false, false};
    const option table[] = {
        {"add-special", 0, OPTION_FLAG, &c.add_special, NULL,
         "Add the tokens that the model wants around a text (BOS, EOS)."},
        {"parse-special", 0, OPTION_FLAG, &c.parse_special, NULL,
         "Read control tokens that are written out in the text."},
    };
    const option_set set = {
        .program = "roster tokenize",
        .usage = "MODEL [options] < TEXT",
        .about = "Prints the token ids of the text on stdin, separated by "
                 "spaces, on one line.",
        .table = table,
        .count = ARRAY_LEN(table),
    };
    options *o;
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(&o, &set, argc, argv, 1, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    int rc = tokenize(&c, args[0], why, sizeof(why));
    options_free(o);
    return rc < 0 ? cli_fail(set.program, "%s", why) : CLI_OK;
}

/* ---- detokenize ---- */

/* ids are checked against the vocabulary, by name. */
static int to_int32(const tokenizer *t, const uint32_t *ids, size_t n,
                    int32_t *out, char *why, size_t why_size) {
    uint32_t n_vocab = (uint32_t)tokenizer_n_vocab(t);

    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= n_vocab) {
            return err_why(why, why_size, ERR_RANGE,
                           "token id %u (number %zu) is outside the vocabulary "
                           "of %u",
                           ids[i], i + 1, n_vocab);
        }
        out[i] = (int32_t)ids[i];
    }
    return 0;
}

static int decode(const tokenizer *t, const int32_t *ids, size_t n,
                  bool special, char **text, size_t *bytes, char *why,
                  size_t why_size) {
    size_t need = 0;
    char none;

    int rc = tokenizer_decode(t, ids, n, special, &none, 0, &need);
    if (rc == ERR_RANGE && need > 0) rc = 0; /* the size was the question */
    *text = rc == 0 ? malloc(need + 1) : NULL;
    if (rc == 0 && *text == NULL) rc = -ENOMEM;
    if (rc == 0) rc = tokenizer_decode(t, ids, n, special, *text, need, bytes);
    return rc < 0 ? err_why(why, why_size, rc, "cannot detokenize: %s",
                            err_text(rc))
                  : 0;
}

static int detokenize(bool special, const char *model, char *why,
                      size_t why_size) {
    tokenizer *t = NULL;
    char *input = NULL, *text = NULL;
    uint32_t *ids = NULL;
    int32_t *checked = NULL;
    size_t input_bytes = 0, bytes = 0, n = 0;
    char what[CLI_WHY] = "";

    int rc = open_tokenizer(&t, model, why, why_size);
    if (rc == 0) rc = read_stdin(&input, &input_bytes, why, why_size);
    if (rc == 0) {
        rc = cli_parse_ids(input, input_bytes, &ids, &n, what, sizeof(what));
        if (rc < 0) err_why(why, why_size, rc, "stdin: %s", what);
    }
    if (rc == 0) {
        checked = calloc(n + 1, sizeof(*checked));
        rc = checked != NULL ? to_int32(t, ids, n, checked, why, why_size)
                             : err_why(why, why_size, -ENOMEM, "no memory");
    }
    if (rc == 0 && n > 0)
        rc = decode(t, checked, n, special, &text, &bytes, why, why_size);
    if (rc == 0) rc = write_stdout(text, bytes, why, why_size);
    free(checked);
    free(ids);
    free(text);
    free(input);
    tokenizer_free(t);
    return rc;
}

int cmd_detokenize(int argc, char **argv) {
    bool special = false;
    const option table[] = {
        {"special", 0, OPTION_FLAG, &special, NULL,
         "Write control tokens out; otherwise they give no text."},
    };
    const option_set set = {
        .program = "roster detokenize",
        .usage = "MODEL [options] < IDS",
        .about = "Prints the exact bytes of the token ids on stdin, which are "
                 "separated by spaces, commas or newlines.",
        .table = table,
        .count = ARRAY_LEN(table),
    };
    options *o;
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(&o, &set, argc, argv, 1, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    int rc = detokenize(special, args[0], why, sizeof(why));
    options_free(o);
    return rc < 0 ? cli_fail(set.program, "%s", why) : CLI_OK;
}
