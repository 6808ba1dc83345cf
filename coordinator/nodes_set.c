/* nodes_set.c - which nodes are there, when they register instead of being
 * listed.
 *
 * A node is known by its name.  One whose record names another endpoint is
 * another link, so it leaves its place and takes one anew; one whose record
 * names another process at the same endpoint is greeted at once instead of with
 * the next ping.  A record that vanished means little (etcd may have been away
 * for too long, or the node been cut off from it alone), so what the placement
 * still relies on is kept, and the pings decide; and so is what the layer under
 * way may be waiting for, which goes by the placement before. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/nodes_internal.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

/* A node that lives and could not keep its record has made it anew by then;
 * after that nobody else is taken to know more of it, or two coordinators that
 * miss a dead node would send clients to each other for ever. */
#define NEWCOMER_MS 10000

static bool is_named(const rack_placement *p, const char *name) {
    int32_t place = p != NULL ? rack_placement_node(p, name) : -1;
    return place >= 0 && rack_placement_units(p, place) > 0;
}

static bool has_work(const nodes *n, const char *name) {
    return is_named(n->assignment, name) || is_named(n->next, name);
}

static void leave(nodes *n, node *p, const char *reason) {
    log_info("node %s (%s) %s", p->listed, p->control, reason);
    nodes_remove(n, p);
}

static bool has_switched(const nodes *n) {
    return n->assignment == NULL || exchange_epoch(n->config.experts) >=
                                        rack_placement_epoch(n->assignment);
}

bool nodes_let_go(nodes *n) {
    bool left = false;
    if (!n->config.registered || !has_switched(n)) return false;
    for (uint32_t i = 0; i < n->n_all; i++) {
        node *p = n->all[i];
        if (p == NULL || p->registered || has_work(n, p->listed)) continue;
        leave(n, p, "has left");
        left = true;
    }
    return left;
}

/* ---- who is not there ---- */

/* Whom the placement gives work, without our knowing where it is: its record
 * was gone when we began.  NULL: there is no such. */
static const char *find_unknown(const nodes *n) {
    const epoch_record *head = rack_placement_head(n->assignment);
    for (uint32_t place = 0; place < head->n_nodes; place++) {
        bool known = rack_placement_units(n->assignment, (int32_t)place) == 0;
        for (uint32_t i = 0; i < n->n_all && !known; i++) {
            const node *p = n->all[i];
            known = p != NULL && strcmp(p->listed, head->nodes[place]) == 0;
        }
        if (!known) return head->nodes[place];
    }
    return NULL;
}

bool nodes_see_all(const nodes *n, char *why, size_t why_size) {
    if (!n->config.registered) return true;
    const rack_placement *newest = nodes_newest(n);
    uint64_t known = newest != NULL ? rack_placement_epoch(newest) : 0;
    if (exchange_epoch(n->config.experts) < known) {
        snprintf(why, why_size,
                 "this coordinator does not go by the newest placement yet");
        return false;
    }
    bool is_new = now_ms() < n->begun_ms + NEWCOMER_MS;
    const char *unknown =
        is_new && n->assignment != NULL ? find_unknown(n) : NULL;
    if (unknown == NULL) return true;
    snprintf(why, why_size,
             "this coordinator has not heard yet where node %s is", unknown);
    return false;
}

/* ---- what etcd says ---- */

/* What an operator wishes, registered or not. */
static void see_drains(nodes *n, const rack_view *view) {
    for (uint32_t i = 0; i < n->n_all; i++) {
        node *p = n->all[i];
        if (p != NULL) p->draining = rack_view_drain(view, p->listed) != NULL;
    }
}

/* Take over what the record says; false: it is a node of another place. */
static bool update(nodes *n, node *p, const node_record *r) {
    if (strcmp(p->control, r->control) != 0) {
        leave(n, p, "has another endpoint now");
        return false;
    }
    bool restarted = r->boot != p->record_boot;
    p->record_boot = r->boot;
    if (restarted && membership_boot(n->machine, p->index) != r->boot) {
        nodes_greet(n, p);
    }
    return true;
}

/* A record with an address that we may not use is a mistake in its node's
 * configuration: said once, and the node is there without a link. */
static int join(nodes *n, const node_record *r) {
    node *p;
    int rc = nodes_add(n, r->control, &p);
    if (rc == ERR_OVERLOADED) {
        log_warn("node %s: more than %d nodes are registered", r->name,
                 MEMBERSHIP_MAX_NODES);
        return 0;
    }
    if (rc < 0) return rc;
    snprintf(p->listed, sizeof(p->listed), "%s", r->name);
    p->registered = true;
    p->record_boot = r->boot;
    endpoint e;
    rc = endpoint_parse(&e, r->control, p->why, sizeof(p->why));
    if (rc == 0) rc = nodes_connect(n, p, p->why, sizeof(p->why));
    if (rc == 0) {
        log_info("node %s (%s) is registered", p->listed, p->control);
        return 0;
    }
    log_warn("node %s (%s) cannot be used: %s", p->listed, p->control,
             p->why[0] != '\0' ? p->why : err_text(rc));
    membership_refused(n->machine, now_ms(), p->index, rc);
    return 0;
}

/* Those who are there: who is registered still, and where.  known[i] says that
 * the view's record i has a place.  Returns whether somebody left. */
static bool see_records(nodes *n, const rack_view *view, bool *known) {
    size_t n_records;
    const node_record *records = rack_view_nodes(view, &n_records);
    bool left = false;
    for (uint32_t i = 0; i < n->n_all; i++) {
        node *p = n->all[i];
        if (p == NULL) continue;
        const node_record *r = rack_view_node(view, p->listed);
        p->registered = r != NULL;
        if (r == NULL) continue;
        bool stays = update(n, p, r);
        known[r - records] = stays;
        left |= !stays;
    }
    return left;
}

static int take_in(nodes *n, const rack_view *view, const bool *known) {
    size_t n_records;
    const node_record *records = rack_view_nodes(view, &n_records);
    for (size_t i = 0; i < n_records; i++) {
        int rc = known[i] ? 0 : join(n, &records[i]);
        if (rc < 0) return rc;
    }
    return 0;
}

int nodes_set(nodes *n, const rack_view *view, const rack_placement *p) {
    assert(n->config.registered);
    if (n->closing) return 0;
    if (n->begun_ms == 0) n->begun_ms = now_ms();
    size_t n_records;
    (void)rack_view_nodes(view, &n_records);
    bool *known = calloc(n_records + 1, sizeof(*known));
    if (known == NULL) return -ENOMEM;

    bool changed = nodes_assign(n, p);
    changed |= see_records(n, view, known);
    changed |= nodes_let_go(n);
    int rc = take_in(n, view, known);
    free(known);
    see_drains(n, view);
    /* Who joined holds nothing yet that counts: no rack for them alone. */
    if (changed) nodes_publish(n);
    nodes_pump(n);
    return rc;
}
