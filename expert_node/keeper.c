/* keeper.c - see keeper.h.
 *
 * A unit is absent, loading, resident or unloading; besides, it is wanted or
 * not.  A placement sets who is wanted and rebuilds three lists: `queue` (to be
 * loaded, in order), `failed` (to be loaded again, each at its time) and
 * `leaving` (to be unloaded, ascending by the epoch that gave it up).  All room
 * that later events can need is reserved then, so that only a placement can
 * fail for lack of memory.
 *
 * What is resident and not wanted is leaving, or kept: see keeper_kept.c.
 *
 * What leaves waits for the smallest epoch among the peers that count, and the
 * list is ascending: what may go is always a prefix of it. */
#include "expert_node/keeper_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define FAILURES_MOST 4   /* in a row, before loading as such has a rest */
#define REST_MOST_MS 5000 /* or a source that is back would be noticed late */

/* ---- making one ---- */

static uint32_t or_default(uint32_t given, uint32_t usual) {
    return given != 0 ? given : usual;
}

int keeper_new(keeper **out, const keeper_config *c) {
    *out = NULL;
    keeper *k = calloc(1, sizeof(*k));
    if (k == NULL) return -ENOMEM;
    k->config = *c;
    k->config.max_loads = or_default(c->max_loads, 1);
    k->config.max_unloads = or_default(c->max_unloads, 64);
    k->config.grace_ms = or_default(c->grace_ms, 10000);
    k->config.silent_ms = or_default(c->silent_ms, 5000);
    k->config.retry_ms = or_default(c->retry_ms, 1000);
    k->config.retry_most_ms = or_default(c->retry_most_ms, 30000);
    k->config.version_ms = or_default(c->version_ms, 100);
    k->self = -1;
    k->version = 1;
    *out = k;
    return 0;
}

static void lists_fini(work_lists *l) {
    free(l->queue);
    free(l->failed);
    free(l->leaving);
    *l = (work_lists){0};
}

static void forget_cut(keeper *k) {
    for (uint32_t i = 0; i < k->n_layers; i++)
        free(k->layers[i].units);
    free(k->layers);
    free(k->unit_bytes);
    k->layers = NULL;
    k->unit_bytes = NULL;
    k->slices = k->n_layers = k->n_experts = 0;
    k->fits = false;
    lists_fini(&k->lists);
}

void keeper_free(keeper *k) {
    if (k == NULL) return;
    forget_cut(k);
    rack_placement_unref(k->placement);
    free(k);
}

/* ---- units ---- */

static uint64_t bytes_of(const keeper *k, uint32_t layer) {
    return k->unit_bytes != NULL ? k->unit_bytes[layer] : 0;
}

/* ---- a placement ---- */

/* Does it number units as the store does?  A layer that was in no placement
 * before is as good as one that agrees. */
static bool same_cut(const keeper *k, const rack_placement *p) {
    const epoch_record *head = rack_placement_head(p);
    if (k->slices == 0 || head->slices != k->slices ||
        head->n_layers != k->n_layers || head->n_experts != k->n_experts) {
        return false;
    }
    for (uint32_t i = 0; i < k->n_layers; i++) {
        const layer_map *map = rack_placement_layer(p, i);
        uint32_t known = k->layers[i].n_units;
        if (map != NULL && known != 0 && map->n_units != known) return false;
    }
    return true;
}

static int add_layers(keeper *k, const rack_placement *p) {
    for (uint32_t i = 0; i < k->n_layers; i++) {
        const layer_map *map = rack_placement_layer(p, i);
        layer_units *l = &k->layers[i];
        if (map == NULL || map->n_units == 0 || l->n_units != 0) continue;
        l->units = calloc(map->n_units, sizeof(*l->units));
        if (l->units == NULL) return -ENOMEM;
        l->n_units = map->n_units;
    }
    return 0;
}

