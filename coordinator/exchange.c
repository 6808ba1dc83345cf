/* exchange.c - see exchange.h.
 *
 * Here are its life, the links to the nodes, and what others are told;
 * exchange_layer.c has what it is for. */
#include "coordinator/exchange_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "engine/act.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define ARENA_BYTES ((size_t)8 << 20)
#define POLL_MAX_MS 10 /* look around at least that often */
#define SPIN_US 30     /* before a wait sleeps */
/* A wait of that length is a process that stood still. */
#define STOOD_US 200000

static int connect_zmq(void *ctx, struct link **out, const link_config *c,
                       const char *where, char *why, size_t why_size) {
    (void)ctx;
    return link_connect(out, c, where, why, why_size);
}

static void buffers_fini(exchange_buffers *b) {
    free(b->units);
    free(b->outputs);
    free(b->take);
    free(b->experts);
    free(b->counts);
    free(b->rows);
    free(b->local_x);
    free(b->local_y);
    aligned_release(b->local_rows);
    *b = (exchange_buffers){0};
}

static int buffers_init(exchange_buffers *b, uint32_t pairs) {
    *b = (exchange_buffers){.pairs = pairs};
    b->units = calloc(pairs, sizeof(*b->units));
    b->outputs = calloc(pairs, sizeof(*b->outputs));
    b->take = calloc(pairs, sizeof(*b->take));
    b->experts = calloc(pairs, sizeof(*b->experts));
    b->counts = calloc(pairs, sizeof(*b->counts));
    b->rows = calloc(pairs, sizeof(*b->rows));
    b->local_x = calloc(pairs, sizeof(*b->local_x));
    b->local_y = calloc(pairs, sizeof(*b->local_y));
    if (b->units != NULL && b->outputs != NULL && b->take != NULL &&
        b->experts != NULL && b->counts != NULL && b->rows != NULL &&
        b->local_x != NULL && b->local_y != NULL) {
        return 0;
    }
    buffers_fini(b);
    return -ENOMEM;
}

int exchange_new(exchange **out, const exchange_config *c) {
    *out = NULL;
    exchange *x = calloc(1, sizeof(*x));
    if (x == NULL) return -ENOMEM;
    x->config = *c;
    if (x->config.connect == NULL) x->config.connect = connect_zmq;
    pthread_mutex_init(&x->lock, NULL);
    x->wake_fd = -1;

    size_t nodes = c->dispatch.max_nodes;
    int rc = dispatch_new(&x->machine, &c->dispatch);
    if (rc < 0) goto fail;
    rc = message_arena_new(&x->arena, ARENA_BYTES);
    if (rc < 0) goto fail;
    rc = cross_check_new(&x->checks, c->check_every,
                         c->model->n_embd * sizeof(float), c->model->n_embd);
    if (rc < 0) goto fail;

    x->peers = calloc(nodes + 1, sizeof(*x->peers));
    x->node_stats = calloc(nodes + 1, sizeof(*x->node_stats));
    x->polls = calloc(nodes + 1, sizeof(*x->polls));
    x->up = calloc(nodes + 1, sizeof(*x->up));
    x->row_slot = calloc(c->max_rows, sizeof(*x->row_slot));
    x->row_keys = calloc(c->max_rows, sizeof(*x->row_keys));
    rc = kept_rows_new(&x->kept_rows, c->max_rows,
                       act_row_bytes(ACT_F32, c->model->n_embd));
    if (rc < 0) goto fail;
    x->slices = 1;
    x->lane = &x->lanes[0];
    for (uint32_t i = 0; i < EXCHANGE_LANES && rc == 0; i++)
        rc = buffers_init(&x->lanes[i].of, c->dispatch.max_pairs);
    if (rc < 0) goto fail;
    x->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (x->wake_fd < 0) {
        rc = -errno;
        goto fail;
    }
    if (x->peers == NULL || x->node_stats == NULL || x->polls == NULL ||
        x->up == NULL || x->row_slot == NULL || x->row_keys == NULL) {
        rc = -ENOMEM;
        goto fail;
    }
    *out = x;
    return 0;

fail:
    exchange_free(x);
    return rc;
}

