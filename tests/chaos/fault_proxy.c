/* fault_proxy.c - a network that fails on command.
 *
 *   fault_proxy [--seed N]
 *
 * Reads commands from stdin, a line each, and answers each with a line on
 * stdout: `ok ...` or `error ...`.  Ends with stdin.
 *
 *   machine NAME ADDRESS
 *       connections from ADDRESS are NAME's
 *   listen NAME FRONT ADDRESS:PORT BACK ADDRESS:PORT
 *       what connects to the first address in the network namespace FRONT goes
 *       on to the second in BACK; NAME is who is reached there.  "-": the
 *       namespace that the proxy was started in
 *   rule FROM TO up|down|both FAULT [NUMBERS]
 *       what happens to connections that FROM made to TO, new and old; up is
 *       what FROM sends.  "*" is everybody.  A FAULT is pass, delay MS
 * [JITTER], stall, drop, cut, corrupt BYTES [SPARE], duplicate MESSAGES or
 *       throttle BYTES_PER_SECOND: see proxy_rules.h.  `ok hits N`: what the
 *       rules that this one was put in the place of did to so many bytes,
 *       messages or connections
 *   count
 *       `ok connections N bytes N flips N duplicates N resets N dropped N`
 *
 * One process serves all machines of a rack: sockets belong to the namespace in
 * which they are made. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>
#include "engine/err.h"
#include "engine/options.h"
#include "engine/util.h"
#include "tests/chaos/proxy_pair.h"
#include "tests/chaos/proxy_rules.h"

#define EXIT_USAGE 2
#define LINE_MAX_BYTES 512
#define MAX_WORDS 10
#define BACKLOG 128
#define NAMESPACES "/run/netns/"

typedef struct listener {
    struct listener *next;
    uv_tcp_t tcp;
    proxy_core *core;
    char name[PROXY_NAME];
    int back; /* namespace, or -1 */
    struct sockaddr_in to;
} listener;

typedef struct {
    uv_loop_t loop;
    proxy_core core;
    listener *listeners;
    uv_pipe_t commands;
    char line[LINE_MAX_BYTES];
    size_t n_line;
    bool too_long;
} fault_proxy;

/* ---- listening ---- */

static void on_connection(uv_stream_t *server, int status) {
    listener *l = server->data;
    if (status < 0) return;
    proxy_pair_accept(l->core, server, l->name, l->back, &l->to);
}

static int parse_address(const char *text, struct sockaddr_in *out) {
    const char *colon = strrchr(text, ':');
    char host[PROXY_ADDRESS];
    if (colon == NULL || (size_t)(colon - text) >= sizeof(host))
        return ERR_USAGE;
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    char *end;
    long port = strtol(colon + 1, &end, 10);
    if (end == colon + 1 || *end != '\0' || port < 0 || port > 65535)
        return ERR_USAGE;
    return uv_ip4_addr(host, (int)port, out) == 0 ? 0 : ERR_USAGE;
}

/* A descriptor of the namespace; -1 for "-". */
static int open_namespace(const char *name, int *out) {
    *out = -1;
    if (strcmp(name, "-") == 0) return 0;
    char path[128];
    if (strchr(name, '/') != NULL) return ERR_USAGE;
    if ((size_t)snprintf(path, sizeof(path), NAMESPACES "%s", name) >=
        sizeof(path))
        return ERR_USAGE;
    *out = open(path, O_RDONLY | O_CLOEXEC);
    return *out < 0 ? -errno : 0;
}

static void on_listener_closed(uv_handle_t *handle) {
    listener *l = handle->data;
    if (l->back >= 0) close(l->back);
    free(l);
}

static int bind_listener(listener *l, const struct sockaddr_in *at) {
    int rc = uv_tcp_bind(&l->tcp, (const struct sockaddr *)at, 0);
    if (rc == 0) {
        rc = uv_listen((uv_stream_t *)&l->tcp, BACKLOG, on_connection);
    }
    return rc;
}

static int bound_port(const listener *l) {
    struct sockaddr_storage at;
    int size = sizeof(at);
    if (uv_tcp_getsockname(&l->tcp, (struct sockaddr *)&at, &size) < 0)
        return 0;
    return ntohs(((struct sockaddr_in *)&at)->sin_port);
}

/* NAME FRONT ADDRESS:PORT BACK ADDRESS:PORT */
static int on_listen(fault_proxy *v, char **words, char *said, size_t room) {
    struct sockaddr_in at, to;
    if (strlen(words[0]) >= PROXY_NAME || parse_address(words[2], &at) < 0 ||
        parse_address(words[4], &to) < 0)
        return ERR_USAGE;

    int front, back;
    int rc = open_namespace(words[1], &front);
    if (rc < 0) return rc;
    rc = open_namespace(words[3], &back);
    listener *l = rc == 0 ? calloc(1, sizeof(*l)) : NULL;
    if (l == NULL) {
        if (front >= 0) close(front);
        if (back >= 0) close(back);
        return rc < 0 ? rc : -ENOMEM;
    }
    strcpy(l->name, words[0]);
    l->core = &v->core;
    l->to = to;
    l->back = back;
    rc = proxy_socket(&v->loop, &l->tcp, front);
    l->tcp.data = l;
    if (front >= 0) close(front);
    if (rc == 0) rc = bind_listener(l, &at);
    if (rc < 0) {
        uv_close((uv_handle_t *)&l->tcp, on_listener_closed);
        return rc;
    }
    l->next = v->listeners;
    v->listeners = l;
    snprintf(said, room, " port %d", bound_port(l));
    return 0;
}

