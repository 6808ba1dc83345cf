/* log.c - formats a line on the stack and writes it at once, so that lines of
 * several threads and processes do not mix. */
#include "engine/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "engine/util.h"

#define LOG_LINE_MAX 2048

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *program = "roster";
static log_level least_level = LOG_INFO;

void log_setup(const char *name, log_level least) {
    program = name;
    least_level = least;
}

int log_level_parse(const char *text) {
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, level_names[i]) == 0) return i;
    }
    return -1;
}

void log_write(log_level level, const char *fmt, ...) {
    if (level < least_level) return;

    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);

    char line[LOG_LINE_MAX];
    size_t used = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &parts);
    used += (size_t)snprintf(line + used, sizeof(line) - used,
                             ".%03ldZ %-5s %s: ", now.tv_nsec / 1000000,
                             level_names[level], program);

    va_list args;
    va_start(args, fmt);
    int wanted = vsnprintf(line + used, sizeof(line) - used - 1, fmt, args);
    va_end(args);
    if (wanted < 0) return;
    make_printable(line + used);
    used += (size_t)wanted;
    if (used > sizeof(line) - 2) used = sizeof(line) - 2;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0) return; /* nowhere left to say */
}
