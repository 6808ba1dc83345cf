/* weight_q0.h - what the formats share whose blocks are small: one head, and
 * values of a fixed number of bits.
 *
 * Private to weight_*.c.  Packed, a group is all its heads, then all its
 * values, so that the values' 64-byte chunks are aligned.  A head holds 16
 * rows' scales and what else multiplies 32 columns (256 in IQ4_XS); each 32
 * columns' values are the format's number of chunks of 16 rows x 4 bytes. */
#ifndef ENGINE_WEIGHT_Q0_H
#define ENGINE_WEIGHT_Q0_H

#include <stddef.h>
#include <stdint.h>
#include "engine/weight_block.h"
#include "engine/weight_kernels.h"

#define Q0_LEN 32
#define Q0_CHUNK 64
#define Q0_PANEL 512 /* columns of a panel of tiles */
#define Q0_SUBS 8    /* sub-scales, each of 32 columns, of a head with them */

/* Packed heads, each item being of 16 rows. */
typedef enum {
    Q0_F16,      /* f16 scales */
    Q0_F16_MIN,  /* f16 scales, f16 minima */
    Q0_F16_SUBS, /* f16 scales, Q0_SUBS times int8 sub-scales: 256 columns */
    Q0_E8M0,     /* scales that are powers of two, a byte each */
} q0_head;

/* Where the second item begins. */
#define Q0_SECOND (WEIGHT_GROUP * sizeof(uint16_t))

typedef struct {
    q0_head head;
    size_t chunks; /* of 32 columns */
} q0_layout;

static inline size_t q0_head_bytes(q0_head head) {
    if (head == Q0_F16) return Q0_SECOND;
    if (head == Q0_F16_MIN) return 2 * Q0_SECOND;
    if (head == Q0_F16_SUBS) return Q0_SECOND + Q0_SUBS * WEIGHT_GROUP;
    return WEIGHT_GROUP;
}
static inline size_t q0_head_cols(q0_head head) {
    return head == Q0_F16_SUBS ? Q0_SUBS * Q0_LEN : Q0_LEN;
}

static inline size_t q0_values_offset(const q0_layout *l, size_t cols) {
    size_t heads = cols / q0_head_cols(l->head) * q0_head_bytes(l->head);
    return (heads + Q0_CHUNK - 1) / Q0_CHUNK * Q0_CHUNK;
}
static inline size_t q0_group_bytes(const q0_layout *l, size_t cols) {
    return q0_values_offset(l, cols) + cols / Q0_LEN * l->chunks * Q0_CHUNK;
}

/* The head of column `col` in a group, and its 32 columns' values. */
static inline const uint8_t *q0_head_at(const q0_layout *l,
                                        const uint8_t *group, size_t col) {
    return group + col / q0_head_cols(l->head) * q0_head_bytes(l->head);
}
static inline const uint8_t *q0_values_at(const q0_layout *l, size_t cols,
                                          const uint8_t *group, size_t col) {
    return group + q0_values_offset(l, cols) +
           col / Q0_LEN * l->chunks * Q0_CHUNK;
}
/* Which of its head's sub-scales is column `col`'s. */
static inline size_t q0_sub(size_t col) {
    return col / Q0_LEN % Q0_SUBS;
}

/* 32 values of a stored row: scale * value, less the minimum if there is one.
 */
typedef struct {
    float scale, min;
    int8_t values[Q0_LEN];
} q0_part;

/* A format as it is stored, and how that is packed. */
typedef struct {
    const q0_layout *layout;
    size_t block_bytes; /* of q0_head_cols() values */
    /* Part j, 32 values, of a stored block. */
    void (*read)(const uint8_t *block, size_t j, q0_part *out);
    /* Write row r of a packed head and its values. */
    void (*pack)(const uint8_t *block, size_t r, uint8_t *head,
                 uint8_t *values);
} q0_stored;

/* The dequantize() and pack() of weight.h. */
void weight_q0_dequantize(const q0_stored *s, size_t n, const void *stored,
                          float *out);
void weight_q0_pack(const q0_stored *s, size_t cols,
                    const void *const rows[WEIGHT_GROUP], void *out);

/* Write an f16, row r's, of an item of a packed head. */
void weight_q0_pack_f16(uint16_t value, size_t r, uint8_t *item);

/* The factors of the 32 columns from `col` on; those that the format has not
 * are 1, a minimum 0. */
void weight_q0_open_head(const q0_layout *l, const uint8_t *group, size_t col,
                         weight_block *out);

/* 2^(e - 128), for any e: the scale byte of MXFP4, whose values are doubled. */
float weight_e8m0_half(uint8_t e);

/* A format's group_bytes(), from its `id`_layout. */
#define Q0_GROUP_BYTES(id)                                                     \
    static inline size_t id##_group_bytes(size_t cols) {                       \
        return q0_group_bytes(&id##_layout, cols);                             \
    }

/* The end of a format's file, with its read_part(), pack_block() and, for the
 * packed values of 32 columns, open_values(). */
#define Q0_FORMAT(id, n_len, n_bytes, minimum)                                 \
    static const q0_stored stored_as = {                                       \
        .layout = &id##_layout,                                                \
        .block_bytes = n_bytes,                                                \
        .read = read_part,                                                     \
        .pack = pack_block,                                                    \
    };                                                                         \
    static void dequantize(size_t n, const void *stored, float *out) {         \
        weight_q0_dequantize(&stored_as, n, stored, out);                      \
    }                                                                          \
    static void pack(size_t cols, const void *const rows[WEIGHT_GROUP],        \
                     void *out) {                                              \
        weight_q0_pack(&stored_as, cols, rows, out);                           \
    }                                                                          \
    static void open_block(size_t cols, const uint8_t *group, size_t at,       \
                           weight_block *out) {                                \
        weight_q0_open_head(&id##_layout, group, at, out);                     \
        open_values(q0_values_at(&id##_layout, cols, group, at), out);         \
    }                                                                          \
    WEIGHT_BLOCK_FORMAT(id, n_len, n_bytes, minimum)

#endif
