/* message_pack.c - a message as plain C becomes the header part.
 *
 * Each kind has a function that points the generated structs, all on the stack,
 * at the caller's data; nothing is copied but into the zmq part itself.  The
 * texts and counts that the receiver would refuse are refused here. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "proto/message_wire.h"

/* Everything a packed header is made of.  The first mistake stays in rc. */
typedef struct {
    Roster__Header header;
    uint64_t checksums[FRAMES_MAX];
    union {
        Roster__Hello hello;
        Roster__Welcome welcome;
        Roster__Ping ping;
        Roster__Pong pong;
        Roster__Batch batch;
        Roster__Rows rows;
        Roster__Error error;
        Roster__Generate generate;
        Roster__Accepted accepted;
        Roster__Token token;
        Roster__Finished finished;
        Roster__Cancel cancel;
        Roster__Eval eval;
        Roster__Logits logits;
        Roster__StatusRequest status_request;
        Roster__Status status;
        Roster__ModelRequest model_request;
        Roster__Model model;
        Roster__Fetch fetch;
        Roster__Piece piece;
        Roster__Drain drain;
        Roster__Done done;
        Roster__LoadRequest load_request;
        Roster__Load load;
        Roster__MembersRequest members_request;
        Roster__Members members;
        Roster__Rebalance rebalance;
        Roster__Recover recover;
        Roster__Report report;
        Roster__FetchUnit fetch_unit;
    } body;
    Roster__Profile profile;
    Roster__Sampling sampling;
    void *list; /* pointers and structs; the one block from the heap */
    int rc;
} draft;

/* ---- values ---- */

static char *text_up_to(draft *d, const char *text, size_t max) {
    if (text == NULL) return (char *)protobuf_c_empty_string;
    size_t len = strnlen(text, max + 1);
    if (len > max) {
        d->rc = ERR_TOO_LARGE;
    } else if (!wire_is_text(text, len)) {
        d->rc = ERR_RANGE;
    }
    return (char *)text;
}

static char *name(draft *d, const char *text) {
    return text_up_to(d, text, MESSAGE_NAME_MAX);
}

static ProtobufCBinaryData bytes(draft *d, const void *data, size_t len,
                                 size_t max) {
    if (len > max) d->rc = ERR_TOO_LARGE;
    return (ProtobufCBinaryData){len, (uint8_t *)data};
}

static ProtobufCBinaryData text(draft *d, message_text t) {
    return bytes(d, t.data, t.len, MESSAGE_TEXT_MAX);
}

static uint32_t *numbers(draft *d, message_u32s list, size_t max,
                         size_t *count) {
    if (list.count > max) d->rc = ERR_TOO_LARGE;
    *count = list.count;
    return (uint32_t *)list.items;
}

static Roster__Profile *numerics(draft *d, bool has, const profile *p) {
    if (!has) return NULL;
    roster__profile__init(&d->profile);
    d->profile.version = p->version;
    d->profile.activation = name(d, p->activation);
    d->profile.rows = name(d, p->rows);
    d->profile.kv = name(d, p->kv);
    d->profile.mla = name(d, p->mla);
    d->profile.blas = name(d, p->blas);
    return &d->profile;
}

static Roster__Sampling *sampling(draft *d, const message_sampling *s) {
    roster__sampling__init(&d->sampling);
    d->sampling.temperature = s->temperature;
    d->sampling.top_k = s->top_k;
    d->sampling.top_p = s->top_p;
    d->sampling.min_p = s->min_p;
    d->sampling.seed = s->seed;
    d->sampling.has_seed = s->has_seed;
    return &d->sampling;
}

/* ---- bodies, in the order of message_kind ---- */

static void fill_hello(draft *d, const message *m) {
    Roster__Hello *b = &d->body.hello;
    roster__hello__init(b);
    b->role = (Roster__Role)m->hello.role;
    b->name = name(d, m->hello.name);
    b->profile = numerics(d, m->hello.has_profile, &m->hello.profile);
}

