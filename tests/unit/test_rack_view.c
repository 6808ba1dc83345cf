/* test_rack_view.c - the picture of a rack, fed key by key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/rack_view.h"
#include "engine/err.h"

#define LAYERS 3 /* the first is dense */
#define EXPERTS 4

static int put(rack_view *v, const char *key, const void *value, size_t bytes,
               int64_t revision) {
    char why[200] = "";
    int rc = rack_view_put(v, key, strlen(key), value, bytes, revision,
                           revision, why, sizeof(why));
    assert_true((rc == 0) == (why[0] == '\0'));
    return rc;
}

static int put_text(rack_view *v, const char *key, char *text,
                    int64_t revision) {
    assert_non_null(text);
    int rc = put(v, key, text, strlen(text), revision);
    free(text);
    return rc;
}

static char *node_text(uint64_t boot) {
    node_record r = {.boot = boot,
                     .control = "tcp://127.0.0.1:7000",
                     .protocol = 1,
                     .profile = {1, "a8", "f32", "", "", ""}};
    return node_record_pack(&r);
}

static int put_epoch(rack_view *v, uint64_t incarnation, uint64_t epoch,
                     int64_t revision) {
    char nodes[3][RECORD_NAME] = {"zwei", "", "eins"};
    epoch_record r = {.incarnation = incarnation,
                      .epoch = epoch,
                      .n_layers = LAYERS,
                      .n_experts = EXPERTS,
                      .slices = 2,
                      .min_replicas = 1,
                      .nodes = nodes,
                      .n_nodes = 3,
                      .writer = "w",
                      .term = 1};
    return put_text(v, "placement/epoch", epoch_record_pack(&r), revision);
}

/* Every unit on one node. */
static int put_layer(rack_view *v, uint32_t layer, uint32_t slices,
                     uint16_t node, int64_t revision) {
    layer_map m;
    char key[64];
    uint8_t *bytes;
    size_t n;
    uint32_t units = EXPERTS * slices;
    assert_int_equal(layer_map_init(&m, slices, units, units), 0);
    for (uint32_t i = 0; i <= units; i++)
        m.first[i] = i;
    for (uint32_t i = 0; i < units; i++)
        m.holders[i] = node;
    assert_int_equal(layer_map_pack(&m, &bytes, &n), 0);
    layer_map_fini(&m);
    snprintf(key, sizeof(key), "placement/layer/%u", layer);
    int rc = put(v, key, bytes, n, revision);
    free(bytes);
    return rc;
}

static int settle(rack_view *v) {
    char why[200] = "";
    int rc = rack_view_settle(v, why, sizeof(why));
    assert_true((rc == 0) == (why[0] == '\0'));
    return rc;
}

/* Layers 1 and 2 on eins and zwei, epoch 1.5. */
static rack_view *placed(void) {
    rack_view *v;
    assert_int_equal(rack_view_new(&v), 0);
    assert_int_equal(put_layer(v, 1, 1, 2, 10), 0);
    assert_int_equal(put_layer(v, 2, 2, 0, 10), 0);
    assert_int_equal(put_epoch(v, 1, 5, 10), 0);
    assert_int_equal(settle(v), 0);
    assert_non_null(rack_view_placement(v));
    return v;
}

static void keeps_records_sorted_by_name(void **state) {
    static const char *const keys[] = {"nodes/m", "nodes/b", "nodes/z",
                                       "nodes/a", "nodes/m"};
    rack_view *v;
    size_t n;
    (void)state;
    assert_int_equal(rack_view_new(&v), 0);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(
            put_text(v, keys[i], node_text((uint64_t)i + 1), i + 1), 0);
    }
    const node_record *nodes = rack_view_nodes(v, &n);
    assert_int_equal(n, 4);
    assert_string_equal(nodes[0].name, "a");
    assert_string_equal(nodes[1].name, "b");
    assert_string_equal(nodes[2].name, "m");
    assert_string_equal(nodes[3].name, "z");
    assert_true(nodes[2].boot == 5 && nodes[2].mod_revision == 5);
    assert_ptr_equal(rack_view_node(v, "z"), &nodes[3]);
    assert_null(rack_view_node(v, "y"));

    rack_view_delete(v, "nodes/b", 7);
    rack_view_delete(v, "nodes/nobody", 12);
    nodes = rack_view_nodes(v, &n);
    assert_int_equal(n, 3);
    assert_string_equal(nodes[1].name, "m");
    rack_view_clear(v);
    rack_view_nodes(v, &n);
    assert_int_equal(n, 0);
    rack_view_free(v);
    rack_view_free(NULL);
}

