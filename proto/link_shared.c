/* link_shared.c - see link_shared.h.
 *
 * Over TCP a message between two processes of one machine is copied four times
 * and wakes an I/O thread on each side; with the outputs of a long prompt,
 * that is a tenth of the machine.  Here it is copied once, into memory that
 * both map, and whoever waits for it is woken by its sender.
 *
 * The connecting end makes the memory (sealed, so that nobody can shrink it
 * under the other) and passes its descriptor over a unix socket.  From then on
 * the socket carries one byte where somebody sleeps, and its end says that the
 * peer is gone, however that came about.  Both ends must be the same user's:
 * who may trace a process may as well share its memory.
 *
 * The bound end serves the peers of the link it stands beside as well, so its
 * owner has one link.  Their addresses never look like ours. */
#include "proto/link_shared.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/util.h"
#include "proto/link_form.h"
#include "proto/shared_ring.h"

#define MAP_BYTES (2 * SHARED_RING_BYTES)
#define RETRY_US 20000 /* between attempts to connect again */
#define PEERS_MOST 64
#define BACKLOG 16
#define EVENTS_MOST 16
#define GREETING 0x326b6e696c52534full /* changes with the memory's layout */

/* A byte that no address of ZeroMQ's making begins with, and a number. */
#define ADDRESS_MARK 0xff
#define ADDRESS_BYTES (1 + sizeof(uint32_t) + 1)

/* A connection: the socket and the two rings. */
typedef struct {
    int fd;
    shared_map *map; /* NULL: it has not greeted yet */
    shared_writer *out;
    shared_reader *in;
    bool gone; /* the socket has ended */
} channel;

typedef struct {
    struct link base; /* its descriptor is an epoll's, with the socket in it */
    struct sockaddr_un name;
    socklen_t name_bytes;
    channel now;
    bool connected, tell_broken;
    uint64_t tried_us;
} client_link;

typedef struct peer {
    struct peer *next;
    uint32_t id;
    channel ch;
} peer;

typedef struct {
    struct link base; /* likewise, with the listener, all peers and `over` */
    struct link *over;
    int listener;
    uint32_t last_id;
    size_t n_peers;
    peer *peers;
    peer *turn; /* whose messages are looked at first; NULL: peers */
} server_link;

/* ---- channels ---- */

static void channel_fini(channel *c) {
    shared_writer_free(c->out);
    shared_reader_free(c->in);
    shared_map_release(c->map);
    if (c->fd >= 0) close(c->fd);
    *c = (channel){.fd = -1};
}

/* Take the mapped memory; `mine` is the offset of the ring to write.  On
 * failure the memory is unmapped. */
static int channel_map(channel *c, int memory_fd, size_t mine) {
    void *memory =
        mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    if (memory == MAP_FAILED) return -errno;
    c->map = shared_map_new(memory, MAP_BYTES);
    if (c->map == NULL) {
        munmap(memory, MAP_BYTES);
        return -ENOMEM;
    }
    c->out = shared_writer_new(c->map, mine);
    c->in = shared_reader_new(c->map, SHARED_RING_BYTES - mine);
    return c->out != NULL && c->in != NULL ? 0 : -ENOMEM;
}

/* Take what wakes us from the socket, and see whether it has ended. */
static void look_at_socket(channel *c) {
    char bytes[64];
    ssize_t n;
    while ((n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT)) != 0) {
        if (n > 0 && (size_t)n < sizeof(bytes)) return;
        if (n > 0 || errno == EINTR) continue;
        if (errno == EAGAIN) return;
        break;
    }
    c->gone = true;
}

/* A socket that is full wakes as well; one that has ended will be seen. */
static void wake(const channel *c) {
    ssize_t n = send(c->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)n;
}

static int channel_send(channel *c, frames *f) {
    if (f->count > 1 && failpoint("link.send.half")) link_cut_payloads(f);
    bool sleeps = false;
    int rc = shared_put(c->out, f, &sleeps);
    if (sleeps) wake(c);
    return rc;
}

/* ---- names ---- */

