/* main.c - roster-coordinator. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include "coordinator/coordinator.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/log.h"
#include "engine/util.h"

#define EXIT_USAGE 2

/* The answers of a long prompt come and go by the megabyte.  Given back to the
 * system each time, their pages would be cleared and mapped anew for every
 * layer. */
static void keep_memory(void) {
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
}

int main(int argc, char **argv) {
    keep_memory();
    standard_streams_keep();
    char why[512] = "";
    config cfg;
    int rc = config_parse(&cfg, argc, argv, why, sizeof(why));
    if (rc == OPTIONS_EXIT) return EXIT_SUCCESS;
    if (rc == 0) rc = cpu_setup(why, sizeof(why));
    if (rc == 0) rc = failpoint_setup(why, sizeof(why));
    if (rc < 0) {
        fprintf(stderr, "roster-coordinator: %s\n", why);
        config_free(&cfg);
        return EXIT_USAGE;
    }
    log_setup("coordinator", (log_level)log_level_parse(cfg.log_level));
    signal(SIGPIPE, SIG_IGN);

    coordinator *c;
    rc = coordinator_open(&c, &cfg, why, sizeof(why));
    if (rc < 0) {
        log_error("cannot start: %s", why);
        config_free(&cfg);
        return EXIT_FAILURE;
    }
    rc = coordinator_run(c); /* returns on SIGTERM, once requests are drained */
    coordinator_close(c);
    config_free(&cfg);
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