static void keeps_every_kind_of_record(void **state) {
    coordinator_record c = {.boot = 2,
                            .client = "tcp://h:1",
                            .protocol = 1,
                            .profile = {1, "a8", "f32", "", "", ""}};
    leader_record l = {.name = "a", .boot = 2};
    ready_record r = {.boot = 3, .incarnation = 1, .epoch = 5, .digest = 9};
    drain_record d = {.by = "me"};
    rack_view *v;
    size_t n;
    (void)state;
    assert_int_equal(rack_view_new(&v), 0);
    put_text(v, "coordinators/a", coordinator_record_pack(&c), 4);
    put_text(v, "leader", leader_record_pack(&l), 5);
    put_text(v, "ready/one", ready_record_pack(&r), 6);
    put_text(v, "drain/one", drain_record_pack(&d), 7);
    assert_string_equal(rack_view_coordinators(v, &n)->client, "tcp://h:1");
    assert_int_equal(n, 1);
    assert_true(rack_view_leader(v)->create_revision == 5);
    assert_true(rack_view_ready(v, "one")->digest == 9);
    assert_string_equal(rack_view_drain(v, "one")->by, "me");
    assert_string_equal(rack_view_drains(v, &n)->name, "one");
    assert_int_equal(n, 1);

    rack_view_delete(v, "coordinators/a", 14);
    rack_view_delete(v, "leader", 6);
    rack_view_delete(v, "ready/one", 9);
    rack_view_delete(v, "drain/one", 9);
    rack_view_delete(v, "audit/1", 7);
    rack_view_coordinators(v, &n);
    assert_int_equal(n, 0);
    assert_null(rack_view_leader(v));
    assert_null(rack_view_ready(v, "one"));
    assert_null(rack_view_drain(v, "one"));
    rack_view_free(v);
}

static void forgets_a_record_whose_next_form_cannot_be_read(void **state) {
    rack_view *v;
    (void)state;
    assert_int_equal(rack_view_new(&v), 0);
    put_text(v, "nodes/a", node_text(1), 1);
    assert_int_equal(put(v, "nodes/a", "{}", 2, 2), ERR_FORMAT);
    assert_null(rack_view_node(v, "a"));
    assert_int_equal(put(v, "leader", "x", 1, 3), ERR_FORMAT);
    assert_int_equal(put(v, "placement/layer/7", "x", 1, 3), ERR_FORMAT);
    assert_int_equal(put(v, "somebody/else", "x", 1, 3), 0);
    assert_true(rack_view_passed_over(v) == 3);
    put_text(v, "nodes/a", node_text(2), 4);
    assert_non_null(rack_view_node(v, "a"));
    rack_view_free(v);
}

static void bounds_the_number_of_records(void **state) {
    rack_view *v;
    char key[64], why[200];
    char *text = node_text(1);
    int rc = 0;
    (void)state;
    assert_int_equal(rack_view_new(&v), 0);
    for (int i = 0; i <= 2 * RECORD_NODES_MAX; i++) {
        assert_int_equal(rc, 0);
        snprintf(key, sizeof(key), "nodes/n%d", i);
        rc = rack_view_put(v, key, strlen(key), text, strlen(text), 1, 1, why,
                           sizeof(why));
    }
    assert_int_equal(rc, ERR_TOO_LARGE);
    free(text);
    rack_view_free(v);
}

