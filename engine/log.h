/* log.h - one line per event on stderr: time, level, program, text, in which
 * control characters are replaced.
 *
 * Any thread may log; a line is written with one write().  Whoever handles an
 * error logs it, once; everyone else passes it up. */
#ifndef ENGINE_LOG_H
#define ENGINE_LOG_H

typedef enum { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR } log_level;

/* Name the program in every line and drop what is below `least`.  `name` is
 * borrowed for the life of the process.  Call once, before threads start. */
void log_setup(const char *name, log_level least);

/* "debug", "info", "warn", "error" to a level; -1 if it is none of them. */
int log_level_parse(const char *text);

void log_write(log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)

#endif
