/* child.h - one daemon that this process has started and answers for.
 *
 * A child is the leader of a process group of its own, so that a terminal's
 * Ctrl-C reaches us alone and everything it might start ends with it.  It reads
 * /dev/null and dies when we die, however that happens.  A thread per child
 * reads its output, so that it never blocks on a full pipe: the first line of
 * stdout is its report ("ready ENDPOINT"); of stderr the last line is kept, to
 * be told when it fails.
 *
 * Start children from the main thread only: the kernel ends them when the
 * thread that started them ends. */
#ifndef CLIENT_CHILD_H
#define CLIENT_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct child child;

typedef struct {
    const char *name; /* to us; at most 31 characters */
    const char *path;
    char *const *argv, *const *env; /* both end with NULL */
    bool forward; /* show its stderr, line by line, under its name */
} child_program;

/* Start it; `p` is used during the call only.  A program that cannot be run is
 * a child that ends at once. */
int child_start(child **out, const child_program *p, char *why,
                size_t why_size);

/* Wait until the first line of stdout is there, and copy it.  ERR_CLOSED: it
 * ended before, `why` says how and with what last words; ERR_DEADLINE;
 * ERR_CANCELLED: `stop_fd` (-1: none) became readable. */
int child_wait_line(child *c, uint64_t deadline_ms, int stop_fd, char *line,
                    size_t line_size, char *why, size_t why_size);

/* For poll(): readable once the process has ended. */
int child_fd(const child *c);

/* Has it ended?  Then `how` (may be NULL) says with what status and words. */
bool child_ended(child *c, char *how, size_t how_size);

const char *child_name(const child *c);
int child_pid(const child *c);

/* Signal the whole group. */
void child_signal(child *c, int signal);

/* Kill what is left of it, wait, free.  NULL is fine. */
void child_free(child *c);

#endif
