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
 * and the sender's deadline deals with both alike. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
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

typedef struct {
    struct link base;
    void *sock;
    link_monitor *monitor; /* NULL: nobody wants to know, or it cannot be had */
    bool router;
} zmq_link;

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
        rc = zmq_msg_send(part, z->sock, flags | ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? system_error(errno) : 0;
}

static int send_address(zmq_link *z, const frames *f) {
    if (f->address_bytes == 0) return -EHOSTUNREACH;
    int rc;
    do {
        rc = zmq_send(z->sock, f->address, f->address_bytes,
                      ZMQ_DONTWAIT | ZMQ_SNDMORE);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? system_error(errno) : 0;
}

static int zmq_link_send(struct link *l, frames *f) {
    zmq_link *z = (zmq_link *)l;
    /* The break shows before ZeroMQ has given up the connection: what is sent
     * in between would be lost. */
    if (z->monitor != NULL && !link_monitor_connected(z->monitor)) {
        return -EAGAIN;
    }
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
        rc = zmq_msg_recv(part, z->sock, ZMQ_DONTWAIT);
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

/* The break is told after what had arrived before: by the time that it shows,
 * all of that can be read. */
static int zmq_link_recv(struct link *l, frames *f) {
    zmq_link *z = (zmq_link *)l;
    int rc = recv_message(z, f);
    if (rc != -EAGAIN || z->monitor == NULL) return rc;
    if (!link_monitor_look(z->monitor)) return rc;
    rc = recv_message(z, f);
    if (rc != -EAGAIN) return rc;
    link_monitor_told(z->monitor);
    return -ECONNRESET;
}

/* ---- opening and closing ---- */

static void zmq_link_close(struct link *l) {
    zmq_link *z = (zmq_link *)l;
    link_monitor_close(z->monitor);
    if (z->sock != NULL) zmq_close(z->sock);
    free(z);
}

static const link_form zmq_form = {zmq_link_send, zmq_link_recv,
                                   zmq_link_close};

/* Where to connect or bind, as ZeroMQ wants it. */
typedef struct {
    char text[ENDPOINT_MAX + 32];
    bool ipv6;
} address;

static int resolve(address *out, const link_config *c, const char *text,
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

static int set_options(zmq_link *z, const link_config *c, bool ipv6) {
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
        {ZMQ_IPV6, ipv6},
        /* No handover: who claims a connected peer's identity is refused. */
        {z->router ? ZMQ_ROUTER_MANDATORY : ZMQ_IMMEDIATE, 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        int value = options[i].value;
        if (zmq_setsockopt(z->sock, options[i].option, &value, sizeof(value)) !=
            0) {
            return system_error(errno);
        }
    }
    int64_t max =
        c->max_part_bytes <= INT64_MAX ? (int64_t)c->max_part_bytes : INT64_MAX;
    if (zmq_setsockopt(z->sock, ZMQ_MAXMSGSIZE, &max, sizeof(max)) != 0) {
        return system_error(errno);
    }
    return 0;
}

/* Connect or bind, then learn the file descriptor and the endpoint in force. */
static int attach(zmq_link *z, const char *text) {
    int rc = z->router ? zmq_bind(z->sock, text) : zmq_connect(z->sock, text);
    if (rc != 0) return system_error(errno);

    size_t size = sizeof(z->base.fd);
    if (zmq_getsockopt(z->sock, ZMQ_FD, &z->base.fd, &size) != 0) {
        return system_error(errno);
    }
    if (z->monitor != NULL) {
        rc = link_monitor_join(z->monitor, z->base.fd);
        if (rc < 0) return rc;
        z->base.fd = link_monitor_fd(z->monitor);
    }
    size = sizeof(z->base.endpoint);
    if (zmq_getsockopt(z->sock, ZMQ_LAST_ENDPOINT, z->base.endpoint, &size) !=
        0) {
        return system_error(errno);
    }
    return 0;
}

static int open_zmq(struct link **out, const link_config *c, bool router,
                    const char *text, char *why, size_t why_size) {
    *out = NULL;
    address at;
    int rc = resolve(&at, c, text, router, why, why_size);
    if (rc < 0) return rc;

    zmq_link *z = calloc(1, sizeof(*z));
    if (z == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    z->base.form = &zmq_form;
    z->router = router;
    z->sock = zmq_socket(c->zmq, router ? ZMQ_ROUTER : ZMQ_DEALER);
    rc = z->sock != NULL ? 0 : system_error(errno);
    if (rc == 0) rc = set_options(z, c, at.ipv6);
    /* Before it connects, so that nothing is missed.  Without one (no more
     * descriptors) a lost peer shows by deadlines and heartbeats alone. */
    bool tcp = strncmp(at.text, "tcp://", 6) == 0;
    if (rc == 0 && !router && tcp && c->tell_broken) {
        (void)link_monitor_open(&z->monitor, c->zmq, z->sock);
    }
    if (rc == 0) rc = attach(z, at.text);
    if (rc < 0) {
        zmq_link_close(&z->base);
        return err_why(why, why_size, rc, "cannot %s %s: %s",
                       router ? "bind" : "connect to", text, err_text(rc));
    }
    *out = &z->base;
    return 0;
}

int link_connect(struct link **out, const link_config *c, const char *text,
                 char *why, size_t why_size) {
    return open_zmq(out, c, false, text, why, why_size);
}

int link_bind(struct link **out, const link_config *c, const char *text,
              char *why, size_t why_size) {
    return open_zmq(out, c, true, text, why, why_size);
}
