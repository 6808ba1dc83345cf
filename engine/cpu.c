/* cpu.c - CPUID once, the environment once. */
#include "engine/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

static const char *const names[CPU_LEVELS] = {"scalar", "avx2", "avx512"};
static int forced = -1; /* set before threads start, or by tests */

#if defined(__x86_64__)
/* Not every compiler's __builtin_cpu_supports() knows this name. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

cpu_level cpu_best(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") &&
                __builtin_cpu_supports("fma") && has_f16c();
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                  __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512vnni");
    if (avx512) return CPU_AVX512;
    if (avx2) return CPU_AVX2;
#endif
    return CPU_SCALAR;
}

cpu_level cpu_current(void) {
    return forced >= 0 ? (cpu_level)forced : cpu_best();
}

int cpu_force(cpu_level level) {
    if (level > cpu_best()) return ERR_UNSUPPORTED;
    forced = (int)level;
    return 0;
}

int cpu_setup(char *why, unsigned long why_size) {
    forced = (int)cpu_best();
    const char *wanted = getenv("ROSTER_CPU");
    if (wanted == NULL || *wanted == '\0') return 0;

    for (int level = 0; level < CPU_LEVELS; level++) {
        if (strcmp(wanted, names[level]) != 0) continue;
        if (level > (int)cpu_best()) {
            return err_why(why, why_size, ERR_UNSUPPORTED,
                           "ROSTER_CPU=%s: this CPU offers at most %s", wanted,
                           names[cpu_best()]);
        }
        forced = level;
        return 0;
    }
    return err_why(why, why_size, ERR_USAGE,
                   "ROSTER_CPU=%s: expected scalar, avx2 or avx512", wanted);
}

const char *cpu_name(cpu_level level) {
    return level < CPU_LEVELS ? names[level] : "unknown";
}
