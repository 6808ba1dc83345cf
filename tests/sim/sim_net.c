/* sim_net.c - the clock, the queue of events, the network. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t sim_now(const sim *s) {
    return s->now_us;
}

/* splitmix64 */
uint64_t sim_random(sim *s) {
    uint64_t z = s->random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t sim_below(sim *s, uint64_t n) {
    return sim_random(s) % n;
}

bool sim_chance(sim *s, uint32_t percent) {
    return percent > 0 && sim_below(s, 100) < percent;
}

/* ---- what is noted ---- */

/* Every line of the trace is hashed, so that two runs can be compared; most
 * runs do not print it. */
void sim_trace(sim *s, const char *fmt, ...) {
    char line[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);

    uint64_t hash = s->result->hash ^ s->now_us;
    for (const char *p = line; *p != '\0'; p++) {
        hash = (hash ^ (uint8_t)*p) * 0x100000001B3u;
    }
    s->result->hash = hash;
    if (s->options.trace)
        printf("%10.3f ms  %s\n", (double)s->now_us / 1000, line);
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

/* ---- events ---- */

static bool earlier(const sim_event *a, const sim_event *b) {
    if (a->at_us != b->at_us) return a->at_us < b->at_us;
    return a->order < b->order;
}

static void grow(sim_event **events, uint32_t n, uint32_t *capacity) {
    if (n < *capacity) return;
    *capacity = *capacity == 0 ? 1024 : *capacity * 2;
    *events = realloc(*events, *capacity * sizeof(**events));
    if (*events == NULL) abort(); /* a test without memory is no test */
}

static void push(sim *s, sim_event e) {
    grow(&s->events, s->n_events, &s->events_capacity);
    e.order = s->order++;
    uint32_t i = s->n_events++;
    while (i > 0 && earlier(&e, &s->events[(i - 1) / 2])) {
        s->events[i] = s->events[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->events[i] = e;
}

static sim_event pop(sim *s) {
    sim_event first = s->events[0], last = s->events[--s->n_events];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= s->n_events) break;
        if (child + 1 < s->n_events &&
            earlier(&s->events[child + 1], &s->events[child])) {
            child++;
        }
        if (!earlier(&s->events[child], &last)) break;
        s->events[i] = s->events[child];
        i = child;
    }
    s->events[i] = last;
    return first;
}

void sim_after(sim *s, uint64_t us, sim_event_kind kind, int process,
               uint64_t number) {
    uint32_t life = process >= 0 ? s->processes[process].life : 0;
    push(s, (sim_event){.at_us = s->now_us + us,
                        .kind = kind,
                        .process = process,
                        .life = life,
                        .number = number});
}

bool sim_next_event(sim *s, sim_event *out) {
    if (s->n_events == 0) return false;
    *out = pop(s);
    assert(out->at_us >= s->now_us);
    s->now_us = out->at_us;
    return true;
}

void sim_hold_event(sim *s, const sim_event *e) {
    grow(&s->held, s->n_held, &s->held_capacity);
    s->held[s->n_held++] = *e;
}

void sim_release_held(sim *s, uint32_t process) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n_held; i++) {
        sim_event e = s->held[i];
        if (e.process != (int)process) {
            s->held[kept++] = e;
            continue;
        }
        e.at_us = s->now_us;
        push(s, e);
    }
    s->n_held = kept;
}

void sim_drop_events(sim *s) {
    for (uint32_t i = 0; i < s->n_events; i++)
        free(s->events[i].message);
    for (uint32_t i = 0; i < s->n_held; i++)
        free(s->held[i].message);
    free(s->events);
    free(s->held);
}

/* ---- network ---- */

static void deliver(sim *s, const sim_message *m, const sim_path *path) {
    sim_message *copy = malloc(sizeof(*copy));
    if (copy == NULL) abort();
    *copy = *m;

    uint64_t us = 30 + sim_below(s, 100) + path->delay_us;
    if (path->jitter_us > 0) us += sim_below(s, path->jitter_us);
    push(s, (sim_event){.at_us = s->now_us + us,
                        .kind = EVENT_MESSAGE,
                        .process = (int)m->to,
                        .life = s->processes[m->to].life,
                        .message = copy});
}

void sim_send(sim *s, const sim_message *m) {
    bool to_node = m->to >= SIM_COORDINATORS;
    uint32_t coord = to_node ? m->from : m->to;
    uint32_t node = (to_node ? m->to : m->from) - SIM_COORDINATORS;
    const sim_path *path = &s->paths[coord][node];

    sim_trace(s, "%u -> %u kind %d request %llu layer %u pairs %u code %d%s",
              m->from, m->to, (int)m->kind, (unsigned long long)m->request_id,
              m->layer, m->n_pairs, m->code, path->cut ? " (cut)" : "");
    if (path->cut || sim_chance(s, path->lose_percent)) return;
    deliver(s, m, path);
    if (sim_chance(s, path->double_percent)) deliver(s, m, path);
}
