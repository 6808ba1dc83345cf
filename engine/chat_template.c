/* chat_template.c - see chat_template.h. */
#include "engine/chat_template.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja.h"
#include "engine/util.h"

const char chat_template_chatml[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

struct chat_template {
    jinja *plain;
    jinja *with_tools; /* NULL: plain serves these too */
    char *bos, *eos;   /* NULL: none known */
};

/* ---- from a model's file ---- */

static int parse_key(jinja **out, const gguf *g, const char *key, char *why,
                     size_t why_size) {
    gguf_string source;
    char what[256] = "";
    int rc = gguf_get_string(g, key, &source, why, why_size);
    if (rc < 0) return rc;
    rc = jinja_new(out, source.data, source.len, what, sizeof(what));
    return rc < 0 ? err_why(why, why_size, rc, "%s: %s", key, what) : 0;
}

/* The text of the token whose id `key` holds, NULL if there is none. */
static int token_text(const gguf *g, const char *key, const gguf_string *tokens,
                      uint64_t n_tokens, char **out) {
    uint32_t id;
    char why[256];
    *out = NULL;
    if (gguf_get_u32(g, key, &id, why, sizeof(why)) < 0) return 0;
    if (id >= n_tokens) return 0;
    *out = strndup(tokens[id].data, tokens[id].len);
    return *out != NULL ? 0 : -ENOMEM;
}

/* A file without a vocabulary has a template all the same. */
static int read_tokens(chat_template *t, const gguf *g) {
    static const char tokens_key[] = "tokenizer.ggml.tokens";
    gguf_type type;
    uint64_t n;
    char why[256];
    if (gguf_get_array(g, tokens_key, &type, &n, why, sizeof(why)) < 0)
        return 0;
    gguf_string *tokens = n < SIZE_MAX ? calloc(n + 1, sizeof(*tokens)) : NULL;
    if (tokens == NULL) return -ENOMEM;
    int rc = gguf_array_strings(g, tokens_key, tokens, n, why, sizeof(why));
    if (rc == 0)
        rc = token_text(g, "tokenizer.ggml.bos_token_id", tokens, n, &t->bos);
    if (rc == 0)
        rc = token_text(g, "tokenizer.ggml.eos_token_id", tokens, n, &t->eos);
    free(tokens);
    return rc == -ENOMEM ? rc : 0;
}

int chat_template_from_model(chat_template **out, const gguf *g, char *why,
                             size_t why_size) {
    *out = NULL;
    if (!gguf_has(g, CHAT_TEMPLATE_KEY)) {
        return err_why(why, why_size, ERR_UNSUPPORTED,
                       "the model has no chat template (key %s)",
                       CHAT_TEMPLATE_KEY);
    }
    chat_template *t = calloc(1, sizeof(*t));
    if (t == NULL) return err_why(why, why_size, -ENOMEM, "no memory");

    int rc = parse_key(&t->plain, g, CHAT_TEMPLATE_KEY, why, why_size);
    if (rc == 0 && gguf_has(g, CHAT_TEMPLATE_KEY ".tool_use"))
        rc = parse_key(&t->with_tools, g, CHAT_TEMPLATE_KEY ".tool_use", why,
                       why_size);
    if (rc == 0) {
        rc = read_tokens(t, g);
        if (rc < 0) err_why(why, why_size, rc, "no memory");
    }
    if (rc < 0) {
        chat_template_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

int chat_template_from_source(chat_template **out, const char *source,
                              size_t len, char *why, size_t why_size) {
    *out = NULL;
    chat_template *t = calloc(1, sizeof(*t));
    if (t == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    int rc = jinja_new(&t->plain, source, len, why, why_size);
    if (rc < 0) {
        chat_template_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void chat_template_free(chat_template *t) {
    if (t == NULL) return;
    jinja_free(t->plain);
    jinja_free(t->with_tools);
    free(t->bos);
    free(t->eos);
    free(t);
}

static int replace_text(char **held, const char *text) {
    if (text == NULL) return 0;
    char *copy = strdup(text);
    if (copy == NULL) return -ENOMEM;
    free(*held);
    *held = copy;
    return 0;
}

int chat_template_set_tokens(chat_template *t, const char *bos,
                             const char *eos) {
    int rc = replace_text(&t->bos, bos);
    return rc < 0 ? rc : replace_text(&t->eos, eos);
}

/* ---- rendering ---- */

/* A token's text, unless the request has its own. */
static bool add_token(json_t *variables, const char *name, const char *text) {
    if (text == NULL || json_object_get(variables, name) != NULL) return true;
    json_t *v = json_string(text);
    if (v == NULL) return true; /* no UTF-8: such a token is not printed */
    return json_object_set_new(variables, name, v) == 0;
}

static bool add_default(json_t *variables, const char *name, json_t *v) {
    bool given = json_object_get(variables, name) != NULL;
    if (!given) return json_object_set_new(variables, name, v) == 0;
    json_decref(v);
    return true;
}

/* What the template sees: the request's keys, those of its kwargs, defaults. */
static json_t *variables_of(const chat_template *t, const json_t *request) {
    json_t *v = json_copy((json_t *)request); /* borrows nothing, shares all */
    if (v == NULL) return NULL;
    json_t *more = json_object_get(v, "chat_template_kwargs");
    bool good = !json_is_object(more) || json_object_update(v, more) == 0;
    good = good && add_default(v, "tools", json_null()) &&
           add_default(v, "documents", json_null()) &&
           add_default(v, "add_generation_prompt", json_false()) &&
           add_token(v, "bos_token", t->bos) &&
           add_token(v, "eos_token", t->eos);
    if (good) return v;
    json_decref(v);
    return NULL;
}

static bool has_tools(const json_t *variables) {
    const json_t *tools = json_object_get(variables, "tools");
    return tools != NULL && !json_is_null(tools);
}

int chat_template_render(const chat_template *t, const json_t *request,
                         const struct tm *now, char **out, size_t *out_len,
                         char *why, size_t why_size) {
    jinja_input in = {.limits = JINJA_DEFAULT_LIMITS};
    *out = NULL;
    *out_len = 0;
    if (!json_is_object(request)) {
        return err_why(why, why_size, ERR_USAGE,
                       "the request is not a JSON object");
    }
    if (now != NULL) {
        in.now = *now;
    } else {
        time_t clock = time(NULL);
        localtime_r(&clock, &in.now);
    }
    json_t *variables = variables_of(t, request);
    if (variables == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    in.variables = variables;
    const jinja *used = t->with_tools != NULL && has_tools(variables)
                            ? t->with_tools
                            : t->plain;
    int rc = jinja_render(used, &in, out, out_len, why, why_size);
    json_decref(variables);
    return rc;
}
