/* chat_template.h - a conversation as the text that its model was trained on.
 *
 * The template is the model's own (`tokenizer.chat_template`); what it is given
 * is a request's JSON object as clients of chat APIs write it.  Every key of
 * the request is a variable of the template, and so is every key of its
 * `chat_template_kwargs`. */
#ifndef ENGINE_CHAT_TEMPLATE_H
#define ENGINE_CHAT_TEMPLATE_H

#include <stddef.h>
#include <time.h>
#include <jansson.h>
#include "engine/gguf.h"

/* The key of a model's template. */
#define CHAT_TEMPLATE_KEY "tokenizer.chat_template"

/* What a server falls back to, with a warning, if a model has no template or
 * one that cannot be rendered: the form most models have seen. */
extern const char chat_template_chatml[];

typedef struct chat_template chat_template;

/* The template of a model's file; the variant
 * `tokenizer.chat_template.tool_use` too, which serves requests with tools.
 * Nothing of `g` is kept. ERR_UNSUPPORTED if the file has none; else as
 * jinja_new(). */
int chat_template_from_model(chat_template **out, const gguf *g, char *why,
                             size_t why_size);
/* A template's source, without a model. */
int chat_template_from_source(chat_template **out, const char *source,
                              size_t len, char *why, size_t why_size);
/* NULL is fine. */
void chat_template_free(chat_template *t);

/* The texts of the special tokens, from the model's vocabulary unless set;
 * copied.  NULL leaves one as it is.  -ENOMEM. */
int chat_template_set_tokens(chat_template *t, const char *bos,
                             const char *eos);

/* Render `request`.  `tools` and `documents` are none when they are absent,
 * `add_generation_prompt` is false.  `now`: what the template takes for the
 * time; NULL: the clock.  On success the caller frees *out, which is
 * zero-terminated.  Errors as jinja_render(). */
int chat_template_render(const chat_template *t, const json_t *request,
                         const struct tm *now, char **out, size_t *out_len,
                         char *why, size_t why_size);

#endif
