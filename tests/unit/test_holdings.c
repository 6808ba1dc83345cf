/* test_holdings.c - sets of experts, by list and by share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "discovery/holdings.h"
#include "engine/err.h"
#include "engine/util.h"

static void starts_empty_and_keeps_what_is_added(void **state) {
    holdings h, copy;
    (void)state;
    assert_int_equal(holdings_init(&h, 3, 5), 0);
    assert_int_equal(holdings_bytes(&h), 2);
    assert_int_equal(holdings_count(&h), 0);
    holdings_add(&h, 0, 0);
    holdings_add(&h, 2, 4);
    holdings_add(&h, 2, 4);
    assert_int_equal(holdings_count(&h), 2);
    assert_true(holdings_has(&h, 0, 0));
    assert_true(holdings_has(&h, 2, 4));
    assert_false(holdings_has(&h, 1, 0));
    assert_int_equal(h.bits[0], 0x01); /* layer * n_experts + expert, */
    assert_int_equal(h.bits[1], 0x40); /* the lowest bit first */

    assert_int_equal(holdings_copy(&copy, &h), 0);
    assert_true(holdings_equal(&copy, &h));
    holdings_add(&copy, 1, 1);
    assert_false(holdings_equal(&copy, &h));
    holdings_fini(&copy);
    holdings_fini(&h);
    holdings_fini(NULL);
}

static void holds_nothing_beyond_its_sizes(void **state) {
    holdings h, other;
    (void)state;
    assert_int_equal(holdings_init(&h, 2, 4), 0);
    assert_int_equal(holdings_add_spec(&h, "*:*", NULL, 0), 0);
    assert_false(holdings_has(&h, 2, 0));
    assert_false(holdings_has(&h, 0, 4));
    assert_false(holdings_has(&h, UINT32_MAX, UINT32_MAX));
    assert_int_equal(holdings_init(&other, 4, 2), 0);
    assert_int_equal(holdings_add_spec(&other, "*:*", NULL, 0), 0);
    assert_false(holdings_equal(&h, &other));
    holdings_fini(&other);
    holdings_fini(&h);
}

static void refuses_sizes_above_the_limits(void **state) {
    holdings h;
    (void)state;
    assert_int_equal(holdings_init(&h, HOLDINGS_MAX_LAYERS + 1, 1), ERR_RANGE);
    holdings_fini(&h);
    assert_int_equal(holdings_init(&h, 1, HOLDINGS_MAX_EXPERTS + 1), ERR_RANGE);
    holdings_fini(&h);
    assert_int_equal(holdings_init(&h, 0, 0), 0); /* a dense model */
    assert_int_equal(holdings_count(&h), 0);
    holdings_fini(&h);
}

static void reads_lists_ranges_and_stars(void **state) {
    const struct {
        const char *spec;
        uint64_t count;
        uint32_t has[2], lacks[2];
    } cases[] = {
        {"*:*", 48, {5, 7}, {6, 0}},
        {"*:0-3", 24, {5, 3}, {5, 4}},
        {"0:0", 1, {0, 0}, {0, 1}},
        {"0-2,5:1,3;3:*", 4 * 2 + 8, {5, 3}, {4, 0}},
        {"1:1;1:1-2", 2, {1, 2}, {1, 3}},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        holdings h;
        char why[256];
        assert_int_equal(holdings_init(&h, 6, 8), 0);
        int rc = holdings_add_spec(&h, cases[i].spec, why, sizeof(why));
        if (rc < 0) fail_msg("%s", why);
        assert_int_equal(holdings_count(&h), cases[i].count);
        assert_true(holdings_has(&h, cases[i].has[0], cases[i].has[1]));
        assert_false(holdings_has(&h, cases[i].lacks[0], cases[i].lacks[1]));
        holdings_fini(&h);
    }
}

