/* fetch_source.c - what is known of each source, and which one is asked next.
 *
 * A source is asked for as many pieces at once as it has shown to bear: its
 * window grows with what arrives and is halved when it is busy.  Of those with
 * room the one is chosen that is predicted to bring the piece first; nodes that
 * hold a unit count as twice as fast, since everybody asks the coordinators.
 * Among equals the first place counts, and who stands there differs from
 * process to process (fetch_set_sources()), so that a rack which starts at once
 * does not ask the same coordinator. */
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/fetch_internal.h"

#define WINDOW_FIRST 2
#define WINDOW_MOST 8
#define PIECE_US_FIRST 5000
#define PIECE_US_WEIGHT 4 /* the newest sample counts a quarter */
#define CONNECTED_MOST 12
#define BUSY_MS 20 /* the first rest after ERR_OVERLOADED; doubles */
#define BUSY_MOST_MS 1000
#define FAILED_MS 250 /* likewise after a failure */
#define FAILED_MOST_MS 2000
#define QUEUE_MESSAGES 64

static fetch_source new_source(const char *endpoint) {
    fetch_source s = {
        .used = true, .window = WINDOW_FIRST, .piece_us = PIECE_US_FIRST};
    strcpy(s.endpoint, endpoint);
    strcpy(s.sums.endpoint, endpoint);
    return s;
}

/* A place whose source nobody needs: unknown to all, and nothing is under way.
 */
static bool is_spare(const fetch *f, int i) {
    const fetch_source *s = &f->sources[i];
    if (!s->used) return true;
    return s->link == NULL && fetch_source_unneeded(f, i);
}

bool fetch_source_unneeded(const fetch *f, int i) {
    const fetch_source *s = &f->sources[i];
    if (s->listed || s->outstanding > 0) return false;
    for (const transfer *t = f->first; t != NULL; t = t->next) {
        if ((t->holders >> i & 1) != 0) return false;
    }
    return true;
}

int fetch_source_find(fetch *f, const char *endpoint) {
    int spare = -1;
    if (strlen(endpoint) >= FETCH_SOURCE_SIZE) return -1;
    for (int i = 0; i < FETCH_MAX_SOURCES; i++) {
        const fetch_source *s = &f->sources[i];
        if (s->used && strcmp(s->endpoint, endpoint) == 0) return i;
        if (is_spare(f, i) && (spare < 0 || !s->used)) spare = i;
    }
    if (spare < 0) return -1;
    /* The bits of whoever was there before mean somebody else now. */
    uint64_t bit = (uint64_t)1 << spare;
    for (transfer *t = f->first; t != NULL; t = t->next) {
        t->refused &= ~bit;
        t->tried &= ~bit;
        t->brought &= ~bit;
        if (t->solo == spare) t->solo = -1;
    }
    f->sources[spare] = new_source(endpoint);
    return spare;
}

uint64_t fetch_candidates(const fetch *f, const transfer *t) {
    uint64_t bits = t->holders;
    for (int i = 0; i < FETCH_MAX_SOURCES; i++) {
        const fetch_source *s = &f->sources[i];
        if (s->used && s->listed) bits |= (uint64_t)1 << i;
    }
    return bits & ~t->refused;
}

static int count_connected(const fetch *f) {
    int n = 0;
    for (int i = 0; i < FETCH_MAX_SOURCES; i++)
        n += f->sources[i].link != NULL;
    return n;
}

int fetch_source_choose(fetch *f, const transfer *t, uint64_t now_ms) {
    uint64_t bits = fetch_candidates(f, t), best_cost = UINT64_MAX;
    bool may_connect = count_connected(f) < CONNECTED_MOST;
    int best = -1;
    for (int i = 0; i < FETCH_MAX_SOURCES; i++) {
        const fetch_source *s = &f->sources[i];
        if ((bits >> i & 1) == 0 || (t->solo >= 0 && t->solo != i)) continue;
        if (now_ms < s->rest_until_ms || s->outstanding >= s->window ||
            s->full || (s->link == NULL && !may_connect)) {
            continue;
        }
        uint64_t cost = (s->outstanding + 1) * s->piece_us;
        if ((t->holders >> i & 1) != 0) cost /= 2;
        if (cost < best_cost) {
            best = i;
            best_cost = cost;
        }
    }
    return best;
}