static void answers_who_holds_what(void **state) {
    rack_view *v = placed();
    const rack_placement *p = rack_view_placement(v);
    (void)state;
    int32_t eins = rack_placement_node(p, "eins");
    int32_t zwei = rack_placement_node(p, "zwei");
    assert_int_equal(eins, 2);
    assert_int_equal(zwei, 0);
    assert_int_equal(rack_placement_node(p, "drei"), -1);
    assert_int_equal(rack_placement_node(p, ""), -1);
    assert_true(rack_placement_epoch(p) == epoch_pack(1, 5));
    assert_null(rack_placement_layer(p, 0));
    assert_null(rack_placement_layer(p, LAYERS));
    assert_int_equal(rack_placement_layer(p, 2)->n_units, 8);
    assert_true(rack_placement_assigns(p, eins, 1, 3));
    assert_false(rack_placement_assigns(p, eins, 2, 3));
    assert_false(rack_placement_assigns(p, eins, 1, EXPERTS));
    assert_false(rack_placement_assigns(p, eins, 0, 0));
    assert_false(rack_placement_assigns(p, -1, 1, 0));
    assert_true(rack_placement_assigns(p, zwei, 2, 7));
    assert_true(rack_placement_units(p, eins) == 4);
    assert_true(rack_placement_units(p, zwei) == 8);
    assert_true(rack_placement_units(p, 1) == 0);
    assert_true(rack_placement_units(p, -1) == 0);
    assert_true(rack_placement_digest(p, 1) == 0);
    assert_true(rack_placement_digest(p, eins) != 0);
    assert_true(rack_placement_digest(p, eins) !=
                rack_placement_digest(p, zwei));
    assert_true(rack_view_epoch_revision(v) == 10);
    rack_view_free(v);
}

/* What stays in a layer stays in its nodes' digests, whatever the epoch. */
static void digest_depends_on_the_units_alone(void **state) {
    rack_view *v = placed();
    (void)state;
    uint64_t before = rack_placement_digest(rack_view_placement(v), 2);
    put_layer(v, 2, 1, 0, 11);
    put_epoch(v, 1, 6, 11);
    assert_int_equal(settle(v), 0);
    const rack_placement *p = rack_view_placement(v);
    assert_true(rack_placement_epoch(p) == epoch_pack(1, 6));
    assert_true(rack_placement_digest(p, 2) == before);
    assert_true(rack_placement_units(p, 0) == 4);
    rack_view_free(v);
}

static void sum_tells_placements_apart(void **state) {
    rack_view *v = placed(), *same = placed();
    (void)state;
    uint64_t before = rack_placement_sum(rack_view_placement(v));
    assert_true(before == rack_placement_sum(rack_view_placement(same)));
    put_epoch(v, 1, 6, 11);
    assert_int_equal(settle(v), 0);
    assert_true(before != rack_placement_sum(rack_view_placement(v)));
    /* Under the number that the other one has now, another layer. */
    put_layer(same, 2, 1, 0, 11);
    put_epoch(same, 1, 6, 11);
    assert_int_equal(settle(same), 0);
    assert_true(rack_placement_sum(rack_view_placement(v)) !=
                rack_placement_sum(rack_view_placement(same)));
    rack_view_free(same);
    rack_view_free(v);
}

static void takes_nothing_up_before_the_revision_is_whole(void **state) {
    rack_view *v = placed();
    (void)state;
    put_epoch(v, 1, 6, 11);
    assert_true(rack_placement_epoch(rack_view_placement(v)) ==
                epoch_pack(1, 5));
    put_layer(v, 1, 1, 0, 11);
    assert_int_equal(settle(v), 0);
    assert_true(rack_placement_units(rack_view_placement(v), 0) == 12);
    rack_view_free(v);
}

static void keeps_a_referenced_placement_alive(void **state) {
    rack_view *v = placed();
    (void)state;
    rack_placement *kept = rack_placement_ref(rack_view_placement(v));
    put_layer(v, 1, 1, 0, 11);
    put_epoch(v, 1, 6, 11);
    assert_int_equal(settle(v), 0);
    rack_view_free(v);
    assert_true(rack_placement_assigns(kept, 2, 1, 0));
    assert_int_equal(rack_placement_head(kept)->n_nodes, 3);
    rack_placement_unref(kept);
    rack_placement_unref(NULL);
    assert_null(rack_placement_ref(NULL));
}

