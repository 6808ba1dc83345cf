/* proxy_rules.h - what the fault proxy does to whom: machines, and one rule for
 * each pair of them and direction. */
#ifndef TESTS_CHAOS_PROXY_RULES_H
#define TESTS_CHAOS_PROXY_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROXY_NAME 32 /* of a machine, with the zero */
#define PROXY_ADDRESS 46
#define PROXY_MAX_MACHINES 32
#define PROXY_MAX_RULES 256

/* clang-format off */
typedef enum {
    FAULT_PASS,
    FAULT_DELAY,     /* each piece comes a ms later, give or take b ms */
    FAULT_STALL,     /* bytes are accepted and kept until this is over */
    FAULT_DROP,      /* half-open: bytes are accepted and lost; the connection
                        is reset when this is over, as its stream has a hole */
    FAULT_CUT,       /* reset, and so is every new connection */
    FAULT_CORRUPT,   /* about one bit in a bytes is flipped, after the first b
                        of a connection */
    FAULT_DUPLICATE, /* about one ZMTP message in a is sent twice */
    FAULT_THROTTLE,  /* a bytes a second */
} fault_kind;
/* clang-format on */

typedef struct {
    fault_kind kind;
    double a, b;
} fault;

/* Up is from who connected to who was connected to. */
typedef enum { FLOW_UP, FLOW_DOWN } flow_direction;

typedef struct {
    char from[PROXY_NAME], to[PROXY_NAME]; /* "*": everybody */
    bool directions[2];
    fault what;
    uint64_t hits; /* times that it did something to somebody */
} proxy_rule;

typedef struct {
    char name[PROXY_NAME];
    char address[PROXY_ADDRESS]; /* from which its connections come */
} proxy_machine;

typedef struct {
    proxy_machine machines[PROXY_MAX_MACHINES];
    size_t n_machines;
    proxy_rule rules[PROXY_MAX_RULES]; /* in the order of their age */
    size_t n_rules;
} proxy_rules;

/* The machine behind an address; "?" for a stranger. */
const char *proxy_rules_who(const proxy_rules *r, const char *address);

/* ERR_RANGE: there are too many. */
int proxy_rules_machine(proxy_rules *r, const char *name, const char *address);

/* A rule takes the place of one for the same machines in these directions;
 * FAULT_PASS only takes those away.  *hits: of the rules that it was put in the
 * place of.  ERR_RANGE: there are too many. */
int proxy_rules_set(proxy_rules *r, const proxy_rule *rule, uint64_t *hits);

/* The youngest rule that fits. */
fault proxy_rules_find(const proxy_rules *r, const char *from, const char *to,
                       flow_direction direction);

/* It did what it says to so many bytes, messages or connections. */
void proxy_rules_hit(proxy_rules *r, const char *from, const char *to,
                     flow_direction direction, uint64_t times);

/* "delay 20 5" and so on; ERR_USAGE if that is no fault. */
int proxy_fault_parse(fault *out, char *const *words, size_t n);

#endif
