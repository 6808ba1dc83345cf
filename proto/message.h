/* message.h - the messages of Roster as plain C, and the only code that packs,
 * unpacks and checks them (roster.proto, docs/protocol.md).
 *
 * Everything that comes from a peer passes message_open(): sizes before
 * unpacking, unpacking into a bounded arena, then every count, index, length
 * and checksum.  What message_open() accepted can be used without further
 * checks, except against the model (layer and expert numbers, widths). */
#ifndef PROTO_MESSAGE_H
#define PROTO_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/profile.h"
#include "proto/frames.h"

#define PROTOCOL_VERSION 1 /* ours; neighbours (one apart) talk */
#define MESSAGE_HEADER_MAX ((size_t)4 << 20)
#define MESSAGE_PART_MAX ((size_t)64 << 20) /* one payload */
#define MESSAGE_TEXT_MAX ((size_t)2 << 20)  /* prompt text */
#define MESSAGE_TOKENS_MAX ((size_t)1 << 20)
#define MESSAGE_NAME_MAX 127 /* names, cluster, endpoints */
#define MESSAGE_WHY_MAX 1023 /* text of an error */
#define MESSAGE_LAYERS_MAX 1024
#define MESSAGE_EXPERTS_MAX 65536 /* of one layer */
#define MESSAGE_WIDTH_MAX (1u << 20)
#define MESSAGE_SHARES_MAX 1024
#define MESSAGE_ARENA_MAX ((size_t)32 << 20) /* opens any honest message */
#define MESSAGE_FINGERPRINT 32
#define MESSAGE_SLICES_MAX 8                /* of one expert */
#define MESSAGE_FILES_MAX 4096              /* of one model */
#define MESSAGE_MEMBERS_MAX 256             /* coordinators of one rack */
#define MESSAGE_PIECE_MAX ((size_t)1 << 20) /* that one fetch brings */

typedef enum {
    MESSAGE_NONE,
    MESSAGE_HELLO,
    MESSAGE_WELCOME,
    MESSAGE_PING,
    MESSAGE_PONG,
    MESSAGE_BATCH,
    MESSAGE_ROWS,
    MESSAGE_ERROR,
    MESSAGE_GENERATE,
    MESSAGE_ACCEPTED,
    MESSAGE_TOKEN,
    MESSAGE_FINISHED,
    MESSAGE_CANCEL,
    MESSAGE_EVAL,
    MESSAGE_LOGITS,
    MESSAGE_STATUS_REQUEST,
    MESSAGE_STATUS,
    MESSAGE_MODEL_REQUEST,
    MESSAGE_MODEL,
    MESSAGE_FETCH,
    MESSAGE_PIECE,
    MESSAGE_DRAIN,
    MESSAGE_DONE,
    MESSAGE_LOAD_REQUEST,
    MESSAGE_LOAD,
    MESSAGE_MEMBERS_REQUEST,
    MESSAGE_MEMBERS,
    MESSAGE_REBALANCE,
    MESSAGE_RECOVER,
    MESSAGE_REPORT,
    MESSAGE_FETCH_UNIT,
    MESSAGE_KINDS
} message_kind;

/* Text and bytes are borrowed: from the caller when packing, from the arena
 * when opened.  Text is zero-terminated as well. */
typedef struct {
    const char *data;
    size_t len;
} message_text;

typedef struct {
    const uint32_t *items;
    size_t count;
} message_u32s;

typedef enum { ROLE_NONE, ROLE_CLIENT, ROLE_COORDINATOR, ROLE_NODE } peer_role;

typedef struct {
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed;
    bool has_seed;
} message_sampling;

typedef enum {
    FINISH_UNKNOWN,
    FINISH_END,
    FINISH_LENGTH,
    FINISH_CANCELLED,
    FINISH_DONE
} finish_reason;

typedef struct {
    const char *name;
    uint64_t pairs;
} message_share;

typedef struct {
    const char *name;
    uint64_t bytes, mtime_ns, head_bytes;
} message_file;

typedef struct {
    const char *name, *endpoint, *http;
    bool leaving;
} message_member;