static void keeps_the_accepted_one_when_the_next_does_not_fit(void **state) {
    rack_view *v = placed();
    (void)state;
    put_layer(v, 1, 4, 0, 11); /* more slices than the epoch has */
    put_epoch(v, 1, 6, 11);
    assert_int_equal(settle(v), ERR_FORMAT);
    assert_int_equal(settle(v), 0); /* said once */
    assert_true(rack_placement_epoch(rack_view_placement(v)) ==
                epoch_pack(1, 5));

    put_layer(v, 1, 1, 3, 12); /* one node too many */
    assert_int_equal(settle(v), ERR_FORMAT);
    put_layer(v, 1, 1, 1, 12); /* a free place */
    assert_int_equal(settle(v), ERR_FORMAT);
    assert_int_equal(put(v, "placement/layer/1", "x", 1, 12), ERR_FORMAT);
    assert_int_equal(settle(v), ERR_FORMAT);
    put_layer(v, 1, 1, 0, 13);
    assert_int_equal(put(v, "placement/epoch", "x", 1, 13), ERR_FORMAT);
    assert_true(rack_view_epoch_revision(v) == 13);
    assert_int_equal(settle(v), ERR_FORMAT);
    assert_false(rack_view_rolled_back(v));
    put_epoch(v, 1, 7, 14);
    assert_int_equal(settle(v), 0);
    assert_true(rack_placement_epoch(rack_view_placement(v)) ==
                epoch_pack(1, 7));
    rack_view_free(v);
}

static void ignores_a_layer_that_the_epoch_does_not_have(void **state) {
    rack_view *v = placed();
    (void)state;
    assert_int_equal(put(v, "placement/layer/9", "x", 1, 11), ERR_FORMAT);
    put_epoch(v, 1, 6, 11);
    assert_int_equal(settle(v), 0);
    assert_true(rack_placement_epoch(rack_view_placement(v)) ==
                epoch_pack(1, 6));
    rack_view_free(v);
}

static void takes_no_older_placement(void **state) {
    rack_view *v = placed();
    const rack_placement *before = rack_view_placement(v);
    (void)state;
    put_epoch(v, 1, 4, 11);
    assert_int_equal(settle(v), 0);
    assert_true(rack_view_rolled_back(v));
    assert_ptr_equal(rack_view_placement(v), before);
    put_epoch(v, 0, 900, 12);
    assert_int_equal(settle(v), 0);
    assert_true(rack_view_rolled_back(v));
    put_epoch(v, 2, 1, 13); /* recovered */
    assert_int_equal(settle(v), 0);
    assert_false(rack_view_rolled_back(v));
    assert_true(rack_placement_epoch(rack_view_placement(v)) ==
                epoch_pack(2, 1));
    rack_view_free(v);
}

static void outlives_a_listing_without_a_placement(void **state) {
    rack_view *v = placed();
    (void)state;
    rack_view_clear(v);
    assert_int_equal(settle(v), 0);
    assert_true(rack_view_rolled_back(v));
    assert_true(rack_view_epoch_revision(v) == 0);
    assert_non_null(rack_view_placement(v));
    rack_view_free(v);

    assert_int_equal(rack_view_new(&v), 0);
    rack_view_clear(v);
    assert_int_equal(settle(v), 0);
    assert_false(rack_view_rolled_back(v)); /* there never was one */
    rack_view_free(v);
}

static void recognizes_the_same_placement_when_listed_anew(void **state) {
    rack_view *v = placed();
    const rack_placement *before = rack_view_placement(v);
    (void)state;
    rack_view_clear(v);
    put_epoch(v, 1, 5, 10);
    put_layer(v, 1, 1, 2, 10);
    put_layer(v, 2, 2, 0, 10);
    assert_int_equal(settle(v), 0);
    assert_false(rack_view_rolled_back(v));
    assert_ptr_equal(rack_view_placement(v), before);

    /* The same number over other contents: somebody went on elsewhere. */
    rack_view_clear(v);
    put_epoch(v, 1, 5, 10);
    put_layer(v, 1, 1, 0, 10);
    put_layer(v, 2, 2, 0, 10);
    assert_int_equal(settle(v), 0);
    assert_true(rack_view_rolled_back(v));
    assert_ptr_equal(rack_view_placement(v), before);
    rack_view_free(v);
}

