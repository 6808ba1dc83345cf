/* endpoint.h - "tcp://HOST:PORT" texts: reading them, and the rule that nothing
 * leaves the loopback interface unless it was allowed. */
#ifndef PROTO_ENDPOINT_H
#define PROTO_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENDPOINT_MAX 256

typedef struct {
    char host[ENDPOINT_MAX]; /* without brackets; "*" for any */
    uint16_t port;           /* 0: any free one ("*" in the text) */
} endpoint;

/* "tcp://HOST:PORT", "HOST:PORT", "tcp://[::1]:PORT".  ERR_USAGE names what is
 * wrong. */
int endpoint_parse(endpoint *out, const char *text, char *why, size_t why_size);
/* tcp://..., with brackets where IPv6 needs them. */
void endpoint_format(const endpoint *e, char *out, size_t size);
/* 127.0.0.0/8, ::1, "localhost" */
bool endpoint_is_loopback(const endpoint *e);

#endif
