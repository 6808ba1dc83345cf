/* roster.h - the C client library of Roster.
 *
 * Roster serves mixture-of-experts language models from a rack of CPU servers.
 * This library speaks to one of its coordinators: it generates text, evaluates
 * token lists and asks for status.  C99; usable from C++.
 *
 *     roster_client *client;
 *     char why[ROSTER_WHY_BYTES];
 *     int rc = roster_client_create(&client, NULL, why, sizeof(why));
 *     if (rc < 0) { fprintf(stderr, "%s\n", why); return 1; }
 *
 *     roster_request request;
 *     roster_request_init(&request);
 *     request.text = "Once upon a time";
 *     request.text_bytes = strlen(request.text);
 *     rc = roster_generate(client, &request, on_token, NULL, NULL);
 *     if (rc < 0) fprintf(stderr, "%s\n", roster_client_error(client));
 *     roster_client_destroy(&client);
 *
 * Errors.  Functions that can fail return 0 or a negative code: one of
 * roster_error, or -errno for a failure of the system.  roster_strerror() gives
 * its general text; roster_client_error() what happened, with names and
 * numbers.
 *
 * Threads.  Handles share nothing with each other.  A client, and everything
 * that was made with it, belongs to one thread at a time; it may be handed to
 * another one between calls.  The library runs callbacks only inside the calls
 * that say so, in the thread that made them.  (ZeroMQ keeps one I/O thread per
 * client, with all signals blocked.)
 *
 * Ownership.  What a create function gave is released with the destroy function
 * of the same name, which takes the address of the pointer, sets it to NULL and
 * does nothing when it is NULL already.  Pointers to text and arrays are on
 * loan, until when is said at each.
 *
 * Time.  No call waits without a limit.  A coordinator gives every request a
 * deadline of its own and answers with ROSTER_ERR_DEADLINE; should it fall
 * silent instead, the library does the same `grace_ms` later.
 *
 * The library never exits, aborts, prints or touches signal handlers. */
#ifndef ROSTER_H
#define ROSTER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ROSTER_API __attribute__((visibility("default")))
#else
#define ROSTER_API
#endif

/* A sentence that explains a failure fits into this many bytes; a longer one is
 * cut, always zero-terminated. */
#define ROSTER_WHY_BYTES 512

/* ---- errors ---- */

/* The numbers travel between machines and never change their meaning.  Codes
 * that are not listed (those above -10001) are -errno. */
typedef enum {
    ROSTER_OK = 0,
    ROSTER_ERR_FORMAT = -10001,      /* a damaged file */
    ROSTER_ERR_UNSUPPORTED = -10002, /* the peer or library cannot do this */
    ROSTER_ERR_RANGE = -10003,       /* a value is out of range */
    ROSTER_ERR_USAGE = -10004,       /* a call or setting that makes no sense */
    ROSTER_ERR_NOT_HERE = -10005,    /* a node does not hold the expert */
    ROSTER_ERR_WRONG_MODEL = -10006, /* the peer serves another model */
    ROSTER_ERR_WRONG_PROFILE = -10007, /* another numerics profile */
    ROSTER_ERR_WRONG_VERSION = -10008, /* another protocol version */
    ROSTER_ERR_WRONG_CLUSTER = -10009, /* another cluster */
    ROSTER_ERR_WRONG_BOOT = -10010,    /* meant for an earlier process */
    ROSTER_ERR_MALFORMED = -10011,     /* a message that breaks the protocol */
    ROSTER_ERR_CHECKSUM = -10012,      /* a message damaged on its way */
    ROSTER_ERR_TOO_LARGE = -10013,     /* above a limit */
    ROSTER_ERR_OVERLOADED = -10014,    /* the queue is full: try again later */
    ROSTER_ERR_UNAVAILABLE = -10015,   /* no live node holds a needed expert */
    ROSTER_ERR_DEADLINE = -10016,      /* no answer in time */
    ROSTER_ERR_CANCELLED = -10017,     /* cancelled by the other side */
    ROSTER_ERR_CLOSED = -10018,        /* the connection was lost */
    ROSTER_ERR_CONTEXT = -10019,       /* the prompt does not fit the context */
    ROSTER_ERR_INTERNAL = -10020,      /* a defect; please report it */
    ROSTER_ERR_STALE = -10021,         /* the sender's placement is too old */
    ROSTER_ERR_NOT_LEADER = -10022     /* nothing can be recorded now */
} roster_error;