/* From when it was asked, or had brought the one before: what it takes. */
void fetch_source_arrived(fetch_source *s, uint64_t asked_us, uint64_t now_us,
                          size_t bytes) {
    uint64_t began = asked_us > s->arrived_us ? asked_us : s->arrived_us;
    uint64_t took = now_us - began;
    if (2 * bytes >= FETCH_PIECE_BYTES) {
        took = took * FETCH_PIECE_BYTES / bytes;
        s->piece_us =
            ((PIECE_US_WEIGHT - 1) * s->piece_us + took) / PIECE_US_WEIGHT;
    }
    s->arrived_us = now_us;
    s->rest_ms = 0;
    s->damaged = 0;
    s->sums.pieces++;
    s->sums.bytes += bytes;
    if (s->window < WINDOW_MOST && s->sums.pieces % 2 == 0) s->window++;
}

/* Between half of it and all of it: those who were sent away together do not
 * come back together. */
static uint64_t with_jitter(uint32_t ms) {
    uint32_t random;
    random_bytes(&random, sizeof(random));
    return ms / 2 + random % (ms / 2 + 1);
}

void fetch_source_busy(fetch_source *s, uint64_t now_ms) {
    s->sums.refusals++;
    s->window = (uint32_t)size_max(s->window / 2, 1);
    s->rest_ms =
        (uint32_t)size_min(size_max(2 * s->rest_ms, BUSY_MS), BUSY_MOST_MS);
    s->rest_until_ms = now_ms + with_jitter(s->rest_ms);
}

/* Every transfer that could have had something from it hears why. */
static void note_failure(fetch *f, int source, int code, const char *why) {
    uint64_t bit = (uint64_t)1 << source;
    for (transfer *t = f->first; t != NULL; t = t->next) {
        t->tried |= bit;
        if (t->solo == source) t->solo = -1;
        /* What it says nothing for is no refusal. */
        if (code != ERR_DEADLINE && code != ERR_CLOSED) t->last_code = code;
        snprintf(t->last_why, sizeof(t->last_why), "%s", why);
    }
}

void fetch_source_failed(fetch *f, int source, uint64_t now_ms, int code,
                         const char *why) {
    fetch_source *s = &f->sources[source];
    const char *text = why[0] != '\0' ? why : err_text(code);
    if (s->told_ms == 0 || now_ms - s->told_ms >= FETCH_TELL_EVERY_MS) {
        s->told_ms = now_ms;
        log_info("weights: %s is left for a while: %s", s->endpoint, text);
    }
    note_failure(f, source, code, text);
    fetch_lose_asks(f, source);
    link_close(s->link);
    s->link = NULL;
    s->outstanding = 0;
    s->window = WINDOW_FIRST;
    s->blocked_ms = 0;
    s->damaged = 0;
    s->sums.failures++;
    s->rest_ms =
        (uint32_t)size_min(size_max(2 * s->rest_ms, FAILED_MS), FAILED_MOST_MS);
    s->rest_until_ms = now_ms + with_jitter(s->rest_ms);
}

int fetch_source_connect(fetch *f, fetch_source *s, char *why,
                         size_t why_size) {
    const link_config c = {
        .zmq = f->zmq,
        .max_part_bytes = MESSAGE_HEADER_MAX,
        .queue_messages = QUEUE_MESSAGES,
        .insecure = f->config.insecure,
        .tell_broken = true,
    };
    s->outstanding = 0;
    return link_connect(&s->link, &c, s->endpoint, why, why_size);
}