/* By where an end listens over TCP, which is its own alone. */
static int make_name(const char *text, bool bound, struct sockaddr_un *out,
                     socklen_t *bytes) {
    endpoint e;
    int rc = endpoint_parse(&e, text, NULL, 0);
    if (rc < 0) return rc;
    bool any = strcmp(e.host, "*") == 0 || strcmp(e.host, "0.0.0.0") == 0;
    if (strcasecmp(e.host, "localhost") == 0 || (bound && any))
        strcpy(e.host, "127.0.0.1");
    if (!endpoint_is_loopback(&e) || e.port == 0) return ERR_USAGE;

    char where[ENDPOINT_MAX + 32];
    endpoint_format(&e, where, sizeof(where));
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t room = sizeof(out->sun_path) - 1;
    int n = snprintf(out->sun_path + 1, room, "roster-link-1/%s", where);
    if (n < 0 || (size_t)n >= room) return ERR_USAGE;
    *bytes =
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    return 0;
}

static bool is_own_user(int fd) {
    struct ucred who;
    socklen_t bytes = sizeof(who);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) == 0 &&
           who.uid == geteuid();
}

static int watch(int epoll, int fd) {
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : -errno;
}

/* ---- greeting: the memory's descriptor goes over the socket ---- */

static int make_memory(void) {
    int fd = memfd_create("roster-link", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    int rc = 0;
    if (ftruncate(fd, (off_t)MAP_BYTES) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        rc = -errno;
    }
    if (rc == 0) return fd;
    close(fd);
    return rc;
}

/* Memory that its maker could still shrink would kill who touches it. */
static bool is_sound_memory(int fd) {
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && fstat(fd, &st) == 0 &&
           st.st_size == (off_t)MAP_BYTES;
}

typedef union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
} passed_fd;

static int send_greeting(int socket_fd, int memory_fd) {
    uint64_t greeting = GREETING;
    struct iovec iov = {&greeting, sizeof(greeting)};
    passed_fd control = {0};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &memory_fd, sizeof(memory_fd));
    ssize_t n = sendmsg(socket_fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) return -errno;
    return n == sizeof(greeting) ? 0 : ERR_MALFORMED;
}

/* The memory's descriptor; -EAGAIN: not yet. */
static int recv_greeting(int socket_fd) {
    uint64_t greeting = 0;
    struct iovec iov = {&greeting, sizeof(greeting)};
    passed_fd control = {0};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(socket_fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) return errno == EINTR ? -EAGAIN : -errno;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c == NULL || c->cmsg_level != SOL_SOCKET ||
        c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int))) {
        return ERR_MALFORMED;
    }
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    if (n == sizeof(greeting) && greeting == GREETING && is_sound_memory(fd))
        return fd;
    close(fd);
    return ERR_MALFORMED;
}

/* ---- the connecting end ---- */

static int greet(client_link *l) {
    int memory = make_memory();
    if (memory < 0) return memory;
    int rc = channel_map(&l->now, memory, 0);
    if (rc == 0) rc = send_greeting(l->now.fd, memory);
    close(memory);
    return rc;
}

static int try_to_connect(client_link *l) {
    l->tried_us = now_us();
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    l->now.fd = fd;
    int rc = 0;
    if (connect(fd, (struct sockaddr *)&l->name, l->name_bytes) < 0)
        rc = -errno;
    if (rc == 0 && !is_own_user(fd)) rc = -EACCES;
    if (rc == 0) rc = greet(l);
    if (rc == 0) rc = watch(l->base.fd, fd);
    if (rc < 0) channel_fini(&l->now);
    l->connected = rc == 0;
    return rc;
}

static bool is_connected(client_link *l) {
    if (!l->connected && now_us() - l->tried_us >= RETRY_US)
        (void)try_to_connect(l);
    return l->connected;
}

static int client_send(struct link *base, frames *f) {
    client_link *l = (client_link *)base;
    if (!is_connected(l)) return -EAGAIN;
    look_at_socket(&l->now); /* nothing is sent to who is gone */
    return l->now.gone ? -EAGAIN : channel_send(&l->now, f);
}