/* A sentence without a final stop, never NULL, also for unknown codes.  Static
 * storage; for -errno that of strerror(). */
ROSTER_API const char *roster_strerror(int code);

/* The release of the library, "0.1.0". */
ROSTER_API const char *roster_version(void);

/* ---- configuration ---- */

/* Settings by name, so that new ones need no new functions:
 *
 *   endpoint            tcp://HOST:PORT of a coordinator, or several of them
 *                       separated by commas; without it the environment's
 *                       ROSTER_ENDPOINT
 *   cluster             name that the coordinator must have; default: any
 *   name                ours, for the coordinator's log; default "libroster"
 *   connect_timeout_ms  5000; for roster_client_create()
 *   timeout_ms          longest wait for the next token, of requests that set
 *                       none; default 0: the coordinator's own
 *   grace_ms            2000; how much later than the coordinator's deadline
 *                       the library gives up by itself
 *   interrupt_fd        number of a descriptor, on loan, such as a signalfd or
 *                       the reading end of a pipe: once it is readable, calls
 *                       that wait give up with -EINTR; default: none
 *   failover            on: when a coordinator is lost or leaves, another one
 *                       of the rack takes over what is running, see below; off:
 *                       what is running fails with ROSTER_ERR_CLOSED
 *   insecure            false; true allows endpoints beyond loopback (there is
 *                       no encryption yet) */
typedef struct roster_config roster_config;

ROSTER_API int roster_config_create(roster_config **out);
ROSTER_API void roster_config_destroy(roster_config **config);

/* ROSTER_ERR_USAGE for an unknown key or a value that cannot be read, with a
 * sentence in `why` (may be NULL).  The texts are copied. */
ROSTER_API int roster_config_set(roster_config *config, const char *key,
                                 const char *value, char *why, size_t why_size);

/* ---- a connection ---- */

/* A client talks to one coordinator at a time.  It asks that one, now and then,
 * which others serve the rack.  When the connection breaks, the coordinator
 * does not answer for about 1.5 s while something runs, or refuses because it
 * is ending or drained, the client turns to another one that serves the same
 * model with the same numerics profile and no smaller context.  Generations go
 * on there with the very tokens and bytes that would have come, evaluations
 * begin anew (rows are delivered once); a request that cannot be placed
 * anywhere before its own deadline fails, and its sentence names who was tried:
 * ROSTER_ERR_CLOSED, or ROSTER_ERR_WRONG_MODEL and the like when all others are
 * unfit.  Requests for status and draining are not repeated. */
typedef struct roster_client roster_client;

/* Connect and greet.  The configuration is copied; NULL means the defaults.
 * On failure *out is NULL and `why` (may be NULL) holds a sentence:
 * ROSTER_ERR_USAGE for an endpoint that cannot be read or is not allowed,
 * ROSTER_ERR_DEADLINE if nobody answered, ROSTER_ERR_WRONG_* for a peer that
 * does not match, or the code the peer refused with. */
ROSTER_API int roster_client_create(roster_client **out,
                                    const roster_config *config, char *why,
                                    size_t why_size);

/* Close.  Whatever still runs is dropped (the coordinator notices and cancels
 * it) and every roster_generation of this client dies with it.  Does nothing
 * when called from one of this client's callbacks. */
ROSTER_API void roster_client_destroy(roster_client **client);

/* The sentence of this client's latest failure, "" before the first; on loan
 * until the next call with the client. */
