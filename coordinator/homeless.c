/* homeless.c - see homeless.h.
 *
 * The estimate is what is left of the time that an absent node is waited for,
 * and the time to load what has to be loaded at the rate that was seen last, or
 * at an ordinary one.  It is meant for a person who decides whether to wait. */
#include "coordinator/homeless.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/util.h"

#define USUAL_RATE 200e6 /* bytes/s that a rack loads, until it was seen */
#define LEAST_RATE 1e6   /* less is a source that is away, not a rate */
#define RATE_WEIGHT 0.25 /* of the newest */
#define LEASE_MS 5000    /* until a dead node's record goes */
#define SETTLE_S 1.0     /* the leader looks before it writes */
#define EXPERTS_TEXT 400 /* a layer's ranges */

typedef struct {
    uint32_t layer;
    char experts[EXPERTS_TEXT]; /* "1-4,17"; cut with "..." */
} homeless_layer;

struct homeless {
    uint64_t kinds[HOMELESS_KINDS], units;
    uint64_t bytes; /* to be loaded until all are there */
    bool fits;      /* the live nodes have room for one copy of everything */
    homeless_layer *layers;
    uint32_t n_layers, room;
    uint64_t since_ms;
    double estimate_s;
    char why[256];
    char waits_for[RECORD_NAME]; /* one of those who are silent */

    double rate; /* bytes/s; 0: never seen */
    uint64_t seen_ms, seen_bytes;
};

int homeless_new(homeless **out) {
    *out = calloc(1, sizeof(**out));
    return *out == NULL ? -ENOMEM : 0;
}

void homeless_free(homeless *h) {
    if (h == NULL) return;
    free(h->layers);
    free(h);
}

/* ---- how fast is loading? ---- */

static void note_rate(homeless *h, uint64_t now_ms, uint64_t bytes) {
    if (h->seen_ms != 0 && now_ms > h->seen_ms && bytes > h->seen_bytes) {
        double rate = (double)(bytes - h->seen_bytes) * 1000.0 /
                      (double)(now_ms - h->seen_ms);
        if (rate >= LEAST_RATE) {
            h->rate = h->rate == 0.0 ? rate
                                     : h->rate + RATE_WEIGHT * (rate - h->rate);
        }
    }
    h->seen_ms = now_ms;
    h->seen_bytes = bytes;
}

/* ---- nodes, by their places in the placement ---- */

typedef enum { GONE, SILENT, BUSY } holder_state;

static const planner_node *find(const planner_input *in, const char *name) {
    uint32_t low = 0, high = in->n_nodes;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(in->nodes[middle].name, name);
        if (order == 0) return &in->nodes[middle];
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

/* A live node that has not yet what it is to have is loading it.  One that says
 * that it has all, and yet cannot be asked, is as good as away. */
static holder_state state_of(const planner_input *in, const char *name) {
    const planner_node *n = find(in, name);
    if (n == NULL) return GONE;
    if (n->missing) return SILENT;
    if (!n->live) return GONE;
    return n->ready_epoch < rack_placement_epoch(in->now) ? BUSY : SILENT;
}

static void find_states(const planner_input *in, holder_state *states) {
    const epoch_record *head = rack_placement_head(in->now);
    for (uint32_t i = 0; i < head->n_nodes; i++)
        states[i] = state_of(in, head->nodes[i]);
}

/* Would one copy of everything fit?  The planner makes room for it by giving up
 * second copies. */
static bool all_fit(const planner_input *in) {
    const planner_model *m = in->model;
    uint64_t need = 0, have = 0, largest = 0;
    for (uint32_t l = 0; l < m->n_layers; l++) {
        need += m->unit_bytes[l] * m->n_experts * m->slices[l];
        if (m->slices[l] > 0 && m->unit_bytes[l] > largest)
            largest = m->unit_bytes[l];
    }
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        const planner_node *n = &in->nodes[i];
        if (!n->live || n->draining || largest == 0) continue;
        have += n->memory_bytes / largest * largest;
    }
    return need <= have;
}

/* ---- units ---- */

