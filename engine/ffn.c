/* ffn.c - feed-forward networks in two runs of the pool.
 *
 * First run: a task takes some units (32 hidden values, one A8 block) of one
 * job, multiplies gate and up into a buffer on its stack, joins them and
 * encodes its part of each hidden row into the scratch.  Second run: a task
 * takes some output groups of one job and adds the down product's segments.  If
 * a network wants A8 where F32 arrived (gate and up of different formats), a
 * run before these encodes the rows.
 *
 * Which task computes what, and next to which rows, changes no bit.  A task may
 * take long where many rows meet a slow kernel or a busy machine, so it tells
 * the pool of each part that it has done. */
#include "engine/ffn.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tasks.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define MAX_SEGMENTS 8
#define MAX_DEPTH 3 /* log2 of it: partial sums that wait for their sibling */
#define UNIT ACT_BLOCK
#define UNIT_GROUPS (UNIT / WEIGHT_GROUP)
#define BATCH 128      /* rows in a task's buffers at a time, at most */
#define UP_UNITS 8     /* units in a task's buffers at a time */
#define DOWN_GROUPS 16 /* output groups in a task's buffers at a time */
#define UP_WIDTH (UP_UNITS * UNIT)
#define DOWN_WIDTH (DOWN_GROUPS * WEIGHT_GROUP)

/* A job and what a run derives from it. */
typedef struct {
    const ffn_job *job;
    const void *const *x[ACT_FORMS]; /* by form; NULL: not available */
    act_form gate_form, up_form, hidden_form;
    weight_mul gate, up, down;
    size_t first_row; /* among the run's rows */
    size_t ffn_dim, segments;
    size_t n_units, first_task, task_units; /* of the phase in progress */
} network;

struct ffn_scratch {
    size_t max_rows, max_jobs, max_ffn_dim, model_dim;
    network *networks; /* [max_jobs] */
    void **hidden;     /* [max_rows], into hidden_data */
    uint8_t *hidden_data;
    void **encoded; /* [max_rows], into encoded_data */
    uint8_t *encoded_data;
};

typedef struct {
    const ffn_scratch *scratch;
    size_t n_networks;
    pool *pool;
} run;

size_t ffn_segments(const weight_format *down, size_t ffn_dim) {
    for (size_t c = MAX_SEGMENTS; c > 1; c /= 2) {
        size_t width = ffn_dim / c;
        if (ffn_dim % c == 0 && width > 0 && width % ACT_BLOCK == 0 &&
            width % down->block_len == 0) {
            return c;
        }
    }
    return 1;
}

void ffn_fini(ffn_weights *w) {
    if (w == NULL) return;
    matrix_fini(&w->gate);
    matrix_fini(&w->up);
    matrix_fini(&w->down);
    aligned_release(w->gate_bias);
    aligned_release(w->up_bias);
    w->gate_bias = w->up_bias = NULL;
}

size_t ffn_pieces(const ffn_weights *w, ffn_piece out[FFN_PIECES_MAX]) {
    size_t n = 0, bias_bytes = w->gate.rows * sizeof(float);
    out[n++] = (ffn_piece){w->gate.data, w->gate.bytes};
    out[n++] = (ffn_piece){w->up.data, w->up.bytes};
    out[n++] = (ffn_piece){w->down.data, w->down.bytes};
    if (w->gate_bias != NULL) out[n++] = (ffn_piece){w->gate_bias, bias_bytes};
    if (w->up_bias != NULL) out[n++] = (ffn_piece){w->up_bias, bias_bytes};
    return n;
}

/* ---- scratch ---- */

/* Room for `rows` rows, uninitialized: pages that no run needs stay away. */
static int alloc_rows(size_t rows, size_t bytes, void ***at, uint8_t **data) {
    size_t total;
    if (!size_mul(rows, round_up(bytes, 64), &total)) return -ENOMEM;

    *at = calloc(rows, sizeof(**at));
    *data = aligned_alloc(64, size_max(total, 64));
    return *at != NULL && *data != NULL ? 0 : -ENOMEM;
}

int ffn_scratch_new(ffn_scratch **out, size_t max_rows, size_t max_jobs,
                    size_t max_ffn_dim, size_t model_dim) {
    *out = NULL;
    ffn_scratch *s = calloc(1, sizeof(*s));
    if (s == NULL) return -ENOMEM;
    s->max_rows = max_rows;
    s->max_jobs = max_jobs;
    s->max_ffn_dim = max_ffn_dim;
    s->model_dim = model_dim;

    int rc = -ENOMEM;
    s->networks = calloc(size_max(max_jobs, 1), sizeof(*s->networks));
    if (s->networks == NULL) goto fail;

    size_t rows = size_max(max_rows, 1);
    size_t bytes = act_row_bytes(ACT_F32, max_ffn_dim);
    rc = alloc_rows(rows, bytes, &s->hidden, &s->hidden_data);
    if (rc < 0) goto fail;

    bytes = act_row_bytes(ACT_A8, round_up(model_dim, ACT_BLOCK));
    rc = alloc_rows(rows, bytes, &s->encoded, &s->encoded_data);
    if (rc < 0) goto fail;

    *out = s;
    return 0;

fail:
    ffn_scratch_free(s);
    return rc;
}

