/* etcd_text.c - see etcd_text.h. */
#include "discovery/libetcd/etcd_text.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 256

static const char alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void etcd_text_fini(etcd_text *t) {
    free(t->data);
    memset(t, 0, sizeof(*t));
}

/* Room for n more bytes and the zero; NULL (and failed) without memory. */
static char *reserve(etcd_text *t, size_t n) {
    if (t->failed) return NULL;
    if (n >= SIZE_MAX / 4 - t->len) {
        t->failed = true;
        return NULL;
    }
    size_t need = t->len + n + 1;
    if (need > t->room) {
        size_t room = t->room < FIRST_ROOM ? FIRST_ROOM : t->room;
        while (room < need)
            room *= 2;
        char *data = realloc(t->data, room);
        if (data == NULL) {
            t->failed = true;
            return NULL;
        }
        t->data = data;
        t->room = room;
    }
    return t->data + t->len;
}

void etcd_text_bytes(etcd_text *t, const void *bytes, size_t n) {
    char *at = reserve(t, n);
    if (at == NULL) return;
    if (n > 0) memcpy(at, bytes, n);
    at[n] = '\0';
    t->len += n;
}

void etcd_text_add(etcd_text *t, const char *s) {
    etcd_text_bytes(t, s, strlen(s));
}

void etcd_text_base64(etcd_text *t, const void *bytes, size_t n) {
    const uint8_t *in = bytes;
    size_t len = (n + 2) / 3 * 4 + 2;
    char *out = n < SIZE_MAX / 8 ? reserve(t, len) : NULL;
    if (out == NULL) {
        t->failed = true;
        return;
    }
    *out++ = '"';
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t group = (uint32_t)in[i] << 16;
        if (left > 1) group |= (uint32_t)in[i + 1] << 8;
        if (left > 2) group |= in[i + 2];
        *out++ = alphabet[group >> 18];
        *out++ = alphabet[group >> 12 & 63];
        *out++ = left > 1 ? alphabet[group >> 6 & 63] : '=';
        *out++ = left > 2 ? alphabet[group & 63] : '=';
    }
    *out++ = '"';
    *out = '\0';
    t->len += len;
}

void etcd_text_number(etcd_text *t, int64_t number) {
    char digits[32];
    snprintf(digits, sizeof(digits), "\"%" PRId64 "\"", number);
    etcd_text_add(t, digits);
}

void etcd_text_quoted(etcd_text *t, const char *s) {
    etcd_text_add(t, "\"");
    for (; *s != '\0'; s++) {
        uint8_t c = (uint8_t)*s;
        char escaped[8];
        if (c == '"' || c == '\\') {
            snprintf(escaped, sizeof(escaped), "\\%c", c);
        } else if (c < 0x20) {
            snprintf(escaped, sizeof(escaped), "\\u%04x", c);
        } else {
            snprintf(escaped, sizeof(escaped), "%c", c);
        }
        etcd_text_add(t, escaped);
    }
    etcd_text_add(t, "\"");
}

void etcd_text_clean(char *s) {
    for (; *s != '\0'; s++) {
        if ((uint8_t)*s < 0x20 || (uint8_t)*s > 0x7E) *s = ' ';
    }
}

void etcd_text_drop(etcd_text *t, size_t n) {
    assert(n <= t->len);
    if (n == 0) return;
    t->len -= n;
    memmove(t->data, t->data + n, t->len + 1);
}

/* 0 to 63, or -1. */
static int sextet(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+') return 62;
    return c == '/' ? 63 : -1;
}

/* Four characters to up to three bytes; how many, or -EINVAL. */
static int decode_group(const char *in, bool last, uint8_t *out) {
    int pad = 0;
    if (last && in[3] == '=') pad = in[2] == '=' ? 2 : 1;
    uint32_t group = 0;
    for (int i = 0; i < 4 - pad; i++) {
        int bits = sextet(in[i]);
        if (bits < 0) return -EINVAL;
        group |= (uint32_t)bits << (18 - 6 * i);
    }
    if ((group & ((1u << 8 * pad) - 1)) != 0) return -EINVAL;
    for (int i = 0; i < 3 - pad; i++)
        out[i] = (uint8_t)(group >> (16 - 8 * i));
    return 3 - pad;
}

int etcd_text_unbase64(const char *in, size_t n, uint8_t *out,
                       size_t *out_len) {
    *out_len = 0;
    if (n % 4 != 0) return -EINVAL;
    for (size_t i = 0; i < n; i += 4) {
        int made = decode_group(in + i, i + 4 == n, out + *out_len);
        if (made < 0) return made;
        *out_len += (size_t)made;
    }
    return 0;
}