static homeless_kind kind_of(const planner_input *in, uint32_t layer,
                             uint32_t unit, const holder_state *states,
                             bool fits, int32_t *silent) {
    const layer_map *map =
        in->now != NULL ? rack_placement_layer(in->now, layer) : NULL;
    homeless_kind worst = fits ? HOMELESS_PLACING : HOMELESS_NO_ROOM;
    if (map == NULL || unit >= map->n_units) return worst;
    uint32_t n;
    const uint16_t *holders = layer_map_holders(map, unit, &n);
    for (uint32_t i = 0; i < n; i++) {
        if (states[holders[i]] == BUSY) return HOMELESS_LOADING;
        if (states[holders[i]] != SILENT) continue;
        *silent = holders[i];
        worst = HOMELESS_AWAY;
    }
    return worst;
}

static homeless_layer *add_layer(homeless *h, uint32_t layer) {
    if (h->n_layers == h->room) {
        uint32_t room = h->room == 0 ? 16 : 2 * h->room;
        homeless_layer *grown = realloc(h->layers, room * sizeof(*grown));
        if (grown == NULL) return NULL;
        h->layers = grown;
        h->room = room;
    }
    homeless_layer *l = &h->layers[h->n_layers++];
    *l = (homeless_layer){.layer = layer};
    return l;
}

static void add_range(char text[EXPERTS_TEXT], uint32_t first, uint32_t last) {
    size_t used = strlen(text);
    const char *comma = used > 0 ? "," : "";
    if (used + 32 > EXPERTS_TEXT) { /* two numbers, and the dots */
        if (used < 3 || strcmp(text + used - 3, "...") != 0)
            snprintf(text + used, EXPERTS_TEXT - used, "%s...", comma);
        return;
    }
    if (first == last) {
        snprintf(text + used, EXPERTS_TEXT - used, "%s%u", comma, first);
    } else {
        snprintf(text + used, EXPERTS_TEXT - used, "%s%u-%u", comma, first,
                 last);
    }
}

/* Is any slice of the expert homeless?  Counts them. */
static bool look_at_expert(homeless *h, const homeless_picture *p,
                           uint32_t layer, uint32_t expert,
                           const holder_state *states, bool fits) {
    uint32_t slices = placement_slices(p->where, layer);
    bool any = false;
    for (uint32_t s = 0; s < slices; s++) {
        uint32_t unit = expert * slices + s, n;
        int32_t silent = -1;
        placement_nodes(p->where, layer, unit, &n);
        if (n > 0) continue;
        homeless_kind kind =
            kind_of(p->plan, layer, unit, states, fits, &silent);
        any = true;
        h->units++;
        h->kinds[kind]++;
        h->bytes += p->plan->model->unit_bytes[layer];
        if (kind == HOMELESS_AWAY && h->waits_for[0] == '\0') {
            snprintf(h->waits_for, sizeof(h->waits_for), "%s",
                     rack_placement_head(p->plan->now)->nodes[silent]);
        }
    }
    return any;
}

static int look_at_layer(homeless *h, const homeless_picture *p, uint32_t layer,
                         const holder_state *states, bool fits) {
    uint32_t n_experts = p->plan->model->n_experts, first = 0;
    homeless_layer *l = NULL;
    bool before = false;
    for (uint32_t e = 0; e <= n_experts; e++) {
        bool is = e < n_experts && look_at_expert(h, p, layer, e, states, fits);
        if (is && l == NULL) {
            l = add_layer(h, layer);
            if (l == NULL) return -ENOMEM;
        }
        if (is && !before) first = e;
        if (!is && before) add_range(l->experts, first, e - 1);
        before = is;
    }
    return 0;
}

/* ---- words ---- */

static void estimate(homeless *h, uint64_t now_ms, uint32_t replace_after_ms) {
    double rate = h->rate > 0.0 ? h->rate : USUAL_RATE;
    double seconds = (double)h->bytes / rate;
    uint64_t waited = now_ms - h->since_ms;
    uint64_t patience = (uint64_t)replace_after_ms + LEASE_MS;
    h->estimate_s = -1.0;
    if (h->kinds[HOMELESS_NO_ROOM] > 0) return;
    if (h->kinds[HOMELESS_AWAY] > 0 && !h->fits) return;
    if (h->kinds[HOMELESS_AWAY] > 0 && waited < patience)
        seconds += (double)(patience - waited) / 1000.0;
    if (h->kinds[HOMELESS_AWAY] + h->kinds[HOMELESS_PLACING] > 0)
        seconds += SETTLE_S;
    h->estimate_s = seconds;
}

