/* blas.h - OpenBLAS for small f32 products whose bits must not depend on batch
 * or CPU.
 *
 * OpenBLAS picks its kernel by CPU and by shape, so both are fixed: the library
 * is opened at run time with OPENBLAS_CORETYPE set to the core type that the
 * numerics profile names (Haswell; Nehalem on CPUs without AVX2), one thread,
 * and every product is one tile of exactly BLAS_TILE rows, padded with zero
 * rows.  (Within a tile of 8 a row's bits do not depend on its place;
 * tests/unit/test_blas.c holds that.) */
#ifndef ENGINE_BLAS_H
#define ENGINE_BLAS_H

#include <stddef.h>

#define BLAS_TILE 8

/* Open and pin the library.  Once per process, before threads.  A second call
 * is fine.  ERR_UNSUPPORTED with a sentence if the library is missing or did
 * not take the core type. */
int blas_open(char *why, size_t why_size);

/* The core type in force, as the profile names it: "Haswell". */
const char *blas_core(void);

/* y[t][o] = sum_k x[t][k] * w[o][k] for t < n_rows <= BLAS_TILE.
 * x [BLAS_TILE][n_in] and y [BLAS_TILE][n_out] are whole tiles: the caller
 * zeroes unused rows of x.  Any one thread at a time may call it for a tile;
 * calls from several threads at once are safe. */
void blas_tile(size_t n_out, size_t n_in, const float *w, const float *x,
               float *y);

#endif
