/* holdings.c - a bitmap, and the two texts that fill it: an explicit list, and
 * a node's share of a rule.
 *
 * A text is read into a copy that replaces the set only when all of it was
 * understood, so a mistake never leaves half a list behind. */
#include "discovery/holdings.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

int holdings_init(holdings *h, uint32_t n_layers, uint32_t n_experts) {
    return holdings_init_slices(h, n_layers, n_experts, 1);
}

int holdings_init_slices(holdings *h, uint32_t n_layers, uint32_t n_experts,
                         uint32_t slices) {
    *h = (holdings){0};
    if (n_layers > HOLDINGS_MAX_LAYERS || n_experts > HOLDINGS_MAX_EXPERTS) {
        return ERR_RANGE;
    }
    if (slices == 0 || slices > HOLDINGS_MAX_SLICES ||
        (slices & (slices - 1)) != 0) {
        return ERR_RANGE;
    }
    h->n_layers = n_layers;
    h->n_experts = n_experts;
    h->slices = slices;
    h->layer_slices = malloc((size_t)n_layers + 1); /* never zero bytes */
    h->bits = calloc(1, holdings_bytes(h) + 1);
    if (h->layer_slices == NULL || h->bits == NULL) {
        holdings_fini(h);
        return -ENOMEM;
    }
    memset(h->layer_slices, (int)slices, n_layers);
    return 0;
}

void holdings_cut(holdings *h, uint32_t layer, uint32_t slices) {
    assert(layer < h->n_layers && slices > 0 && slices <= h->slices);
    h->layer_slices[layer] = (uint8_t)slices;
}

void holdings_fini(holdings *h) {
    if (h == NULL) return;
    free(h->layer_slices);
    free(h->bits);
    *h = (holdings){0};
}

int holdings_copy(holdings *to, const holdings *from) {
    if (from->bits == NULL) { /* one that was never made */
        *to = (holdings){0};
        return 0;
    }
    int rc =
        holdings_init_slices(to, from->n_layers, from->n_experts, from->slices);
    if (rc < 0) return rc;
    memcpy(to->layer_slices, from->layer_slices, from->n_layers);
    memcpy(to->bits, from->bits, holdings_bytes(from));
    return 0;
}

/* Units of a layer that is cut most often: what a layer has room for. */
static size_t room(const holdings *h) {
    return (size_t)h->n_experts * h->slices;
}

size_t holdings_bytes(const holdings *h) {
    return (h->n_layers * room(h) + 7) / 8;
}

void holdings_add(holdings *h, uint32_t layer, uint32_t unit) {
    assert(layer < h->n_layers && unit < room(h));
    size_t bit = layer * room(h) + unit;
    h->bits[bit / 8] |= (uint8_t)(1u << bit % 8);
}

void holdings_remove(holdings *h, uint32_t layer, uint32_t unit) {
    assert(layer < h->n_layers && unit < room(h));
    size_t bit = layer * room(h) + unit;
    h->bits[bit / 8] &= (uint8_t) ~(1u << bit % 8);
}

bool holdings_has(const holdings *h, uint32_t layer, uint32_t unit) {
    if (layer >= h->n_layers || unit >= room(h)) return false;
    size_t bit = layer * room(h) + unit;
    return (h->bits[bit / 8] >> bit % 8 & 1) != 0;
}

/* By bytes: of a large rack each node holds little. */
uint32_t holdings_next(const holdings *h, uint32_t layer, uint32_t unit,
                       uint32_t end) {
    if (layer >= h->n_layers) return end;
    size_t base = layer * room(h), at = base + unit;
    size_t stop = base + size_min(end, room(h));
    while (at < stop) {
        unsigned byte = h->bits[at / 8] >> at % 8;
        if (byte == 0) {
            at += 8 - at % 8;
            continue;
        }
        at += (size_t)__builtin_ctz(byte);
        return at < stop ? (uint32_t)(at - base) : end;
    }
    return end;
}

uint64_t holdings_count(const holdings *h) {
    uint64_t count = 0;
    for (size_t i = 0; i < holdings_bytes(h); i++) {
        count += (uint64_t)__builtin_popcount(h->bits[i]);
    }
    return count;
}

bool holdings_equal(const holdings *a, const holdings *b) {
    if (a->n_layers != b->n_layers || a->n_experts != b->n_experts ||
        a->slices != b->slices) {
        return false;
    }
    size_t bytes = holdings_bytes(a);
    return bytes == 0 || memcmp(a->bits, b->bits, bytes) == 0;
}

/* ---- "LAYERS:EXPERTS;..." ---- */

/* Where the reader stands in a text; `at` moves, the rest stays. */
typedef struct {
    const char *text, *at;
    char *why;
    size_t why_size;
} reader;

static int complain(const reader *r, const char *wanted) {
    return err_why(r->why, r->why_size, ERR_USAGE,
                   "'%s': expected %s at column %zu", r->text, wanted,
                   (size_t)(r->at - r->text) + 1);
}

static int read_number(reader *r, const char *wanted, uint32_t *out) {
    if (*r->at < '0' || *r->at > '9') return complain(r, wanted);

    const char *start = r->at;
    uint64_t n = 0;
    for (; *r->at >= '0' && *r->at <= '9'; r->at++) {
        n = n * 10 + (uint64_t)(*r->at - '0');
        if (n > UINT32_MAX) {
            r->at = start;
            return complain(r, "a smaller number");
        }
    }
    *out = (uint32_t)n;
    return 0;
}

