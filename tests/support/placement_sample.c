/* placement_sample.c - see placement_sample.h. */
#include "tests/support/placement_sample.h"

#include <stdio.h>
#include <string.h>

/* Expert e of layer l on nodes e + l and e + l + 1, in a ring. */
static int fill(layer_map *m, uint32_t layer) {
    int rc =
        layer_map_init(m, 1, SAMPLE_EXPERTS, SAMPLE_EXPERTS * SAMPLE_REPLICAS);
    if (rc < 0) return rc;
    for (uint32_t e = 0; e < SAMPLE_EXPERTS; e++) {
        uint16_t a = (uint16_t)((e + layer) % SAMPLE_NODES);
        uint16_t b = (uint16_t)((e + layer + 1) % SAMPLE_NODES);
        m->first[e] = e * SAMPLE_REPLICAS;
        m->holders[m->first[e]] = a < b ? a : b;
        m->holders[m->first[e] + 1] = a < b ? b : a;
    }
    m->first[SAMPLE_EXPERTS] = SAMPLE_EXPERTS * SAMPLE_REPLICAS;
    return 0;
}

int placement_sample_init(placement_sample *s) {
    memset(s, 0, sizeof(*s));
    s->head = (epoch_record){.incarnation = 1,
                             .epoch = 1,
                             .n_layers = SAMPLE_LAYERS,
                             .n_experts = SAMPLE_EXPERTS,
                             .slices = 1,
                             .min_replicas = SAMPLE_REPLICAS,
                             .nodes = s->nodes,
                             .n_nodes = SAMPLE_NODES,
                             .writer = "sample",
                             .term = 1};
    for (int i = 0; i < SAMPLE_NODES; i++) {
        snprintf(s->nodes[i], sizeof(s->nodes[i]), "expert-node-%02d", i);
    }
    for (uint32_t i = 0; i < SAMPLE_MOE; i++) {
        s->numbers[i] = SAMPLE_DENSE + i;
        s->layers[i] = &s->maps[i];
        int rc = fill(&s->maps[i], s->numbers[i]);
        if (rc < 0) {
            placement_sample_fini(s);
            return rc;
        }
    }
    return 0;
}

void placement_sample_fini(placement_sample *s) {
    for (uint32_t i = 0; i < SAMPLE_MOE; i++)
        layer_map_fini(&s->maps[i]);
}
