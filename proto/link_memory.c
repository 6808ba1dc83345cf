/* link_memory.c - links within one process, for tests and sanitizers.
 *
 * A hub joins one server with its clients; each client has a lane of two
 * bounded rings.  Everything is under the hub's lock, and an end's eventfd is
 * written under it whenever a ring that it waits on changes, so no wake-up is
 * lost.  The hub lives as long as any end does. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "proto/link_form.h"

/* A zero byte and the lane's number, as ZeroMQ's addresses are. */
#define LANE_ADDRESS (1 + sizeof(uint32_t))

typedef struct {
    frames *items;
    size_t capacity, first, count;
} ring;

typedef struct lane {
    struct lane *next;
    uint32_t id;
    int client_fd;
    ring to_server, to_client;
} lane;

typedef struct {
    pthread_mutex_t lock; /* guards all below and everything in the lanes */
    unsigned ends;        /* links that are open: the server and its clients */
    bool server_open;
    int server_fd;
    uint32_t last_id;
    lane *lanes;
    lane *turn; /* whose messages the server looks at first; NULL: lanes */
} hub;

typedef struct {
    struct link base;
    hub *hub;
    lane *lane; /* a client's; NULL: this is the server */
    bool told;  /* a client: it knows that the server is closed */
} memory_link;

/* ---- rings ---- */

static int ring_init(ring *r, size_t capacity) {
    r->items = calloc(capacity, sizeof(*r->items));
    if (r->items == NULL) return -ENOMEM;
    r->capacity = capacity;
    return 0;
}

static void ring_fini(ring *r) {
    for (size_t i = 0; i < r->count; i++) {
        frames_fini(&r->items[(r->first + i) % r->capacity]);
    }
    free(r->items);
}

/* Both say whether the other end now waits for something that happened: a first
 * message, a first free place. */
static bool ring_put(ring *r, frames *f) {
    frames_move(&r->items[(r->first + r->count) % r->capacity], f);
    return r->count++ == 0;
}

static bool ring_take(ring *r, frames *f) {
    frames_move(f, &r->items[r->first]);
    r->first = (r->first + 1) % r->capacity;
    return r->count-- == r->capacity;
}

/* ---- wake-ups; all under the lock ---- */

static void wake(int fd) {
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof(one));
    (void)n; /* it is full only if it is readable already */
}

static void no_more_news(int fd) {
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof(count));
    (void)n; /* it may hold none */
}

/* ---- sending ---- */

static void write_address(const lane *l, frames *f) {
    f->address[0] = 0;
    memcpy(f->address + 1, &l->id, sizeof(l->id));
    f->address_bytes = LANE_ADDRESS;
}

static lane *find_lane(const hub *h, const frames *f) {
    uint32_t id;
    if (f->address_bytes != LANE_ADDRESS) return NULL;
    memcpy(&id, f->address + 1, sizeof(id));
    for (lane *l = h->lanes; l != NULL; l = l->next) {
        if (l->id == id) return l;
    }
    return NULL;
}

static int send_locked(memory_link *m, frames *f) {
    hub *h = m->hub;
    lane *l = m->lane != NULL ? m->lane : find_lane(h, f);
    if (l == NULL) return -EHOSTUNREACH;
    if (!h->server_open) return -EAGAIN;

    ring *r = m->lane != NULL ? &l->to_server : &l->to_client;
    if (r->count == r->capacity) return -EAGAIN;
    if (f->count > 1 && failpoint("link.send.half")) link_cut_payloads(f);

    if (m->lane != NULL) {
        write_address(l, f);
    } else {
        f->address_bytes = 0;
    }
    int fd = m->lane != NULL ? h->server_fd : l->client_fd;
    if (ring_put(r, f)) wake(fd);
    return 0;
}

static int memory_send(struct link *base, frames *f) {
    memory_link *m = (memory_link *)base;
    pthread_mutex_lock(&m->hub->lock);
    int rc = send_locked(m, f);
    pthread_mutex_unlock(&m->hub->lock);
    return rc;
}

/* ---- receiving ---- */

/* The next lane with a message for the server, in turn. */
static lane *next_lane(hub *h) {
    lane *start = h->turn != NULL ? h->turn : h->lanes;
    lane *l = start;
    while (l != NULL && l->to_server.count == 0) {
        l = l->next != NULL ? l->next : h->lanes;
        if (l == start) return NULL;
    }
    if (l != NULL) h->turn = l->next;
    return l;
}

