/* batch.c - see batch.h. */
#include "expert_node/batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

void batch_init(batch *b) {
    frames_init(&b->request);
    frames_init(&b->reply);
    b->numbers = NULL;
}

void batch_fini(batch *b) {
    frames_fini(&b->request);
    frames_fini(&b->reply);
    if (b->numbers != b->few) free(b->numbers);
    b->numbers = NULL;
}

uint64_t batch_reply_bytes(const message *m) {
    return (uint64_t)m->batch.rows.count * m->batch.width * sizeof(float);
}

static int check_units(const expert_store *store, uint32_t layer,
                       const uint32_t *units, size_t n, char *why,
                       size_t why_size) {
    for (size_t i = 0; i < n; i++) {
        if (expert_store_get(store, layer, units[i]) != NULL) continue;
        uint32_t slices = expert_store_slices(store, layer);
        if (slices <= 1) {
            return err_why(why, why_size, ERR_NOT_HERE,
                           "expert %u of layer %u is not held here", units[i],
                           layer);
        }
        return err_why(why, why_size, ERR_NOT_HERE,
                       "slice %u of %u of expert %u of layer %u is not held "
                       "here",
                       units[i] % slices, slices, units[i] / slices, layer);
    }
    return 0;
}

/* A unit's number means something else where experts are cut otherwise. */
static int check_slices(const batch_rules *rules, const message *m, char *why,
                        size_t why_size) {
    uint32_t slices = expert_store_slices(rules->store, m->batch.layer);
    if (slices == 0 || m->batch.slices == slices) return 0;
    return err_why(why, why_size, ERR_RANGE,
                   "experts of layer %u are cut into %u slices here, not %u",
                   m->batch.layer, slices, m->batch.slices);
}

static int check_rows(const message *m, const uint8_t *rows, char *why,
                      size_t why_size) {
    size_t row_bytes = act_row_bytes((act_form)m->batch.form, m->batch.width);
    for (uint32_t i = 0; i < m->batch.n_rows; i++) {
        const uint8_t *row = rows + i * row_bytes;
        if (act_row_valid((act_form)m->batch.form, m->batch.width, row)) {
            continue;
        }
        return err_why(why, why_size, ERR_MALFORMED,
                       "row %u of %u holds a value that no encoder writes", i,
                       m->batch.n_rows);
    }
    return 0;
}

int batch_check(const batch_rules *rules, frames *request, const message *m,
                char *why, size_t why_size) {
    int rc = check_slices(rules, m, why, why_size);
    if (rc < 0) return rc;
    rc = check_units(rules->store, m->batch.layer, m->batch.experts.items,
                     m->batch.experts.count, why, why_size);
    if (rc < 0) return rc;

    if (m->batch.width != rules->width) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "rows are %u wide, the model is %u", m->batch.width,
                       rules->width);
    }
    act_form form =
        expert_store_form(rules->store, m->batch.layer, rules->exact);
    if (m->batch.form != (uint32_t)form) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "rows have form %u, layer %u takes form %u",
                       m->batch.form, m->batch.layer, (uint32_t)form);
    }
    if (m->batch.n_rows > m->batch.rows.count) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "%u rows for %zu pairs: some are of no use",
                       m->batch.n_rows, m->batch.rows.count);
    }
    return check_rows(m, frames_data(request, 1), why, why_size);
}

int batch_still_held(const batch *b, const expert_store *store, char *why,
                     size_t why_size) {
    return check_units(store, b->layer, b->units, b->n_groups, why, why_size);
}

/* Keep the message's arrays, which live only until the next one is opened. */
static int keep_numbers(batch *b, const message *m) {
    size_t groups = m->batch.experts.count, pairs = m->batch.rows.count;
    size_t n = 2 * groups + pairs; /* both are bounded by message_open() */
    b->numbers = b->few;
    if (n > sizeof(b->few) / sizeof(b->few[0])) {
        b->numbers = malloc(n * sizeof(*b->numbers));
        if (b->numbers == NULL) return -ENOMEM;
    }
    b->units = b->numbers;
    b->counts = b->units + groups;
    b->pair_rows = b->counts + groups;
    memcpy(b->units, m->batch.experts.items, groups * sizeof(*b->units));
    memcpy(b->counts, m->batch.counts.items, groups * sizeof(*b->counts));
    memcpy(b->pair_rows, m->batch.rows.items, pairs * sizeof(*b->pair_rows));
    b->n_groups = (uint32_t)groups;
    b->n_pairs = (uint32_t)pairs;
    return 0;
}

int batch_accept(batch *b, account *a, frames *request, const message *m,
                 uint64_t now_us) {
    batch_init(b);
    if (frames_add(&b->reply, 0) == NULL) return -ENOMEM;
    b->outputs = account_add_part(a, &b->reply, batch_reply_bytes(m));
    if (b->outputs == NULL || keep_numbers(b, m) < 0) {
        batch_fini(b);
        return -ENOMEM;
    }
    b->boot_id = m->boot_id;
    b->request_id = m->request_id;
    b->epoch = m->epoch;
    b->layer = m->batch.layer;
    b->width = m->batch.width;
    b->form = (act_form)m->batch.form;
    b->row_bytes = act_row_bytes(b->form, b->width);
    b->received_us = now_us;
    b->expires_us =
        m->remaining_ms > 0 ? now_us + (uint64_t)m->remaining_ms * 1000 : 0;

    frames_copy_address(&b->reply, request);
    frames_move(&b->request, request);
    b->rows = frames_data(&b->request, 1);
    return 0;
}
