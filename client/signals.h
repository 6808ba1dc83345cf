/* signals.h - the signals that end a command, as a descriptor to poll.
 *
 * SIGINT, SIGTERM and SIGHUP are blocked and read from the descriptor, so that
 * a command ends in its own good order: cancel, stop the rack, leave.  SIGHUP
 * stays ignored where the parent had it so (nohup). */
#ifndef CLIENT_SIGNALS_H
#define CLIENT_SIGNALS_H

/* Before any thread is started; once per process.  The descriptor, or -errno.
 */
int signals_open(void);

/* The next signal that has arrived; 0: none. */
int signals_take(int fd);

/* In a child, before it becomes another program: everything as usual. */
void signals_reset(void);

#endif
