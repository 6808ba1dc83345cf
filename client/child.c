/* child.c - see child.h.
 *
 * The reading thread owns the pipes' reading ends; what it shares with the
 * owner is the text it has read, under a lock, and two eventfds: `news` tells
 * the owner that a line is there or that the output has ended, `quit` tells the
 * thread to go.  A pidfd tells that the process has ended. */
#include "client/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "client/signals.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME_BYTES 32
#define LINE_BYTES 512
#define READ_BYTES 4096
#define HOW_BYTES 1024

/* The text of one stream: the line being read, and for stderr those before. */
typedef struct {
    char line[LINE_BYTES];
    size_t len;
} line_reader;

struct child {
    char name[NAME_BYTES];
    pid_t pid;
    int pidfd;
    bool reaped;
    int status;

    int out, err;   /* reading ends: the thread's */
    int news, quit; /* eventfds */
    bool forward;
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t lock;   /* guards what follows */
    char first[LINE_BYTES]; /* of stdout */
    bool has_first;
    char last[LINE_BYTES]; /* of stderr, not empty */
};

/* ---- the reading thread ---- */

static void tell(int eventfd_number) {
    uint64_t one = 1;
    ssize_t n = write(eventfd_number, &one, sizeof(one));
    (void)n; /* full only after 2^64 events */
}

static void on_stdout_line(child *c, const char *line) {
    pthread_mutex_lock(&c->lock);
    if (!c->has_first) {
        snprintf(c->first, sizeof(c->first), "%s", line);
        c->has_first = true;
    }
    pthread_mutex_unlock(&c->lock);
    tell(c->news);
}

static void on_stderr_line(child *c, const char *line) {
    if (c->forward) fprintf(stderr, "%s: %s\n", c->name, line);
    if (line[0] == '\0') return;
    pthread_mutex_lock(&c->lock);
    snprintf(c->last, sizeof(c->last), "%s", line);
    pthread_mutex_unlock(&c->lock);
}

typedef void (*line_handler)(child *c, const char *line);

static void end_line(child *c, line_reader *r, line_handler handle) {
    r->line[r->len] = '\0';
    handle(c, r->line);
    r->len = 0;
}

/* Read what is there.  false: the stream has ended.  The end of a long line is
 * dropped. */
static bool read_lines(child *c, int fd, line_reader *r, line_handler handle) {
    char data[READ_BYTES];

    ssize_t n = read(fd, data, sizeof(data));
    if (n < 0) return errno == EINTR || errno == EAGAIN;
    if (n == 0) {
        if (r->len > 0) end_line(c, r, handle);
        return false;
    }
    for (ssize_t i = 0; i < n; i++) {
        if (data[i] == '\n') {
            end_line(c, r, handle);
        } else if (r->len + 1 < sizeof(r->line)) {
            r->line[r->len++] = data[i];
        }
    }
    return true;
}

static void *read_output(void *opaque) {
    child *c = opaque;
    line_reader out = {.len = 0}, err = {.len = 0};
    struct pollfd fds[3] = {
        {.fd = c->out, .events = POLLIN},
        {.fd = c->err, .events = POLLIN},
        {.fd = c->quit, .events = POLLIN},
    };

    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        if (poll(fds, ARRAY_LEN(fds), -1) < 0) continue; /* interrupted */
        if (fds[1].revents != 0 && !read_lines(c, c->err, &err, on_stderr_line))
            fds[1].fd = -1;
        if (fds[0].revents != 0 && !read_lines(c, c->out, &out, on_stdout_line))
            fds[0].fd = -1;
        /* Only after the pipes were looked at: last words are kept. */
        if (fds[2].revents != 0 && fds[0].revents == 0 && fds[1].revents == 0)
            break;
    }
    tell(c->news);
    return NULL;
}

/* ---- starting ---- */

/* Between fork() and exec() only what a signal handler may do. */
__attribute__((noreturn)) static void
become(const child_program *p, pid_t parent, int null, int out, int err) {
    static const char cannot[] = "cannot be executed\n";

    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127); /* it died before that call */
    dup2(null, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    signals_reset();
    execve(p->path, p->argv, p->env);
    ssize_t n = write(STDERR_FILENO, cannot, sizeof(cannot) - 1);
    (void)n;
    _exit(127);
}

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static int fork_child(child *c, const child_program *p) {
    int out[2] = {-1, -1}, err[2] = {-1, -1};
    int rc = 0;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (null < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0) {
        rc = -errno;
        goto done;
    }
    pid_t parent = getpid();
    c->pid = fork();
    if (c->pid == 0) become(p, parent, null, out[1], err[1]);
    if (c->pid < 0) {
        rc = -errno;
        goto done;
    }
    setpgid(c->pid, c->pid); /* whoever of the two is first */
    c->out = out[0];
    c->err = err[0];
    out[0] = err[0] = -1;
    c->pidfd = pidfd_open(c->pid, 0);
    if (c->pidfd < 0) rc = -errno;

done:
    close_fd(&null);
    for (int i = 0; i < 2; i++) {
        close_fd(&out[i]);
        close_fd(&err[i]);
    }
    return rc;
}

