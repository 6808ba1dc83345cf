/* message_body.c - reads and checks the body of a message, each kind by its row
 * in a table; those that run a rack are in message_body_rack.c. */
#include <math.h>
#include <string.h>
#include "engine/act.h"
#include "engine/err.h"
#include "engine/util.h"
#include "proto/message_wire.h"

/* ---- values ---- */

/* Names hold no zero bytes: the scan saw them whole. */
int wire_read_name(const wire_opening *o, const char *field, const char *text,
                   const char **out) {
    size_t len = strnlen(text, MESSAGE_NAME_MAX + 1);
    if (len > MESSAGE_NAME_MAX) {
        return WIRE_REFUSE(o, ERR_TOO_LARGE, "%s is longer than %d bytes",
                           field, MESSAGE_NAME_MAX);
    }
    *out = text;
    return 0;
}

int wire_read_text(const wire_opening *o, const char *field,
                   ProtobufCBinaryData bytes, message_text *out) {
    if (bytes.len > MESSAGE_TEXT_MAX) {
        return WIRE_REFUSE(o, ERR_TOO_LARGE,
                           "%s has %zu bytes; %zu are allowed", field,
                           bytes.len, MESSAGE_TEXT_MAX);
    }
    out->data = bytes.len > 0 ? (const char *)bytes.data : "";
    out->len = bytes.len;
    return 0;
}

static int read_numbers(const wire_opening *o, const char *field, size_t count,
                        const uint32_t *items, size_t max, message_u32s *out) {
    if (count > max) {
        return WIRE_REFUSE(o, ERR_TOO_LARGE,
                           "%s has %zu items; %zu are allowed", field, count,
                           max);
    }
    out->items = items;
    out->count = count;
    return 0;
}

static int read_role(const wire_opening *o, const char *field,
                     Roster__Role role, peer_role *out) {
    if ((int)role < (int)ROLE_CLIENT || (int)role > (int)ROLE_NODE) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "%s is %d, which is no role",
                           field, (int)role);
    }
    *out = (peer_role)role;
    return 0;
}

/* Absent: the profile's texts are empty, not NULL. */
static int read_profile(const wire_opening *o, const Roster__Profile *p,
                        bool *has, profile *out) {
    *has = p != NULL;
    *out = (profile){0, "", "", "", "", ""};
    if (p == NULL) return 0;

    out->version = p->version;
    int rc = wire_read_name(o, "profile.activation", p->activation,
                            &out->activation);
    if (rc == 0) rc = wire_read_name(o, "profile.rows", p->rows, &out->rows);
    if (rc == 0) rc = wire_read_name(o, "profile.kv", p->kv, &out->kv);
    if (rc == 0) rc = wire_read_name(o, "profile.mla", p->mla, &out->mla);
    if (rc == 0) rc = wire_read_name(o, "profile.blas", p->blas, &out->blas);
    return rc;
}

/* Absent: all zero, which samples greedily. */
static int read_sampling(const wire_opening *o, const Roster__Sampling *s,
                         message_sampling *out) {
    *out = (message_sampling){0};
    if (s == NULL) return 0;
    if (!isfinite(s->temperature) || !isfinite(s->top_p) ||
        !isfinite(s->min_p)) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "sampling: a value is not finite");
    }
    out->temperature = s->temperature;
    out->top_k = s->top_k;
    out->top_p = s->top_p;
    out->min_p = s->min_p;
    out->seed = s->seed;
    out->has_seed = s->has_seed != 0;
    return 0;
}

static int check_payload(const wire_opening *o, const char *kind, size_t part,
                         size_t wanted) {
    size_t found = frames_bytes(o->f, part);
    if (found == wanted) return 0;
    return WIRE_REFUSE(o, ERR_MALFORMED,
                       "%s: payload %zu has %zu bytes, the header says %zu",
                       kind, part, found, wanted);
}

