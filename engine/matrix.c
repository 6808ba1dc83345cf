/* matrix.c - packing from a reader or from memory, and products over the pool.
 *
 * Loading reads some whole groups at a time, so a node's memory grows by the
 * packed matrix alone.  In a product a task computes a range of row
 * groups for all activation rows, so that weights are read once. */
#include "engine/matrix.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tasks.h"
#include "engine/topology.h"
#include "engine/util.h"
#include "engine/weight_pages.h"

/* What is read, summed and packed at a time: it stays in a core's cache. */
#define PIECE_BYTES ((size_t)256 << 10)
/* No model comes near; keeps sizes of a row and of a group within 64 bits. */
#define MAX_SIDE ((size_t)1 << 31)
/* Groups that a task takes at least, if there are as many: whole tiles. */
#define GROUP_STEP 4
#define BATCH 256 /* activation rows per call of a kernel */

size_t matrix_bytes(const weight_format *f, size_t rows, size_t cols) {
    size_t groups = rows / WEIGHT_GROUP + (rows % WEIGHT_GROUP != 0);
    size_t bytes;
    if (cols > MAX_SIDE || !size_mul(groups, f->group_bytes(cols), &bytes)) {
        return SIZE_MAX; /* which no allocator gives */
    }
    return bytes;
}

static size_t row_bytes(const weight_format *f, size_t cols) {
    return cols / f->block_len * f->block_bytes;
}

/* Set up an empty matrix. */
static int prepare(matrix *m, const weight_format *f, size_t rows,
                   size_t cols) {
    size_t bytes = matrix_bytes(f, rows, cols);
    void *data = bytes == SIZE_MAX ? NULL : weight_pages_new(bytes);
    if (data == NULL) return -ENOMEM;

    *m = (matrix){
        .format = f, .rows = rows, .cols = cols, .data = data, .bytes = bytes};
    return 0;
}

/* Pack rows [row0, row0 + n), row0 being a multiple of the group; `stored` is
 * the first of them. */
static void pack_rows(matrix *m, size_t row0, size_t n, const void *stored) {
    size_t stride = row_bytes(m->format, m->cols);
    size_t group_bytes = m->format->group_bytes(m->cols);

    for (size_t i = 0; i < n; i += WEIGHT_GROUP) {
        const void *rows[WEIGHT_GROUP] = {NULL};
        for (size_t r = 0; r < size_min(n - i, WEIGHT_GROUP); r++) {
            rows[r] = (const uint8_t *)stored + (i + r) * stride;
        }
        uint8_t *group =
            (uint8_t *)m->data + (row0 + i) / WEIGHT_GROUP * group_bytes;
        m->format->pack(m->cols, rows, group);
    }
}

static bool shape_fits(const weight_format *f, size_t rows, size_t cols) {
    return rows > 0 && rows <= MAX_SIDE && cols > 0 && cols <= MAX_SIDE &&
           cols % f->block_len == 0;
}

int matrix_pack(matrix *m, const weight_format *f, size_t rows, size_t cols,
                const void *stored) {
    *m = (matrix){0};
    if (!shape_fits(f, rows, cols)) return ERR_FORMAT;

    int rc = prepare(m, f, rows, cols);
    if (rc < 0) return rc;
    pack_rows(m, 0, rows, stored);
    return 0;
}

/* Read and pack all rows of a prepared matrix. */
static int fill(matrix *m, matrix_rows read, void *ctx) {
    size_t stride = row_bytes(m->format, m->cols);
    size_t groups = size_max(PIECE_BYTES / (stride * WEIGHT_GROUP), 1);
    size_t step = size_min(groups * WEIGHT_GROUP, m->rows);
    void *piece = malloc(step * stride);
    if (piece == NULL) return -ENOMEM;

    int rc = 0;
    for (size_t row = 0; row < m->rows && rc == 0; row += step) {
        size_t n = size_min(step, m->rows - row);
        rc = read(ctx, row, n, piece);
        if (rc == 0) pack_rows(m, row, n, piece);
    }
    free(piece);
    return rc;
}

