/* fingerprint.h - says which model a process serves.
 *
 * SHA-256 over a version string, each file's metadata and tensor table as they
 * stand on disk, and the manifest of checksums (manifest.h).  Two processes
 * with the same fingerprint hold the same weights.  Names and times of files do
 * not count; a model that is cut into other files is another model. */
#ifndef ENGINE_FINGERPRINT_H
#define ENGINE_FINGERPRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/gguf.h"
#include "engine/manifest.h"

#define FINGERPRINT_BYTES 32
#define FINGERPRINT_HEX_SIZE (2 * FINGERPRINT_BYTES + 1)

typedef struct {
    uint8_t bytes[FINGERPRINT_BYTES];
} fingerprint;

/* Of a model whose manifest is open.  ERR_INTERNAL if the digest is not to be
 * had from the crypto library. */
int fingerprint_of(const gguf *g, const manifest *m, fingerprint *out);

bool fingerprint_equal(const fingerprint *a, const fingerprint *b);

/* 64 lower-case hex digits and a zero; returns `out`. */
char *fingerprint_hex(const fingerprint *f, char out[FINGERPRINT_HEX_SIZE]);

#endif
