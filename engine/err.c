/* err.c - one table of codes, names and texts. */
#include "engine/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int code;
    const char *name;
    const char *text;
} errors[] = {
#define ERR_ROW(name, code, text) {code, #name, text},
    ERR_LIST(ERR_ROW)
#undef ERR_ROW
};

const char *err_text(int code) {
    if (code >= 0) return "no error";
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        if (errors[i].code == code) return errors[i].text;
    }
    return strerror(-code);
}

const char *err_name(int code) {
    if (code >= 0) return "OK";
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        if (errors[i].code == code) return errors[i].name;
    }
    const char *name = strerrorname_np(-code);
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
