/* top_picture.c - see top_picture.h. */
#include "client/top_picture.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "client/rack_command.h"
#include "engine/util.h"

#define NAME_WIDTH 16
#define BAR_WIDTH 16
#define UNEVEN_LAYERS 4 /* told of one by one */
#define LINE_LAYERS 80  /* of a line of marks */

double looks_rate(const looks *l, const json_t *now, const json_t *before,
                  const char *key) {
    uint64_t a = rack_number(before, key), b = rack_number(now, key);
    if (before == NULL || l->seconds <= 0) return 0;
    return (double)(b >= a ? b - a : b) / l->seconds;
}

static void fill_bar(char *out, double share) {
    int full = share > 0 ? (int)(share * BAR_WIDTH + 0.5) : 0;
    if (full > BAR_WIDTH) full = BAR_WIDTH;
    memset(out, '#', (size_t)full);
    memset(out + full, '.', (size_t)(BAR_WIDTH - full));
    out[BAR_WIDTH] = '\0';
}

/* ---- the head ---- */

static void print_balance(const looks *l) {
    const json_t *b = json_object_get(l->now, "balance");
    if (!json_is_number(json_object_get(b, "imbalance"))) return;
    printf("  imbalance %.2f, worst layer %" PRIu64 " with %.2f",
           rack_real(b, "imbalance"), rack_number(b, "worst_layer"),
           rack_real(b, "worst"));
}

static void print_moves(const looks *l) {
    const json_t *m =
        json_object_get(json_object_get(l->now, "balance"), "moves");
    char bytes[32], bar[BAR_WIDTH + 1];
    if (!json_is_true(json_object_get(m, "moving"))) return;
    uint64_t left = rack_number(m, "to_load"), most = l->most_to_load;
    fill_bar(bar, most > 0 ? 1 - (double)left / (double)most : 1);
    cli_format_bytes(rack_number(m, "bytes_left"), bytes, sizeof(bytes));
    printf("moves [%s] %" PRIu64 " units to load (%s), %" PRIu64
           " to give up, %.0f s\n",
           bar, left, bytes, rack_number(m, "to_drop"),
           rack_real(m, "since_ms") / 1000);
}

static void print_head(const looks *l) {
    const json_t *requests = json_object_get(l->now, "requests");
    const json_t *placement = json_object_get(l->now, "placement");
    char model[40];

    snprintf(model, sizeof(model), "%s", rack_text(l->now, "model"));
    make_printable(model);
    printf("%s  %.0f tokens/s, %.0f of them generated  %" PRIu64
           " requests active, %" PRIu64 " queued\n",
           model, looks_rate(l, l->now, l->before, "tokens"),
           looks_rate(l, l->now, l->before, "tokens_generated"),
           rack_number(requests, "active"), rack_number(requests, "queued"));
    const json_t *epoch = json_object_get(l->now, "epoch");
    if (json_is_string(epoch)) {
        printf("epoch %.24s", json_string_value(epoch));
    } else {
        printf("epoch %" PRIu64, rack_number(l->now, "epoch"));
    }
    print_balance(l);
    if (rack_number(placement, "unplaced") > 0) {
        printf("  %" PRIu64 " units without a holder",
               rack_number(placement, "unplaced"));
    }
    putchar('\n');
    print_moves(l);
}

/* ---- nodes ---- */

typedef struct {
    const json_t *node;
    double batches, pairs; /* in a second */
} measured;

static int by_pairs(const void *a, const void *b) {
    const measured *x = a, *y = b;
    if (x->pairs != y->pairs) return x->pairs < y->pairs ? 1 : -1;
    return strcmp(rack_text(x->node, "name"), rack_text(y->node, "name"));
}

/* The busiest first; NULL without memory or nodes. */
static measured *measure_nodes(const looks *l, size_t *n) {
    const json_t *list = json_object_get(l->now, "nodes");
    size_t i;
    json_t *node;
    *n = json_array_size(list);
    measured *all = calloc(*n + 1, sizeof(*all));
    if (all == NULL) return NULL;
    json_array_foreach(list, i, node) {
        const json_t *before =
            rack_find(l->before, "nodes", rack_text(node, "name"));
        all[i] = (measured){node, looks_rate(l, node, before, "batches"),
                            looks_rate(l, node, before, "pairs")};
    }
    qsort(all, *n, sizeof(*all), by_pairs);
    return all;
}