/* The break is told after what had arrived before. */
static int client_recv(struct link *base, frames *f) {
    client_link *l = (client_link *)base;
    if (!is_connected(l)) return -EAGAIN;
    int rc = shared_take(l->now.in, f);
    if (rc != -EAGAIN && rc != ERR_MALFORMED) return rc;
    if (rc == -EAGAIN) {
        shared_wait(l->now.in);
        look_at_socket(&l->now);
        rc = shared_take(l->now.in, f);
        if (rc == 0 || rc == -ENOMEM) return rc;
    }
    if (rc == -EAGAIN && !l->now.gone) return rc;
    channel_fini(&l->now);
    l->connected = false;
    return l->tell_broken ? -ECONNRESET : -EAGAIN;
}

static void client_close(struct link *base) {
    client_link *l = (client_link *)base;
    channel_fini(&l->now);
    if (base->fd >= 0) close(base->fd);
    free(l);
}

static const link_form client_form = {client_send, client_recv, client_close};

int link_shared_connect(struct link **out, const link_config *c,
                        const char *text) {
    *out = NULL;
    client_link *l = calloc(1, sizeof(*l));
    if (l == NULL) return -ENOMEM;
    l->base.form = &client_form;
    l->base.fd = -1;
    l->now.fd = -1;
    l->tell_broken = c->tell_broken;
    snprintf(l->base.endpoint, sizeof(l->base.endpoint), "%s", text);
    int rc = make_name(text, false, &l->name, &l->name_bytes);
    if (rc == 0) {
        l->base.fd = epoll_create1(EPOLL_CLOEXEC);
        rc = l->base.fd < 0 ? -errno : try_to_connect(l);
    }
    if (rc < 0) {
        client_close(&l->base);
        return rc;
    }
    *out = &l->base;
    return 0;
}

/* ---- the bound end: its peers ---- */

static void write_address(const peer *p, frames *f) {
    f->address[0] = ADDRESS_MARK;
    memcpy(f->address + 1, &p->id, sizeof(p->id));
    f->address[ADDRESS_BYTES - 1] = 0;
    f->address_bytes = ADDRESS_BYTES;
}

static bool is_our_address(const frames *f) {
    return f->address_bytes == ADDRESS_BYTES && f->address[0] == ADDRESS_MARK;
}

static peer *find_peer(const server_link *s, const frames *f) {
    uint32_t id;
    memcpy(&id, f->address + 1, sizeof(id));
    for (peer *p = s->peers; p != NULL; p = p->next) {
        if (p->id == id) return p;
    }
    return NULL;
}

static void drop_peer(server_link *s, peer *gone) {
    peer **at = &s->peers;
    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    if (s->turn == gone) s->turn = gone->next;
    s->n_peers--;
    channel_fini(&gone->ch);
    free(gone);
}

/* A connection becomes a channel with its greeting. */
static void take_greeting(peer *p) {
    int memory = recv_greeting(p->ch.fd);
    if (memory == -EAGAIN) return;
    if (memory < 0 || channel_map(&p->ch, memory, SHARED_RING_BYTES) < 0)
        p->ch.gone = true;
    if (memory >= 0) close(memory);
}

static void look_at_peer(server_link *s, int fd) {
    for (peer *p = s->peers; p != NULL; p = p->next) {
        if (p->ch.fd != fd) continue;
        if (p->ch.map == NULL) take_greeting(p);
        if (p->ch.map != NULL) look_at_socket(&p->ch);
        if (p->ch.gone) drop_peer(s, p);
        return;
    }
}

static void accept_one(server_link *s, int fd) {
    peer *p = NULL;
    if (s->n_peers < PEERS_MOST && is_own_user(fd)) p = calloc(1, sizeof(*p));
    if (p == NULL || watch(s->base.fd, fd) < 0) {
        free(p);
        close(fd);
        return;
    }
    p->id = ++s->last_id;
    p->ch.fd = fd;
    p->next = s->peers;
    s->peers = p;
    s->n_peers++;
    look_at_peer(s, fd); /* it greets as it comes */
}

