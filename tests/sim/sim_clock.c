/* sim_clock.c - the clock and the queue of events; chance, memory, notes. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/sim/sim.h"

/* ---- sets of units ---- */

bool unit_set_empty(const unit_set *s) {
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        if (s->of[l] != 0) return false;
    }
    return true;
}

bool unit_set_equal(const unit_set *a, const unit_set *b) {
    return memcmp(a, b, sizeof(*a)) == 0;
}

unit_set unit_set_and(const unit_set *a, const unit_set *b) {
    unit_set out;
    for (uint32_t l = 0; l < SIM_LAYERS; l++)
        out.of[l] = a->of[l] & b->of[l];
    return out;
}

unit_set unit_set_or(const unit_set *a, const unit_set *b) {
    unit_set out;
    for (uint32_t l = 0; l < SIM_LAYERS; l++)
        out.of[l] = a->of[l] | b->of[l];
    return out;
}

unit_set unit_set_less(const unit_set *a, const unit_set *b) {
    unit_set out;
    for (uint32_t l = 0; l < SIM_LAYERS; l++)
        out.of[l] = a->of[l] & ~b->of[l];
    return out;
}

/* ---- chance ---- */

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* splitmix64 */
uint64_t sim_random(sim *s) {
    return mix(s->clock.random += 0x9E3779B97F4A7C15u);
}

uint64_t sim_below(sim *s, uint64_t n) {
    return sim_random(s) % n;
}

bool sim_chance(sim *s, uint32_t percent) {
    return percent > 0 && sim_below(s, 100) < percent;
}

/* ---- memory ---- */

#define CHUNK_BYTES ((size_t)256 << 10)

typedef struct chunk {
    struct chunk *next;
    size_t used, bytes;
    max_align_t data[];
} chunk;

static chunk *in_use, *spare;

static chunk *more(size_t bytes) {
    chunk *c = spare;
    if (bytes <= CHUNK_BYTES && c != NULL) {
        spare = c->next;
    } else {
        size_t room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        c = malloc(sizeof(*c) + room);
        if (c == NULL) abort(); /* a test without memory is none */
        c->bytes = room;
    }
    c->used = 0;
    c->next = in_use;
    in_use = c;
    return c;
}

void *sim_memory(size_t bytes) {
    bytes = (bytes + sizeof(max_align_t)) & ~(sizeof(max_align_t) - 1);
    chunk *c = in_use;
    if (c == NULL || c->bytes - c->used < bytes) c = more(bytes);
    void *p = (char *)c->data + c->used;
    c->used += bytes;
    return memset(p, 0, bytes);
}

void *sim_copy(const void *from, size_t bytes) {
    return memcpy(sim_memory(bytes + 1), from, bytes);
}

void sim_memory_reset(void) {
    while (in_use != NULL) {
        chunk *c = in_use;
        in_use = c->next;
        if (c->bytes > CHUNK_BYTES) {
            free(c);
            continue;
        }
        c->next = spare;
        spare = c;
    }
}

/* ---- notes ---- */

void sim_print(const sim *s, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    printf("%10.3f ms  ", (double)s->clock.now_us / 1000);
    vprintf(fmt, args);
    putchar('\n');
    va_end(args);
}

void sim_fail(sim *s, const char *fmt, ...) {
    if (!s->result->ok) return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(s->result->why, sizeof(s->result->why), fmt, args);
    va_end(args);
    s->result->ok = false;
    sim_trace(s, "MUST NOT HAPPEN: %s", s->result->why);
}

void sim_note(sim *s, uint64_t a, uint64_t b, uint64_t c) {
    uint64_t h = s->result->hash ^ a;
    h = (h ^ (h >> 29)) * 0xBF58476D1CE4E5B9u + b;
    s->result->hash = (h ^ (h >> 32)) * 0x94D049BB133111EBu + c;
}

void sim_add(sim *s, sim_count what, uint64_t n) {
    s->result->count[what] += n;
}

/* ---- events ---- */

static bool earlier(const sim_event *a, const sim_event *b) {
    if (a->at_us != b->at_us) return a->at_us < b->at_us;
    return a->order < b->order;
}

static void grow(sim_event **events, uint32_t n, uint32_t *room) {
    if (n < *room) return;
    *room = *room == 0 ? 1024 : 2 * *room;
    *events = realloc(*events, *room * sizeof(**events));
    if (*events == NULL) abort();
}

static sim_event *push(sim *s, sim_event e) {
    sim_clock *c = &s->clock;
    grow(&c->events, c->n_events, &c->events_room);
    e.order = c->order++;
    uint32_t i = c->n_events++;
    while (i > 0 && earlier(&e, &c->events[(i - 1) / 2])) {
        c->events[i] = c->events[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    c->events[i] = e;
    return &c->events[i];
}

static sim_event pop(sim_clock *c) {
    sim_event first = c->events[0], last = c->events[--c->n_events];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= c->n_events) break;
        if (child + 1 < c->n_events &&
            earlier(&c->events[child + 1], &c->events[child])) {
            child++;
        }
        if (!earlier(&c->events[child], &last)) break;
        c->events[i] = c->events[child];
        i = child;
    }
    c->events[i] = last;
    return first;
}

sim_event *sim_after(sim *s, uint64_t us, sim_event_kind kind, int member,
                     uint64_t number) {
    uint32_t life = member >= 0 ? s->members[member].life : 0;
    return push(s, (sim_event){.at_us = s->clock.now_us + us,
                               .kind = kind,
                               .member = member,
                               .life = life,
                               .number = number});
}

bool sim_next_event(sim *s, sim_event *out) {
    if (s->clock.n_events == 0) return false;
    *out = pop(&s->clock);
    assert(out->at_us >= s->clock.now_us);
    s->clock.now_us = out->at_us;
    return true;
}

void sim_hold_event(sim *s, const sim_event *e) {
    sim_clock *c = &s->clock;
    grow(&c->held, c->n_held, &c->held_room);
    c->held[c->n_held++] = *e;
}

void sim_release_held(sim *s, uint32_t member) {
    sim_clock *c = &s->clock;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->n_held; i++) {
        sim_event e = c->held[i];
        if (e.member != (int)member) {
            c->held[kept++] = e;
            continue;
        }
        e.at_us = c->now_us;
        push(s, e);
    }
    c->n_held = kept;
}

void sim_drop_events(sim *s) {
    free(s->clock.events);
    free(s->clock.held);
    s->clock = (sim_clock){0};
}