static int recv_locked(memory_link *m, frames *f) {
    hub *h = m->hub;
    lane *l = m->lane != NULL ? m->lane : next_lane(h);
    ring *r = NULL;
    if (l != NULL) r = m->lane != NULL ? &l->to_client : &l->to_server;
    if (r == NULL || r->count == 0) {
        no_more_news(m->base.fd);
        if (m->lane == NULL || h->server_open || m->told) return -EAGAIN;
        m->told = true;
        return -ECONNRESET;
    }
    int fd = m->lane != NULL ? h->server_fd : l->client_fd;
    if (ring_take(r, f) && (m->lane == NULL || h->server_open)) wake(fd);
    return 0;
}

static int memory_recv(struct link *base, frames *f) {
    memory_link *m = (memory_link *)base;
    pthread_mutex_lock(&m->hub->lock);
    int rc = recv_locked(m, f);
    pthread_mutex_unlock(&m->hub->lock);
    return rc;
}

/* ---- opening and closing ---- */

static void lane_free(lane *l) {
    if (l == NULL) return;
    ring_fini(&l->to_server);
    ring_fini(&l->to_client);
    free(l);
}

static lane *lane_new(size_t capacity) {
    lane *l = calloc(1, sizeof(*l));
    if (l == NULL) return NULL;
    if (ring_init(&l->to_server, capacity) == 0 &&
        ring_init(&l->to_client, capacity) == 0) {
        return l;
    }
    lane_free(l);
    return NULL;
}

static void remove_lane(hub *h, lane *gone) {
    lane **at = &h->lanes;
    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    if (h->turn == gone) h->turn = gone->next;
}

static void memory_close(struct link *base) {
    memory_link *m = (memory_link *)base;
    hub *h = m->hub;
    if (h != NULL) {
        pthread_mutex_lock(&h->lock);
        if (m->lane != NULL) {
            remove_lane(h, m->lane);
        } else {
            h->server_open = false;
            for (lane *l = h->lanes; l != NULL; l = l->next)
                wake(l->client_fd);
        }
        bool last = --h->ends == 0;
        pthread_mutex_unlock(&h->lock);
        lane_free(m->lane);
        if (last) {
            pthread_mutex_destroy(&h->lock);
            free(h);
        }
    }
    if (base->fd >= 0) close(base->fd);
    free(m);
}

static const link_form memory_form = {memory_send, memory_recv, memory_close};

/* An end with its eventfd, of no hub yet. */
static memory_link *end_new(void) {
    memory_link *m = calloc(1, sizeof(*m));
    if (m == NULL) return NULL;
    m->base.form = &memory_form;
    strcpy(m->base.endpoint, "memory");
    m->base.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (m->base.fd >= 0) return m;
    free(m);
    return NULL;
}

static memory_link *server_new(void) {
    memory_link *m = end_new();
    hub *h = calloc(1, sizeof(*h));
    if (m == NULL || h == NULL) {
        if (m != NULL) memory_close(&m->base);
        free(h);
        return NULL;
    }
    pthread_mutex_init(&h->lock, NULL);
    h->ends = 1;
    h->server_open = true;
    h->server_fd = m->base.fd;
    m->hub = h;
    return m;
}

static memory_link *client_new(hub *h, size_t capacity) {
    memory_link *m = end_new();
    lane *l = lane_new(capacity);
    if (m == NULL || l == NULL) {
        if (m != NULL) memory_close(&m->base);
        lane_free(l);
        return NULL;
    }
    l->client_fd = m->base.fd;
    m->hub = h;
    m->lane = l;

    pthread_mutex_lock(&h->lock);
    l->id = ++h->last_id;
    l->next = h->lanes;
    h->lanes = l;
    h->ends++;
    pthread_mutex_unlock(&h->lock);
    return m;
}

int link_memory(struct link **client, struct link **server,
                int queue_messages) {
    *client = NULL;
    if (queue_messages < 1) return ERR_RANGE;

    memory_link *s = (memory_link *)*server;
    if (s == NULL) {
        s = server_new();
        if (s == NULL) return -ENOMEM;
    }
    memory_link *c = client_new(s->hub, (size_t)queue_messages);
    if (c == NULL) {
        if (*server == NULL) memory_close(&s->base);
        return -ENOMEM;
    }
    *server = &s->base;
    *client = &c->base;
    return 0;
}