void exchange_on_wait(exchange *x, exchange_look look, void *ctx) {
    x->look = look;
    x->look_ctx = ctx;
}

static void lane_fini(exchange_lane *l) {
    exchange_drop_replies(l);
    for (size_t i = 0; i < l->n_boxes; i++)
        free(l->replies[i]);
    free(l->replies);
    buffers_fini(&l->of);
    rack_unref(l->during);
}

void exchange_free(exchange *x) {
    if (x == NULL) return;
    for (size_t i = 0; i < x->n_held; i++)
        frames_fini(&x->held[i].reply);
    for (uint32_t i = 0; i < EXCHANGE_LANES; i++)
        lane_fini(&x->lanes[i]);
    for (uint32_t i = 0; x->peers != NULL && i < x->config.dispatch.max_nodes;
         i++) {
        link_close(x->peers[i].data);
    }
    dispatch_free(x->machine);
    cross_check_free(x->checks);
    message_arena_free(x->arena);
    rack_unref(x->now);
    rack_unref(x->adopted);
    rack_unref(x->posted);
    free(x->peers);
    free(x->node_stats);
    free(x->polls);
    free(x->up);
    free(x->row_slot);
    free(x->row_keys);
    kept_rows_free(x->kept_rows);
    if (x->wake_fd >= 0) close(x->wake_fd);
    pthread_mutex_destroy(&x->lock);
    free(x);
}

/* ---- racks ---- */

void exchange_post(exchange *x, rack *r) {
    pthread_mutex_lock(&x->lock);
    rack *old = x->posted;
    x->posted = r;
    pthread_mutex_unlock(&x->lock);
    rack_unref(old);
    uint64_t one = 1;
    if (write(x->wake_fd, &one, sizeof(one)) < 0) return; /* already awake */
}

bool exchange_has_news(exchange *x) {
    pthread_mutex_lock(&x->lock);
    bool news = x->posted != NULL;
    pthread_mutex_unlock(&x->lock);
    return news;
}

static void peer_down(exchange *x, uint32_t node) {
    exchange_peer *p = &x->peers[node];
    if (!p->up) return;
    p->up = false;
    link_close(p->data);
    p->data = NULL;
    dispatch_node_down(x->machine, now_us(), node);
}

static void peer_up(exchange *x, uint32_t node, const rack_node *n) {
    exchange_peer *p = &x->peers[node];
    char why[256] = "";
    int rc = x->config.connect(x->config.connect_ctx, &p->data,
                               &x->config.links, n->endpoint, why, sizeof(why));
    if (rc < 0) {
        log_error("node %u: cannot connect to %s: %s (%s)", node, n->endpoint,
                  why, err_text(rc));
        return;
    }
    if (p->serial != n->serial || strcmp(p->endpoint, n->endpoint) != 0)
        dispatch_node_replaced(x->machine, node, n->serial);
    p->up = true;
    p->boot_id = n->boot_id;
    p->serial = n->serial;
    memcpy(p->endpoint, n->endpoint, sizeof(p->endpoint));
    dispatch_node_up(x->machine, node);
}

/* Make one link what the rack says. */
static void take_node(exchange *x, uint32_t node, const rack_node *n) {
    exchange_peer *p = &x->peers[node];
    bool same = p->up && n->up && p->boot_id == n->boot_id &&
                p->serial == n->serial && strcmp(p->endpoint, n->endpoint) == 0;
    if (!same) {
        peer_down(x, node);
        if (n->up) peer_up(x, node, n);
    }
    dispatch_node_trust(x->machine, node, n->trust);
}

