/* stats.c - see stats.h. */
#include "client/lib/stats.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

/* The shares and their names, copied into one block. */
static int copy_shares(stats *s, const message_share *from, size_t n) {
    size_t bytes = n * sizeof(*s->shares); /* n is bounded by the message */
    for (size_t i = 0; i < n; i++)
        bytes += strlen(from[i].name) + 1;

    s->shares = malloc(bytes > 0 ? bytes : 1);
    if (s->shares == NULL) return -ENOMEM;
    char *names = (char *)(s->shares + n);
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(from[i].name) + 1;
        memcpy(names, from[i].name, len);
        s->shares[i] = (roster_share){.name = names, .pairs = from[i].pairs};
        names += len;
    }
    return 0;
}

int client_stats_take(stats *s, const message *m) {
    client_stats_fini(s);
    int rc = copy_shares(s, m->finished.shares, m->finished.n_shares);
    if (rc < 0) return rc;
    s->figures = (roster_stats){
        .size = sizeof(s->figures),
        .prompt_tokens = m->finished.prompt_tokens,
        .generated_tokens = m->finished.generated_tokens,
        .prompt_us = m->finished.prompt_us,
        .generate_us = m->finished.generate_us,
        .experts_per_token = m->finished.experts_per_token,
        .experts_stored = m->finished.experts_stored,
        .bytes_per_token = m->finished.bytes_per_token,
        .bytes_resident = m->finished.bytes_resident,
        .takeovers = m->finished.takeovers,
        .shares = s->shares,
        .n_shares = m->finished.n_shares,
    };
    return 0;
}

void client_stats_fini(stats *s) {
    free(s->shares);
    *s = (stats){0};
}

int client_stats_give(const stats *s, roster_stats *out) {
    if (s->figures.size == 0 || out == NULL) return ERR_USAGE;
    if (out->size <= sizeof(out->size)) return ERR_USAGE;

    /* A caller that knows fewer members gets those; one that knows more finds
     * the rest as it left them, and `size` says how far they were filled. */
    size_t size = size_min(out->size, sizeof(s->figures));
    memcpy(out, &s->figures, size);
    out->size = size;
    return 0;
}
