/* config.c - one table; defaults are where the values are. */
#include "coordinator/config.h"

#include <stdio.h>
#include <string.h>
#include "coordinator/placement.h"
#include "coordinator/planner.h"
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
        .park_timeout_ms = 3500,
        .cross_check = 2000,
        .start_timeout_ms = 10000,
        .drain_timeout_ms = 1000,
        .slices = 1,
        .min_replicas = 2,
        .replace_after_ms = 15000,
        .balance_text = "on",
        .micro_text = "auto",
        .balance_every_ms = 2000,
    };
    etcd_options_init(&c->etcd);
}

/* Names stand in every message, which must be text of a bounded length. */
static int check_name(const char *what, const char *name, char *why,
                      size_t why_size) {
    if (message_is_name(name)) return 0;
    return err_why(why, why_size, ERR_USAGE,
                   "--%s: expected 1 to %d printable ASCII characters", what,
                   MESSAGE_NAME_MAX);
}

static int check_host(const char *host, char *why, size_t why_size) {
    endpoint e;
    char text[ENDPOINT_MAX + 16];
    int n = snprintf(text, sizeof(text), "tcp://%s:1", host);
    if (n < (int)sizeof(text) && endpoint_parse(&e, text, NULL, 0) == 0) {
        return 0;
    }
    return err_why(why, why_size, ERR_USAGE,
                   "--advertise '%.80s': expected a host, without a port",
                   host);
}

/* They are told to clients in messages, which bound them. */
static int check_peers(const config *c, char *why, size_t why_size) {
    if (c->peers.count >= MESSAGE_MEMBERS_MAX) {
        return err_why(why, why_size, ERR_USAGE, "--peer: at most %d",
                       MESSAGE_MEMBERS_MAX - 1);
    }
    endpoint e;
    for (size_t i = 0; i < c->peers.count; i++) {
        int rc = endpoint_parse(&e, c->peers.items[i], why, why_size);
        if (rc < 0) return rc;
        if (strlen(c->peers.items[i]) <= MESSAGE_NAME_MAX && e.port != 0)
            continue;
        return err_why(why, why_size, ERR_USAGE,
                       "--peer '%.60s': expected a port, and at most %d "
                       "characters",
                       c->peers.items[i], MESSAGE_NAME_MAX);
    }
    return 0;
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
    if (rc == 0) rc = check_peers(c, why, why_size);
    if (rc == 0 && c->weights_listen != NULL) {
        rc = endpoint_parse(&e, c->weights_listen, why, why_size);
    }
    if (rc == 0 && c->advertise != NULL) {
        rc = check_host(c->advertise, why, why_size);
    }
    return rc;
}

/* Where nodes come from, and how experts are placed on them. */
static int check_rack(config *c, char *why, size_t why_size) {
    int rc = etcd_options_check(&c->etcd, why, why_size);
    if (rc < 0) return rc;
    bool by_etcd = etcd_options_given(&c->etcd);
    if (by_etcd && c->nodes.count > 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--node and --etcd: nodes are listed here or found by "
                       "etcd, not both");
    }
    if (by_etcd && (!record_is_name(c->name) || !record_is_name(c->cluster))) {
        return err_why(why, why_size, ERR_USAGE,
                       "--name and --cluster are parts of keys in etcd: they "
                       "may not contain a '/'");
    }
    if (c->slices > MESSAGE_SLICES_MAX || (c->slices & (c->slices - 1)) != 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--slices %u: expected 0, 1, 2, 4 or 8", c->slices);
    }
    if (c->slices == 0 && !by_etcd) {
        return err_why(why, why_size, ERR_USAGE,
                       "--slices 0: only with --etcd; listed nodes are cut "
                       "already, and in the same way");
    }
    if (c->min_replicas == 0 || c->min_replicas > PLANNER_MAX_REPLICAS) {
        return err_why(why, why_size, ERR_USAGE,
                       "--min-replicas %u: expected 1 to %d", c->min_replicas,
                       PLANNER_MAX_REPLICAS);
    }
    if (c->replace_after_ms < 1000 || c->replace_after_ms > MOST_TIMEOUT_MS) {
        return err_why(why, why_size, ERR_USAGE,
                       "--replace-after: expected 1s to a day");
    }
    c->balance = strcmp(c->balance_text, "on") == 0;
    if (!c->balance && strcmp(c->balance_text, "off") != 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--balance %s: expected on or off", c->balance_text);
    }
    if (c->balance_every_ms < 500 || c->balance_every_ms > MOST_TIMEOUT_MS) {
        return err_why(why, why_size, ERR_USAGE,
                       "--balance-every: expected 500 ms to a day");
    }
    return 0;
}

static int check_micro_batches(config *c, char *why, size_t why_size) {
    static const char *const texts[] = {"auto", "1", "2"};
    for (uint32_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (strcmp(c->micro_text, texts[i]) != 0) continue;
        c->micro_batches = i;
        return 0;
    }
    return err_why(why, why_size, ERR_USAGE,
                   "--micro-batches %s: expected auto, 1 or 2", c->micro_text);
}