static int check_width(const wire_opening *o, const char *kind,
                       uint32_t width) {
    if (width >= 1 && width <= MESSAGE_WIDTH_MAX) return 0;
    return WIRE_REFUSE(o, ERR_MALFORMED, "%s.width is %u", kind, width);
}

/* ---- bodies, in the order of message_kind ---- */

static int read_hello(wire_opening *o, const Roster__Header *h) {
    const Roster__Hello *b = h->hello;
    message *m = o->m;

    int rc = read_role(o, "hello.role", b->role, &m->hello.role);
    if (rc == 0) rc = wire_read_name(o, "hello.name", b->name, &m->hello.name);
    if (rc == 0) {
        rc = read_profile(o, b->profile, &m->hello.has_profile,
                          &m->hello.profile);
    }
    return rc;
}

/* Into how many slices: a power of two, 0 stands for 1. */
static int read_slices(const wire_opening *o, const char *field,
                       uint32_t slices, uint32_t *out) {
    if (slices > MESSAGE_SLICES_MAX || (slices & (slices - 1)) != 0) {
        return WIRE_REFUSE(o, ERR_UNSUPPORTED, "%s is %u", field, slices);
    }
    *out = slices > 0 ? slices : 1;
    return 0;
}

/* As many bits as there are units, and no bit beyond. */
static int read_holdings(wire_opening *o, const Roster__Welcome *b) {
    message *m = o->m;
    if (b->n_layers > MESSAGE_LAYERS_MAX ||
        b->n_experts > MESSAGE_EXPERTS_MAX) {
        return WIRE_REFUSE(o, ERR_TOO_LARGE,
                           "welcome: %u layers of %u experts are too many",
                           b->n_layers, b->n_experts);
    }
    int rc = read_slices(o, "welcome.slices", b->slices, &m->welcome.slices);
    if (rc < 0) return rc;
    size_t bits = (size_t)b->n_layers * b->n_experts * m->welcome.slices;
    size_t wanted = m->welcome.role == ROLE_NODE ? (bits + 7) / 8 : 0;
    if (b->holdings.len != wanted) {
        return WIRE_REFUSE(o, ERR_MALFORMED,
                           "welcome.holdings has %zu bytes; %u layers of %u "
                           "experts in %u slices need %zu",
                           b->holdings.len, b->n_layers, b->n_experts,
                           m->welcome.slices, wanted);
    }
    if (wanted > 0 && bits % 8 != 0 &&
        b->holdings.data[wanted - 1] >> bits % 8 != 0) {
        return WIRE_REFUSE(
            o, ERR_MALFORMED,
            "welcome.holdings names an expert that does not exist");
    }
    m->welcome.n_layers = b->n_layers;
    m->welcome.n_experts = b->n_experts;
    m->welcome.holdings = wanted > 0 ? b->holdings.data : (const uint8_t *)"";
    m->welcome.holdings_bytes = wanted;
    return 0;
}

static int read_welcome(wire_opening *o, const Roster__Header *h) {
    const Roster__Welcome *b = h->welcome;
    message *m = o->m;

    int rc = read_role(o, "welcome.role", b->role, &m->welcome.role);
    if (rc == 0)
        rc = wire_read_name(o, "welcome.name", b->name, &m->welcome.name);
    if (rc == 0) {
        rc = read_profile(o, b->profile, &m->welcome.has_profile,
                          &m->welcome.profile);
    }
    if (rc == 0) {
        rc = wire_read_name(o, "welcome.data_endpoint", b->data_endpoint,
                            &m->welcome.data_endpoint);
    }
    if (rc == 0) rc = wire_read_name(o, "welcome.cpu", b->cpu, &m->welcome.cpu);
    if (rc == 0) {
        rc = wire_read_name(o, "welcome.model", b->model, &m->welcome.model);
    }
    if (rc == 0) rc = read_holdings(o, b);
    if (rc < 0) return rc;

    if (b->data_port > UINT16_MAX) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "welcome.data_port is %u",
                           b->data_port);
    }
    m->welcome.data_port = b->data_port;
    m->welcome.resident_bytes = b->resident_bytes;
    m->welcome.max_reply_bytes = b->max_reply_bytes;
    m->welcome.threads = b->threads;
    m->welcome.n_vocab = b->n_vocab;
    m->welcome.n_context = b->n_context;
    m->welcome.holdings_version = b->holdings_version;
    return 0;
}

