/* cmd_plan.c - `roster plan`: who should hold what, worked out here. */
#include <stdbool.h>
#include <string.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/plan.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME "roster plan"

static int check(const plan_config *c, char *why, size_t why_size) {
    if ((c->loads == NULL) == (c->model == NULL)) {
        return err_why(why, why_size, ERR_USAGE,
                       "expected a MODEL or --loads FILE; see --help");
    }
    if (c->nodes == 0 || c->nodes > PLAN_NODES_MAX) {
        return err_why(why, why_size, ERR_USAGE, "--nodes: expected 1 to %d",
                       PLAN_NODES_MAX);
    }
    if (c->model != NULL && c->memory == NULL) {
        return err_why(why, why_size, ERR_USAGE, "--memory is missing");
    }
    if (c->min_replicas == 0 || c->min_replicas > 32) {
        return err_why(why, why_size, ERR_USAGE,
                       "--min-replicas: expected 1 to 32");
    }
    if (c->slices == 0 || c->slices > 8 || (c->slices & (c->slices - 1)) != 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--slices: expected 1, 2, 4 or 8");
    }
    return 0;
}

static int run(const plan_config *c) {
    char why[CLI_WHY] = "";
    int rc = check(c, why, sizeof(why));
    if (rc == 0) {
        rc = c->loads != NULL ? plan_loads_run(c, why, sizeof(why))
                              : plan_model_run(c, why, sizeof(why));
    }
    if (rc == 0) return CLI_OK;
    return rc == ERR_USAGE ? cli_usage(NAME, "%s", why)
                           : cli_fail(NAME, "%s", why);
}

int cmd_plan(int argc, char **argv) {
    bool json = false;
    plan_config c = {.policy = "roster", .slices = 1, .min_replicas = 1};
    const option table[] = {
        {"loads", 0, OPTION_STRING, &c.loads, "FILE",
         "Loads of experts as JSON, [[of layer 0], [of layer 1], ...]."},
        {"policy", 0, OPTION_STRING, &c.policy, "eplb|roster",
         "With --loads: the published algorithm, for equal devices, or our "
         "own."},
        {"replicas", 0, OPTION_U32, &c.replicas, "R",
         "Slots of a layer over all devices; for our own policy without "
         "--memory, what memory there is."},
        {"groups", 0, OPTION_U32, &c.groups, "G",
         "Groups of experts that are kept together."},
        {"nodes", 0, OPTION_U32, &c.nodes, "N", "Nodes."},
        {"devices", 0, OPTION_U32, &c.devices, "D",
         "Devices of all nodes (eplb); by default one a node."},
        {"memory", 0, OPTION_STRING, &c.memory, "BYTES[,...]",
         "For experts: one for all nodes or one for each; K, M, G, T."},
        {"speeds", 0, OPTION_STRING, &c.speeds, "X[,...]",
         "Relative to each other, likewise."},
        {"zones", 0, OPTION_STRING, &c.zones, "NAME[,...]",
         "What fails together, likewise."},
        {"now", 0, OPTION_STRING, &c.now, "FILE",
         "With --loads: who holds what now, as `holders` is printed."},
        {"expert-bytes", 0, OPTION_SIZE, &c.expert_bytes, "BYTES",
         "With --loads: the size of an expert, by default 1."},
        {"min-replicas", 0, OPTION_U32, &c.min_replicas, "M",
         "How many nodes should hold each expert."},
        {"slices", 0, OPTION_U32, &c.slices, "1|2|4|8",
         "With a MODEL: how each expert is cut."},
        {"json", 0, OPTION_FLAG, &json, NULL,
         "With a MODEL: print JSON instead of a table."},
    };
    const option_set set = {
        .program = NAME,
        .usage = "MODEL|--loads FILE --nodes N [options]",
        .about = "Says whether a model fits a rack, how much each node would "
                 "hold and whether the loss of one could be borne. Or, from a "
                 "file of loads, who should hold which expert. Nothing is "
                 "asked or changed.",
        .table = table,
        .count = ARRAY_LEN(table),
    };
    options *o;
    const char *const *args;
    size_t n_args;
    int status = cli_parse(&o, &set, argc, argv, 0, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    if (n_args == 1) c.model = args[0];
    c.json = json;
    status = run(&c);
    options_free(o);
    return status;
}
