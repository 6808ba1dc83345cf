/* test_layer_map.c - one layer's placement and its packed form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "discovery/layer_map.h"
#include "engine/err.h"
#include "engine/util.h"

/* Unit u on nodes u % nodes and (u + 1) % nodes, ascending. */
static layer_map pairs(uint32_t slices, uint32_t n_units, uint32_t nodes) {
    layer_map m;
    assert_int_equal(layer_map_init(&m, slices, n_units, 2 * n_units), 0);
    for (uint32_t u = 0; u < n_units; u++) {
        uint32_t a = u % nodes, b = (u + 1) % nodes;
        m.first[u] = 2 * u;
        m.holders[2 * u] = (uint16_t)(a < b ? a : b);
        m.holders[2 * u + 1] = (uint16_t)(a < b ? b : a);
    }
    m.first[n_units] = 2 * n_units;
    return m;
}

static void reads_back_what_it_packed(void **state) {
    static const struct {
        uint32_t slices, n_units, nodes;
    } cases[] = {{1, 1, 2}, {1, 256, 16}, {8, 64, 1024}, {4, 4, 300}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        layer_map m = pairs(cases[i].slices, cases[i].n_units, cases[i].nodes);
        layer_map back;
        uint8_t *bytes;
        size_t n;
        assert_int_equal(layer_map_pack(&m, &bytes, &n), 0);
        assert_int_equal(
            layer_map_unpack(&back, bytes, n, cases[i].nodes, NULL, 0), 0);
        assert_true(layer_map_equal(&m, &back));
        layer_map_fini(&back);
        assert_int_equal(layer_map_copy(&back, &m), 0);
        assert_true(layer_map_equal(&m, &back));
        back.holders[0] ^= 1;
        assert_false(layer_map_equal(&m, &back));
        layer_map_fini(&back);
        layer_map_fini(&m);
        free(bytes);
    }
}

static void packs_units_without_holders_and_none_at_all(void **state) {
    layer_map m, back;
    uint8_t *bytes;
    size_t n;
    (void)state;
    assert_int_equal(layer_map_init(&m, 2, 4, 1), 0);
    m.first[3] = m.first[4] = 1;
    m.holders[0] = 7;
    assert_int_equal(layer_map_pack(&m, &bytes, &n), 0);
    assert_int_equal(n, 1 + 2 + 5 + 8);
    assert_int_equal(layer_map_unpack(&back, bytes, n, 8, NULL, 0), 0);
    assert_true(layer_map_equal(&m, &back));
    uint32_t count;
    assert_int_equal(layer_map_holders(&back, 2, &count)[0], 7);
    assert_int_equal(count, 1);
    layer_map_holders(&back, 3, &count);
    assert_int_equal(count, 0);
    layer_map_fini(&back);
    layer_map_fini(&m);
    free(bytes);

    assert_int_equal(layer_map_init(&m, 1, 0, 0), 0);
    assert_int_equal(layer_map_pack(&m, &bytes, &n), 0);
    assert_int_equal(layer_map_unpack(&back, bytes, n, 0, NULL, 0), 0);
    assert_true(layer_map_equal(&m, &back));
    layer_map_fini(&back);
    layer_map_fini(&m);
    layer_map_fini(&m);
    layer_map_fini(NULL);
    free(bytes);
}

static void refuses_sizes_above_the_limits(void **state) {
    layer_map m;
    (void)state;
    assert_int_equal(layer_map_init(&m, 3, 9, 0), ERR_RANGE);
    assert_int_equal(layer_map_init(&m, 0, 4, 0), ERR_RANGE);
    assert_int_equal(layer_map_init(&m, 16, 16, 0), ERR_RANGE);
    assert_int_equal(layer_map_init(&m, 2, 3, 0), ERR_RANGE);
    assert_int_equal(layer_map_init(&m, 1, 65537, 0), ERR_RANGE);
    assert_int_equal(layer_map_init(&m, 1, 1, LAYER_MAP_MAX_HOLDERS + 1),
                     ERR_RANGE);
    assert_int_equal(layer_map_init(&m, 1, 1, LAYER_MAP_MAX_HOLDERS), 0);
    layer_map_fini(&m);
}

