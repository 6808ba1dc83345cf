/* membership.c - one small state machine for each node.
 *
 * What we believe about a node (its state and, each time it comes up, a new
 * generation) is kept apart from what the caller was told.  Events only change
 * the belief; membership_next() compares the two and reports the difference. So
 * a node that went and came back between two calls is reported as gone, then
 * up, and nothing has to be queued.
 *
 * A node that is down is greeted, because it may be a new process by now.  The
 * exception is one whose pool stands still: its loop would answer the greeting
 * and it would come up only to go down again, so it is pinged until its
 * progress moves or its queue is empty. */
#include "coordinator/membership.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include "engine/err.h"

typedef struct {
    bool used; /* somebody has this place */
    node_state state;
    bool stuck;           /* DOWN because its pool stands still */
    uint64_t generation;  /* rises each time it comes up */
    uint64_t boot_id;     /* of the last welcome */
    uint64_t hello_ms;    /* next greeting */
    uint64_t ping_ms;     /* next ping */
    uint64_t heard_ms;    /* last sign of life of this boot id */
    uint32_t unanswered;  /* pings since then */
    uint64_t progress;    /* of its pool, from the last pong */
    uint64_t progress_ms; /* when it last moved or had nothing to do */
    int refusal;          /* 0: it did not refuse */
    const char *reason;   /* why it is not up */
    bool told_up;         /* the caller was told that it is up ... */
    uint64_t told;        /* ... in this generation */
    /* quarantine */
    node_trust trust, told_trust;
    uint64_t crashed_ms[MEMBERSHIP_MAX_CRASHES]; /* the last times, in a ring */
    uint32_t n_crashed;
    uint64_t free_ms;     /* quarantine ends, or ended, then */
    uint32_t sentence_ms; /* of the last one; 0: there was none lately */
    char guilt[120];
} member;

struct membership {
    membership_config config;
    member *nodes;
    uint32_t n_nodes, room; /* places up to the last one in use; allocated */
};

int membership_new(membership **out, const membership_config *config) {
    *out = NULL;
    if (config->n_nodes > PLACEMENT_MAX_NODES) return ERR_RANGE;
    if (config->hello_ms == 0 || config->ping_ms == 0) return ERR_RANGE;
    if (config->silent_ms <= config->ping_ms) return ERR_RANGE;
    if (config->stuck_ms == 0 || config->refused_ms == 0) return ERR_RANGE;
    if (config->crashes > MEMBERSHIP_MAX_CRASHES) return ERR_RANGE;

    membership *m = calloc(1, sizeof(*m));
    if (m == NULL) return -ENOMEM;
    m->config = *config;
    for (uint32_t i = 0; i < config->n_nodes; i++) {
        uint32_t node;
        if (membership_add(m, &node) < 0) {
            membership_free(m);
            return -ENOMEM;
        }
    }
    *out = m;
    return 0;
}

void membership_free(membership *m) {
    if (m == NULL) return;
    free(m->nodes);
    free(m);
}

static int make_room(membership *m) {
    if (m->n_nodes < m->room) return 0;
    uint32_t room = m->room > 0 ? 2 * m->room : 8;
    member *more = realloc(m->nodes, room * sizeof(*more));
    if (more == NULL) return -ENOMEM;
    m->nodes = more;
    m->room = room;
    return 0;
}

int membership_add(membership *m, uint32_t *node) {
    uint32_t i = 0;
    while (i < m->n_nodes && m->nodes[i].used)
        i++;
    if (i == m->n_nodes) {
        if (i == MEMBERSHIP_MAX_NODES) return ERR_OVERLOADED;
        int rc = make_room(m);
        if (rc < 0) return rc;
        m->n_nodes++;
    }
    m->nodes[i] = (member){.used = true, .reason = "not greeted yet"};
    *node = i;
    return 0;
}

static member *member_at(const membership *m, uint32_t node) {
    assert(node < m->n_nodes && m->nodes[node].used);
    return &m->nodes[node];
}

void membership_remove(membership *m, uint32_t node) {
    member_at(m, node)->used = false;
    while (m->n_nodes > 0 && !m->nodes[m->n_nodes - 1].used)
        m->n_nodes--;
}

static void hear(member *n, uint64_t now_ms) {
    n->heard_ms = now_ms;
    n->unanswered = 0;
}

static void come_up(membership *m, member *n, uint64_t now_ms) {
    n->state = NODE_UP;
    n->stuck = false;
    n->generation++;
    n->refusal = 0;
    n->reason = "up";
    hear(n, now_ms);
    n->progress_ms = now_ms;
    n->ping_ms = now_ms + m->config.ping_ms;
}

/* ---- quarantine ---- */