static void fill_welcome(draft *d, const message *m) {
    Roster__Welcome *b = &d->body.welcome;
    roster__welcome__init(b);
    b->role = (Roster__Role)m->welcome.role;
    b->name = name(d, m->welcome.name);
    b->profile = numerics(d, m->welcome.has_profile, &m->welcome.profile);
    b->data_port = m->welcome.data_port;
    b->data_endpoint = name(d, m->welcome.data_endpoint);
    b->n_layers = m->welcome.n_layers;
    b->n_experts = m->welcome.n_experts;
    b->holdings = bytes(d, m->welcome.holdings, m->welcome.holdings_bytes,
                        MESSAGE_HEADER_MAX);
    b->resident_bytes = m->welcome.resident_bytes;
    b->max_reply_bytes = m->welcome.max_reply_bytes;
    b->cpu = name(d, m->welcome.cpu);
    b->threads = m->welcome.threads;
    b->model = name(d, m->welcome.model);
    b->n_vocab = m->welcome.n_vocab;
    b->n_context = m->welcome.n_context;
    b->slices = m->welcome.slices;
    b->holdings_version = m->welcome.holdings_version;
}

static void fill_ping(draft *d, const message *m) {
    roster__ping__init(&d->body.ping);
    d->body.ping.placement = m->ping.placement;
}

static void fill_pong(draft *d, const message *m) {
    Roster__Pong *b = &d->body.pong;
    roster__pong__init(b);
    b->progress = m->pong.progress;
    b->queued_jobs = m->pong.queued_jobs;
    b->batches = m->pong.batches;
    b->pairs = m->pong.pairs;
    b->resident_bytes = m->pong.resident_bytes;
    b->holdings_version = m->pong.holdings_version;
}

static void fill_batch(draft *d, const message *m) {
    Roster__Batch *b = &d->body.batch;
    roster__batch__init(b);
    b->layer = m->batch.layer;
    b->form = m->batch.form;
    b->width = m->batch.width;
    b->n_rows = m->batch.n_rows;
    b->experts =
        numbers(d, m->batch.experts, MESSAGE_EXPERTS_MAX, &b->n_experts);
    b->counts = numbers(d, m->batch.counts, MESSAGE_EXPERTS_MAX, &b->n_counts);
    b->pairs = numbers(d, m->batch.rows, MESSAGE_HEADER_MAX, &b->n_pairs);
    b->slices = m->batch.slices;
}

static void fill_rows(draft *d, const message *m) {
    Roster__Rows *b = &d->body.rows;
    roster__rows__init(b);
    b->layer = m->rows.layer;
    b->n_pairs = m->rows.n_pairs;
    b->width = m->rows.width;
    b->form = m->rows.form;
    b->queue_us = m->rows.queue_us;
    b->compute_us = m->rows.compute_us;
}

static void fill_error(draft *d, const message *m) {
    Roster__Error *b = &d->body.error;
    roster__error__init(b);
    b->code = m->error.code;
    b->text = text_up_to(d, m->error.text, MESSAGE_WHY_MAX);
    if (b->code >= 0) d->rc = ERR_RANGE;
}

static void fill_generate(draft *d, const message *m) {
    Roster__Generate *b = &d->body.generate;
    roster__generate__init(b);
    b->text = text(d, m->generate.text);
    b->tokens =
        numbers(d, m->generate.tokens, MESSAGE_TOKENS_MAX, &b->n_tokens);
    b->add_special = m->generate.add_special;
    b->parse_special = m->generate.parse_special;
    b->max_tokens = m->generate.max_tokens;
    b->sampling = sampling(d, &m->generate.sampling);
    b->timeout_ms = m->generate.timeout_ms;
    b->ignore_end = m->generate.ignore_end;
    b->resumed_tokens = m->generate.resumed_tokens;
    b->delivered_bytes = m->generate.delivered_bytes;
}

static void fill_accepted(draft *d, const message *m) {
    Roster__Accepted *b = &d->body.accepted;
    roster__accepted__init(b);
    b->sampling = sampling(d, &m->accepted.sampling);
    b->max_tokens = m->accepted.max_tokens;
    b->prompt_tokens = numbers(d, m->accepted.prompt_tokens, MESSAGE_TOKENS_MAX,
                               &b->n_prompt_tokens);
    b->timeout_ms = m->accepted.timeout_ms;
}

static void fill_token(draft *d, const message *m) {
    Roster__Token *b = &d->body.token;
    roster__token__init(b);
    b->index = m->token.index;
    b->id = m->token.id;
    b->text = text(d, m->token.text);
    b->delivered_bytes = m->token.delivered_bytes;
}

