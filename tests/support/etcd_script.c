/* etcd_script.c - see etcd_script.h. */
#include "tests/support/etcd_script.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PATHS 16
#define STEPS 64
#define REQUEST_MAX ((size_t)4 << 20)
#define STREAM_HEAD                                                            \
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"                    \
    "Transfer-Encoding: chunked\r\n\r\n"

typedef enum { WHOLE, DRIP, CUT, STALL, STREAM } step_kind;

typedef struct {
    step_kind kind;
    char *bytes;
} step;

typedef struct {
    char path[64];
    step steps[STEPS];
    size_t n_steps, next;
    unsigned n_asked;
    char *head, *body; /* of the last request */
} path_script;

typedef struct connection {
    uv_tcp_t tcp;
    etcd_script *script;
    struct connection *next;
    char *in; /* [n_in] */
    size_t n_in;
    const char *drip; /* what is still to be said, byte by byte */
    bool closing;
} connection;

struct etcd_script {
    uv_loop_t *loop;
    uv_tcp_t listener;
    char url[64];
    path_script paths[PATHS];
    size_t n_paths;
    connection *connections;
    connection *stream; /* the last one */
    unsigned n_connections, n_requests, n_open;
};

static void *must(void *p) {
    assert(p != NULL);
    return p;
}

/* ---- the script ---- */

static path_script *find_path(etcd_script *s, const char *path) {
    for (size_t i = 0; i < s->n_paths; i++) {
        if (strcmp(s->paths[i].path, path) == 0) return &s->paths[i];
    }
    assert(s->n_paths < PATHS);
    path_script *p = &s->paths[s->n_paths++];
    snprintf(p->path, sizeof(p->path), "%s", path);
    return p;
}

static void add_step(etcd_script *s, const char *path, step_kind kind,
                     char *bytes) {
    path_script *p = find_path(s, path);
    assert(p->n_steps < STEPS);
    p->steps[p->n_steps++] = (step){kind, bytes};
}

static char *whole_answer(int status, const char *body) {
    size_t room = strlen(body) + 256;
    char *text = must(malloc(room));
    snprintf(text, room,
             "HTTP/1.1 %d Said\r\nContent-Type: application/json\r\n"
             "Location: http://127.0.0.1:1/\r\nContent-Length: %zu\r\n\r\n%s",
             status, strlen(body), body);
    return text;
}

static char *one_chunk(const char *bytes, const char *before) {
    size_t room = strlen(bytes) + strlen(before) + 32;
    char *text = must(malloc(room));
    snprintf(text, room, "%s%zx\r\n%s\r\n", before, strlen(bytes), bytes);
    return text;
}

void etcd_script_say(etcd_script *s, const char *path, int status,
                     const char *body) {
    add_step(s, path, WHOLE, whole_answer(status, body));
}

void etcd_script_drip(etcd_script *s, const char *path, const char *body) {
    add_step(s, path, DRIP, whole_answer(200, body));
}

void etcd_script_cut_after(etcd_script *s, const char *path,
                           const char *bytes) {
    add_step(s, path, CUT, must(strdup(bytes)));
}

void etcd_script_stall(etcd_script *s, const char *path) {
    add_step(s, path, STALL, NULL);
}

void etcd_script_stream(etcd_script *s, const char *path, const char *lines) {
    add_step(s, path, STREAM,
             lines[0] != '\0' ? one_chunk(lines, STREAM_HEAD)
                              : must(strdup(STREAM_HEAD)));
}

/* ---- connections ---- */

static void on_connection_closed(uv_handle_t *handle) {
    connection *c = handle->data;
    etcd_script *s = c->script;
    for (connection **at = &s->connections; *at != NULL; at = &(*at)->next) {
        if (*at != c) continue;
        *at = c->next;
        break;
    }
    free(c->in);
    free(c);
    s->n_open--;
}

static void close_connection(connection *c) {
    if (c->closing) return;
    c->closing = true;
    if (c->script->stream == c) c->script->stream = NULL;
    uv_close((uv_handle_t *)&c->tcp, on_connection_closed);
}

typedef struct {
    uv_write_t write;
    connection *connection;
    bool then_cut;
    char bytes[];
} sending;

static void drip_on(connection *c);

static void on_sent(uv_write_t *write, int status) {
    sending *w = (sending *)write;
    connection *c = w->connection;
    bool cut = w->then_cut || status < 0;
    free(w);
    if (cut) {
        close_connection(c);
    } else if (c->drip != NULL && !c->closing) {
        drip_on(c);
    }
}

static void send_bytes(connection *c, const char *bytes, size_t n,
                       bool then_cut) {
    sending *w = must(malloc(sizeof(*w) + n + 1));
    w->connection = c;
    w->then_cut = then_cut;
    memcpy(w->bytes, bytes, n);
    uv_buf_t buf = uv_buf_init(w->bytes, (unsigned)n);
    int rc = uv_write(&w->write, (uv_stream_t *)&c->tcp, &buf, 1, on_sent);
    assert(rc == 0);
}

static void drip_on(connection *c) {
    const char *at = c->drip++;
    if (*c->drip == '\0') c->drip = NULL;
    send_bytes(c, at, 1, false);
}

static void answer(connection *c, const step *what) {
    switch (what->kind) {
    case WHOLE:
        send_bytes(c, what->bytes, strlen(what->bytes), false);
        return;
    case DRIP:
        c->drip = what->bytes;
        drip_on(c);
        return;
    case CUT:
        if (what->bytes[0] == '\0') {
            close_connection(c);
        } else {
            send_bytes(c, what->bytes, strlen(what->bytes), true);
        }
        return;
    case STALL:
        return;
    case STREAM:
        c->script->stream = c;
        send_bytes(c, what->bytes, strlen(what->bytes), false);
        return;
    }
}