static int start_thread(child *c) {
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = -pthread_create(&c->thread, NULL, read_output, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    c->has_thread = rc == 0;
    return rc;
}

int child_start(child **out, const child_program *p, char *why,
                size_t why_size) {
    *out = NULL;
    child *c = calloc(1, sizeof(*c));
    if (c == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    snprintf(c->name, sizeof(c->name), "%s", p->name);
    pthread_mutex_init(&c->lock, NULL);
    c->forward = p->forward;
    c->pidfd = c->out = c->err = -1;
    c->news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->quit = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    int rc = c->news < 0 || c->quit < 0 ? -errno : fork_child(c, p);
    if (rc == 0) rc = start_thread(c);
    if (rc < 0) {
        child_free(c);
        return err_why(why, why_size, rc, "cannot start %s (%s): %s", p->name,
                       p->path, err_text(rc));
    }
    *out = c;
    return 0;
}

/* ---- watching ---- */

static bool take_first(child *c, char *line, size_t line_size) {
    pthread_mutex_lock(&c->lock);
    bool has = c->has_first;
    if (has) snprintf(line, line_size, "%s", c->first);
    pthread_mutex_unlock(&c->lock);
    return has;
}

int child_wait_line(child *c, uint64_t deadline_ms, int stop_fd, char *line,
                    size_t line_size, char *why, size_t why_size) {
    char how[HOW_BYTES];

    for (;;) {
        uint64_t seen;
        ssize_t got = read(c->news, &seen, sizeof(seen));
        (void)got; /* nothing new is fine: look anyway */
        bool ended = child_ended(c, NULL, 0);
        if (take_first(c, line, line_size)) return 0;
        if (ended) {
            (void)child_ended(c, how, sizeof(how));
            return err_why(why, why_size, ERR_CLOSED, "%s", how);
        }
        uint64_t now = now_ms();
        if (now >= deadline_ms) {
            return err_why(why, why_size, ERR_DEADLINE,
                           "%s did not get ready in time", c->name);
        }
        struct pollfd fds[3] = {
            {.fd = c->news, .events = POLLIN},
            {.fd = c->pidfd, .events = POLLIN},
            {.fd = stop_fd, .events = POLLIN},
        };
        uint64_t left = deadline_ms - now;
        (void)poll(fds, ARRAY_LEN(fds), left < 1000 ? (int)left : 1000);
        if (fds[2].revents != 0)
            return err_why(why, why_size, ERR_CANCELLED, "interrupted");
    }
}

int child_fd(const child *c) {
    return c->pidfd;
}

const char *child_name(const child *c) {
    return c->name;
}

int child_pid(const child *c) {
    return (int)c->pid;
}

static void stop_thread(child *c) {
    if (!c->has_thread) return;
    tell(c->quit);
    pthread_join(c->thread, NULL);
    c->has_thread = false;
}

/* The process is over: nothing of its group may stay, and its output is read
 * to the end.  Killing before reaping: until then the number is its own. */
static void bury(child *c) {
    kill(-c->pid, SIGKILL);
    while (waitpid(c->pid, &c->status, 0) < 0 && errno == EINTR) {}
    c->reaped = true;
    stop_thread(c);
}

bool child_ended(child *c, char *how, size_t how_size) {
    if (!c->reaped) {
        struct pollfd fd = {.fd = c->pidfd, .events = POLLIN};
        if (poll(&fd, 1, 0) != 1) return false;
        bury(c);
    }
    if (how == NULL) return true;
    char status[64];
    if (WIFSIGNALED(c->status)) {
        snprintf(status, sizeof(status), "was killed by signal %d (%s)",
                 WTERMSIG(c->status), strsignal(WTERMSIG(c->status)));
    } else {
        snprintf(status, sizeof(status), "ended with status %d",
                 WEXITSTATUS(c->status));
    }
    /* What it said before somebody killed it may not be why.  No lock: the
     * thread has ended. */
    const char *between =
        WIFSIGNALED(c->status) ? "; its last line was: " : ": ";
    err_why(how, how_size, 0, "%s %s%s%s", c->name, status,
            c->last[0] != '\0' ? between : "", c->last);
    return true;
}

void child_signal(child *c, int signal_number) {
    if (!c->reaped) kill(-c->pid, signal_number);
}

void child_free(child *c) {
    if (c == NULL) return;
    if (c->pid > 0 && !c->reaped) {
        kill(-c->pid, SIGKILL);
        kill(c->pid, SIGKILL); /* should it not lead its group yet */
        bury(c);
    }
    stop_thread(c);
    close_fd(&c->pidfd);
    close_fd(&c->out);
    close_fd(&c->err);
    if (c->news >= 0) close(c->news);
    if (c->quit >= 0) close(c->quit);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
