/* jinja_format.h - values in fields: `%5.2f` and `{:>10}`. */
#ifndef ENGINE_JINJA_FORMAT_H
#define ENGINE_JINJA_FORMAT_H

#include "engine/jinja_run.h"

/* Widest field and most digits: more than any text needs. */
#define FORMAT_MAX 500

typedef struct {
    int32_t fill;
    char align; /* '<', '>', '^', '='; 0: the type's own */
    char sign;  /* '+', ' ', '-' */
    bool alternate, grouped;
    int width, precision; /* -1: not given */
    char type;            /* 0: not given */
} field;

/* One value in a field, to the output. */
int format_text(run *r, const field *f, value text);
int format_integer(run *r, const field *f, int64_t integer);
int format_real(run *r, const field *f, double real);

/* The field of a spec such as ">10.3f"; ERR_USAGE if it is none. */
int format_spec(run *r, value spec, field *out);

#endif
