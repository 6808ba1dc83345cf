/* place_run.c - one run: the clock, the turn of events, and what must hold when
 * the faults are over. */
#include "tests/sim/place_sim.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIET_MS 4000  /* without a new epoch: at rest */
#define REST_MS 150000 /* after the faults; it must have come by then */
#define AT_ONCE_MOST 5000

/* ---- chance, memory, notes ---- */

/* splitmix64 */
uint64_t place_below(place_sim *s, uint64_t n) {
    uint64_t z = s->random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % n;
}

bool place_chance(place_sim *s, uint32_t percent) {
    return percent > 0 && place_below(s, 100) < percent;
}

void *place_memory(place_sim *s, size_t bytes) {
    if (s->n_memory == s->memory_room) {
        s->memory_room = s->memory_room == 0 ? 1024 : 2 * s->memory_room;
        s->memory = realloc(s->memory, s->memory_room * sizeof(*s->memory));
        if (s->memory == NULL) abort();
    }
    void *p = calloc(1, bytes + 1);
    if (p == NULL) abort(); /* a test without memory is none */
    s->memory[s->n_memory++] = p;
    return p;
}

/* Every line is hashed, so that two runs can be compared. */
void place_trace(place_sim *s, const char *fmt, ...) {
    char line[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);

    uint64_t hash = s->result->hash ^ s->now_ms;
    for (const char *p = line; *p != '\0'; p++)
        hash = (hash ^ (uint8_t)*p) * 0x100000001B3u;
    s->result->hash = hash;
    if (s->options.trace) {
        printf("%8.3f s  %s\n", (double)s->now_ms / 1000, line);
    }
}

void place_fail(place_sim *s, const char *fmt, ...) {
    if (!s->result->ok) return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(s->result->why, sizeof(s->result->why), fmt, args);
    va_end(args);
    s->result->ok = false;
    place_trace(s, "MUST NOT HAPPEN: %s", s->result->why);
}

/* ---- sets of units ---- */

uint64_t place_assigned(const rack_placement *p, const char *name) {
    int32_t at = p != NULL ? rack_placement_node(p, name) : -1;
    uint64_t set = 0;
    for (uint32_t l = 0; at >= 0 && l < PLACE_LAYERS; l++) {
        const layer_map *m = rack_placement_layer(p, l);
        for (uint32_t u = 0; m != NULL && u < m->n_units; u++) {
            if (rack_placement_assigns(p, at, l, u)) set |= place_bit(l, u);
        }
    }
    return set;
}

uint64_t place_bytes(const place_sim *s, uint64_t units) {
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < PLACE_LAYERS; l++) {
        uint64_t of_layer = units >> (l * PLACE_UNITS) & 0xffff;
        bytes += (uint64_t)__builtin_popcountll(of_layer) * s->unit_bytes[l];
    }
    return bytes;
}

/* ---- events ---- */

static bool earlier(const place_event *a, const place_event *b) {
    if (a->at_ms != b->at_ms) return a->at_ms < b->at_ms;
    return a->order < b->order;
}

static void grow(place_event **events, uint32_t n, uint32_t *room) {
    if (n < *room) return;
    *room = *room == 0 ? 1024 : 2 * *room;
    *events = realloc(*events, *room * sizeof(**events));
    if (*events == NULL) abort();
}

