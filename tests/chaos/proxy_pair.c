/* proxy_pair.c - carries bytes from one socket to another, and does to them
 * what the rules say.
 *
 * Each direction is a flow: a list of chunks with the time at which each is
 * due. Without a fault a chunk is due at once.  Time only goes forward along
 * the list, so bytes never overtake each other.  A flow reads no further while
 * much waits, so that the sender meets its own limits, as it would without us;
 * only a stall takes in more, because a network that stalls has buffers too.
 *
 * The end of a stream travels behind its bytes and is delayed with them; a
 * reset does not. */
#include "tests/chaos/proxy_pair.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/util.h"
#include "tests/chaos/proxy_zmtp.h"

#define READ_BYTES 65536
#define QUEUE_MAX ((size_t)8 << 20)  /* then the flow reads no further */
#define STALL_MAX ((size_t)64 << 20) /* likewise, while it stalls */
#define WRITE_MAX ((size_t)1 << 20)  /* in libuv's hands */

typedef struct flow flow;

typedef struct chunk {
    struct chunk *next;
    flow *owner;
    uv_write_t write;
    uint64_t due_us;
    size_t bytes;
    uint8_t data[];
} chunk;

struct flow {
    proxy_pair *pair;
    flow_direction direction;
    uv_stream_t *from, *to;
    uv_shutdown_t shutdown;
    chunk *head, *tail;
    size_t queued; /* bytes */
    uint64_t last_due_us;
    double free_at_us; /* when a throttled line is done with what it has */
    uint64_t seen;     /* bytes that arrived */
    double flip_after; /* bytes until the next flip; negative: not drawn */
    bool reading;
    bool ended; /* the sender said so */
    bool shut;  /* and the receiver knows */
    bool lossy; /* bytes of it were dropped */
    zmtp_stream messages;
};

struct proxy_pair {
    proxy_core *core;
    proxy_pair *next, **link; /* on the core's list */
    char from[PROXY_NAME], to[PROXY_NAME];
    uv_tcp_t near, far;
    uv_connect_t connect;
    flow flows[2];
    int open_handles;
    bool connected, closing;
};

/* xorshift64*: the same accidents for the same seed and traffic. */
static double draw(proxy_core *c) {
    c->random ^= c->random >> 12;
    c->random ^= c->random << 25;
    c->random ^= c->random >> 27;
    return (double)(c->random * 0x2545f4914f6cdd1d >> 11) * 0x1p-53;
}

static fault rule_of(const flow *f) {
    const proxy_pair *p = f->pair;
    return proxy_rules_find(&p->core->rules, p->from, p->to, f->direction);
}

static void hit(flow *f, uint64_t times) {
    proxy_pair *p = f->pair;
    proxy_rules_hit(&p->core->rules, p->from, p->to, f->direction, times);
}

/* ---- the end ---- */

static void on_handle_closed(uv_handle_t *handle) {
    proxy_pair *p = handle->data;

    assert(p->open_handles > 0);
    if (--p->open_handles > 0) return;
    for (int i = 0; i < 2; i++) {
        flow *f = &p->flows[i];
        while (f->head != NULL) {
            chunk *c = f->head;
            f->head = c->next;
            free(c);
        }
        zmtp_fini(&f->messages);
    }
    free(p);
}

static void close_pair(proxy_pair *p, bool reset) {
    if (p->closing) return;
    p->closing = true;
    *p->link = p->next;
    if (p->next != NULL) p->next->link = p->link;
    p->core->counts.resets += reset;
    uv_tcp_t *ends[] = {&p->near, &p->far};
    for (int i = 0; i < 2; i++) {
        /* refused while a shutdown is under way */
        if (reset && uv_tcp_close_reset(ends[i], on_handle_closed) == 0)
            continue;
        uv_close((uv_handle_t *)ends[i], on_handle_closed);
    }
}

/* ---- bytes that leave ---- */

static void look(flow *f);

static void on_written(uv_write_t *write, int status) {
    chunk *c = write->data;
    flow *f = c->owner;

    free(c);
    if (f->pair->closing) return;
    if (status < 0) {
        close_pair(f->pair, true);
        return;
    }
    look(f);
}

