/* buffer.h - inside libroster: a growing array of bytes, always followed by a
 * zero that is not counted. */
#ifndef CLIENT_LIB_BUFFER_H
#define CLIENT_LIB_BUFFER_H

#include <stddef.h>

typedef struct {
    char *data; /* NULL while empty */
    size_t bytes;
    size_t capacity;
} buffer;

/* -ENOMEM; the buffer is unchanged then. */
int client_buffer_add(buffer *b, const void *data, size_t bytes);
void client_buffer_fini(buffer *b);

#endif
