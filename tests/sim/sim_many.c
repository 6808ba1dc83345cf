/* sim_many.c - see sim_many.h.
 *
 * A seed's run keeps its state in static memory, so each worker is a process.
 * Seeds are dealt out in turn; a worker sends its sum through a pipe when it is
 * done, in pieces no larger than what one write carries whole. */
#include "tests/sim/sim_many.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/sim/sim.h"

#define WORKERS_MOST 64

static const char *const count_names[SIM_COUNTS] = {
    [COUNT_EVENTS] = "events",
    [COUNT_REQUESTS] = "requests",
    [COUNT_FINISHED] = "finished",
    [COUNT_FAILED] = "failed",
    [COUNT_UNAVAILABLE] = "without a holder",
    [COUNT_CANCELLED] = "cancelled",
    [COUNT_TOKENS] = "tokens",
    [COUNT_MOVED] = "moved to another coordinator",
    [COUNT_HEDGES] = "hedges",
    [COUNT_TAKEOVERS] = "pairs taken over",
    [COUNT_LOCAL] = "pairs computed locally",
    [COUNT_REFUSALS] = "refusals",
    [COUNT_LATE] = "late rows",
    [COUNT_LOST] = "pairs given up",
    [COUNT_EPOCHS] = "epochs",
    [COUNT_TERMS] = "terms",
    [COUNT_FENCED] = "placements refused",
    [COUNT_UNKNOWN] = "outcomes unknown",
    [COUNT_BALANCED] = "rebalancings",
    [COUNT_LOADS] = "loads",
    [COUNT_CACHED] = "from a cache",
    [COUNT_DAMAGED] = "damaged",
    [COUNT_UNLOADS] = "unloads",
    [COUNT_STALE] = "coordinators refused as stale",
    [COUNT_RELISTED] = "lists made anew",
    [COUNT_RECOVERED] = "recoveries",
    [COUNT_FAULTS] = "faults",
};

static void keep_failure(sim_many_result *sum, uint64_t seed, const char *why) {
    sum->failures++;
    uint64_t n =
        sum->failures < SIM_FAILURES_KEPT ? sum->failures : SIM_FAILURES_KEPT;
    uint64_t at = n - 1;
    if (sum->failures > n && seed > sum->failed[at].seed) return;
    for (; at > 0 && sum->failed[at - 1].seed > seed; at--)
        sum->failed[at] = sum->failed[at - 1];
    sum->failed[at].seed = seed;
    snprintf(sum->failed[at].why, sizeof(sum->failed[at].why), "%s", why);
}

static void add_run(sim_many_result *sum, uint64_t seed, const sim_result *r) {
    uint64_t faults = r->count[COUNT_FAULTS];
    if (sum->runs++ == 0 || faults < sum->worst_faults) {
        sum->worst_faults = faults;
    }
    sum->simulated_us += r->at_us;
    for (int i = 0; i < SIM_COUNTS; i++)
        sum->count[i] += r->count[i];
    for (int i = 0; i < SIM_FAULT_KINDS_MAX; i++)
        sum->faults[i] += r->faults[i];
    if (!r->ok) keep_failure(sum, seed, r->why);
}

static void add_sum(sim_many_result *sum, const sim_many_result *part) {
    if (part->runs == 0) return;
    if (sum->runs == 0 || part->worst_faults < sum->worst_faults) {
        sum->worst_faults = part->worst_faults;
    }
    sum->runs += part->runs;
    sum->simulated_us += part->simulated_us;
    for (int i = 0; i < SIM_COUNTS; i++)
        sum->count[i] += part->count[i];
    for (int i = 0; i < SIM_FAULT_KINDS_MAX; i++)
        sum->faults[i] += part->faults[i];
    uint64_t kept =
        part->failures < SIM_FAILURES_KEPT ? part->failures : SIM_FAILURES_KEPT;
    for (uint64_t i = 0; i < kept; i++)
        keep_failure(sum, part->failed[i].seed, part->failed[i].why);
    sum->failures += part->failures - kept;
}

/* Shared by all workers: somebody has found what is looked for. */
static atomic_bool *found;

