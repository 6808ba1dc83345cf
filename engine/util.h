/* util.h - the few helpers that every module may use: array lengths, checked
 * sizes, monotonic time, threads in the background, aligned memory. */
#ifndef ENGINE_UTIL_H
#define ENGINE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* false if the product or sum does not fit; *out is then unspecified. */
static inline bool size_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool size_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

static inline size_t size_min(size_t a, size_t b) {
    return a < b ? a : b;
}
static inline size_t size_max(size_t a, size_t b) {
    return a > b ? a : b;
}
static inline size_t round_up(size_t n, size_t unit) {
    return (n + unit - 1) / unit * unit;
}

/* CLOCK_MONOTONIC; the decision code never calls these, it is given the time.
 */
uint64_t now_us(void);
uint64_t now_ms(void);

/* The calling thread's name, and from now on it gives way to threads that
 * compute: for what is loaded, fetched or written beside the answers. */
void thread_in_background(const char *name);

/* 64-byte aligned, zeroed; NULL if there is no memory.  Large blocks ask for
 * huge pages.  Release with aligned_release(). */
void *aligned_alloc_zero(size_t bytes);
void aligned_release(void *p);

/* Fill with random bytes from the kernel; aborts only if the kernel has none.
 */
void random_bytes(void *out, size_t n);

/* A number that no other process has; never 0, which means none. */
uint64_t random_boot_id(void);

/* Bytes of the UTF-8 character that begins at s[0]; 0 if the `n` bytes are the
 * begin of one, -1 if s[0] can begin none.  n > 0. */
int utf8_length(const char *s, size_t n);

/* Put '?' in the place of control characters (in UTF-8), in place: what a peer
 * or a file says must not write lines of its own, or move a terminal's cursor.
 */
void make_printable(char *text);

/* Occupy the standard streams that are closed with what can be neither read nor
 * written, so that no file or socket of ours is taken for one.  To be called
 * first in main(). */
void standard_streams_keep(void);

#endif
