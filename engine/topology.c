/* topology.c - see topology.h.
 *
 * Stripes are the system's own interleaving: one policy for a mapping, instead
 * of one for each share of each matrix, of which there may be more than a
 * process can have mappings.  It goes by address, so what lies where needs no
 * table; where huge pages are to be had, a stripe is one. */
#include "engine/topology.h"

#include <hwloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

typedef struct {
    hwloc_obj_t object;
    uint32_t n_cpus;
} memory_node;

static struct {
    hwloc_topology_t machine; /* until the process ends */
    memory_node nodes[TOPOLOGY_MAX_NODES];
    uint32_t n_nodes, n_cpus;
    bool real; /* this machine, not a description */
} topology;

static bool may_use_all_cpus(hwloc_topology_t t) {
    hwloc_bitmap_t mine = hwloc_bitmap_alloc();
    hwloc_const_bitmap_t all = hwloc_topology_get_complete_cpuset(t);
    bool result = mine != NULL &&
                  hwloc_get_cpubind(t, mine, HWLOC_CPUBIND_PROCESS) == 0 &&
                  hwloc_bitmap_isincluded(all, mine);
    hwloc_bitmap_free(mine);
    return result;
}

/* Nodes without CPUs (slow, far memory) are left to the system. */
static void list_nodes(hwloc_topology_t t) {
    hwloc_obj_t o = NULL;
    while ((o = hwloc_get_next_obj_by_type(t, HWLOC_OBJ_NUMANODE, o)) != NULL &&
           topology.n_nodes < TOPOLOGY_MAX_NODES) {
        int n = hwloc_bitmap_weight(o->cpuset);
        if (n <= 0) continue;
        topology.nodes[topology.n_nodes++] = (memory_node){o, (uint32_t)n};
        topology.n_cpus += (uint32_t)n;
    }
}

static void read_machine(void) {
    hwloc_topology_t t;
    if (hwloc_topology_init(&t) != 0) return;
    if (hwloc_topology_load(t) != 0) {
        hwloc_topology_destroy(t);
        return;
    }
    topology.real = hwloc_topology_is_thissystem(t) != 0;
    if (!topology.real || may_use_all_cpus(t)) list_nodes(t);
    if (topology.n_nodes < 2) {
        hwloc_topology_destroy(t);
        return;
    }
    topology.machine = t;
}

static void know_machine(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_machine);
}

uint32_t topology_nodes(void) {
    know_machine();
    return topology.n_nodes > 1 ? topology.n_nodes : 1;
}

uint32_t topology_node_of(uint32_t index, uint32_t n_threads) {
    uint32_t n = topology_nodes();
    if (n == 1 || n_threads == 0) return 0;
    uint64_t cpu = (uint64_t)index * topology.n_cpus / n_threads;
    for (uint32_t node = 0; node < n; node++) {
        if (cpu < topology.nodes[node].n_cpus) return node;
        cpu -= topology.nodes[node].n_cpus;
    }
    return n - 1;
}

uint32_t topology_here(uint32_t planned) {
    unsigned cpu, node;
    if (topology_nodes() == 1) return 0;
    if (!topology.real || getcpu(&cpu, &node) != 0) return planned;
    for (uint32_t i = 0; i < topology.n_nodes; i++) {
        if (topology.nodes[i].object->os_index == node) return i;
    }
    return planned;
}

void topology_bind_thread(uint32_t node) {
    uint32_t n = topology_nodes();
    if (n == 1 || node >= n || !topology.real) return;
    /* Refused in some containers: then it runs where the system says. */
    (void)hwloc_set_cpubind(topology.machine,
                            topology.nodes[node].object->cpuset,
                            HWLOC_CPUBIND_THREAD);
}

void topology_spread(void *at, size_t bytes) {
    if (topology_nodes() == 1 || !topology.real) return;
    hwloc_bitmap_t all = hwloc_bitmap_alloc();
    for (uint32_t i = 0; all != NULL && i < topology.n_nodes; i++)
        hwloc_bitmap_or(all, all, topology.nodes[i].object->nodeset);
    if (all != NULL) {
        (void)hwloc_set_area_membind(topology.machine, at, bytes, all,
                                     HWLOC_MEMBIND_INTERLEAVE,
                                     HWLOC_MEMBIND_BYNODESET);
    }
    hwloc_bitmap_free(all);
}

uint32_t topology_home(const void *at) {
    return (uint32_t)((uintptr_t)at / TOPOLOGY_STRIPE % topology_nodes());
}
