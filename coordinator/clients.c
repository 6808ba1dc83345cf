/* clients.c - see clients.h.  Both tables are short lists: a rack has tens of
 * clients, and what walks them runs once per token at most. */
#include "coordinator/clients.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"

typedef struct waiting {
    struct waiting *next;
    frames f;
    size_t bytes;
} waiting;

struct client {
    client *next;
    uint8_t address[FRAMES_ADDRESS];
    size_t address_bytes;
    waiting *first, **last;
    size_t bytes; /* waiting */
    uint32_t n_requests;
    bool held;
    bool spoken; /* it was sent something since the last probe */
};

struct clients {
    clients_config config;
    client *all;
    uint32_t n_clients;
    request *requests;
    uint32_t n_requests;
};

int clients_new(clients **out, const clients_config *c) {
    *out = calloc(1, sizeof(**out));
    if (*out == NULL) return -ENOMEM;
    (*out)->config = *c;
    return 0;
}

static void free_request(request *r) {
    free(r->head);
    free(r->at_start);
    free(r);
}

static void free_outbox(client *of) {
    while (of->first != NULL) {
        waiting *w = of->first;
        of->first = w->next;
        frames_fini(&w->f);
        free(w);
    }
    of->last = &of->first;
    of->bytes = 0;
}

static void free_client(clients *c, client *gone) {
    client **at = &c->all;
    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    c->n_clients--;
    free_outbox(gone);
    free(gone);
}

void clients_free(clients *c) {
    if (c == NULL) return;
    while (c->requests != NULL) {
        request *r = c->requests;
        c->requests = r->next;
        free_request(r);
    }
    while (c->all != NULL)
        free_client(c, c->all);
    free(c);
}

/* A client that wants nothing and gets nothing need not be remembered. */
static bool forget_one_idle(clients *c) {
    for (client *k = c->all; k != NULL; k = k->next) {
        if (k->n_requests > 0 || k->first != NULL) continue;
        free_client(c, k);
        return true;
    }
    return false;
}

client *clients_of(clients *c, const frames *f) {
    for (client *k = c->all; k != NULL; k = k->next) {
        if (frames_has_address(f, k->address, k->address_bytes)) return k;
    }
    if (c->n_clients >= CLIENTS_MAX && !forget_one_idle(c)) return NULL;
    client *k = calloc(1, sizeof(*k));
    if (k == NULL) return NULL;
    memcpy(k->address, f->address, f->address_bytes);
    k->address_bytes = f->address_bytes;
    k->last = &k->first;
    k->next = c->all;
    c->all = k;
    c->n_clients++;
    return k;
}

static void set_held(clients *c, client *of, bool held) {
    if (of->held == held) return;
    of->held = held;
    for (request *r = c->requests; r != NULL; r = r->next) {
        if (r->owner == of) c->config.on_hold(c->config.ctx, r, held);
    }
}

static void client_gone(clients *c, client *gone, const char *reason) {
    log_debug("a client is gone: %s", reason);
    for (request *r = c->requests, *next; r != NULL; r = next) {
        next = r->next;
        if (r->owner != gone) continue;
        c->config.on_gone(c->config.ctx, r);
        clients_drop_request(c, r);
    }
    free_client(c, gone);
}

static size_t message_bytes(frames *f) {
    size_t bytes = sizeof(waiting);
    for (size_t i = 0; i < f->count; i++) {
        bytes += frames_bytes(f, i);
    }
    return bytes;
}

bool clients_send(clients *c, client *to, frames *f) {
    memcpy(f->address, to->address, to->address_bytes);
    f->address_bytes = to->address_bytes;
    to->spoken = true;
    bool first = to->first == NULL;
    int rc = first ? link_send(c->config.link, f) : -EAGAIN;
    if (rc == 0) return false;
    if (rc != -EAGAIN) {
        frames_fini(f);
        client_gone(c, to, err_text(rc));
        return false;
    }
    waiting *w = calloc(1, sizeof(*w));
    size_t bytes = message_bytes(f);
    if (w == NULL || to->bytes + bytes > CLIENT_MOST_BYTES) {
        free(w);
        frames_fini(f);
        client_gone(c, to, "it does not take its answers");
        return false;
    }
    frames_init(&w->f);
    frames_move(&w->f, f);
    w->bytes = bytes;
    *to->last = w;
    to->last = &w->next;
    to->bytes += bytes;
    if (to->bytes > CLIENT_HOLD_BYTES) set_held(c, to, true);
    return first;
}

/* false: the client is gone. */
static bool flush_client(clients *c, client *k, bool *moved) {
    while (k->first != NULL) {
        waiting *w = k->first;
        int rc = link_send(c->config.link, &w->f);
        if (rc == -EAGAIN) break;
        *moved = true;
        if (rc < 0) {
            client_gone(c, k, err_text(rc));
            return false;
        }
        k->first = w->next;
        if (k->first == NULL) k->last = &k->first;
        k->bytes -= w->bytes;
        free(w);
    }
    if (k->bytes < CLIENT_RESUME_BYTES) set_held(c, k, false);
    return true;
}

bool clients_flush(clients *c, bool *moved) {
    bool waits = false;
    *moved = false;
    for (client *k = c->all, *next; k != NULL; k = next) {
        next = k->next;
        if (k->first == NULL) continue;
        if (flush_client(c, k, moved)) waits = waits || k->first != NULL;
    }
    return waits;
}

bool clients_waiting(const clients *c) {
    for (const client *k = c->all; k != NULL; k = k->next) {
        if (k->first != NULL) return true;
    }
    return false;
}

bool clients_held(const client *of) {
    return of->held;
}

void clients_probe(clients *c, int (*build)(void *ctx, frames *f), void *ctx) {
    for (client *k = c->all, *next; k != NULL; k = next) {
        next = k->next;
        bool spoken = k->spoken;
        k->spoken = false;
        if (spoken || k->n_requests == 0 || k->first != NULL) continue;
        frames f;
        frames_init(&f);
        if (build(ctx, &f) == 0) {
            clients_send(c, k, &f);
        } else {
            frames_fini(&f);
        }
    }
}

request *clients_add_request(clients *c, client *of, uint64_t id,
                             const message *m) {
    if (clients_find_of(c, of, m->request_id) != NULL) return NULL;
    request *r = calloc(1, sizeof(*r));
    if (r == NULL) return NULL;
    r->owner = of;
    r->id = id;
    r->request_id = m->request_id;
    r->boot_id = m->boot_id;
    r->next = c->requests;
    c->requests = r;
    c->n_requests++;
    of->n_requests++;
    return r;
}

request *clients_find(const clients *c, uint64_t id) {
    for (request *r = c->requests; r != NULL; r = r->next) {
        if (r->id == id) return r;
    }
    return NULL;
}

request *clients_find_of(const clients *c, const client *of,
                         uint64_t request_id) {
    for (request *r = c->requests; r != NULL; r = r->next) {
        if (r->owner == of && r->request_id == request_id) return r;
    }
    return NULL;
}

request *clients_any_request(const clients *c) {
    return c->requests;
}

void clients_drop_request(clients *c, request *r) {
    request **at = &c->requests;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    c->n_requests--;
    r->owner->n_requests--;
    free_request(r);
}

uint32_t clients_n_requests(const clients *c) {
    return c->n_requests;
}
