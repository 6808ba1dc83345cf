/* config.c - the node's table of options. */
#include "expert_node/config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "discovery/records.h"
#include "engine/err.h"
#include "engine/pool.h"
#include "engine/util.h"

/* Four coordinators at full credit. */
#define QUEUE_DEFAULT ((uint64_t)64 << 20)
#define QUEUE_LEAST ((uint64_t)64 << 10)
#define SCRUB_HOURS_DEFAULT 24
#define SCRUB_HOURS_MOST 8760

/* The texts that are converted after parsing. */
typedef struct {
    const char *listen;
    const char *log_level;
} raw_texts;

static int parse_options(node_config *c, raw_texts *raw, int argc, char **argv,
                         char *why, size_t why_size) {
    const option own[] = {
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
        {"slices", 0, OPTION_U32, &c->slices, "S",
         "Without --etcd: experts are cut into 1, 2, 4 or 8 slices, and "
         "--share shares those out.  All processes must do the same."},
        {"weights-from", 0, OPTION_STRING, &c->weights_from, "tcp://HOST:PORT",
         "Without --etcd and MODEL: fetch what is held from this coordinator "
         "(its --weights-listen)."},
        {"memory", 0, OPTION_SIZE, &c->memory_bytes, "SIZE",
         "With --etcd: memory that is offered for experts.  0: 80 % of what "
         "is available at the start, within the limits of cgroups."},
        {"cache", 0, OPTION_STRING, &c->cache, "DIR",
         "Keep fetched weights in this folder, which several nodes may share; "
         "none: keep nothing.  With --etcd and no MODEL the default is "
         "~/.cache/roster/units, or else /var/cache/roster/units."},
        {"cache-bytes", 0, OPTION_SIZE, &c->cache_bytes, "SIZE",
         "Most bytes in that folder, and never more than 90 % of what the disk "
         "has left.  0: as much as is offered for experts."},
        {"weights-listen", 0, OPTION_STRING, &c->weights_listen,
         "tcp://HOST:PORT",
         "With --etcd: where other nodes fetch weights.  Default: any free "
         "port on the control endpoint's host."},
        {"zone", 0, OPTION_STRING, &c->zone, "NAME",
         "With --etcd: what fails together with this node, such as a rack or a "
         "power line.  Replicas of an expert are spread over zones."},
        {"threads", 0, OPTION_U32, &c->threads, "N",
         "Compute threads.  0: one per CPU that this process may use."},
        {"pin", 0, OPTION_U32, &c->pin, "N",
         "Bind each compute thread to a CPU of its own, the first to the N-th "
         "that this process may use; 0: leave that to the system."},
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
        {"scrub", 0, OPTION_F32, &c->scrub_hours, "HOURS",
         "Read all resident weights again within this time, to find what "
         "memory has not kept; 0: never."},
        {"log-level", 0, OPTION_STRING, &raw->log_level, "LEVEL",
         "debug, info, warn or error."},
    };
    option table[ARRAY_LEN(own) + ETCD_OPTIONS_ROWS];
    memcpy(table, own, sizeof(own));
    const option_set set = {
        .program = "roster-expert-node",
        .usage = "[MODEL] [options]",
        .about = "Holds some experts of a mixture-of-experts model (a GGUF "
                 "file) and computes them for coordinators.  Prints `ready "
                 "ENDPOINT` when they are loaded, or with --etcd, where the "
                 "rack says what to hold, when it can be greeted; serves until "
                 "SIGTERM or SIGINT.  With --etcd or --weights-from no MODEL "
                 "is needed: what is held is fetched from a coordinator.",
        .table = table,
        .count = etcd_options_append(&c->etcd, table, ARRAY_LEN(own)),
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

/* A static list: this node is told what to hold. */
static int check_static(node_config *c, char *why, size_t why_size) {
    if (c->model == NULL && c->weights_from == NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "one MODEL is needed, or --etcd or --weights-from; see "
                       "--help");
    }
    if (c->model != NULL && c->weights_from != NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "MODEL and --weights-from exclude each other");
    }
    if (c->slices == 0) c->slices = 1;
    if (c->slices > MESSAGE_SLICES_MAX || (c->slices & (c->slices - 1)) != 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--slices %u: 1, 2, 4 or 8 are possible", c->slices);
    }
    if (c->memory_bytes != 0 || c->zone[0] != '\0' ||
        c->weights_listen != NULL) {
        return err_why(why, why_size, ERR_USAGE, "--%s needs --etcd",
                       c->memory_bytes != 0 ? "memory"
                       : c->zone[0] != '\0' ? "zone"
                                            : "weights-listen");
    }
    if (c->weights_from == NULL) return 0;

    endpoint from;
    char detail[ENDPOINT_MAX];
    int rc = endpoint_parse(&from, c->weights_from, detail, sizeof(detail));
    if (rc < 0) return err_why(why, why_size, rc, "--weights-from: %s", detail);
    if (c->insecure || endpoint_is_loopback(&from)) return 0;
    return err_why(why, why_size, ERR_USAGE,
                   "--weights-from '%.80s' is not a loopback address: that "
                   "needs --insecure, since nothing is encrypted yet",
                   c->weights_from);
}