static void on_shut(uv_shutdown_t *shutdown, int status) {
    proxy_pair *p = shutdown->data;

    if (p->closing) return;
    if (status < 0 || (p->flows[0].shut && p->flows[1].shut))
        close_pair(p, status < 0);
}

/* The alarm rings no later than then. */
static void wake_at(proxy_core *core, uint64_t due_us) {
    if (core->alarm_us != 0 && core->alarm_us <= due_us) return;
    core->alarm_us = due_us;
    const struct itimerspec at = {
        .it_value = {.tv_sec = (time_t)(due_us / 1000000),
                     .tv_nsec = (long)(due_us % 1000000 * 1000)}};
    int rc = timerfd_settime(core->alarm_fd, TFD_TIMER_ABSTIME, &at, NULL);
    assert(rc == 0);
}

static void on_alarm(uv_poll_t *alarm, int status, int events) {
    proxy_core *core = alarm->data;
    uint64_t rings;
    (void)status;
    (void)events;
    if (read(core->alarm_fd, &rings, sizeof(rings)) < 0) return;
    core->alarm_us = 0;
    for (proxy_pair *p = core->pairs, *next; p != NULL; p = next) {
        next = p->next;
        look(&p->flows[0]);
        look(&p->flows[1]);
    }
}

int proxy_core_init(proxy_core *core, uv_loop_t *loop, uint64_t random) {
    *core = (proxy_core){.loop = loop, .random = random};
    /* libuv's own timers know milliseconds, a network's delays are shorter */
    core->alarm_fd =
        timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (core->alarm_fd < 0) return -errno;
    core->alarm.data = core;
    int rc = uv_poll_init(loop, &core->alarm, core->alarm_fd);
    if (rc == 0) rc = uv_poll_start(&core->alarm, UV_READABLE, on_alarm);
    return rc;
}

/* Hand over what is due.  false: the pair is gone. */
static bool send_due(flow *f) {
    uint64_t now = now_us();

    while (f->head != NULL && f->head->due_us <= now &&
           uv_stream_get_write_queue_size(f->to) < WRITE_MAX) {
        chunk *c = f->head;
        uv_buf_t buffer = uv_buf_init((char *)c->data, (unsigned int)c->bytes);
        f->head = c->next;
        if (f->head == NULL) f->tail = NULL;
        f->queued -= c->bytes;
        c->write.data = c;
        if (uv_write(&c->write, f->to, &buffer, 1, on_written) < 0) {
            free(c);
            close_pair(f->pair, true);
            return false;
        }
    }
    if (f->head != NULL && f->head->due_us > now)
        wake_at(f->pair->core, f->head->due_us);
    return true;
}

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
    static char room[READ_BYTES]; /* used up before the next call */
    (void)handle;
    (void)suggested;
    *out = uv_buf_init(room, sizeof(room));
}

static void on_read(uv_stream_t *from, ssize_t n, const uv_buf_t *buffer);

/* Send what may go, and read on or not. */
static void look(flow *f) {
    proxy_pair *p = f->pair;
    if (p->closing || !p->connected) return;

    fault_kind kind = rule_of(f).kind;
    bool held = kind == FAULT_STALL;
    if (!held && !send_due(f)) return;
    if (!held && kind != FAULT_DROP && f->ended && !f->shut &&
        f->head == NULL) {
        f->shut = true;
        f->shutdown.data = p;
        if (uv_shutdown(&f->shutdown, f->to, on_shut) < 0) {
            close_pair(p, true);
            return;
        }
    }

    bool read = !f->ended && f->queued < (held ? STALL_MAX : QUEUE_MAX);
    if (read == f->reading) return;
    f->reading = read;
    if (!read) {
        uv_read_stop(f->from);
    } else if (uv_read_start(f->from, allocate, on_read) < 0) {
        close_pair(p, true);
    }
}

/* ---- bytes that arrive ---- */

