/* local_rack.c - see local_rack.h. */
#include "client/local_rack.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/words.h"
#include "discovery/slice_choice.h"
#include "engine/err.h"
#include "engine/expert_store.h"
#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/kv_cache.h"
#include "engine/pool.h"
#include "engine/util.h"

#define GRACE_MS 2000
#define ENDPOINT_BYTES 300
#define ANY_PORT "tcp://127.0.0.1:*"

struct local_rack {
    child **children; /* [n_children]: nodes, then the coordinator */
    size_t n_children;
    char (*endpoints)[ENDPOINT_BYTES]; /* of each child */
};

/* ---- settings ---- */

void local_rack_config_init(local_rack_config *c) {
    *c = (local_rack_config){
        .replicas = 1, .slices = 1, .start_timeout_ms = 300000};
}

size_t local_rack_options(local_rack_config *c, option *table) {
    const option rows[] = {
        {"nodes", 0, OPTION_U32, &c->nodes, "N",
         "Expert-node processes to start; with 0 the coordinator holds all "
         "experts itself."},
        {"replicas", 0, OPTION_U32, &c->replicas, "R",
         "How many nodes hold each expert."},
        {"slices", 0, OPTION_U32, &c->slices, "S",
         "Cut every expert into S slices, which nodes hold one by one; 0: as "
         "is predicted to be fastest."},
        {"experts", 0, OPTION_LIST, &c->experts, "SPEC",
         "What a node holds, LAYERS:EXPERTS[;...] as in '*:0-3' or "
         "'0-2,5:1,3;3:*'; give it once for each node. Without it nodes hold "
         "equal shares."},
        {"exact", 0, OPTION_FLAG, &c->exact, NULL,
         "Keep activations in f32 instead of rounding them to int8 for "
         "quantized weights."},
        {"kv", 0, OPTION_STRING, &c->kv, "f32|f16|q8_0",
         "Number format of the KV cache."},
        {"threads", 0, OPTION_U32, &c->threads, "T",
         "Compute threads of each process; 0: one per CPU, which they share."},
        {"no-local-experts", 0, OPTION_FLAG, &c->no_local_experts, NULL,
         "The coordinator computes no experts, not even for a lost node."},
        {"start-timeout", 0, OPTION_MS, &c->start_timeout_ms, "TIME",
         "How long loading the model may take."},
        {"verbose", 0, OPTION_FLAG, &c->verbose, NULL,
         "Show what the started processes log."},
    };
    _Static_assert(ARRAY_LEN(rows) == LOCAL_RACK_OPTIONS, "rows of the table");
    memcpy(table, rows, sizeof(rows));
    return ARRAY_LEN(rows);
}

int local_rack_check(const local_rack_config *c, char *why, size_t why_size) {
    if (c->nodes > LOCAL_RACK_MAX_NODES) {
        return err_why(why, why_size, ERR_USAGE,
                       "--nodes %u: at most %d can be started", c->nodes,
                       LOCAL_RACK_MAX_NODES);
    }
    if (c->replicas == 0 || (c->replicas > c->nodes && c->replicas > 1)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--replicas %u: must be from 1 to the number of nodes",
                       c->replicas);
    }
    if (c->experts.count > 0 && c->experts.count != c->nodes) {
        return err_why(why, why_size, ERR_USAGE,
                       "--experts: given %zu times for %u nodes",
                       c->experts.count, c->nodes);
    }
    if (c->experts.count > 0 && c->replicas > 1) {
        return err_why(why, why_size, ERR_USAGE,
                       "--experts says what each node holds, so --replicas "
                       "makes no sense with it");
    }
    if (c->slices > 8 || (c->slices & (c->slices - 1)) != 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--slices %u: must be 0, 1, 2, 4 or 8", c->slices);
    }
    if (c->nodes == 0 && c->no_local_experts) {
        return err_why(why, why_size, ERR_USAGE,
                       "--no-local-experts without nodes leaves nobody to "
                       "compute the experts");
    }
    if (c->kv != NULL && kv_type_find(c->kv) == KV_TYPES) {
        return err_why(why, why_size, ERR_USAGE,
                       "--kv: '%s' is not " KV_TYPE_NAMES, c->kv);
    }
    return 0;
}

