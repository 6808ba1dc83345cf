/* topology.h - the machine's memory nodes (sockets), and what belongs to which.
 *
 * A server with several sockets has several memories, each close to some of the
 * CPUs.  Packed weights are spread over them in stripes, and the compute pool
 * gives a task to a thread that is close to the task's weights, while there is
 * one.  Nothing but speed depends on it.
 *
 * Read once, by hwloc, when first asked; any thread.  hwloc's HWLOC_SYNTHETIC
 * and HWLOC_XMLFILE describe another machine, as tests do: then nothing is
 * bound. */
#ifndef ENGINE_TOPOLOGY_H
#define ENGINE_TOPOLOGY_H

#include <stddef.h>
#include <stdint.h>

#define TOPOLOGY_MAX_NODES 64
#define TOPOLOGY_STRIPE ((size_t)2 << 20) /* a huge page */

/* At least 1; 1 also if the machine cannot be read, or this process may not use
 * all of its CPUs: then who started it has chosen, and the system's own
 * placement is near them. */
uint32_t topology_nodes(void);

/* The node for thread `index` of `n_threads`: neighbours share one, and each
 * has threads in proportion to its CPUs. */
uint32_t topology_node_of(uint32_t index, uint32_t n_threads);

/* The node that the calling thread is running on; of a described machine, the
 * one that was planned for it. */
uint32_t topology_here(uint32_t planned);

/* Keep the calling thread on the CPUs of a node.  No thread is kept on one CPU:
 * several processes may share the machine, and would choose the same. */
void topology_bind_thread(uint32_t node);

/* Spread a fresh mapping, aligned to TOPOLOGY_STRIPE, over the nodes. */
void topology_spread(void *at, size_t bytes);

/* The node that has an address of a spread mapping. */
uint32_t topology_home(const void *at);

#endif