/* Does `p` (NULL: nobody wants anything) assign it to us, and to us alone? */
static bool assigned(const rack_placement *p, int32_t self, place at,
                     bool *alone) {
    const layer_map *map =
        p != NULL && self >= 0 ? rack_placement_layer(p, at.layer) : NULL;
    if (map == NULL || at.unit >= map->n_units) return false;
    uint32_t n;
    const uint16_t *holders = layer_map_holders(map, at.unit, &n);
    *alone = n == 1;
    for (uint32_t i = 0; i < n; i++) {
        if (holders[i] == self) return true;
    }
    return false;
}

static int reserve(const keeper *k, work_lists *l, size_t n_wanted) {
    size_t n_present = (size_t)k->n_resident + k->n_loading;
    *l = (work_lists){0};
    l->queue = calloc(n_wanted + 1, sizeof(*l->queue));
    l->failed = calloc(n_wanted + 1, sizeof(*l->failed));
    l->leaving = calloc(n_present + 1, sizeof(*l->leaving));
    if (l->queue != NULL && l->failed != NULL && l->leaving != NULL) return 0;
    lists_fini(l);
    return -ENOMEM;
}

/* Those that were leaving before, and still are, stay in front.  What another
 * incarnation gave up is looked at anew. */
static void keep_departures(keeper *k, work_lists *l) {
    const work_lists *old = &k->lists;
    for (size_t i = old->leaving_at; i < old->n_leaving; i++) {
        unit *u = keeper_at(k, old->leaving[i].at);
        if (u->wanted || u->state != RESIDENT || (k->fits && !u->ours)) {
            u->leaving = false;
        } else {
            l->leaving[l->n_leaving++] = old->leaving[i];
        }
    }
}

void keeper_depart(keeper *k, work_lists *l, place at, uint64_t now_ms) {
    keeper_at(k, at)->leaving = true;
    l->leaving[l->n_leaving++] = (departure){at, {k->epoch, k->sum}, now_ms};
}

/* Put a unit on the list where it belongs now.  `first`: the turn of those that
 * nobody else holds. */
static void list_unit(keeper *k, work_lists *l, place at, bool first,
                      bool alone, uint64_t now_ms) {
    unit *u = keeper_at(k, at);
    if (u->state == ABSENT && u->wanted && alone == first) {
        if (u->tries > 0) {
            l->failed[l->n_failed++] = at;
        } else {
            l->queue[l->n_queue++] = at;
        }
    }
    if (first && u->state == RESIDENT && !u->wanted && !u->leaving) {
        keeper_unwanted(k, l, at, now_ms);
    }
}

static size_t mark_wanted(keeper *k, const rack_placement *p) {
    size_t n = 0;
    k->n_wanted_resident = 0;
    for (uint32_t i = 0; i < k->n_layers; i++) {
        for (uint32_t j = 0; j < k->layers[i].n_units; j++) {
            bool alone;
            unit *u = &k->layers[i].units[j];
            u->wanted = assigned(p, k->self, (place){i, j}, &alone);
            u->ours |= u->wanted;
            n += u->wanted;
            k->n_wanted_resident += u->wanted && u->state == RESIDENT;
        }
    }
    return n;
}

static int hotter_first(const void *a, const void *b, void *ctx) {
    const keeper_config *c = ctx;
    const place *x = a, *y = b;
    uint64_t hx = c->heat(c->ctx, x->layer, x->unit);
    uint64_t hy = c->heat(c->ctx, y->layer, y->unit);
    if (hx != hy) return hx > hy ? -1 : 1;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return x->unit < y->unit ? -1 : 1;
}

static void fill_lists(keeper *k, work_lists *l, const rack_placement *p,
                       uint64_t now_ms) {
    keep_departures(k, l);
    for (int turn = 0; turn < 2; turn++) {
        size_t first = l->n_queue;
        for (uint32_t i = 0; i < k->n_layers; i++) {
            for (uint32_t j = 0; j < k->layers[i].n_units; j++) {
                bool alone = true;
                assigned(p, k->self, (place){i, j}, &alone);
                list_unit(k, l, (place){i, j}, turn == 0, alone, now_ms);
            }
        }
        if (k->config.heat == NULL) continue;
        qsort_r(l->queue + first, l->n_queue - first, sizeof(*l->queue),
                hotter_first, &k->config);
    }
}

