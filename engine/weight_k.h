/* weight_k.h - what the K formats share: blocks of 256 values.
 *
 * Private to weight_*.c.  Q4_K and Q5_K begin a stored block with the same
 * head: f16 scale and minimum, and for each 32 values 6 bits of scale and 6 of
 * minimum that multiply them.  Packed, these are bytes, so a head takes 20
 * bytes a row instead of 16: five cache lines for a group. */
#ifndef ENGINE_WEIGHT_K_H
#define ENGINE_WEIGHT_K_H

#include <stddef.h>
#include <stdint.h>
#include "engine/weight_block.h"
#include "engine/weight_kernels.h"

#define K_LEN 256                        /* values of a block */
#define K_ACT_BLOCKS (K_LEN / ACT_BLOCK) /* A8 blocks in it */
#define K_PANEL (2 * K_LEN)              /* columns of a panel of tiles */
#define K_SUB 16 /* columns of a sub-block, in formats that have them */

/* As stored, at the beginning of a block. */
typedef struct {
    uint16_t scale; /* f16 */
    uint16_t min;   /* f16 */
    uint8_t sub[12];
} k_head;
_Static_assert(sizeof(k_head) == 16, "16 bytes on disk");

/* Scale and minimum of 32 values as they multiply the head's. */
typedef struct {
    uint8_t scale, min; /* 0 to 63 */
} k_sub;

/* The first four pairs are the low 6 bits of bytes 0 to 3 and 4 to 7; the
 * others have 4 low bits in bytes 8 to 11 and the two high bits above the
 * first four's. */
static inline k_sub k_head_sub(const k_head *h, size_t j) {
    const uint8_t *s = h->sub;
    if (j < 4) return (k_sub){s[j] & 63, s[j + 4] & 63};
    return (k_sub){
        .scale = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6 << 4)),
        .min = (uint8_t)((s[j + 4] >> 4) | (s[j] >> 6 << 4)),
    };
}

/* Packed, for 16 rows. */
typedef struct {
    uint16_t scales[WEIGHT_GROUP]; /* f16 */
    uint16_t mins[WEIGHT_GROUP];   /* f16 */
    struct {
        uint8_t scales[WEIGHT_GROUP];
        uint8_t mins[WEIGHT_GROUP];
    } subs[K_ACT_BLOCKS];
} k_packed_head;
_Static_assert(sizeof(k_packed_head) == 320, "20 bytes a row");

/* Write row r of a packed head. */
void weight_k_pack_head(const k_head *h, size_t r, k_packed_head *out);

/* Scales, minima and both their factors of A8 block j, 0 to 7. */
void weight_k_open_head(const k_packed_head *head, size_t j, weight_block *out);

#endif
