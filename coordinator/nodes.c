/* nodes.c - links to the nodes, and what is said over them. */
#include "coordinator/nodes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/nodes_internal.h"
#include "coordinator/nodes_quarantine.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define ARENA_BYTES ((size_t)4 << 20)

/* ---- text from nodes ---- */

/* It goes into logs and JSON: no control characters, and no part of a character
 * at the end, where a copy was cut. */
static void clean(char *text) {
    size_t len = strlen(text), last = len;
    while (last > 0 && ((uint8_t)text[last - 1] & 0xc0) == 0x80)
        last--;
    if (last > 0) {
        uint8_t lead = (uint8_t)text[last - 1];
        size_t needs = lead >= 0xf0   ? 4
                       : lead >= 0xe0 ? 3
                       : lead >= 0xc0 ? 2
                                      : 1;
        if (len - last + 1 < needs) text[last - 1] = '\0';
    }
    for (char *p = text; *p != '\0'; p++) {
        if ((uint8_t)*p < 0x20 || *p == 0x7f) *p = '?';
    }
}

static void keep_text(char *to, size_t size, const char *from) {
    snprintf(to, size, "%s", from);
    clean(to);
}

/* ---- sending ---- */

void nodes_send(node *p, const message *m) {
    if (p->link == NULL) return; /* it can never be connected to */
    frames f;
    frames_init(&f);
    int rc = frames_add(&f, 0) == NULL ? -ENOMEM : message_seal(&f, m);
    if (rc == 0) rc = link_send(p->link, &f);
    /* Not connected yet, or not reading: the machine asks again. */
    if (rc < 0) log_debug("node %s: %s", p->control, err_text(rc));
    frames_fini(&f);
    zmq_watch_kick(p->watch);
}

void nodes_greet(nodes *n, node *p) {
    message m = identity_message(n->config.self, MESSAGE_HELLO);
    m.request_id = p->greeting = ++n->last_question;
    p->greeted_ms = now_ms();
    m.hello.role = ROLE_COORDINATOR;
    m.hello.name = n->config.self->name;
    m.hello.has_profile = true;
    m.hello.profile = *n->config.profile;
    nodes_send(p, &m);
}

/* A ping says which placement new requests are sent by: a node keeps what older
 * ones need until everybody is past them.  By number and digest: an etcd that
 * was restored may have another one under a number that nodes know. */
static void ping(nodes *n, node *p) {
    message m = identity_message(n->config.self, MESSAGE_PING);
    m.epoch = exchange_epoch(n->config.experts);
    m.ping.placement = exchange_source(n->config.experts);
    nodes_send(p, &m);
}

/* ---- what nodes say ---- */

/* Where batches go: what the node names, else its port on the host that we know
 * it by.  A node cannot lead us away from this machine unless we are allowed to
 * leave it. */
static int read_data_endpoint(const nodes *n, node *p, const message *m,
                              endpoint *out) {
    const char *named = m->welcome.data_endpoint;
    bool own = named[0] != '\0';
    int rc =
        endpoint_parse(out, own ? named : p->control, p->why, sizeof(p->why));
    if (rc < 0) return ERR_MALFORMED;
    if (!own) out->port = (uint16_t)m->welcome.data_port;
    if (out->port == 0 || strcmp(out->host, "*") == 0) {
        return err_why(p->why, sizeof(p->why), ERR_MALFORMED,
                       "it names no data port");
    }
    if (!n->config.links.insecure && !endpoint_is_loopback(out)) {
        return err_why(p->why, sizeof(p->why), ERR_USAGE,
                       "its data endpoint is on %s, beyond the loopback "
                       "interface; --insecure allows it",
                       out->host);
    }
    return 0;
}

/* It may have the address that another had. */
static int check_name(node *p, const message *m) {
    if (p->listed[0] == '\0' || strcmp(m->welcome.name, p->listed) == 0) {
        return 0;
    }
    char name[sizeof(p->name)];
    keep_text(name, sizeof(name), m->welcome.name);
    return err_why(p->why, sizeof(p->why), ERR_WRONG_BOOT,
                   "it calls itself '%s'", name);
}

