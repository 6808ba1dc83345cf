/* placement_sample.h - a placement of a large model's size, for tests and
 * benches: DeepSeek-V3 has 61 layers, the first 3 without experts. */
#ifndef TESTS_SUPPORT_PLACEMENT_SAMPLE_H
#define TESTS_SUPPORT_PLACEMENT_SAMPLE_H

#include "discovery/layer_map.h"
#include "discovery/records.h"

#define SAMPLE_LAYERS 61
#define SAMPLE_DENSE 3
#define SAMPLE_MOE (SAMPLE_LAYERS - SAMPLE_DENSE)
#define SAMPLE_EXPERTS 256
#define SAMPLE_NODES 16
#define SAMPLE_REPLICAS 2

typedef struct {
    epoch_record head; /* 1.1; its nodes are this struct's */
    char nodes[SAMPLE_NODES][RECORD_NAME];
    uint32_t numbers[SAMPLE_MOE];
    layer_map maps[SAMPLE_MOE];
    const layer_map *layers[SAMPLE_MOE]; /* maps, as a write wants them */
} placement_sample;

/* 0 or -ENOMEM. */
int placement_sample_init(placement_sample *s);
void placement_sample_fini(placement_sample *s);

#endif
