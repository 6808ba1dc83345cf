/* conversation.h - the messages of a chat, and the text that a model wants for
 * them. */
#ifndef CLIENT_CONVERSATION_H
#define CLIENT_CONVERSATION_H

#include <stddef.h>

typedef struct conversation conversation;

/* With the chat template in `file`, a model or a template's source.  On success
 * *out is NULL if `file` is a model without a template: its turns are plain
 * text.  `system` (may be NULL) is the first message. */
int conversation_open(conversation **out, const char *file, const char *system,
                      char *why, size_t why_size);
/* NULL is fine. */
void conversation_close(conversation *c);

/* Append a message.  ERR_USAGE if the text is not UTF-8. */
int conversation_add(conversation *c, const char *role, const char *text,
                     size_t len, char *why, size_t why_size);
/* Take the last message back. */
void conversation_drop(conversation *c);
/* Start over: only the system message stays. */
void conversation_clear(conversation *c);

/* The whole text, up to where the model is to answer; the caller frees *out. */
int conversation_render(const conversation *c, char **out, size_t *len,
                        char *why, size_t why_size);

#endif