/* The body, with the checksum that it needs. */
static int unpack_body(const uint8_t *body, size_t n, uint32_t nodes,
                       char why[160]) {
    uint8_t all[128];
    layer_map m;
    assert_true(n + 8 <= sizeof(all));
    memcpy(all, body, n);
    uint64_t sum = XXH3_64bits(all, n);
    for (int i = 0; i < 8; i++)
        all[n + (size_t)i] = (uint8_t)(sum >> 8 * i);
    int rc = layer_map_unpack(&m, all, n + 8, nodes, why, 160);
    layer_map_fini(&m);
    return rc;
}

static void refuses_what_is_not_sound(void **state) {
    static const struct {
        int rc;
        size_t n;
        uint8_t body[16];
    } cases[] = {
        {0, 6, {1, 1, 1, 2, 0, 1}},
        {ERR_UNSUPPORTED, 6, {2, 1, 1, 2, 0, 1}},
        {ERR_FORMAT, 6, {0, 1, 1, 2, 0, 1}},    /* no such version */
        {ERR_FORMAT, 6, {1, 3, 1, 2, 0, 1}},    /* 3 slices */
        {ERR_FORMAT, 6, {1, 2, 1, 2, 0, 1}},    /* half an expert */
        {ERR_FORMAT, 6, {1, 1, 1, 2, 1, 1}},    /* twice the same */
        {ERR_FORMAT, 6, {1, 1, 1, 2, 1, 0}},    /* descending */
        {ERR_RANGE, 6, {1, 1, 1, 2, 0, 3}},     /* of 3 nodes */
        {ERR_FORMAT, 5, {1, 1, 1, 2, 0}},       /* one is missing */
        {ERR_FORMAT, 7, {1, 1, 1, 2, 0, 1, 0}}, /* one too many */
        {ERR_FORMAT, 4, {1, 1, 1, 65}},         /* too many holders */
        {ERR_FORMAT, 3, {1, 1, 1}},             /* no units */
        {ERR_FORMAT, 4, {1, 1, 0x80, 0x80}},    /* an open number */
        {ERR_FORMAT, 8, {1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0}},
        {ERR_FORMAT, 8, {1, 1, 0xff, 0xff, 0xff, 0xff, 0x7f, 0}},
        {ERR_FORMAT, 2, {1, 1}},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char why[160] = "";
        int rc = unpack_body(cases[i].body, cases[i].n, 3, why);
        if (rc != cases[i].rc) fail_msg("case %zu: %d, %s", i, rc, why);
        assert_true((rc == 0) == (why[0] == '\0'));
    }
}

static void finds_every_flipped_bit_and_every_cut(void **state) {
    layer_map m = pairs(2, 8, 5), back;
    uint8_t *bytes;
    size_t n;
    (void)state;
    assert_int_equal(layer_map_pack(&m, &bytes, &n), 0);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(layer_map_unpack(&back, bytes, n, 5, NULL, 0) < 0);
        assert_null(back.first);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t cut = 0; cut < n; cut++) {
        assert_true(layer_map_unpack(&back, bytes, cut, 5, NULL, 0) < 0);
    }
    assert_int_equal(layer_map_unpack(&back, NULL, 0, 5, NULL, 0), ERR_FORMAT);
    layer_map_fini(&m);
    free(bytes);
}

static void fits_deepseek_v3_into_one_transaction(void **state) {
    layer_map m = pairs(1, 256, 16);
    uint8_t *bytes;
    size_t n;
    (void)state;
    assert_int_equal(layer_map_pack(&m, &bytes, &n), 0);
    assert_true(58 * n < 64 * 1024);
    layer_map_fini(&m);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back_what_it_packed),
        cmocka_unit_test(packs_units_without_holders_and_none_at_all),
        cmocka_unit_test(refuses_sizes_above_the_limits),
        cmocka_unit_test(refuses_what_is_not_sound),
        cmocka_unit_test(finds_every_flipped_bit_and_every_cut),
        cmocka_unit_test(fits_deepseek_v3_into_one_transaction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