void exchange_take_rack(exchange *x) {
    /* Before the look, and whatever it finds: a wake-up that stays behind would
     * keep poll() from ever sleeping. */
    uint64_t drained;
    if (read(x->wake_fd, &drained, sizeof(drained)) < 0) drained = 0;

    pthread_mutex_lock(&x->lock);
    rack *r = x->posted;
    x->posted = NULL;
    pthread_mutex_unlock(&x->lock);
    if (r == NULL) return;

    static const rack_node gone;
    uint32_t n = rack_n_nodes(r);
    assert(n <= x->config.dispatch.max_nodes);
    if (x->n_seen < n) x->n_seen = n;
    x->n_up = 0;
    for (uint32_t i = 0; i < x->n_seen; i++) {
        take_node(x, i, i < n ? rack_node_at(r, i) : &gone);
        if (x->peers[i].up) x->up[x->n_up++] = i;
    }
    rack_unref(x->now);
    x->now = r;
}

/* All lanes' buffers, or none. */
static int fit_buffers(exchange *x, uint32_t pairs) {
    exchange_buffers fresh[EXCHANGE_LANES] = {{0}};
    int rc = dispatch_reserve(x->machine, pairs);
    for (uint32_t i = 0; i < EXCHANGE_LANES && rc == 0; i++)
        rc = buffers_init(&fresh[i], pairs);
    for (uint32_t i = 0; i < EXCHANGE_LANES; i++) {
        buffers_fini(rc == 0 ? &x->lanes[i].of : &fresh[i]);
        if (rc == 0) x->lanes[i].of = fresh[i];
    }
    return rc;
}

static int fit_slices(exchange *x, uint32_t slices) {
    int rc = fit_buffers(x, x->config.dispatch.max_pairs * slices);
    if (rc < 0) {
        log_error("no memory for %u slices of an expert", slices);
        return rc;
    }
    x->slices = slices;
    /* What it says is logged there; units are refused one by one then. */
    (void)local_experts_set_slices(x->config.local, slices);
    return 0;
}

int exchange_adopt_rack(exchange *x) {
    if (x->now == NULL) return ERR_UNAVAILABLE;
    uint32_t slices = placement_max_slices(rack_where(x->now));
    const placement *oldest = rack_where(x->now);
    for (uint32_t i = 0; i < EXCHANGE_LANES; i++) {
        if (!x->lanes[i].open) continue;
        if (slices != x->slices) return 0; /* it goes by the former one */
        const placement *open = x->lanes[i].where;
        if (placement_epoch(open) < placement_epoch(oldest)) oldest = open;
    }
    int rc = slices != x->slices ? fit_slices(x, slices) : 0;
    if (rc < 0) return rc;
    if (x->adopted != x->now) {
        rack_unref(x->adopted);
        x->adopted = rack_ref(x->now);
    }
    atomic_store(&x->source, placement_source(oldest));
    atomic_store(&x->epoch, placement_epoch(oldest));
    return 0;
}

uint64_t exchange_waited_us(const exchange *x) {
    return x->waited_us;
}

uint64_t exchange_epoch(exchange *x) {
    return atomic_load(&x->epoch);
}

uint64_t exchange_source(exchange *x) {
    return atomic_load(&x->source);
}

/* ---- waiting ---- */

void exchange_node_works(exchange *x, uint32_t node) {
    atomic_store(&x->peers[node].works, true);
}

bool exchange_receive_all(exchange *x) {
    bool any = false;
    x->looked_us = now_us();
    for (uint32_t i = 0; i < x->n_up; i++) {
        uint32_t node = x->up[i];
        exchange_peer *p = &x->peers[node];
        if (atomic_load_explicit(&p->works, memory_order_relaxed)) {
            atomic_store(&p->works, false);
            dispatch_node_works(x->machine, now_us(), node);
        }
        if (exchange_receive(x, node)) any = true;
    }
    return any;
}

static size_t fill_polls(const exchange *x, struct pollfd *polls) {
    size_t n = 0;
    polls[n++] = (struct pollfd){.fd = x->wake_fd, .events = POLLIN};
    for (uint32_t i = 0; i < x->n_up; i++) {
        polls[n++] = (struct pollfd){.fd = link_fd(x->peers[x->up[i]].data),
                                     .events = POLLIN};
    }
    return n;
}