static uint64_t due(flow *f, const fault *rule, size_t bytes) {
    uint64_t now = now_us();
    double at = (double)now;

    if (rule->kind == FAULT_DELAY) {
        at += 1e3 * (rule->a + rule->b * (2 * draw(f->pair->core) - 1));
    } else if (rule->kind == FAULT_THROTTLE) {
        f->free_at_us = fmax(f->free_at_us, at) + (double)bytes * 1e6 / rule->a;
        at = f->free_at_us;
    }
    uint64_t when = at > (double)now ? (uint64_t)at : now;
    if (when > f->last_due_us) f->last_due_us = when;
    return f->last_due_us;
}

/* false: no memory. */
static bool put(flow *f, const fault *rule, const uint8_t *data, size_t n) {
    chunk *c = malloc(sizeof(*c) + n);
    if (c == NULL) return false;
    memcpy(c->data, data, n);
    c->next = NULL;
    c->owner = f;
    c->bytes = n;
    c->due_us = due(f, rule, n);
    if (f->tail != NULL) f->tail->next = c;
    f->tail = c;
    if (f->head == NULL) f->head = c;
    f->queued += n;
    return true;
}

/* Flips are a Poisson process along the bytes. */
static void corrupt(flow *f, const fault *rule, uint8_t *data, size_t n) {
    proxy_core *c = f->pair->core;
    double at = f->seen < rule->b ? rule->b - (double)f->seen : 0;

    while (at < (double)n) {
        if (f->flip_after < 0) f->flip_after = -log1p(-draw(c)) * rule->a;
        if (at + f->flip_after >= (double)n) {
            f->flip_after -= (double)n - at;
            return;
        }
        at += f->flip_after;
        data[(size_t)at] ^= (uint8_t)(1 << (int)(draw(c) * 8));
        c->counts.flips++;
        hit(f, 1);
        f->flip_after = -1;
        at += 1;
    }
}

/* Follow the messages in any case: a rule may come in their middle. */
static bool put_messages(flow *f, const fault *rule, const uint8_t *data,
                         size_t n) {
    proxy_core *core = f->pair->core;
    size_t begin = 0, at = 0;

    while (at < n) {
        bool ended;
        at += zmtp_take(&f->messages, data + at, n - at, &ended);
        if (!ended || rule->kind != FAULT_DUPLICATE ||
            f->messages.n_kept == 0 || draw(core) * rule->a >= 1)
            continue;
        if (!put(f, rule, data + begin, at - begin)) return false;
        begin = at;
        if (!put(f, rule, f->messages.kept, f->messages.n_kept)) return false;
        core->counts.duplicates++;
        hit(f, 1);
    }
    return begin == n || put(f, rule, data + begin, n - begin);
}

static void on_read(uv_stream_t *from, ssize_t n, const uv_buf_t *buffer) {
    proxy_pair *p = from->data;
    flow *f = &p->flows[from == (uv_stream_t *)&p->near ? FLOW_UP : FLOW_DOWN];
    fault rule = rule_of(f);

    if (n == 0) return;
    if (n < 0 && n != UV_EOF) {
        /* A network that swallows everything swallows this as well. */
        f->ended = true;
        f->reading = false;
        uv_read_stop(from);
        if (rule.kind != FAULT_DROP && rule.kind != FAULT_STALL)
            close_pair(p, true);
        return;
    }
    if (n == UV_EOF) {
        f->ended = true;
        f->reading = false;
        uv_read_stop(from);
        look(f);
        return;
    }
    p->core->counts.bytes += (uint64_t)n;
    if (rule.kind != FAULT_CORRUPT && rule.kind != FAULT_DUPLICATE) {
        hit(f, (uint64_t)n);
    }
    if (rule.kind != FAULT_CORRUPT) f->flip_after = -1;
    if (rule.kind == FAULT_DROP) {
        f->lossy = true;
        p->core->counts.dropped += (uint64_t)n;
    } else {
        uint8_t *data = (uint8_t *)buffer->base;
        if (rule.kind == FAULT_CORRUPT) corrupt(f, &rule, data, (size_t)n);
        if (!put_messages(f, &rule, data, (size_t)n)) {
            close_pair(p, true);
            return;
        }
    }
    f->seen += (uint64_t)n;
    look(f);
}

/* ---- the begin ---- */