static int read_nothing(wire_opening *o, const Roster__Header *h) {
    (void)o;
    (void)h;
    return 0;
}

static int read_ping(wire_opening *o, const Roster__Header *h) {
    o->m->ping.placement = h->ping->placement;
    return 0;
}

static int read_pong(wire_opening *o, const Roster__Header *h) {
    const Roster__Pong *b = h->pong;
    o->m->pong.progress = b->progress;
    o->m->pong.queued_jobs = b->queued_jobs;
    o->m->pong.batches = b->batches;
    o->m->pong.pairs = b->pairs;
    o->m->pong.resident_bytes = b->resident_bytes;
    o->m->pong.holdings_version = b->holdings_version;
    return 0;
}

/* experts, counts and pairs fit each other and the rows. */
static int check_pairs(const wire_opening *o, const Roster__Batch *b) {
    if (b->n_experts == 0 || b->n_counts != b->n_experts) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "batch: %zu experts, %zu counts",
                           b->n_experts, b->n_counts);
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < b->n_counts; i++) {
        if (b->counts[i] == 0) {
            return WIRE_REFUSE(o, ERR_MALFORMED, "batch.counts[%zu] is 0", i);
        }
        sum += b->counts[i];
    }
    if (sum != b->n_pairs) {
        return WIRE_REFUSE(
            o, ERR_MALFORMED,
            "batch: counts add up to %llu, but there are %zu pairs",
            (unsigned long long)sum, b->n_pairs);
    }
    for (size_t i = 0; i < b->n_pairs; i++) {
        if (b->pairs[i] >= b->n_rows) {
            return WIRE_REFUSE(o, ERR_MALFORMED,
                               "batch.pairs[%zu] is row %u of %u", i,
                               b->pairs[i], b->n_rows);
        }
    }
    return 0;
}

static int check_batch(const wire_opening *o, const Roster__Batch *b) {
    if (b->form >= ACT_FORMS) {
        return WIRE_REFUSE(o, ERR_UNSUPPORTED, "batch.form is %u", b->form);
    }
    int rc = read_slices(o, "batch.slices", b->slices, &o->m->batch.slices);
    if (rc < 0) return rc;
    rc = check_width(o, "batch", b->width);
    if (rc < 0) return rc;

    size_t wanted = message_rows_bytes(b->form, b->n_rows, b->width);
    if (b->n_rows == 0 || wanted == SIZE_MAX) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "batch: %u rows of width %u",
                           b->n_rows, b->width);
    }
    rc = check_payload(o, "batch", 1, wanted);
    if (rc < 0) return rc;

    /* A reply is larger than its request; it must be possible to send it. */
    if (message_rows_bytes(ACT_F32, b->n_pairs, b->width) > MESSAGE_PART_MAX) {
        return WIRE_REFUSE(
            o, ERR_TOO_LARGE,
            "batch: the reply to %zu pairs of width %u is too large",
            b->n_pairs, b->width);
    }
    return check_pairs(o, b);
}

static int read_batch(wire_opening *o, const Roster__Header *h) {
    const Roster__Batch *b = h->batch;
    message *m = o->m;

    int rc = check_batch(o, b);
    if (rc == 0) {
        rc = read_numbers(o, "batch.experts", b->n_experts, b->experts,
                          MESSAGE_EXPERTS_MAX, &m->batch.experts);
    }
    if (rc < 0) return rc;

    m->batch.layer = b->layer;
    m->batch.form = b->form;
    m->batch.width = b->width;
    m->batch.n_rows = b->n_rows;
    m->batch.counts = (message_u32s){b->counts, b->n_counts};
    m->batch.rows = (message_u32s){b->pairs, b->n_pairs};
    return 0;
}

