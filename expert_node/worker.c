/* worker.c - see worker.h.
 *
 * One turn: take in what the link has, send what waits, compute what is first
 * in the queue.  While a long merge is computed the link is looked at between
 * its pieces.  With nothing to do the thread spins for a moment, since the next
 * layer of the same token is likely to be microseconds away, then sleeps in
 * poll() on the link and on an eventfd that is written with each order.
 *
 * Units are dropped by this thread, between merges: nobody else can know that
 * none of them is being read. */
#include "expert_node/worker.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/spin.h"
#include "engine/util.h"
#include "expert_node/batch.h"
#include "expert_node/executor.h"
#include "expert_node/job_queue.h"
#include "expert_node/outbox.h"
#include "expert_node/peers.h"
#include "expert_node/refusals.h"

#define MERGE_MOST 64    /* batches computed together */
#define MERGE_PAIRS 1024 /* their pairs */
#define PEER_JOBS (WORKER_MAX_JOBS / 4)
#define PEER_SHARE 4     /* a coordinator may have one part in so many */
#define RECEIVE_MOST 256 /* messages in one look at the link */
#define SPIN_US 50
#define RETRY_MS 5    /* while replies wait for their peers */
#define LOOK_MS 1000  /* else: a wake-up lost is a second lost */
#define LINGER_MS 200 /* for the last replies to leave */
#define ERROR_KEPT_US (10 * 1000000u)
#define WHY_SIZE 256

/* What is computed together. */
typedef struct {
    job jobs[MERGE_MOST];
    batch *batches[MERGE_MOST];
    size_t n;
    uint64_t pairs;
} merge;

struct worker {
    worker_config config;
    struct link *link;
    message self; /* what every message of ours has in its header */
    executor *executor;
    job_queue *queue;
    outbox *outbox;
    message_arena *arena;
    peers peers;
    refusals refusals;

    batch *batches; /* all there can be: waiting and computing */
    batch **free_batches;
    size_t n_free;
    uint32_t computing;

    spin_luck spins;
    int wake_fd;
    atomic_bool stopping;
    orders orders;
    scrub *scrub;

    /* Written by the worker's thread, read by any. */
    atomic_uint_fast64_t n_batches, n_pairs, n_dropped, n_drops, reply_bytes;
    atomic_uint jobs;
};

uint64_t worker_peer_bytes(uint64_t max_reply_bytes) {
    return size_max(max_reply_bytes / PEER_SHARE, 1);
}

/* ---- making one ---- */

static int make_batches(worker *w) {
    size_t n = WORKER_MAX_JOBS + MERGE_MOST;
    w->batches = calloc(n, sizeof(*w->batches));
    w->free_batches = calloc(n, sizeof(batch *));
    if (w->batches == NULL || w->free_batches == NULL) return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        batch_init(&w->batches[i]);
        w->free_batches[i] = &w->batches[i];
    }
    w->n_free = n;
    return 0;
}

static int make_parts(worker *w) {
    const worker_config *c = &w->config;
    const executor_config e = {
        .store = c->store,
        .width = c->width,
        .expert_dim = c->expert_dim,
        .exact = c->exact,
        .threads = c->threads,
        .pin = c->pin,
        .tally = c->tally,
    };
    const job_limits limits = {
        .max_jobs = WORKER_MAX_JOBS,
        .max_reply_bytes = c->max_reply_bytes,
        .max_merge_pairs = MERGE_PAIRS,
        .max_peer_jobs = PEER_JOBS,
    };
    int rc = make_batches(w);
    if (rc < 0) return rc;
    rc = scrub_new(&w->scrub, c->store, c->scrub_ms);
    if (rc < 0) return rc;
    rc = job_queue_new(&w->queue, &limits);
    if (rc < 0) return rc;
    rc = outbox_new(&w->outbox);
    if (rc < 0) return rc;
    rc = message_arena_new(&w->arena, MESSAGE_ARENA_MAX);
    if (rc < 0) return rc;
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->wake_fd < 0) return -errno;
    return executor_new(&w->executor, &e);
}