/* ---- commands ---- */

/* FROM TO up|down|both FAULT [NUMBERS] */
static int on_rule(fault_proxy *v, char **words, size_t n, char *said,
                   size_t room) {
    proxy_rule rule = {0};

    if (n < 4 || strlen(words[0]) >= PROXY_NAME ||
        strlen(words[1]) >= PROXY_NAME)
        return ERR_USAGE;
    strcpy(rule.from, words[0]);
    strcpy(rule.to, words[1]);
    bool both = strcmp(words[2], "both") == 0;
    rule.directions[FLOW_UP] = both || strcmp(words[2], "up") == 0;
    rule.directions[FLOW_DOWN] = both || strcmp(words[2], "down") == 0;
    if (!rule.directions[FLOW_UP] && !rule.directions[FLOW_DOWN])
        return ERR_USAGE;
    int rc = proxy_fault_parse(&rule.what, words + 3, n - 3);
    if (rc < 0) return rc;
    uint64_t hits;
    rc = proxy_rules_set(&v->core.rules, &rule, &hits);
    if (rc < 0) return rc;
    snprintf(said, room, " hits %llu", (unsigned long long)hits);
    proxy_pairs_look(&v->core);
    return 0;
}

static int on_count(const fault_proxy *v, char *said, size_t room) {
    const proxy_counts *c = &v->core.counts;
    snprintf(said, room,
             " connections %llu bytes %llu flips %llu duplicates %llu resets "
             "%llu dropped %llu",
             (unsigned long long)c->connections, (unsigned long long)c->bytes,
             (unsigned long long)c->flips, (unsigned long long)c->duplicates,
             (unsigned long long)c->resets, (unsigned long long)c->dropped);
    return 0;
}

static int run_command(fault_proxy *v, char **words, size_t n, char *said,
                       size_t room) {
    if (n == 3 && strcmp(words[0], "machine") == 0)
        return proxy_rules_machine(&v->core.rules, words[1], words[2]);
    if (n == 6 && strcmp(words[0], "listen") == 0)
        return on_listen(v, words + 1, said, room);
    if (n > 1 && strcmp(words[0], "rule") == 0)
        return on_rule(v, words + 1, n - 1, said, room);
    if (n == 1 && strcmp(words[0], "count") == 0)
        return on_count(v, said, room);
    return ERR_USAGE;
}

static void on_line(fault_proxy *v, char *line) {
    char *words[MAX_WORDS];
    char said[256] = "";
    char *rest = NULL;
    size_t n = 0;
    char *word = strtok_r(line, " ", &rest);

    for (; word != NULL && n < MAX_WORDS; word = strtok_r(NULL, " ", &rest))
        words[n++] = word;
    int rc = word != NULL || v->too_long
                 ? ERR_USAGE
                 : run_command(v, words, n, said, sizeof(said));
    if (rc < 0) {
        printf("error %s\n", err_text(rc));
    } else {
        printf("ok%s\n", said);
    }
    fflush(stdout);
}

static void on_commands(uv_stream_t *stream, ssize_t n,
                        const uv_buf_t *buffer) {
    fault_proxy *v = stream->data;

    if (n < 0) {
        uv_stop(&v->loop);
        return;
    }
    for (ssize_t i = 0; i < n; i++) {
        char c = buffer->base[i];
        if (c != '\n') {
            if (v->n_line + 1 < sizeof(v->line)) {
                v->line[v->n_line++] = c;
            } else {
                v->too_long = true;
            }
            continue;
        }
        v->line[v->n_line] = '\0';
        on_line(v, v->line);
        v->n_line = 0;
        v->too_long = false;
    }
}

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
    static char room[4096];
    (void)handle;
    (void)suggested;
    *out = uv_buf_init(room, sizeof(room));
}

int main(int argc, char **argv) {
    uint64_t seed = 1;
    const option table[] = {
        {"seed", 0, OPTION_U64, &seed, "N", "Seed of all accidents."},
    };
    const option_set set = {
        .program = "fault_proxy",
        .usage = "[--seed N] < COMMANDS",
        .about = "Relays TCP connections and does to them what it is told.",
        .table = table,
        .count = ARRAY_LEN(table),
    };
    char why[512];
    options *o;
    int rc = options_parse(&o, &set, argc, argv, why, sizeof(why));
    if (rc == OPTIONS_EXIT) return EXIT_SUCCESS;
    if (rc < 0) {
        fprintf(stderr, "fault_proxy: %s\n", why);
        return EXIT_USAGE;
    }
    options_free(o);
    signal(SIGPIPE, SIG_IGN);

    static fault_proxy v;
    uint64_t random = seed * 0x9e3779b97f4a7c15 + 1; /* 0 in no practice */
    rc = uv_loop_init(&v.loop);
    if (rc == 0) {
        rc = proxy_core_init(&v.core, &v.loop, random != 0 ? random : 1);
    }
    if (rc == 0) rc = uv_pipe_init(&v.loop, &v.commands, 0);
    if (rc == 0) rc = uv_pipe_open(&v.commands, STDIN_FILENO);
    v.commands.data = &v;
    if (rc == 0) {
        rc = uv_read_start((uv_stream_t *)&v.commands, allocate, on_commands);
    }
    if (rc < 0) {
        fprintf(stderr, "fault_proxy: %s\n", uv_strerror(rc));
        return EXIT_FAILURE;
    }
    uv_run(&v.loop, UV_RUN_DEFAULT);
    return EXIT_SUCCESS; /* what is open ends with the process */
}
