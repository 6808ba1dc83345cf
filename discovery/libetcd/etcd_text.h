/* etcd_text.h - a growing text, and base64 as etcd's gateway writes it.
 *
 * The owner starts from zeros and ends with etcd_text_fini().  A text that
 * could not grow remembers that, so that a builder asks once, at its end. */
#ifndef DISCOVERY_LIBETCD_ETCD_TEXT_H
#define DISCOVERY_LIBETCD_ETCD_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    char *data; /* [len] and a zero; NULL while nothing was added */
    size_t len, room;
    bool failed; /* no memory: what followed is missing */
} etcd_text;

void etcd_text_fini(etcd_text *t);
void etcd_text_bytes(etcd_text *t, const void *bytes, size_t n);
void etcd_text_add(etcd_text *t, const char *s);
/* A JSON string of the bytes in base64, quotes included. */
void etcd_text_base64(etcd_text *t, const void *bytes, size_t n);
/* A JSON string of the number: the gateway's form of 64-bit integers. */
void etcd_text_number(etcd_text *t, int64_t number);
/* A JSON string of any text. */
void etcd_text_quoted(etcd_text *t, const char *s);
/* What others say of an error goes into logs and documents: what is not
 * printable ASCII becomes a space. */
void etcd_text_clean(char *s);
/* Forget the first n bytes. */
void etcd_text_drop(etcd_text *t, size_t n);

/* Standard alphabet with padding, nothing else: no line breaks, no rest bits.
 * `out` has room for n / 4 * 3 bytes.  -EINVAL if it is not base64. */
int etcd_text_unbase64(const char *in, size_t n, uint8_t *out, size_t *out_len);

#endif