/* A repeated message as protobuf-c wants it: n pointers, then n structs, in one
 * block.  NULL if there are none, or too many. */
static void *list_of(draft *d, size_t n, size_t max, size_t bytes) {
    if (n == 0) return NULL;
    if (n > max) {
        d->rc = ERR_TOO_LARGE;
        return NULL;
    }
    d->list = malloc(n * (sizeof(void *) + bytes));
    if (d->list == NULL) d->rc = -ENOMEM;
    return d->list;
}

static void fill_shares(draft *d, Roster__Finished *b, const message *m) {
    size_t n = m->finished.n_shares;
    Roster__NodeShare **pointers =
        list_of(d, n, MESSAGE_SHARES_MAX, sizeof(Roster__NodeShare));
    if (pointers == NULL) return;
    Roster__NodeShare *shares = (Roster__NodeShare *)(pointers + n);
    for (size_t i = 0; i < n; i++) {
        roster__node_share__init(&shares[i]);
        shares[i].name = name(d, m->finished.shares[i].name);
        shares[i].pairs = m->finished.shares[i].pairs;
        pointers[i] = &shares[i];
    }
    b->shares = pointers;
    b->n_shares = n;
}

static void fill_finished(draft *d, const message *m) {
    Roster__Finished *b = &d->body.finished;
    roster__finished__init(b);
    b->reason = (Roster__Finished__Reason)m->finished.reason;
    b->prompt_tokens = m->finished.prompt_tokens;
    b->generated_tokens = m->finished.generated_tokens;
    b->prompt_us = m->finished.prompt_us;
    b->generate_us = m->finished.generate_us;
    b->experts_per_token = m->finished.experts_per_token;
    b->experts_stored = m->finished.experts_stored;
    b->bytes_per_token = m->finished.bytes_per_token;
    b->bytes_resident = m->finished.bytes_resident;
    b->takeovers = m->finished.takeovers;
    b->text = text(d, m->finished.text);
    fill_shares(d, b, m);
}

static void fill_cancel(draft *d, const message *m) {
    (void)m;
    roster__cancel__init(&d->body.cancel);
}

static void fill_eval(draft *d, const message *m) {
    Roster__Eval *b = &d->body.eval;
    roster__eval__init(b);
    b->tokens = numbers(d, m->eval.tokens, MESSAGE_TOKENS_MAX, &b->n_tokens);
    b->chunk = m->eval.chunk;
    b->routing = m->eval.routing;
    b->timeout_ms = m->eval.timeout_ms;
}

static void fill_logits(draft *d, const message *m) {
    Roster__Logits *b = &d->body.logits;
    roster__logits__init(b);
    b->first = m->logits.first;
    b->n_rows = m->logits.n_rows;
    b->n_vocab = m->logits.n_vocab;
    b->moe_layers =
        numbers(d, m->logits.moe_layers, MESSAGE_LAYERS_MAX, &b->n_moe_layers);
    b->k = m->logits.k;
}

static void fill_status_request(draft *d, const message *m) {
    (void)m;
    roster__status_request__init(&d->body.status_request);
}

static char *json_text(draft *d, message_text json) {
    if (json.len == 0) return (char *)protobuf_c_empty_string;
    assert(json.data[json.len] == '\0');
    if (json.len > MESSAGE_TEXT_MAX) {
        d->rc = ERR_TOO_LARGE;
    } else if (!wire_is_text(json.data, json.len)) {
        d->rc = ERR_RANGE;
    }
    return (char *)json.data;
}

static void fill_status(draft *d, const message *m) {
    Roster__Status *b = &d->body.status;
    roster__status__init(b);
    b->json = json_text(d, m->status.json);
}

static void fill_model_request(draft *d, const message *m) {
    (void)m;
    roster__model_request__init(&d->body.model_request);
}