/* ---- finding the programs ---- */

static bool runnable(char *out, size_t size, const char *folder, size_t len,
                     const char *name) {
    int n = snprintf(out, size, "%.*s/%s", (int)len, folder, name);
    return n > 0 && (size_t)n < size && access(out, X_OK) == 0;
}

static bool find_in_path(char *out, size_t size, const char *name) {
    const char *at = getenv("PATH");

    while (at != NULL && *at != '\0') {
        size_t len = strcspn(at, ":");
        if (len > 0 && runnable(out, size, at, len, name)) return true;
        at += len + (at[len] == ':');
    }
    return false;
}

static int find_program(const local_rack_config *c, const char *name, char *out,
                        size_t size, char *why, size_t why_size) {
    if (c->programs != NULL) {
        if (runnable(out, size, c->programs, strlen(c->programs), name))
            return 0;
        return err_why(why, why_size, -ENOENT, "there is no %s in %s", name,
                       c->programs);
    }
    char own[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 8);
    if (n > 0) {
        own[n] = '\0';
        char *slash = strrchr(own, '/');
        size_t len = slash != NULL ? (size_t)(slash - own) : 0;
        if (runnable(out, size, own, len, name)) return 0;
        memcpy(own + len, "/../bin", sizeof("/../bin"));
        if (runnable(out, size, own, strlen(own), name)) return 0;
    }
    if (find_in_path(out, size, name)) return 0;
    return err_why(why, why_size, -ENOENT,
                   "cannot find the program %s, neither beside this one nor in "
                   "PATH",
                   name);
}

/* ---- command lines ---- */

uint32_t local_rack_threads(const local_rack_config *c) {
    return c->threads > 0 ? c->threads : pool_cpus();
}

/* Where a process's threads begin: with room for all each has its own CPUs, and
 * else they share them, beginning at different ones.  In most moments of a
 * token either the coordinator computes or the nodes do, and two nodes seldom
 * have the same to do, so each may use the whole machine. */
static uint32_t first_cpu(const local_rack_config *c, uint32_t process) {
    uint32_t threads = local_rack_threads(c), cpus = pool_cpus();
    bool apart = (uint64_t)threads * (c->nodes + 1) <= cpus;
    return process * (apart ? threads : 1) % cpus;
}

/* Processes are counted from the coordinator, 0; alone on the machine it leaves
 * the choice of CPUs to the system. */
static void add_common(words *w, const local_rack_config *c, uint32_t process) {
    words_add(w, "--threads");
    words_format(w, "%u", local_rack_threads(c));
    if (c->nodes > 0) {
        words_add(w, "--pin");
        words_format(w, "%u", 1 + first_cpu(c, process));
    }
    if (c->exact) words_add(w, "--exact");
    if (c->slices > 1) {
        words_add(w, "--slices");
        words_format(w, "%u", c->slices);
    }
    if (c->cluster != NULL) {
        words_add(w, "--cluster");
        words_add(w, c->cluster);
    }
}

static void node_words(words *w, const local_rack_config *c, uint32_t index) {
    words_add(w, "roster-expert-node");
    words_add(w, c->model);
    words_add(w, "--listen");
    words_add(w, ANY_PORT);
    words_add(w, "--name");
    words_format(w, "node-%u", index + 1);
    if (c->experts.count > 0) {
        words_add(w, "--experts");
        words_add(w, c->experts.items[index]);
    } else {
        words_add(w, "--share");
        words_format(w, "%u/%ux%u", index, c->nodes, c->replicas);
    }
    add_common(w, c, 1 + index);
}

static void coordinator_words(words *w, const local_rack_config *c,
                              const local_rack *r) {
    words_add(w, "roster-coordinator");
    words_add(w, c->model);
    words_add(w, "--listen");
    words_add(w, c->endpoint != NULL ? c->endpoint : ANY_PORT);
    for (uint32_t i = 0; i < c->nodes; i++) {
        words_add(w, "--node");
        words_add(w, r->endpoints[i]);
    }
    if (c->kv != NULL) {
        words_add(w, "--kv");
        words_add(w, c->kv);
    }
    if (c->timeout_ms > 0) {
        words_add(w, "--timeout");
        words_format(w, "%ums", c->timeout_ms);
    }
    if (c->no_local_experts) words_add(w, "--no-local-experts");
    if (c->insecure) words_add(w, "--insecure");
    add_common(w, c, 0);
}

