/* jinja.c - see jinja.h: a template's life, and one rendering from request to
 * text. */
#include "engine/jinja.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

/* A tree is much larger than its source; this is above what any needs. */
#define TREE_LIMIT_BYTES ((size_t)256 << 20)

/* ---- parsing ---- */

/* Every kind of newline becomes \n, and the last one goes. */
static int normalise(jinja *t, const char *source, size_t len) {
    t->source = malloc(len + 1);
    if (t->source == NULL) return -ENOMEM;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r' && i + 1 < len && source[i + 1] == '\n') continue;
        t->source[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (n > 0 && t->source[n - 1] == '\n') n--;
    t->source[n] = '\0';
    t->source_len = n;
    return 0;
}

int jinja_new(jinja **out, const char *source, size_t len, char *why,
              size_t why_size) {
    *out = NULL;
    if (len > JINJA_MAX_SOURCE)
        return err_why(why, why_size, ERR_TOO_LARGE,
                       "a template of %zu bytes; the limit is %zu", len,
                       JINJA_MAX_SOURCE);
    jinja *t = calloc(1, sizeof(*t));
    if (t == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    arena_init(&t->memory, TREE_LIMIT_BYTES);

    int rc = normalise(t, source, len);
    if (rc < 0) err_why(why, why_size, rc, "no memory");
    if (rc == 0) rc = lexer_run(t, why, why_size);
    if (rc == 0) rc = parser_run(t, why, why_size);
    free(t->tokens);
    t->tokens = NULL;
    if (rc < 0) {
        jinja_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void jinja_free(jinja *t) {
    if (t == NULL) return;
    free(t->symbols);
    free(t->source);
    arena_fini(&t->memory);
    free(t);
}

/* ---- rendering ---- */

/* What a name means before the template sets anything: the request's variable,
 * else a function, else nothing. */
static value first_value(const dict *request, value name) {
    const value *given = dict_get(request, name.as.text, name.len);
    if (given != NULL) return *given;
    const builtin *function = builtin_function(name);
    return function != NULL ? value_builtin(function) : value_missing();
}

static int set_variables(run *r, const json_t *variables) {
    value request;
    const jinja *t = r->template;
    int rc = run_from_json(r, variables, &request);
    if (rc < 0) return rc;
    r->variables = run_alloc(r, t->n_symbols + 1, sizeof(*r->variables));
    if (r->variables == NULL) return run_full(r);
    for (size_t i = 0; i < t->n_symbols; i++)
        r->variables[i] = first_value(request.as.dict, t->symbols[i]);
    return 0;
}

int jinja_render(const jinja *t, const jinja_input *in, char **out,
                 size_t *out_len, char *why, size_t why_size) {
    run r = {.template = t,
             .steps_left = in->limits.steps,
             .output_limit = in->limits.output_bytes,
             .now = in->now,
             .why = why,
             .why_size = why_size};
    int flow = FLOW_ON;
    *out = NULL;
    *out_len = 0;
    if (!json_is_object(in->variables))
        return err_why(why, why_size, ERR_USAGE,
                       "a template's variables must be a JSON object");
    arena_init(&r.memory, size_min(in->limits.memory_bytes, UINT32_MAX - 1));

    int rc = set_variables(&r, in->variables);
    if (rc == 0) rc = run_body(&r, t->root, &flow);
    if (rc == 0) {
        r.line = 0;
        rc = run_put(&r, "", 1); /* the zero behind */
    }
    arena_fini(&r.memory);
    if (rc < 0) {
        free(r.out);
        return rc;
    }
    *out = r.out;
    *out_len = r.out_len - 1;
    return 0;
}