static int read_rows(wire_opening *o, const Roster__Header *h) {
    const Roster__Rows *b = h->rows;
    if (b->form != ACT_F32) {
        return WIRE_REFUSE(o, ERR_UNSUPPORTED, "rows.form is %u", b->form);
    }
    int rc = check_width(o, "rows", b->width);
    if (rc < 0) return rc;
    if (b->n_pairs == 0) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "rows: no pairs");
    }
    rc = check_payload(o, "rows", 1,
                       message_rows_bytes(b->form, b->n_pairs, b->width));
    if (rc < 0) return rc;

    o->m->rows.layer = b->layer;
    o->m->rows.n_pairs = b->n_pairs;
    o->m->rows.width = b->width;
    o->m->rows.form = b->form;
    o->m->rows.queue_us = b->queue_us;
    o->m->rows.compute_us = b->compute_us;
    return 0;
}

static int read_error(wire_opening *o, const Roster__Header *h) {
    const Roster__Error *b = h->error;
    if (b->code >= 0) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "error.code is %d", b->code);
    }
    if (strnlen(b->text, MESSAGE_WHY_MAX + 1) > MESSAGE_WHY_MAX) {
        return WIRE_REFUSE(o, ERR_TOO_LARGE,
                           "error.text is longer than %d bytes",
                           MESSAGE_WHY_MAX);
    }
    o->m->error.code = b->code;
    o->m->error.text = b->text;
    return 0;
}

static int read_generate(wire_opening *o, const Roster__Header *h) {
    const Roster__Generate *b = h->generate;
    message *m = o->m;

    int rc = wire_read_text(o, "generate.text", b->text, &m->generate.text);
    if (rc == 0) {
        rc = read_numbers(o, "generate.tokens", b->n_tokens, b->tokens,
                          MESSAGE_TOKENS_MAX, &m->generate.tokens);
    }
    if (rc == 0) rc = read_sampling(o, b->sampling, &m->generate.sampling);
    if (rc < 0) return rc;

    if (b->resumed_tokens > b->n_tokens) {
        return WIRE_REFUSE(o, ERR_MALFORMED,
                           "generate.resumed_tokens is %u, of %zu tokens",
                           b->resumed_tokens, b->n_tokens);
    }
    m->generate.add_special = b->add_special != 0;
    m->generate.parse_special = b->parse_special != 0;
    m->generate.ignore_end = b->ignore_end != 0;
    m->generate.max_tokens = b->max_tokens;
    m->generate.timeout_ms = b->timeout_ms;
    m->generate.resumed_tokens = b->resumed_tokens;
    m->generate.delivered_bytes = b->delivered_bytes;
    return 0;
}

static int read_accepted(wire_opening *o, const Roster__Header *h) {
    const Roster__Accepted *b = h->accepted;
    message *m = o->m;

    int rc = read_sampling(o, b->sampling, &m->accepted.sampling);
    if (rc == 0) {
        rc = read_numbers(o, "accepted.prompt_tokens", b->n_prompt_tokens,
                          b->prompt_tokens, MESSAGE_TOKENS_MAX,
                          &m->accepted.prompt_tokens);
    }
    m->accepted.max_tokens = b->max_tokens;
    m->accepted.timeout_ms = b->timeout_ms;
    return rc;
}

static int read_token(wire_opening *o, const Roster__Header *h) {
    const Roster__Token *b = h->token;
    o->m->token.index = b->index;
    o->m->token.id = b->id;
    o->m->token.delivered_bytes = b->delivered_bytes;
    return wire_read_text(o, "token.text", b->text, &o->m->token.text);
}

