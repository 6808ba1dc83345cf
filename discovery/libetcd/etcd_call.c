/* etcd_call.c - see etcd_call.h.
 *
 * What a failure means is decided in judge().  A read may be repeated at will.
 * A write is sent to another endpoint only if the first one cannot have seen
 * it: nothing left this machine, or what answered is no gateway of etcd at all.
 * Else its outcome is what etcd says if etcd says it did not do it, and unknown
 * in all other cases: timeouts, broken connections, a lost leader (etcd answers
 * "request timed out" for writes that are applied later). */
#include "discovery/libetcd/etcd_call.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/libetcd/etcd_build.h"

/* gRPC's codes, as etcd's gateway passes them on. */
enum {
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_UNAUTHENTICATED = 16
};

typedef enum { END, ASK_NEXT, LOG_IN } verdict;

static int start(etcd_call *c);

static uint64_t now_ms(void) {
    return uv_hrtime() / 1000000;
}

/* ---- the list ---- */

static bool is_counted(const etcd_call *c) {
    return !c->is_internal;
}

static void link_call(etcd *e, etcd_call *c) {
    c->etcd = e;
    c->prev = NULL;
    c->next = e->calls;
    if (c->next != NULL) c->next->prev = c;
    e->calls = c;
    if (is_counted(c)) e->n_calls++;
}

static void unlink_call(etcd_call *c) {
    etcd *e = c->etcd;
    if (c->prev != NULL) c->prev->next = c->next;
    if (c->next != NULL) c->next->prev = c->prev;
    if (e->calls == c) e->calls = c->next;
    c->next = c->prev = NULL;
    if (is_counted(c)) e->n_calls--;
    if (e->login == c) e->login = NULL;
}

static void free_call(etcd_call *c) {
    if (c->drop != NULL) c->drop(c);
    etcd_text_fini(&c->body);
    free(c);
}

static void end(etcd_call *c) {
    bool good = c->code == ETCD_OK || c->code == ETCD_FALSE;
    etcd_answer a = {
        .code = c->code,
        .why = good ? "" : c->why,
        .cluster_id = c->header.cluster_id,
        .member_id = c->header.member_id,
        .revision = c->header.revision,
    };
    unlink_call(c);
    c->runs_again = false;
    c->done(c, &a);
    if (!c->runs_again) free_call(c);
}

static void fail(etcd_call *c, etcd_code code, const char *why) {
    c->code = code;
    snprintf(c->why, sizeof(c->why), "%s", why);
    etcd_text_clean(c->why);
    end(c);
}

/* ---- logging in ---- */

void etcd_call_forget_token(etcd *e) {
    free(e->token);
    e->token = NULL;
    e->needs_no_login = false;
}

bool etcd_call_wants_login(const etcd_parse_error_out *error) {
    static const char *const sentences[] = {
        "invalid auth token",
        "revision of auth store is old",
        "user name is empty",
        "auth token is not provided",
    };
    for (size_t i = 0; i < sizeof(sentences) / sizeof(sentences[0]); i++) {
        if (strstr(error->message, sentences[i]) != NULL) return true;
    }
    return error->code == GRPC_UNAUTHENTICATED;
}

static etcd_code read_login(etcd_call *c, const char *body, size_t len,
                            etcd_why *why) {
    etcd_parse_login_out out;
    int rc = etcd_parse_login(body, len, &out, why);
    if (rc == -ENOMEM) return ETCD_NO_MEMORY;
    if (rc < 0) return ETCD_BAD_ANSWER;
    etcd *e = c->etcd;
    free(e->token);
    e->token = strdup(out.token);
    e->n_tokens++;
    return e->token == NULL ? ETCD_NO_MEMORY : ETCD_OK;
}

static etcd_call *find_waiting(etcd *e, const etcd_call *login) {
    for (etcd_call *c = e->calls; c != NULL; c = c->next) {
        if (c->waits_for == login) return c;
    }
    return NULL;
}

/* A call that could not even log in was not sent. */
static void on_login(etcd_call *login, const etcd_answer *a) {
    etcd *e = login->etcd;
    /* A store without passwords needs none, though we were given one. */
    if (a->code == ETCD_REFUSED && strstr(a->why, "is not enabled") != NULL)
        e->needs_no_login = true;
    bool good = a->code == ETCD_OK || e->needs_no_login;
    /* Ending a call may begin, cancel or close anything.  What begins now waits
     * for a login of its own, or it could go on like this for ever. */
    for (etcd_call *c; !e->closing && (c = find_waiting(e, login)) != NULL;) {
        c->waits_for = NULL;
        if (!good) {
            fail(c, a->code == ETCD_BAD_ANSWER ? ETCD_AWAY : a->code, a->why);
        } else if (now_ms() >= c->deadline_ms) {
            fail(c, ETCD_AWAY, "logging in took all the time there was");
        } else if (start(c) < 0) {
            fail(c, ETCD_NO_MEMORY, "no memory");
        }
    }
}