void ffn_scratch_free(ffn_scratch *s) {
    if (s == NULL) return;
    free(s->networks);
    free(s->hidden);
    free(s->hidden_data);
    free(s->encoded);
    free(s->encoded_data);
    free(s);
}

/* ---- checking a run and laying it out ---- */

static int check_shape(const ffn_scratch *s, const ffn_weights *w) {
    size_t ffn_dim = w->gate.rows, model_dim = w->gate.cols;
    if (ffn_dim == 0 || w->up.rows != ffn_dim || w->up.cols != model_dim ||
        w->down.cols != ffn_dim || w->down.rows != model_dim) {
        return ERR_FORMAT;
    }
    if (ffn_dim > s->max_ffn_dim || model_dim > s->model_dim) return ERR_RANGE;
    if ((unsigned)w->activation >= FFN_ACTIVATIONS) return ERR_RANGE;

    size_t c = w->segments;
    if (c == 0) return 0;
    bool power_of_two = (c & (c - 1)) == 0;
    if (!power_of_two || c > MAX_SEGMENTS || ffn_dim % c != 0 ||
        (c > 1 && ffn_dim / c % ACT_BLOCK != 0) ||
        ffn_dim / c % w->down.format->block_len != 0) {
        return ERR_RANGE;
    }
    return 0;
}

/* Whether rows that arrive in `have` can feed a matrix that wants `want`. */
static bool can_feed(act_form have, act_form want, size_t n) {
    if (have == want) return true;
    return have == ACT_F32 && want == ACT_A8 && n % ACT_BLOCK == 0;
}

static int lay_out(ffn_scratch *s, network *n, const ffn_job *job,
                   size_t first_row, act_form x_form, bool exact) {
    const ffn_weights *w = job->weights;
    int rc = check_shape(s, w);
    if (rc < 0) return rc;

    *n = (network){
        .job = job,
        .first_row = first_row,
        .ffn_dim = w->gate.rows,
        .gate_form = matrix_act(&w->gate, exact),
        .up_form = matrix_act(&w->up, exact),
        .hidden_form = matrix_act(&w->down, exact),
        .segments = w->segments,
    };
    if (n->segments == 0) {
        n->segments = ffn_segments(w->down.format, w->down.cols);
    }
    if (!can_feed(x_form, n->gate_form, w->gate.cols) ||
        !can_feed(x_form, n->up_form, w->up.cols)) {
        return ERR_UNSUPPORTED;
    }
    n->gate = weight_kernel(w->gate.format, n->gate_form);
    n->up = weight_kernel(w->up.format, n->up_form);
    n->down = weight_kernel(w->down.format, n->hidden_form);
    if (n->gate == NULL || n->up == NULL || n->down == NULL) {
        return ERR_UNSUPPORTED;
    }
    n->x[x_form] = job->x;
    return 0;
}

/* Lay all jobs out.  Any mix of jobs within the limits fits the scratch, since
 * F32 rows of the largest width do. */
static int lay_out_all(ffn_scratch *s, const ffn_job *jobs, size_t n_jobs,
                       act_form x_form, bool exact) {
    if (n_jobs > s->max_jobs) return ERR_RANGE;

    size_t row = 0, offset = 0;
    for (size_t j = 0; j < n_jobs; j++) {
        network *n = &s->networks[j];
        if (jobs[j].n_rows > s->max_rows - row) return ERR_RANGE;
        int rc = lay_out(s, n, &jobs[j], row, x_form, exact);
        if (rc < 0) return rc;

        size_t bytes = act_row_bytes(n->hidden_form, n->ffn_dim);
        for (size_t i = 0; i < jobs[j].n_rows; i++, row++) {
            s->hidden[row] = s->hidden_data + offset;
            offset += round_up(bytes, 64);
        }
    }
    return 0;
}

/* ---- rows in a form that did not arrive ---- */

static bool wants(const network *n, act_form form) {
    return n->gate_form == form || n->up_form == form;
}

static void encode_task(void *ctx, uint32_t task, uint32_t worker) {
    const ffn_scratch *s = ctx;
    const network *n = &s->networks[task];
    (void)worker;
    if (!wants(n, ACT_A8)) return;

    size_t model_dim = n->job->weights->gate.cols;
    for (size_t i = 0; i < n->job->n_rows; i++) {
        act_encode(ACT_A8, model_dim, n->job->x[i],
                   s->encoded[n->first_row + i]);
    }
}

