/* main.c - roster-expert-node: holds some experts of a model and computes them
 * for coordinators. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/cache_place.h"
#include "expert_node/config.h"
#include "expert_node/memory.h"
#include "expert_node/server.h"
#include "expert_node/shard.h"

#define EXIT_USAGE 2
#define WHY_SIZE 1024
#define PULL_RETRY_US (500 * 1000u)

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
    signal(SIGXFSZ, SIG_IGN); /* a file too large is an error like others */
    int rc = cpu_setup(why, why_size);
    return rc < 0 ? rc : failpoint_setup(why, why_size);
}

/* Until the coordinator is there: it may well be started after its nodes. */
static int pull_patiently(shard **out, const node_config *c,
                          const shard_origin *from, char *why,
                          size_t why_size) {
    log_info("fetching the model from %s", c->weights_from);
    for (bool said = false;; said = true) {
        int rc = shard_pull(out, from, why, why_size);
        if (rc != ERR_DEADLINE) return rc;
        if (!said) {
            log_warn("waiting for a coordinator at %s to fetch the model from",
                     c->weights_from);
        }
        usleep(PULL_RETRY_US); /* a deadline may also be what it answered */
    }
}

static int describe(shard **out, shard_origin *from, const node_config *c,
                    char *why, size_t why_size) {
    if (c->model != NULL) return shard_open(out, c->model, why, why_size);

    const fetch_config f = {.cluster = c->cluster,
                            .boot_id = random_boot_id(),
                            .insecure = c->insecure};
    int rc = fetch_new(&from->fetch, &f);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    fetch_set_sources(from->fetch, &c->weights_from, 1);
    from->cache = cache_place_open(c, memory_offer(""));
    return pull_patiently(out, c, from, why, why_size);
}

/* A static list: everything is loaded before the node opens. */
static int load_static(shard **out, const node_config *c, char *why,
                       size_t why_size) {
    shard_origin from = {0};
    const shard_plan plan = {c->share, &c->experts, c->threads};
    int rc = describe(out, &from, c, why, why_size);
    if (rc == 0) rc = shard_cut(*out, c->slices, why, why_size);
    if (rc == 0) rc = shard_fill(*out, &plan, why, why_size);
    if (*out != NULL) shard_detach(*out);
    fetch_free(from.fetch);
    unit_cache_close(from.cache);
    return rc;
}

static int serve(const node_config *c, char *why, size_t why_size) {
    shard *held = NULL;
    server *v = NULL;
    if (!etcd_options_given(&c->etcd)) {
        int rc = load_static(&held, c, why, why_size);
        if (rc < 0) {
            shard_close(held);
            return rc;
        }
    }
    int rc = server_open(&v, c, held, why, why_size);
    /* Returns on SIGTERM, its last batch answered. */
    if (rc == 0) rc = server_run(v, why, why_size);
    server_close(v);
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