static place_event *push(place_sim *s, place_event e) {
    grow(&s->events, s->n_events, &s->events_room);
    e.order = s->order++;
    uint32_t i = s->n_events++;
    while (i > 0 && earlier(&e, &s->events[(i - 1) / 2])) {
        s->events[i] = s->events[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->events[i] = e;
    return &s->events[i];
}

static place_event pop(place_sim *s) {
    place_event first = s->events[0], last = s->events[--s->n_events];
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

place_event *place_after(place_sim *s, uint64_t ms, place_event_kind kind,
                         int member, uint64_t number) {
    uint32_t life = member >= 0 ? s->members[member].life : 0;
    return push(s, (place_event){.at_ms = s->now_ms + ms,
                                 .kind = kind,
                                 .member = member,
                                 .life = life,
                                 .number = number});
}

/* One in a hundred is lost. */
void place_say(place_sim *s, uint32_t from, uint32_t to,
               const place_message *m) {
    if (place_chance(s, 1) || !s->members[to].alive) return;
    place_event *e =
        place_after(s, 1 + place_below(s, 5), PLACE_MESSAGE, (int)to, 0);
    e->from = from;
    e->message = *m;
}

/* ---- processes ---- */

void place_kill(place_sim *s, uint32_t member) {
    place_member *m = &s->members[member];
    if (!m->alive) return;
    if (member < PLACE_COORDS) {
        place_coord_stop(s, member);
    } else {
        place_node_stop(s, member - PLACE_COORDS);
    }
    place_member_stop(s, member);
}

void place_revive(place_sim *s, uint32_t member) {
    place_member *m = &s->members[member];
    if (m->alive || m->gone) return;
    place_member_start(s, member);
    if (member < PLACE_COORDS) {
        place_coord_start(s, member);
    } else {
        place_node_start(s, member - PLACE_COORDS);
    }
    place_wake(s, member);
}

void place_freeze(place_sim *s, uint32_t member) {
    if (!s->members[member].alive) return;
    s->result->freezes++;
    s->members[member].frozen = true;
    place_trace(s, "%s stands still", s->members[member].name);
}

/* What fell to it while it stood still happens now. */
void place_thaw(place_sim *s, uint32_t member) {
    if (!s->members[member].frozen) return;
    s->members[member].frozen = false;
    place_trace(s, "%s goes on", s->members[member].name);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n_held; i++) {
        place_event e = s->held[i];
        if (e.member != (int)member) {
            s->held[kept++] = e;
            continue;
        }
        e.at_ms = s->now_ms;
        push(s, e);
    }
    s->n_held = kept;
}

void place_wake(place_sim *s, uint32_t member) {
    place_after(s, 0, PLACE_WAKE, (int)member, ++s->members[member].timer);
}

/* After whatever happened to it, a process does what there is to do. */
static void act(place_sim *s, uint32_t member) {
    place_member *m = &s->members[member];
    if (!m->alive || m->frozen) return;
    uint64_t wake = member < PLACE_COORDS
                        ? place_coord_act(s, member)
                        : place_node_act(s, member - PLACE_COORDS);
    m->timer++;
    if (wake == UINT64_MAX) return;
    uint64_t ms = wake > s->now_ms ? wake - s->now_ms : 1;
    place_after(s, ms, PLACE_WAKE, (int)member, m->timer);
}

/* ---- the turn of events ---- */

/* While etcd is away a write may be stuck in it, and be carried out later. */
static void on_request(place_sim *s, const place_event *e) {
    place_request *r = e->request;
    place_member *m = &s->members[r->member];
    if (r->kind == PLACE_STEP && r->life != m->life) return;
    if (s->etcd.away) {
        bool writes = r->kind == PLACE_STEP || r->kind == PLACE_WRITE;
        if (!writes || !place_chance(s, 30)) return;
        place_after(s, 200, PLACE_REQUEST, -1, 0)->request = r;
        r->stuck = true;
        return;
    }
    if (place_chance(s, s->lose_percent)) r->stuck = true;
    place_etcd_do(s, r);
    if (r->stuck || !m->alive || r->life != m->life) return;
    place_after(s, place_below(s, 4), PLACE_ANSWER, (int)r->member, 0)
        ->request = r;
}

static void on_timeout(place_sim *s, uint32_t member, place_request *r) {
    if (r->answered) return;
    bool writes = r->kind == PLACE_STEP || r->kind == PLACE_WRITE;
    r->outcome = writes ? SESSION_MAYBE : SESSION_NOT;
    place_member_answer(s, member, r);
}

static void on_message(place_sim *s, const place_event *e) {
    uint32_t to = (uint32_t)e->member;
    if (to < PLACE_COORDS) {
        place_coord_message(s, to, e->from - PLACE_COORDS, &e->message);
    } else {
        place_node_message(s, to - PLACE_COORDS, e->from, &e->message);
    }
}

static void on_member(place_sim *s, const place_event *e) {
    uint32_t member = (uint32_t)e->member;
    place_member *m = &s->members[member];
    switch (e->kind) {
    case PLACE_ANSWER:
        place_member_answer(s, member, e->request);
        break;
    case PLACE_TIMEOUT:
        on_timeout(s, member, e->request);
        break;
    case PLACE_WATCHED:
        place_member_watched(s, member, e);
        break;
    case PLACE_CUT_OFF:
        if (!m->watching) m->live_since_ms = 0;
        break;
    case PLACE_RELIST:
        if (!m->watching) place_member_list(s, member);
        break;
    case PLACE_PINGS:
        place_coord_ping(s, member);
        break;
    case PLACE_MESSAGE:
        on_message(s, e);
        break;
    case PLACE_SWITCH:
        place_coord_switch(s, member);
        break;
    case PLACE_LOADED:
        place_node_loaded(s, member - PLACE_COORDS, e->number);
        break;
    case PLACE_UNLOADED:
        place_node_unloaded(s, member - PLACE_COORDS, e->number);
        break;
    default:
        break;
    }
    act(s, member);
}

static void run_event(place_sim *s, const place_event *e) {
    if (e->member >= 0) {
        const place_member *m = &s->members[e->member];
        if (!m->alive || e->life != m->life) return;
        if (e->kind == PLACE_WAKE && e->number != m->timer) return;
        if (m->frozen) {
            grow(&s->held, s->n_held, &s->held_room);
            s->held[s->n_held++] = *e;
            return;
        }
        on_member(s, e);
    } else if (e->kind == PLACE_REQUEST) {
        on_request(s, e);
    } else if (e->kind == PLACE_EXPIRE) {
        place_etcd_expire(s);
    } else if (e->kind == PLACE_FAULT_BEGIN) {
        place_fault_begin(s, (uint32_t)e->number);
    } else {
        place_fault_end(s, (uint32_t)e->number);
    }
}

/* ---- at rest ---- */

static bool node_at_rest(place_sim *s, uint32_t node, const rack_placement *p,
                         const char **what) {
    const place_member *m = &s->members[place_node_member(node)];
    if (!m->alive) return true;
    *what = "a node knows another placement";
    if (rack_view_placement(m->view) == NULL ||
        rack_placement_epoch(rack_view_placement(m->view)) !=
            rack_placement_epoch(p)) {
        return false;
    }
    *what = "a node holds other units than it is given";
    return place_assigned(p, m->name) == place_node_holds(s, node) &&
           s->nodes[node].busy == 0;
}

/* How often the units must be held, by what the nodes that stay can hold. */
static void find_wanted(const place_sim *s, uint32_t *least, uint32_t *stay) {
    uint64_t largest = 0, room = 0;
    *stay = *least = 0;
    for (uint32_t l = 0; l < PLACE_LAYERS; l++) {
        if (s->unit_bytes[l] > largest) largest = s->unit_bytes[l];
    }
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const place_member *m = &s->members[place_node_member(i)];
        char key[64];
        snprintf(key, sizeof(key), "drain/%s", m->name);
        if (!m->alive || place_etcd_find(&s->etcd, key) != NULL) continue;
        uint64_t usable = s->nodes[i].memory - largest;
        room += usable < s->model_bytes ? usable : s->model_bytes;
        ++*stay;
    }
    while (*least < s->model.min_replicas && *least < *stay &&
           room >= (*least + 1) * s->model_bytes) {
        ++*least;
    }
}

static bool is_covered(const place_sim *s, const rack_placement *p,
                       const char **what) {
    uint32_t least, stay;
    find_wanted(s, &least, &stay);
    *what = "a unit has too few holders";
    for (uint32_t l = 0; l < PLACE_LAYERS; l++) {
        const layer_map *m = rack_placement_layer(p, l);
        if (m == NULL && s->slices[l] > 0) return false;
        for (uint32_t u = 0; m != NULL && u < m->n_units; u++) {
            uint32_t n;
            (void)layer_map_holders(m, u, &n);
            if (n < (least > 0 ? 1 : 0)) return false;
            if (least == s->model.min_replicas && n < least) return false;
        }
    }
    *what = "a node that is to be drained still holds something";
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        char key[64];
        const char *name = s->members[place_node_member(i)].name;
        snprintf(key, sizeof(key), "drain/%s", name);
        if (least == 0 || place_etcd_find(&s->etcd, key) == NULL) continue;
        if (place_assigned(p, name) != 0) return false;
    }
    return true;
}

