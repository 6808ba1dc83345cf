/* bench_placement.c - what taking up a placement of DeepSeek-V3's size costs:
 * packing its layers, and feeding them to a view.  Prints one line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/rack_view.h"
#include "engine/util.h"
#include "tests/support/placement_sample.h"

#define ROUNDS 50

static void fail(const char *what) {
    fprintf(stderr, "bench_placement: %s\n", what);
    exit(EXIT_FAILURE);
}

static size_t feed(rack_view *v, const placement_sample *s, uint64_t *pack_us) {
    char key[RECORD_KEY], *text = epoch_record_pack(&s->head);
    size_t prefix = record_prefix("bench", key), bytes = 0;
    int rc = text == NULL;
    for (uint32_t i = 0; i < SAMPLE_MOE; i++) {
        uint8_t *packed;
        size_t n;
        uint64_t begin = now_us();
        rc |= layer_map_pack(s->layers[i], &packed, &n);
        *pack_us += now_us() - begin;
        record_key("bench", RECORD_LAYER, NULL, s->numbers[i], key);
        rc |= rack_view_put(v, key + prefix, strlen(key + prefix), packed, n, 1,
                            1, NULL, 0);
        free(packed);
        bytes += n;
    }
    record_key("bench", RECORD_EPOCH, NULL, 0, key);
    if (rc == 0) {
        rc = rack_view_put(v, key + prefix, strlen(key + prefix), text,
                           strlen(text), 1, 1, NULL, 0);
    }
    free(text);
    if (rc != 0 || rack_view_settle(v, NULL, 0) != 0) fail("a key was refused");
    return bytes;
}

int main(void) {
    static placement_sample s;
    uint64_t pack_us = 0, all_us = 0;
    size_t bytes = 0;
    if (placement_sample_init(&s) < 0) fail("out of memory");

    for (int i = 0; i < ROUNDS; i++) {
        rack_view *v;
        if (rack_view_new(&v) < 0) fail("out of memory");
        uint64_t begin = now_us();
        bytes = feed(v, &s, &pack_us);
        all_us += now_us() - begin;
        if (rack_view_placement(v) == NULL) fail("it was not taken up");
        rack_view_free(v);
    }
    printf("placement: %d units x %d, %zu bytes; pack %.2f ms, take up "
           "%.2f ms\n",
           SAMPLE_MOE * SAMPLE_EXPERTS, SAMPLE_REPLICAS, bytes,
           (double)pack_us / ROUNDS / 1000.0,
           (double)(all_us - pack_us) / ROUNDS / 1000.0);
    placement_sample_fini(&s);
    return 0;
}