/* Is there something, now or in a moment? */
static bool look_for_news(exchange *x) {
    uint64_t start = now_us();
    bool any = exchange_receive_all(x);
    if (any || !spin_pays(&x->spins)) return any;
    while (!any && now_us() - start < SPIN_US)
        any = exchange_receive_all(x);
    spin_told(&x->spins, any);
    return any;
}

void exchange_wait(exchange *x, uint64_t wake_us) {
    if (look_for_news(x)) return;

    uint64_t now = now_us();
    if (wake_us <= now) return;
    uint64_t ms = (wake_us - now + 999) / 1000;
    size_t n = fill_polls(x, x->polls);
    poll(x->polls, n, ms < POLL_MAX_MS ? (int)ms : POLL_MAX_MS);
    /* Before the machine looks at the clock: if it was we who stood still, the
     * answers are there, and signs of work are still to be read. */
    exchange_receive_all(x);
    if (now_us() - now > STOOD_US) dispatch_paused(x->machine, now_us());
}

/* ---- between steps, and for others ---- */

void exchange_publish(exchange *x) {
    dispatch_stats totals;
    dispatch_totals(x->machine, &totals);
    pthread_mutex_lock(&x->lock);
    x->totals = totals;
    cross_check_look(x->checks, &x->check_stats);
    if (!x->has_verdict) {
        x->has_verdict = cross_check_take_verdict(x->checks, &x->verdict);
    }
    for (uint32_t i = 0; i < x->n_seen; i++) {
        dispatch_node(x->machine, i, &x->node_stats[i]);
    }
    pthread_mutex_unlock(&x->lock);
}

void exchange_idle(exchange *x) {
    exchange_take_rack(x);
    (void)exchange_adopt_rack(x); /* the next layer says why not */
    exchange_drop_spent(x);
    exchange_receive_all(x);
    exchange_release(x);
    exchange_check_turn(x);
    exchange_publish(x);
}

size_t exchange_fds(const exchange *x, int *fds, size_t capacity) {
    size_t n = fill_polls(x, x->polls);
    n = size_min(n, capacity);
    for (size_t i = 0; i < n; i++) {
        fds[i] = x->polls[i].fd;
    }
    return n;
}

void exchange_totals(exchange *x, dispatch_stats *out) {
    pthread_mutex_lock(&x->lock);
    *out = x->totals;
    pthread_mutex_unlock(&x->lock);
}

void exchange_node(exchange *x, uint32_t node, dispatch_node_stats *out) {
    pthread_mutex_lock(&x->lock);
    *out = x->node_stats[node];
    pthread_mutex_unlock(&x->lock);
}

bool exchange_verdict(exchange *x, cross_check_verdict *out) {
    pthread_mutex_lock(&x->lock);
    bool has = x->has_verdict;
    if (has) *out = x->verdict;
    x->has_verdict = false;
    pthread_mutex_unlock(&x->lock);
    return has;
}

void exchange_checks(exchange *x, cross_check_stats *out) {
    pthread_mutex_lock(&x->lock);
    *out = x->check_stats;
    pthread_mutex_unlock(&x->lock);
}

void exchange_missing(exchange *x, uint32_t *layer, uint32_t *expert) {
    uint32_t missing;
    if (exchange_find_missing(x, &missing)) {
        x->lost_layer = x->lane->layer->layer;
        x->lost_expert = missing;
    }
    *layer = x->lost_layer;
    *expert = x->lost_expert;
}

bool exchange_has_holder(const exchange *x, uint32_t layer, uint32_t expert) {
    if (x->now == NULL) return false;
    const placement *where = rack_where(x->now);
    uint32_t slices = placement_slices(where, layer);
    for (uint32_t i = 0; i < slices; i++) {
        uint32_t n;
        const uint16_t *holders =
            placement_nodes(where, layer, expert * slices + i, &n);
        bool up = false;
        for (uint32_t h = 0; h < n; h++)
            up = up || x->peers[holders[h]].up;
        if (!up) return false;
    }
    return slices > 0;
}
