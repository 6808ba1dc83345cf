/* plan_rack.c - see plan.h. */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "client/plan.h"
#include "engine/err.h"

/* The next word of a list; NULL behind the last. */
static const char *next_word(const char **at, char *out, size_t size) {
    if (*at == NULL) return NULL;
    size_t n = strcspn(*at, ",");
    size_t kept = n < size - 1 ? n : size - 1;
    memcpy(out, *at, kept);
    out[kept] = '\0';
    *at = (*at)[n] == ',' ? *at + n + 1 : NULL;
    return out;
}

static bool read_size(const char *word, uint64_t *out) {
    static const char suffixes[] = "KMGT";
    char *end;
    if (word[0] < '0' || word[0] > '9') return false;
    errno = 0;
    unsigned long long n = strtoull(word, &end, 10);
    if (errno != 0) return false;
    const char *suffix = *end != '\0' ? strchr(suffixes, *end) : NULL;
    if (suffix != NULL) {
        uint32_t bits = 10 * (uint32_t)(suffix - suffixes + 1);
        if (n > UINT64_MAX >> bits) return false;
        n <<= bits;
        end++;
    }
    *out = n;
    return *end == '\0';
}

static bool set_memory(balance_node *n, const char *word) {
    return read_size(word, &n->memory_bytes) && n->memory_bytes > 0;
}

static bool set_speed(balance_node *n, const char *word) {
    char *end;
    n->speed = strtod(word, &end);
    return end != word && *end == '\0' && isfinite(n->speed) && n->speed > 0;
}

/* Zones are names; what is kept of one is a number that equal ones share. */
static bool set_zone(balance_node *n, const char *word) {
    uint32_t hash = 2166136261u;
    if (word[0] == '\0') return false;
    for (const char *c = word; *c != '\0'; c++)
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    n->zone = hash;
    return true;
}

static int read_list(balance_node *nodes, uint32_t n_nodes, const char *option,
                     const char *list,
                     bool (*set)(balance_node *n, const char *word), char *why,
                     size_t why_size) {
    char word[128];
    const char *at = list;
    uint32_t n = 0;
    if (list == NULL) return 0;
    while (next_word(&at, word, sizeof(word)) != NULL) {
        if (n == n_nodes || !set(&nodes[n], word)) {
            return err_why(why, why_size, ERR_USAGE, "--%s: '%s' %s", option,
                           word,
                           n == n_nodes ? "is one too many" : "cannot be used");
        }
        n++;
    }
    if (n != 1 && n != n_nodes) {
        return err_why(why, why_size, ERR_USAGE,
                       "--%s: one for all or one for each of %u nodes", option,
                       n_nodes);
    }
    at = list;
    next_word(&at, word, sizeof(word));
    for (uint32_t i = n; i < n_nodes; i++)
        (void)set(&nodes[i], word);
    return 0;
}

int plan_rack_read(balance_node *nodes, const plan_config *c, char *why,
                   size_t why_size) {
    if (c->nodes == 0 || c->nodes > PLAN_NODES_MAX) {
        return err_why(why, why_size, ERR_USAGE, "--nodes: expected 1 to %d",
                       PLAN_NODES_MAX);
    }
    for (uint32_t i = 0; i < c->nodes; i++)
        nodes[i] = (balance_node){.speed = 1, .stays = true};
    int rc = read_list(nodes, c->nodes, "memory", c->memory, set_memory, why,
                       why_size);
    if (rc == 0) {
        rc = read_list(nodes, c->nodes, "speeds", c->speeds, set_speed, why,
                       why_size);
    }
    if (rc == 0) {
        rc = read_list(nodes, c->nodes, "zones", c->zones, set_zone, why,
                       why_size);
    }
    return rc;
}
