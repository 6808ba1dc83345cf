/* link_zmq.c - links over ZeroMQ: a DEALER that connects, a ROUTER that binds.
 *
 * The options make failures visible: without ZMQ_IMMEDIATE a DEALER would queue
 * for a dead peer and hand its successor the work, without ZMQ_ROUTER_MANDATORY
 * a ROUTER would drop in silence, without heartbeats a stopped peer would look
 * alive for ever.
 *
 * A multipart message is accepted with its first part: high-water marks count
 * whole messages, so a later part fails only if the peer goes away in between.
 * ZeroMQ then drops the whole message, as it would a moment later on the wire,
 * and the sender's deadline deals with both alike.
 *
 * ZeroMQ's own reconnecting is for connections that end.  After one that spoke
 * badly (a flipped bit in a handshake or in a frame's size, a part beyond the
 * limit) it never tries again; and a flipped bit in a greeting may turn the
 * peer into one of ZMTP 1, to which it stays connected for ever, without
 * handshake or heartbeat.  So a link that stays down gets another socket. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/util.h"
#include "proto/link_form.h"
#include "proto/link_monitor.h"

/* How long a closed socket still tries to send.  Not 0: ZeroMQ 4.3.4 aborts
 * when a connection breaks while it drops a message that is half sent
 * (session_base.cpp, clean_pipes), and with 0 a peer that ends at the same time
 * as we do brings that about. */
#define LINGER_MS 200

/* A link that has been down for so long gets another socket; each time twice as
 * long, up to what a slow peer may need for a handshake. */
#define RENEW_MS 1000
#define RENEW_MAX_MS 4000

/* Where to connect or bind, as ZeroMQ wants it. */
typedef struct {
    char text[ENDPOINT_MAX + 32];
    bool ipv6;
} target;

/* What ZeroMQ has of a link, and what another socket has instead of it. */
typedef struct {
    void *sock;
    int fd;
    link_monitor *monitor; /* NULL: nobody wants to know, or it cannot be had */
} channel;

typedef struct {
    struct link base;
    link_config config;
    target at;
    channel now;
    int joined; /* epoll descriptor of the channel's two; -1: there is one */
    uint32_t renew_ms;
    bool router;
} zmq_link;

static void renew_if_stuck(zmq_link *z);

/* ZeroMQ has error numbers of its own above the system's. */
static int system_error(int number) {
    if (number == ETERM) return ERR_CLOSED;
    return number < ZMQ_HAUSNUMERO ? -number : ERR_INTERNAL;
}

/* ---- sending ---- */