static size_t count_wanted(const rack_placement *p, int32_t self) {
    return p != NULL && self >= 0 ? rack_placement_units(p, self) : 0;
}

/* Make `p` what is worked for; p is kept already.  With units that are numbered
 * in another way nothing of what is here is wanted. */
static int apply(keeper *k, const rack_placement *p, uint64_t now_ms) {
    const bool fits = same_cut(k, p);
    const int32_t self = rack_placement_node(p, k->config.name);
    int rc = fits ? add_layers(k, p) : 0;
    work_lists made;
    if (rc == 0) rc = reserve(k, &made, fits ? count_wanted(p, self) : 0);
    if (rc < 0) return rc;

    if (epoch_incarnation(rack_placement_epoch(p)) !=
        epoch_incarnation(k->epoch))
        keeper_begin_incarnation(k);
    k->fits = fits;
    k->self = self;
    k->epoch = rack_placement_epoch(p);
    k->sum = rack_placement_sum(p);
    k->no_room = k->keeps = false;
    memset(k->ready, 0, sizeof(k->ready)); /* for it */
    size_t n = mark_wanted(k, fits ? p : NULL);
    fill_lists(k, &made, fits ? p : NULL, now_ms);
    k->n_assigned = fits ? (uint32_t)n : (uint32_t)count_wanted(p, self);
    lists_fini(&k->lists);
    k->lists = made;
    /* What is new may have another source than what failed: one is tried. */
    if (made.n_queue > 0) k->rest_until_ms = 0;
    return 0;
}

int keeper_placement(keeper *k, uint64_t now_ms, const rack_placement *p) {
    if (p == NULL) return 0;
    if (k->placement != NULL && rack_placement_epoch(p) <= k->epoch) return 0;

    int rc = apply(k, p, now_ms);
    if (rc < 0) return rc;
    rack_placement_unref(k->placement);
    k->placement = rack_placement_ref(p);
    k->behind = false; /* or anew */
    return 0;
}

/* ---- the cut ---- */

static int take_cut(keeper *k, const uint64_t *unit_bytes) {
    const epoch_record *head = rack_placement_head(k->placement);
    size_t n = size_max(head->n_layers, 1);
    k->layers = calloc(n, sizeof(*k->layers));
    if (k->layers == NULL) return -ENOMEM;
    k->n_layers = head->n_layers;
    k->n_experts = head->n_experts;
    k->slices = k->asked_slices;
    if (unit_bytes == NULL) return 0;
    k->unit_bytes = malloc(n * sizeof(*k->unit_bytes));
    if (k->unit_bytes == NULL) return -ENOMEM;
    memcpy(k->unit_bytes, unit_bytes, k->n_layers * sizeof(*k->unit_bytes));
    return 0;
}

/* How long to wait after the `tries`th attempt in vain. */
static uint64_t pause_after(const keeper *k, uint8_t tries, uint64_t most_ms) {
    uint64_t wait = k->config.retry_ms;
    for (uint8_t i = 1; i < tries && wait < most_ms; i++)
        wait *= 2;
    return size_min(wait, most_ms);
}

static uint64_t retry_at(const keeper *k, uint64_t now_ms, uint8_t tries) {
    return now_ms + pause_after(k, tries, k->config.retry_most_ms);
}

static void count_try(uint8_t *tries) {
    if (*tries < UINT8_MAX) (*tries)++;
}

