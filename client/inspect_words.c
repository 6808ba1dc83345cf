/* inspect_words.c - see inspect.h.
 *
 * Names of models say what sells: "8x7B" is neither 56B parameters nor eight
 * models of 7B, since everything but the experts is there once.  So the figures
 * come with sentences that say what they mean. */
#include "client/inspect.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"

double inspect_ratio(const census *c) {
    if (c->total.params == 0) return 0.0;
    return (double)c->active_params / (double)c->total.params;
}

void inspect_format_params(uint64_t params, char *out, size_t size) {
    static const char units[] = {'\0', 'K', 'M', 'B'};
    double value = (double)params;
    size_t unit = 0;

    /* Published figures stay in billions: 671.0B, and 1026.4B for a trillion.
     */
    while (value >= 999.95 && unit < 3) {
        value /= 1000;
        unit++;
    }
    if (unit == 0)
        snprintf(out, size, "%" PRIu64, params);
    else
        snprintf(out, size, value < 9.995 ? "%.2f%c" : "%.1f%c", value,
                 units[unit]);
}

/* ---- what the name says ---- */

/* "7B" or "1.5B" at `at`; returns its end, NULL if it stands not there. */
static const char *billions(const char *at, uint64_t *params) {
    char *end;
    if (!isdigit((unsigned char)*at)) return NULL;
    double value = strtod(at, &end);
    if (*end != 'B' && *end != 'b') return NULL;
    if (isalnum((unsigned char)end[1]) || !(value > 0 && value < 100000))
        return NULL;
    *params = (uint64_t)(value * 1e9 + 0.5);
    return end + 1;
}

bool inspect_find_spec(const char *name, inspect_spec *out) {
    for (const char *at = name; *at != '\0'; at++) {
        bool inside =
            at > name && (isalnum((unsigned char)at[-1]) || at[-1] == '.');
        if (inside || !isdigit((unsigned char)*at)) continue;
        char *x;
        unsigned long times = strtoul(at, &x, 10);
        if ((*x != 'x' && *x != 'X') || times < 2 || times > 100000) continue;
        const char *end = billions(x + 1, &out->each);
        if (end == NULL || (size_t)(end - at) >= sizeof(out->text)) continue;
        out->times = times;
        snprintf(out->text, sizeof(out->text), "%.*s", (int)(end - at), at);
        return true;
    }
    return false;
}

/* ---- figures ---- */

static void print_parameters(const inspection *i) {
    const census *c = &i->census;
    char total[32], active[32];

    inspect_format_params(c->total.params, total, sizeof(total));
    inspect_format_params(c->active_params, active, sizeof(active));
    printf("  parameters    %s, of which a token uses %s (%.1f%%)\n", total,
           active, 100 * inspect_ratio(c));
}

static void print_shared(const inspection *i) {
    const census *c = &i->census;
    char shared[32], tables[32], bytes[32];

    inspect_format_params(c->shared.params, shared, sizeof(shared));
    inspect_format_params(c->tables.params, tables, sizeof(tables));
    cli_format_bytes(c->shared.bytes, bytes, sizeof(bytes));
    printf("  shared        %s (%s), %s of them embeddings and output\n",
           shared, bytes, tables);
}

static void print_experts(const inspection *i) {
    const census *c = &i->census;
    char one[32], bytes[32];

    if (c->n_moe_layers == 0) {
        printf("  experts       none\n");
        return;
    }
    inspect_format_params(c->expert.params, one, sizeof(one));
    cli_format_bytes(c->expert.bytes, bytes, sizeof(bytes));
    printf("  experts       %u in each of %u layers, %u used by a token; one "
           "is %s (%s%s)\n",
           c->n_experts, c->n_moe_layers, c->n_used, one, bytes,
           c->experts_differ ? "; layers differ" : "");
}

static void print_figures(const inspection *i) {
    const census *c = &i->census;
    char bytes[32], cache[32], read[32];

    cli_format_bytes(c->total.bytes, bytes, sizeof(bytes));
    cli_format_bytes(c->decode_bytes, read, sizeof(read));
    cli_format_bytes(i->cache_bytes, cache, sizeof(cache));
    printf("%s\n", i->model.name);
    printf("  architecture  %s, %u layers", c->arch, c->n_layers);
    if (c->n_extra_layers > 0)
        printf(" and %u for prediction that are not computed",
               c->n_extra_layers);
    printf("\n");
    print_parameters(i);
    print_shared(i);
    print_experts(i);
    printf("  weights       %s in %zu file%s\n", bytes, i->n_files,
           i->n_files == 1 ? "" : "s");
    printf("  per token     %s of weights are read, %s are added to the KV "
           "cache (f16)\n",
           read, cache);
}

static void print_rack(const inspection *i) {
    const census *c = &i->census;
    char node[32], rest[32];

    if (i->n_nodes == 0) return;
    cli_format_bytes(census_node_bytes(c, i->n_nodes), node, sizeof(node));
    cli_format_bytes(c->shared.bytes, rest, sizeof(rest));
    printf("  rack          %u node%s: %s of experts on %s, %s on each "
           "coordinator\n",
           i->n_nodes, i->n_nodes == 1 ? "" : "s", node,
           i->n_nodes == 1 ? "it" : "the fullest", rest);
}

/* ---- what they mean ---- */

static void explain_spec(const inspection *i, const inspect_spec *spec) {
    const census *c = &i->census;
    char product[32], total[32], active[32];

    snprintf(product, sizeof(product), "%gB",
             (double)(spec->times * spec->each) / 1e9);
    inspect_format_params(c->total.params, total, sizeof(total));
    inspect_format_params(c->active_params, active, sizeof(active));
    printf("\n\"%s\" is not %s: attention, embeddings and all else but the "
           "experts are shared,\nso it is %s. Nor is that the cost of a token, "
           "which uses %u of %u experts: %s.\n",
           spec->text, product, total, c->n_used, c->n_experts, active);
}

static void explain_experts(const inspection *i) {
    const census *c = &i->census;
    char read[32], all[32], active[32];

    cli_format_bytes(c->decode_bytes, read, sizeof(read));
    cli_format_bytes(c->total.bytes, all, sizeof(all));
    inspect_format_params(c->active_params, active, sizeof(active));
    printf("\nIt computes like a dense model of %s, but has to be held whole: "
           "which experts a\ntoken uses is known only layer by layer. Decoding "
           "reads %s of %s for a token\nalone; tokens together read what any "
           "of them uses.\n",
           active, read, all);
}

static void explain(const inspection *i) {
    inspect_spec spec;

    if (i->census.n_moe_layers == 0) {
        printf("\nA dense model: every token uses all of it.\n");
    } else {
        if (inspect_find_spec(i->model.name, &spec)) explain_spec(i, &spec);
        explain_experts(i);
    }
    if (!i->runs)
        printf("\nThis version of Roster does not run it: %s.\n", i->why_not);
}

int inspect_print(const inspection *i) {
    print_figures(i);
    print_rack(i);
    explain(i);
    return fflush(stdout) == 0 ? 0 : -errno;
}