int matrix_build(matrix *m, const weight_format *f, size_t rows, size_t cols,
                 matrix_rows read, void *ctx) {
    *m = (matrix){0};
    if (!shape_fits(f, rows, cols)) return ERR_FORMAT;

    int rc = prepare(m, f, rows, cols);
    if (rc == 0) rc = fill(m, read, ctx);
    if (rc < 0) matrix_fini(m);
    return rc;
}

int matrix_format(const gguf_tensor *t, const weight_format **out, char *why,
                  size_t why_size) {
    *out = weight_format_find(t->type);
    if (*out != NULL) return 0;
    const char *name = weight_type_name(t->type);
    return err_why(why, why_size, ERR_UNSUPPORTED,
                   "tensor %s: weight format %s (%u) is not supported",
                   gguf_quote(t->name).text, name != NULL ? name : "unknown",
                   t->type);
}

/* One matrix of a tensor in a file. */
typedef struct {
    const gguf *file;
    const gguf_tensor *tensor;
    uint64_t offset; /* within the tensor */
    size_t row_bytes;
} file_slab;

static int read_slab(void *ctx, size_t row0, size_t n, void *out) {
    const file_slab *s = ctx;
    return gguf_read(s->file, s->tensor, s->offset + row0 * s->row_bytes,
                     n * s->row_bytes, out);
}

int matrix_load_rows(matrix *m, const gguf *g, const gguf_tensor *t,
                     size_t row0, size_t rows, char *why, size_t why_size) {
    *m = (matrix){0};
    const weight_format *f;
    int rc = matrix_format(t, &f, why, why_size);
    if (rc < 0) return rc;

    size_t cols = t->dims[0];
    if (!shape_fits(f, rows, cols)) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor %s: shape [%zu, %zu] does not fit %s, whose "
                       "blocks have %zu values",
                       gguf_quote(t->name).text, cols, rows, f->name,
                       f->block_len);
    }
    size_t stride = row_bytes(f, cols), stored = t->bytes / stride;
    if (row0 > stored || rows > stored - row0) {
        return err_why(why, why_size, ERR_RANGE,
                       "tensor %s: there are no %zu rows from row %zu on",
                       gguf_quote(t->name).text, rows, row0);
    }

    file_slab source = {g, t, row0 * stride, stride};
    rc = matrix_build(m, f, rows, cols, read_slab, &source);
    if (rc == 0) return 0;
    return err_why(why, why_size, rc, "tensor %s: %s", gguf_quote(t->name).text,
                   err_text(rc));
}

int matrix_load(matrix *m, const gguf *g, const gguf_tensor *t, size_t index,
                char *why, size_t why_size) {
    size_t rows = t->dims[1], row0;
    if (!size_mul(index, rows, &row0)) row0 = SIZE_MAX;
    return matrix_load_rows(m, g, t, row0, rows, why, why_size);
}

void matrix_fini(matrix *m) {
    if (m == NULL) return;
    weight_pages_free(m->data, m->bytes);
    *m = (matrix){0};
}

act_form matrix_act(const matrix *m, bool exact) {
    return exact ? ACT_F32 : m->format->act;
}

/* One matrix of a run. */
typedef struct {
    const matrix *m;
    weight_mul kernel;
    float *const *y;
    size_t first_task, task_groups;
} part;

typedef struct {
    part parts[MATRIX_MUL_MAX];
    size_t n_parts;
    const void *const *x;
    size_t n_x;
} product;

static size_t group_count(const matrix *m) {
    return matrix_padded_rows(m) / WEIGHT_GROUP;
}

/* The groups of one task, from group0 on. */
static void multiply_groups(const part *p, size_t group0, const void *const *x,
                            size_t n_x) {
    size_t group1 = size_min(group0 + p->task_groups, group_count(p->m));

    for (size_t t0 = 0; t0 < n_x; t0 += BATCH) {
        size_t n = size_min(n_x - t0, BATCH);
        float *y[BATCH];
        for (size_t t = 0; t < n; t++) {
            y[t] = p->y[t0 + t] + group0 * WEIGHT_GROUP;
        }
        p->kernel(p->m->data, p->m->cols, group0, group1, 0, p->m->cols, x + t0,
                  n, y);
    }
}