/* Twice as long as the last time, unless that was long ago. */
static void sentence(const membership_config *c, member *n, uint64_t now_ms) {
    bool again =
        n->sentence_ms > 0 && now_ms < n->free_ms + c->quarantine_most_ms;
    uint64_t ms = again ? 2ull * n->sentence_ms : c->quarantine_ms;
    if (ms > c->quarantine_most_ms) ms = c->quarantine_most_ms;
    n->sentence_ms = (uint32_t)ms;
    n->free_ms = now_ms + ms;
    n->trust = NODE_LAST;
    snprintf(n->guilt, sizeof(n->guilt), "it went down %u times within %u s",
             c->crashes, c->crash_window_ms / 1000);
}

/* It has crashed, or looks like that. */
static void count_crash(const membership_config *c, member *n,
                        uint64_t now_ms) {
    if (c->crashes == 0) return;
    n->crashed_ms[n->n_crashed++ % c->crashes] = now_ms;
    if (n->n_crashed < c->crashes) return;
    uint64_t oldest_ms = n->crashed_ms[n->n_crashed % c->crashes];
    if (now_ms - oldest_ms > c->crash_window_ms) return;
    if (n->trust == NODE_WRONG) return;
    n->n_crashed = 0;
    sentence(c, n, now_ms);
}

static void check_quarantine(member *n, uint64_t now_ms, member_action *out) {
    if (n->trust != NODE_LAST) return;
    if (now_ms >= n->free_ms) n->trust = NODE_TRUSTED;
    if (n->trust == NODE_LAST && n->free_ms < out->wake_ms) {
        out->wake_ms = n->free_ms;
    }
}

int membership_condemn(membership *m, uint32_t node, uint64_t boot_id,
                       const char *reason) {
    if (node >= m->n_nodes || !m->nodes[node].used) return ERR_NOT_HERE;
    member *n = &m->nodes[node];
    if (n->boot_id != boot_id) return ERR_NOT_HERE;
    n->trust = NODE_WRONG;
    snprintf(n->guilt, sizeof(n->guilt), "%s", reason);
    return 0;
}

node_trust membership_trust(const membership *m, uint32_t node,
                            const char **reason, uint64_t *until_ms) {
    const member *n = member_at(m, node);
    if (reason != NULL) *reason = n->trust == NODE_TRUSTED ? "" : n->guilt;
    if (until_ms != NULL) {
        *until_ms = n->trust == NODE_WRONG ? UINT64_MAX : n->free_ms;
    }
    return n->trust;
}

/* ---- what is believed ---- */

static void go_down(membership *m, member *n, uint64_t now_ms,
                    const char *reason) {
    count_crash(&m->config, n, now_ms);
    n->state = NODE_DOWN;
    n->reason = reason;
    n->hello_ms = now_ms;
}

/* As many as the time of silence has room for, but the last one, which may just
 * be under way. */
static uint32_t silent_pings(const membership_config *c) {
    return (c->silent_ms - 1) / c->ping_ms;
}

/* Silence is the only thing that time alone brings.  It takes pings without an
 * answer as well: when we ourselves stood still for so long, the answers lie
 * there unread, and nobody was silent. */
static void check_silence(membership *m, member *n, uint64_t now_ms) {
    bool pinged = n->state == NODE_UP || n->stuck;
    if (!pinged || now_ms < n->heard_ms + m->config.silent_ms) return;
    if (n->unanswered < silent_pings(&m->config)) return;
    n->stuck = false;
    go_down(m, n, now_ms, "no answer to pings");
}

/* Tell the caller what it does not know yet. */
static bool report(member *n, member_action *out) {
    bool up = n->state == NODE_UP;

    if (n->told_up && (!up || n->told != n->generation)) {
        n->told_up = false;
        out->kind = MEMBER_GONE;
        out->reason = up ? "it was restarted" : n->reason;
        return true;
    }
    if (!n->told_up && up) {
        n->told_up = true;
        n->told = n->generation;
        out->kind = MEMBER_UP;
        out->reason = n->reason;
        return true;
    }
    if (n->told_trust != n->trust) {
        n->told_trust = n->trust;
        out->kind = MEMBER_TRUST;
        out->reason = n->trust == NODE_TRUSTED ? "" : n->guilt;
        return true;
    }
    return false;
}

/* Greet or ping if it is time; otherwise *wake_ms comes down to that time. */
static bool speak(membership *m, member *n, uint64_t now_ms,
                  member_action *out) {
    bool ping = n->state == NODE_UP || n->stuck;
    uint64_t *due_ms = ping ? &n->ping_ms : &n->hello_ms;

    if (now_ms < *due_ms) {
        if (*due_ms < out->wake_ms) out->wake_ms = *due_ms;
        return false;
    }
    if (ping) {
        out->kind = MEMBER_PING;
        n->unanswered++;
        *due_ms = now_ms + m->config.ping_ms;
    } else {
        bool refused = n->state == NODE_REFUSED;
        out->kind = MEMBER_HELLO;
        *due_ms =
            now_ms + (refused ? m->config.refused_ms : m->config.hello_ms);
    }
    out->reason = n->reason;
    return true;
}

