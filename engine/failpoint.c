/* failpoint.c - see failpoint.h. */
#include "engine/failpoint.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define FAILPOINT_MAX 16
#define FAILPOINT_NAME_MAX 48

typedef enum { ACT_KILL, ACT_STOP, ACT_FAIL } action;
static const char *const action_names[] = {"kill", "stop", "fail"};

bool failpoints_armed;

static struct {
    char name[FAILPOINT_NAME_MAX];
    action what;
    unsigned long at;
    atomic_ulong visits;
} points[FAILPOINT_MAX];
static size_t n_points;

/* The visit that an action waits for, from 1; NULL is the first. */
static bool parse_visit(const char *text, unsigned long *visit) {
    char *end;
    *visit = 1;
    if (text == NULL) return true;
    if (*text < '1' || *text > '9') return false;
    errno = 0;
    *visit = strtoul(text, &end, 10);
    return *end == '\0' && errno == 0;
}

static int parse_one(char *item, char *why, unsigned long why_size) {
    char *equals = strchr(item, '='), *at = strchr(item, '@');
    unsigned long visit;
    if (at != NULL) *at++ = '\0';
    if (equals == NULL || n_points == FAILPOINT_MAX ||
        (size_t)(equals - item) >= FAILPOINT_NAME_MAX ||
        !parse_visit(at, &visit)) {
        return err_why(why, why_size, ERR_USAGE,
                       "ROSTER_FAILPOINTS: cannot read '%s%s%s'", item,
                       at != NULL ? "@" : "", at != NULL ? at : "");
    }
    *equals = '\0';
    const char *verb = equals + 1;

    for (size_t i = 0; i < ARRAY_LEN(action_names); i++) {
        if (strcmp(verb, action_names[i]) != 0) continue;
        strcpy(points[n_points].name, item);
        points[n_points].what = (action)i;
        points[n_points].at = visit;
        n_points++;
        return 0;
    }
    return err_why(why, why_size, ERR_USAGE,
                   "ROSTER_FAILPOINTS: unknown action '%s'", verb);
}

int failpoint_setup(char *why, unsigned long why_size) {
    const char *text = getenv("ROSTER_FAILPOINTS");
    if (text == NULL || *text == '\0') return 0;

    char *copy = strdup(text), *rest = NULL;
    if (copy == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    int rc = 0;
    for (char *item = strtok_r(copy, ",", &rest); item != NULL && rc == 0;
         item = strtok_r(NULL, ",", &rest)) {
        rc = parse_one(item, why, why_size);
    }
    free(copy);
    failpoints_armed = rc == 0 && n_points > 0;
    return rc;
}

bool failpoint_visit(const char *name) {
    for (size_t i = 0; i < n_points; i++) {
        if (strcmp(points[i].name, name) != 0) continue;
        unsigned long visit = atomic_fetch_add(&points[i].visits, 1) + 1;
        if (points[i].what == ACT_FAIL) return visit >= points[i].at;
        if (visit != points[i].at) return false;
        raise(points[i].what == ACT_KILL ? SIGKILL : SIGSTOP);
    }
    return false;
}
