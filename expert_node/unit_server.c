/* unit_server.c - see unit_server.h.
 *
 * A node answers batches while it gives units away, so it reads fewer pieces at
 * once than a coordinator does. */
#include "expert_node/unit_server.h"

#include <errno.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/unit_shelf.h"

#define PIECES_MOST 16

struct unit_server {
    bulk_server *bulk;
    unit_shelf *shelf; /* NULL: nothing to give */
    unit_cache *cache; /* NULL: from the file */
    const manifest *checks;
};

static int plan(void *ctx, const message *asked, size_t *bytes, char *why,
                size_t why_size) {
    const unit_server *s = ctx;
    if (asked->kind != MESSAGE_FETCH_UNIT || s->shelf == NULL) {
        return err_why(why, why_size, ERR_NOT_HERE,
                       "this node has no %s to give",
                       s->shelf == NULL ? "weights" : "files");
    }
    *bytes = asked->fetch_unit.bytes;
    return unit_shelf_plan(s->shelf, asked->fetch_unit.layer,
                           asked->fetch_unit.unit, asked->fetch_unit.slices,
                           asked->fetch_unit.offset, *bytes, why, why_size);
}

/* In a thread of libuv's. */
static int read_asked(void *ctx, const message *asked, void *out, char *why,
                      size_t why_size) {
    const unit_server *s = ctx;
    return unit_shelf_read(s->shelf, asked->fetch_unit.layer,
                           asked->fetch_unit.unit, asked->fetch_unit.slices,
                           asked->fetch_unit.offset, asked->fetch_unit.bytes,
                           out, why, why_size);
}

/* The shelf's source, if there is no file. */
static int read_cached(void *ctx, const unit_image *u, uint64_t offset,
                       size_t bytes, void *out) {
    const unit_server *s = ctx;
    unit_key key;
    int rc = unit_image_key(u, s->checks, &key);
    if (rc < 0) return rc;
    return unit_cache_read(s->cache, &key, u->bytes, offset, bytes, out);
}

int unit_server_open(unit_server **out, const unit_server_config *c, char *why,
                     size_t why_size) {
    unit_server *s = calloc(1, sizeof(*s));
    *out = s;
    if (s == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    const bulk_server_config b = {
        .loop = c->loop,
        .cluster = c->cluster,
        .boot_id = c->boot_id,
        .source = {NULL, plan, read_asked, s},
        .links = c->links,
        .listen = c->listen,
        .most = PIECES_MOST,
    };
    return bulk_server_open(&s->bulk, &b, why, why_size);
}

int unit_server_serve(unit_server *s, const shard *held, unit_cache *cache) {
    unit_shelf_config c = {
        .g = held->g, .model = &held->model, .checks = held->checks};
    s->cache = cache;
    s->checks = held->checks;
    if (held->reader != NULL) {
        c.read = read_cached;
        c.ctx = s;
    }
    int rc = held->reader == NULL || cache != NULL
                 ? unit_shelf_new(&s->shelf, &c)
                 : 0;
    if (rc == 0) bulk_server_serve(s->bulk, held->print.bytes);
    return rc;
}

void unit_server_mark(unit_server *s, uint32_t layer, uint32_t unit,
                      uint32_t slices) {
    if (s->shelf != NULL) unit_shelf_mark(s->shelf, layer, unit, slices, true);
}

const char *unit_server_endpoint(const unit_server *s) {
    return bulk_server_endpoint(s->bulk);
}

bulk_server_stats unit_server_look(const unit_server *s) {
    return bulk_server_look(s->bulk);
}

void unit_server_close(unit_server *s, void (*on_idle)(void *ctx), void *ctx) {
    bulk_server_close(s->bulk);
    bulk_server_on_idle(s->bulk, on_idle, ctx);
}

void unit_server_free(unit_server *s) {
    if (s == NULL) return;
    bulk_server_free(s->bulk);
    unit_shelf_free(s->shelf);
    free(s);
}