/* Encode F32 rows for the networks that want A8. */
static void encode_rows(pool *p, ffn_scratch *s, size_t n_jobs) {
    bool any = false;
    for (size_t j = 0; j < n_jobs; j++) {
        network *n = &s->networks[j];
        if (!wants(n, ACT_A8)) continue;

        size_t bytes = act_row_bytes(ACT_A8, n->job->weights->gate.cols);
        for (size_t i = 0; i < n->job->n_rows; i++) {
            size_t row = n->first_row + i;
            s->encoded[row] = s->encoded_data + row * round_up(bytes, 64);
        }
        n->x[ACT_A8] = (const void *const *)s->encoded + n->first_row;
        any = true;
    }
    if (any) pool_run(p, (uint32_t)n_jobs, encode_task, s);
}

/* ---- gate and up ---- */

/* How a row of gate and one of up become one, by ffn_activation. */
static void (*const joins[FFN_ACTIVATIONS])(size_t n, const float *gate,
                                            const float *up, float *out) = {
    [FFN_SWIGLU] = vm_silu_mul,
    [FFN_GELU] = vm_gelu_mul,
    [FFN_SWIGLU_CLAMPED] = vm_swiglu_clamped,
};

/* The hidden values of units [unit0, unit1), at most UP_UNITS of them, of rows
 * [row0, row0 + n) of the job, n at most BATCH. */
static void compute_hidden(const ffn_scratch *s, const network *net,
                           size_t unit0, size_t unit1, size_t row0, size_t n) {
    _Alignas(64) float gate[BATCH][UP_WIDTH];
    _Alignas(64) float up[BATCH][UP_WIDTH];
    float *gate_at[BATCH], *up_at[BATCH];
    for (size_t i = 0; i < n; i++) {
        gate_at[i] = gate[i];
        up_at[i] = up[i];
    }

    const ffn_weights *w = net->job->weights;
    size_t group0 = unit0 * UNIT_GROUPS;
    size_t group1 = size_min(unit1 * UNIT_GROUPS,
                             matrix_padded_rows(&w->gate) / WEIGHT_GROUP);
    net->gate(w->gate.data, w->gate.cols, group0, group1, 0, w->gate.cols,
              net->x[net->gate_form] + row0, n, gate_at);
    net->up(w->up.data, w->up.cols, group0, group1, 0, w->up.cols,
            net->x[net->up_form] + row0, n, up_at);

    size_t from = unit0 * UNIT;
    size_t to = size_min(unit1 * UNIT, net->ffn_dim);
    for (size_t i = 0; i < n; i++) {
        float joined[UP_WIDTH];
        if (w->gate_bias != NULL) {
            vm_add(to - from, gate[i], w->gate_bias + from);
        }
        if (w->up_bias != NULL) vm_add(to - from, up[i], w->up_bias + from);
        joins[w->activation](to - from, gate[i], up[i], joined);
        act_encode_part(net->hidden_form, net->ffn_dim, from, to, joined,
                        s->hidden[net->first_row + row0 + i]);
    }
}

/* The network whose task it is, and the task's range of units. */
static const network *find_task(const run *r, uint32_t task, size_t *unit0,
                                size_t *unit1) {
    size_t i = r->n_networks - 1;
    while (task < r->scratch->networks[i].first_task) {
        i--;
    }
    const network *net = &r->scratch->networks[i];
    *unit0 = (task - net->first_task) * net->task_units;
    *unit1 = size_min(*unit0 + net->task_units, net->n_units);
    return net;
}

/* Rows of a batch, so that all batches of a job are about as large: few rows
 * are slower than their share, and a remainder would read the weights again. */
static size_t batch_rows(const network *net) {
    size_t n_batches = (net->job->n_rows + BATCH - 1) / BATCH;
    return (net->job->n_rows + n_batches - 1) / n_batches;
}

static void up_task(void *ctx, uint32_t task, uint32_t worker) {
    const run *r = ctx;
    size_t unit0, unit1;
    const network *net = find_task(r, task, &unit0, &unit1);

    size_t n_rows = net->job->n_rows, batch = batch_rows(net);
    for (size_t u = unit0; u < unit1; u += UP_UNITS) {
        for (size_t row = 0; row < n_rows; row += batch) {
            compute_hidden(r->scratch, net, u, size_min(u + UP_UNITS, unit1),
                           row, size_min(n_rows - row, batch));
            pool_advance(r->pool, worker);
        }
    }
}