void keeper_cut(keeper *k, uint64_t now_ms, int rc,
                const uint64_t *unit_bytes) {
    assert(k->cutting && k->n_resident == 0);
    k->cutting = false;
    forget_cut(k);
    if (rc == 0) rc = take_cut(k, unit_bytes);
    if (rc == 0) rc = apply(k, k->placement, now_ms);
    if (rc == 0) {
        k->cut_tries = 0;
        keeper_peers_tell_again(&k->peers);
        return;
    }
    forget_cut(k);
    count_try(&k->cut_tries);
    k->cut_retry_ms = retry_at(k, now_ms, k->cut_tries);
}

static bool next_cut(keeper *k, uint64_t now_ms, keeper_action *out) {
    if (k->placement == NULL || k->fits || k->cutting) return false;
    if (k->n_resident + k->n_loading + k->n_unloading > 0) return false;
    if (k->cut_tries > 0 && now_ms < k->cut_retry_ms) {
        out->wake_ms = k->cut_retry_ms;
        return false;
    }
    k->cutting = true;
    k->asked_slices = rack_placement_head(k->placement)->slices;
    out->kind = KEEPER_CUT;
    out->slices = k->asked_slices;
    return true;
}

/* ---- loading ---- */

/* The next one to load; false: none, or none whose time has come. */
static bool pick_load(keeper *k, uint64_t now_ms, place *at,
                      keeper_action *out) {
    work_lists *l = &k->lists;
    if (l->queue_at < l->n_queue) {
        *at = l->queue[l->queue_at];
        if (k->rest_until_ms <= now_ms) return true;
        keeper_wake_by(out, k->rest_until_ms);
        return false;
    }
    for (size_t i = 0; i < l->n_failed; i++) {
        *at = l->failed[i];
        uint64_t due = size_max(keeper_at(k, *at)->retry_ms, k->rest_until_ms);
        if (due <= now_ms) return true;
        keeper_wake_by(out, due);
    }
    return false;
}

static void remove_load(keeper *k, place at) {
    work_lists *l = &k->lists;
    if (l->queue_at < l->n_queue && l->queue[l->queue_at].layer == at.layer &&
        l->queue[l->queue_at].unit == at.unit) {
        l->queue_at++;
        return;
    }
    for (size_t i = 0; i < l->n_failed; i++) {
        if (l->failed[i].layer != at.layer || l->failed[i].unit != at.unit)
            continue;
        memmove(l->failed + i, l->failed + i + 1,
                (--l->n_failed - i) * sizeof(*l->failed));
        return;
    }
    assert(!"it was picked from one of them");
}

static void postpone(keeper *k, place at, uint64_t now_ms) {
    unit *u = keeper_at(k, at);
    count_try(&u->tries);
    u->retry_ms = retry_at(k, now_ms, u->tries);
    k->lists.failed[k->lists.n_failed++] = at;
}

static bool has_room(const keeper *k, uint32_t layer) {
    uint64_t limit = k->config.memory_bytes, bytes = bytes_of(k, layer);
    return limit == 0 || bytes == 0 ||
           (k->bytes <= limit && bytes <= limit - k->bytes);
}

/* Where everything fails (the source is away, say) each unit's own patience is
 * not enough: there are thousands of them.  One that fails by itself has no
 * part in that. */
static void count_failure(keeper *k, place at, uint64_t now_ms) {
    const place last = k->last_failed;
    k->last_failed = at;
    if (k->failures > 0 && last.layer == at.layer && last.unit == at.unit)
        return;
    count_try(&k->failures);
    if (k->failures <= FAILURES_MOST) return;
    uint8_t more = (uint8_t)(k->failures - FAILURES_MOST);
    k->rest_until_ms = now_ms + pause_after(k, more, REST_MOST_MS);
}