/* Everybody agrees, and everything is where it should be; else what is not. */
static bool is_at_rest(place_sim *s, const char **what) {
    const rack_placement *p = NULL;
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const rack_placement *its = rack_view_placement(s->members[i].view);
        *what = "a coordinator has no placement in use";
        if (its == NULL || s->coords[i].used != its) return false;
        *what = "coordinators know different placements";
        if (rack_placement_epoch(its) != s->etcd.last_epoch) return false;
        p = its;
        *what = leader_why(s->coords[i].machine);
        if (*what[0] != '\0') return false;
    }
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (!node_at_rest(s, i, p, what)) return false;
    }
    return is_covered(s, p, what);
}

static void run_events(place_sim *s) {
    uint64_t look_ms = 0, last_ms = 0, epoch = 0, epoch_ms = 0;
    uint32_t at_once = 0;
    const char *what = "";
    while (s->result->ok && s->n_events > 0) {
        place_event e = pop(s);
        assert(e.at_ms >= s->now_ms);
        s->now_ms = e.at_ms;
        s->result->events++;
        run_event(s, &e);
        at_once = s->now_ms == last_ms ? at_once + 1 : 0;
        last_ms = s->now_ms;
        if (at_once > AT_ONCE_MOST) place_fail(s, "time stands still");
        if (s->etcd.last_epoch != epoch) {
            epoch = s->etcd.last_epoch;
            epoch_ms = s->now_ms;
        }
        if (s->now_ms < look_ms || s->now_ms < s->faults_end_ms + 18000) {
            continue;
        }
        look_ms = s->now_ms + 1000;
        bool quiet = s->now_ms > epoch_ms + QUIET_MS;
        if (is_at_rest(s, &what) && quiet) return;
        if (s->now_ms > s->faults_end_ms + REST_MS) {
            place_fail(s, "no rest: %s", quiet ? what : "epochs go on");
        }
    }
}

