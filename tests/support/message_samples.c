/* message_samples.c - see message_samples.h. */
#include "tests/support/message_samples.h"

#include <errno.h>
#include <string.h>
#include "engine/util.h"

static const uint32_t batch_experts[] = {1, 4, 300};
static const uint32_t batch_counts[] = {2, 1, 2};
static const uint32_t batch_rows[] = {0, 1, 1, 0, 2};
static const uint32_t prompt[] = {1, 15043, 3186, 128255};
static const uint32_t moe_layers[] = {1, 3};
static const uint8_t holdings_bits[] = {
    0x5a, 0x0f}; /* 2 layers, 3 experts in 2 slices */
static const message_member members[] = {
    {"c1", "tcp://10.0.0.1:7100", "http://10.0.0.1:8080", false},
    {"c2", "tcp://10.0.0.2:7100", "", true},
};
static const message_file files[] = {
    {"story-00001-of-00002.gguf", 1ull << 33, 1700000000123456789, 4096},
    {"story-00002-of-00002.gguf", 1ull << 20, 1, 64}};
static const message_share shares[] = {{"local", 7}, {"node-b", 1ull << 40}};
static const char story[] = "Once upon a time, \xe2\x9c\xa8";
static const char json[] = "{\"nodes\": []}";

#define U32S(array) ((message_u32s){array, ARRAY_LEN(array)})
#define TEXT(array) ((message_text){array, sizeof(array) - 1})

static const profile sample_profile = {3,     "a8",       "f32",
                                       "f16", "absorbed", "Haswell"};
static const message_sampling sampling = {0.75f, 0.9f, 0.05f, 40, 42, true};

static void sample_body(message *m) {
    switch (m->kind) {
    case MESSAGE_HELLO:
        m->hello.role = ROLE_COORDINATOR;
        m->hello.name = "coordinator-1";
        m->hello.has_profile = true;
        m->hello.profile = sample_profile;
        break;
    case MESSAGE_WELCOME:
        m->welcome.role = ROLE_NODE;
        m->welcome.name = "node-a";
        m->welcome.has_profile = true;
        m->welcome.profile = sample_profile;
        m->welcome.data_port = 7001;
        m->welcome.data_endpoint = "inproc://data";
        m->welcome.n_layers = 2;
        m->welcome.n_experts = 3;
        m->welcome.slices = 2;
        m->welcome.holdings_version = 77;
        m->welcome.holdings = holdings_bits;
        m->welcome.holdings_bytes = sizeof(holdings_bits);
        m->welcome.resident_bytes = 1ull << 33;
        m->welcome.max_reply_bytes = 16 << 20;
        m->welcome.cpu = "avx512";
        m->welcome.threads = 16;
        m->welcome.model = "stories-moe";
        m->welcome.n_vocab = 32000;
        m->welcome.n_context = 2048;
        break;
    case MESSAGE_PING:
        m->ping.placement = 0xfedcba9876543210;
        break;
    case MESSAGE_PONG:
        m->pong.progress = 99;
        m->pong.queued_jobs = 2;
        m->pong.batches = 1234;
        m->pong.pairs = 5678;
        m->pong.resident_bytes = 1 << 20;
        m->pong.holdings_version = 78;
        break;
    case MESSAGE_BATCH:
        m->batch.layer = 5;
        m->batch.form = 1;
        m->batch.width = 64;
        m->batch.n_rows = 3;
        m->batch.slices = 4;
        m->batch.experts = U32S(batch_experts);
        m->batch.counts = U32S(batch_counts);
        m->batch.rows = U32S(batch_rows);
        break;
    case MESSAGE_ROWS:
        m->rows.layer = 5;
        m->rows.n_pairs = 5;
        m->rows.width = 64;
        m->rows.queue_us = 11;
        m->rows.compute_us = 22;
        break;
    case MESSAGE_ERROR:
        m->error.code = -10014;
        m->error.text = "the queue is full";
        break;
    case MESSAGE_GENERATE:
        m->generate.text = TEXT(story);
        m->generate.tokens = U32S(prompt);
        m->generate.add_special = true;
        m->generate.parse_special = true;
        m->generate.ignore_end = true;
        m->generate.max_tokens = 100;
        m->generate.timeout_ms = 5000;
        m->generate.resumed_tokens = 2;
        m->generate.delivered_bytes = 9;
        m->generate.sampling = sampling;
        break;
    case MESSAGE_ACCEPTED:
        m->accepted.sampling = sampling;
        m->accepted.max_tokens = 100;
        m->accepted.timeout_ms = 10000;
        m->accepted.prompt_tokens = U32S(prompt);
        break;
    case MESSAGE_TOKEN:
        m->token.index = 6;
        m->token.id = 15043;
        m->token.text = TEXT(story);
        m->token.delivered_bytes = 21;
        break;
    case MESSAGE_FINISHED:
        m->finished.reason = FINISH_LENGTH;
        m->finished.prompt_tokens = 4;
        m->finished.generated_tokens = 100;
        m->finished.prompt_us = 1000;
        m->finished.generate_us = 20000;
        m->finished.experts_per_token = 16;
        m->finished.experts_stored = 64;
        m->finished.bytes_per_token = 1 << 20;
        m->finished.bytes_resident = 1 << 22;
        m->finished.takeovers = 3;
        m->finished.shares = shares;
        m->finished.n_shares = ARRAY_LEN(shares);
        m->finished.text = TEXT("\xe2\x9c");
        break;
    case MESSAGE_EVAL:
        m->eval.tokens = U32S(prompt);
        m->eval.chunk = 2;
        m->eval.timeout_ms = 3000;
        m->eval.routing = true;
        break;
    case MESSAGE_LOGITS:
        m->logits.first = 8;
        m->logits.n_rows = 3;
        m->logits.n_vocab = 10;
        m->logits.k = 2;
        m->logits.moe_layers = U32S(moe_layers);
        break;
    case MESSAGE_STATUS:
        m->status.json = TEXT(json);
        break;
    case MESSAGE_MODEL:
        m->model.files = files;
        m->model.n_files = ARRAY_LEN(files);
        m->model.manifest_bytes = 12345;
        break;
    case MESSAGE_FETCH:
        m->fetch.file = 1;
        m->fetch.offset = 1ull << 32;
        m->fetch.bytes = 512;
        m->fetch.stride = 4096;
        m->fetch.count = 16;
        break;
    case MESSAGE_DRAIN:
        m->drain.name = "node-a";
        m->drain.undo = true;
        break;
    case MESSAGE_LOAD:
        m->load.holdings_version = 7;
        m->load.pairs = 1ull << 40;
        m->load.runs = 1ull << 33;
        m->load.weight_bytes = 1ull << 50;
        m->load.busy_us = 123456789;
        m->load.holdings = holdings_bits;
        m->load.holdings_bytes = sizeof(holdings_bits);
        m->load.slices = 2;
        break;
    case MESSAGE_MEMBERS:
        m->members.items = members;
        m->members.count = 2;
        break;
    case MESSAGE_REBALANCE:
        m->rebalance.dry_run = true;
        break;
    case MESSAGE_RECOVER:
        m->recover.dry_run = true;
        m->recover.by = "root@desk";
        break;
    case MESSAGE_REPORT:
        m->report.json = (message_text){"{\"moves\":3}", 11};
        break;
    case MESSAGE_FETCH_UNIT:
        m->fetch_unit.layer = 11;
        m->fetch_unit.unit = 1023;
        m->fetch_unit.slices = 4;
        m->fetch_unit.offset = 1ull << 33;
        m->fetch_unit.bytes = 1u << 20;
        break;
    default: /* ping, cancel, status request have no fields */
        break;
    }
}