/* An address that others can use. */
static int check_reachable(const char *name, const endpoint *e, char *why,
                           size_t why_size) {
    const char *const any[] = {"*", "0.0.0.0", "::"};
    for (size_t i = 0; i < ARRAY_LEN(any); i++) {
        if (strcmp(e->host, any[i]) != 0) continue;
        return err_why(why, why_size, ERR_USAGE,
                       "--%s '%s': with --etcd, give the address at which "
                       "others reach this node",
                       name, any[i]);
    }
    return 0;
}

/* A rack that organizes itself: others read from etcd who this is and where. */
static int check_rack(const node_config *c, char *why, size_t why_size) {
    const char *extra = c->share != NULL          ? "share"
                        : c->experts.count > 0    ? "experts"
                        : c->slices != 0          ? "slices"
                        : c->weights_from != NULL ? "weights-from"
                                                  : NULL;
    if (extra != NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd and --%s exclude each other: the rack says "
                       "what this node holds",
                       extra);
    }
    if (!record_is_name(c->name)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--name '%.60s': a name in etcd has no '/'", c->name);
    }
    if (!record_is_name(c->cluster)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--cluster '%.60s': a name in etcd has no '/'",
                       c->cluster);
    }
    if (c->zone[0] != '\0' && !record_is_name(c->zone)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--zone: expected 1 to %d printable ASCII characters "
                       "without '/'",
                       RECORD_NAME - 1);
    }
    int rc = check_reachable("listen", &c->control, why, why_size);
    if (rc < 0 || c->weights_listen == NULL) return rc;
    endpoint weights;
    char detail[ENDPOINT_MAX];
    rc = endpoint_parse(&weights, c->weights_listen, detail, sizeof(detail));
    if (rc < 0) {
        return err_why(why, why_size, rc, "--weights-listen: %s", detail);
    }
    if (!c->insecure && !endpoint_is_loopback(&weights)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--weights-listen '%.80s' is not a loopback address: "
                       "that needs --insecure, since nothing is encrypted yet",
                       c->weights_listen);
    }
    return check_reachable("weights-listen", &weights, why, why_size);
}

/* What the options' types cannot say. */
static int check_values(node_config *c, const raw_texts *raw, char *why,
                        size_t why_size) {
    const char *const *args;
    size_t n_args = options_args(c->parsed, &args);
    if (n_args > 1) {
        return err_why(why, why_size, ERR_USAGE,
                       "at most one MODEL; see --help");
    }
    c->model = n_args == 1 ? args[0] : NULL;

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
    if (!(c->scrub_hours >= 0.0f && c->scrub_hours <= SCRUB_HOURS_MOST)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--scrub: 0 to %d hours are possible", SCRUB_HOURS_MOST);
    }
    if (c->max_queue < QUEUE_LEAST) {
        return err_why(why, why_size, ERR_USAGE,
                       "--max-queue: 64K is the least");
    }
    rc = check_ports(c, why, why_size);
    if (rc == 0) rc = check_name("name", c->name, why, why_size);
    if (rc == 0) rc = check_name("cluster", c->cluster, why, why_size);
    if (rc == 0) rc = etcd_options_check(&c->etcd, why, why_size);
    if (rc < 0) return rc;
    return etcd_options_given(&c->etcd) ? check_rack(c, why, why_size)
                                        : check_static(c, why, why_size);
}

int node_config_parse(node_config *c, int argc, char **argv, char *why,
                      size_t why_size) {
    *c = (node_config){.cluster = "roster",
                       .max_queue = QUEUE_DEFAULT,
                       .zone = "",
                       .scrub_hours = SCRUB_HOURS_DEFAULT};
    etcd_options_init(&c->etcd);
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
    etcd_options_fini(&c->etcd);
    options_free(c->parsed);
    c->parsed = NULL;
}