static void fill_model(draft *d, const message *m) {
    Roster__Model *b = &d->body.model;
    roster__model__init(b);
    b->manifest_bytes = m->model.manifest_bytes;
    size_t n = m->model.n_files;
    Roster__ModelFile **pointers =
        list_of(d, n, MESSAGE_FILES_MAX, sizeof(Roster__ModelFile));
    if (pointers == NULL) return;
    Roster__ModelFile *files = (Roster__ModelFile *)(pointers + n);
    for (size_t i = 0; i < n; i++) {
        roster__model_file__init(&files[i]);
        files[i].name = name(d, m->model.files[i].name);
        files[i].bytes = m->model.files[i].bytes;
        files[i].mtime_ns = m->model.files[i].mtime_ns;
        files[i].head_bytes = m->model.files[i].head_bytes;
        pointers[i] = &files[i];
    }
    b->files = pointers;
    b->n_files = n;
}

static void fill_fetch(draft *d, const message *m) {
    Roster__Fetch *b = &d->body.fetch;
    roster__fetch__init(b);
    b->file = m->fetch.file;
    b->offset = m->fetch.offset;
    b->bytes = m->fetch.bytes;
    b->stride = m->fetch.stride;
    b->count = m->fetch.count;
}

static void fill_piece(draft *d, const message *m) {
    (void)m;
    roster__piece__init(&d->body.piece);
}

static void fill_drain(draft *d, const message *m) {
    Roster__Drain *b = &d->body.drain;
    roster__drain__init(b);
    b->name = name(d, m->drain.name);
    b->undo = m->drain.undo;
}

static void fill_done(draft *d, const message *m) {
    (void)m;
    roster__done__init(&d->body.done);
}

static void fill_load_request(draft *d, const message *m) {
    (void)m;
    roster__load_request__init(&d->body.load_request);
}

static void fill_load(draft *d, const message *m) {
    Roster__Load *b = &d->body.load;
    roster__load__init(b);
    b->holdings_version = m->load.holdings_version;
    b->pairs = m->load.pairs;
    b->runs = m->load.runs;
    b->weight_bytes = m->load.weight_bytes;
    b->busy_us = m->load.busy_us;
    b->holdings =
        bytes(d, m->load.holdings, m->load.holdings_bytes, MESSAGE_HEADER_MAX);
    b->slices = m->load.slices;
}

static void fill_members_request(draft *d, const message *m) {
    (void)m;
    roster__members_request__init(&d->body.members_request);
}

static void fill_members(draft *d, const message *m) {
    Roster__Members *b = &d->body.members;
    roster__members__init(b);
    size_t n = m->members.count;
    Roster__Member **pointers =
        list_of(d, n, MESSAGE_MEMBERS_MAX, sizeof(Roster__Member));
    if (pointers == NULL) return;
    Roster__Member *items = (Roster__Member *)(pointers + n);
    for (size_t i = 0; i < n; i++) {
        roster__member__init(&items[i]);
        items[i].name = name(d, m->members.items[i].name);
        items[i].endpoint = name(d, m->members.items[i].endpoint);
        items[i].http = name(d, m->members.items[i].http);
        items[i].leaving = m->members.items[i].leaving;
        pointers[i] = &items[i];
    }
    b->members = pointers;
    b->n_members = n;
}

static void fill_rebalance(draft *d, const message *m) {
    Roster__Rebalance *b = &d->body.rebalance;
    roster__rebalance__init(b);
    b->dry_run = m->rebalance.dry_run;
}

static void fill_recover(draft *d, const message *m) {
    Roster__Recover *b = &d->body.recover;
    roster__recover__init(b);
    b->dry_run = m->recover.dry_run;
    b->by = name(d, m->recover.by);
}

static void fill_report(draft *d, const message *m) {
    Roster__Report *b = &d->body.report;
    roster__report__init(b);
    b->json = json_text(d, m->report.json);
}

static void fill_fetch_unit(draft *d, const message *m) {
    Roster__FetchUnit *b = &d->body.fetch_unit;
    roster__fetch_unit__init(b);
    b->layer = m->fetch_unit.layer;
    b->unit = m->fetch_unit.unit;
    b->slices = m->fetch_unit.slices;
    b->offset = m->fetch_unit.offset;
    b->bytes = m->fetch_unit.bytes;
}