static bool next_load(keeper *k, uint64_t now_ms, keeper_action *out) {
    place at;
    while (k->n_loading < k->config.max_loads &&
           pick_load(k, now_ms, &at, out)) {
        unit *u = keeper_at(k, at);
        assert(u->state == ABSENT && u->wanted);
        if (has_room(k, at.layer)) {
            remove_load(k, at);
            u->state = LOADING;
            k->cramped = false;
            k->n_loading++;
            k->bytes += bytes_of(k, at.layer);
            out->kind = KEEPER_LOAD;
            out->layer = at.layer;
            out->unit = at.unit;
            return true;
        }
        /* What leaves makes room soon.  Otherwise more is assigned than was
         * offered, and waiting is all that can be done. */
        k->no_room = true;
        if (k->n_unloading > 0 || k->n_loading > 0 ||
            k->lists.leaving_at < k->lists.n_leaving) {
            return false;
        }
        if (k->keeps) {
            keeper_is_cramped(k, now_ms, out);
            return false;
        }
        remove_load(k, at);
        postpone(k, at, now_ms);
    }
    return false;
}

void keeper_loaded(keeper *k, uint64_t now_ms, uint32_t layer, uint32_t number,
                   int rc) {
    unit *u = keeper_find(k, layer, number);
    assert(u != NULL && u->state == LOADING);
    const place at = {layer, number};
    k->n_loading--;
    if (rc < 0) {
        u->state = ABSENT;
        k->bytes -= bytes_of(k, layer);
        count_failure(k, at, now_ms);
        if (u->wanted) postpone(k, at, now_ms);
        return;
    }
    k->failures = 0;
    k->rest_until_ms = 0;
    u->state = RESIDENT;
    u->tries = 0;
    k->n_resident++;
    k->n_wanted_resident += u->wanted;
    k->changed = true;
    k->no_room = false;
    if (!u->wanted) keeper_unwanted(k, &k->lists, at, now_ms);
}

/* ---- unloading ---- */

/* Is a newer placement in use than the one known here?  What it assigns to us
 * again must not go. */
static void look_ahead(keeper *k, uint64_t now_ms) {
    bool behind =
        k->placement != NULL &&
        keeper_peers_newest(&k->peers, now_ms, k->config.silent_ms) > k->epoch;
    if (behind && !k->behind) k->behind_ms = now_ms;
    k->behind = behind;
}

/* What was lost while it was leaving is gone already. */
static void pass_over_lost(keeper *k) {
    work_lists *l = &k->lists;
    while (l->leaving_at < l->n_leaving) {
        unit *u = keeper_at(k, l->leaving[l->leaving_at].at);
        if (u->state == RESIDENT) return;
        u->leaving = false;
        l->leaving_at++;
    }
}

static bool next_unload(keeper *k, uint64_t now_ms, keeper_action *out) {
    work_lists *l = &k->lists;
    pass_over_lost(k);
    if (l->leaving_at == l->n_leaving) return false;
    uint64_t wake;
    const departure *d = &l->leaving[l->leaving_at];
    if (!keeper_peers_switched(&k->peers, now_ms, k->config.silent_ms, d->by,
                               &wake)) {
        /* When somebody in the way has fallen silent. */
        keeper_wake_by(out, wake);
        return false;
    }
    if (k->behind && now_ms - k->behind_ms < k->config.grace_ms) {
        keeper_wake_by(out, k->behind_ms + k->config.grace_ms);
        return false;
    }
    if (k->n_unloading >= k->config.max_unloads) return false;

    unit *u = keeper_at(k, d->at);
    assert(u->state == RESIDENT && !u->wanted && u->leaving);
    u->state = UNLOADING;
    u->leaving = false;
    k->n_resident--;
    k->n_unloading++;
    k->changed = true;
    out->kind = KEEPER_UNLOAD;
    out->layer = d->at.layer;
    out->unit = d->at.unit;
    l->leaving_at++;
    return true;
}

void keeper_unloaded(keeper *k, uint64_t now_ms, uint32_t layer,
                     uint32_t number) {
    (void)now_ms;
    unit *u = keeper_find(k, layer, number);
    assert(u != NULL && u->state == UNLOADING);
    u->state = ABSENT;
    u->tries = 0;
    u->retry_ms = 0;
    k->n_unloading--;
    k->bytes -= bytes_of(k, layer);
    k->no_room = false;
    /* Assigned again meanwhile: its time has come already. */
    if (u->wanted)
        k->lists.failed[k->lists.n_failed++] = (place){layer, number};
}