void membership_next(membership *m, uint64_t now_ms, member_action *out) {
    *out = (member_action){
        .kind = MEMBER_WAIT, .reason = "", .wake_ms = UINT64_MAX};

    for (uint32_t i = 0; i < m->n_nodes; i++) {
        member *n = &m->nodes[i];
        if (!n->used) continue;
        out->node = i;
        check_silence(m, n, now_ms);
        check_quarantine(n, now_ms, out);
        if (report(n, out) || speak(m, n, now_ms, out)) return;

        bool pinged = n->state == NODE_UP || n->stuck;
        uint64_t silent_ms = n->heard_ms + m->config.silent_ms;
        if (pinged && silent_ms > now_ms && silent_ms < out->wake_ms)
            out->wake_ms = silent_ms;
    }
    out->node = 0;
}

void membership_welcome(membership *m, uint64_t now_ms, uint32_t node,
                        uint64_t boot_id) {
    member *n = member_at(m, node);
    bool same = n->boot_id == boot_id;

    if (same && (n->state == NODE_UP || n->stuck)) {
        hear(n, now_ms); /* a doubled welcome, or its loop alone */
        return;
    }
    /* One that was not seen to go has crashed all the same. */
    if (!same && n->state == NODE_UP) count_crash(&m->config, n, now_ms);
    if (!same && n->trust == NODE_WRONG) n->trust = NODE_TRUSTED;
    n->boot_id = boot_id;
    come_up(m, n, now_ms);
}

void membership_broken(membership *m, uint64_t now_ms, uint32_t node) {
    member *n = member_at(m, node);
    if (n->state != NODE_UP && !n->stuck) return;
    n->stuck = false;
    go_down(m, n, now_ms, "its connection broke");
}

void membership_refused(membership *m, uint64_t now_ms, uint32_t node,
                        int code) {
    member *n = member_at(m, node);

    n->state = NODE_REFUSED;
    n->stuck = false;
    n->refusal = code;
    n->reason = err_text(code);
    n->hello_ms = now_ms + m->config.refused_ms;
}

/* Time without progress counts only while jobs wait. */
static bool pool_moves(const membership *m, member *n, uint64_t now_ms,
                       uint64_t progress, uint32_t queued_jobs) {
    bool moved = progress != n->progress || queued_jobs == 0;

    n->progress = progress;
    if (moved) n->progress_ms = now_ms;
    return moved || now_ms - n->progress_ms < m->config.stuck_ms;
}

void membership_pong(membership *m, uint64_t now_ms, uint32_t node,
                     uint64_t boot_id, uint64_t progress,
                     uint32_t queued_jobs) {
    member *n = member_at(m, node);
    if (n->state != NODE_UP && n->state != NODE_DOWN) return;

    if (boot_id != n->boot_id) {
        n->stuck = false;
        go_down(m, n, now_ms, "it was restarted");
        n->state = NODE_GREETING;
        return;
    }
    hear(n, now_ms);

    if (n->state == NODE_UP) {
        if (pool_moves(m, n, now_ms, progress, queued_jobs)) return;
        go_down(m, n, now_ms, "its pool stands still");
        n->stuck = true;
        n->ping_ms = now_ms + m->config.ping_ms;
        return;
    }

    /* Down, and the same process speaks again.  One that stood still must show
     * that it moves. */
    bool moved = progress != n->progress || queued_jobs == 0;
    n->progress = progress;
    if (n->stuck && !moved) return;
    come_up(m, n, now_ms);
}

void membership_heard(membership *m, uint64_t now_ms, uint32_t node,
                      uint64_t boot_id) {
    member *n = member_at(m, node);
    bool pinged = n->state == NODE_UP || n->stuck;
    if (pinged && n->boot_id == boot_id) hear(n, now_ms);
}

node_state membership_state(const membership *m, uint32_t node) {
    return member_at(m, node)->state;
}

uint64_t membership_boot(const membership *m, uint32_t node) {
    return member_at(m, node)->boot_id;
}

int membership_refusal(const membership *m, uint32_t node) {
    return member_at(m, node)->refusal;
}

const char *node_state_name(node_state s) {
    static const char *const names[] = {
        [NODE_GREETING] = "greeting",
        [NODE_UP] = "up",
        [NODE_DOWN] = "down",
        [NODE_REFUSED] = "refused",
    };
    if ((unsigned)s >= sizeof(names) / sizeof(names[0])) return "unknown";
    return names[s];
}
