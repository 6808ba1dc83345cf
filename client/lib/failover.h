/* failover.h - inside libroster: which coordinator to turn to next.
 *
 * It keeps the coordinators that the user named and those that an answer to
 * MEMBERS listed, and what came of each attempt.  An episode begins when a
 * coordinator is needed and ends (failover_settle()) when the new one has shown
 * that it does the work: one that greets well and then refuses is part of the
 * same episode, so that two who refuse in turn are not asked for ever at full
 * speed.  Within an episode everybody is tried once, then everybody again after
 * a pause that doubles.
 *
 * Pure: no socket, no clock.  Indices stay valid while a coordinator is
 * current or was given; others may be replaced by failover_learn(). */
#ifndef CLIENT_LIB_FAILOVER_H
#define CLIENT_LIB_FAILOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/endpoint.h"
#include "proto/message.h"

#define FAILOVER_MEMBERS 64                   /* more are passed over */
#define FAILOVER_ENDPOINT (ENDPOINT_MAX + 32) /* scheme, brackets, port */
#define FAILOVER_WHY 200
/* The pause before the second round; it doubles before each later one. */
#define FAILOVER_PAUSE_MS 50
#define FAILOVER_PAUSE_MOST_MS 800
#define FAILOVER_LIMIT_MS 500 /* of a first attempt */
#define FAILOVER_LIMIT_MOST_MS 2000

typedef struct {
    char endpoint[FAILOVER_ENDPOINT]; /* "": this place is free */
    bool given;                       /* by the user */
    bool listed;                      /* by the latest MEMBERS */
    bool leaving;                     /* so MEMBERS said */
    /* in this episode */
    uint32_t tries;
    bool final; /* trying again would not help */
    int code;   /* of the latest failure, 0: none */
    char why[FAILOVER_WHY];
} failover_member;

typedef struct {
    failover_member members[FAILOVER_MEMBERS];
    int current; /* who serves us, or did last; -1: nobody yet */
    int trying;  /* -1: no attempt is under way */
    bool active; /* an episode is under way */
    uint32_t round;
    uint64_t not_before_ms;
    uint32_t first; /* where a search begins, so that clients spread */
} failover;

void failover_init(failover *f);

/* What the user gave: endpoints separated by commas.  ERR_USAGE with a
 * sentence. */
int failover_give(failover *f, const char *list, char *why, size_t why_size);

/* The answer to MEMBERS takes the place of the one before. */
void failover_learn(failover *f, const message_member *items, size_t n);

/* A coordinator is needed; with one that is current, `code` and `why` say what
 * is the matter with it.  `first` is any number: who is tried first. */
void failover_begin(failover *f, uint64_t now_ms, uint32_t first, int code,
                    const char *why);

typedef enum {
    FAILOVER_TRY,  /* `member`, for up to `limit_ms` */
    FAILOVER_WAIT, /* until `at_ms` */
    FAILOVER_OVER  /* nobody is left */
} failover_step;

typedef struct {
    failover_step step;
    int member;
    uint32_t limit_ms;
    uint64_t at_ms;
} failover_choice;

/* What to do now; only while no attempt is under way. */
failover_choice failover_next(failover *f, uint64_t now_ms);

/* How the attempt went; `why` names the coordinator.  Codes that time does not
 * change (another model, a wrong endpoint) are final for this episode. */
void failover_failed(failover *f, int code, const char *why);
void failover_took(failover *f);
/* It was given up for reasons of our own. */
void failover_dropped(failover *f);

/* The current one does its work: the episode is over. */
void failover_settle(failover *f);

/* Is there anybody but the current one who might take over? */
bool failover_has_others(const failover *f);
/* How many are known. */
size_t failover_count(const failover *f);

/* When it has failed: ERR_CLOSED, or what all others have in common that is
 * more telling, such as ERR_WRONG_MODEL; and who was tried, as the rest of a
 * sentence: "2 tried: tcp://a:1 does not answer; ...". */
int failover_code(const failover *f);
void failover_explain(const failover *f, char *out, size_t size);

#endif
