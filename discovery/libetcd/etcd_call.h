/* etcd_call.h - one request of etcd, over as many endpoints as it takes.
 *
 * Within libetcd only.  A call knows whether it is a write, asks one endpoint
 * after another while that is safe, logs in when etcd wants it, and ends once
 * with a code.  What it asks and how the answer is read is its owner's. */
#ifndef DISCOVERY_LIBETCD_ETCD_CALL_H
#define DISCOVERY_LIBETCD_ETCD_CALL_H

#include "discovery/libetcd/etcd.h"
#include "discovery/libetcd/etcd_http.h"
#include "discovery/libetcd/etcd_json.h"
#include "discovery/libetcd/etcd_parse.h"
#include "discovery/libetcd/etcd_text.h"

#define ETCD_ENDPOINTS_MAX 64
#define ETCD_WHY_MAX 512

typedef struct etcd_call etcd_call;

struct etcd {
    uv_loop_t *loop;
    etcd_http *http;
    uv_timer_t closer; /* brings the last callbacks from the loop */
    char **endpoints;
    size_t n_endpoints;
    size_t current;    /* the endpoint asked first: it answered last */
    bool has_answered; /* `current` did */
    char *user, *password, *ca_file, *cert_file, *key_file;
    char *token;         /* NULL: none, or not yet */
    uint64_t n_tokens;   /* how many there have been */
    bool needs_no_login; /* etcd said that it wants no passwords */
    etcd_call *login;    /* under way */
    uint32_t connect_ms, request_ms;
    uint64_t max_body, max_line;
    etcd_call *calls; /* all that run */
    size_t n_calls;   /* of the user's, which are bounded */
    etcd_watch *watches;
    size_t n_handles; /* what still has to close */
    bool closing;
    void (*on_closed)(void *ctx);
    void *ctx;
};

/* Reads the answer (status 200).  ETCD_BAD_ANSWER with a sentence in `why`,
 * ETCD_NO_MEMORY, or what the call ends with; what it read stays with the
 * owner. */
typedef etcd_code (*etcd_call_read)(etcd_call *c, const char *body, size_t len,
                                    etcd_why *why);
/* The end; c is freed after it. */
typedef void (*etcd_call_done)(etcd_call *c, const etcd_answer *a);

struct etcd_call {
    /* The owner's, set before etcd_call_begin(). */
    const char *path;
    etcd_text body; /* freed with the call, which is one block of malloc() */
    bool is_write;
    bool is_login;    /* needs no token */
    bool is_internal; /* not counted */
    bool is_pinned;   /* asks `endpoint` and no other */
    size_t endpoint;
    uint32_t total_ms; /* 0: the etcd's request_ms */
    etcd_call_read read;
    etcd_call_done done;
    /* Frees what the owner has beside the struct; NULL: nothing. */
    void (*drop)(etcd_call *c);

    /* Filled by `read`. */
    etcd_header header;

    /* The call's own. */
    etcd *etcd;
    etcd_call *next, *prev;
    etcd_transfer *transfer;
    uint64_t deadline_ms;
    size_t n_asked;             /* endpoints that failed */
    uint64_t n_token;           /* the token it was sent with */
    const etcd_call *waits_for; /* a login, or NULL */
    bool logged_in_anew;
    bool runs_again;
    bool lacks_revision; /* REFUSED since the store has not that revision */
    etcd_code code;      /* how it ends if no other endpoint helps, and why */
    char why[ETCD_WHY_MAX];
};

/* Takes the call, also when it fails: -ENOMEM, -EAGAIN (too many at once) or
 * -ECANCELED, and then `done` does not come. */
int etcd_call_begin(etcd *e, etcd_call *c);
/* Once more, with the body it has now; from within `done` only, which must
 * not touch the call after it.  The deadline begins anew. */
int etcd_call_again(etcd_call *c);
/* No `done` follows; frees it.  NULL is fine. */
void etcd_call_cancel(etcd_call *c);
/* Closing, in two steps: no answer comes through any more; then, from the
 * loop, every call ends with ETCD_CANCELLED. */
void etcd_call_silence(etcd *e);
void etcd_call_end_all(etcd *e);
/* A handle of the etcd has closed; the last one frees it. */
void etcd_release_handle(etcd *e);

/* The token is worth nothing: the next call logs in. */
void etcd_call_forget_token(etcd *e);
/* Whether etcd says by this that it knows no (such) token any more. */
bool etcd_call_wants_login(const etcd_parse_error_out *error);
/* The endpoint failed: the others go first from now on. */
void etcd_call_blame(etcd *e, size_t endpoint);

#endif
