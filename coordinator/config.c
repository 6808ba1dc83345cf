/* config.c - one table; defaults are where the values are. */
#include "coordinator/config.h"

#include <string.h>
#include "coordinator/placement.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "proto/endpoint.h"
#include "proto/message.h"

#define MOST_TIMEOUT_MS (24u * 3600 * 1000)

static void set_defaults(config *c) {
    *c = (config){
        .listen = "tcp://127.0.0.1:7100",
        .cluster = "roster",
        .name = "coordinator",
        .kv = "f16",
        .log_level = "info",
        .local_memory = (uint64_t)4 << 30,
        .kv_memory = (uint64_t)1 << 30,
        .batch_tokens = 256,
        .max_running = 64,
        .max_queued = 256,
        .timeout_ms = 10000,
        .start_timeout_ms = 10000,
        .drain_timeout_ms = 1000,
    };
}

/* Names stand in every message, which must be text of a bounded length. */
static int check_name(const char *what, const char *name, char *why,
                      size_t why_size) {
    if (message_is_name(name)) return 0;
    return err_why(why, why_size, ERR_USAGE,
                   "--%s: expected 1 to %d printable ASCII characters", what,
                   MESSAGE_NAME_MAX);
}

/* Whether they can be reached is found out later; that they can be read, now.
 */
static int check_endpoints(const config *c, char *why, size_t why_size) {
    if (c->nodes.count > PLACEMENT_MAX_NODES) {
        return err_why(why, why_size, ERR_USAGE, "--node: at most %d",
                       PLACEMENT_MAX_NODES);
    }
    endpoint e;
    int rc = endpoint_parse(&e, c->listen, why, why_size);
    for (size_t i = 0; i < c->nodes.count && rc == 0; i++) {
        rc = endpoint_parse(&e, c->nodes.items[i], why, why_size);
    }
    return rc;
}

static int check(config *c, char *why, size_t why_size) {
    int rc = check_name("cluster", c->cluster, why, why_size);
    if (rc == 0) rc = check_name("name", c->name, why, why_size);
    if (rc == 0) rc = check_endpoints(c, why, why_size);
    if (rc < 0) return rc;
    if (strcmp(c->kv, "f32") == 0) {
        c->kv_type = KV_F32;
    } else if (strcmp(c->kv, "f16") == 0) {
        c->kv_type = KV_F16;
    } else {
        return err_why(why, why_size, ERR_USAGE, "--kv %s: expected f32 or f16",
                       c->kv);
    }
    if (log_level_parse(c->log_level) < 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--log-level %s: expected debug, info, warn or error",
                       c->log_level);
    }
    if (c->max_running == 0 || c->max_running > 1024 || c->max_queued > 4096) {
        return err_why(why, why_size, ERR_USAGE,
                       "--max-running must be 1..1024, --max-queued at most "
                       "4096");
    }
    if (c->batch_tokens < c->max_running || c->batch_tokens > 4096) {
        return err_why(why, why_size, ERR_USAGE,
                       "--batch-tokens %u: expected --max-running (%u) to 4096",
                       c->batch_tokens, c->max_running);
    }
    if (c->timeout_ms < 100 || c->timeout_ms > MOST_TIMEOUT_MS) {
        return err_why(why, why_size, ERR_USAGE,
                       "--timeout: expected 100 ms to a day");
    }
    if (c->context > MESSAGE_TOKENS_MAX) {
        return err_why(why, why_size, ERR_USAGE,
                       "--context %u: a message holds at most %zu tokens",
                       c->context, MESSAGE_TOKENS_MAX);
    }
    return 0;
}

int config_parse(config *c, int argc, char **argv, char *why, size_t why_size) {
    set_defaults(c);
    const option table[] = {
        {"listen", 0, OPTION_STRING, &c->listen, "tcp://HOST:PORT",
         "Where clients connect; the port may be '*' for any free one."},
        {"node", 0, OPTION_LIST, &c->nodes, "tcp://HOST:PORT",
         "Control endpoint of an expert node; may be repeated. Without any, "
         "all experts are computed here."},
        {"no-local-experts", 0, OPTION_FLAG, &c->no_local_experts, NULL,
         "Never compute experts here: an expert that no live node holds is "
         "waited for, then an error."},
        {"local-memory", 0, OPTION_SIZE, &c->local_memory, "SIZE",
         "Most memory for experts that stand in for lost nodes."},
        {"kv", 0, OPTION_STRING, &c->kv, "f16|f32",
         "Type of the KV cache; part of the numerics profile."},
        {"kv-memory", 0, OPTION_SIZE, &c->kv_memory, "SIZE",
         "Memory for the KV cache; used as sequences need it."},
        {"context", 0, OPTION_U32, &c->context, "N",
         "Longest sequence, prompt and answer; 0: the model's, at most 8192."},
        {"batch-tokens", 0, OPTION_U32, &c->batch_tokens, "N",
         "Most tokens of one batch step."},
        {"max-running", 0, OPTION_U32, &c->max_running, "N",
         "Most sequences that share batch steps."},
        {"max-queued", 0, OPTION_U32, &c->max_queued, "N",
         "Most requests waiting beyond those; then clients are refused."},
        {"timeout", 0, OPTION_MS, &c->timeout_ms, "TIME",
         "Longest wait of a request for its next token, unless it asks for "
         "another."},
        {"start-timeout", 0, OPTION_MS, &c->start_timeout_ms, "TIME",
         "How long to wait for the listed nodes before serving without some."},
        {"drain-timeout", 0, OPTION_MS, &c->drain_timeout_ms, "TIME",
         "How long running requests may go on after SIGTERM."},
        {"threads", 0, OPTION_U32, &c->threads, "N",
         "Compute threads; 0: one per CPU."},
        {"exact", 0, OPTION_FLAG, &c->exact, NULL,
         "Keep activations in f32 against dequantized weights (slow; nodes "
         "must do so too)."},
        {"cluster", 0, OPTION_STRING, &c->cluster, "NAME",
         "Processes of other clusters are refused."},
        {"name", 0, OPTION_STRING, &c->name, "NAME",
         "What this coordinator calls itself."},
        {"insecure", 0, OPTION_FLAG, &c->insecure, NULL,
         "Allow addresses beyond loopback; traffic is neither encrypted nor "
         "authenticated."},
        {"log-level", 0, OPTION_STRING, &c->log_level, "LEVEL",
         "debug, info, warn or error."},
    };
    const option_set set = {
        .program = "roster-coordinator",
        .usage = "MODEL [options]",
        .about = "Serves a mixture-of-experts model: tokenizer, attention, KV "
                 "cache, router and sampling here, experts on the expert "
                 "nodes. Prints `ready ENDPOINT` when it serves.",
        .table = table,
        .count = ARRAY_LEN(table),
        .daemon = true,
    };
    int rc = options_parse(&c->parsed, &set, argc, argv, why, why_size);
    if (rc != OPTIONS_RUN) return rc;

    const char *const *args;
    if (options_args(c->parsed, &args) != 1) {
        return err_why(why, why_size, ERR_USAGE,
                       "expected one MODEL; see --help");
    }
    c->model = args[0];
    return check(c, why, why_size);
}

void config_free(config *c) {
    options_free(c->parsed);
}