/* From protobuf-c's array of pointers to a plain one. */
static int read_shares(wire_opening *o, const Roster__Finished *b) {
    size_t n = b->n_shares;
    if (n == 0) return 0;
    if (n > MESSAGE_SHARES_MAX) {
        return WIRE_REFUSE(o, ERR_TOO_LARGE,
                           "finished has %zu shares; %d allowed", n,
                           MESSAGE_SHARES_MAX);
    }
    message_share *shares = arena_take(o->arena, n * sizeof(*shares));
    if (shares == NULL) {
        return WIRE_REFUSE(o, arena_error(o->arena),
                           "finished.shares needs too much memory");
    }
    for (size_t i = 0; i < n; i++) {
        int rc = wire_read_name(o, "finished.shares.name", b->shares[i]->name,
                                &shares[i].name);
        if (rc < 0) return rc;
        shares[i].pairs = b->shares[i]->pairs;
    }
    o->m->finished.shares = shares;
    o->m->finished.n_shares = n;
    return 0;
}

static int read_finished(wire_opening *o, const Roster__Header *h) {
    const Roster__Finished *b = h->finished;
    message *m = o->m;

    int rc = wire_read_text(o, "finished.text", b->text, &m->finished.text);
    if (rc == 0) rc = read_shares(o, b);
    if (rc < 0) return rc;

    /* A newer version's reason still ends the generation. */
    bool known =
        (int)b->reason >= FINISH_UNKNOWN && (int)b->reason <= (int)FINISH_DONE;
    m->finished.reason = known ? (finish_reason)b->reason : FINISH_UNKNOWN;
    m->finished.prompt_tokens = b->prompt_tokens;
    m->finished.generated_tokens = b->generated_tokens;
    m->finished.prompt_us = b->prompt_us;
    m->finished.generate_us = b->generate_us;
    m->finished.experts_per_token = b->experts_per_token;
    m->finished.experts_stored = b->experts_stored;
    m->finished.bytes_per_token = b->bytes_per_token;
    m->finished.bytes_resident = b->bytes_resident;
    m->finished.takeovers = b->takeovers;
    return 0;
}

static int read_eval(wire_opening *o, const Roster__Header *h) {
    const Roster__Eval *b = h->eval;
    o->m->eval.chunk = b->chunk;
    o->m->eval.routing = b->routing != 0;
    o->m->eval.timeout_ms = b->timeout_ms;
    return read_numbers(o, "eval.tokens", b->n_tokens, b->tokens,
                        MESSAGE_TOKENS_MAX, &o->m->eval.tokens);
}

/* [a][b][c] values of four bytes; SIZE_MAX if that overflows. */
static size_t array_bytes(size_t a, size_t b, size_t c) {
    size_t n;
    if (!size_mul(a, b, &n) || !size_mul(n, c, &n) || !size_mul(n, 4, &n)) {
        return SIZE_MAX;
    }
    return n;
}

/* One payload, or three when the routing was asked for. */
static int read_logits(wire_opening *o, const Roster__Header *h) {
    const Roster__Logits *b = h->logits;
    bool routing = b->k > 0;
    size_t payloads = o->f->count - 1;

    if (b->n_rows == 0 || b->n_vocab == 0 || routing != (b->n_moe_layers > 0)) {
        return WIRE_REFUSE(
            o, ERR_MALFORMED,
            "logits: %u rows of %u values, %zu layers of %u experts", b->n_rows,
            b->n_vocab, b->n_moe_layers, b->k);
    }
    if (payloads != (routing ? 3 : 1)) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "logits: %zu payloads", payloads);
    }
    int rc =
        read_numbers(o, "logits.moe_layers", b->n_moe_layers, b->moe_layers,
                     MESSAGE_LAYERS_MAX, &o->m->logits.moe_layers);
    if (rc == 0) {
        rc = check_payload(o, "logits", 1,
                           array_bytes(b->n_rows, b->n_vocab, 1));
    }
    for (size_t part = 2; rc == 0 && part <= payloads; part++) {
        rc = check_payload(o, "logits", part,
                           array_bytes(b->n_moe_layers, b->n_rows, b->k));
    }
    o->m->logits.first = b->first;
    o->m->logits.n_rows = b->n_rows;
    o->m->logits.n_vocab = b->n_vocab;
    o->m->logits.k = b->k;
    return rc;
}

