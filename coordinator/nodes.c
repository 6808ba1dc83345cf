/* nodes.c - see nodes.h. */
#include "coordinator/nodes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "proto/zmq_watch.h"

#define ARENA_BYTES ((size_t)4 << 20)

typedef struct {
    struct nodes *owner;
    uint32_t index;
    char control[ENDPOINT_MAX];
    struct link *link;
    zmq_watch *watch;

    bool greeted; /* a welcome is due: one that we did not ask for is none */
    /* of the last welcome */
    bool welcomed;
    char name[MESSAGE_NAME_MAX + 1];
    char data[ENDPOINT_MAX];
    char cpu[32];
    uint32_t threads;
    uint64_t resident_bytes;
    holdings held;

    char why[200];                     /* of the last refusal */
    uint64_t batches, pairs, progress; /* of the last pong */
    uint32_t queued;
} node;

struct nodes {
    nodes_config config;
    membership *machine;
    message_arena *arena;
    node *all; /* [n_nodes] */
    uv_timer_t timer;
    bool closing, settled;
    uint64_t epoch;
    placement *where; /* the newest */
};

static void pump(nodes *n);

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

static void send_to(node *p, const message *m) {
    frames f;
    frames_init(&f);
    int rc = frames_add(&f, 0) == NULL ? -ENOMEM : message_seal(&f, m);
    if (rc == 0) rc = link_send(p->link, &f);
    /* Not connected yet, or not reading: the machine asks again. */
    if (rc < 0) log_debug("node %s: %s", p->control, err_text(rc));
    frames_fini(&f);
    zmq_watch_kick(p->watch);
}

static void send_hello(nodes *n, node *p) {
    message m = identity_message(n->config.self, MESSAGE_HELLO);
    p->greeted = true;
    m.hello.role = ROLE_COORDINATOR;
    m.hello.name = n->config.self->name;
    m.hello.has_profile = true;
    m.hello.profile = *n->config.profile;
    send_to(p, &m);
}

/* ---- the rack ---- */

/* Tell the step thread what is true now. */
static int publish_rack(nodes *n) {
    uint32_t count = n->config.n_nodes;
    const holdings **held = calloc(count + 1, sizeof(*held));
    rack_node *seen = calloc(count + 1, sizeof(*seen));
    placement *where = NULL;
    rack *r = NULL;
    int rc = held == NULL || seen == NULL ? -ENOMEM : 0;
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        bool up = membership_state(n->machine, i) == NODE_UP;
        if (!up) continue;
        held[i] = &n->all[i].held;
        seen[i].up = true;
        seen[i].boot_id = membership_boot(n->machine, i);
        memcpy(seen[i].endpoint, n->all[i].data, sizeof(seen[i].endpoint));
    }
    const model_config *m = n->config.model;
    uint32_t experts = m->n_experts > 0 ? m->n_experts : 1;
    if (rc == 0)
        rc = placement_new(&where, n->epoch + 1, m->n_layers, experts, held,
                           count);
    if (rc == 0) {
        rc = rack_new(&r, placement_ref(where), seen, count);
        if (rc < 0) placement_unref(where);
    }
    free(held);
    free(seen);
    if (rc < 0) {
        placement_unref(where);
        log_error("cannot publish the rack: %s", err_text(rc));
        return rc;
    }
    n->epoch++;
    placement_unref(n->where);
    n->where = where;
    exchange_post(n->config.experts, r);
    step_wake(n->config.steps);
    return 0;
}

static void check_settled(nodes *n) {
    if (n->settled) return;
    for (uint32_t i = 0; i < n->config.n_nodes; i++) {
        if (membership_state(n->machine, i) == NODE_GREETING) return;
    }
    n->settled = true;
    n->config.on_settled(n->config.ctx);
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
    return 0;
}

static int accept_welcome(nodes *n, node *p, const message *m) {
    endpoint data;
    holdings held;
    p->why[0] = '\0';
    int rc = check_welcome(n, p, m);
    if (rc == 0) rc = read_data_endpoint(n, p, m, &data);
    if (rc == 0)
        rc = holdings_init(&held, m->welcome.n_layers, m->welcome.n_experts);
    if (rc < 0) return rc;
    memcpy(held.bits, m->welcome.holdings, holdings_bytes(&held));
    holdings_fini(&p->held);
    p->held = held;
    endpoint_format(&data, p->data, sizeof(p->data));
    keep_text(p->name, sizeof(p->name), m->welcome.name);
    keep_text(p->cpu, sizeof(p->cpu), m->welcome.cpu);
    p->threads = m->welcome.threads;
    p->resident_bytes = m->welcome.resident_bytes;
    p->welcomed = true;
    return 0;
}

