/* mailbox.c - see mailbox.h. */
#include "coordinator/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "engine/err.h"

struct mailbox {
    kv_cache *kv; /* borrowed */
    uint32_t capacity;
    int wake_fd;

    pthread_mutex_t lock; /* guards all that follows */
    ticket *tickets;      /* [capacity], in order of arrival */
    uint32_t n_tickets;
    bool nodes_changed;
    step_event *first, **last;
    uint32_t n_events, n_events_out; /* of these, handed to the loop */
    size_t event_bytes, event_bytes_out;
};

int mailbox_new(mailbox **out, uint32_t capacity, kv_cache *kv) {
    *out = NULL;
    mailbox *m = calloc(1, sizeof(*m));
    if (m == NULL) return -ENOMEM;
    m->kv = kv;
    m->capacity = capacity;
    m->last = &m->first;
    pthread_mutex_init(&m->lock, NULL);

    m->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int rc = m->wake_fd < 0 ? -errno : 0;
    m->tickets = calloc(capacity, sizeof(*m->tickets));
    if (rc == 0 && m->tickets == NULL) rc = -ENOMEM;
    if (rc < 0) {
        mailbox_free(m);
        return rc;
    }
    *out = m;
    return 0;
}

void mailbox_free(mailbox *m) {
    if (m == NULL) return;
    for (uint32_t i = 0; i < m->n_tickets; i++) {
        sequence_free(m->tickets[i].seq, m->kv);
    }
    while (m->first != NULL) {
        step_event *e = m->first;
        m->first = e->next;
        step_event_free(e);
    }
    free(m->tickets);
    if (m->wake_fd >= 0) close(m->wake_fd);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void mailbox_wake(mailbox *m) {
    uint64_t one = 1;
    if (write(m->wake_fd, &one, sizeof(one)) < 0) return; /* awake already */
}

int mailbox_fd(const mailbox *m) {
    return m->wake_fd;
}

/* ---- tickets ---- */

/* Under the lock; NULL: it has ended. */
static ticket *find(mailbox *m, uint64_t id) {
    for (uint32_t i = 0; i < m->n_tickets; i++) {
        if (m->tickets[i].id == id) return &m->tickets[i];
    }
    return NULL;
}

static void remove_ticket(mailbox *m, ticket *t) {
    size_t after = (size_t)(m->tickets + m->n_tickets - t) - 1;
    memmove(t, t + 1, after * sizeof(*t));
    m->n_tickets--;
}

/* The sequence is made when there is room for it: a refused one's tokens stay
 * the caller's. */
static int submit_locked(mailbox *m, const step_request *r) {
    if (m->n_tickets == m->capacity) return ERR_OVERLOADED;
    sequence *seq;
    int rc = sequence_new(&seq, r);
    if (rc < 0) return rc;
    m->tickets[m->n_tickets++] =
        (ticket){.id = r->id, .seq = seq, .news = true};
    return 0;
}

int mailbox_submit(mailbox *m, const step_request *r) {
    pthread_mutex_lock(&m->lock);
    int rc = submit_locked(m, r);
    pthread_mutex_unlock(&m->lock);
    if (rc == 0) mailbox_wake(m);
    return rc;
}

int mailbox_cancel(mailbox *m, uint64_t id) {
    sequence *early = NULL; /* cancelled before the step thread saw it */
    pthread_mutex_lock(&m->lock);
    ticket *t = find(m, id);
    bool found = t != NULL;
    if (found) {
        early = t->seq;
        t->cancelled = t->news = true;
        if (early != NULL) remove_ticket(m, t);
    }
    pthread_mutex_unlock(&m->lock);
    sequence_free(early, m->kv); /* it has no pages yet */
    if (!found) return ERR_NOT_HERE;
    mailbox_wake(m);
    return 0;
}

int mailbox_hold(mailbox *m, uint64_t id, bool held) {
    pthread_mutex_lock(&m->lock);
    ticket *t = find(m, id);
    bool found = t != NULL;
    if (found) {
        t->held = held;
        t->news = true;
    }
    pthread_mutex_unlock(&m->lock);
    if (!found) return ERR_NOT_HERE;
    mailbox_wake(m);
    return 0;
}

void mailbox_nodes_changed(mailbox *m) {
    pthread_mutex_lock(&m->lock);
    m->nodes_changed = true;
    pthread_mutex_unlock(&m->lock);
    mailbox_wake(m);
}

uint32_t mailbox_take(mailbox *m, ticket *out, bool *nodes_changed) {
    /* Before the look: a wish that comes after it wakes us once more. */
    uint64_t drained;
    if (read(m->wake_fd, &drained, sizeof(drained)) < 0) drained = 0;

    uint32_t n = 0;
    pthread_mutex_lock(&m->lock);
    *nodes_changed = m->nodes_changed;
    m->nodes_changed = false;
    for (uint32_t i = 0; i < m->n_tickets; i++) {
        ticket *t = &m->tickets[i];
        if (!t->news) continue;
        out[n++] = *t;
        t->news = false;
        t->seq = NULL;
    }
    pthread_mutex_unlock(&m->lock);
    return n;
}

void mailbox_drop(mailbox *m, uint64_t id) {
    pthread_mutex_lock(&m->lock);
    ticket *t = find(m, id);
    if (t != NULL) remove_ticket(m, t);
    pthread_mutex_unlock(&m->lock);
}

/* ---- events ---- */

step_event *mailbox_events(mailbox *m) {
    pthread_mutex_lock(&m->lock);
    step_event *all = m->first;
    m->first = NULL;
    m->last = &m->first;
    m->n_events_out = m->n_events;
    m->event_bytes_out = m->event_bytes;
    pthread_mutex_unlock(&m->lock);
    return all;
}

/* Under the lock. */
static bool full(const mailbox *m) {
    return m->n_events >= STEP_MAX_EVENTS ||
           m->event_bytes >= STEP_MAX_EVENT_BYTES;
}

void mailbox_events_done(mailbox *m) {
    pthread_mutex_lock(&m->lock);
    bool was_full = full(m);
    m->n_events -= m->n_events_out;
    m->event_bytes -= m->event_bytes_out;
    m->n_events_out = 0;
    m->event_bytes_out = 0;
    pthread_mutex_unlock(&m->lock);
    if (was_full) mailbox_wake(m);
}

void mailbox_tell(mailbox *m, step_event *e) {
    e->next = NULL;
    pthread_mutex_lock(&m->lock);
    *m->last = e;
    m->last = &e->next;
    m->n_events++;
    m->event_bytes += e->bytes;
    pthread_mutex_unlock(&m->lock);
}

bool mailbox_full(mailbox *m) {
    pthread_mutex_lock(&m->lock);
    bool is_full = full(m);
    pthread_mutex_unlock(&m->lock);
    return is_full;
}

bool mailbox_has_events(mailbox *m) {
    pthread_mutex_lock(&m->lock);
    bool any = m->first != NULL;
    pthread_mutex_unlock(&m->lock);
    return any;
}
