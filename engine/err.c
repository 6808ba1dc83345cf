/* err.c - one table of codes, names and texts. */
#include "engine/err.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include "engine/util.h"

static const struct {
    int code;
    const char *name;
    const char *text;
} errors[] = {
#define ERR_ROW(name, code, text) {code, #name, text},
    ERR_LIST(ERR_ROW)
#undef ERR_ROW
};

#define ERRNO_MOST 4095 /* the kernel's own limit */

static bool is_errno(int code) {
    return code < 0 && code >= -ERRNO_MOST;
}

const char *err_text(int code) {
    if (code >= 0) return "no error";
    for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
        if (errors[i].code == code) return errors[i].text;
    }
    return is_errno(code) ? strerror(-code) : "unknown error";
}

const char *err_name(int code) {
    if (code >= 0) return "OK";
    for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
        if (errors[i].code == code) return errors[i].name;
    }
    const char *name = is_errno(code) ? strerrorname_np(-code) : NULL;
    return name != NULL ? name : "unknown error";
}

int err_why(char *why, unsigned long why_size, int code, const char *fmt, ...) {
    if (why == NULL || why_size == 0) return code;
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, why_size, fmt, args);
    va_end(args);
    return code;
}
