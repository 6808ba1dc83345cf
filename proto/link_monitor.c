/* link_monitor.c - see link_monitor.h.
 *
 * Events come as messages of a PAIR socket within the process.  One of them
 * says that a connection is complete, the handshake included; one that it is
 * gone. An end without a beginning (somebody who accepts and hangs up) is
 * nothing that anybody relied on, and is not told.
 *
 * ZeroMQ's I/O thread writes events like an application, and would stand still,
 * with every connection of the process, once a queue of a thousand is full;
 * closing the monitor would then wait for it for ever.  So the queue has no
 * limit: a connection that breaks once a second for an owner who never looks
 * costs him some hundred bytes each time. */
#include "proto/link_monitor.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>
#include "engine/util.h"

#define LOOK_US 200 /* between looks, each of which is a system call */

struct link_monitor {
    void *sock; /* watched, borrowed */
    void *pair;
    int fd;
    uint64_t looked_us;
    uint64_t down_us; /* since when there has been no connection */
    bool connected, broken;
};

static int open_pair(link_monitor *m, void *zmq) {
    static atomic_uint_fast64_t last;
    char name[64];
    snprintf(name, sizeof(name), "inproc://link-monitor-%llu",
             (unsigned long long)atomic_fetch_add(&last, 1));
    const int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
    if (zmq_socket_monitor(m->sock, name, events) != 0) return -errno;
    m->pair = zmq_socket(zmq, ZMQ_PAIR);
    if (m->pair == NULL) return -errno;

    int none = 0;
    size_t size = sizeof(m->fd);
    if (zmq_setsockopt(m->pair, ZMQ_LINGER, &none, sizeof(none)) != 0 ||
        zmq_setsockopt(m->pair, ZMQ_RCVHWM, &none, sizeof(none)) != 0 ||
        zmq_connect(m->pair, name) != 0 ||
        zmq_getsockopt(m->pair, ZMQ_FD, &m->fd, &size) != 0) {
        return -errno;
    }
    return 0;
}

int link_monitor_open(link_monitor **out, void *zmq, void *sock) {
    *out = NULL;
    link_monitor *m = calloc(1, sizeof(*m));
    if (m == NULL) return -ENOMEM;
    m->sock = sock;
    m->down_us = now_us();
    int rc = open_pair(m, zmq);
    if (rc < 0) {
        link_monitor_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void link_monitor_close(link_monitor *m) {
    if (m == NULL) return;
    zmq_socket_monitor(m->sock, NULL, 0);
    if (m->pair != NULL) zmq_close(m->pair);
    free(m);
}

int link_monitor_fd(const link_monitor *m) {
    return m->fd;
}

/* The first part of an event begins with its number; the address follows. */
static bool next_event(link_monitor *m, uint16_t *event) {
    zmq_msg_t part;
    bool more = true, any = false;
    zmq_msg_init(&part);
    while (more) {
        int rc;
        do {
            rc = zmq_msg_recv(&part, m->pair, ZMQ_DONTWAIT);
        } while (rc < 0 && errno == EINTR);
        if (rc < 0) break;
        if (!any && zmq_msg_size(&part) >= sizeof(*event)) {
            memcpy(event, zmq_msg_data(&part), sizeof(*event));
            any = true;
        }
        more = zmq_msg_more(&part) != 0;
    }
    zmq_msg_close(&part);
    return any;
}

void link_monitor_look(link_monitor *m, bool now) {
    uint64_t at_us = now_us();
    if (!now && at_us - m->looked_us < LOOK_US) return;
    m->looked_us = at_us;
    uint16_t event;
    while (next_event(m, &event)) {
        bool connected = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
        if (m->connected && !connected) {
            m->broken = true;
            m->down_us = at_us;
        }
        m->connected = connected;
    }
}

bool link_monitor_broken(const link_monitor *m) {
    return m->broken;
}

void link_monitor_told(link_monitor *m) {
    m->broken = false;
}

bool link_monitor_connected(const link_monitor *m) {
    return m->connected;
}

uint64_t link_monitor_down_ms(const link_monitor *m) {
    return m->connected ? 0 : (now_us() - m->down_us) / 1000;
}