static void says_where_a_list_is_wrong_and_adds_nothing(void **state) {
    const struct {
        const char *spec, *words;
    } cases[] = {
        {"", "column 1"},
        {"0", "':' at column 2"},
        {":0", "a layer number"},
        {"0:", "an expert number"},
        {"0:1;", "column 5"},
        {"0:0;6:1", "layer 6 at column 5"},
        {"0:8", "expert 8 at column 3"},
        {"0:0-8", "expert 8"},
        {"0:3-1", "backwards at column 3"},
        {"0:1-", "the end of a range"},
        {"0:1,", "an expert number"},
        {"0:1 2", "';' or the end at column 4"},
        {"0:*1", "';' or the end"},
        {"0:99999999999999999999", "a smaller number"},
        {"-1:0", "a layer number"},
        {"a:0", "a layer number"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        holdings h;
        char why[256] = "";
        assert_int_equal(holdings_init(&h, 6, 8), 0);
        assert_int_equal(holdings_add_spec(&h, cases[i].spec, why, sizeof(why)),
                         ERR_USAGE);
        if (strstr(why, cases[i].words) == NULL) fail_msg("%s", why);
        assert_int_equal(holdings_count(&h), 0);
        holdings_fini(&h);
    }
}

/* Every expert is held by as many nodes as it has replicas. */
static void shares_cover_every_expert_equally(void **state) {
    (void)state;
    for (uint32_t nodes = 1; nodes <= 5; nodes++) {
        for (uint32_t replicas = 1; replicas <= nodes; replicas++) {
            uint32_t held[4][7] = {{0}};
            for (uint32_t n = 0; n < nodes; n++) {
                holdings h;
                assert_int_equal(holdings_init(&h, 4, 7), 0);
                assert_int_equal(holdings_add_share(&h, n, nodes, replicas), 0);
                for (uint32_t i = 0; i < 28; i++) {
                    held[i / 7][i % 7] += holdings_has(&h, i / 7, i % 7);
                }
                holdings_fini(&h);
            }
            for (uint32_t i = 0; i < 28; i++) {
                assert_int_equal(held[i / 7][i % 7], replicas);
            }
        }
    }
}

static void shares_follow_the_rule(void **state) {
    holdings h;
    (void)state;
    assert_int_equal(holdings_init(&h, 2, 6), 0);
    assert_int_equal(holdings_add_share(&h, 1, 3, 2), 0);
    for (uint32_t i = 0; i < 12; i++) {
        uint32_t l = i / 6, e = i % 6;
        bool wanted = (e + l) % 3 == 1 || (e + l + 1) % 3 == 1;
        assert_int_equal(holdings_has(&h, l, e), wanted);
    }
    assert_int_equal(holdings_add_share(&h, 3, 3, 1), ERR_RANGE);
    assert_int_equal(holdings_add_share(&h, 0, 3, 4), ERR_RANGE);
    assert_int_equal(holdings_add_share(&h, 0, 3, 0), ERR_RANGE);
    assert_int_equal(holdings_add_share(&h, 0, 0, 0), ERR_RANGE);
    holdings_fini(&h);
}

static void reads_shares(void **state) {
    uint32_t index, nodes, replicas;
    (void)state;
    assert_int_equal(
        holdings_parse_share("1/3", &index, &nodes, &replicas, NULL, 0), 0);
    assert_int_equal(index, 1);
    assert_int_equal(nodes, 3);
    assert_int_equal(replicas, 1);
    assert_int_equal(
        holdings_parse_share("0/10x2", &index, &nodes, &replicas, NULL, 0), 0);
    assert_int_equal(index, 0);
    assert_int_equal(nodes, 10);
    assert_int_equal(replicas, 2);
}

static void refuses_shares_that_make_no_sense(void **state) {
    const char *bad[] = {"",     "1",      "/3",    "1/",          "3/3",
                         "1/0",  "a/3",    "1/3x0", "1/3x4",       "1/3x",
                         "1/3 ", "1/3x2y", "-1/3",  "4294967296/3"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint32_t index = 77, nodes, replicas;
        char why[256] = "";
        assert_int_equal(holdings_parse_share(bad[i], &index, &nodes, &replicas,
                                              why, sizeof(why)),
                         ERR_USAGE);
        assert_non_null(strstr(why, bad[i]));
        assert_int_equal(index, 77);
    }
}

static void holds_slices_of_experts(void **state) {
    holdings h, copy;
    (void)state;
    assert_int_equal(holdings_init_slices(&h, 3, 4, 4), 0);
    holdings_cut(&h, 1, 2);
    assert_int_equal(holdings_bytes(&h), 3 * 16 / 8);
    assert_int_equal(holdings_add_spec(&h, "0-1:1", NULL, 0), 0);
    assert_int_equal(holdings_count(&h), 4 + 2); /* all slices of it */
    for (uint32_t u = 0; u < 16; u++) {
        assert_int_equal(holdings_has(&h, 0, u), u / 4 == 1);
        assert_int_equal(holdings_has(&h, 1, u), u / 2 == 1);
    }
    assert_false(holdings_has(&h, 0, 16));
    assert_int_equal(holdings_copy(&copy, &h), 0);
    assert_true(holdings_equal(&copy, &h));
    assert_int_equal(copy.layer_slices[1], 2);
    holdings_fini(&copy);
    assert_int_equal(holdings_init(&copy, 3, 4), 0);
    assert_false(holdings_equal(&copy, &h)); /* of other units */
    holdings_fini(&copy);
    holdings_fini(&h);
}

static void shares_out_slices_like_experts(void **state) {
    holdings h[3];
    (void)state;
    for (uint32_t n = 0; n < 3; n++) {
        assert_int_equal(holdings_init_slices(&h[n], 2, 4, 8), 0);
        holdings_cut(&h[n], 1, 2);
        assert_int_equal(holdings_add_share(&h[n], n, 3, 2), 0);
    }
    for (uint32_t l = 0; l < 2; l++) {
        for (uint32_t u = 0; u < (l == 0 ? 32u : 8u); u++) {
            for (uint32_t n = 0; n < 3; n++) {
                bool first = (u + l) % 3 == n, second = (u + l + 1) % 3 == n;
                assert_int_equal(holdings_has(&h[n], l, u), first || second);
            }
        }
    }
    assert_int_equal(holdings_count(&h[0]) + holdings_count(&h[1]) +
                         holdings_count(&h[2]),
                     2 * (32 + 8));
    for (uint32_t n = 0; n < 3; n++)
        holdings_fini(&h[n]);
}

static void refuses_slices_that_no_expert_is_cut_into(void **state) {
    holdings h;
    (void)state;
    assert_int_equal(holdings_init_slices(&h, 1, 1, 0), ERR_RANGE);
    assert_int_equal(holdings_init_slices(&h, 1, 1, 3), ERR_RANGE);
    assert_int_equal(holdings_init_slices(&h, 1, 1, 16), ERR_RANGE);
    assert_null(h.bits);
}

static void finds_the_next_unit_that_is_held(void **state) {
    enum { LAYERS = 3, EXPERTS = 37 };
    holdings h;
    (void)state;
    assert_int_equal(holdings_init(&h, LAYERS, EXPERTS), 0);
    uint32_t draw = 1;
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
        draw = draw * 1664525 + 1013904223;
        if (draw >> 30 == 0) holdings_add(&h, i / EXPERTS, i % EXPERTS);
    }
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t from = 0; from <= EXPERTS; from++) {
            uint32_t want = from;
            while (want < EXPERTS && !holdings_has(&h, l, want))
                want++;
            assert_int_equal(holdings_next(&h, l, from, EXPERTS), want);
        }
    }
    /* neither beyond what is asked for nor beyond the layers */
    assert_int_equal(holdings_next(&h, LAYERS, 0, EXPERTS), EXPERTS);
    holdings_add(&h, 0, 20);
    assert_int_equal(holdings_next(&h, 0, 20, 20), 20);
    assert_int_equal(holdings_next(&h, 0, 20, 21), 20);
    holdings_fini(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_empty_and_keeps_what_is_added),
        cmocka_unit_test(holds_nothing_beyond_its_sizes),
        cmocka_unit_test(refuses_sizes_above_the_limits),
        cmocka_unit_test(reads_lists_ranges_and_stars),
        cmocka_unit_test(says_where_a_list_is_wrong_and_adds_nothing),
        cmocka_unit_test(shares_cover_every_expert_equally),
        cmocka_unit_test(shares_follow_the_rule),
        cmocka_unit_test(reads_shares),
        cmocka_unit_test(refuses_shares_that_make_no_sense),
        cmocka_unit_test(holds_slices_of_experts),
        cmocka_unit_test(finds_the_next_unit_that_is_held),
        cmocka_unit_test(shares_out_slices_like_experts),
        cmocka_unit_test(refuses_slices_that_no_expert_is_cut_into),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
