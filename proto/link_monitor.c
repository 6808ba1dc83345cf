/* link_monitor.c - see link_monitor.h.
 *
 * Events come as messages of a PAIR socket within the process.  One of them
 * says that a connection is complete, the handshake included; one that it is
 * gone. An end without a beginning (somebody who accepts and hangs up) is
 * nothing that anybody relied on, and is not told.
 *
 * ZeroMQ's descriptors are joined by an epoll descriptor, which is readable
 * while one of its members is; so whoever waits for a link needs no second
 * descriptor for its monitor. */
#include "proto/link_monitor.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <zmq.h>
#include "engine/util.h"

#define LOOK_US 200 /* between looks, each of which is a system call */

struct link_monitor {
    void *sock; /* watched, borrowed */
    void *pair;
    int fd;
    uint64_t looked_us;
    bool connected, broken;
};

static int join(const link_monitor *m, int fd) {
    struct epoll_event e = {.events = EPOLLIN};
    return epoll_ctl(m->fd, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : -errno;
}

static int open_pair(link_monitor *m, void *zmq) {
    static atomic_uint_fast64_t last;
    char name[64];
    snprintf(name, sizeof(name), "inproc://link-monitor-%llu",
             (unsigned long long)atomic_fetch_add(&last, 1));
    const int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
    if (zmq_socket_monitor(m->sock, name, events) != 0) return -errno;
    m->pair = zmq_socket(zmq, ZMQ_PAIR);
    if (m->pair == NULL) return -errno;

    int no = 0, fd;
    size_t size = sizeof(fd);
    if (zmq_setsockopt(m->pair, ZMQ_LINGER, &no, sizeof(no)) != 0 ||
        zmq_connect(m->pair, name) != 0 ||
        zmq_getsockopt(m->pair, ZMQ_FD, &fd, &size) != 0) {
        return -errno;
    }
    return join(m, fd);
}

int link_monitor_open(link_monitor **out, void *zmq, void *sock) {
    *out = NULL;
    link_monitor *m = calloc(1, sizeof(*m));
    if (m == NULL) return -ENOMEM;
    m->sock = sock;
    m->fd = epoll_create1(EPOLL_CLOEXEC);
    int rc = m->fd >= 0 ? open_pair(m, zmq) : -errno;
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
    if (m->fd >= 0) close(m->fd);
    free(m);
}

int link_monitor_join(link_monitor *m, int sock_fd) {
    return join(m, sock_fd);
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

bool link_monitor_look(link_monitor *m) {
    uint64_t now = now_us();
    if (now - m->looked_us < LOOK_US) return m->broken;
    m->looked_us = now;
    uint16_t event;
    while (next_event(m, &event)) {
        if (event == ZMQ_EVENT_DISCONNECTED && m->connected) m->broken = true;
        m->connected = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
    }
    return m->broken;
}

void link_monitor_told(link_monitor *m) {
    m->broken = false;
}

bool link_monitor_connected(link_monitor *m) {
    if (!m->connected) link_monitor_look(m);
    return m->connected;
}