/* What a node holds changes with its process, or not at all: one that is up is
 * not greeted, and welcomes that nobody asked for are passed over. */
static void on_welcome(nodes *n, node *p, const message *m) {
    if (!p->greeted || membership_state(n->machine, p->index) == NODE_UP) {
        log_debug("node %s: a welcome too many", p->control);
        return;
    }
    p->greeted = false;
    int rc = accept_welcome(n, p, m);
    if (rc < 0) {
        clean(p->why);
        log_warn("node %s is not used: %s", p->control,
                 p->why[0] != '\0' ? p->why : err_text(rc));
        membership_refused(n->machine, now_ms(), p->index, rc);
        return;
    }
    membership_welcome(n->machine, now_ms(), p->index, m->boot_id);
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
        p->batches = m.pong.batches;
        p->pairs = m.pong.pairs;
        p->queued = m.pong.queued_jobs;
        p->resident_bytes = m.pong.resident_bytes;
        if (m.pong.progress != p->progress) {
            exchange_node_works(n->config.experts, p->index);
        }
        p->progress = m.pong.progress;
        membership_pong(n->machine, now_ms(), p->index, m.boot_id,
                        m.pong.progress, m.pong.queued_jobs);
    } else if (m.kind == MESSAGE_ERROR) {
        keep_text(p->why, sizeof(p->why), m.error.text);
        log_warn("node %s refuses us: %s", p->control, p->why);
        membership_refused(n->machine, now_ms(), p->index, m.error.code);
    } else {
        log_warn("node %s: unexpected message %s", p->control,
                 message_kind_name(m.kind));
    }
    pump(n);
}

/* ---- the machine ---- */

static void on_timer(uv_timer_t *timer) {
    pump(timer->data);
}

static void node_up(nodes *n, uint32_t i) {
    const node *p = &n->all[i];
    log_info("node %s (%s) is up: %llu experts, %.1f MB, %u threads, %s",
             p->name, p->control, (unsigned long long)holdings_count(&p->held),
             (double)p->resident_bytes / 1e6, p->threads, p->cpu);
    publish_rack(n);
}

static void node_gone(nodes *n, uint32_t i, const char *reason) {
    log_warn("node %s (%s) is gone: %s", nodes_name(n, i), n->all[i].control,
             reason);
    publish_rack(n);
}

/* Do what the machine wants, and come back when it says. */
static void pump(nodes *n) {
    if (n->closing) return;
    member_action a;
    for (;;) {
        membership_next(n->machine, now_ms(), &a);
        if (a.kind == MEMBER_WAIT) break;
        switch (a.kind) {
        case MEMBER_HELLO:
            send_hello(n, &n->all[a.node]);
            break;
        case MEMBER_PING: {
            message m = identity_message(n->config.self, MESSAGE_PING);
            send_to(&n->all[a.node], &m);
            break;
        }
        case MEMBER_UP:
            node_up(n, a.node);
            break;
        case MEMBER_GONE:
            node_gone(n, a.node, a.reason);
            break;
        case MEMBER_WAIT:
            break;
        }
    }
    check_settled(n);
    uint64_t now = now_ms();
    uint64_t wait = a.wake_ms > now ? a.wake_ms - now : 1;
    if (a.wake_ms == UINT64_MAX) wait = 1000;
    uv_timer_start(&n->timer, on_timer, wait, 0);
}

/* ---- opening and closing ---- */

static int open_node(nodes *n, uint32_t i, char *why, size_t why_size) {
    node *p = &n->all[i];
    p->owner = n;
    p->index = i;
    snprintf(p->control, sizeof(p->control), "%s", n->config.endpoints[i]);
    int rc =
        link_connect(&p->link, &n->config.links, p->control, why, why_size);
    if (rc < 0) return rc;
    return zmq_watch_open(&p->watch, n->config.loop, p->link, on_control, p);
}

