/* unit_shelf.c - see unit_shelf.h.
 *
 * One byte of state for each unit of each cut, under one lock: 1, 2, 4 and 8
 * slices make 15 for each expert.  The bytes are read outside of the lock. */
#include "engine/unit_shelf.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/util.h"

#define STATES_OF_EXPERT (2 * MANIFEST_SEGMENTS - 1)
#define PIECE_BYTES ((size_t)1 << 20)

typedef enum { UNKNOWN, BEING_CHECKED, GOOD } unit_state;

struct unit_shelf {
    unit_shelf_config config;
    pthread_mutex_t lock; /* guards the states */
    pthread_cond_t checked;
    uint8_t states[]; /* [n_layers][n_experts][STATES_OF_EXPERT] */
};

static int read_files(void *ctx, const unit_image *u, uint64_t offset,
                      size_t bytes, void *out) {
    const unit_shelf *s = ctx;
    return unit_image_read(u, s->config.g, offset, bytes, out);
}

int unit_shelf_new(unit_shelf **out, const unit_shelf_config *c) {
    *out = NULL;
    size_t n;
    if (!size_mul(c->model->n_layers, c->model->n_experts, &n) ||
        !size_mul(n, STATES_OF_EXPERT, &n)) {
        return ERR_RANGE;
    }
    unit_shelf *s = calloc(1, sizeof(*s) + n);
    if (s == NULL) return -ENOMEM;
    s->config = *c;
    if (c->read == NULL) {
        s->config.read = read_files;
        s->config.ctx = s;
    }
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->checked, NULL);
    *out = s;
    return 0;
}

void unit_shelf_free(unit_shelf *s) {
    if (s == NULL) return;
    pthread_cond_destroy(&s->checked);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* The slices of a cut into S come after those of all coarser ones. */
static uint8_t *state_of(unit_shelf *s, const unit_image *u) {
    size_t expert = (size_t)u->layer * s->config.model->n_experts + u->expert;
    return &s->states[expert * STATES_OF_EXPERT + u->slices - 1 + u->slice];
}

static int image_of(const unit_shelf *s, unit_image *u, uint32_t layer,
                    uint32_t unit, uint32_t slices, char *why,
                    size_t why_size) {
    return unit_image_of(u, s->config.g, s->config.model, layer, unit, slices,
                         why, why_size);
}

int unit_shelf_plan(const unit_shelf *s, uint32_t layer, uint32_t unit,
                    uint32_t slices, uint64_t offset, size_t bytes, char *why,
                    size_t why_size) {
    unit_image u;
    int rc = image_of(s, &u, layer, unit, slices, why, why_size);
    if (rc < 0) return rc;
    if (offset <= u.bytes && bytes <= u.bytes - offset) return 0;
    return err_why(why, why_size, ERR_RANGE,
                   "bytes beyond the end of unit %u of layer %u, which has "
                   "%llu",
                   unit, layer, (unsigned long long)u.bytes);
}

/* ---- checking ---- */

/* *bad: the tensor at fault, if one is. */
static int check_image(const unit_shelf *s, const unit_image *u,
                       const gguf_tensor **bad) {
    unit_check *check;
    int rc = unit_check_open(&check, u, s->config.checks);
    uint8_t *piece = rc == 0 ? malloc(PIECE_BYTES) : NULL;
    if (rc == 0 && piece == NULL) rc = -ENOMEM;
    for (uint64_t at = 0; at < u->bytes && rc == 0; at += PIECE_BYTES) {
        size_t n = (size_t)size_min(PIECE_BYTES, u->bytes - at);
        rc = s->config.read(s->config.ctx, u, at, n, piece);
        if (rc == 0) unit_check_add(check, piece, n);
    }
    if (rc == 0) rc = unit_check_result(check);
    if (rc == ERR_CHECKSUM) *bad = unit_check_damaged(check)->tensor;
    free(piece);
    unit_check_close(check);
    return rc;
}

/* One at a time looks at a unit, and the others take its word if it is good. */
static int make_sure(unit_shelf *s, const unit_image *u,
                     const gguf_tensor **bad) {
    uint8_t *state = state_of(s, u);
    pthread_mutex_lock(&s->lock);
    while (*state == BEING_CHECKED)
        pthread_cond_wait(&s->checked, &s->lock);
    bool good = *state == GOOD;
    if (!good) *state = BEING_CHECKED;
    pthread_mutex_unlock(&s->lock);
    if (good) return 0;

    int rc = check_image(s, u, bad);
    pthread_mutex_lock(&s->lock);
    *state = rc == 0 ? GOOD : UNKNOWN;
    pthread_cond_broadcast(&s->checked);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int unit_shelf_read(unit_shelf *s, uint32_t layer, uint32_t unit,
                    uint32_t slices, uint64_t offset, size_t bytes, void *out,
                    char *why, size_t why_size) {
    unit_image u;
    int rc = image_of(s, &u, layer, unit, slices, why, why_size);
    if (rc < 0) return rc;
    const gguf_tensor *bad = NULL;
    rc = make_sure(s, &u, &bad);
    if (rc == 0) rc = s->config.read(s->config.ctx, &u, offset, bytes, out);
    if (rc == 0) return 0;
    const char *text =
        rc == ERR_FORMAT ? "the file was cut short" : err_text(rc);
    if (bad != NULL) {
        return err_why(
            why, why_size, rc, "tensor %s, expert %u, slice %u of %u: %s",
            gguf_quote(bad->name).text, u.expert, u.slice, slices, text);
    }
    return err_why(why, why_size, rc,
                   "layer %u, expert %u, slice %u of %u cannot be given: %s",
                   layer, u.expert, u.slice, slices, text);
}

void unit_shelf_mark(unit_shelf *s, uint32_t layer, uint32_t unit,
                     uint32_t slices, bool good) {
    unit_image u;
    if (image_of(s, &u, layer, unit, slices, NULL, 0) < 0) return;
    uint8_t *state = state_of(s, &u);
    pthread_mutex_lock(&s->lock);
    if (*state != BEING_CHECKED) *state = good ? GOOD : UNKNOWN;
    pthread_mutex_unlock(&s->lock);
}
