/* test_placement_etcd.c - a placement of DeepSeek-V3's size through a real
 * etcd: written by one registry in one transaction, read by another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/util.h"
#include "tests/support/etcd_child.h"
#include "tests/support/placement_sample.h"
#include "tests/support/registry_rig.h"

#define SECONDS_MOST 10

static etcd_child child;

static int clean_up(void **state) {
    (void)state;
    etcd_child_fini(&child);
    return 0;
}

/* As etcd counts it: keys and values of all puts. */
static size_t request_bytes(const placement_sample *s) {
    char key[RECORD_KEY];
    size_t sum = 0;
    for (uint32_t i = 0; i < SAMPLE_MOE; i++) {
        uint8_t *packed;
        size_t bytes;
        assert_int_equal(layer_map_pack(s->layers[i], &packed, &bytes), 0);
        free(packed);
        record_key("test", RECORD_LAYER, NULL, s->numbers[i], key);
        sum += bytes + strlen(key);
    }
    char *text = epoch_record_pack(&s->head);
    assert_non_null(text);
    sum += strlen(text);
    free(text);
    return sum;
}

static bool has_placement(void *ctx) {
    const registry_rig *g = ctx;
    const rack_view *v = registry_view(g->registry);
    return v != NULL && rack_view_placement(v) != NULL;
}

static void check_equal(const placement_sample *s, const rack_placement *p) {
    assert_true(rack_placement_epoch(p) == epoch_pack(1, 1));
    assert_int_equal(rack_placement_head(p)->n_nodes, SAMPLE_NODES);
    for (uint32_t i = 0; i < SAMPLE_DENSE; i++) {
        assert_null(rack_placement_layer(p, i));
    }
    for (uint32_t i = 0; i < SAMPLE_MOE; i++) {
        const layer_map *m = rack_placement_layer(p, s->numbers[i]);
        assert_non_null(m);
        assert_true(layer_map_equal(m, s->layers[i]));
    }
    uint64_t units = 0;
    for (int i = 0; i < SAMPLE_NODES; i++) {
        assert_int_equal(rack_placement_node(p, s->nodes[i]), i);
        units += rack_placement_units(p, i);
    }
    assert_true(units ==
                (uint64_t)SAMPLE_MOE * SAMPLE_EXPERTS * SAMPLE_REPLICAS);
}

static void carries_deepseek_v3_in_one_transaction(void **state) {
    static placement_sample s;
    registry_rig writer, reader;
    registry_rig *both[] = {&writer, &reader};
    (void)state;
    etcd_child_need();
    etcd_child_init(&child);
    etcd_child_start(&child);
    assert_int_equal(placement_sample_init(&s), 0);
    registry_rig_open(&writer, child.endpoints, 1, REGISTRY_COORDINATOR, "a",
                      5);
    registry_rig_publish(&writer, 7101);
    registry_rig_open(&reader, child.endpoints, 1, REGISTRY_NODE, "one", 5);
    registry_rig_until(both, 2, registry_rig_leads, &writer);
    registry_rig_until(both, 2, registry_rig_live, &reader);

    uint64_t begin = now_ms();
    const placement_write w = {.head = &s.head,
                               .layer_numbers = s.numbers,
                               .layers = s.layers,
                               .n_layers = SAMPLE_MOE,
                               .term = registry_term(writer.registry)};
    assert_int_equal(registry_write_placement(writer.registry, &w,
                                              registry_rig_on_done, &writer),
                     0);
    registry_rig_until(both, 2, has_placement, &reader);
    registry_rig_until(both, 2, registry_rig_done, &writer);
    uint64_t took = now_ms() - begin;
    assert_int_equal(writer.code, ETCD_OK);
    check_equal(&s, rack_view_placement(registry_view(reader.registry)));

    size_t bytes = request_bytes(&s);
    printf("%d units x %d on %d nodes: %zu bytes, written and read in %llu "
           "ms\n",
           SAMPLE_MOE * SAMPLE_EXPERTS, SAMPLE_REPLICAS, SAMPLE_NODES, bytes,
           (unsigned long long)took);
    assert_true(bytes < ETCD_REQUEST_BYTES_MAX / 4);
    assert_true(took < SECONDS_MOST * 1000);
    registry_rig_close(&writer);
    registry_rig_close(&reader);
    placement_sample_fini(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(carries_deepseek_v3_in_one_transaction,
                                  clean_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