ROSTER_API const char *roster_client_error(const roster_client *client);

/* What the coordinator said of itself; on loan as long as the client lives. */
/* (The endpoint: until the next call that processes.) */
ROSTER_API const char *roster_client_endpoint(const roster_client *client);
ROSTER_API const char *roster_client_model(const roster_client *client);
ROSTER_API uint32_t roster_client_n_vocab(const roster_client *client);
ROSTER_API uint32_t roster_client_n_context(const roster_client *client);

/* ---- generating text ---- */

/* What to generate.  roster_request_init() makes every member its default,
 * which is zero, and notes in `size` which members the caller knows, so that a
 * later library can add some.  The texts and arrays are copied.  The prompt is
 * `tokens` followed by `text`; one of them must be there. */
typedef struct {
    size_t size;
    const char *text; /* UTF-8, or any bytes */
    size_t text_bytes;
    const uint32_t *tokens;
    size_t n_tokens;
    int add_special;   /* the model's BOS before `text`, if no tokens precede */
    int parse_special; /* control tokens written out in `text` become tokens */
    int ignore_end;    /* go on after an end-of-text token */
    uint32_t max_tokens; /* 0: the coordinator's default */
    uint32_t timeout_ms; /* longest wait for the next token; 0: configured */
    float temperature;   /* 0: always the likeliest token */
    uint32_t top_k;      /* 0: off */
    float top_p;         /* 0 or 1: off */
    float min_p;         /* 0: off */
    int has_seed;        /* 0: the coordinator draws a seed and tells it */
    uint64_t seed;
} roster_request;

static inline void roster_request_init(roster_request *request) {
    memset(request, 0, sizeof(*request));
    request->size = sizeof(*request);
}

#define ROSTER_NO_TOKEN UINT32_MAX

/* A piece of a generation, on loan during the callback. */
typedef struct {
    uint32_t index;   /* from 0 */
    uint32_t id;      /* ROSTER_NO_TOKEN: bytes held back at the end */
    const char *text; /* zero-terminated; whole characters, may be empty */
    size_t text_bytes;
} roster_token;

typedef enum {
    ROSTER_FINISH_NONE = 0,      /* still running, or failed */
    ROSTER_FINISH_END = 1,       /* the model ended the text */
    ROSTER_FINISH_LENGTH = 2,    /* max_tokens, or the context is full */
    ROSTER_FINISH_CANCELLED = 3, /* by us */
    ROSTER_FINISH_DONE = 4       /* an evaluation is complete */
} roster_finish;

/* One request to generate, running or ended, with all it has produced. */
typedef struct roster_generation roster_generation;

/* A new token.  Any other value than 0 cancels the generation.  Inside it, the
 * generation's accessors, roster_submit(), roster_cancel() and
 * roster_generation_destroy() may be called, but nothing that waits or
 * processes (these return ROSTER_ERR_USAGE). */
typedef int (*roster_on_token)(void *opaque, roster_generation *generation,
                               const roster_token *token);

/* The generation has ended: roster_generation_result() tells how. */
typedef void (*roster_on_end)(void *opaque, roster_generation *generation);

/* Generate and wait for the end; on_token (may be NULL) runs inside this call,
 * and so do the callbacks of other generations of this client.  0 also if it
 * was cancelled.  *out (may be NULL) is the ended generation, also after a
 * failure once the request was sent; NULL if it was not. */
ROSTER_API int roster_generate(roster_client *client,
                               const roster_request *request,
                               roster_on_token on_token, void *opaque,
                               roster_generation **out);

/* Send a request and return.  Several may be in flight on one client; their
 * callbacks (either may be NULL) run inside roster_process() and the calls that
 * wait.  ROSTER_ERR_OVERLOADED: 1024 are in flight already.  -EAGAIN: the
 * connection takes no more just now, process and try again. */