int proxy_socket(uv_loop_t *loop, uv_tcp_t *tcp, int ns) {
    if (ns < 0) return uv_tcp_init_ex(loop, tcp, AF_INET);

    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0) return -errno;
    int rc = setns(ns, CLONE_NEWNET) < 0 ? -errno : 0;
    /* The handle must be made even so: it is closed like the others. */
    int made = uv_tcp_init_ex(loop, tcp, rc < 0 ? AF_UNSPEC : AF_INET);
    if (rc == 0) {
        rc = made;
        int back = setns(home, CLONE_NEWNET);
        assert(back == 0);
        (void)back;
    }
    close(home);
    return rc;
}

static void on_connected(uv_connect_t *connect, int status) {
    proxy_pair *p = connect->data;

    if (p->closing) return;
    if (status < 0) {
        close_pair(p, true);
        return;
    }
    p->connected = true;
    uv_tcp_nodelay(&p->far, 1);
    for (int i = 0; i < 2 && !p->closing; i++)
        look(&p->flows[i]);
}

static void flow_init(flow *f, proxy_pair *p, flow_direction direction) {
    uv_stream_t *near = (uv_stream_t *)&p->near, *far = (uv_stream_t *)&p->far;

    f->pair = p;
    f->direction = direction;
    f->from = direction == FLOW_UP ? near : far;
    f->to = direction == FLOW_UP ? far : near;
    f->flip_after = -1;
    zmtp_init(&f->messages);
}

static void name_peer(proxy_pair *p) {
    struct sockaddr_storage peer;
    int size = sizeof(peer);
    char address[PROXY_ADDRESS] = "";

    if (uv_tcp_getpeername(&p->near, (struct sockaddr *)&peer, &size) == 0)
        uv_ip4_name((const struct sockaddr_in *)&peer, address,
                    sizeof(address));
    strcpy(p->from, proxy_rules_who(&p->core->rules, address));
}

static bool is_cut(proxy_pair *p) {
    bool cut = false;
    for (int i = 0; i < 2; i++) {
        if (rule_of(&p->flows[i]).kind != FAULT_CUT) continue;
        hit(&p->flows[i], 1);
        cut = true;
    }
    return cut;
}

void proxy_pair_accept(proxy_core *core, uv_stream_t *listener, const char *to,
                       int ns, const struct sockaddr_in *address) {
    proxy_pair *p = calloc(1, sizeof(*p));
    if (p == NULL) return; /* libuv closes nothing: the client waits */

    p->core = core;
    strncpy(p->to, to, sizeof(p->to) - 1);
    uv_tcp_init(core->loop, &p->near);
    int rc = proxy_socket(core->loop, &p->far, ns);
    p->near.data = p->far.data = p;
    p->open_handles = 2;
    flow_init(&p->flows[FLOW_UP], p, FLOW_UP);
    flow_init(&p->flows[FLOW_DOWN], p, FLOW_DOWN);
    p->next = core->pairs;
    p->link = &core->pairs;
    if (p->next != NULL) p->next->link = &p->next;
    core->pairs = p;
    core->counts.connections++;

    int accepted = uv_accept(listener, (uv_stream_t *)&p->near);
    if (accepted == 0) name_peer(p);
    if (rc < 0 || accepted < 0 || is_cut(p)) {
        close_pair(p, accepted == 0);
        return;
    }
    uv_tcp_nodelay(&p->near, 1);
    p->connect.data = p;
    rc = uv_tcp_connect(&p->connect, &p->far, (const struct sockaddr *)address,
                        on_connected);
    if (rc < 0) close_pair(p, true);
}

void proxy_pairs_look(proxy_core *core) {
    for (proxy_pair *p = core->pairs, *next; p != NULL; p = next) {
        next = p->next;
        bool hole = false;
        for (int i = 0; i < 2; i++) {
            flow *f = &p->flows[i];
            hole |= f->lossy && rule_of(f).kind != FAULT_DROP;
        }
        if (hole || is_cut(p)) {
            close_pair(p, true);
            continue;
        }
        for (int i = 0; i < 2 && !p->closing; i++)
            look(&p->flows[i]);
    }
}
