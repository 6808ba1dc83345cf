/* jinja.h - renders chat templates: the part of the Jinja language that models'
 * `tokenizer.chat_template` use, with the results of Jinja 3.1 as Python prints
 * them.
 *
 * Settings are those that the authors of chat templates test with: trim_blocks,
 * lstrip_blocks, loop controls, no autoescape, tojson as json.dumps() with
 * ensure_ascii off, raise_exception(), strftime_now() and the generation tag.
 * One newline at the template's end is dropped.
 *
 * A template and its variables are hostile until proven otherwise.  Parsing and
 * rendering end in bounded time, memory and stack; a limit that is reached, a
 * construct that is not known and whatever a template raises is an error whose
 * sentence names the line.  What is unknown in a part that does not run is no
 * error, as in Jinja.
 *
 * A parsed template is immutable: any thread may render it, several at once. */
#ifndef ENGINE_JINJA_H
#define ENGINE_JINJA_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <jansson.h>

/* Of a template: bytes of source, how deep its syntax may nest, names of
 * variables. */
#define JINJA_MAX_SOURCE ((size_t)512 << 10)
#define JINJA_MAX_NESTING 250
#define JINJA_MAX_NAMES 4096
/* Of a rendering: calls, blocks and values within each other. */
#define JINJA_MAX_DEPTH 1000
/* What range() may give: as in Jinja's own sandbox. */
#define JINJA_MAX_RANGE 100000

/* What one rendering may use. */
typedef struct {
    uint64_t steps;      /* nodes evaluated, items and bytes (64ths) touched */
    size_t memory_bytes; /* of values that it makes */
    size_t output_bytes;
} jinja_limits;

#define JINJA_DEFAULT_LIMITS                                                   \
    {                                                                          \
        .steps = 50000000, .memory_bytes = (size_t)512 << 20,                  \
        .output_bytes = (size_t)64 << 20                                       \
    }

typedef struct jinja jinja;

/* Parse `len` bytes.  ERR_FORMAT for a syntax error, ERR_TOO_LARGE for a limit,
 * -ENOMEM; `why` holds a sentence and *out is NULL. */
int jinja_new(jinja **out, const char *source, size_t len, char *why,
              size_t why_size);
void jinja_free(jinja *t);

typedef struct {
    const json_t *variables; /* an object; its order is kept; borrowed */
    struct tm now;           /* what strftime_now() sees */
    jinja_limits limits;
} jinja_input;

/* Render.  On success the caller frees *out, which is zero-terminated.
 * ERR_UNSUPPORTED: the template uses what is not known here; ERR_USAGE: it
 * raised an exception, its own or one of the language's; ERR_TOO_LARGE: a
 * limit; -ENOMEM.  `why` holds a sentence. */
int jinja_render(const jinja *t, const jinja_input *in, char **out,
                 size_t *out_len, char *why, size_t why_size);

#endif
