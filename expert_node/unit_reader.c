/* unit_reader.c - see unit_reader.h. */
#include "expert_node/unit_reader.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include "engine/err.h"

typedef struct {
    uint32_t layer, unit, slices;
    fetch_unit *bytes; /* NULL: a free place */
} begun;

struct unit_reader {
    unit_reader_config config;
    pthread_mutex_t lock; /* guards `ahead` */
    begun ahead[UNIT_READER_AHEAD];

    /* The loading thread's: what is being loaded. */
    unit_image image;
    fetch_unit *bytes;
};

int unit_reader_new(unit_reader **out, const unit_reader_config *c) {
    unit_reader *r = calloc(1, sizeof(*r));
    *out = r;
    if (r == NULL) return -ENOMEM;
    r->config = *c;
    pthread_mutex_init(&r->lock, NULL);
    return 0;
}

void unit_reader_free(unit_reader *r) {
    if (r == NULL) return;
    assert(r->bytes == NULL);
    for (size_t i = 0; i < UNIT_READER_AHEAD; i++) {
        if (r->ahead[i].bytes != NULL)
            fetch_unit_end(r->ahead[i].bytes, ERR_CANCELLED);
    }
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* ---- ahead ---- */

static int image_of(const unit_reader *r, unit_image *out, uint32_t layer,
                    uint32_t unit, uint32_t slices, char *why,
                    size_t why_size) {
    return unit_image_of(out, r->config.g, r->config.model, layer, unit, slices,
                         why, why_size);
}

int unit_reader_key(const unit_reader *r, uint32_t layer, uint32_t unit,
                    uint32_t slices, unit_key *key, uint64_t *bytes) {
    unit_image u;
    int rc = image_of(r, &u, layer, unit, slices, NULL, 0);
    if (rc < 0) return rc;
    *bytes = u.bytes;
    return unit_image_key(&u, r->config.checks, key);
}

static int begin(unit_reader *r, const unit_image *u,
                 const char *const *holders, size_t n_holders,
                 fetch_unit **out) {
    fetch_order o = {.image = *u,
                     .cache = r->config.cache,
                     .holders = holders,
                     .n_holders = n_holders};
    int rc = unit_image_key(u, r->config.checks, &o.key);
    return rc < 0 ? rc : fetch_unit_begin(r->config.fetch, &o, out);
}

/* Under the lock: its place, or a free one; NULL: neither. */
static begun *find(unit_reader *r, uint32_t layer, uint32_t unit) {
    begun *place = NULL;
    for (size_t i = 0; i < UNIT_READER_AHEAD; i++) {
        begun *b = &r->ahead[i];
        if (b->bytes == NULL) {
            if (place == NULL) place = b;
        } else if (b->layer == layer && b->unit == unit) {
            return b;
        }
    }
    return place;
}

void unit_reader_ahead(unit_reader *r, uint32_t layer, uint32_t unit,
                       uint32_t slices, const char *const *holders,
                       size_t n_holders) {
    unit_image u;
    if (image_of(r, &u, layer, unit, slices, NULL, 0) < 0) return;
    pthread_mutex_lock(&r->lock);
    begun *b = find(r, layer, unit);
    fetch_unit *bytes;
    if (b != NULL && b->bytes == NULL &&
        begin(r, &u, holders, n_holders, &bytes) == 0) {
        *b = (begun){layer, unit, slices, bytes};
    }
    pthread_mutex_unlock(&r->lock);
}

/* What was begun of it, which is the caller's now; NULL: nothing. */
static fetch_unit *take(unit_reader *r, uint32_t layer, uint32_t unit,
                        uint32_t slices) {
    fetch_unit *bytes = NULL;
    pthread_mutex_lock(&r->lock);
    begun *b = find(r, layer, unit);
    if (b != NULL && b->bytes != NULL) {
        bytes = b->bytes;
        b->bytes = NULL;
        if (b->slices != slices) { /* of an earlier cut */
            fetch_unit_end(bytes, ERR_CANCELLED);
            bytes = NULL;
        }
    }
    pthread_mutex_unlock(&r->lock);
    return bytes;
}

void unit_reader_forget(unit_reader *r, uint32_t layer, uint32_t unit) {
    pthread_mutex_lock(&r->lock);
    begun *b = find(r, layer, unit);
    if (b != NULL && b->bytes != NULL) {
        fetch_unit_end(b->bytes, ERR_CANCELLED);
        b->bytes = NULL;
    }
    pthread_mutex_unlock(&r->lock);
}

/* ---- loading ---- */

int unit_reader_read(void *ctx, const gguf_tensor *t, const expert_span *span,
                     void *out, char *why, size_t why_size) {
    unit_reader *r = ctx;
    uint64_t at;
    assert(r->bytes != NULL); /* only unit_reader_load() loads */
    int rc = unit_image_find(&r->image, t, span, &at);
    if (rc < 0) {
        return err_why(why, why_size, rc, "bytes that no unit has");
    }
    return fetch_unit_read(r->bytes, at, span->bytes * span->count, out, why,
                           why_size);
}

/* Once; *from_disk: some of it came out of the cache. */
static int load(unit_reader *r, expert_store *store, uint32_t layer,
                uint32_t unit, bool *from_disk, char *why, size_t why_size) {
    uint32_t slices = expert_store_slices(store, layer);
    *from_disk = false;
    int rc = image_of(r, &r->image, layer, unit, slices, why, why_size);
    if (rc < 0) return rc;
    r->bytes = take(r, layer, unit, slices);
    if (r->bytes == NULL) {
        rc = begin(r, &r->image, NULL, 0, &r->bytes);
        if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    }
    rc = expert_store_load(store, layer, unit, why, why_size);
    *from_disk = fetch_unit_end(r->bytes, rc).from_disk;
    r->bytes = NULL;
    return rc;
}

int unit_reader_load(unit_reader *r, expert_store *store, uint32_t layer,
                     uint32_t unit, char *why, size_t why_size) {
    bool from_disk;
    if (expert_store_slices(store, layer) == 0 ||
        expert_store_get(store, layer, unit) != NULL) {
        unit_reader_forget(r, layer, unit);
        return expert_store_load(store, layer, unit, why, why_size);
    }
    int rc = load(r, store, layer, unit, &from_disk, why, why_size);
    if (rc != ERR_CHECKSUM || !from_disk) return rc;
    return load(r, store, layer, unit, &from_disk, why, why_size);
}