int worker_new(worker **out, const worker_config *c, struct link *data) {
    *out = NULL;
    worker *w = calloc(1, sizeof(*w));
    if (w == NULL) return -ENOMEM;
    w->config = *c;
    w->link = data;
    w->wake_fd = -1;
    w->self = message_from(c->cluster, c->fingerprint, c->boot_id);
    peers_init(&w->peers);
    orders_init(&w->orders);
    refusals_init(&w->refusals);

    int rc = make_parts(w);
    if (rc < 0) {
        worker_free(w);
        return rc;
    }
    *out = w;
    return 0;
}

void worker_free(worker *w) {
    if (w == NULL) return;
    executor_free(w->executor);
    if (w->batches != NULL) {
        for (size_t i = 0; i < WORKER_MAX_JOBS + MERGE_MOST; i++)
            batch_fini(&w->batches[i]);
    }
    free(w->batches);
    free(w->free_batches);
    job_queue_free(w->queue);
    outbox_free(w->outbox);
    message_arena_free(w->arena);
    peers_fini(&w->peers);
    orders_fini(&w->orders);
    scrub_free(w->scrub);
    if (w->wake_fd >= 0) close(w->wake_fd);
    free(w);
}

/* ---- answers ---- */

static void give_back(worker *w, batch *b) {
    batch_fini(b);
    w->free_batches[w->n_free++] = b;
}

/* Answer what stands in `f` with a typed error.  *f is empty afterwards. */
static void refuse(worker *w, frames *f, const message *m, int code,
                   const char *why) {
    uint64_t now = now_us();
    if (why[0] == '\0') why = err_text(code);
    refusals_log(&w->refusals, now, "a batch", f, code, why);

    if (m->kind == MESSAGE_ERROR || message_error(f, &w->self, m, code, why)) {
        frames_fini(f); /* errors are not answered, or there is no memory */
        return;
    }
    outbox_send(w->outbox, w->link, f, now + ERROR_KEPT_US);
}

static void refuse_batch(worker *w, batch *b, int code, const char *why) {
    const message asked = {
        .kind = MESSAGE_BATCH,
        .boot_id = b->boot_id,
        .request_id = b->request_id,
    };
    refuse(w, &b->request, &asked, code, why);
    give_back(w, b);
}