/* ---- slices ---- */

/* All nodes are on this machine: each reads as fast as its threads can. */
#define THREAD_BYTES_US 10000.0
#define LOOPBACK_BYTES_US 5000.0

static int measure_experts(slice_question *q, const gguf *g,
                           const model_config *model, char *why,
                           size_t why_size) {
    expert_store *store = NULL;
    const expert_store_config s = {
        .g = g, .model = model, .slices = SLICE_CHOICE_MOST};
    int rc = expert_store_new(&store, &s, why, why_size);
    for (uint32_t l = 0; rc == 0 && l < model->n_layers; l++) {
        uint32_t slices = expert_store_slices(store, l);
        uint64_t bytes = slices * expert_store_unit_bytes(store, l);
        if (slices > q->most) q->most = slices;
        if (bytes > q->expert_bytes) q->expert_bytes = bytes;
    }
    expert_store_free(store);
    return rc;
}

/* Nodes whose shares are listed hold whole experts. */
static int choose_slices(local_rack_config *c, char *why, size_t why_size) {
    c->slices = 1;
    if (c->nodes < 2 || c->experts.count > 0) return 0;
    gguf *g;
    model_config model;
    int rc = gguf_open(&g, c->model, why, why_size);
    if (rc < 0) return rc;
    slice_question q = {.n_nodes = c->nodes,
                        .node_bytes_us =
                            THREAD_BYTES_US * local_rack_threads(c),
                        .link_bytes_us = LOOPBACK_BYTES_US};
    rc = model_read(&model, g, why, why_size);
    if (rc == 0) rc = measure_experts(&q, g, &model, why, why_size);
    if (rc == 0) {
        q.n_used = model.n_used;
        q.row_bytes = model.n_embd * sizeof(float);
        c->slices = slice_choice(&q);
    }
    gguf_close(g);
    return rc;
}

/* ---- environment ---- */

/* Ours, without the variables that set a daemon's options: what they do is said
 * on their command lines, all of it. */
static void environment_words(words *w) {
    static const char *const kept[] = {"ROSTER_CPU=", "ROSTER_FAILPOINTS="};

    for (char **at = environ; *at != NULL; at++) {
        bool keep = strncmp(*at, "ROSTER_", 7) != 0;
        for (size_t i = 0; i < ARRAY_LEN(kept); i++)
            keep = keep || strncmp(*at, kept[i], strlen(kept[i])) == 0;
        if (keep) words_add(w, *at);
    }
}

/* ---- starting ---- */

static int start(local_rack *r, const local_rack_config *c, const char *name,
                 const char *program, words *w, char *why, size_t why_size) {
    char path[PATH_MAX];
    words env = {0};

    environment_words(&env);
    const child_program p = {
        .name = name,
        .path = path,
        .argv = words_list(w),
        .env = words_list(&env),
        .forward = c->verbose,
    };
    int rc = 0;
    if (p.argv == NULL || p.env == NULL)
        rc = err_why(why, why_size, -ENOMEM, "no memory");
    if (rc == 0)
        rc = find_program(c, program, path, sizeof(path), why, why_size);
    if (rc == 0)
        rc = child_start(&r->children[r->n_children], &p, why, why_size);
    if (rc == 0) r->n_children++;
    words_fini(w);
    words_fini(&env);
    return rc;
}