static int log_in(etcd *e) {
    if (e->login != NULL) return 0;
    etcd_call *c = calloc(1, sizeof(*c));
    if (c == NULL) return -ENOMEM;
    c->path = "/v3/auth/authenticate";
    c->is_login = c->is_internal = true;
    c->read = read_login;
    c->done = on_login;
    etcd_build_login(&c->body, e->user, e->password);
    int rc = etcd_call_begin(e, c);
    if (rc == 0) e->login = c;
    return rc;
}

/* ---- what an answer means ---- */

void etcd_call_blame(etcd *e, size_t endpoint) {
    if (e->current == endpoint) e->current = (endpoint + 1) % e->n_endpoints;
}

static void say(etcd_call *c, etcd_code code, const char *what) {
    c->code = code;
    snprintf(c->why, sizeof(c->why), "%s%s: %s",
             c->etcd->endpoints[c->endpoint], c->path, what);
    etcd_text_clean(c->why);
}

/* It may have been done, or not. */
static verdict unsure(etcd_call *c, etcd_code code, const char *what) {
    say(c, c->is_write ? ETCD_UNKNOWN : code, what);
    etcd_call_blame(c->etcd, c->endpoint);
    return c->is_write ? END : ASK_NEXT;
}

/* It was certainly not done, but another endpoint may do it. */
static verdict untouched(etcd_call *c, const char *what) {
    say(c, ETCD_AWAY, what);
    etcd_call_blame(c->etcd, c->endpoint);
    return ASK_NEXT;
}

static verdict answered(etcd_call *c) {
    c->etcd->current = c->endpoint;
    c->etcd->has_answered = true;
    return END;
}

/* Whether etcd says by this that it did nothing.  What the gateway finds wrong
 * itself is an invalid argument; other codes count if etcd, and not a library
 * between it and us, gave them. */
static bool is_refusal(const etcd_parse_error_out *error) {
    switch (error->code) {
    case GRPC_INVALID_ARGUMENT:
    case GRPC_UNIMPLEMENTED:
        return true;
    case GRPC_NOT_FOUND:
    case GRPC_ALREADY_EXISTS:
    case GRPC_PERMISSION_DENIED:
    case GRPC_RESOURCE_EXHAUSTED:
    case GRPC_FAILED_PRECONDITION:
    case GRPC_OUT_OF_RANGE:
    case GRPC_UNAUTHENTICATED:
        return strncmp(error->message, "etcdserver: ", 12) == 0;
    default:
        return false;
    }
}

static verdict judge_error(etcd_call *c, const etcd_parse_error_out *error) {
    etcd *e = c->etcd;
    const char *what = error->message;
    if (strstr(what, "requested lease not found") != NULL) {
        say(c, ETCD_GONE, what);
        return answered(c);
    }
    if (!c->is_login && etcd_call_wants_login(error)) {
        say(c, ETCD_REFUSED, what);
        if (e->user == NULL || c->logged_in_anew) return answered(c);
        return LOG_IN;
    }
    if (!is_refusal(error)) return unsure(c, ETCD_AWAY, what);
    bool full = strstr(what, "database space exceeded") != NULL;
    say(c, full ? ETCD_NO_SPACE : ETCD_REFUSED, what);
    c->lacks_revision = strstr(what, "required revision") != NULL;
    return answered(c);
}

static verdict judge_answer(etcd_call *c, const etcd_http_answer *a) {
    etcd_why why = {""}, no_error;
    etcd_code code = ETCD_BAD_ANSWER;
    etcd_parse_error_out error;
    if (a->status == 200) code = c->read(c, a->body, a->len, &why);
    if (code == ETCD_NO_MEMORY) {
        say(c, c->is_write ? ETCD_UNKNOWN : code, "no memory for its answer");
        return END;
    }
    if (code == ETCD_GONE) say(c, code, "the lease does not exist");
    if (code != ETCD_BAD_ANSWER) {
        c->code = code;
        return answered(c);
    }
    /* A stream's error comes with status 200. */
    if (etcd_parse_error(a->body, a->len, &error, &no_error) == 0)
        return judge_error(c, &error);
    char what[sizeof(why.text) + 64];
    if (a->status == 200) {
        snprintf(what, sizeof(what), "nonsense: %s", why.text);
        return unsure(c, ETCD_BAD_ANSWER, what);
    }
    snprintf(what, sizeof(what), "HTTP status %ld, not from etcd's gateway",
             a->status);
    if (a->status == 404 || a->status == 405) return untouched(c, what);
    return unsure(c, ETCD_BAD_ANSWER, what);
}