/* ---- requests ---- */

static size_t body_bytes(const char *head) {
    const char *at = strcasestr(head, "content-length:");
    return at == NULL ? 0 : strtoul(at + 15, NULL, 10);
}

static void on_request(connection *c, const char *head, const char *body) {
    char path[64] = "";
    sscanf(head, "POST %63s", path);
    path_script *p = find_path(c->script, path);
    free(p->head);
    free(p->body);
    p->head = must(strdup(head));
    p->body = must(strdup(body));
    p->n_asked++;
    c->script->n_requests++;
    if (p->n_steps == 0) {
        fprintf(stderr, "nothing to say to %s\n", path);
        abort();
    }
    if (p->n_asked > 1 && p->next + 1 < p->n_steps) p->next++;
    answer(c, &p->steps[p->next]);
}

/* One whole request of what came, if there is one. */
static bool take_request(connection *c) {
    char *end = strstr(c->in, "\r\n\r\n");
    if (end == NULL) return false;
    size_t head_len = (size_t)(end - c->in) + 4;
    *end = '\0';
    size_t len = body_bytes(c->in);
    if (c->n_in < head_len + len) {
        *end = '\r';
        return false;
    }
    char *body = must(strndup(c->in + head_len, len));
    on_request(c, c->in, body);
    free(body);
    c->n_in -= head_len + len;
    memmove(c->in, c->in + head_len + len, c->n_in + 1);
    return true;
}

static void on_room(uv_handle_t *handle, size_t hint, uv_buf_t *buf) {
    connection *c = handle->data;
    (void)hint;
    *buf = uv_buf_init(c->in + c->n_in, (unsigned)(REQUEST_MAX - c->n_in - 1));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    connection *c = stream->data;
    (void)buf;
    if (n < 0) {
        close_connection(c);
        return;
    }
    c->n_in += (size_t)n;
    c->in[c->n_in] = '\0';
    while (!c->closing && take_request(c))
        continue;
}

static void on_connection(uv_stream_t *listener, int status) {
    etcd_script *s = listener->data;
    assert(status == 0);
    connection *c = must(calloc(1, sizeof(*c)));
    c->in = must(malloc(REQUEST_MAX));
    c->in[0] = '\0';
    c->script = s;
    c->tcp.data = c;
    uv_tcp_init(s->loop, &c->tcp);
    c->next = s->connections;
    s->connections = c;
    s->n_open++;
    s->n_connections++;
    int rc = uv_accept(listener, (uv_stream_t *)&c->tcp);
    assert(rc == 0);
    uv_tcp_nodelay(&c->tcp, 1);
    uv_read_start((uv_stream_t *)&c->tcp, on_room, on_read);
}

void etcd_script_more(etcd_script *s, const char *lines) {
    assert(s->stream != NULL);
    char *chunk = one_chunk(lines, "");
    send_bytes(s->stream, chunk, strlen(chunk), false);
    free(chunk);
}

void etcd_script_cut(etcd_script *s) {
    assert(s->stream != NULL);
    close_connection(s->stream);
}

/* ---- what was asked ---- */

unsigned etcd_script_asked(const etcd_script *s, const char *path) {
    return find_path((etcd_script *)s, path)->n_asked;
}

const unsigned *etcd_script_counter(const etcd_script *s) {
    return &s->n_requests;
}

const char *etcd_script_body(const etcd_script *s, const char *path) {
    const char *body = find_path((etcd_script *)s, path)->body;
    return body != NULL ? body : "";
}

const char *etcd_script_head(const etcd_script *s, const char *path) {
    const char *head = find_path((etcd_script *)s, path)->head;
    return head != NULL ? head : "";
}

unsigned etcd_script_connections(const etcd_script *s) {
    return s->n_connections;
}

/* ---- open and close ---- */

const char *etcd_script_url(const etcd_script *s) {
    return s->url;
}

void etcd_script_open(etcd_script **out, uv_loop_t *loop) {
    etcd_script *s = must(calloc(1, sizeof(*s)));
    struct sockaddr_in a;
    int len = sizeof(a);
    s->loop = loop;
    uv_ip4_addr("127.0.0.1", 0, &a);
    uv_tcp_init(loop, &s->listener);
    s->listener.data = s;
    int rc = uv_tcp_bind(&s->listener, (struct sockaddr *)&a, 0);
    if (rc == 0) rc = uv_listen((uv_stream_t *)&s->listener, 64, on_connection);
    if (rc == 0)
        rc = uv_tcp_getsockname(&s->listener, (struct sockaddr *)&a, &len);
    assert(rc == 0);
    snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%d", ntohs(a.sin_port));
    s->n_open = 1;
    *out = s;
}

static void on_listener_closed(uv_handle_t *handle) {
    etcd_script *s = handle->data;
    s->n_open--;
}

void etcd_script_close(etcd_script *s) {
    for (connection *c = s->connections; c != NULL; c = c->next)
        close_connection(c);
    uv_close((uv_handle_t *)&s->listener, on_listener_closed);
    while (s->n_open > 0)
        uv_run(s->loop, UV_RUN_ONCE);
    for (size_t i = 0; i < s->n_paths; i++) {
        path_script *p = &s->paths[i];
        for (size_t k = 0; k < p->n_steps; k++)
            free(p->steps[k].bytes);
        free(p->head);
        free(p->body);
    }
    free(s);
}
