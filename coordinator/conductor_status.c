/* conductor_status.c - the rack, as etcd and the planner see it, for the status
 * object. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "coordinator/conductor_homeless.h"
#include "coordinator/conductor_internal.h"
#include "engine/util.h"

static json_t *epoch_json(uint64_t packed) {
    return json_sprintf("%llu.%llu",
                        (unsigned long long)epoch_incarnation(packed),
                        (unsigned long long)epoch_number(packed));
}

static const char *state_of(const rack_view *view,
                            const coordinator_record *r) {
    if (rack_view_drain(view, r->name) == NULL) return "up";
    return r->drained != 0 ? "drained" : "draining";
}

static json_t *coordinators_json(const conductor *c, const rack_view *view) {
    json_t *list = json_array();
    size_t n = 0;
    const coordinator_record *all =
        view != NULL ? rack_view_coordinators(view, &n) : NULL;
    const leader_record *l = view != NULL ? rack_view_leader(view) : NULL;
    for (size_t i = 0; i < n; i++) {
        const coordinator_record *r = &all[i];
        bool leads = l != NULL && l->boot == r->boot;
        bool same_model = memcmp(r->model, c->config.self->model.bytes,
                                 sizeof(r->model)) == 0;
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:b, s:b, s:b, s:s}", "name",
                            r->name, "client", r->client, "state",
                            state_of(view, r), "leader", leads, "us",
                            r->boot == c->config.self->boot_id, "same_model",
                            r->has_model && same_model, "version", r->version));
    }
    return list;
}

static json_t *placement_json(conductor *c) {
    const planner_input *in = leader_input(c->leader, now_ms());
    if (in == NULL) return json_null();
    planner_health h;
    planner_look(in, &h);
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:b, s:s, s:I}", "units", (json_int_t)h.units,
        "unplaced", (json_int_t)h.unplaced, "single", (json_int_t)h.single,
        "moving", (json_int_t)h.moving, "survives_largest", h.survives_largest,
        "weakest", h.weakest, "lost_units", (json_int_t)h.lost_units);
}

/* What keeps the rack, or us, from going on, and what is to be done: a sentence
 * or "". */
static const char *why_frozen(const conductor *c, char *out, size_t size) {
    const rack_view *view = registry_view(c->registry);
    const char *why = leader_why(c->leader);
    out[0] = '\0';
    if (c->conflict[0] != '\0') {
        snprintf(out, size, "%s", c->conflict);
    } else if (registry_no_space(c->registry)) {
        snprintf(out, size, "etcd is out of space: run `roster recover`");
    } else if (why[0] != '\0') {
        snprintf(out, size, "%s: run `roster recover`", why);
    } else if (view != NULL && rack_view_rolled_back(view)) {
        snprintf(out, size,
                 "etcd has an older placement than this rack, or none: run "
                 "`roster recover`");
    }
    return out;
}

int conductor_status(conductor *c, json_t *into) {
    char frozen[500];
    const rack_view *view = registry_view(c->registry);
    const rack_placement *p =
        view != NULL ? conductor_placement(c, view) : NULL;
    /* The view may have been fed since the machine saw it. */
    if (conductor_show(c, view, p) < 0) return -ENOMEM;
    const epoch_record *head = p != NULL ? rack_placement_head(p) : NULL;
    uint64_t packed = p != NULL ? rack_placement_epoch(p) : 0;
    uint32_t slices = head != NULL ? head->slices : c->model->plan.max_slices;
    uint32_t replicas =
        head != NULL ? head->min_replicas : c->config.min_replicas;

    int rc = json_object_set_new(into, "etcd", registry_status(c->registry));
    const leader_record *l = view != NULL ? rack_view_leader(view) : NULL;
    rc |= json_object_set_new(into, "leader",
                              json_string(l != NULL ? l->name : ""));
    why_frozen(c, frozen, sizeof(frozen));
    rc |= json_object_set_new(into, "frozen", json_string(frozen));
    rc |= json_object_set_new(
        into, "incarnation",
        json_integer((json_int_t)epoch_incarnation(packed)));
    rc |= json_object_set_new(into, "epoch", epoch_json(packed));
    rc |= json_object_set_new(into, "slices", json_integer(slices));
    rc |= json_object_set_new(into, "min_replicas", json_integer(replicas));
    rc |= json_object_set_new(into, "coordinators", coordinators_json(c, view));
    rc |= json_object_set_new(into, "placement", placement_json(c));
    rc |= conductor_balance_status(c, into);
    rc |= json_object_set_new(into, "homeless", conductor_homeless_json(c));
    return rc == 0 ? 0 : -ENOMEM;
}
