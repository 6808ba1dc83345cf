/* cross_check.h - are the bits of replicas the same?  A plain state machine.
 *
 * Of the requests that nodes answer, about one in `every` is a sample: some
 * rows of one unit, what went in and what came out.  A second holder is asked
 * for the same, at a quiet moment, and the answers are compared bit by bit.  If
 * they differ, a third party decides: another holder, or the coordinator from
 * its own file.  Without one the two stay under suspicion: their answers are
 * sampled more often, preferably against others, until it shows which is wrong.
 *
 * One sample is under way at a time and its memory is bounded.  No step waits
 * for it: an answer that does not come is forgotten.  Events and the time go
 * in, actions come out. */
#ifndef COORDINATOR_CROSS_CHECK_H
#define COORDINATOR_CROSS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CROSS_CHECK_ROWS 8    /* of one sample at most */
#define CROSS_CHECK_OTHERS 16 /* holders that are considered */
/* Marks requests as ours, among those of dispatch. */
#define CROSS_CHECK_ID (1ull << 63)

typedef struct {
    bool here; /* the coordinator itself */
    uint32_t node;
    uint64_t boot_id;
} cross_check_party;

/* A request that was answered; all borrowed during the call. */
typedef struct {
    uint32_t layer, slices, unit, n_rows;
    size_t in_bytes; /* of a row */
    const void *const *in;
    const float *const *out; /* [n_rows][width] */
    cross_check_party from;
    const cross_check_party *others; /* that hold it too, and answer */
    uint32_t n_others;
    bool here; /* it could be computed here */
} cross_check_sample;

typedef struct cross_check cross_check;
/* Rows of at most in_bytes_most bytes, and of `width` floats. */
int cross_check_new(cross_check **out, uint32_t every, size_t in_bytes_most,
                    uint32_t width);
void cross_check_free(cross_check *c); /* NULL is fine */

/* A request was answered by this process: is it to be a sample? */
bool cross_check_due(cross_check *c, uint64_t now_us, uint64_t boot_id);
/* A sample that nobody else could be asked about is no sample. */
void cross_check_begin(cross_check *c, uint64_t now_us,
                       const cross_check_sample *s);

typedef enum { CROSS_CHECK_NOTHING, CROSS_CHECK_ASK } cross_check_kind;
typedef struct {
    cross_check_kind kind;
    cross_check_party whom; /* if it is here: cross_check_rows() at once */
    uint64_t request_id;
    uint32_t layer, slices, unit, n_rows;
    size_t in_bytes;
    const void *in; /* [n_rows][in_bytes], until the next call */
} cross_check_action;
void cross_check_next(cross_check *c, uint64_t now_us, cross_check_action *a);

/* What is under way, for checking an answer before its rows are looked at;
 * false: nothing was asked of it under this id. */
bool cross_check_expects(const cross_check *c, uint32_t node,
                         uint64_t request_id, uint32_t *layer,
                         uint32_t *n_rows);
/* The answer: [n_rows][width]; or NULL, there will be none. */
void cross_check_rows(cross_check *c, uint64_t now_us, uint64_t request_id,
                      const float *rows);

/* Two answers were different.  parties[wrong] is who differs from the two
 * others (parties[2] was the third); -1: nobody knows, and the first two are
 * meant. */
typedef struct {
    uint32_t layer, expert;
    int wrong;
    cross_check_party parties[3];
} cross_check_verdict;
/* The next one, once. */
bool cross_check_take_verdict(cross_check *c, cross_check_verdict *out);

typedef struct {
    uint32_t every;
    uint64_t asked, agreed, differed, undecided;
} cross_check_stats;
void cross_check_look(const cross_check *c, cross_check_stats *out);

#endif