static void explain(homeless *h) {
    h->why[0] = '\0';
    if (h->units == 0) return;
    if (h->kinds[HOMELESS_NO_ROOM] > 0) {
        snprintf(h->why, sizeof(h->why),
                 "the memory of the live nodes is not enough for one copy of "
                 "every expert: bring a node back, or add one");
    } else if (h->kinds[HOMELESS_AWAY] > 0) {
        snprintf(h->why, sizeof(h->why), "node '%s' is silent: %s",
                 h->waits_for,
                 h->fits ? "if it stays away, others load what it held"
                         : "the memory of the others is not enough for what "
                           "it held: bring it back, or add a node");
    } else if (h->kinds[HOMELESS_PLACING] > 0) {
        snprintf(h->why, sizeof(h->why), "they are being placed anew");
    } else {
        snprintf(h->why, sizeof(h->why), "they are being loaded");
    }
}

/* ---- looking ---- */

static void forget(homeless *h) {
    memset(h->kinds, 0, sizeof(h->kinds));
    h->units = h->bytes = 0;
    h->n_layers = 0;
    h->waits_for[0] = '\0';
}

int homeless_look(homeless *h, uint64_t now_ms, const homeless_picture *p) {
    const planner_model *m = p->plan->model;
    holder_state states[RECORD_NODES_MAX];
    bool fits = h->fits = all_fit(p->plan);
    int rc = 0;

    note_rate(h, now_ms, p->resident_bytes);
    if (p->plan->now != NULL) find_states(p->plan, states);
    forget(h);
    for (uint32_t l = 0; l < m->n_layers && rc == 0; l++) {
        if (m->slices[l] > 0) rc = look_at_layer(h, p, l, states, fits);
    }
    if (h->units == 0) h->since_ms = 0;
    if (h->units > 0 && h->since_ms == 0) h->since_ms = now_ms;
    estimate(h, now_ms, p->replace_after_ms);
    explain(h);
    return rc;
}

/* ---- reports ---- */

uint64_t homeless_units(const homeless *h) {
    return h->units;
}

uint64_t homeless_of_kind(const homeless *h, homeless_kind kind) {
    return h->kinds[kind];
}

double homeless_estimate_s(const homeless *h) {
    return h->units > 0 ? h->estimate_s : 0.0;
}

const char *homeless_why(const homeless *h) {
    return h->why;
}

char *homeless_text(const homeless *h, char *out, size_t size) {
    size_t used = 0;
    if (size > 0) out[0] = '\0';
    for (uint32_t i = 0; i < h->n_layers && used + 1 < size; i++) {
        int n = snprintf(out + used, size - used, "%slayer %u: experts %s",
                         i > 0 ? "; " : "", h->layers[i].layer,
                         h->layers[i].experts);
        if (n < 0) break;
        used += (size_t)n;
    }
    return out;
}

json_t *homeless_json(const homeless *h, uint64_t now_ms) {
    json_t *layers = json_array();
    for (uint32_t i = 0; i < h->n_layers; i++) {
        json_array_append_new(layers,
                              json_pack("{s:I, s:s}", "layer",
                                        (json_int_t)h->layers[i].layer,
                                        "experts", h->layers[i].experts));
    }
    double since = h->units > 0 ? (double)(now_ms - h->since_ms) / 1000.0 : 0.0;
    json_t *seconds = h->units > 0 && h->estimate_s < 0.0
                          ? json_null()
                          : json_real(homeless_estimate_s(h));
    return json_pack("{s:I, s:f, s:o, s:I, s:I, s:I, s:I, s:o, s:s}", "units",
                     (json_int_t)h->units, "since_s", since, "layers", layers,
                     "loading", (json_int_t)h->kinds[HOMELESS_LOADING], "away",
                     (json_int_t)h->kinds[HOMELESS_AWAY], "placing",
                     (json_int_t)h->kinds[HOMELESS_PLACING], "no_room",
                     (json_int_t)h->kinds[HOMELESS_NO_ROOM], "estimate_s",
                     seconds, "why", h->why);
}