static void follows_the_revision_of_what_is_written_anew(void **state) {
    rack_view *v = placed();
    (void)state;
    put_epoch(v, 1, 5, 17); /* damaged by somebody, and put right */
    assert_int_equal(settle(v), 0);
    assert_false(rack_view_rolled_back(v));
    assert_int_equal(rack_placement_head(rack_view_placement(v))->mod_revision,
                     17);
    assert_int_equal(rack_view_epoch_revision(v), 17);
    rack_view_free(v);
}

static void a_deleted_layer_is_dense_from_then_on(void **state) {
    rack_view *v = placed();
    (void)state;
    rack_view_delete(v, "placement/layer/2", 17);
    put_epoch(v, 1, 6, 12);
    assert_int_equal(settle(v), 0);
    assert_null(rack_placement_layer(rack_view_placement(v), 2));
    rack_view_delete(v, "placement/epoch", 15);
    assert_int_equal(settle(v), 0);
    assert_true(rack_view_rolled_back(v));
    rack_view_free(v);
}

static void keeps_a_rack_of_a_thousand_nodes(void **state) {
    epoch_record r = {.incarnation = 1,
                      .epoch = 1,
                      .n_layers = 2,
                      .n_experts = 1024,
                      .slices = 1,
                      .min_replicas = 1,
                      .n_nodes = RECORD_NODES_MAX,
                      .writer = "w"};
    rack_view *v;
    layer_map m;
    uint8_t *bytes;
    size_t n;
    char name[RECORD_NAME];
    (void)state;
    assert_int_equal(rack_view_new(&v), 0);
    r.nodes = calloc(RECORD_NODES_MAX, sizeof(*r.nodes));
    assert_non_null(r.nodes);
    for (int i = 0; i < RECORD_NODES_MAX; i++) {
        snprintf(r.nodes[i], sizeof(r.nodes[i]), "node-%d", 7 * i % 1024);
    }
    assert_int_equal(layer_map_init(&m, 1, 1024, 1024), 0);
    for (uint32_t i = 0; i <= 1024; i++)
        m.first[i] = i;
    for (uint32_t i = 0; i < 1024; i++)
        m.holders[i] = (uint16_t)i;
    assert_int_equal(layer_map_pack(&m, &bytes, &n), 0);
    assert_int_equal(put(v, "placement/layer/1", bytes, n, 3), 0);
    put_text(v, "placement/epoch", epoch_record_pack(&r), 3);
    assert_int_equal(settle(v), 0);
    const rack_placement *p = rack_view_placement(v);
    for (int i = 0; i < RECORD_NODES_MAX; i++) {
        snprintf(name, sizeof(name), "node-%d", 7 * i % 1024);
        assert_int_equal(rack_placement_node(p, name), i);
        assert_true(rack_placement_units(p, i) == 1);
    }
    free(bytes);
    layer_map_fini(&m);
    epoch_record_fini(&r);
    rack_view_free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_records_sorted_by_name),
        cmocka_unit_test(keeps_every_kind_of_record),
        cmocka_unit_test(forgets_a_record_whose_next_form_cannot_be_read),
        cmocka_unit_test(bounds_the_number_of_records),
        cmocka_unit_test(answers_who_holds_what),
        cmocka_unit_test(digest_depends_on_the_units_alone),
        cmocka_unit_test(sum_tells_placements_apart),
        cmocka_unit_test(takes_nothing_up_before_the_revision_is_whole),
        cmocka_unit_test(keeps_a_referenced_placement_alive),
        cmocka_unit_test(keeps_the_accepted_one_when_the_next_does_not_fit),
        cmocka_unit_test(ignores_a_layer_that_the_epoch_does_not_have),
        cmocka_unit_test(takes_no_older_placement),
        cmocka_unit_test(outlives_a_listing_without_a_placement),
        cmocka_unit_test(recognizes_the_same_placement_when_listed_anew),
        cmocka_unit_test(follows_the_revision_of_what_is_written_anew),
        cmocka_unit_test(a_deleted_layer_is_dense_from_then_on),
        cmocka_unit_test(keeps_a_rack_of_a_thousand_nodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
