/* conductor_homeless.c - see conductor_homeless.h. */
#include "coordinator/conductor_homeless.h"

#include <errno.h>
#include "coordinator/nodes_held.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define LOOK_MS 1000
#define TEXT_SIZE 400
#define REPLACE_AFTER_MS 15000 /* leader.h's default */

/* false: nothing can be said yet. */
static bool look(conductor *c) {
    const planner_input *in = leader_input(c->leader, now_ms());
    const placement *where = nodes_where(c->config.nodes);
    if (in == NULL || where == NULL) return false;
    const homeless_picture p = {
        .plan = in,
        .where = where,
        .resident_bytes = nodes_resident_bytes(c->config.nodes),
        .replace_after_ms = c->config.replace_after_ms != 0
                                ? c->config.replace_after_ms
                                : REPLACE_AFTER_MS};
    int rc = homeless_look(c->homeless, now_ms(), &p);
    if (rc < 0) log_error("cannot look for lost experts: %s", err_text(rc));
    return rc == 0;
}

/* A rack that begins has all its units still to load: that is no news. */
static void tell(conductor *c) {
    const homeless *h = c->homeless;
    uint64_t lost = homeless_units(h) - homeless_of_kind(h, HOMELESS_LOADING);
    char text[TEXT_SIZE], when[64] = "nobody can tell when";
    /* For a moment it is so after each change: twice is news. */
    bool saw = c->saw_homeless;
    c->saw_homeless = lost > 0 && c->epoch != 0;
    if (c->saw_homeless != saw || saw == c->said_homeless) return;
    c->said_homeless = saw;
    if (lost == 0) {
        log_info("every expert has a live holder, or is being loaded");
        return;
    }
    double s = homeless_estimate_s(h);
    if (s >= 0) snprintf(when, sizeof(when), "about %.0f s to go", s);
    log_error("no live node holds %llu units (%s); %s; %s",
              (unsigned long long)homeless_units(h),
              homeless_text(h, text, sizeof(text)), homeless_why(h), when);
}

static void on_timer(uv_timer_t *timer) {
    conductor *c = timer->data;
    if (look(c)) tell(c);
}

int conductor_homeless_begin(conductor *c) {
    int rc = homeless_new(&c->homeless);
    if (rc == 0) uv_timer_start(&c->homeless_timer, on_timer, LOOK_MS, LOOK_MS);
    return rc;
}

json_t *conductor_homeless_json(conductor *c) {
    if (!look(c)) return json_null();
    return homeless_json(c->homeless, now_ms());
}