/* Will we work with this node?  0, or a code with the reason in p->why. */
static int check_welcome(nodes *n, node *p, const message *m) {
    const model_config *model = n->config.model;
    if (m->welcome.role != ROLE_NODE) {
        return err_why(p->why, sizeof(p->why), ERR_MALFORMED,
                       "it is not an expert node");
    }
    if (strcmp(m->cluster, n->config.self->cluster) != 0) {
        return err_why(p->why, sizeof(p->why), ERR_WRONG_CLUSTER,
                       "it belongs to cluster '%s'", m->cluster);
    }
    if (!m->has_fingerprint ||
        memcmp(m->fingerprint, n->config.self->model.bytes,
               sizeof(m->fingerprint)) != 0) {
        return err_why(p->why, sizeof(p->why), ERR_WRONG_MODEL,
                       "it serves another model");
    }
    if (!m->welcome.has_profile) {
        return err_why(p->why, sizeof(p->why), ERR_WRONG_PROFILE,
                       "it named no numerics profile");
    }
    if (!profile_same_experts(n->config.profile, &m->welcome.profile, p->why,
                              sizeof(p->why))) {
        return ERR_WRONG_PROFILE;
    }
    if (m->welcome.n_layers != model->n_layers ||
        m->welcome.n_experts != model->n_experts) {
        return err_why(p->why, sizeof(p->why), ERR_MALFORMED,
                       "it says %u layers of %u experts", m->welcome.n_layers,
                       m->welcome.n_experts);
    }
    return check_name(p, m);
}

/* What it holds must be cut as ours is.  Nothing at all is cut in any way: so
 * says a node that has not seen the placement yet. */
static int check_slices(const nodes *n, node *p, const message *m,
                        const holdings *held) {
    uint32_t ours = nodes_slices(n);
    if (m->welcome.slices == ours || holdings_count(held) == 0) return 0;
    return err_why(p->why, sizeof(p->why), ERR_MALFORMED,
                   "its experts are cut into %u slices, ours into %u",
                   m->welcome.slices, ours);
}

static int accept_welcome(nodes *n, node *p, const message *m) {
    endpoint data;
    holdings held = {0};
    p->why[0] = '\0';
    int rc = check_welcome(n, p, m);
    if (rc == 0) rc = read_data_endpoint(n, p, m, &data);
    if (rc == 0) {
        rc = holdings_init_slices(&held, m->welcome.n_layers,
                                  m->welcome.n_experts, m->welcome.slices);
    }
    if (rc < 0) return rc;
    memcpy(held.bits, m->welcome.holdings, holdings_bytes(&held));
    rc = check_slices(n, p, m, &held);
    if (rc < 0) {
        holdings_fini(&held);
        return rc;
    }
    /* A word that may be older than what was taken since says nothing of it. */
    if (m->request_id > p->doubted_by || p->doubted.slices != held.slices) {
        holdings none;
        rc = holdings_init_slices(&none, held.n_layers, held.n_experts,
                                  held.slices);
        if (rc < 0) {
            holdings_fini(&held);
            return rc;
        }
        holdings_fini(&p->doubted);
        p->doubted = none;
    }
    holdings_fini(&p->held);
    p->held = held;
    endpoint_format(&data, p->data, sizeof(p->data));
    keep_text(p->name, sizeof(p->name), m->welcome.name);
    keep_text(p->cpu, sizeof(p->cpu), m->welcome.cpu);
    p->threads = m->welcome.threads;
    p->resident_bytes = m->welcome.resident_bytes;
    p->holdings_version = m->welcome.holdings_version;
    p->welcomed = true;
    nodes_doubt(n, p);
    return 0;
}

/* Only a welcome that we asked for counts.  One of a node that is up says what
 * it holds now; nothing else about it changes, unless it is another process. */
static void on_welcome(nodes *n, node *p, const message *m) {
    if (m->request_id <= p->answered || m->request_id > p->greeting) {
        log_debug("node %s: a welcome too many", p->control);
        return;
    }
    p->answered = m->request_id;
    p->told_epoch = m->epoch;
    int rc = accept_welcome(n, p, m);
    if (rc < 0) {
        clean(p->why);
        log_warn("node %s is not used: %s", p->control,
                 p->why[0] != '\0' ? p->why : err_text(rc));
        membership_refused(n->machine, now_ms(), p->index, rc);
        return;
    }
    bool refresh =
        node_is_up(n, p) && membership_boot(n->machine, p->index) == m->boot_id;
    membership_welcome(n->machine, now_ms(), p->index, m->boot_id);
    if (refresh) nodes_changed(n);
}

static void on_pong(nodes *n, node *p, const message *m) {
    p->told_epoch = m->epoch;
    p->batches = m->pong.batches;
    p->pairs = m->pong.pairs;
    p->queued = m->pong.queued_jobs;
    p->resident_bytes = m->pong.resident_bytes;
    p->stale = false;
    if (m->pong.progress != p->progress) {
        exchange_node_works(n->config.experts, p->index);
    }
    p->progress = m->pong.progress;
    membership_pong(n->machine, now_ms(), p->index, m->boot_id,
                    m->pong.progress, m->pong.queued_jobs);
    /* Asked again with every pong until the answer comes. */
    if (node_is_up(n, p) && m->pong.holdings_version > p->holdings_version) {
        nodes_greet(n, p);
    }
}

