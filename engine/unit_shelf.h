/* unit_shelf.h - units of a model to be given to others: none is given before
 * all of it was checked against the manifest.
 *
 * A unit is checked when its first bytes are asked for, once; who asks
 * meanwhile waits.  What was checked can rot later: whoever receives it checks
 * it as well.  Any thread. */
#ifndef ENGINE_UNIT_SHELF_H
#define ENGINE_UNIT_SHELF_H

#include "engine/unit_image.h"

typedef struct {
    const gguf *g; /* borrowed, like model and checks, until free */
    const model_config *model;
    const manifest *checks;
    /* Where the bytes of an image are; NULL: the files of `g`. */
    int (*read)(void *ctx, const unit_image *u, uint64_t offset, size_t bytes,
                void *out);
    void *ctx;
} unit_shelf_config;

typedef struct unit_shelf unit_shelf;
int unit_shelf_new(unit_shelf **out, const unit_shelf_config *c);
void unit_shelf_free(unit_shelf *s); /* NULL is fine */

/* Are these bytes of an image of this model?  ERR_RANGE with a sentence. */
int unit_shelf_plan(const unit_shelf *s, uint32_t layer, uint32_t unit,
                    uint32_t slices, uint64_t offset, size_t bytes, char *why,
                    size_t why_size);

/* ERR_CHECKSUM for a unit that is damaged, which is looked at again the next
 * time; or what `read` says; with a sentence. */
int unit_shelf_read(unit_shelf *s, uint32_t layer, uint32_t unit,
                    uint32_t slices, uint64_t offset, size_t bytes, void *out,
                    char *why, size_t why_size);

/* Somebody else has checked this unit, or it is not there any more. */
void unit_shelf_mark(unit_shelf *s, uint32_t layer, uint32_t unit,
                     uint32_t slices, bool good);

#endif