static int check(config *c, char *why, size_t why_size) {
    int rc = check_name("cluster", c->cluster, why, why_size);
    if (rc == 0) rc = check_name("name", c->name, why, why_size);
    if (rc == 0) rc = check_endpoints(c, why, why_size);
    if (rc == 0) rc = check_rack(c, why, why_size);
    if (rc == 0) rc = check_micro_batches(c, why, why_size);
    if (rc < 0) return rc;
    c->kv_type = kv_type_find(c->kv);
    if (c->kv_type == KV_TYPES) {
        return err_why(why, why_size, ERR_USAGE,
                       "--kv %s: expected " KV_TYPE_NAMES, c->kv);
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
    const option own[] = {
        {"listen", 0, OPTION_STRING, &c->listen, "tcp://HOST:PORT",
         "Where clients connect; the port may be '*' for any free one."},
        {"node", 0, OPTION_LIST, &c->nodes, "tcp://HOST:PORT",
         "Control endpoint of an expert node; may be repeated. Without any, "
         "and without --etcd, all experts are computed here."},
        {"peer", 0, OPTION_LIST, &c->peers, "tcp://HOST:PORT",
         "Client endpoint of another coordinator of the same model, which "
         "clients are told to turn to when this one is gone; may be repeated. "
         "With --etcd they are found by themselves."},
        {"slices", 0, OPTION_U32, &c->slices, "0|1|2|4|8",
         "Cut each expert into so many slices, which are placed on their own. "
         "With --etcd it counts for a first placement, and 0 means: as is "
         "predicted to be fastest with the nodes that are there then; with "
         "--node the nodes must have the same."},
        {"min-replicas", 0, OPTION_U32, &c->min_replicas, "N",
         "With --etcd: how many nodes should hold each expert, as memory "
         "allows."},
        {"replace-after", 0, OPTION_MS, &c->replace_after_ms, "TIME",
         "With --etcd: how long a node may be missing before its experts are "
         "placed elsewhere."},
        {"balance", 0, OPTION_STRING, &c->balance_text, "on|off",
         "With --etcd: whether experts move, and hot ones are copied, by "
         "themselves as traffic goes."},
        {"balance-every", 0, OPTION_MS, &c->balance_every_ms, "TIME",
         "How often that is looked after."},
        {"weights-listen", 0, OPTION_STRING, &c->weights_listen,
         "tcp://HOST:PORT",
         "Where nodes without a model file fetch it; by default any free port "
         "of --listen's address."},
        {"advertise", 0, OPTION_STRING, &c->advertise, "HOST",
         "The host by which others and clients reach this one; by default "
         "the address listened on or, for all addresses, the host's name."},
        {"no-shared-memory", 0, OPTION_FLAG, &c->no_shared_memory, NULL,
         "Speak over TCP with nodes on this machine too."},
        {"no-local-experts", 0, OPTION_FLAG, &c->no_local_experts, NULL,
         "Never compute experts here: an expert that no live node holds is "
         "waited for, then an error."},
        {"local-memory", 0, OPTION_SIZE, &c->local_memory, "SIZE",
         "Most memory for experts that stand in for lost nodes."},
        {"kv", 0, OPTION_STRING, &c->kv, "f16|f32|q8_0",
         "Type of the KV cache; part of the numerics profile."},
        {"kv-memory", 0, OPTION_SIZE, &c->kv_memory, "SIZE",
         "Memory for the KV cache; used as sequences need it."},
        {"context", 0, OPTION_U32, &c->context, "N",
         "Longest sequence, prompt and answer; 0: the model's, at most 8192."},
        {"batch-tokens", 0, OPTION_U32, &c->batch_tokens, "N",
         "Most tokens of one batch step."},
        {"micro-batches", 0, OPTION_STRING, &c->micro_text, "auto|1|2",
         "Compute a step in one part, or in two in turn, so that nodes and "
         "coordinator work at the same time; by default as is faster."},
        {"max-running", 0, OPTION_U32, &c->max_running, "N",
         "Most sequences that share batch steps."},
        {"max-queued", 0, OPTION_U32, &c->max_queued, "N",
         "Most requests waiting beyond those; then clients are refused."},
        {"timeout", 0, OPTION_MS, &c->timeout_ms, "TIME",
         "Longest wait of a request for its next token, unless it asks for "
         "another."},
        {"park-timeout", 0, OPTION_MS, &c->park_timeout_ms, "TIME",
         "Longest wait of a request for an expert that no live node holds, if "
         "its own timeout is not shorter; 0: only that counts."},
        {"cross-check", 0, OPTION_U32, &c->cross_check, "N",
         "Ask a second holder too for one in N answered requests, and compare "
         "the bits; 0: never."},
        {"start-timeout", 0, OPTION_MS, &c->start_timeout_ms, "TIME",
         "How long to wait for the listed nodes before serving without some; "
         "with --etcd, for all experts to be held, once etcd answers."},
        {"drain-timeout", 0, OPTION_MS, &c->drain_timeout_ms, "TIME",
         "How long running requests may go on after SIGTERM."},
        {"threads", 0, OPTION_U32, &c->threads, "N",
         "Compute threads; 0: one per CPU."},
        {"pin", 0, OPTION_U32, &c->pin, "N",
         "Bind each compute thread to a CPU of its own, the first to the N-th "
         "that this process may use; 0: leave that to the system."},
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
    option table[ARRAY_LEN(own) + ETCD_OPTIONS_ROWS];
    memcpy(table, own, sizeof(own));
    size_t count = etcd_options_append(&c->etcd, table, ARRAY_LEN(own));
    const option_set set = {
        .program = "roster-coordinator",
        .usage = "MODEL [options]",
        .about = "Serves a mixture-of-experts model: tokenizer, attention, KV "
                 "cache, router and sampling here, experts on the expert "
                 "nodes. Prints `ready ENDPOINT` when it serves.",
        .table = table,
        .count = count,
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
    etcd_options_fini(&c->etcd);
    options_free(c->parsed);
}
