/* buffer.c - see buffer.h. */
#include "client/lib/buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/util.h"

#define FIRST_BYTES 256

int client_buffer_add(buffer *b, const void *data, size_t bytes) {
    size_t need;
    if (!size_add(b->bytes, bytes, &need)) return -ENOMEM;
    if (!size_add(need, 1, &need)) return -ENOMEM;

    if (need > b->capacity) {
        size_t twice;
        if (!size_mul(b->capacity, 2, &twice)) return -ENOMEM;
        size_t capacity = size_max(size_max(need, twice), FIRST_BYTES);
        char *grown = realloc(b->data, capacity);
        if (grown == NULL) return -ENOMEM;
        b->data = grown;
        b->capacity = capacity;
    }
    if (bytes > 0) memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
    b->data[b->bytes] = '\0';
    return 0;
}

void client_buffer_fini(buffer *b) {
    free(b->data);
    *b = (buffer){0};
}
