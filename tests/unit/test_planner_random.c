/* test_planner_random.c - placements of random racks, and of a large one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "engine/util.h"
#include "tests/support/planner_rack.h"

/* ---- random racks ---- */

static uint64_t seed;

static uint64_t below(uint64_t n) {
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % n;
}

static uint64_t assigned_bytes(const planner_rack *r, const char *name) {
    int32_t at = rack_placement_node(r->now, name);
    uint64_t bytes = 0;
    for (uint32_t l = 0; at >= 0 && l < r->model.n_layers; l++) {
        const layer_map *m = rack_placement_layer(r->now, l);
        for (uint32_t u = 0; m != NULL && u < m->n_units; u++) {
            if (rack_placement_assigns(r->now, at, l, u)) {
                bytes += r->unit_bytes[l];
            }
        }
    }
    return bytes;
}

/* Holders that could serve a unit. */
static uint32_t servers(planner_rack *r, const rack_placement *p,
                        uint32_t layer, uint32_t unit, uint64_t epoch) {
    const layer_map *m = rack_placement_layer(p, layer);
    uint32_t n, ready = 0;
    if (m == NULL) return 0;
    const uint16_t *holders = layer_map_holders(m, unit, &n);
    for (uint32_t i = 0; i < n; i++) {
        const char *name = rack_placement_head(p)->nodes[holders[i]];
        const planner_node *node = planner_rack_node(r, name);
        if (node->live && node->ready_epoch >= epoch) ready++;
    }
    return ready;
}

/* One step, and what must hold of any. */
static bool checked_step(planner_rack *r) {
    uint64_t before[PLANNER_RACK_NODES] = {0};
    rack_placement *old = r->now != NULL ? rack_placement_ref(r->now) : NULL;
    uint64_t epoch = old != NULL ? rack_placement_epoch(old) : 0;
    for (uint32_t i = 0; old != NULL && i < r->n_nodes; i++)
        before[i] = assigned_bytes(r, r->names[i]);
    if (!planner_rack_step(r, NULL, NULL)) {
        rack_placement_unref(old);
        return false;
    }
    assert_int_equal(rack_placement_epoch(r->now) & 0xffffffff,
                     (epoch & 0xffffffff) + 1);
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        uint64_t bytes = assigned_bytes(r, r->names[i]);
        if (bytes <= before[i]) continue;
        assert_true(r->nodes[i].live && !r->nodes[i].draining);
        assert_true(bytes <= r->nodes[i].memory_bytes);
    }
    for (uint32_t l = 0; old != NULL && l < r->model.n_layers; l++) {
        const layer_map *m = rack_placement_layer(old, l);
        for (uint32_t u = 0; m != NULL && u < m->n_units; u++) {
            uint32_t could = servers(r, old, l, u, epoch);
            uint32_t can = servers(r, r->now, l, u, epoch);
            if (could > 0) assert_true(can > 0);
        }
    }
    rack_placement_unref(old);
    return true;
}

static void random_event(planner_rack *r) {
    char name[8];
    snprintf(name, sizeof(name), "n%u", (unsigned)below(8));
    planner_node *n = planner_rack_node(r, name);
    uint64_t total = 0;
    for (uint32_t l = 0; l < r->model.n_layers; l++)
        total += r->model.n_experts * r->slices[l] * r->unit_bytes[l] / 100;

    switch (below(7)) {
    case 0:
    case 1:
    case 2: /* comes, or starts anew */
        planner_rack_join(r, name, 1 + below(total + 1));
        break;
    case 3: /* ends */
        if (n == NULL) break;
        n->live = n->draining = false;
        n->missing = below(2) == 0;
        n->ready_epoch = 0;
        break;
    case 4:
        if (n != NULL && n->live) n->draining = !n->draining;
        break;
    case 5: /* is given up */
        if (n != NULL) n->missing = false;
        break;
    default: /* offers a little more or less */
        if (n != NULL && n->live) n->memory_bytes += n->memory_bytes / 50;
    }
}

static void some_get_ready(planner_rack *r) {
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        planner_node *n = &r->nodes[i];
        if (n->live && below(3) > 0 && r->now != NULL) {
            n->ready_epoch = rack_placement_epoch(r->now);
        }
    }
}

static void converge(planner_rack *r) {
    uint32_t steps = 0;
    for (uint32_t i = 0; i < r->n_nodes; i++)
        r->nodes[i].missing = false;
    planner_rack_ready(r);
    while (checked_step(r)) {
        planner_rack_ready(r);
        if (++steps > 300) fail_msg("it does not come to rest");
    }
}

