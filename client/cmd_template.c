/* cmd_template.c - `roster template`: a conversation as its model's text. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <jansson.h>
#include "client/cli.h"
#include "client/commands.h"
#include "engine/chat_template.h"
#include "engine/err.h"
#include "engine/gguf.h"
#include "engine/util.h"

#define NAME "roster template"

typedef struct {
    const char *model, *file; /* one of them */
    const char *bos, *eos;    /* NULL: the model's */
    const char *now_text;     /* NULL: the clock */
    struct tm now;
} template_config;

/* ---- options ---- */

/* "2026-03-05T14:07:09", or the date alone; a fraction or a zone behind it says
 * nothing to a template. */
static int parse_time(const char *text, struct tm *out) {
    static const char *const forms[] = {
        "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct tm t = {0};
        const char *end = strptime(text, forms[i], &t);
        if (end == NULL) continue;
        if (*end == '.') end += 1 + strspn(end + 1, "0123456789");
        end += *end == 'Z' || *end == '+' ? strlen(end) : 0;
        if (*end != '\0') continue;
        (void)timegm(&t); /* fills the day of the week and of the year */
        *out = t;
        return 0;
    }
    return ERR_USAGE;
}

static int check(template_config *c) {
    if ((c->model != NULL) == (c->file != NULL))
        return cli_usage(NAME, "either a MODEL or --file is needed");
    if (c->now_text != NULL && parse_time(c->now_text, &c->now) < 0)
        return cli_usage(NAME,
                         "--now '%s' is not a time such as "
                         "2026-03-05T14:07:09",
                         c->now_text);
    return CLI_RUN;
}

static int parse(template_config *c, options **o, int argc, char **argv) {
    const option table[] = {
        {"file", 0, OPTION_STRING, &c->file, "T.jinja",
         "Take the template from this file instead of a model."},
        {"bos", 0, OPTION_STRING, &c->bos, "TEXT",
         "What the template sees as bos_token; default: the model's."},
        {"eos", 0, OPTION_STRING, &c->eos, "TEXT",
         "What the template sees as eos_token; default: the model's."},
        {"now", 0, OPTION_STRING, &c->now_text, "ISO-TIME",
         "What strftime_now() sees, such as 2026-03-05T14:07:09; default: the "
         "clock."},
    };
    const option_set set = {
        .program = NAME,
        .usage = "MODEL|--file T.jinja [options] < REQUEST.json",
        .about =
            "Renders the conversation on stdin, a JSON object with messages, "
            "tools, add_generation_prompt and so on, with a model's chat "
            "template and prints the exact bytes. Other keys of the object, "
            "and those of its chat_template_kwargs, are variables of the "
            "template.",
        .table = table,
        .count = ARRAY_LEN(table),
    };
    const char *const *args;
    size_t n_args;

    int status = cli_parse(o, &set, argc, argv, 0, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    c->model = n_args > 0 ? args[0] : NULL;
    return check(c);
}

/* ---- the work ---- */

static int open_model(chat_template **t, const char *path, char *why,
                      size_t why_size) {
    gguf *g;
    char what[CLI_WHY] = "";
    int rc = gguf_open(&g, path, why, why_size);
    if (rc < 0) return rc;
    rc = chat_template_from_model(t, g, what, sizeof(what));
    gguf_close(g);
    return rc < 0 ? err_why(why, why_size, rc, "%s: %s", path, what) : 0;
}

static int open_file(chat_template **t, const char *path, char *why,
                     size_t why_size) {
    char what[CLI_WHY] = "", *source;
    size_t len;
    int rc = cli_read_file(path, &source, &len);
    if (rc < 0) {
        return err_why(why, why_size, rc, "cannot read %s: %s", path,
                       err_text(rc));
    }
    rc = chat_template_from_source(t, source, len, what, sizeof(what));
    free(source);
    return rc < 0 ? err_why(why, why_size, rc, "%s: %s", path, what) : 0;
}

static int read_request(json_t **out, char *why, size_t why_size) {
    char *text;
    size_t bytes;
    json_error_t error;
    int rc = cli_read_stdin(&text, &bytes);
    if (rc < 0) {
        return err_why(why, why_size, rc, "cannot read stdin: %s",
                       err_text(rc));
    }
    *out = json_loadb(text, bytes, JSON_ALLOW_NUL, &error);
    free(text);
    if (*out != NULL) return 0;
    return err_why(why, why_size, ERR_USAGE, "stdin: %s (line %d, column %d)",
                   error.text, error.line, error.column);
}

static int render(const template_config *c, const chat_template *t,
                  const json_t *request, char *why, size_t why_size) {
    char *text;
    size_t len;
    int rc =
        chat_template_render(t, request, c->now_text != NULL ? &c->now : NULL,
                             &text, &len, why, why_size);
    if (rc < 0) return rc;
    rc = cli_write(text, len);
    free(text);
    if (rc == 0) return 0;
    return err_why(why, why_size, rc, "cannot write to stdout: %s",
                   err_text(rc));
}

static int run(const template_config *c, char *why, size_t why_size) {
    chat_template *t = NULL;
    json_t *request = NULL;

    int rc = c->model != NULL ? open_model(&t, c->model, why, why_size)
                              : open_file(&t, c->file, why, why_size);
    if (rc == 0 && chat_template_set_tokens(t, c->bos, c->eos) < 0)
        rc = err_why(why, why_size, -ENOMEM, "no memory");
    if (rc == 0) rc = read_request(&request, why, why_size);
    if (rc == 0) rc = render(c, t, request, why, why_size);
    json_decref(request);
    chat_template_free(t);
    return rc;
}

int cmd_template(int argc, char **argv) {
    template_config c = {0};
    options *o = NULL;
    char why[CLI_WHY] = "";

    int status = parse(&c, &o, argc, argv);
    if (status == CLI_RUN) {
        int rc = run(&c, why, sizeof(why));
        status = rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
    }
    options_free(o);
    return status;
}
