/* cross_check.c - see cross_check.h.
 *
 *   idle -> second to be asked -> asked -> (same) idle
 *                                   |
 *                                   v (not the same)
 *                        third to be asked -> asked -> verdict, idle */
#include "coordinator/cross_check.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define ANSWER_US 2000000 /* then no answer is expected any more */
/* While two are under suspicion: a sample of theirs so often, so many times. */
#define SUSPECT_US 50000
#define SUSPECT_SAMPLES 400

typedef enum {
    STATE_IDLE,
    STATE_TO_ASK,
    STATE_ASKED,
} check_state;

struct cross_check {
    uint32_t every, width;
    size_t in_bytes_most;
    uint64_t countdown; /* answered requests until the next sample */
    cross_check_stats stats;

    check_state state;
    uint32_t layer, slices, unit, n_rows;
    size_t in_bytes;
    uint8_t *in; /* [CROSS_CHECK_ROWS][in_bytes_most] */
    float *out;  /* [2][CROSS_CHECK_ROWS][width] of the first two */
    cross_check_party parties[3];
    uint32_t n_answers; /* 1: a second one is wanted, 2: a third */
    cross_check_party others[CROSS_CHECK_OTHERS];
    uint32_t n_others;
    bool here;
    uint64_t request_id, asked_us;

    uint64_t suspects[2], suspect_next_us;
    uint32_t suspect_samples; /* left */

    bool decided; /* a verdict waits to be taken */
    cross_check_verdict verdict;
};

int cross_check_new(cross_check **out, uint32_t every, size_t in_bytes_most,
                    uint32_t width) {
    *out = NULL;
    if (width == 0 || in_bytes_most == 0) return ERR_RANGE;
    cross_check *c = calloc(1, sizeof(*c));
    if (c == NULL) return -ENOMEM;
    c->every = every;
    c->countdown = every;
    c->width = width;
    c->in_bytes_most = in_bytes_most;
    c->in = calloc(CROSS_CHECK_ROWS, in_bytes_most);
    c->out = calloc(2 * CROSS_CHECK_ROWS, width * sizeof(float));
    if (c->in == NULL || c->out == NULL) {
        cross_check_free(c);
        return -ENOMEM;
    }
    *out = c;
    return 0;
}

void cross_check_free(cross_check *c) {
    if (c == NULL) return;
    free(c->in);
    free(c->out);
    free(c);
}

/* ---- samples ---- */

static bool is_suspect(const cross_check *c, uint64_t boot_id) {
    return c->suspect_samples > 0 &&
           (boot_id == c->suspects[0] || boot_id == c->suspects[1]);
}

bool cross_check_due(cross_check *c, uint64_t now_us, uint64_t boot_id) {
    if (c->every == 0) return false;
    if (c->countdown > 0) c->countdown--;
    if (c->state != STATE_IDLE || c->decided) return false;
    if (c->countdown == 0) return true;
    return is_suspect(c, boot_id) && now_us >= c->suspect_next_us;
}

/* For a suspect, those first who are none themselves. */
static void keep_others(cross_check *c, const cross_check_sample *s) {
    c->n_others = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < s->n_others; i++) {
            bool suspect = is_suspect(c, s->others[i].boot_id);
            if (c->n_others == CROSS_CHECK_OTHERS) return;
            if (suspect == (pass == 1)) c->others[c->n_others++] = s->others[i];
        }
    }
}

void cross_check_begin(cross_check *c, uint64_t now_us,
                       const cross_check_sample *s) {
    assert(c->state == STATE_IDLE && s->n_rows > 0);
    assert(s->n_rows <= CROSS_CHECK_ROWS && s->in_bytes <= c->in_bytes_most);
    if (is_suspect(c, s->from.boot_id)) {
        c->suspect_next_us = now_us + SUSPECT_US;
        c->suspect_samples--;
    }
    keep_others(c, s);
    if (c->n_others == 0) return; /* the next one is due at once */

    c->countdown = c->every;
    c->layer = s->layer;
    c->slices = s->slices;
    c->unit = s->unit;
    c->n_rows = s->n_rows;
    c->in_bytes = s->in_bytes;
    c->here = s->here;
    c->parties[0] = s->from;
    c->n_answers = 1;
    for (uint32_t i = 0; i < s->n_rows; i++) {
        memcpy(c->in + i * s->in_bytes, s->in[i], s->in_bytes);
        memcpy(c->out + (size_t)i * c->width, s->out[i],
               c->width * sizeof(float));
    }
    c->state = STATE_TO_ASK;
}

/* ---- asking ---- */