static void on_error(nodes *n, node *p, const message *m) {
    char text[sizeof(p->why)];
    if (nodes_load_refused(p, m)) return;
    keep_text(text, sizeof(text), m->error.text);
    if (m->error.code == ERR_STALE) {
        /* It lives; the watch will bring us what we have not seen. */
        if (!p->stale) log_warn("node %s waits for us: %s", p->control, text);
        p->stale = true;
        membership_heard(n->machine, now_ms(), p->index, m->boot_id);
        return;
    }
    bool news = strcmp(p->why, text) != 0;
    memcpy(p->why, text, sizeof(text));
    if (m->error.code == ERR_NOT_HERE && !node_is_up(n, p)) {
        /* It does not know its model yet: greeted on until it does. */
        if (news) log_info("node %s: %s", p->control, p->why);
        return;
    }
    if (news) log_warn("node %s refuses us: %s", p->control, p->why);
    membership_refused(n->machine, now_ms(), p->index, m->error.code);
}

static void on_control(void *ctx, frames *f) {
    node *p = ctx;
    nodes *n = p->owner;
    message m;
    char why[160] = "";
    int rc = message_open(f, n->arena, &m, why, sizeof(why));
    if (rc < 0) {
        log_warn("node %s: bad message: %s (%s)", p->control, why,
                 err_text(rc));
        if (rc == ERR_WRONG_VERSION) {
            membership_refused(n->machine, now_ms(), p->index, rc);
        }
        return;
    }
    if (m.kind == MESSAGE_WELCOME) {
        on_welcome(n, p, &m);
    } else if (m.kind == MESSAGE_PONG) {
        on_pong(n, p, &m);
    } else if (m.kind == MESSAGE_LOAD) {
        nodes_load_take(n, p, &m, f);
    } else if (m.kind == MESSAGE_ERROR) {
        on_error(n, p, &m);
    } else {
        log_warn("node %s: unexpected message %s", p->control,
                 message_kind_name(m.kind));
    }
    nodes_pump(n);
}

/* Its process is gone, or something between us: this shows long before it is
 * silent. */
static void on_broken(void *ctx) {
    node *p = ctx;
    membership_broken(p->owner->machine, now_ms(), p->index);
    nodes_pump(p->owner);
}

/* ---- the machine ---- */

static void on_timer(uv_timer_t *timer) {
    nodes_pump(timer->data);
}

static void node_up(nodes *n, const node *p) {
    log_info("node %s (%s) is up: %llu experts, %.1f MB, %u threads, %s",
             p->name, p->control, (unsigned long long)holdings_count(&p->held),
             (double)p->resident_bytes / 1e6, p->threads, p->cpu);
    nodes_changed(n);
}

static void node_gone(nodes *n, const node *p, const char *reason) {
    log_warn("node %s (%s) is gone: %s", nodes_name(n, p->index), p->control,
             reason);
    (void)nodes_switch(n);
    nodes_publish(n);
}

static void check_settled(nodes *n) {
    if (n->settled || n->config.registered) return;
    for (uint32_t i = 0; i < n->n_all; i++) {
        if (membership_state(n->machine, i) == NODE_GREETING) return;
    }
    n->settled = true;
    if (n->unpublished) nodes_publish(n);
    n->config.on_settled(n->config.ctx);
}

static void act(nodes *n, const member_action *a) {
    node *p = n->all[a->node];
    switch (a->kind) {
    case MEMBER_HELLO:
        nodes_greet(n, p);
        break;
    case MEMBER_PING:
        ping(n, p);
        break;
    case MEMBER_UP:
        node_up(n, p);
        break;
    case MEMBER_GONE:
        node_gone(n, p, a->reason);
        break;
    case MEMBER_TRUST:
        nodes_trust_changed(n, p, a->reason);
        break;
    case MEMBER_WAIT:
        break;
    }
}