ROSTER_API int roster_submit(roster_client *client,
                             const roster_request *request,
                             roster_on_token on_token, roster_on_end on_end,
                             void *opaque, roster_generation **out);

/* Wait up to `timeout_ms` (0: not at all) for something to happen, and handle
 * whatever has.  Returns how many messages and deadlines were handled; 0 when
 * the time passed, a signal arrived or the configured interrupt_fd is readable.
 * ROSTER_ERR_CLOSED once the connection is lost and no coordinator took over:
 * every generation has ended then.  With failover on, the next request looks
 * for a coordinator again; else the client is good for nothing but its
 * accessors. */
ROSTER_API int roster_process(roster_client *client, int timeout_ms);

/* For callers with a poll loop: when this descriptor is readable, or
 * roster_poll_timeout() milliseconds have passed (-1: no limit), call
 * roster_process(client, 0).  The descriptor stays the same as long as the
 * client lives.  It is edge-triggered, so ask for the timeout
 * before every poll: it is 0 when messages may wait unannounced. */
ROSTER_API int roster_poll_fd(const roster_client *client);
ROSTER_API int roster_poll_timeout(const roster_client *client);

/* Ask the coordinator to stop.  The generation ends as ROSTER_FINISH_CANCELLED,
 * at the latest after `grace_ms`; no more tokens are delivered.  Nothing
 * happens to one that has ended. */
ROSTER_API int roster_cancel(roster_generation *generation);

/* Release; one that runs is cancelled first, and its callbacks no longer run.
 * (The one that roster_generate() waits for is only cancelled.) */
ROSTER_API void roster_generation_destroy(roster_generation **generation);

/* -EINPROGRESS while it runs, 0 when it ended in an orderly way, or the error
 * it failed with, whose sentence is roster_generation_error() ("" if none). */
ROSTER_API int roster_generation_result(const roster_generation *generation);
ROSTER_API const char *
roster_generation_error(const roster_generation *generation);
ROSTER_API roster_finish
roster_generation_finish(const roster_generation *generation);

/* The text so far (zero-terminated; the length does not count that), the ids so
 * far, and the prompt as the model sees it, BOS included (empty until the
 * coordinator has accepted the request).  Ids may be NULL while there are none.
 * On loan until the next call that processes or destroys.  Lengths may be
 * NULL. */
ROSTER_API const char *
roster_generation_text(const roster_generation *generation, size_t *bytes);
ROSTER_API const uint32_t *
roster_generation_tokens(const roster_generation *generation, size_t *count);
ROSTER_API const uint32_t *
roster_generation_prompt(const roster_generation *generation, size_t *count);

/* The seed in force: the request's, or the one the coordinator drew.  With it
 * the same request gives the same text.  0 until accepted. */
ROSTER_API uint64_t roster_generation_seed(const roster_generation *generation);

/* How often another coordinator has taken it over. */
ROSTER_API uint32_t
roster_generation_moves(const roster_generation *generation);

/* One process's part of the expert work. */
typedef struct {
    const char *name; /* of the node; "local": the coordinator itself */
    uint64_t pairs;   /* (token, expert) pairs it computed */
} roster_share;

/* Figures of an ended request, for a struct that roster_stats_init() prepared.
 * Pointers are on loan as long as the generation lives; after roster_eval(),
 * until the next roster_eval() with the client. */
typedef struct {
    size_t size;
    uint32_t prompt_tokens;
    uint32_t generated_tokens;
    uint64_t prompt_us;
    uint64_t generate_us;
    uint32_t experts_per_token; /* (layer, expert) pairs run for one token */
    uint32_t experts_stored;    /* of all layers */
    uint64_t bytes_per_token;   /* weight bytes read for one decoded token */
    uint64_t bytes_resident;    /* weight bytes in memory, all processes */
    uint64_t takeovers; /* pairs that a replica or the coordinator took over */
    const roster_share *shares;
    size_t n_shares;
    uint32_t moves; /* to another coordinator; the figures above are then of
                       the last one, whose prompt had what was told before */
} roster_stats;

