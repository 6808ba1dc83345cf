/* refusals.c - see refusals.h. */
#include "expert_node/refusals.h"

#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

void refusals_init(refusals *r) {
    memset(r, 0, sizeof(*r));
    atomic_init(&r->total, 0);
}

/* The slot of a code; codes beyond the table share the last one. */
static size_t find_code(refusals *r, int code) {
    for (size_t i = 0; i < r->n_codes; i++) {
        if (r->codes[i].code == code) return i;
    }
    if (r->n_codes == REFUSALS_CODES) return REFUSALS_CODES - 1;
    r->codes[r->n_codes].code = code;
    return r->n_codes++;
}

bool refusals_note(refusals *r, uint64_t now_us, int code, uint32_t *left_out) {
    *left_out = 0;
    atomic_fetch_add_explicit(&r->total, 1, memory_order_relaxed);

    size_t slot = find_code(r, code);
    uint32_t *in_period = &r->codes[slot].in_period;
    if (*in_period == 0 ||
        now_us - r->codes[slot].since_us >= REFUSALS_PERIOD_US) {
        if (*in_period > REFUSALS_LINES) {
            *left_out = *in_period - REFUSALS_LINES;
        }
        r->codes[slot].since_us = now_us;
        *in_period = 0;
    }
    if (*in_period < UINT32_MAX) ++*in_period;
    return *in_period <= REFUSALS_LINES;
}

void refusals_log(refusals *r, uint64_t now_us, const char *what,
                  const frames *from, int code, const char *why) {
    uint32_t left_out;
    if (!refusals_note(r, now_us, code, &left_out)) return;

    char address[2 * FRAMES_ADDRESS + 1] = "";
    size_t shown = size_min(from->address_bytes, 8);
    for (size_t i = 0; i < shown; i++)
        snprintf(address + 2 * i, 3, "%02x", from->address[i]);

    if (left_out > 0) {
        log_warn("refused %s of peer %s: %s (%s; %u more were not logged)",
                 what, address, why, err_name(code), left_out);
    } else {
        log_warn("refused %s of peer %s: %s (%s)", what, address, why,
                 err_name(code));
    }
}

uint64_t refusals_total(const refusals *r) {
    return atomic_load_explicit(&r->total, memory_order_relaxed);
}
