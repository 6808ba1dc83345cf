/* nodes_quarantine.c - see nodes_quarantine.h. */
#include "coordinator/nodes_quarantine.h"

#include <errno.h>
#include <stdio.h>
#include "engine/log.h"
#include "engine/util.h"

/* ---- verdicts ---- */

/* A node is known by its place, unless somebody else has taken it since. */
static const node *who(const nodes *n, const cross_check_party *party) {
    if (party->here || party->node >= n->n_all) return NULL;
    const node *p = n->all[party->node];
    if (p == NULL) return NULL;
    uint64_t boot = membership_boot(n->machine, party->node);
    return boot == party->boot_id ? p : NULL;
}

static const char *name_of(const nodes *n, const cross_check_party *party) {
    if (party->here) return "this coordinator";
    const node *p = who(n, party);
    return p != NULL ? nodes_name(n, p->index) : "a node that is gone";
}

static void convict(nodes *n, const cross_check_verdict *v) {
    const cross_check_party *wrong = &v->parties[v->wrong];
    char reason[120];
    snprintf(reason, sizeof(reason), "differs: layer %u expert %u", v->layer,
             v->expert);
    snprintf(n->difference, sizeof(n->difference),
             "%s: node %s, from %s and %s", reason, name_of(n, wrong),
             name_of(n, &v->parties[1 - v->wrong]), name_of(n, &v->parties[2]));
    log_error("%s; it is not asked for what others hold until it is restarted",
              n->difference);
    (void)membership_condemn(n->machine, wrong->node, wrong->boot_id, reason);
}

static void report_open(nodes *n, const cross_check_verdict *v) {
    snprintf(n->difference, sizeof(n->difference),
             "differ: layer %u expert %u: nodes %s and %s; nobody could say "
             "which is right",
             v->layer, v->expert, name_of(n, &v->parties[0]),
             name_of(n, &v->parties[1]));
    log_error("%s; both are compared with others from now on", n->difference);
}

void nodes_take_verdicts(nodes *n) {
    cross_check_verdict v;
    while (exchange_verdict(n->config.experts, &v)) {
        if (v.wrong >= 0) {
            convict(n, &v);
        } else {
            report_open(n, &v);
        }
    }
}

void nodes_trust_changed(nodes *n, const node *p, const char *reason) {
    const char *name = nodes_name(n, p->index);
    if (membership_trust(n->machine, p->index, NULL, NULL) == NODE_TRUSTED) {
        log_info("node %s is out of quarantine", name);
    } else {
        log_warn("node %s is in quarantine: %s", name, reason);
    }
    nodes_changed(n);
}

/* ---- status ---- */

int nodes_add_trust(const nodes *n, const node *p, json_t *into) {
    const char *reason;
    uint64_t until_ms, now = now_ms();
    dispatch_node_stats d;
    exchange_node(n->config.experts, p->index, &d);
    uint64_t slow_s = 0;
    if (d.serial == p->serial && d.slow_us != 0) {
        slow_s = (now_us() - d.slow_us) / 1000000 + 1;
    }
    json_t *quarantine = json_null();
    if (membership_trust(n->machine, p->index, &reason, &until_ms) !=
        NODE_TRUSTED) {
        json_int_t left_s = -1;
        if (until_ms != UINT64_MAX) {
            left_s = until_ms > now ? (json_int_t)(until_ms - now) / 1000 : 0;
        }
        quarantine =
            json_pack("{s:s, s:I}", "reason", reason, "left_s", left_s);
    }
    int rc = json_object_set_new(into, "quarantine", quarantine);
    rc |= json_object_set_new(into, "slow_s", json_integer((json_int_t)slow_s));
    rc |= json_object_set_new(into, "late_us", json_integer(d.late_us));
    return rc == 0 ? 0 : -ENOMEM;
}

int nodes_add_checks(const nodes *n, json_t *into) {
    cross_check_stats s;
    exchange_checks(n->config.experts, &s);
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:s}", "every",
                  (json_int_t)s.every, "asked", (json_int_t)s.asked, "agreed",
                  (json_int_t)s.agreed, "differed", (json_int_t)s.differed,
                  "undecided", (json_int_t)s.undecided, "last", n->difference);
    return json_object_set_new(into, "cross_check", o) == 0 ? 0 : -ENOMEM;
}
