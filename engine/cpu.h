/* cpu.h - which instruction sets the kernels may use.
 *
 * The level changes speed, never a bit of a result (docs/architecture.md,
 * "Numerics").  Decided once, at the first call; ROSTER_CPU=scalar|avx2|avx512
 * forces a lower one.  Asking for more than the CPU has is an error. */
#ifndef ENGINE_CPU_H
#define ENGINE_CPU_H

typedef enum {
    CPU_SCALAR,
    CPU_AVX2,   /* AVX2, FMA, F16C */
    CPU_AVX512, /* AVX-512 F, BW, DQ, VL and VNNI */
    CPU_LEVELS
} cpu_level;

/* The level in force.  Any thread. */
cpu_level cpu_current(void);

/* What CPUID and the operating system offer, whatever the environment says. */
cpu_level cpu_best(void);

/* Force a level at run time, for tests that compare levels.  ERR_UNSUPPORTED
 * above cpu_best().  No kernel may be running. */
int cpu_force(cpu_level level);

/* Apply ROSTER_CPU.  ERR_USAGE or ERR_UNSUPPORTED with a sentence in `why`.
 * Programs call it first in main(). */
int cpu_setup(char *why, unsigned long why_size);

/* "scalar", "avx2", "avx512" */
const char *cpu_name(cpu_level level);

#endif
