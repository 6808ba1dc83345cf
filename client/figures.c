/* figures.c - see figures.h. */
#include "client/figures.h"

#include <inttypes.h>
#include "client/cli.h"
#include "engine/util.h"

#define NAME_BYTES 128

static double percent(uint64_t part, uint64_t whole) {
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0.0;
}

static void print_speed(FILE *out, const char *label, uint32_t tokens,
                        uint64_t us) {
    double seconds = (double)us / 1e6;

    fprintf(out, "%-11s %u tokens in %.3f s", label, tokens, seconds);
    if (us > 0) fprintf(out, ": %.1f tokens/s", (double)tokens / seconds);
    fputc('\n', out);
}

static void print_shares(FILE *out, const roster_stats *s) {
    uint64_t all = 0;

    for (size_t i = 0; i < s->n_shares; i++)
        all += s->shares[i].pairs;
    if (all == 0) return;
    fprintf(out, "%-11s", "nodes");
    for (size_t i = 0; i < s->n_shares; i++) {
        char name[NAME_BYTES]; /* chosen by the node itself */
        snprintf(name, sizeof(name), "%s", s->shares[i].name);
        make_printable(name);
        fprintf(out, "%s %s %.1f %%", i > 0 ? "," : "", name,
                percent(s->shares[i].pairs, all));
    }
    fputs(" of the expert work\n", out);
    if (s->takeovers > 0) {
        fprintf(out,
                "%-11s %" PRIu64 " of %" PRIu64
                " (token, expert) pairs were computed by another than asked\n",
                "takeovers", s->takeovers, all);
    }
}

static const char *finish_text(roster_finish finish) {
    switch (finish) {
    case ROSTER_FINISH_END:
        return "the model ended the text";
    case ROSTER_FINISH_LENGTH:
        return "the limit of tokens was reached";
    case ROSTER_FINISH_CANCELLED:
        return "cancelled";
    default:
        return "none";
    }
}

void figures_print(FILE *out, const roster_stats *s,
                   const roster_generation *g) {
    char read[32], resident[32];

    cli_format_bytes(s->bytes_per_token, read, sizeof(read));
    cli_format_bytes(s->bytes_resident, resident, sizeof(resident));
    fputc('\n', out);
    print_speed(out, "prompt", s->prompt_tokens, s->prompt_us);
    print_speed(out, "generation", s->generated_tokens, s->generate_us);
    fprintf(out, "%-11s %u run per token of %u stored (%.1f %%)\n", "experts",
            s->experts_per_token, s->experts_stored,
            percent(s->experts_per_token, s->experts_stored));
    fprintf(out, "%-11s %s read per token of %s resident (%.1f %%)\n",
            "weights", read, resident,
            percent(s->bytes_per_token, s->bytes_resident));
    print_shares(out, s);
    if (s->moves > 0) {
        fprintf(out,
                "%-11s moved to another coordinator %u time%s; the figures are "
                "of the last one\n",
                "moves", s->moves, s->moves == 1 ? "" : "s");
    }
    fprintf(out, "%-11s %s, seed %" PRIu64 "\n", "end",
            finish_text(roster_generation_finish(g)),
            roster_generation_seed(g));
}