static uint64_t sooner(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

void nodes_pump(nodes *n) {
    if (n->closing) return;
    nodes_take_verdicts(n);
    member_action a;
    for (;;) {
        membership_next(n->machine, now_ms(), &a);
        if (a.kind == MEMBER_WAIT) break;
        act(n, &a);
    }
    uint64_t now = now_ms();
    if (n->unpublished) nodes_changed(n);
    if (n->next != NULL && now >= n->switch_look_ms && nodes_switch(n))
        nodes_publish(n);
    if (nodes_let_go(n)) nodes_publish(n);
    check_settled(n);
    uint64_t wake = sooner(a.wake_ms, now + 1000);
    wake = sooner(wake, nodes_load_ask(n, now));
    if (n->unpublished) wake = sooner(wake, n->rack_due_ms);
    if (n->next != NULL) wake = sooner(wake, n->switch_look_ms);
    uv_timer_start(&n->timer, on_timer, wake > now ? wake - now : 1, 0);
}

/* ---- places ---- */

static int make_room(nodes *n, uint32_t places) {
    if (places <= n->room) return 0;
    uint32_t room = (uint32_t)size_max(2 * n->room, places);
    node **more = realloc(n->all, room * sizeof(*more));
    if (more == NULL) return -ENOMEM;
    memset(more + n->room, 0, (room - n->room) * sizeof(*more));
    n->all = more;
    n->room = room;
    return 0;
}

static void node_free(node *p) {
    if (p == NULL) return;
    zmq_watch_close(p->watch); /* its memory is the loop's from here on */
    link_close(p->link);
    holdings_fini(&p->held);
    holdings_fini(&p->doubted);
    load_meter_free(p->meter);
    free(p);
}

int nodes_connect(nodes *n, node *p, char *why, size_t why_size) {
    int rc =
        link_connect(&p->link, &n->config.links, p->control, why, why_size);
    if (rc < 0) return rc;
    rc = zmq_watch_open(&p->watch, n->config.loop, p->link, on_control, p);
    if (rc < 0) {
        link_close(p->link);
        p->link = NULL;
        return rc;
    }
    zmq_watch_on_broken(p->watch, on_broken);
    return 0;
}

int nodes_add(nodes *n, const char *control, node **out) {
    *out = NULL;
    node *p = calloc(1, sizeof(*p));
    if (p == NULL) return -ENOMEM;
    int rc = membership_add(n->machine, &p->index);
    if (rc < 0) {
        free(p);
        return rc;
    }
    rc = make_room(n, p->index + 1);
    if (rc < 0) {
        membership_remove(n->machine, p->index);
        free(p);
        return rc;
    }
    p->owner = n;
    p->serial = ++n->last_serial;
    snprintf(p->control, sizeof(p->control), "%s", control);
    n->all[p->index] = p;
    n->n_all = (uint32_t)size_max(n->n_all, p->index + 1);
    *out = p;
    return 0;
}

void nodes_remove(nodes *n, node *p) {
    membership_remove(n->machine, p->index);
    n->all[p->index] = NULL;
    while (n->n_all > 0 && n->all[n->n_all - 1] == NULL)
        n->n_all--;
    node_free(p);
}

/* ---- opening and closing ---- */

int nodes_open(nodes **out, const nodes_config *c, char *why, size_t why_size) {
    *out = NULL;
    nodes *n = calloc(1, sizeof(*n));
    if (n == NULL) return -ENOMEM;
    n->config = *c;
    n->config.timing.n_nodes = 0; /* they are added one by one */
    uv_timer_init(c->loop, &n->timer);
    n->timer.data = n;

    int rc = membership_new(&n->machine, &n->config.timing);
    if (rc == 0) rc = message_arena_new(&n->arena, ARENA_BYTES);
    for (uint32_t i = 0; i < c->n_nodes && rc == 0; i++) {
        node *p;
        rc = nodes_add(n, c->endpoints[i], &p);
        if (rc == 0) rc = nodes_connect(n, p, why, why_size);
    }
    *out = n; /* also on failure: handles of the loop need closing */
    if (rc == 0) rc = nodes_publish(n);
    if (rc < 0) return rc;
    uv_timer_start(&n->timer, on_timer, 0,
                   0); /* from the loop, not from here */
    return 0;
}

void nodes_close(nodes *n) {
    if (n == NULL || n->closing) return;
    n->closing = true;
    uv_timer_stop(&n->timer);
    uv_close((uv_handle_t *)&n->timer, NULL);
    for (uint32_t i = 0; i < n->n_all; i++) {
        node *p = n->all[i];
        if (p == NULL) continue;
        zmq_watch_close(p->watch);
        p->watch = NULL;
    }
}

void nodes_free(nodes *n) {
    if (n == NULL) return;
    for (uint32_t i = 0; i < n->n_all; i++)
        node_free(n->all[i]);
    membership_free(n->machine);
    message_arena_free(n->arena);
    placement_unref(n->where);
    rack_placement_unref(n->assignment);
    rack_placement_unref(n->next);
    heat_free(n->heat);
    heat_free(n->old_heat);
    free(n->all);
    free(n);
}
