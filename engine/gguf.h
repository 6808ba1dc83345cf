/* gguf.h - reads GGUF v2/v3 model files, whole or split.
 *
 * Opening checks every length, offset, product and type against the file before
 * it is used; a bad file is refused with a sentence that names the file and the
 * field.  Metadata and tensor table are read from a read-only map that stays
 * open until gguf_close(); tensor data can be borrowed from the map (resident
 * memory grows with what is touched) or read with pread (it does not).  An open
 * file does not change: any thread may use it without a lock. */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define GGUF_MAX_DIMS 4
#define GGUF_MAX_SPLITS 4096

typedef struct gguf gguf;

/* The value types of the format, by their numbers in the file. */
typedef enum {
    /* clang-format off */
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32,
    GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64
    /* clang-format on */
} gguf_type;

/* Text in the file: not zero-terminated, borrowed until gguf_close(). */
typedef struct {
    const char *data;
    size_t len;
} gguf_string;

/* Text of a file as it may stand in a log line: cut, unprintables replaced. */
typedef struct {
    char text[68];
} gguf_quoted;
gguf_quoted gguf_quote(gguf_string s);

static inline bool gguf_string_is(gguf_string s, const char *text) {
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

typedef struct {
    gguf_string name;
    uint32_t n_dims;
    uint64_t dims[GGUF_MAX_DIMS]; /* the contiguous one first; unused are 1 */
    uint32_t type;                /* the file's number: weight_format_find() */
    uint64_t bytes;               /* of data, as stored */
    uint32_t file;                /* which split holds it */
    uint64_t offset;              /* from the start of that file */
} gguf_tensor;

/* Open `path`; the first file of a split model opens all of them.  On failure
 * *out is NULL and `why` holds a sentence. */
int gguf_open(gguf **out, const char *path, char *why, size_t why_size);

/* Unmap and free.  NULL is fine. */
void gguf_close(gguf *g);

size_t gguf_n_tensors(const gguf *g);
const gguf_tensor *gguf_tensor_at(const gguf *g, size_t index);
/* NULL if there is none of that name.  Logarithmic or better. */
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name);

/* The tensor's bytes in the map, borrowed until gguf_close().  They need not be
 * aligned for any type wider than a byte. */
const void *gguf_data(const gguf *g, const gguf_tensor *t);

/* Copy `bytes` from `offset` within the tensor by pread, without touching the
 * map.  ERR_RANGE outside the tensor, -errno, ERR_FORMAT if the file shrank. */
int gguf_read(const gguf *g, const gguf_tensor *t, uint64_t offset,
              size_t bytes, void *out);

/* These bytes of the tensor will be read soon, or will not be read again: the
 * system brings them meanwhile, or uses their memory for something else.  Hints
 * that may have no effect. */
void gguf_ahead(const gguf *g, const gguf_tensor *t, uint64_t offset,
                uint64_t bytes);
void gguf_behind(const gguf *g, const gguf_tensor *t, uint64_t offset,
                 uint64_t bytes);

/* Number of files of the model, the path and size of one. */
size_t gguf_n_files(const gguf *g);
const char *gguf_file_path(const gguf *g, size_t file);
uint64_t gguf_file_bytes(const gguf *g, size_t file);
/* Its time of modification when it was opened, in ns since the epoch. */
uint64_t gguf_file_mtime_ns(const gguf *g, size_t file);

/* Metadata and tensor table of one file as they stand on disk, for the model's
 * fingerprint.  Borrowed. */
const void *gguf_head(const gguf *g, size_t file, size_t *bytes);

/* ---- metadata: ERR_NOT_HERE if the key is absent, ERR_FORMAT if it has
 * another type (the sentence names the key, the type found and the one
 * wanted).  Unsigned getters take any integer type whose value fits. ---- */
bool gguf_has(const gguf *g, const char *key);
int gguf_get_u32(const gguf *g, const char *key, uint32_t *out, char *why,
                 size_t why_size);
int gguf_get_u64(const gguf *g, const char *key, uint64_t *out, char *why,
                 size_t why_size);
int gguf_get_f32(const gguf *g, const char *key, float *out, char *why,
                 size_t why_size);
int gguf_get_bool(const gguf *g, const char *key, bool *out, char *why,
                  size_t why_size);
int gguf_get_string(const gguf *g, const char *key, gguf_string *out, char *why,
                    size_t why_size);

/* An array: its element type and length. */
int gguf_get_array(const gguf *g, const char *key, gguf_type *type, uint64_t *n,
                   char *why, size_t why_size);
/* All elements of an integer (any width that fits) or f32 array into the
 * caller's storage of `n` elements. */
int gguf_array_i32(const gguf *g, const char *key, int32_t *out, uint64_t n,
                   char *why, size_t why_size);
int gguf_array_f32(const gguf *g, const char *key, float *out, uint64_t n,
                   char *why, size_t why_size);
/* All strings of an array into `out` (n of them), borrowed. */
int gguf_array_strings(const gguf *g, const char *key, gguf_string *out,
                       uint64_t n, char *why, size_t why_size);

/* Iterate: the key's text and type by index, for `inspect`. */
size_t gguf_n_keys(const gguf *g);
gguf_string gguf_key_at(const gguf *g, size_t index, gguf_type *type);

#endif
