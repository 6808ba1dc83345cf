/* config.c - the node's table of options. */
#include "expert_node/config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/pool.h"
#include "engine/util.h"

/* Four coordinators at full credit. */
#define QUEUE_DEFAULT ((uint64_t)64 << 20)
#define QUEUE_LEAST ((uint64_t)64 << 10)

/* The texts that are converted after parsing. */
typedef struct {
    const char *listen;
    const char *log_level;
} raw_texts;

static int parse_options(node_config *c, raw_texts *raw, int argc, char **argv,
                         char *why, size_t why_size) {
    const option table[] = {
        {"listen", 0, OPTION_STRING, &raw->listen, "tcp://HOST:PORT",
         "Control endpoint; port * takes any free one."},
        {"data-port", 0, OPTION_U32, &c->data_port, "N",
         "Port for batches, on the same host.  0: the control port + 1, or any "
         "free one if that is *."},
        {"share", 0, OPTION_STRING, &c->share, "I/N[xR]",
         "Hold the share of node I (from 0) of N nodes; xR: every expert on R "
         "of them."},
        {"experts", 0, OPTION_LIST, &c->experts, "SPEC",
         "Hold these: LAYERS:EXPERTS[;LAYERS:EXPERTS], numbers, ranges or *, "
         "for example '*:0-7' or '0-2,5:1,3'.  May be repeated.  With neither "
         "this nor --share the node holds every expert."},
        {"threads", 0, OPTION_U32, &c->threads, "N",
         "Compute threads.  0: one per CPU that this process may use."},
        {"exact", 0, OPTION_FLAG, &c->exact, NULL,
         "Activations stay f32, also against quantized weights.  The "
         "coordinator must do the same."},
        {"name", 0, OPTION_STRING, &c->name, "NAME",
         "The node's name in logs and status."},
        {"cluster", 0, OPTION_STRING, &c->cluster, "NAME",
         "Only coordinators of this cluster are served."},
        {"insecure", 0, OPTION_FLAG, &c->insecure, NULL,
         "Allow listening beyond the loopback interface.  Nothing is encrypted "
         "and nobody is asked for a key."},
        {"max-queue", 0, OPTION_SIZE, &c->max_queue, "SIZE",
         "Most reply bytes of work that waits, is computed or is not yet "
         "taken; what exceeds it is refused at once."},
        {"log-level", 0, OPTION_STRING, &raw->log_level, "LEVEL",
         "debug, info, warn or error."},
    };
    const option_set set = {
        .program = "roster-expert-node",
        .usage = "MODEL [options]",
        .about = "Holds some experts of a mixture-of-experts model (a GGUF "
                 "file) and computes them for coordinators.  Prints `ready "
                 "ENDPOINT` when they are loaded; serves until SIGTERM or "
                 "SIGINT.",
        .table = table,
        .count = ARRAY_LEN(table),
        .daemon = true,
    };
    return options_parse(&c->parsed, &set, argc, argv, why, why_size);
}

static int check_name(const char *what, const char *text, char *why,
                      size_t why_size) {
    if (message_is_name(text)) return 0;
    return err_why(why, why_size, ERR_USAGE,
                   "--%s: expected 1 to %d printable ASCII characters", what,
                   MESSAGE_NAME_MAX);
}

static int check_ports(node_config *c, char *why, size_t why_size) {
    if (c->data_port > UINT16_MAX) {
        return err_why(why, why_size, ERR_USAGE,
                       "--data-port %u: a port is at most 65535", c->data_port);
    }
    if (c->control.port == UINT16_MAX && c->data_port == 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--listen: there is no port after 65535 for batches; "
                       "give --data-port");
    }
    if (c->control.port != 0 && c->data_port == c->control.port) {
        return err_why(why, why_size, ERR_USAGE,
                       "--data-port %u: that is the control port",
                       c->data_port);
    }
    return 0;
}

/* What the options' types cannot say. */
static int check_values(node_config *c, const raw_texts *raw, char *why,
                        size_t why_size) {
    const char *const *args;
    if (options_args(c->parsed, &args) != 1) {
        return err_why(why, why_size, ERR_USAGE,
                       "one MODEL is needed; see --help");
    }
    c->model = args[0];

    int least = log_level_parse(raw->log_level);
    if (least < 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--log-level '%.20s': debug, info, warn and error are "
                       "possible",
                       raw->log_level);
    }
    c->least = (log_level)least;

    char detail[ENDPOINT_MAX];
    int rc = endpoint_parse(&c->control, raw->listen, detail, sizeof(detail));
    if (rc < 0) return err_why(why, why_size, rc, "--listen: %s", detail);
    if (!c->insecure && !endpoint_is_loopback(&c->control)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--listen '%.80s' is not a loopback address: that needs "
                       "--insecure, since nothing is encrypted yet",
                       raw->listen);
    }
    if (c->share != NULL && c->experts.count > 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--share and --experts exclude each other");
    }
    if (c->threads > POOL_MAX_THREADS) {
        return err_why(why, why_size, ERR_USAGE, "--threads %u: at most %d",
                       c->threads, POOL_MAX_THREADS);
    }
    if (c->max_queue < QUEUE_LEAST) {
        return err_why(why, why_size, ERR_USAGE,
                       "--max-queue: 64K is the least");
    }
    rc = check_ports(c, why, why_size);
    if (rc == 0) rc = check_name("name", c->name, why, why_size);
    if (rc == 0) rc = check_name("cluster", c->cluster, why, why_size);
    return rc;
}

int node_config_parse(node_config *c, int argc, char **argv, char *why,
                      size_t why_size) {
    *c = (node_config){.cluster = "roster", .max_queue = QUEUE_DEFAULT};
    if (gethostname(c->host_name, sizeof(c->host_name) - 1) != 0 ||
        !message_is_name(c->host_name)) {
        snprintf(c->host_name, sizeof(c->host_name), "node");
    }
    c->name = c->host_name;

    raw_texts raw = {"tcp://127.0.0.1:7101", "info"};
    int rc = parse_options(c, &raw, argc, argv, why, why_size);
    if (rc != OPTIONS_RUN) return rc;
    return check_values(c, &raw, why, why_size);
}

void node_config_fini(node_config *c) {
    options_free(c->parsed);
    c->parsed = NULL;
}