/* A signal may interrupt even calls that do not wait. */
static int send_part(zmq_link *z, zmq_msg_t *part, int flags) {
    int rc;
    do {
        rc = zmq_msg_send(part, z->now.sock, flags | ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? system_error(errno) : 0;
}

static int send_address(zmq_link *z, const frames *f) {
    if (f->address_bytes == 0) return -EHOSTUNREACH;
    int rc;
    do {
        rc = zmq_send(z->now.sock, f->address, f->address_bytes,
                      ZMQ_DONTWAIT | ZMQ_SNDMORE);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? system_error(errno) : 0;
}

/* The break shows before ZeroMQ has given up the connection: what is sent in
 * between would be lost. */
static bool can_send(zmq_link *z) {
    link_monitor *m = z->now.monitor;
    if (m == NULL || link_monitor_connected(m)) return true;
    link_monitor_look(m, false);
    if (link_monitor_connected(m)) return true;
    renew_if_stuck(z);
    return false;
}

static int zmq_link_send(struct link *l, frames *f) {
    zmq_link *z = (zmq_link *)l;
    if (!can_send(z)) return -EAGAIN;
    if (z->router) {
        int rc = send_address(z, f);
        if (rc < 0) return rc;
    }
    for (size_t i = 0; i < f->count; i++) {
        int more = i + 1 < f->count ? ZMQ_SNDMORE : 0;
        int rc = send_part(z, &f->part[i], more);
        if (rc < 0 && i == 0 && !z->router) return rc;
        /* Any other failure: the peer is gone, and ZeroMQ waits for the rest
         * of the message only to drop it. */
        if (i == 0 && more && failpoint("link.send.half")) {
            link_cut_payloads(f);
        }
    }
    return 0;
}

/* ---- receiving ---- */

static int recv_part(zmq_link *z, zmq_msg_t *part) {
    int rc;
    do {
        rc = zmq_msg_recv(part, z->now.sock, ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? system_error(errno) : 0;
}

/* Small parts are received in place, in the middle of ZeroMQ's buffer; kernels
 * and loops over floats want them aligned. */
static int align_part(zmq_msg_t *part) {
    size_t bytes = zmq_msg_size(part);
    if ((uintptr_t)zmq_msg_data(part) % FRAMES_ALIGN == 0) return 0;

    zmq_msg_t copy;
    if (zmq_msg_init_size(&copy, bytes) != 0) return -ENOMEM;
    memcpy(zmq_msg_data(&copy), zmq_msg_data(part), bytes);
    zmq_msg_move(part, &copy);
    zmq_msg_close(&copy);
    return 0;
}

/* The part's error does not end the message: the rest is read as well. */
static int keep_part(frames *f, zmq_msg_t *part) {
    if (f->count == FRAMES_MAX) return ERR_MALFORMED;
    int rc = f->count > 0 ? align_part(part) : 0;
    zmq_msg_init(&f->part[f->count]);
    zmq_msg_move(&f->part[f->count], part);
    f->count++;
    return rc;
}

static int keep_address(frames *f, zmq_msg_t *part) {
    size_t bytes = zmq_msg_size(part);
    if (bytes > FRAMES_ADDRESS) return ERR_MALFORMED;
    memcpy(f->address, zmq_msg_data(part), bytes);
    f->address_bytes = bytes;
    return 0;
}

static int recv_message(zmq_link *z, frames *f) {
    bool address = z->router, more = true;
    int result = 0;

    zmq_msg_t part;
    zmq_msg_init(&part);
    while (more) {
        int rc = recv_part(z, &part);
        if (rc < 0) {
            result = rc;
            break;
        }
        more = zmq_msg_more(&part) != 0;
        rc = address ? keep_address(f, &part) : keep_part(f, &part);
        address = false;
        if (result == 0) result = rc;
    }
    zmq_msg_close(&part);
    if (result == 0 && f->count == 0) result = ERR_MALFORMED;
    if (result < 0) frames_fini(f);
    return result;
}

/* The break is told after what had arrived before.  But what arrived in the
 * same moment as the break is lost: with ZMQ_IMMEDIATE ZeroMQ gives a pipe up,
 * with all that nobody has read, when it hears of the break (socket_base.cpp,
 * hiccuped).  It is asked for again, as what was lost on the way is. */
static int zmq_link_recv(struct link *l, frames *f) {
    zmq_link *z = (zmq_link *)l;
    int rc = recv_message(z, f);
    if (rc != -EAGAIN || z->now.monitor == NULL) return rc;
    link_monitor_look(z->now.monitor, false);
    renew_if_stuck(z);
    if (!link_monitor_broken(z->now.monitor)) return rc;
    rc = recv_message(z, f);
    if (rc != -EAGAIN) return rc;
    link_monitor_told(z->now.monitor);
    return -ECONNRESET;
}

/* ---- opening ---- */

static int resolve(target *out, const link_config *c, const char *text,
                   bool bind, char *why, size_t why_size) {
    if (strncmp(text, "inproc://", 9) == 0) {
        if (strlen(text) >= ENDPOINT_MAX) {
            return err_why(why, why_size, ERR_USAGE,
                           "endpoint '%.40s...' is too long", text);
        }
        strcpy(out->text, text);
        out->ipv6 = false;
        return 0;
    }

    endpoint e;
    int rc = endpoint_parse(&e, text, why, why_size);
    if (rc < 0) return rc;
    if (!bind && (strcmp(e.host, "*") == 0 || e.port == 0)) {
        return err_why(why, why_size, ERR_USAGE,
                       "endpoint '%s': connecting needs a host and a port",
                       text);
    }
    if (!c->insecure && !endpoint_is_loopback(&e)) {
        return err_why(why, why_size, ERR_USAGE,
                       "endpoint '%s' is not on the loopback interface, and "
                       "nothing protects messages there; --insecure allows it",
                       text);
    }
    /* ZeroMQ binds to addresses, not names, and would connect to ::1. */
    if (strcasecmp(e.host, "localhost") == 0) strcpy(e.host, "127.0.0.1");

    struct in_addr v4;
    out->ipv6 = inet_pton(AF_INET, e.host, &v4) != 1;
    endpoint_format(&e, out->text, sizeof(out->text));
    return 0;
}

static int set_options(void *sock, const zmq_link *z) {
    const link_config *c = &z->config;
    const struct {
        int option, value;
    } options[] = {
        {ZMQ_LINGER, LINGER_MS},
        {ZMQ_SNDHWM, c->queue_messages},
        {ZMQ_RCVHWM, c->queue_messages},
        {ZMQ_HEARTBEAT_IVL, 1000},
        {ZMQ_HEARTBEAT_TIMEOUT, 3000},
        {ZMQ_HEARTBEAT_TTL, 3000},
        {ZMQ_HANDSHAKE_IVL, 5000},
        {ZMQ_CONNECT_TIMEOUT, 5000}, /* not the system's two minutes */
        {ZMQ_RECONNECT_IVL, 50},
        {ZMQ_RECONNECT_IVL_MAX, 1000},
        {ZMQ_TCP_KEEPALIVE, 1},
        {ZMQ_IPV6, z->at.ipv6},
        /* No handover: who claims a connected peer's identity is refused. */
        {z->router ? ZMQ_ROUTER_MANDATORY : ZMQ_IMMEDIATE, 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        int value = options[i].value;
        if (zmq_setsockopt(sock, options[i].option, &value, sizeof(value)) !=
            0) {
            return system_error(errno);
        }
    }
    int64_t max =
        c->max_part_bytes <= INT64_MAX ? (int64_t)c->max_part_bytes : INT64_MAX;
    if (zmq_setsockopt(sock, ZMQ_MAXMSGSIZE, &max, sizeof(max)) != 0) {
        return system_error(errno);
    }
    return 0;
}

/* Put the channel's descriptors under the one that the link's owner knows. */
static int join(const zmq_link *z, const channel *c) {
    struct epoll_event e = {.events = EPOLLIN};
    if (epoll_ctl(z->joined, EPOLL_CTL_ADD, c->fd, &e) < 0 ||
        epoll_ctl(z->joined, EPOLL_CTL_ADD, link_monitor_fd(c->monitor), &e) <
            0) {
        return -errno;
    }
    return 0;
}

/* The descriptors leave first: ZeroMQ closes them when it likes. */
static void close_channel(const zmq_link *z, channel *c) {
    if (c->monitor != NULL && z->joined >= 0) {
        int fd = link_monitor_fd(c->monitor);
        (void)epoll_ctl(z->joined, EPOLL_CTL_DEL, c->fd, NULL);
        (void)epoll_ctl(z->joined, EPOLL_CTL_DEL, fd, NULL);
    }
    link_monitor_close(c->monitor);
    if (c->sock != NULL) zmq_close(c->sock);
    *c = (channel){.fd = -1};
}

/* A socket that connects or binds, and its descriptor.  On failure close what
 * there is of it. */
static int open_channel(const zmq_link *z, channel *c) {
    *c = (channel){.fd = -1};
    c->sock = zmq_socket(z->config.zmq, z->router ? ZMQ_ROUTER : ZMQ_DEALER);
    if (c->sock == NULL) return system_error(errno);
    int rc = set_options(c->sock, z);
    if (rc < 0) return rc;
    size_t size = sizeof(c->fd);
    if (zmq_getsockopt(c->sock, ZMQ_FD, &c->fd, &size) != 0) {
        return system_error(errno);
    }
    /* Before it connects, so that nothing is missed. */
    if (z->joined >= 0) {
        rc = link_monitor_open(&c->monitor, z->config.zmq, c->sock);
        if (rc == 0) rc = join(z, c);
        if (rc < 0) return rc;
    }
    rc = z->router ? zmq_bind(c->sock, z->at.text)
                   : zmq_connect(c->sock, z->at.text);
    return rc == 0 ? 0 : system_error(errno);
}

/* Nothing is lost with the old socket: what had come was read before the break
 * was told, and without a connection nothing was sent. */
static void renew_if_stuck(zmq_link *z) {
    link_monitor *m = z->now.monitor;
    uint64_t down_ms = link_monitor_down_ms(m);
    if (down_ms == 0) z->renew_ms = RENEW_MS;
    if (down_ms < z->renew_ms) return;
    link_monitor_look(m, true); /* it may have come up this very moment */
    if (link_monitor_connected(m) || link_monitor_broken(m)) return;
    z->renew_ms = (uint32_t)size_min(2 * z->renew_ms, RENEW_MAX_MS);

    channel next;
    if (open_channel(z, &next) < 0) {
        close_channel(z, &next);
        return;
    }
    close_channel(z, &z->now);
    z->now = next;
}

static void zmq_link_close(struct link *l) {
    zmq_link *z = (zmq_link *)l;
    close_channel(z, &z->now);
    if (z->joined >= 0) close(z->joined);
    free(z);
}

static const link_form zmq_form = {zmq_link_send, zmq_link_recv,
                                   zmq_link_close};

/* Without a monitor (no more descriptors) a lost peer shows by deadlines and
 * heartbeats alone. */
static int attach(zmq_link *z) {
    bool tcp = strncmp(z->at.text, "tcp://", 6) == 0;
    if (!z->router && tcp && z->config.tell_broken) {
        z->joined = epoll_create1(EPOLL_CLOEXEC);
    }
    int rc = open_channel(z, &z->now);
    if (rc < 0 && z->joined >= 0) {
        close_channel(z, &z->now);
        close(z->joined);
        z->joined = -1;
        rc = open_channel(z, &z->now);
    }
    if (rc < 0) return rc;

    z->base.fd = z->joined >= 0 ? z->joined : z->now.fd;
    size_t size = sizeof(z->base.endpoint);
    return zmq_getsockopt(z->now.sock, ZMQ_LAST_ENDPOINT, z->base.endpoint,
                          &size) == 0
               ? 0
               : system_error(errno);
}

static int open_zmq(struct link **out, const link_config *c, bool router,
                    const char *text, char *why, size_t why_size) {
    *out = NULL;
    target at;
    int rc = resolve(&at, c, text, router, why, why_size);
    if (rc < 0) return rc;

    zmq_link *z = calloc(1, sizeof(*z));
    if (z == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    z->base.form = &zmq_form;
    z->config = *c;
    z->at = at;
    z->now.fd = z->joined = -1;
    z->renew_ms = RENEW_MS;
    z->router = router;
    rc = attach(z);
    if (rc < 0) {
        zmq_link_close(&z->base);
        return err_why(why, why_size, rc, "cannot %s %s: %s",
                       router ? "bind" : "connect to", text, err_text(rc));
    }
    *out = &z->base;
    return 0;
}

int link_zmq_connect(struct link **out, const link_config *c, const char *text,
                     char *why, size_t why_size) {
    return open_zmq(out, c, false, text, why, why_size);
}

int link_zmq_bind(struct link **out, const link_config *c, const char *text,
                  char *why, size_t why_size) {
    return open_zmq(out, c, true, text, why, why_size);
}
