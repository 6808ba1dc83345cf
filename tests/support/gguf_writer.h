/* gguf_writer.h - writes small GGUF files for tests.
 *
 * Keys and tensors are declared in the order they shall stand in the file, then
 * gguf_writer_finish() writes everything at once: tensor data streams from the
 * caller's fill functions, so a file may be much larger than memory.  Errors
 * are sticky: the first one is what gguf_writer_finish() returns.  Nothing is
 * checked that a test may want to get wrong: a key may be written twice. */
#ifndef TESTS_SUPPORT_GGUF_WRITER_H
#define TESTS_SUPPORT_GGUF_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/gguf.h"

typedef struct gguf_writer gguf_writer;

/* Produce the next `bytes` of a tensor's data.  Called with ascending pieces,
 * each a multiple of `GGUF_WRITER_PIECE` but the last. */
typedef void (*gguf_fill)(void *context, size_t bytes, void *out);
/* Whole blocks of every format: a multiple of 17 to 24, 34, 84, 110, 136, 144,
 * 176 and 210 bytes (but 19, 21 and 23, which no format has). */
#define GGUF_WRITER_PIECE ((size_t)16 * 9 * 5 * 7 * 11 * 17)

/* Version 3, alignment 32.  NULL if there is no memory. */
gguf_writer *gguf_writer_new(void);
void gguf_writer_free(gguf_writer *w); /* NULL is fine; after finish, too */

void gguf_writer_version(gguf_writer *w, uint32_t version);
/* Tensors are placed by it; writes the key general.alignment. */
void gguf_writer_alignment(gguf_writer *w, uint32_t alignment);

/* ---- metadata ---- */
/* A value of fixed size, GGUF_U8 to GGUF_F64 without string and array. */
void gguf_writer_value(gguf_writer *w, const char *key, gguf_type type,
                       const void *value);
void gguf_writer_u32(gguf_writer *w, const char *key, uint32_t value);
void gguf_writer_f32(gguf_writer *w, const char *key, float value);
void gguf_writer_bool(gguf_writer *w, const char *key, bool value);
void gguf_writer_string(gguf_writer *w, const char *key, const char *value);
void gguf_writer_array(gguf_writer *w, const char *key, gguf_type element,
                       uint64_t n, const void *values);
void gguf_writer_strings(gguf_writer *w, const char *key, uint64_t n,
                         const char *const *values);
/* The bytes of a whole value, for what has no function: nested arrays, lies. */
void gguf_writer_raw(gguf_writer *w, const char *key, uint32_t type,
                     const void *bytes, size_t n);

/* ---- tensors ---- */
/* dims: the contiguous one first.  Data: `bytes` borrowed until finish. */
void gguf_writer_tensor(gguf_writer *w, const char *name, uint32_t type,
                        uint32_t n_dims, const uint64_t *dims,
                        const void *data);
/* The same with data from `fill`, whose context the writer frees. */
void gguf_writer_tensor_fill(gguf_writer *w, const char *name, uint32_t type,
                             uint32_t n_dims, const uint64_t *dims,
                             gguf_fill fill, void *context);

/* Write the file: complete or absent.  0, -errno, or ERR_UNSUPPORTED for a
 * tensor type without a size. */
int gguf_writer_finish(gguf_writer *w, const char *path);

#endif
