/* identity.h - what this coordinator says of itself in every header. */
#ifndef COORDINATOR_IDENTITY_H
#define COORDINATOR_IDENTITY_H

#include <stdint.h>
#include <string.h>
#include "engine/fingerprint.h"
#include "proto/message.h"

typedef struct {
    char cluster[MESSAGE_NAME_MAX + 1];
    char name[MESSAGE_NAME_MAX + 1];
    fingerprint model;
    uint64_t boot_id;
} identity;

/* A message of this kind with the header's common part filled in. */
static inline message identity_message(const identity *id, message_kind kind) {
    message m = message_from(id->cluster, id->model.bytes, id->boot_id);
    m.kind = kind;
    return m;
}

#endif