static void print_node(const measured *m, double most) {
    const json_t *node = m->node, *speed = json_object_get(node, "speed");
    char bytes[32], name[NAME_WIDTH + 1], state[11], fast[16] = "-";
    char bar[BAR_WIDTH + 1];

    cli_format_bytes(rack_number(node, "resident_bytes"), bytes, sizeof(bytes));
    snprintf(name, sizeof(name), "%s", rack_text(node, "name"));
    snprintf(state, sizeof(state), "%s", rack_text(node, "state"));
    make_printable(name);
    make_printable(state);
    if (json_is_number(speed))
        snprintf(fast, sizeof(fast), "%.2f", json_number_value(speed));
    fill_bar(bar, most > 0 ? m->pairs / most : 0);
    printf("%-*s %-10s %6" PRIu64 " %9s %9.0f %8.0f %4.0f%% %5s %5" PRIu64
           "  %s\n",
           NAME_WIDTH, name, state, rack_number(node, "held"), bytes,
           m->batches, m->pairs, 100 * rack_real(node, "busy"), fast,
           rack_number(node, "queued"), bar);
}

static void print_nodes(const looks *l) {
    size_t n;
    measured *all = measure_nodes(l, &n);
    if (all == NULL) return;
    printf("\n%-*s %-10s %6s %9s %9s %8s %5s %5s %5s  %s\n", NAME_WIDTH, "NODE",
           "STATE", "UNITS", "RESIDENT", "BATCHES/s", "PAIRS/s", "BUSY",
           "SPEED", "QUEUE", "LOAD");
    for (size_t i = 0; i < n; i++)
        print_node(&all[i], all[0].pairs);
    free(all);
}

/* ---- layers ---- */

/* A mark for each layer: how its figure lies between `least` and the most of
 * all.  Of a model with more layers than fit, the most of some neighbours. */
static void print_marks(const char *label, const json_t *layers,
                        const char *key, double least) {
    static const char marks[] = " .:-=+*#%@";
    char line[LINE_LAYERS + 1] = "";
    size_t n = json_array_size(layers), at = 0;
    size_t each = (n + LINE_LAYERS - 1) / LINE_LAYERS;
    double most = least;
    for (size_t i = 0; i < n; i++) {
        double x = rack_real(json_array_get(layers, i), key);
        if (x > most) most = x;
    }
    for (size_t i = 0; i < n; i += each) {
        double here = 0;
        for (size_t j = i; j < i + each && j < n; j++) {
            double x = rack_real(json_array_get(layers, j), key);
            if (x > here) here = x;
        }
        double share = most > least ? (here - least) / (most - least) : 0;
        if (share < 0) share = 0;
        line[at++] = marks[(size_t)(share * (sizeof(marks) - 2) + 0.5)];
    }
    printf("%-10s [%s]\n", label, line);
}

static void print_layer(const json_t *layer) {
    size_t i;
    json_t *pair;
    printf("  layer %-4" PRIu64 " %8.0f pairs/s  imbalance %.2f  experts",
           rack_number(layer, "layer"), rack_real(layer, "heat"),
           rack_real(layer, "imbalance"));
    json_array_foreach(json_object_get(layer, "hottest"), i, pair) {
        printf("%s %" JSON_INTEGER_FORMAT " %.0f%%", i > 0 ? "," : "",
               json_integer_value(json_array_get(pair, 0)),
               100 * json_number_value(json_array_get(pair, 1)));
    }
    putchar('\n');
}

/* The most uneven layer after `last` (NULL: of all); layers that are equal come
 * in their order.  NULL: none is left. */
static const json_t *next_uneven(const json_t *layers, const json_t *last) {
    const json_t *best = NULL;
    size_t i;
    json_t *layer;
    bool passed = false;
    double limit = last != NULL ? rack_real(last, "imbalance") : 0;
    json_array_foreach(layers, i, layer) {
        double x = rack_real(layer, "imbalance");
        if (layer == last) passed = true;
        bool open = last == NULL || x < limit ||
                    (x == limit && passed && layer != last);
        if (x <= 0 || !open) continue;
        if (best == NULL || x > rack_real(best, "imbalance")) best = layer;
    }
    return best;
}

static void print_layers(const looks *l) {
    const json_t *layers = json_object_get(l->now, "layers");
    const json_t *layer = next_uneven(layers, NULL);
    if (layer == NULL) return; /* nothing was computed of late */
    putchar('\n');
    print_marks("heat", layers, "heat", 0);
    print_marks("imbalance", layers, "imbalance", 1);
    for (int i = 0; i < UNEVEN_LAYERS && layer != NULL; i++) {
        print_layer(layer);
        layer = next_uneven(layers, layer);
    }
}

void top_picture_print(const looks *l) {
    print_head(l);
    print_nodes(l);
    print_layers(l);
}