/* What one side of a ':' may name, and how to say it. */
typedef struct {
    const char *noun;   /* "layer" */
    const char *wanted; /* "a layer number or '*'" */
    uint32_t count;     /* numbers are below it */
} side;

/* Marks in `set` what the list at the cursor names: "*", "1,3", "0-7,9". */
static int read_list(reader *r, const side *s, bool *set) {
    if (*r->at == '*') {
        r->at++;
        memset(set, true, s->count);
        return 0;
    }
    for (;;) {
        const char *start = r->at;
        uint32_t first, last;
        int rc = read_number(r, s->wanted, &first);
        if (rc < 0) return rc;
        last = first;
        if (*r->at == '-') {
            r->at++;
            rc = read_number(r, "the end of a range", &last);
            if (rc < 0) return rc;
        }
        if (last < first) {
            r->at = start;
            return complain(r, "a range that does not run backwards");
        }
        if (last >= s->count) {
            return err_why(r->why, r->why_size, ERR_USAGE,
                           "'%s': %s %u at column %zu is too high: the model "
                           "has %u, counted from 0",
                           r->text, s->noun, last,
                           (size_t)(start - r->text) + 1, s->count);
        }
        memset(set + first, true, (size_t)last - first + 1);
        if (*r->at != ',') return 0;
        r->at++;
    }
}

static void add_product(holdings *h, const bool *layers, const bool *experts) {
    for (uint32_t l = 0; l < h->n_layers; l++) {
        if (!layers[l]) continue;
        uint32_t slices = h->layer_slices[l];
        for (uint32_t u = 0; u < h->n_experts * slices; u++) {
            if (experts[u / slices]) holdings_add(h, l, u);
        }
    }
}

/* All "LAYERS:EXPERTS" items; `set` is scratch for both sides. */
static int read_items(holdings *h, reader *r, bool *set) {
    const side layers = {"layer", "a layer number or '*'", h->n_layers};
    const side experts = {"expert", "an expert number or '*'", h->n_experts};

    for (;;) {
        memset(set, false, (size_t)h->n_layers + h->n_experts);
        int rc = read_list(r, &layers, set);
        if (rc < 0) return rc;
        if (*r->at != ':') return complain(r, "':'");
        r->at++;
        rc = read_list(r, &experts, set + h->n_layers);
        if (rc < 0) return rc;
        add_product(h, set, set + h->n_layers);

        if (*r->at == '\0') return 0;
        if (*r->at != ';') return complain(r, "';' or the end");
        r->at++;
    }
}

int holdings_add_spec(holdings *h, const char *spec, char *why,
                      size_t why_size) {
    holdings grown;
    int rc = holdings_copy(&grown, h);
    bool *set = malloc((size_t)h->n_layers + h->n_experts + 1);
    if (rc < 0 || set == NULL) {
        rc = err_why(why, why_size, -ENOMEM, "out of memory");
        goto done;
    }

    reader r = {spec, spec, why, why_size};
    rc = read_items(&grown, &r, set);
    if (rc < 0) goto done;

    uint8_t *old = h->bits;
    h->bits = grown.bits;
    grown.bits = old;

done:
    free(set);
    holdings_fini(&grown);
    return rc;
}

/* ---- shares ---- */

int holdings_add_share(holdings *h, uint32_t index, uint32_t n_nodes,
                       uint32_t replicas) {
    if (index >= n_nodes || replicas == 0 || replicas > n_nodes) {
        return ERR_RANGE;
    }
    for (uint32_t l = 0; l < h->n_layers; l++) {
        for (uint32_t u = 0; u < h->n_experts * h->layer_slices[l]; u++) {
            /* The r for which (u + l + r) mod n_nodes is `index`. */
            uint32_t first = (u + l) % n_nodes;
            uint32_t r =
                index >= first ? index - first : n_nodes - (first - index);
            if (r < replicas) holdings_add(h, l, u);
        }
    }
    return 0;
}

int holdings_parse_share(const char *text, uint32_t *index, uint32_t *n_nodes,
                         uint32_t *replicas, char *why, size_t why_size) {
    reader r = {text, text, why, why_size};
    uint32_t i, n, copies = 1;

    int rc = read_number(&r, "the node's index", &i);
    if (rc < 0) return rc;
    if (*r.at != '/') return complain(&r, "'/'");
    r.at++;
    rc = read_number(&r, "the number of nodes", &n);
    if (rc < 0) return rc;
    if (*r.at == 'x') {
        r.at++;
        rc = read_number(&r, "the number of replicas", &copies);
        if (rc < 0) return rc;
    }
    if (*r.at != '\0') return complain(&r, "the end");

    if (i >= n) {
        return err_why(why, why_size, ERR_USAGE,
                       "'%s': node %u of %u: indices run from 0", text, i, n);
    }
    if (copies == 0 || copies > n) {
        return err_why(why, why_size, ERR_USAGE,
                       "'%s': %u replicas on %u nodes: 1 to %u are possible",
                       text, copies, n, n);
    }
    *index = i;
    *n_nodes = n;
    *replicas = copies;
    return 0;
}