static const part *find_part(const product *job, uint32_t task) {
    size_t i = job->n_parts - 1;
    while (task < job->parts[i].first_task) {
        i--;
    }
    return &job->parts[i];
}

/* Where the middle one of its groups lies. */
static uint32_t task_home(const void *ctx, uint32_t task) {
    const part *p = find_part(ctx, task);
    size_t group = (task - p->first_task) * p->task_groups + p->task_groups / 2;
    return matrix_home(p->m, group);
}

static void run_task(void *ctx, uint32_t task, uint32_t worker) {
    const product *job = ctx;
    const part *p = find_part(job, task);
    (void)worker;

    multiply_groups(p, (task - p->first_task) * p->task_groups, job->x,
                    job->n_x);
}

uint32_t matrix_home(const matrix *m, size_t group) {
    return topology_home((const uint8_t *)m->data +
                         group * m->format->group_bytes(m->cols));
}

void matrix_mul(pool *p, const matrix *m, act_form form, const void *const *x,
                size_t n_x, float *const *y) {
    matrix_mul_many(p, 1, &m, form, x, n_x, &y);
}

void matrix_mul_many(pool *p, size_t n, const matrix *const *m, act_form form,
                     const void *const *x, size_t n_x, float *const *const *y) {
    assert(n <= MATRIX_MUL_MAX);
    if (n == 0 || n_x == 0) return;

    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        total += task_cost(m[i]->bytes, n_x);
    }
    size_t target = task_target(p, total);

    product job = {.n_parts = n, .x = x, .n_x = n_x};
    size_t n_tasks = 0;
    for (size_t i = 0; i < n; i++) {
        weight_mul kernel = weight_kernel(m[i]->format, form);
        assert(kernel != NULL); /* the form is matrix_act()'s */
        size_t groups = group_count(m[i]);
        size_t task_groups =
            task_units(target, task_cost(m[i]->bytes, n_x), groups, GROUP_STEP);
        job.parts[i] = (part){m[i], kernel, y[i], n_tasks, task_groups};
        n_tasks += (groups + task_groups - 1) / task_groups;
    }
    assert(n_tasks <= UINT32_MAX);
    pool_run_near(p, (uint32_t)n_tasks, run_task, task_home, &job);
}

/* ---- a matrix for each head ---- */

typedef struct {
    part first; /* of matrix 0; the others are alike */
    size_t tasks_each;
    const void *const *x;
    size_t n_x;
} each_product;

static void run_each(void *ctx, uint32_t task, uint32_t worker) {
    const each_product *job = ctx;
    size_t i = task / job->tasks_each;
    part p = job->first;
    (void)worker;

    p.m += i;
    p.y += i * job->n_x;
    assert(p.m->rows == job->first.m->rows && p.m->cols == job->first.m->cols &&
           p.m->format == job->first.m->format);
    multiply_groups(&p, task % job->tasks_each * p.task_groups,
                    job->x + i * job->n_x, job->n_x);
}

void matrix_mul_each(pool *p, size_t n, const matrix *m, act_form form,
                     const void *const *x, size_t n_x, float *const *y) {
    if (n == 0 || n_x == 0) return;

    size_t cost = task_cost(m[0].bytes, n_x), groups = group_count(&m[0]);
    size_t task_groups =
        task_units(task_target(p, n * cost), cost, groups, GROUP_STEP);
    each_product job = {.tasks_each = (groups + task_groups - 1) / task_groups,
                        .x = x,
                        .n_x = n_x};
    job.first =
        (part){&m[0], weight_kernel(m[0].format, form), y, 0, task_groups};
    assert(job.first.kernel != NULL && n * job.tasks_each <= UINT32_MAX);
    pool_run(p, (uint32_t)(n * job.tasks_each), run_each, &job);
}