/* "ready ENDPOINT" */
static int wait_ready(local_rack *r, size_t index, uint64_t deadline_ms,
                      int stop_fd, char *why, size_t why_size) {
    static const char ready[] = "ready ";
    char line[ENDPOINT_BYTES + sizeof(ready)];
    child *c = r->children[index];

    int rc = child_wait_line(c, deadline_ms, stop_fd, line, sizeof(line), why,
                             why_size);
    if (rc < 0) return rc;
    const char *at = line + sizeof(ready) - 1;
    if (strncmp(line, ready, sizeof(ready) - 1) != 0 || *at == '\0') {
        return err_why(why, why_size, ERR_MALFORMED,
                       "%s said '%s' instead of 'ready ENDPOINT'",
                       child_name(c), line);
    }
    snprintf(r->endpoints[index], ENDPOINT_BYTES, "%.*s", (int)strcspn(at, " "),
             at);
    return 0;
}

static int start_all(local_rack *r, const local_rack_config *c, int stop_fd,
                     char *why, size_t why_size) {
    uint64_t deadline_ms = now_ms() + c->start_timeout_ms;
    int rc = 0;

    for (uint32_t i = 0; i < c->nodes && rc == 0; i++) {
        char name[32];
        words w = {0};
        snprintf(name, sizeof(name), "node-%u", i + 1);
        node_words(&w, c, i);
        rc = start(r, c, name, "roster-expert-node", &w, why, why_size);
    }
    for (uint32_t i = 0; i < c->nodes && rc == 0; i++)
        rc = wait_ready(r, i, deadline_ms, stop_fd, why, why_size);
    if (rc < 0) return rc;

    words w = {0};
    coordinator_words(&w, c, r);
    rc = start(r, c, "coordinator", "roster-coordinator", &w, why, why_size);
    if (rc < 0) return rc;
    return wait_ready(r, c->nodes, deadline_ms, stop_fd, why, why_size);
}

int local_rack_open(local_rack **out, const local_rack_config *config,
                    int stop_fd, char *why, size_t why_size) {
    *out = NULL;
    int rc = local_rack_check(config, why, why_size);
    if (rc < 0) return rc;
    local_rack_config cut = *config, *c = &cut;
    if (c->slices == 0) rc = choose_slices(c, why, why_size);
    if (rc < 0) return rc;

    local_rack *r = calloc(1, sizeof(*r));
    if (r == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    r->children = calloc(c->nodes + 1, sizeof(child *));
    r->endpoints = calloc(c->nodes + 1, sizeof(*r->endpoints));
    rc = r->children != NULL && r->endpoints != NULL
             ? start_all(r, c, stop_fd, why, why_size)
             : err_why(why, why_size, -ENOMEM, "no memory");
    if (rc < 0) {
        local_rack_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

/* ---- the end ---- */

static void wait_end(child *c, uint64_t deadline_ms) {
    while (!child_ended(c, NULL, 0)) {
        uint64_t now = now_ms();
        if (now >= deadline_ms) return;
        struct pollfd fd = {.fd = child_fd(c), .events = POLLIN};
        (void)poll(&fd, 1, (int)(deadline_ms - now));
    }
}

void local_rack_close(local_rack *r) {
    if (r == NULL) return;
    uint64_t deadline_ms = now_ms() + GRACE_MS;

    /* The coordinator first: it would only report its nodes as lost. */
    for (size_t i = r->n_children; i-- > 0;)
        child_signal(r->children[i], SIGTERM);
    for (size_t i = r->n_children; i-- > 0;)
        wait_end(r->children[i], deadline_ms);
    for (size_t i = 0; i < r->n_children; i++)
        child_free(r->children[i]);
    free(r->children);
    free(r->endpoints);
    free(r);
}

const char *local_rack_endpoint(const local_rack *r) {
    return r->endpoints[r->n_children - 1];
}

size_t local_rack_n_children(const local_rack *r) {
    return r->n_children;
}

child *local_rack_child(const local_rack *r, size_t index) {
    return r->children[index];
}

void local_rack_explain(const local_rack *r, char *how, size_t how_size) {
    size_t at = 0;

    if (how_size > 0) how[0] = '\0';
    for (size_t i = 0; i < r->n_children && at < how_size; i++) {
        char one[1024];
        if (!child_ended(r->children[i], one, sizeof(one))) continue;
        int n =
            snprintf(how + at, how_size - at, "%s%s", at > 0 ? "; " : "", one);
        if (n > 0) at += (size_t)n;
    }
}
