/* message.c - the names of the kinds, the sizes of payloads, error replies.
 * Packing is in message_pack.c; unpacking and checking in message_unpack.c and
 * message_body.c. */
#include "proto/message.h"

#include <errno.h>
#include <string.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* includes xxhash.h, and replaces its functions */
#else
#include <xxhash.h>
#endif
#include "engine/act.h"
#include "engine/err.h"
#include "engine/util.h"
#include "proto/message_wire.h"

const char *message_kind_name(message_kind kind) {
    static const char *const names[MESSAGE_KINDS] = {
        [MESSAGE_NONE] = "none",
        [MESSAGE_HELLO] = "hello",
        [MESSAGE_WELCOME] = "welcome",
        [MESSAGE_PING] = "ping",
        [MESSAGE_PONG] = "pong",
        [MESSAGE_BATCH] = "batch",
        [MESSAGE_ROWS] = "rows",
        [MESSAGE_ERROR] = "error",
        [MESSAGE_GENERATE] = "generate",
        [MESSAGE_ACCEPTED] = "accepted",
        [MESSAGE_TOKEN] = "token",
        [MESSAGE_FINISHED] = "finished",
        [MESSAGE_CANCEL] = "cancel",
        [MESSAGE_EVAL] = "eval",
        [MESSAGE_LOGITS] = "logits",
        [MESSAGE_STATUS_REQUEST] = "status request",
        [MESSAGE_STATUS] = "status",
        [MESSAGE_MODEL_REQUEST] = "model request",
        [MESSAGE_MODEL] = "model",
        [MESSAGE_FETCH] = "fetch",
        [MESSAGE_PIECE] = "piece",
        [MESSAGE_DRAIN] = "drain",
        [MESSAGE_DONE] = "done",
        [MESSAGE_LOAD_REQUEST] = "load request",
        [MESSAGE_LOAD] = "load",
        [MESSAGE_MEMBERS_REQUEST] = "members request",
        [MESSAGE_MEMBERS] = "members",
        [MESSAGE_REBALANCE] = "rebalance",
        [MESSAGE_RECOVER] = "recover",
        [MESSAGE_REPORT] = "report",
        [MESSAGE_FETCH_UNIT] = "fetch unit",
    };
    if ((unsigned)kind >= MESSAGE_KINDS) return "unknown";
    return names[kind];
}

bool message_is_name(const char *text) {
    size_t len = strnlen(text, MESSAGE_NAME_MAX + 1);
    if (len == 0 || len > MESSAGE_NAME_MAX) return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e) return false;
    }
    return true;
}

uint64_t wire_checksum(const void *data, size_t bytes) {
    return XXH3_64bits(data, bytes);
}

size_t message_rows_bytes(uint32_t form, uint64_t n_rows, uint32_t width) {
    size_t row, bytes;
    switch (form) {
    case ACT_F32:
        row = (size_t)width * sizeof(float);
        break;
    case ACT_A8:
        if (width % ACT_BLOCK != 0) return SIZE_MAX;
        row = (size_t)width / ACT_BLOCK * sizeof(float) + width;
        break;
    default:
        return SIZE_MAX;
    }
    return size_mul(n_rows, row, &bytes) ? bytes : SIZE_MAX;
}

message message_from(const char *cluster,
                     const uint8_t fingerprint[MESSAGE_FINGERPRINT],
                     uint64_t boot_id) {
    message m = {
        .cluster = cluster,
        .has_fingerprint = true,
        .boot_id = boot_id,
    };
    memcpy(m.fingerprint, fingerprint, sizeof(m.fingerprint));
    return m;
}

/* Copy what is text of `from`, with '?' for bytes that are not, up to `size`
 * with the final zero.  A refusal must not be refused for quoting what it
 * refuses. */
static void copy_text(char *to, size_t size, const char *from) {
    const uint8_t *p = (const uint8_t *)from;
    size_t left = strlen(from), used = 0;
    while (left > 0) {
        size_t step = wire_character(p, left);
        size_t taken = step > 0 ? step : 1;
        if (used + taken >= size) break;
        if (step > 0) {
            memcpy(to + used, p, step);
        } else {
            to[used] = '?';
        }
        used += taken;
        p += taken;
        left -= taken;
    }
    to[used] = '\0';
}

int message_error(frames *f, const message *from, const message *to, int code,
                  const char *text) {
    char safe[MESSAGE_WHY_MAX + 1];
    copy_text(safe, sizeof(safe), text != NULL ? text : err_text(code));

    message m = {
        .kind = MESSAGE_ERROR,
        .cluster = from->cluster,
        .has_fingerprint = from->has_fingerprint,
        .boot_id = from->boot_id,
        .to_boot_id = to->boot_id,
        .epoch = from->epoch,
        .request_id = to->request_id,
        .error = {.code = code < 0 ? code : ERR_INTERNAL, .text = safe},
    };
    memcpy(m.fingerprint, from->fingerprint, sizeof(m.fingerprint));

    while (f->count > 0)
        zmq_msg_close(&f->part[--f->count]);
    if (frames_add(f, 0) == NULL) return -ENOMEM;
    return message_seal(f, &m);
}