/* Is there somebody left?  Other holders first; then, as a third, us. */
static bool next_party(cross_check *c, cross_check_party *whom) {
    if (c->n_others > 0) {
        *whom = c->others[0];
        memmove(c->others, c->others + 1, --c->n_others * sizeof(*whom));
        return true;
    }
    if (!c->here || c->n_answers < 2) return false;
    c->here = false;
    *whom = (cross_check_party){.here = true};
    return true;
}

/* What is known already is not told again. */
static void end(cross_check *c, int wrong) {
    c->state = STATE_IDLE;
    if (c->n_answers < 2) return;
    bool known = is_suspect(c, c->parties[0].boot_id) &&
                 is_suspect(c, c->parties[1].boot_id);
    c->decided = wrong >= 0 || !known;
    c->verdict = (cross_check_verdict){
        .layer = c->layer, .expert = c->unit / c->slices, .wrong = wrong};
    memcpy(c->verdict.parties, c->parties, sizeof(c->parties));
    if (wrong >= 0) {
        c->suspect_samples = 0;
        return;
    }
    c->stats.undecided++;
    c->suspects[0] = c->parties[0].boot_id;
    c->suspects[1] = c->parties[1].boot_id;
    if (c->suspect_samples == 0) c->suspect_samples = SUSPECT_SAMPLES;
}

void cross_check_next(cross_check *c, uint64_t now_us, cross_check_action *a) {
    *a = (cross_check_action){.kind = CROSS_CHECK_NOTHING};
    if (c->state == STATE_ASKED && now_us - c->asked_us >= ANSWER_US) {
        c->state = STATE_TO_ASK;
    }
    if (c->state != STATE_TO_ASK) return;
    cross_check_party *whom = &c->parties[c->n_answers];
    if (!next_party(c, whom)) {
        end(c, -1);
        return;
    }
    c->state = STATE_ASKED;
    c->asked_us = now_us;
    c->request_id = (c->request_id + 1) | CROSS_CHECK_ID;
    c->stats.asked++;
    *a = (cross_check_action){
        .kind = CROSS_CHECK_ASK,
        .whom = *whom,
        .request_id = c->request_id,
        .layer = c->layer,
        .slices = c->slices,
        .unit = c->unit,
        .n_rows = c->n_rows,
        .in_bytes = c->in_bytes,
        .in = c->in,
    };
}

/* ---- answers ---- */

bool cross_check_expects(const cross_check *c, uint32_t node,
                         uint64_t request_id, uint32_t *layer,
                         uint32_t *n_rows) {
    if (c->state != STATE_ASKED || request_id != c->request_id) return false;
    if (c->parties[c->n_answers].here) return false;
    *layer = c->layer;
    *n_rows = c->n_rows;
    return c->parties[c->n_answers].node == node;
}

static bool same(const cross_check *c, uint32_t i, const float *rows) {
    const float *kept = c->out + (size_t)i * CROSS_CHECK_ROWS * c->width;
    return memcmp(kept, rows, (size_t)c->n_rows * c->width * sizeof(*rows)) ==
           0;
}

static void second_answer(cross_check *c, const float *rows) {
    if (same(c, 0, rows)) {
        c->stats.agreed++;
        c->state = STATE_IDLE;
        return;
    }
    c->stats.differed++;
    memcpy(c->out + (size_t)CROSS_CHECK_ROWS * c->width, rows,
           (size_t)c->n_rows * c->width * sizeof(*rows));
    c->n_answers = 2;
    c->state = STATE_TO_ASK;
}

/* Three that are all different say nothing; another one is asked. */
static void third_answer(cross_check *c, const float *rows) {
    if (same(c, 0, rows)) {
        end(c, 1);
    } else if (same(c, 1, rows)) {
        end(c, 0);
    } else {
        c->state = STATE_TO_ASK;
    }
}

void cross_check_rows(cross_check *c, uint64_t now_us, uint64_t request_id,
                      const float *rows) {
    (void)now_us;
    if (c->state != STATE_ASKED || request_id != c->request_id) return;
    if (rows == NULL) {
        c->state = STATE_TO_ASK;
    } else if (c->n_answers == 1) {
        second_answer(c, rows);
    } else {
        third_answer(c, rows);
    }
}

/* ---- results ---- */

bool cross_check_take_verdict(cross_check *c, cross_check_verdict *out) {
    if (!c->decided) return false;
    c->decided = false;
    *out = c->verdict;
    return true;
}

void cross_check_look(const cross_check *c, cross_check_stats *out) {
    *out = c->stats;
    out->every = c->every;
}