static uint32_t clamp_us(uint64_t us) {
    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

/* Send a batch's rows, which are complete. */
static void reply(worker *w, batch *b, uint64_t began_us, uint64_t done_us) {
    message m = w->self;
    m.kind = MESSAGE_ROWS;
    m.to_boot_id = b->boot_id;
    m.request_id = b->request_id;
    m.epoch = b->epoch;
    m.rows.layer = b->layer;
    m.rows.n_pairs = b->n_pairs;
    m.rows.width = b->width;
    m.rows.form = ACT_F32;
    m.rows.queue_us = clamp_us(began_us - b->received_us);
    m.rows.compute_us = clamp_us(done_us - began_us);

    if (failpoint("node.flip")) *(uint8_t *)frames_data(&b->reply, 1) ^= 1;
    int rc = message_seal(&b->reply, &m);
    if (rc < 0) {
        refuse_batch(w, b, rc, "the reply could not be packed");
        return;
    }
    atomic_fetch_add_explicit(&w->n_batches, 1, memory_order_relaxed);
    if (!failpoint("node.reply")) {
        outbox_send(w->outbox, w->link, &b->reply, b->expires_us);
    }
    give_back(w, b);
}

/* ---- receiving ---- */

/* Is this a batch, from this cluster, for this model and this process?  The
 * profile was compared when the coordinator said hello: only then does it know
 * our boot id. */
static int check_header(const worker *w, const message *m, char *why) {
    const worker_config *c = &w->config;
    if (m->kind != MESSAGE_BATCH) {
        return err_why(why, WHY_SIZE, ERR_MALFORMED,
                       "a %s has no place among batches",
                       message_kind_name(m->kind));
    }
    if (strcmp(m->cluster, c->cluster) != 0) {
        return err_why(why, WHY_SIZE, ERR_WRONG_CLUSTER,
                       "this is cluster '%s', not '%.64s'", c->cluster,
                       m->cluster);
    }
    if (!m->has_fingerprint ||
        memcmp(m->fingerprint, c->fingerprint, MESSAGE_FINGERPRINT) != 0) {
        return ERR_WRONG_MODEL;
    }
    return m->to_boot_id == c->boot_id ? 0 : ERR_WRONG_BOOT;
}

/* A process was replaced behind an address, or has connected anew, which loses
 * all answers on the way: drop what it had asked for, so that what it asks now
 * does not wait behind it. */
static void forget(worker *w, uint64_t boot_id, const frames *address) {
    job gone[MERGE_MOST];
    size_t n;
    outbox_forget(w->outbox, address);
    while ((n = job_queue_forget(w->queue, boot_id, gone, MERGE_MOST)) > 0) {
        for (size_t i = 0; i < n; i++)
            give_back(w, gone[i].payload);
    }
}

/* May `reply_bytes` more be promised to this peer? */
static int check_room(const worker *w, const peer *from, uint64_t reply_bytes,
                      char *why) {
    uint64_t limit = worker_peer_bytes(w->config.max_reply_bytes);
    uint64_t held = account_bytes(from->account);
    if (held > 0 && held + reply_bytes > limit) {
        return err_why(why, WHY_SIZE, ERR_OVERLOADED,
                       "this coordinator has %llu of %llu reply bytes "
                       "outstanding",
                       (unsigned long long)held, (unsigned long long)limit);
    }
    limit = w->config.max_reply_bytes;
    held = peers_reply_bytes(&w->peers);
    if (held + reply_bytes > limit) {
        return err_why(why, WHY_SIZE, ERR_OVERLOADED,
                       "%llu of %llu reply bytes are outstanding",
                       (unsigned long long)held, (unsigned long long)limit);
    }
    return 0;
}

/* Put an accepted batch into the queue.  On failure *f is the request again. */
static int enqueue(worker *w, batch *b, frames *f) {
    const job j = {
        .peer = b->boot_id,
        .request_id = b->request_id,
        .layer = b->layer,
        .n_pairs = b->n_pairs,
        .reply_bytes = (uint64_t)b->n_pairs * b->width * sizeof(float),
        .expires_us = b->expires_us,
        .payload = b,
    };
    int rc = job_queue_push(w->queue, &j);
    if (rc == 0) return 0;
    frames_move(f, &b->request);
    give_back(w, b);
    return rc;
}

static int accept_batch(worker *w, frames *f, const message *m, char *why) {
    uint64_t now = now_us(), earlier_boot;
    uint64_t reply_bytes = batch_reply_bytes(m);
    if (reply_bytes > w->config.max_reply_bytes) {
        return err_why(why, WHY_SIZE, ERR_TOO_LARGE,
                       "a reply of %llu bytes, this node's limit is %llu",
                       (unsigned long long)reply_bytes,
                       (unsigned long long)w->config.max_reply_bytes);
    }
    peer *from;
    int rc = peers_find(&w->peers, f, m->boot_id, now, &from, &earlier_boot);
    if (rc < 0) return rc;
    if (earlier_boot != 0) forget(w, earlier_boot, f);
    rc = check_room(w, from, reply_bytes, why);
    if (rc < 0) return rc;
    if (w->n_free == 0) return ERR_OVERLOADED;

    batch *b = w->free_batches[--w->n_free];
    rc = batch_accept(b, from->account, f, m, now);
    if (rc < 0) {
        give_back(w, b);
        return rc;
    }
    rc = enqueue(w, b, f);
    if (rc != -EALREADY) return rc;
    frames_fini(f); /* the one that waits will be answered */
    return 0;
}

static void receive_one(worker *w, frames *f) {
    const batch_rules rules = {w->config.store, w->config.width,
                               w->config.exact};
    char why[WHY_SIZE] = "";
    message m;
    bool fail = failpoint("node.receive");

    int rc = message_open(f, w->arena, &m, why, sizeof(why));
    if (rc == 0 && fail) rc = ERR_INTERNAL;
    if (rc == 0) rc = check_header(w, &m, why);
    if (rc == 0 && orders_is_stale(&w->orders, m.boot_id)) rc = ERR_STALE;
    if (rc == 0) rc = batch_check(&rules, f, &m, why, sizeof(why));
    if (rc == 0) rc = accept_batch(w, f, &m, why);
    if (rc < 0) refuse(w, f, &m, rc, why);
}

static void publish(worker *w) {
    atomic_store_explicit(&w->jobs, job_queue_waiting(w->queue) + w->computing,
                          memory_order_relaxed);
    atomic_store_explicit(&w->reply_bytes, peers_reply_bytes(&w->peers),
                          memory_order_relaxed);
    atomic_store_explicit(&w->n_dropped, outbox_dropped(w->outbox),
                          memory_order_relaxed);
}

/* Take in what the link has, up to a limit so that a flood cannot keep the
 * thread from computing.  Returns how many messages, or the link's error. */
static int receive(worker *w) {
    int n = 0;
    for (; n < RECEIVE_MOST; n++) {
        frames f;
        frames_init(&f);
        int rc = link_recv(w->link, &f);
        if (rc == -EAGAIN) break;
        if (rc == ERR_MALFORMED || rc == -ENOMEM) { /* and was dropped */
            refusals_log(&w->refusals, now_us(), "a message", &f, rc,
                         rc == -ENOMEM ? err_text(rc)
                                       : "it has too many parts or none");
            continue;
        }
        if (rc < 0) return rc;
        receive_one(w, &f);
        frames_fini(&f);
    }
    if (n > 0) publish(w);
    return n;
}

/* ---- computing ---- */

/* Called between the pieces of a merge.  An error of the link will show again
 * when the merge is done. */
static void look_at_link(void *ctx) {
    worker *w = ctx;
    (void)receive(w);
    outbox_flush(w->outbox, w->link, now_us());
}

static void drop_expired(worker *w) {
    job late[MERGE_MOST];
    size_t n;
    while ((n = job_queue_expired(w->queue, now_us(), late, MERGE_MOST)) > 0) {
        for (size_t i = 0; i < n; i++)
            refuse_batch(w, late[i].payload, ERR_DEADLINE, "");
    }
}

/* Carry out the orders of the loop. */
static void obey(worker *w) {
    if (!orders_waiting(&w->orders)) return;
    drop_order drops[ORDERS_MAX_DROPS];
    size_t n = orders_take(&w->orders, drops);
    for (size_t i = 0; i < n; i++)
        expert_store_drop(w->config.store, drops[i].layer, drops[i].unit);
    atomic_fetch_add(&w->n_drops, n);
    if (w->config.on_dropped != NULL) w->config.on_dropped(w->config.ctx);
}

/* Re-read a little of what is resident. */
static void look_after(worker *w) {
    if (!scrub_turn(w->scrub, now_us())) return;
    if (w->config.on_dropped != NULL) w->config.on_dropped(w->config.ctx);
}

/* What the queue says is next, without batches whose units were dropped while
 * they waited.  False if nothing waits. */
static bool take_merge(worker *w, merge *m) {
    job jobs[MERGE_MOST];
    size_t n = job_queue_take(w->queue, now_us(), jobs, MERGE_MOST);
    *m = (merge){0};
    for (size_t i = 0; i < n; i++) {
        char why[WHY_SIZE] = "";
        batch *b = jobs[i].payload;
        int rc = batch_still_held(b, w->config.store, why, sizeof(why));
        if (rc < 0) {
            job_queue_finish(w->queue, &jobs[i]);
            refuse_batch(w, b, rc, why);
            continue;
        }
        m->jobs[m->n] = jobs[i];
        m->batches[m->n++] = b;
        m->pairs += jobs[i].n_pairs;
    }
    return n > 0;
}

/* Compute what is next.  False if nothing waits. */
static bool compute_next(worker *w) {
    merge m;
    drop_expired(w);
    uint64_t began_us = now_us();
    if (!take_merge(w, &m)) return false;
    if (m.n == 0) return true;

    w->computing = (uint32_t)m.n;
    publish(w);
    int rc = executor_run(w->executor, m.batches, m.n, look_at_link, w);
    uint64_t done_us = now_us();
    w->computing = 0;
    if (rc == 0) {
        atomic_fetch_add_explicit(&w->n_pairs, m.pairs, memory_order_relaxed);
    }
    for (size_t i = 0; i < m.n; i++) {
        job_queue_finish(w->queue, &m.jobs[i]);
        if (rc == 0) {
            reply(w, m.batches[i], began_us, done_us);
        } else {
            refuse_batch(w, m.batches[i], ERR_INTERNAL, err_text(rc));
        }
    }
    publish(w);
    return true;
}

/* ---- the thread ---- */

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static int sleep_ms(const worker *w) {
    if (outbox_waiting(w->outbox) > 0) return RETRY_MS;
    uint64_t now = now_us(), due = scrub_due_us(w->scrub);
    if (due <= now) return 0;
    return (int)size_min((due - now) / 1000 + 1, LOOK_MS);
}

/* Until there is something on the link, or to send, or to stop for.  The last
 * thing done to the link before poll() is a look that found nothing. */
static int wait_for_work(worker *w) {
    bool awake = spin_pays(&w->spins);
    uint64_t until = now_us() + SPIN_US;
    do {
        int n = receive(w);
        if (awake && n != 0) spin_told(&w->spins, true);
        if (n != 0) return n;
        if (atomic_load(&w->stopping) || orders_waiting(&w->orders)) return 0;
        pause_cpu();
    } while (awake && now_us() < until);
    if (awake) spin_told(&w->spins, false);

    struct pollfd fds[2] = {
        {.fd = link_fd(w->link), .events = POLLIN},
        {.fd = w->wake_fd, .events = POLLIN},
    };
    uint64_t count;
    poll(fds, 2, sleep_ms(w));
    if ((fds[1].revents & POLLIN) != 0 &&
        read(w->wake_fd, &count, sizeof(count)) < 0) {
        return 0; /* it was written for what has been seen meanwhile */
    }
    return 0;
}

/* Tell who waits that nothing will come, and let the last replies leave. */
static void wind_up(worker *w) {
    job left[MERGE_MOST];
    size_t n;
    while ((n = job_queue_take(w->queue, 0, left, MERGE_MOST)) > 0) {
        for (size_t i = 0; i < n; i++) {
            job_queue_finish(w->queue, &left[i]);
            refuse_batch(w, left[i].payload, ERR_CLOSED,
                         "this node is shutting down");
        }
    }
    uint64_t until = now_ms() + LINGER_MS;
    while (
        (peers_reply_bytes(&w->peers) > 0 || outbox_waiting(w->outbox) > 0) &&
        now_ms() < until) {
        outbox_flush(w->outbox, w->link, now_us());
        poll(NULL, 0, 1);
    }
    publish(w);
}

int worker_run(worker *w) {
    int rc = 0;
    executor_lead(w->executor);
    while (rc >= 0 && !atomic_load(&w->stopping)) {
        rc = receive(w);
        if (rc < 0) break;
        outbox_flush(w->outbox, w->link, now_us());
        obey(w);
        look_after(w);
        if (!compute_next(w)) rc = wait_for_work(w);
    }
    if (rc < 0) return rc;
    wind_up(w);
    return 0;
}

static void wake(worker *w) {
    const uint64_t one = 1;
    if (write(w->wake_fd, &one, sizeof(one)) < 0)
        return; /* it is set already */
}

void worker_stop(worker *w) {
    atomic_store(&w->stopping, true);
    wake(w);
}

int worker_drop(worker *w, uint32_t layer, uint32_t unit) {
    int rc = orders_drop(&w->orders, layer, unit);
    wake(w);
    return rc;
}

bool worker_take_damaged(worker *w, scrub_find *out) {
    return scrub_take(w->scrub, out);
}

void worker_read_scrub(const worker *w, scrub_figures *out) {
    scrub_look(w->scrub, out);
}

int worker_set_stale(worker *w, uint64_t boot_id, bool stale) {
    return orders_set_stale(&w->orders, boot_id, stale);
}

void worker_read_counts(const worker *w, worker_counts *out) {
    *out = (worker_counts){
        .progress = executor_progress(w->executor),
        .batches = atomic_load_explicit(&w->n_batches, memory_order_relaxed),
        .pairs = atomic_load_explicit(&w->n_pairs, memory_order_relaxed),
        .refused = refusals_total(&w->refusals),
        .dropped = atomic_load_explicit(&w->n_dropped, memory_order_relaxed),
        .reply_bytes =
            atomic_load_explicit(&w->reply_bytes, memory_order_relaxed),
        .drops = atomic_load(&w->n_drops),
        .jobs = atomic_load_explicit(&w->jobs, memory_order_relaxed),
    };
}

uint32_t worker_threads(const worker *w) {
    return executor_threads(w->executor);
}

const tally *worker_tally(const worker *w) {
    return w->config.tally;
}