static int read_status(wire_opening *o, const Roster__Header *h) {
    const char *json = h->status->json;
    return wire_read_text(o, "status.json",
                          (ProtobufCBinaryData){strlen(json), (uint8_t *)json},
                          &o->m->status.json);
}

/* How each kind is read, and how many payloads it may have. */
static const struct {
    int (*read)(wire_opening *o, const Roster__Header *h);
    uint8_t min_payloads, max_payloads;
} readers[MESSAGE_KINDS] = {
    [MESSAGE_HELLO] = {read_hello, 0, 0},
    [MESSAGE_WELCOME] = {read_welcome, 0, 0},
    [MESSAGE_PING] = {read_ping, 0, 0},
    [MESSAGE_PONG] = {read_pong, 0, 0},
    [MESSAGE_BATCH] = {read_batch, 1, 1},
    [MESSAGE_ROWS] = {read_rows, 1, 1},
    [MESSAGE_ERROR] = {read_error, 0, 0},
    [MESSAGE_GENERATE] = {read_generate, 0, 0},
    [MESSAGE_ACCEPTED] = {read_accepted, 0, 0},
    [MESSAGE_TOKEN] = {read_token, 0, 0},
    [MESSAGE_FINISHED] = {read_finished, 0, 0},
    [MESSAGE_CANCEL] = {read_nothing, 0, 0},
    [MESSAGE_EVAL] = {read_eval, 0, 0},
    [MESSAGE_LOGITS] = {read_logits, 1, 3},
    [MESSAGE_STATUS_REQUEST] = {read_nothing, 0, 0},
    [MESSAGE_STATUS] = {read_status, 0, 0},
    [MESSAGE_MODEL_REQUEST] = {read_nothing, 0, 0},
    [MESSAGE_MODEL] = {wire_read_model, 0, 0},
    [MESSAGE_FETCH] = {wire_read_fetch, 0, 0},
    [MESSAGE_PIECE] = {read_nothing, 1, 1},
    [MESSAGE_DRAIN] = {wire_read_drain, 0, 0},
    [MESSAGE_DONE] = {read_nothing, 0, 0},
    [MESSAGE_LOAD_REQUEST] = {read_nothing, 0, 0},
    [MESSAGE_LOAD] = {wire_read_load, 1, 1},
    [MESSAGE_MEMBERS_REQUEST] = {read_nothing, 0, 0},
    [MESSAGE_MEMBERS] = {wire_read_members, 0, 0},
    [MESSAGE_REBALANCE] = {wire_read_rebalance, 0, 0},
    [MESSAGE_RECOVER] = {wire_read_recover, 0, 0},
    [MESSAGE_REPORT] = {wire_read_report, 0, 0},
    [MESSAGE_FETCH_UNIT] = {wire_read_fetch_unit, 0, 0},
};

int wire_read_body(wire_opening *o, const Roster__Header *h,
                   uint32_t unknown_body) {
    if (h->body_case == ROSTER__HEADER__BODY__NOT_SET) {
        if (unknown_body == 0) {
            return WIRE_REFUSE(o, ERR_MALFORMED, "the header has no body");
        }
        return WIRE_REFUSE(o, ERR_UNSUPPORTED,
                           "messages of kind %u are not known to version %d",
                           unknown_body, PROTOCOL_VERSION);
    }
    message_kind kind =
        (message_kind)((int)h->body_case - WIRE_BODY_FIRST + MESSAGE_HELLO);
    size_t payloads = o->f->count - 1;
    if (payloads < readers[kind].min_payloads ||
        payloads > readers[kind].max_payloads) {
        return WIRE_REFUSE(o, ERR_MALFORMED, "a %s message has %zu payloads",
                           message_kind_name(kind), payloads);
    }
    int rc = readers[kind].read(o, h);
    if (rc == 0) o->m->kind = kind;
    return rc;
}