/* What a rack at rest must be, as far as memory allows. */
static void check_rest(planner_rack *r) {
    uint64_t need = 0, room = 0, largest = 0;
    for (uint32_t l = 0; l < r->model.n_layers; l++) {
        need += r->model.n_experts * r->slices[l] * r->unit_bytes[l];
        if (r->unit_bytes[l] > largest) largest = r->unit_bytes[l];
    }
    uint32_t stay = 0;
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        const planner_node *n = &r->nodes[i];
        if (!n->live || n->draining) continue;
        stay++;
        uint64_t whole = n->memory_bytes / largest * largest;
        room += whole < need ? whole : need;
    }
    if (stay == 0) return;
    /* Where all fit with ease, all are placed, and drained nodes are empty. */
    uint32_t least, most;
    planner_rack_range(r, &least, &most);
    uint32_t want = r->model.min_replicas;
    if (want > stay) want = stay;
    if (room < (uint64_t)(want + 1) * need && want < stay) return;
    if (room < (uint64_t)want * need) return;
    assert_true(least >= 1);
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        const planner_node *n = &r->nodes[i];
        if (!n->live || n->draining) {
            assert_int_equal(planner_rack_units(r, n->name), 0);
        }
    }
    assert_int_equal(least, want);
    assert_int_equal(most, want);
}

static void comes_to_rest_from_anything(void **state) {
    static const uint32_t cuts[] = {1, 1, 2, 4};
    (void)state;
    for (uint64_t run = 1; run <= 150; run++) {
        planner_rack r;
        seed = run;
        planner_rack_init(&r, 1 + (uint32_t)below(5), 1 + (uint32_t)below(12),
                          cuts[below(4)], 1 + (uint32_t)below(3));
        for (uint32_t l = 0; l < r.model.n_layers; l++)
            r.unit_bytes[l] = 50 + below(3) * 50;
        if (below(4) == 0) r.slices[0] = r.model.n_layers > 1 ? 0 : 1;
        for (uint32_t i = 0; i < 40; i++) {
            if (below(3) > 0) random_event(&r);
            checked_step(&r);
            some_get_ready(&r);
        }
        converge(&r);
        if (r.now != NULL) check_rest(&r);
        planner_rack_fini(&r);
    }
}

static void says_the_same_twice(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 6, 16, 2, 2);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 70);
    planner_rack_join(&r, "c", 130);
    planner_input in = planner_rack_input(&r);
    planner_step a, b;
    assert_int_equal(planner_next(&in, &a), 0);
    assert_int_equal(planner_next(&in, &b), 0);
    assert_int_equal(a.n_layers, b.n_layers);
    for (uint32_t i = 0; i < a.n_layers; i++) {
        assert_true(layer_map_equal(&a.layers[i], &b.layers[i]));
    }
    planner_step_fini(&a);
    planner_step_fini(&b);
    planner_rack_fini(&r);
}

/* ---- a large one ---- */

static void plans_deepseek_v3(void **state) {
    static const uint32_t cuts[] = {1, 8};
    (void)state;
    for (uint32_t i = 0; i < ARRAY_LEN(cuts); i++) {
        planner_rack r;
        planner_rack_init(&r, 61, 256, cuts[i], 2);
        r.slices[0] = r.slices[1] = r.slices[2] = 0;
        for (uint32_t n = 0; n < 16; n++) {
            char name[8];
            snprintf(name, sizeof(name), "n%02u", n);
            planner_rack_join(&r, name, 4000 * cuts[i]);
        }
        uint64_t begin = now_us();
        uint32_t steps = planner_rack_settle(&r);
        uint64_t first = now_us();
        assert_in_range(steps, 1, 4);
        uint32_t least, most;
        planner_rack_range(&r, &least, &most);
        assert_true(least == 2 && most == 2);
        planner_rack_join(&r, "n16", 4000 * cuts[i]);
        planner_rack_settle(&r);
        uint64_t second = now_us();
        assert_in_range(planner_rack_units(&r, "n16"), 1600 * cuts[i],
                        1850 * cuts[i]);
        planner_rack_settle(&r);
        printf("58 x 256 experts in %u slices on 16 nodes: first %.0f ms, "
               "a node joins %.0f ms, nothing to do %.0f ms\n",
               cuts[i], (double)(first - begin) / 1000,
               (double)(second - first) / 1000,
               (double)(now_us() - second) / 1000);
        planner_rack_fini(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_to_rest_from_anything),
        cmocka_unit_test(says_the_same_twice),
        cmocka_unit_test(plans_deepseek_v3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