static void (*const fills[MESSAGE_KINDS])(draft *d, const message *m) = {
    [MESSAGE_HELLO] = fill_hello,
    [MESSAGE_WELCOME] = fill_welcome,
    [MESSAGE_PING] = fill_ping,
    [MESSAGE_PONG] = fill_pong,
    [MESSAGE_BATCH] = fill_batch,
    [MESSAGE_ROWS] = fill_rows,
    [MESSAGE_ERROR] = fill_error,
    [MESSAGE_GENERATE] = fill_generate,
    [MESSAGE_ACCEPTED] = fill_accepted,
    [MESSAGE_TOKEN] = fill_token,
    [MESSAGE_FINISHED] = fill_finished,
    [MESSAGE_CANCEL] = fill_cancel,
    [MESSAGE_EVAL] = fill_eval,
    [MESSAGE_LOGITS] = fill_logits,
    [MESSAGE_STATUS_REQUEST] = fill_status_request,
    [MESSAGE_STATUS] = fill_status,
    [MESSAGE_MODEL_REQUEST] = fill_model_request,
    [MESSAGE_MODEL] = fill_model,
    [MESSAGE_FETCH] = fill_fetch,
    [MESSAGE_PIECE] = fill_piece,
    [MESSAGE_DRAIN] = fill_drain,
    [MESSAGE_DONE] = fill_done,
    [MESSAGE_LOAD_REQUEST] = fill_load_request,
    [MESSAGE_LOAD] = fill_load,
    [MESSAGE_MEMBERS_REQUEST] = fill_members_request,
    [MESSAGE_MEMBERS] = fill_members,
    [MESSAGE_REBALANCE] = fill_rebalance,
    [MESSAGE_RECOVER] = fill_recover,
    [MESSAGE_REPORT] = fill_report,
    [MESSAGE_FETCH_UNIT] = fill_fetch_unit,
};

/* ---- the header ---- */

static void fill_header(draft *d, frames *f, const message *m) {
    Roster__Header *h = &d->header;
    roster__header__init(h);
    h->protocol = m->protocol != 0 ? m->protocol : PROTOCOL_VERSION;
    h->cluster = name(d, m->cluster);
    if (m->has_fingerprint) {
        h->fingerprint = bytes(d, m->fingerprint, sizeof(m->fingerprint),
                               MESSAGE_FINGERPRINT);
    }
    h->boot_id = m->boot_id;
    h->to_boot_id = m->to_boot_id;
    h->epoch = m->epoch;
    h->request_id = m->request_id;
    h->remaining_ms = m->remaining_ms;

    h->n_checksums = f->count - 1;
    h->checksums = d->checksums;
    for (size_t i = 1; i < f->count; i++) {
        size_t part_bytes = frames_bytes(f, i);
        if (part_bytes > MESSAGE_PART_MAX) {
            d->rc = ERR_TOO_LARGE;
            return;
        }
        d->checksums[i - 1] = wire_checksum(frames_data(f, i), part_bytes);
    }

    /* The members of the union are pointers to structs that start alike. */
    h->body_case =
        (Roster__Header__BodyCase)(WIRE_BODY_FIRST + m->kind - MESSAGE_HELLO);
    h->hello = &d->body.hello;
    fills[m->kind](d, m);
}

/* Pack into a new part that takes part 0's place. */
static int write_header(frames *f, const Roster__Header *h) {
    size_t packed = roster__header__get_packed_size(h);
    if (packed > MESSAGE_HEADER_MAX - WIRE_TRAILER_BYTES) return ERR_TOO_LARGE;

    zmq_msg_t part;
    if (zmq_msg_init_size(&part, packed + WIRE_TRAILER_BYTES) != 0) {
        return -ENOMEM;
    }
    uint8_t *out = zmq_msg_data(&part);
    roster__header__pack(h, out);
    uint64_t sum = wire_checksum(out, packed);
    out[packed] = WIRE_TRAILER_TAG;
    for (size_t i = 0; i < 8; i++) {
        out[packed + 1 + i] = (uint8_t)(sum >> 8 * i);
    }

    zmq_msg_move(&f->part[0], &part);
    zmq_msg_close(&part);
    return 0;
}

int message_seal(frames *f, const message *m) {
    assert(f->count >= 1);
    assert(m->kind > MESSAGE_NONE && m->kind < MESSAGE_KINDS);

    draft d;
    d.list = NULL;
    d.rc = 0;
    fill_header(&d, f, m);
    int rc = d.rc;
    if (rc == 0) rc = write_header(f, &d.header);
    free(d.list);
    return rc;
}