/* Without descriptors nobody is accepted, and a listener that stays readable
 * would keep its owner from sleeping: then TCP is what is left. */
static void accept_all(server_link *s) {
    for (;;) {
        int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            accept_one(s, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno == EAGAIN) return;
        close(s->listener);
        s->listener = -1;
        return;
    }
}

/* Wake-ups, news of the end, those who come. */
static void look_around(server_link *s) {
    struct epoll_event events[EVENTS_MOST];
    int n = epoll_wait(s->base.fd, events, EVENTS_MOST, 0);
    for (int i = 0; i < n; i++) {
        if (events[i].data.fd == s->listener) {
            accept_all(s);
        } else {
            look_at_peer(s, events[i].data.fd);
        }
    }
}

/* A message of the next peer that has one, in turn. */
static int take_from_peers(server_link *s, frames *f) {
    peer *p = s->turn != NULL ? s->turn : s->peers;
    for (size_t i = s->n_peers; i > 0; i--) {
        peer *next = p->next != NULL ? p->next : s->peers;
        int rc = p->ch.map != NULL ? shared_take(p->ch.in, f) : -EAGAIN;
        if (rc == 0) write_address(p, f);
        if (rc == ERR_MALFORMED) {
            drop_peer(s, p);
            return rc;
        }
        if (rc != -EAGAIN) {
            s->turn = p->next;
            return rc;
        }
        p = next;
    }
    return -EAGAIN;
}

static int take_from_over(server_link *s, frames *f) {
    int rc = link_recv(s->over, f);
    if (rc < 0 || !is_our_address(f)) return rc;
    frames_fini(f); /* a stranger who calls himself one of ours */
    return ERR_MALFORMED;
}

static int server_recv(struct link *base, frames *f) {
    server_link *s = (server_link *)base;
    int rc = take_from_peers(s, f);
    if (rc == -EAGAIN) rc = take_from_over(s, f);
    if (rc != -EAGAIN) return rc;
    look_around(s);
    for (peer *p = s->peers; p != NULL; p = p->next) {
        if (p->ch.map != NULL) shared_wait(p->ch.in);
    }
    return take_from_peers(s, f);
}

static int server_send(struct link *base, frames *f) {
    server_link *s = (server_link *)base;
    if (!is_our_address(f)) return s->over->form->send(s->over, f);
    peer *p = find_peer(s, f);
    if (p == NULL || p->ch.map == NULL) return -EHOSTUNREACH;
    return channel_send(&p->ch, f);
}

static void server_close(struct link *base) {
    server_link *s = (server_link *)base;
    while (s->peers != NULL)
        drop_peer(s, s->peers);
    if (s->listener >= 0) close(s->listener);
    if (base->fd >= 0) close(base->fd);
    link_close(s->over);
    free(s);
}

static const link_form server_form = {server_send, server_recv, server_close};

static int listen_at(server_link *s, const char *text) {
    struct sockaddr_un name;
    socklen_t bytes;
    int rc = make_name(text, true, &name, &bytes);
    if (rc < 0) return rc;
    s->listener =
        socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    s->base.fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->listener < 0 || s->base.fd < 0 ||
        bind(s->listener, (struct sockaddr *)&name, bytes) < 0 ||
        listen(s->listener, BACKLOG) < 0) {
        return -errno;
    }
    rc = watch(s->base.fd, s->listener);
    return rc < 0 ? rc : watch(s->base.fd, s->over->fd);
}

int link_shared_bind(struct link **out, struct link *over) {
    server_link *s = calloc(1, sizeof(*s));
    if (s == NULL) return -ENOMEM;
    s->base.form = &server_form;
    s->base.fd = s->listener = -1;
    s->over = over;
    memcpy(s->base.endpoint, over->endpoint, sizeof(s->base.endpoint));
    int rc = listen_at(s, over->endpoint);
    if (rc < 0) {
        s->over = NULL; /* the caller's */
        server_close(&s->base);
        return rc;
    }
    *out = &s->base;
    return 0;
}