/* ---- a run ---- */

static void make_model(place_sim *s) {
    uint32_t slices = 1 + (uint32_t)place_below(s, 2);
    uint32_t experts = 3 + (uint32_t)place_below(s, 6);
    for (uint32_t l = 0; l < PLACE_LAYERS; l++) {
        s->slices[l] = slices;
        s->unit_bytes[l] = 100 + 50 * place_below(s, 3);
        s->model_bytes += slices * experts * s->unit_bytes[l];
    }
    if (place_chance(s, 20)) {
        s->model_bytes -= slices * experts * s->unit_bytes[0];
        s->slices[0] = 0;
        s->unit_bytes[0] = 0;
    }
    s->model = (planner_model){.n_layers = PLACE_LAYERS,
                               .n_experts = experts,
                               .slices = s->slices,
                               .unit_bytes = s->unit_bytes,
                               .max_slices = slices,
                               .min_replicas = 1 + (uint32_t)place_below(s, 2)};
    s->model.model[0] = 42;
}

static void set_up(place_sim *s) {
    make_model(s);
    s->n_coords = 2 + (uint32_t)place_below(s, PLACE_COORDS - 1);
    s->n_nodes = 3 + (uint32_t)place_below(s, PLACE_NODES - 2);
    for (uint32_t i = 0; i < s->n_coords; i++)
        snprintf(s->members[i].name, sizeof(s->members[i].name), "c%u", i);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        place_member *m = &s->members[place_node_member(i)];
        snprintf(m->name, sizeof(m->name), "n%u", i);
        s->nodes[i].memory =
            300 + s->model_bytes / 3 + place_below(s, s->model_bytes);
    }
    place_faults_choose(s);
    for (uint32_t i = 0; i < s->n_coords; i++)
        place_revive(s, i);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (i < 2 || place_chance(s, 70)) {
            place_revive(s, place_node_member(i));
        }
    }
}

void place_sim_run(const place_options *options, place_result *result) {
    static place_sim s; /* large, and one at a time */
    memset(&s, 0, sizeof(s));
    *result = (place_result){.ok = true, .hash = options->seed};
    s.options = *options;
    s.result = result;
    s.random = options->seed * 0x2545F4914F6CDD1Du;
    s.now_ms = 1000;

    set_up(&s);
    run_events(&s);
    for (uint32_t i = 0; i < PLACE_MEMBERS; i++)
        place_kill(&s, i);
    for (uint32_t i = 0; i < s.n_memory; i++)
        free(s.memory[i]);
    free(s.memory);
    free(s.events);
    free(s.held);
    free(s.etcd.history);
}