typedef struct {
    message_kind kind;
    /* every header */
    uint32_t protocol;   /* message_seal() writes PROTOCOL_VERSION for 0 */
    const char *cluster; /* all `const char *` may be NULL when sealing and are
                            never NULL when opened; they are UTF-8 */
    uint8_t fingerprint[MESSAGE_FINGERPRINT];
    bool has_fingerprint;
    uint64_t boot_id, to_boot_id, epoch, request_id;
    uint32_t remaining_ms;

    union {
        struct {
            peer_role role;
            const char *name;
            bool has_profile;
            profile profile;
        } hello;
        struct {
            peer_role role;
            const char *name;
            bool has_profile;
            profile profile;
            uint32_t data_port;
            const char *data_endpoint;
            uint32_t n_layers, n_experts;
            uint32_t slices; /* 1 or more when opened */
            /* a bit for each layer and unit: (n_layers * n_experts * slices +
             * 7) / 8 bytes */
            const uint8_t *holdings;
            size_t holdings_bytes;
            uint64_t resident_bytes, max_reply_bytes, holdings_version;
            const char *cpu;
            uint32_t threads;
            const char *model;
            uint32_t n_vocab, n_context;
        } welcome;
        struct {
            uint64_t placement; /* digest of what `epoch` stands for; 0: none */
        } ping;
        struct {
            uint64_t progress, batches, pairs, resident_bytes;
            uint64_t holdings_version;
            uint32_t queued_jobs;
        } pong;
        struct {
            uint32_t layer, form, width, n_rows;
            uint32_t slices; /* 1 or more when opened */
            /* `experts` are units, expert * slices + slice */
            message_u32s experts, counts, rows; /* checked: equal lengths of
                the first two, counts above 0, sum(counts) == rows.count,
                rows[i] < n_rows; not empty, and the reply fits a part */
        } batch;
        struct {
            uint32_t layer, n_pairs, width, form, queue_us, compute_us;
        } rows;
        struct {
            int32_t code; /* always negative */
            const char *text;
        } error;
        struct {
            message_text text;
            message_u32s tokens;
            bool add_special, parse_special, ignore_end;
            uint32_t max_tokens, timeout_ms, resumed_tokens;
            uint64_t delivered_bytes;
            message_sampling sampling;
        } generate;
        struct {
            message_sampling sampling;
            uint32_t max_tokens, timeout_ms;
            message_u32s prompt_tokens;
        } accepted;
        struct {
            uint32_t index, id;
            message_text text;
            uint64_t delivered_bytes;
        } token;
        struct {
            finish_reason reason;
            uint32_t prompt_tokens, generated_tokens;
            uint64_t prompt_us, generate_us;
            uint32_t experts_per_token, experts_stored;
            uint64_t bytes_per_token, bytes_resident, takeovers;
            const message_share *shares;
            size_t n_shares;
            message_text text;
        } finished;
        struct {
            message_u32s tokens;
            uint32_t chunk, timeout_ms;
            bool routing;
        } eval;
        struct {
            uint32_t first, n_rows, n_vocab, k;
            message_u32s moe_layers;
        } logits;
        struct {
            message_text json;
        } status;
        struct {
            const message_file *files;
            size_t n_files; /* at least 1 when opened */
            uint64_t manifest_bytes;
        } model;
        struct {
            uint64_t offset, stride;
            uint32_t file, bytes, count; /* checked: 1 to MESSAGE_PIECE_MAX
                                            bytes in all, no overflow */
        } fetch;
        struct {
            const char *name;
            bool undo;
        } drain;
        struct {
            uint64_t holdings_version, pairs, runs, weight_bytes, busy_us;
            const uint8_t *holdings; /* as in a welcome */
            size_t holdings_bytes;
            uint32_t slices; /* 1 or more when opened */
        } load;              /* its payload is a u32 for each bit that is set */
        struct {
            const message_member *items;
            size_t count;
        } members;
        struct {
            bool dry_run;
        } rebalance;
        struct {
            bool dry_run;
            const char *by;
        } recover;
        struct {
            message_text json;
        } report;
        struct {
            uint32_t layer, unit;
            uint32_t slices; /* 1 or more when opened */
            uint64_t offset;
            uint32_t bytes; /* checked: 1 to MESSAGE_PIECE_MAX */
        } fetch_unit;
    };
} message;

/* What a process says of itself in every header; `cluster` is borrowed, the
 * kind is the caller's to add. */
message message_from(const char *cluster,
                     const uint8_t fingerprint[MESSAGE_FINGERPRINT],
                     uint64_t boot_id);

/* Memory for one opened message at a time, reused; grows up to `max_bytes`. */
typedef struct message_arena message_arena;
int message_arena_new(message_arena **out, size_t max_bytes);
void message_arena_free(message_arena *a);

/* Write the header into part 0 of `f`, whose parts 1.. are the payloads, and
 * their checksums.  frames_init(), then frames_add(f, 0) for the header's
 * place, then the payloads, then this.  -ENOMEM, ERR_TOO_LARGE, ERR_RANGE for a
 * text that is not UTF-8.  On failure part 0 is unchanged. */
int message_seal(frames *f, const message *m);

/* Check and unpack.  *m borrows from `a` (until the next call with it) and, for
 * payloads, from `f`.  Errors: ERR_MALFORMED, ERR_CHECKSUM, ERR_TOO_LARGE,
 * ERR_WRONG_VERSION, ERR_UNSUPPORTED (a kind, form or slice of a newer
 * version), -ENOMEM; `why` names the field.  As much of the header as could be
 * read (protocol, request_id, boot ids) is in *m also on failure, for the typed
 * reply; kind is MESSAGE_NONE then.  The number of payloads is checked, and
 * their size against the body where it defines it (batch, rows, logits). */
int message_open(frames *f, message_arena *a, message *m, char *why,
                 size_t why_size);

/* The payload bytes that a batch or reply of these sizes must have; SIZE_MAX
 * for an unknown form or an overflow. */
size_t message_rows_bytes(uint32_t form, uint64_t n_rows, uint32_t width);

/* An error reply to `to` (its request_id and boot_id are echoed); `from` gives
 * cluster, fingerprint and boot id of the sender.  *f keeps its address and
 * loses its parts, so the refused message's own frames can carry the answer.
 * A NULL `text` becomes the code's; a long one is cut. */
int message_error(frames *f, const message *from, const message *to, int code,
                  const char *text);

const char *message_kind_name(message_kind kind);

/* May a process or a cluster be called this?  1 to MESSAGE_NAME_MAX printable
 * ASCII characters: names stand in every message, log line and table. */
bool message_is_name(const char *text);

#endif