static verdict judge(etcd_call *c, const etcd_http_answer *a) {
    if (a->answered) return judge_answer(c, a);
    if (a->too_large) return unsure(c, ETCD_BAD_ANSWER, a->error);
    if (a->maybe_sent) return unsure(c, ETCD_AWAY, a->error);
    return untouched(c, a->error);
}

/* ---- asking ---- */

static void on_done(void *ctx, const etcd_http_answer *a);

/* A read leaves time for the endpoints that were not asked yet. */
static uint32_t time_for_this_one(const etcd_call *c) {
    uint64_t now = now_ms();
    uint64_t left = c->deadline_ms > now ? c->deadline_ms - now : 1;
    size_t others = c->etcd->n_endpoints - c->n_asked;
    if (!c->is_write && !c->is_pinned && others > 1) left /= others;
    return left > 0 ? (uint32_t)left : 1;
}

static int ask(etcd_call *c) {
    etcd *e = c->etcd;
    etcd_http_request r = {
        .endpoint = e->endpoints[c->endpoint],
        .path = c->path,
        .body = c->body.data,
        .body_len = c->body.len,
        .token = c->is_login ? NULL : e->token,
        .once = c->is_write,
        .connect_ms = e->connect_ms,
        .total_ms = time_for_this_one(c),
        .max_bytes = e->max_body,
        .on_done = on_done,
        .ctx = c,
    };
    c->n_token = e->n_tokens;
    return etcd_http_post(&c->transfer, e->http, &r);
}

static int start(etcd_call *c) {
    etcd *e = c->etcd;
    if (c->is_login || e->user == NULL || e->token != NULL || e->needs_no_login)
        return ask(c);
    int rc = log_in(e);
    if (rc == 0) c->waits_for = e->login;
    return rc;
}

/* Another call may have brought a newer token meanwhile. */
static int start_with_new_token(etcd_call *c) {
    c->logged_in_anew = true;
    if (c->n_token == c->etcd->n_tokens) etcd_call_forget_token(c->etcd);
    return start(c);
}

static int ask_next(etcd_call *c) {
    c->endpoint = (c->endpoint + 1) % c->etcd->n_endpoints;
    return ask(c);
}

static void on_done(void *ctx, const etcd_http_answer *a) {
    etcd_call *c = ctx;
    int rc = 0;
    c->transfer = NULL;
    switch (judge(c, a)) {
    case END:
        end(c);
        return;
    case LOG_IN:
        rc = start_with_new_token(c);
        break;
    case ASK_NEXT:
        c->n_asked++;
        if (c->is_pinned || c->n_asked >= c->etcd->n_endpoints ||
            now_ms() >= c->deadline_ms) {
            end(c);
            return;
        }
        rc = ask_next(c);
        break;
    }
    if (rc < 0) fail(c, ETCD_NO_MEMORY, "no memory for another try");
}

/* ---- begin and end ---- */

static int begin(etcd *e, etcd_call *c) {
    if (e->closing) return -ECANCELED;
    if (c->body.failed) return -ENOMEM;
    if (is_counted(c) && e->n_calls >= ETCD_CALLS_MAX) return -EAGAIN;

    c->deadline_ms = now_ms() + (c->total_ms > 0 ? c->total_ms : e->request_ms);
    if (!c->is_pinned) c->endpoint = e->current;
    c->n_asked = 0;
    c->logged_in_anew = c->lacks_revision = false;
    link_call(e, c);
    int rc = start(c);
    if (rc < 0) unlink_call(c);
    return rc;
}

int etcd_call_begin(etcd *e, etcd_call *c) {
    int rc = begin(e, c);
    if (rc < 0) free_call(c);
    return rc;
}

int etcd_call_again(etcd_call *c) {
    int rc = begin(c->etcd, c);
    c->runs_again = rc == 0;
    return rc;
}

void etcd_call_cancel(etcd_call *c) {
    if (c == NULL) return;
    etcd_http_cancel(c->transfer);
    unlink_call(c);
    free_call(c);
}

void etcd_call_silence(etcd *e) {
    for (etcd_call *c = e->calls; c != NULL; c = c->next) {
        etcd_http_cancel(c->transfer);
        c->transfer = NULL;
        c->waits_for = NULL;
    }
}

void etcd_call_end_all(etcd *e) {
    while (e->calls != NULL) {
        memset(&e->calls->header, 0, sizeof(e->calls->header));
        fail(e->calls, ETCD_CANCELLED, "the connection to etcd was closed");
    }
}
