/* proxy_rules.c - a short list of rules; looking through it costs less than the
 * system call that brought the bytes. */
#include "tests/chaos/proxy_rules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

const char *proxy_rules_who(const proxy_rules *r, const char *address) {
    for (size_t i = 0; i < r->n_machines; i++) {
        if (strcmp(r->machines[i].address, address) == 0)
            return r->machines[i].name;
    }
    return "?";
}

int proxy_rules_machine(proxy_rules *r, const char *name, const char *address) {
    if (r->n_machines == PROXY_MAX_MACHINES) return ERR_RANGE;
    if (strlen(name) >= PROXY_NAME || strlen(address) >= PROXY_ADDRESS)
        return ERR_RANGE;
    proxy_machine *m = &r->machines[r->n_machines++];
    snprintf(m->name, sizeof(m->name), "%s", name);
    snprintf(m->address, sizeof(m->address), "%s", address);
    return 0;
}

static bool fits(const char *pattern, const char *name) {
    return strcmp(pattern, "*") == 0 || strcmp(pattern, name) == 0;
}

/* Take what the new rule covers from the older ones. */
static uint64_t make_way(proxy_rules *r, const proxy_rule *rule) {
    uint64_t hits = 0;
    size_t kept = 0;

    for (size_t i = 0; i < r->n_rules; i++) {
        proxy_rule *old = &r->rules[i];
        if (fits(rule->from, old->from) && fits(rule->to, old->to)) {
            for (size_t d = 0; d < 2; d++)
                old->directions[d] &= !rule->directions[d];
            hits += old->hits;
            old->hits = 0;
        }
        if (!old->directions[FLOW_UP] && !old->directions[FLOW_DOWN]) continue;
        r->rules[kept++] = *old;
    }
    r->n_rules = kept;
    return hits;
}

int proxy_rules_set(proxy_rules *r, const proxy_rule *rule, uint64_t *hits) {
    *hits = make_way(r, rule);
    if (rule->what.kind == FAULT_PASS) return 0;
    if (r->n_rules == PROXY_MAX_RULES) return ERR_RANGE;
    r->rules[r->n_rules++] = *rule;
    return 0;
}

/* Its index, or n_rules. */
static size_t find(const proxy_rules *r, const char *from, const char *to,
                   flow_direction direction) {
    for (size_t i = r->n_rules; i-- > 0;) {
        const proxy_rule *rule = &r->rules[i];
        if (rule->directions[direction] && fits(rule->from, from) &&
            fits(rule->to, to))
            return i;
    }
    return r->n_rules;
}

fault proxy_rules_find(const proxy_rules *r, const char *from, const char *to,
                       flow_direction direction) {
    size_t i = find(r, from, to, direction);
    return i < r->n_rules ? r->rules[i].what : (fault){.kind = FAULT_PASS};
}

void proxy_rules_hit(proxy_rules *r, const char *from, const char *to,
                     flow_direction direction, uint64_t times) {
    size_t i = find(r, from, to, direction);
    if (i < r->n_rules) r->rules[i].hits += times;
}

/* The words of each fault, and how many numbers it takes. */
static const struct {
    const char *name;
    fault_kind kind;
    size_t least, most;
} words_of[] = {
    {"pass", FAULT_PASS, 0, 0},
    {"delay", FAULT_DELAY, 1, 2},
    {"stall", FAULT_STALL, 0, 0},
    {"drop", FAULT_DROP, 0, 0},
    {"cut", FAULT_CUT, 0, 0},
    {"corrupt", FAULT_CORRUPT, 1, 2},
    {"duplicate", FAULT_DUPLICATE, 1, 1},
    {"throttle", FAULT_THROTTLE, 1, 1},
};

static int number(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !(*out >= 0) || *out > 1e12)
        return ERR_USAGE;
    return 0;
}

int proxy_fault_parse(fault *out, char *const *words, size_t n) {
    if (n == 0) return ERR_USAGE;
    for (size_t i = 0; i < ARRAY_LEN(words_of); i++) {
        if (strcmp(words[0], words_of[i].name) != 0) continue;
        if (n - 1 < words_of[i].least || n - 1 > words_of[i].most) break;
        *out = (fault){.kind = words_of[i].kind};
        if (n > 1 && number(words[1], &out->a) < 0) break;
        if (n > 2 && number(words[2], &out->b) < 0) break;
        bool rate = out->kind == FAULT_CORRUPT ||
                    out->kind == FAULT_DUPLICATE || out->kind == FAULT_THROTTLE;
        return rate && out->a < 1 ? ERR_USAGE : 0;
    }
    return ERR_USAGE;
}
