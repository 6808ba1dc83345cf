/* gguf_internal.h - what the GGUF reader's files share; nobody else includes it
 * (tests and fuzzers apart).
 *
 * gguf_parse.c reads the head of one mapped file, gguf_meta.c answers questions
 * about its keys, gguf.c opens files, joins splits and serves tensor data. */
#ifndef ENGINE_GGUF_INTERNAL_H
#define ENGINE_GGUF_INTERNAL_H

#include "engine/gguf.h"

/* One metadata entry; everything points into the map and has been checked. */
typedef struct {
    gguf_string key;
    gguf_type type;
    gguf_type element;   /* of an array; else the type itself */
    uint64_t n;          /* elements of an array; else 1 */
    const uint8_t *data; /* first value; a string begins with its length */
} gguf_key;

typedef struct {
    char *path;
    int fd;
    const uint8_t *map;
    uint64_t bytes;
    uint64_t mtime_ns;
    uint64_t head_bytes; /* header, metadata and tensor table */
    gguf_key *keys;      /* in the file's order */
    uint32_t *key_order; /* indices, sorted by name */
    size_t n_keys;
    gguf_tensor *tensors; /* until gguf.c has joined the files' tables */
    size_t n_tensors;
} gguf_file;

struct gguf {
    gguf_file *files;
    size_t n_files;
    gguf_tensor *tensors;   /* of all files, in their order */
    uint32_t *tensor_order; /* indices, sorted by name */
    size_t n_tensors;
};

/* Open a file that is open already.  Takes ownership of `fd`, also on failure;
 * `path` is for sentences and for finding the other files of a split. */
int gguf_open_fd(gguf **out, int fd, const char *path, char *why,
                 size_t why_size);

/* Read the head of a mapped file: keys, key_order, tensors, head_bytes.  What
 * was allocated when it fails is freed with the file. */
int gguf_parse(gguf_file *f, char *why, size_t why_size);

/* Join the tables of g->files, which are parsed, into g's, sorted by name. */
int gguf_join(gguf *g, char *why, size_t why_size);

/* NULL if the file has no such key. */
const gguf_key *gguf_file_key(const gguf_file *f, const char *key);
int gguf_file_u64(const gguf_file *f, const char *key, uint64_t *out, char *why,
                  size_t why_size);

/* Order by bytes, a prefix first. */
int gguf_string_compare(gguf_string a, gguf_string b);

#endif