void sample_message(message_kind kind, message *m) {
    *m = (message){
        .kind = kind,
        .protocol = PROTOCOL_VERSION,
        .cluster = "rack-7",
        .has_fingerprint = true,
        .boot_id = 0x1122334455667788,
        .to_boot_id = 0x99aabbccddeeff00,
        .epoch = 12,
        .request_id = 1ull << 50,
        .remaining_ms = 9876,
    };
    for (size_t i = 0; i < MESSAGE_FINGERPRINT; i++) {
        m->fingerprint[i] = (uint8_t)(i * 7 + 1);
    }
    sample_body(m);
}

static int add_payload(frames *f, size_t bytes) {
    uint8_t *out = frames_add(f, bytes);
    if (out == NULL) return -ENOMEM;
    for (size_t i = 0; i < bytes; i++)
        out[i] = (uint8_t)(i * 31 + bytes);
    return 0;
}

int sample_frames(message_kind kind, frames *f) {
    message m;
    sample_message(kind, &m);
    size_t payloads[3] = {0};
    if (kind == MESSAGE_BATCH) payloads[0] = message_rows_bytes(1, 3, 64);
    if (kind == MESSAGE_ROWS) payloads[0] = message_rows_bytes(0, 5, 64);
    if (kind == MESSAGE_PIECE) payloads[0] = 8192;
    if (kind == MESSAGE_LOAD) payloads[0] = 8 * sizeof(uint32_t);
    if (kind == MESSAGE_LOGITS) {
        payloads[0] = 3 * 10 * 4;
        payloads[1] = payloads[2] = 2 * 3 * 2 * 4;
    }

    if (frames_add(f, 0) == NULL) return -ENOMEM;
    for (size_t i = 0; i < 3 && payloads[i] > 0; i++) {
        int rc = add_payload(f, payloads[i]);
        if (rc < 0) return rc;
    }
    return message_seal(f, &m);
}