/* The room that a list's end needs is there: what is resident was on none.  One
 * that is leaving stays so, and is absent when its turn comes. */
void keeper_lost(keeper *k, uint64_t now_ms, uint32_t layer, uint32_t number) {
    unit *u = keeper_find(k, layer, number);
    (void)now_ms;
    if (u == NULL || u->state != RESIDENT) return;
    u->state = ABSENT;
    u->tries = 0;
    u->retry_ms = 0;
    k->n_resident--;
    k->bytes -= bytes_of(k, layer);
    k->changed = true;
    if (!u->wanted) return;
    k->n_wanted_resident--;
    k->lists.failed[k->lists.n_failed++] = (place){layer, number};
}

/* ---- peers ---- */

int keeper_hello(keeper *k, uint64_t now_ms, uint64_t peer) {
    return keeper_peers_hello(&k->peers, now_ms, k->config.silent_ms, peer);
}

int keeper_ping(keeper *k, uint64_t now_ms, uint64_t peer, uint64_t epoch,
                uint64_t sum) {
    return keeper_peers_ping(&k->peers, now_ms, k->config.silent_ms, peer,
                             (placement_id){epoch, sum});
}

void keeper_paused(keeper *k, uint64_t now_ms, uint64_t ms) {
    keeper_peers_paused(&k->peers, now_ms, ms);
    if (k->behind) k->behind_ms += size_min(ms, now_ms - k->behind_ms);
    if (k->cramped) k->cramped_ms += size_min(ms, now_ms - k->cramped_ms);
    k->told_ms += size_min(ms, now_ms - k->told_ms);
}

void keeper_can_learn(keeper *k, uint64_t now_ms, bool can) {
    if (can && k->untold) k->told_ms = now_ms;
    k->untold = !can;
}

/* The first departure that it lags behind; NULL: none. */
static const departure *first_ahead(const keeper *k, const keeper_peer *p) {
    const work_lists *l = &k->lists;
    size_t low = l->leaving_at, high = l->n_leaving;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (keeper_peer_switched(p, l->leaving[middle].by)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < l->n_leaving ? &l->leaving[low] : NULL;
}

/* Laggards become stale; whoever changed sides is told. */
static bool next_peer(keeper *k, uint64_t now_ms, keeper_action *out) {
    keeper_peers_forget(&k->peers, now_ms, k->config.silent_ms);
    for (size_t i = 0; i < k->peers.count; i++) {
        keeper_peer *p = &k->peers.table[i];
        const departure *d = p->stale ? NULL : first_ahead(k, p);
        if (d == NULL || now_ms - p->seen_ms >= k->config.silent_ms) continue;
        if (k->untold) continue;
        uint64_t from = size_max(d->known_ms, p->since_ms);
        from = size_max(from, k->told_ms);
        if (now_ms - from < k->config.grace_ms) {
            keeper_wake_by(out, from + k->config.grace_ms);
            continue;
        }
        p->stale = true;
        p->needed = d->by;
    }
    bool stale;
    if (!keeper_peers_news(&k->peers, &out->peer, &stale)) return false;
    out->kind = stale ? KEEPER_STALE : KEEPER_UNSTALE;
    return true;
}

void keeper_next(keeper *k, uint64_t now_ms, keeper_action *out) {
    *out = (keeper_action){.kind = KEEPER_WAIT, .wake_ms = UINT64_MAX};
    keeper_raise_version(k, now_ms, out);
    look_ahead(k, now_ms);
    keeper_let_go(k, now_ms);
    if (next_peer(k, now_ms, out)) return;
    if (next_unload(k, now_ms, out)) return;
    if (next_cut(k, now_ms, out)) return;
    if (next_load(k, now_ms, out)) return;
    (void)keeper_next_report(k, now_ms, out);
}
