/* jinja_words.h - what filters and methods of text share. */
#ifndef ENGINE_JINJA_WORDS_H
#define ENGINE_JINJA_WORDS_H

#include "engine/jinja_run.h"

/* The text in another case, marked as safe where it was. */
int words_upper(run *r, value text, value *out);
int words_lower(run *r, value text, value *out);
int words_capitalize(run *r, value text, value *out); /* str.capitalize() */

/* Without what stands at its ends: characters of `chars`, or white space if it
 * is MISSING or None. */
int words_strip(run *r, value text, value chars, bool left, bool right,
                value *out);

/* At most `count` times; all if it is negative. */
int words_replace(run *r, value text, value old, value by, int64_t count,
                  value *out);

/* A list of the lines, with their ends if `keep`. */
int words_lines(run *r, value text, bool keep, value *out);

/* str() of all items with `glue` between. */
int words_join(run *r, value glue, const seq *items, value *out);

#endif
