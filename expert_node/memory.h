/* memory.h - how much memory a node may offer for experts. */
#ifndef EXPERT_NODE_MEMORY_H
#define EXPERT_NODE_MEMORY_H

#include <stdint.h>

/* What is to be had now without swapping: /proc/meminfo's MemAvailable, or less
 * if a cgroup that this process is in (version 1 or 2) has less left.  0: it
 * cannot be told.  `root` stands before the paths: "" but in tests. */
uint64_t memory_available(const char *root);

/* The offer of a node that was not told one: 80 % of that. */
uint64_t memory_offer(const char *root);

#endif
