/* spin.h - whether it pays to stay awake for a moment before sleeping.
 *
 * To sleep and be woken costs tens of microseconds; to look again and again
 * costs nothing where the CPU has nothing else to do, and keeps others from
 * working where it has.  Which it is shows by what comes of it: after a few
 * moments in vain one sleeps at once, and tries again now and then. */
#ifndef ENGINE_SPIN_H
#define ENGINE_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#define SPIN_MISSES 4 /* in a row until it does not pay */
#define SPIN_RETRY 32 /* then one wait in so many is awake again */

typedef struct {
    uint32_t misses, skipped;
} spin_luck;

/* Before a wait: stay awake first? */
static inline bool spin_pays(spin_luck *s) {
    if (s->misses < SPIN_MISSES) return true;
    return ++s->skipped % SPIN_RETRY == 0;
}

/* After a moment awake: had it been worth it? */
static inline void spin_told(spin_luck *s, bool found) {
    s->misses = found ? 0 : s->misses + (s->misses < SPIN_MISSES);
}

#endif