/* Where the middle one of the gate's rows lies; up's are elsewhere. */
static uint32_t up_home(const void *ctx, uint32_t task) {
    size_t unit0, unit1;
    const network *net = find_task(ctx, task, &unit0, &unit1);
    return matrix_home(&net->job->weights->gate,
                       (unit0 + unit1) / 2 * UNIT_GROUPS);
}

/* ---- down ---- */

/* Output groups [group0, group1), at most DOWN_GROUPS of them, of rows [row0,
 * row0 + n).  The tree of segments is walked like a binary counter: `depth`
 * partial sums wait, each for a sibling of its own size; the lowest is y. */
static void compute_output(const ffn_scratch *s, const network *net,
                           size_t group0, size_t group1, size_t row0,
                           size_t n) {
    _Alignas(64) float sums[MAX_DEPTH][BATCH][DOWN_WIDTH];
    float *at[MAX_DEPTH + 1][BATCH];
    for (size_t i = 0; i < n; i++) {
        at[0][i] = net->job->y[row0 + i] + group0 * WEIGHT_GROUP;
        for (size_t d = 0; d < MAX_DEPTH; d++) {
            at[d + 1][i] = sums[d][i];
        }
    }

    const matrix *down = &net->job->weights->down;
    const void *const *hidden =
        (const void *const *)s->hidden + net->first_row + row0;
    size_t width = down->cols / net->segments;
    size_t depth = 0;
    for (size_t k = 0; k < net->segments; k++) {
        net->down(down->data, down->cols, group0, group1, k * width,
                  (k + 1) * width, hidden, n, at[depth++]);
        for (size_t done = k + 1; done % 2 == 0; done /= 2) {
            depth--;
            for (size_t i = 0; i < n; i++) {
                vm_add((group1 - group0) * WEIGHT_GROUP, at[depth - 1][i],
                       at[depth][i]);
            }
        }
    }
    assert(depth == 1);
}

static void down_task(void *ctx, uint32_t task, uint32_t worker) {
    const run *r = ctx;
    size_t group0, group1;
    const network *net = find_task(r, task, &group0, &group1);

    size_t n_rows = net->job->n_rows, batch = batch_rows(net);
    for (size_t g = group0; g < group1; g += DOWN_GROUPS) {
        for (size_t row = 0; row < n_rows; row += batch) {
            compute_output(r->scratch, net, g,
                           size_min(g + DOWN_GROUPS, group1), row,
                           size_min(n_rows - row, batch));
            pool_advance(r->pool, worker);
        }
    }
}

static uint32_t down_home(const void *ctx, uint32_t task) {
    size_t group0, group1;
    const network *net = find_task(ctx, task, &group0, &group1);
    return matrix_home(&net->job->weights->down, (group0 + group1) / 2);
}

/* ---- the run ---- */

typedef enum { PHASE_UP, PHASE_DOWN } phase;

static size_t phase_cost(const network *n, phase ph) {
    const ffn_weights *w = n->job->weights;
    size_t bytes = ph == PHASE_UP ? w->gate.bytes + w->up.bytes : w->down.bytes;
    return task_cost(bytes, n->job->n_rows);
}

/* Cut a phase into tasks and run it. */
static void run_phase(pool *p, run *r, phase ph) {
    network *nets = r->scratch->networks;
    size_t total = 0;
    for (size_t j = 0; j < r->n_networks; j++) {
        total += phase_cost(&nets[j], ph);
    }
    size_t target = task_target(p, total);

    size_t n_tasks = 0;
    for (size_t j = 0; j < r->n_networks; j++) {
        network *n = &nets[j];
        bool up = ph == PHASE_UP;
        n->n_units =
            up ? (n->ffn_dim + UNIT - 1) / UNIT
               : matrix_padded_rows(&n->job->weights->down) / WEIGHT_GROUP;
        n->task_units = task_units(target, phase_cost(n, ph), n->n_units,
                                   up ? UP_UNITS : DOWN_GROUPS);
        n->first_task = n_tasks;
        if (n->job->n_rows == 0) continue;
        n_tasks += (n->n_units + n->task_units - 1) / n->task_units;
    }
    assert(n_tasks <= UINT32_MAX);
    pool_run_near(p, (uint32_t)n_tasks, ph == PHASE_UP ? up_task : down_task,
                  ph == PHASE_UP ? up_home : down_home, r);
}

int ffn_run(pool *p, ffn_scratch *s, const ffn_job *jobs, size_t n_jobs,
            act_form x_form, bool exact) {
    int rc = lay_out_all(s, jobs, n_jobs, x_form, exact);
    if (rc < 0) return rc;

    run r = {.scratch = s, .n_networks = n_jobs, .pool = p};
    if (x_form == ACT_F32) encode_rows(p, s, n_jobs);
    run_phase(p, &r, PHASE_UP);
    run_phase(p, &r, PHASE_DOWN);
    return 0;
}
