/* conversation.c - see conversation.h. */
#include "client/conversation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "engine/chat_template.h"
#include "engine/err.h"
#include "engine/gguf.h"

struct conversation {
    chat_template *template;
    json_t *request;  /* what the template sees */
    json_t *messages; /* borrowed from it */
    size_t n_first;   /* messages that stay when it is cleared */
};

static int from_model(chat_template **out, const char *path, char *why,
                      size_t why_size) {
    gguf *g;
    char what[CLI_WHY] = "";
    *out = NULL;
    int rc = gguf_open(&g, path, why, why_size);
    if (rc < 0) return rc;
    if (gguf_has(g, CHAT_TEMPLATE_KEY))
        rc = chat_template_from_model(out, g, what, sizeof(what));
    gguf_close(g);
    return rc < 0 ? err_why(why, why_size, rc, "%s: %s", path, what) : 0;
}

/* A file that begins as a model does is one, all others are source. */
static int read_template(chat_template **out, const char *path, char *why,
                         size_t why_size) {
    char magic[4] = "", what[CLI_WHY] = "", *source;
    size_t len;
    int rc = cli_read_head(path, magic, sizeof(magic));
    if (rc < 0) {
        return err_why(why, why_size, rc, "cannot read %s: %s", path,
                       err_text(rc));
    }
    if (memcmp(magic, "GGUF", sizeof(magic)) == 0)
        return from_model(out, path, why, why_size);
    rc = cli_read_file(path, &source, &len);
    if (rc < 0) {
        return err_why(why, why_size, rc, "cannot read %s: %s", path,
                       err_text(rc));
    }
    rc = chat_template_from_source(out, source, len, what, sizeof(what));
    free(source);
    return rc < 0 ? err_why(why, why_size, rc, "%s: %s", path, what) : 0;
}

/* {"messages": [], "add_generation_prompt": true} */
static int new_request(conversation *c) {
    c->request = json_object();
    c->messages = json_array();
    bool good = json_object_set_new(c->request, "messages", c->messages) == 0 &&
                json_object_set_new(c->request, "add_generation_prompt",
                                    json_true()) == 0;
    return good ? 0 : -ENOMEM;
}

int conversation_open(conversation **out, const char *file, const char *system,
                      char *why, size_t why_size) {
    chat_template *t;
    *out = NULL;
    int rc = read_template(&t, file, why, why_size);
    if (rc < 0 || t == NULL) return rc;

    conversation *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        chat_template_free(t);
        return err_why(why, why_size, -ENOMEM, "no memory");
    }
    c->template = t;
    rc = new_request(c);
    if (rc < 0) err_why(why, why_size, rc, "no memory");
    if (rc == 0 && system != NULL) {
        rc = conversation_add(c, "system", system, strlen(system), why,
                              why_size);
        c->n_first = 1;
    }
    if (rc < 0) {
        conversation_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void conversation_close(conversation *c) {
    if (c == NULL) return;
    chat_template_free(c->template);
    json_decref(c->request);
    free(c);
}

int conversation_add(conversation *c, const char *role, const char *text,
                     size_t len, char *why, size_t why_size) {
    json_t *content = json_stringn(text, len);
    if (content == NULL)
        return err_why(why, why_size, ERR_USAGE, "the text is not UTF-8");
    json_t *message = json_object();
    bool good = json_object_set_new(message, "role", json_string(role)) == 0 &&
                json_object_set(message, "content", content) == 0 &&
                json_array_append(c->messages, message) == 0;
    json_decref(content);
    json_decref(message);
    return good ? 0 : err_why(why, why_size, -ENOMEM, "no memory");
}

void conversation_drop(conversation *c) {
    size_t n = json_array_size(c->messages);
    if (n > c->n_first) (void)json_array_remove(c->messages, n - 1);
}

void conversation_clear(conversation *c) {
    while (json_array_size(c->messages) > c->n_first)
        conversation_drop(c);
}

int conversation_render(const conversation *c, char **out, size_t *len,
                        char *why, size_t why_size) {
    char what[CLI_WHY] = "";
    int rc = chat_template_render(c->template, c->request, NULL, out, len, what,
                                  sizeof(what));
    return rc < 0 ? err_why(why, why_size, rc, "the chat template: %s", what)
                  : 0;
}