static void run_seeds(uint64_t from, uint64_t to, uint64_t stride,
                      sim_plant plant, const char *complaint,
                      sim_many_result *sum) {
    for (uint64_t seed = from; seed <= to; seed += stride) {
        sim_result r;
        sim_run(&(sim_options){.seed = seed, .plant = plant}, &r);
        if (complaint != NULL && strstr(r.why, complaint) == NULL) r.ok = true;
        add_run(sum, seed, &r);
        if (complaint != NULL && !r.ok) atomic_store(found, true);
        if (atomic_load(found)) return;
    }
}

static int send_all(int fd, const void *data, size_t bytes) {
    for (const char *p = data; bytes > 0;) {
        ssize_t n = write(fd, p, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        p += n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* 0; -EPIPE if the other end is gone before all came. */
static int receive_all(int fd, void *data, size_t bytes) {
    for (char *p = data; bytes > 0;) {
        ssize_t n = read(fd, p, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) return -EPIPE;
        p += n;
        bytes -= (size_t)n;
    }
    return 0;
}

static uint32_t choose_workers(uint64_t runs) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    if (n < 1) n = 1;
    if (n > WORKERS_MOST) n = WORKERS_MOST;
    return (uint64_t)n < runs ? (uint32_t)n : (uint32_t)runs;
}

typedef struct {
    pid_t pid;
    int fd;
} worker;

static int begin_worker(worker *w, uint64_t from, uint64_t to, uint64_t stride,
                        sim_plant plant, const char *complaint) {
    int ends[2];
    if (pipe(ends) < 0) return -errno;
    fflush(NULL);
    w->pid = fork();
    if (w->pid < 0) {
        int rc = -errno;
        close(ends[0]);
        close(ends[1]);
        return rc;
    }
    if (w->pid == 0) {
        sim_many_result own = {0};
        close(ends[0]);
        run_seeds(from, to, stride, plant, complaint, &own);
        _exit(send_all(ends[1], &own, sizeof(own)) < 0);
    }
    close(ends[1]);
    w->fd = ends[0];
    return 0;
}

int sim_many(uint64_t from, uint64_t to, sim_plant plant, const char *complaint,
             sim_many_result *out) {
    worker workers[WORKERS_MOST];
    uint32_t wanted = choose_workers(to - from + 1), n = 0;
    int rc = 0;
    *out = (sim_many_result){0};
    found = mmap(NULL, sizeof(*found), PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) return -errno;
    while (n < wanted && rc == 0) {
        rc = begin_worker(&workers[n], from + n, to, wanted, plant, complaint);
        if (rc == 0) n++;
    }
    for (uint32_t i = 0; i < n; i++) {
        sim_many_result part;
        int its = receive_all(workers[i].fd, &part, sizeof(part));
        close(workers[i].fd);
        waitpid(workers[i].pid, NULL, 0);
        if (its == 0) add_sum(out, &part);
        if (its < 0 && rc == 0) rc = its;
    }
    munmap(found, sizeof(*found));
    return rc;
}

void sim_many_print(const sim_many_result *r) {
    printf("%llu runs, %.1f s simulated in each, at least %llu faults\n",
           (unsigned long long)r->runs,
           (double)r->simulated_us / 1e6 / (double)(r->runs > 0 ? r->runs : 1),
           (unsigned long long)r->worst_faults);
    for (int i = 0; i < SIM_COUNTS; i++) {
        printf("%s%llu %s", i == 0 ? "" : ", ", (unsigned long long)r->count[i],
               count_names[i]);
    }
    printf("\nfaults: ");
    for (int i = 0; i < FAULT_KINDS; i++) {
        printf("%s%llu %s", i == 0 ? "" : ", ",
               (unsigned long long)r->faults[i],
               sim_fault_name((sim_fault_kind)i));
    }
    putchar('\n');
    uint64_t kept =
        r->failures < SIM_FAILURES_KEPT ? r->failures : SIM_FAILURES_KEPT;
    for (uint64_t i = 0; i < kept; i++) {
        printf("seed %llu: %s (replay: test_sim --seed %llu --trace)\n",
               (unsigned long long)r->failed[i].seed, r->failed[i].why,
               (unsigned long long)r->failed[i].seed);
    }
}
