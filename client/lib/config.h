/* config.h - inside libroster: the settings of a client. */
#ifndef CLIENT_LIB_CONFIG_H
#define CLIENT_LIB_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "client/include/roster.h"
#include "proto/endpoint.h"
#include "proto/message.h"

#define CONFIG_ENDPOINTS 4096

struct roster_config {
    char endpoint[CONFIG_ENDPOINTS]; /* separated by commas; "": not set */
    char cluster[MESSAGE_NAME_MAX + 1];
    char name[MESSAGE_NAME_MAX + 1];
    uint32_t connect_timeout_ms;
    uint32_t timeout_ms;
    uint32_t grace_ms;
    int interrupt_fd; /* -1: none */
    bool insecure;
    bool failover;
};

void client_config_defaults(roster_config *c);

/* The endpoints set, or the environment's; ERR_USAGE if there is neither.
 * Borrowed. */
int client_config_endpoint(const roster_config *c, const char **out, char *why,
                           size_t why_size);

#endif
