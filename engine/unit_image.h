/* unit_image.h - a unit's stored bytes as one line of bytes: what travels from
 * process to process, and what is kept on disk.
 *
 * The image is the unit's part of gate, then of up, then of down, each row
 * after row as stored; for a slice those are rows of gate and up and columns of
 * down.  Then, if the model's experts have them, come its values of the biases
 * of gate and of up.  So it is in the order in which a store loads it.  Its key
 * is a digest of format, shape and the manifest's checksums: the same experts
 * in a file that is split or named differently, or has gate and up in one
 * tensor, have the same key.
 *
 * Plain values and pure functions over an open model; any thread. */
#ifndef ENGINE_UNIT_IMAGE_H
#define ENGINE_UNIT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/expert_store.h"
#include "engine/gguf.h"
#include "engine/manifest.h"
#include "engine/model.h"

enum {
    UNIT_GATE,
    UNIT_UP,
    UNIT_DOWN,
    UNIT_MATRICES,
    UNIT_GATE_BIAS = UNIT_MATRICES,
    UNIT_UP_BIAS,
    UNIT_IMAGE_PARTS
};

typedef struct {
    const gguf_tensor *tensor;
    size_t index;        /* of the tensor in the model */
    uint64_t slab;       /* in which the part is, as the manifest counts */
    uint64_t at, bytes;  /* in the image */
    uint64_t offset;     /* of its first row within the tensor */
    uint64_t stride;     /* from row to row there */
    uint64_t rows, cols; /* a bias is one row */
    uint64_t row_bytes;  /* less than the stride for columns */
} unit_part;

typedef struct {
    uint32_t layer, unit, expert, slice, slices;
    uint64_t bytes;
    size_t n_parts; /* UNIT_MATRICES, or UNIT_IMAGE_PARTS with biases */
    unit_part parts[UNIT_IMAGE_PARTS];
} unit_image;

/* The unit of a layer whose experts are cut into `slices`.  ERR_RANGE if the
 * model has no such unit, ERR_FORMAT and the like for tensors that do not fit;
 * with a sentence. */
int unit_image_of(unit_image *out, const gguf *g, const model_config *m,
                  uint32_t layer, uint32_t unit, uint32_t slices, char *why,
                  size_t why_size);

/* Where in the image the bytes of a span are; ERR_RANGE if they are not all in
 * it, one after the other. */
int unit_image_find(const unit_image *u, const gguf_tensor *t,
                    const expert_span *span, uint64_t *at);

/* Bytes of the image out of the model's files.  ERR_RANGE outside of it,
 * -ENOMEM, or gguf_read()'s codes. */
int unit_image_read(const unit_image *u, const gguf *g, uint64_t offset,
                    size_t bytes, void *out);

#define UNIT_KEY_BYTES 32
#define UNIT_KEY_HEX (2 * UNIT_KEY_BYTES + 1) /* with the zero byte */
typedef struct {
    uint8_t bytes[UNIT_KEY_BYTES];
} unit_key;

/* ERR_RANGE if the manifest cannot tell the model's slices apart. */
int unit_image_key(const unit_image *u, const manifest *checks, unit_key *out);
char *unit_key_hex(const unit_key *k, char out[UNIT_KEY_HEX]);

/* A running check of an image against the manifest, both borrowed until
 * _close(). */
typedef struct unit_check unit_check;
int unit_check_open(unit_check **out, const unit_image *u,
                    const manifest *checks);
void unit_check_close(unit_check *c); /* NULL is fine */
/* The image's bytes, in order, in pieces of any size. */
void unit_check_add(unit_check *c, const void *data, size_t bytes);
/* After all of them: 0, ERR_CHECKSUM, or ERR_RANGE if they were more or fewer.
 */
int unit_check_result(const unit_check *c);
/* The first part that does not add up; NULL: all do. */
const unit_part *unit_check_damaged(const unit_check *c);

#endif
