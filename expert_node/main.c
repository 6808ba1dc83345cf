/* main.c - roster-expert-node: holds some experts of a model and computes them
 * for coordinators. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/config.h"
#include "expert_node/server.h"
#include "expert_node/shard.h"

#define EXIT_USAGE 2
#define WHY_SIZE 1024

/* A node's memory is its experts: the allocator keeps few arenas and gives
 * large blocks back at once, instead of holding on to what loading needed. */
static void bound_memory(void) {
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_MMAP_THRESHOLD, 512 << 10);
    mallopt(M_TRIM_THRESHOLD, 4 << 20);
}

/* What must be right before anything else: descriptors, memory, signals, and
 * CPU level and failpoints, which come from the environment alone. */
static int setup(char *why, size_t why_size) {
    standard_streams_keep();
    bound_memory();
    signal(SIGPIPE, SIG_IGN);
    int rc = cpu_setup(why, why_size);
    return rc < 0 ? rc : failpoint_setup(why, why_size);
}

static int serve(const node_config *c, char *why, size_t why_size) {
    const shard_plan plan = {c->model, c->share, &c->experts};
    shard *s = NULL;
    server *v = NULL;

    int rc = shard_open(&s, &plan, why, why_size);
    if (rc == 0) rc = server_open(&v, c, s, why, why_size);
    if (rc == 0) {
        rc = server_run(v); /* returns on SIGTERM, its last batch answered */
        if (rc < 0) err_why(why, why_size, rc, "stopped: %s", err_text(rc));
    }
    server_close(v);
    shard_close(s);
    return rc;
}

static int exit_status(int rc) {
    if (rc >= 0) return EXIT_SUCCESS;
    return rc == ERR_USAGE ? EXIT_USAGE : EXIT_FAILURE;
}

int main(int argc, char **argv) {
    char why[WHY_SIZE] = "";
    node_config c = {0};

    log_setup("expert-node", LOG_INFO);
    int rc = setup(why, sizeof(why));
    if (rc == 0) rc = node_config_parse(&c, argc, argv, why, sizeof(why));
    if (rc == OPTIONS_RUN) {
        log_setup("expert-node", c.least);
        rc = serve(&c, why, sizeof(why));
    }
    if (rc < 0) {
        fprintf(stderr, "roster-expert-node: %s\n",
                why[0] != '\0' ? why : err_text(rc));
    }
    node_config_fini(&c);
    return exit_status(rc);
}