static inline void roster_stats_init(roster_stats *stats) {
    memset(stats, 0, sizeof(*stats));
    stats->size = sizeof(*stats);
}

/* ROSTER_ERR_USAGE while there are none: it runs, or it failed. */
ROSTER_API int roster_generation_stats(const roster_generation *generation,
                                       roster_stats *stats);

/* ---- evaluating a token list ---- */

/* What to evaluate; as roster_request is used. */
typedef struct {
    size_t size;
    const uint32_t *tokens; /* exactly these, nothing is added */
    size_t n_tokens;
    uint32_t chunk;      /* tokens fed at a time; 0: as the coordinator likes */
    int routing;         /* also tell which experts were chosen */
    uint32_t timeout_ms; /* longest wait for the next rows; 0: configured */
} roster_eval_request;

static inline void roster_eval_request_init(roster_eval_request *request) {
    memset(request, 0, sizeof(*request));
    request->size = sizeof(*request);
}

/* Rows of logits, in ascending order and without gaps; on loan during the
 * callback.  Row i belongs to the token at position first + i. */
typedef struct {
    uint32_t first;
    uint32_t n_rows;
    uint32_t n_vocab;
    const float *logits;        /* [n_rows][n_vocab] */
    uint32_t n_moe_layers;      /* 0 unless routing was asked for */
    uint32_t k;                 /* experts chosen per token */
    const uint32_t *moe_layers; /* [n_moe_layers] layer numbers */
    const uint32_t *experts;    /* [n_moe_layers][n_rows][k], best first */
    const float *weights;       /* the same shape: what outputs are scaled by */
} roster_rows;

/* Any other value than 0 cancels the evaluation. */
typedef int (*roster_on_rows)(void *opaque, const roster_rows *rows);

/* Evaluate and wait for the end.  0: every row was delivered.
 * ROSTER_ERR_CANCELLED if the callback asked for that.  `stats` may be NULL. */
ROSTER_API int roster_eval(roster_client *client,
                           const roster_eval_request *request,
                           roster_on_rows on_rows, void *opaque,
                           roster_stats *stats);

/* ---- the state of the rack ---- */

/* Ask for the rack's state as JSON text; its members are in docs/protocol.md.
 * *json is on loan until the next roster_status() or the client's end. */
ROSTER_API int roster_status(roster_client *client, const char **json);

/* Ask that the node or coordinator called `name` be emptied: what a node holds
 * moves to others, a coordinator takes no new requests.  With `undo` it is used
 * again.  0: this is recorded; how far it is, the status says.
 * ROSTER_ERR_RANGE: nobody is called that.  ROSTER_ERR_NOT_LEADER: the rack has
 * no etcd to record it in, or it is away. */
ROSTER_API int roster_drain(roster_client *client, const char *name, int undo);

/* Ask the coordinator that leads the rack for a better placement of experts by
 * their load now, or (dry_run) only what it would be.  *json is the report
 * (docs/protocol.md), on loan until the next roster_status(),
 * roster_rebalance() or the client's end.  The moves go on after the call.
 * ROSTER_ERR_NOT_LEADER: another coordinator leads, the sentence says which, or
 * the rack has no etcd. */
ROSTER_API int roster_rebalance(roster_client *client, int dry_run,
                                const char **json);

/* Have the rack's etcd put right after it was wiped, restored from an older
 * snapshot or ran out of space, or (dry_run) ask what would be done.  `by` says
 * who asks, for the record.  *json is the report (docs/protocol.md), on loan
 * until the next roster_status(), roster_recover() or the client's end.  May
 * take a minute.  ROSTER_ERR_NOT_LEADER: another coordinator leads, the
 * sentence says which, or etcd is away. */
ROSTER_API int roster_recover(roster_client *client, int dry_run,
                              const char *by, const char **json);

#ifdef __cplusplus
}
#endif

#endif
