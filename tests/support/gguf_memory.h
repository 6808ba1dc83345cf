/* gguf_memory.h - a GGUF file from memory, for tests that damage it.
 *
 * The bytes are copied to a block of exactly their size, so that a sanitizer
 * sees a read past the file's end, which the zeros behind a mapped file would
 * hide. */
#ifndef TESTS_SUPPORT_GGUF_MEMORY_H
#define TESTS_SUPPORT_GGUF_MEMORY_H

#include <stddef.h>
#include "engine/gguf.h"

/* As gguf_open().  gguf_read() does not work on it; splits are not joined. */
int gguf_memory_open(gguf **out, const void *bytes, size_t n, char *why,
                     size_t why_size);
void gguf_memory_close(gguf *g); /* NULL is fine */

/* Ask for everything that an open file offers; the sum of what was read, so
 * that nothing is optimized away. */
unsigned gguf_memory_walk(const gguf *g);

#endif
