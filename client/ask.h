/* ask.h - one prompt and its streamed answer: what `generate` and `chat`
 * share. */
#ifndef CLIENT_ASK_H
#define CLIENT_ASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "client/session.h"

typedef struct {
    session_config session;
    uint32_t max_tokens, top_k;
    float temperature, top_p, min_p;
    const char *seed_text; /* as given; NULL: not */
    uint64_t seed;
    bool has_seed, echo, stats, ignore_end, parse_special;
    bool add_special; /* the model's BOS before the text; on unless unset */
} ask_config;

void ask_config_init(ask_config *c);

/* Rows of an option table: those of the session and the ones for sampling and
 * showing; at most ASK_OPTIONS. */
#define ASK_OPTIONS (SESSION_OPTIONS + 10)
size_t ask_options(ask_config *c, option *table);

/* After parsing: check and convert.  ERR_USAGE with a sentence. */
int ask_check(ask_config *c, const options *o, char *why, size_t why_size);

/* The tokens said so far, by both sides; zeroed is empty. */
typedef struct {
    uint32_t *tokens; /* owned */
    size_t count;
    char *answer; /* owned: what the model said last; NULL: nothing */
    size_t answer_bytes;
} ask_history;

void ask_history_fini(ask_history *h);

/* Let the model go on after the history and `text`, and show what it says on
 * stdout as it comes; figures go to stderr if asked for.  A signal (except when
 * it only arrived before) cancels the answer.  The history then holds prompt
 * and answer.
 *
 * 0: it ended in good order; -EINTR: cancelled by a signal, s->signal says
 * which; -EPIPE and the like: stdout cannot be written to; else the request's
 * error.  `why` holds a sentence. */
int ask(session *s, const ask_config *c, ask_history *h, const char *text,
        size_t text_bytes, char *why, size_t why_size);

#endif
