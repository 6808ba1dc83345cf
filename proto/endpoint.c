/* endpoint.c - see endpoint.h.
 *
 * Names are not resolved here: what a name stands for can change, so only
 * addresses that cannot be anything else, and "localhost", count as loopback.
 */
#include "proto/endpoint.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "engine/err.h"

#define SCHEME "tcp://"

/* "*" and "0" are any free port. */
static bool parse_port(const char *text, uint16_t *out) {
    if (strcmp(text, "*") == 0) {
        *out = 0;
        return true;
    }
    size_t len = strlen(text);
    if (len == 0 || len > 5) return false;

    uint32_t port = 0;
    for (size_t i = 0; i < len; i++) {
        if (!isdigit((unsigned char)text[i])) return false;
        port = port * 10 + (uint32_t)(text[i] - '0');
    }
    if (port > UINT16_MAX) return false;
    *out = (uint16_t)port;
    return true;
}

/* Letters, digits and what names and IPv4 addresses have besides; a zone after
 * '%' for IPv6. */
static bool valid_host(const char *host, bool bracketed) {
    if (*host == '\0') return false;
    if (!bracketed && strcmp(host, "*") == 0) return true;
    for (const char *p = host; *p != '\0'; p++) {
        if (isalnum((unsigned char)*p)) continue;
        if (strchr(bracketed ? ":.%-_" : ".-_", *p) == NULL) return false;
    }
    return !bracketed || strchr(host, ':') != NULL;
}

int endpoint_parse(endpoint *out, const char *text, char *why,
                   size_t why_size) {
    const char *at = text, *host_end, *colon;
    if (strncmp(at, SCHEME, strlen(SCHEME)) == 0) {
        at += strlen(SCHEME);
    } else if (strstr(at, "://") != NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "endpoint '%s': only tcp:// is known", text);
    }

    bool bracketed = *at == '[';
    if (bracketed) {
        at++;
        host_end = strchr(at, ']');
        colon = host_end != NULL ? host_end + 1 : NULL;
    } else {
        host_end = colon = strrchr(at, ':');
    }
    if (colon == NULL || *colon != ':') {
        return err_why(why, why_size, ERR_USAGE,
                       "endpoint '%s': expected HOST:PORT", text);
    }
    if (!bracketed && memchr(at, ':', (size_t)(host_end - at)) != NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "endpoint '%s': an IPv6 address needs brackets, as in "
                       "[::1]:7000",
                       text);
    }

    size_t host_len = (size_t)(host_end - at);
    endpoint e = {0};
    if (host_len >= sizeof(e.host)) {
        return err_why(why, why_size, ERR_USAGE,
                       "endpoint '%.40s...': the host is too long", text);
    }
    memcpy(e.host, at, host_len);
    if (!valid_host(e.host, bracketed)) {
        return err_why(why, why_size, ERR_USAGE,
                       "endpoint '%s': '%s' is not a host", text, e.host);
    }
    if (!parse_port(colon + 1, &e.port)) {
        return err_why(why, why_size, ERR_USAGE,
                       "endpoint '%s': '%s' is not a port", text, colon + 1);
    }
    *out = e;
    return 0;
}

void endpoint_format(const endpoint *e, char *out, size_t size) {
    bool brackets = strchr(e->host, ':') != NULL;
    char port[8] = "*";
    if (e->port != 0) snprintf(port, sizeof(port), "%u", e->port);
    snprintf(out, size, "%s%s%s%s:%s", SCHEME, brackets ? "[" : "", e->host,
             brackets ? "]" : "", port);
}

bool endpoint_is_loopback(const endpoint *e) {
    if (strcasecmp(e->host, "localhost") == 0) return true;

    struct in_addr v4;
    if (inet_pton(AF_INET, e->host, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    struct in6_addr v6;
    if (inet_pton(AF_INET6, e->host, &v6) != 1) return false;
    return IN6_IS_ADDR_LOOPBACK(&v6) ||
           (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}