int nodes_open(nodes **out, const nodes_config *c, char *why, size_t why_size) {
    *out = NULL;
    nodes *n = calloc(1, sizeof(*n));
    if (n == NULL) return -ENOMEM;
    n->config = *c;
    n->config.timing.n_nodes = c->n_nodes;
    uv_timer_init(c->loop, &n->timer);
    n->timer.data = n;

    n->all = calloc(c->n_nodes + 1, sizeof(*n->all));
    int rc = n->all == NULL ? -ENOMEM : 0;
    if (rc == 0) rc = membership_new(&n->machine, &n->config.timing);
    if (rc == 0) rc = message_arena_new(&n->arena, ARENA_BYTES);
    for (uint32_t i = 0; i < c->n_nodes && rc == 0; i++) {
        rc = open_node(n, i, why, why_size);
    }
    *out = n; /* also on failure: handles of the loop need closing */
    if (rc == 0) rc = publish_rack(n);
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
    for (uint32_t i = 0; n->all != NULL && i < n->config.n_nodes; i++) {
        zmq_watch_close(n->all[i].watch);
    }
}

void nodes_free(nodes *n) {
    if (n == NULL) return;
    for (uint32_t i = 0; n->all != NULL && i < n->config.n_nodes; i++) {
        link_close(n->all[i].link);
        holdings_fini(&n->all[i].held);
    }
    membership_free(n->machine);
    message_arena_free(n->arena);
    placement_unref(n->where);
    free(n->all);
    free(n);
}

/* ---- reports ---- */

const char *nodes_name(const nodes *n, uint32_t i) {
    const node *p = &n->all[i];
    return p->welcomed && p->name[0] != '\0' ? p->name : p->control;
}

uint64_t nodes_resident_bytes(const nodes *n) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n->config.n_nodes; i++) {
        if (membership_state(n->machine, i) == NODE_UP) {
            bytes += n->all[i].resident_bytes;
        }
    }
    return bytes;
}

uint32_t nodes_count(const nodes *n) {
    return n->config.n_nodes;
}

bool nodes_all_covered(const nodes *n) {
    uint32_t unheld = 0, single = 0;
    if (n->config.model->n_experts == 0) return true;
    placement_coverage(n->where, n->config.model->first_moe_layer, &unheld,
                       &single);
    return unheld == 0;
}

static json_t *node_json(const nodes *n, uint32_t i) {
    const node *p = &n->all[i];
    node_state state = membership_state(n->machine, i);
    dispatch_node_stats d;
    exchange_node(n->config.experts, i, &d);
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:s, s:i, "
        "s:b}",
        "name", nodes_name(n, i), "endpoint", p->control, "state",
        node_state_name(state), "why", p->why, "experts",
        (json_int_t)(p->welcomed ? holdings_count(&p->held) : 0),
        "resident_bytes", (json_int_t)p->resident_bytes, "batches",
        (json_int_t)p->batches, "pairs", (json_int_t)p->pairs, "pairs_used",
        (json_int_t)d.pairs, "latency_us", (json_int_t)d.latency_us, "threads",
        (int)p->threads, "cpu", p->cpu, "queued", (int)p->queued, "suspect",
        d.suspect);
}

int nodes_status(const nodes *n, json_t *into) {
    uint32_t unheld = 0, single = 0;
    const model_config *m = n->config.model;
    if (m->n_experts > 0) {
        placement_coverage(n->where, m->first_moe_layer, &unheld, &single);
    }
    json_t *list = json_array();
    for (uint32_t i = 0; i < n->config.n_nodes; i++) {
        json_array_append_new(list, node_json(n, i));
    }
    json_int_t experts =
        (json_int_t)(m->n_layers - m->first_moe_layer) * m->n_experts;
    int rc = json_object_set_new(into, "nodes", list);
    rc |=
        json_object_set_new(into, "epoch", json_integer((json_int_t)n->epoch));
    rc |= json_object_set_new(into, "coverage",
                              json_pack("{s:I, s:I, s:I}", "experts", experts,
                                        "unheld", (json_int_t)unheld, "single",
                                        (json_int_t)single));
    return rc == 0 ? 0 : -ENOMEM;
}
