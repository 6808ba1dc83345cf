/* conductor_stranded.c - see conductor_stranded.h. */
#include "coordinator/conductor_stranded.h"

#include "engine/log.h"
#include "engine/util.h"

#define LOOK_MS 500
/* A process that stood still is refused until it has read etcd's news, which
 * takes a moment. */
#define PATIENCE_MS 3000

static void on_timer(uv_timer_t *timer) {
    conductor *c = timer->data;
    uint64_t now = now_ms();
    if (!nodes_all_stale(c->config.nodes)) {
        c->stale_since_ms = 0;
    } else if (c->stale_since_ms == 0) {
        c->stale_since_ms = now;
    }
    uint32_t patience_ms =
        c->config.stranded_ms != 0 ? c->config.stranded_ms : PATIENCE_MS;
    bool stranded =
        c->stale_since_ms != 0 && now - c->stale_since_ms >= patience_ms;
    if (stranded == c->stranded) return;
    c->stranded = stranded;
    conductor_tell_refusal(c);
    if (stranded) {
        log_error("%s; requests are sent to others", CONDUCTOR_STRANDED);
        c->config.on_stranded(c->config.ctx, CONDUCTOR_STRANDED);
    } else {
        log_info("nodes serve this coordinator again");
    }
}

void conductor_stranded_begin(conductor *c) {
    if (c->config.on_stranded == NULL) return;
    uv_timer_start(&c->stranded_timer, on_timer, LOOK_MS, LOOK_MS);
}
