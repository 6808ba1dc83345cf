/* status_table.c - see status_table.h. */
#include "client/status_table.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "client/status_homeless.h"
#include "engine/err.h"
#include "engine/util.h"

#define CELL 64
#define LABEL "%-12s "

/* Any value as a word; "-" if there is none. */
static const char *cell(const json_t *value, char *out, size_t size) {
    if (json_is_string(value)) {
        snprintf(out, size, "%s", json_string_value(value));
    } else if (json_is_integer(value)) {
        snprintf(out, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(out, size, "%.1f", json_real_value(value));
    } else if (json_is_boolean(value)) {
        snprintf(out, size, "%s", json_is_true(value) ? "yes" : "no");
    } else {
        snprintf(out, size, "-");
    }
    make_printable(out); /* nodes choose their names themselves */
    return out[0] != '\0' ? out : "-";
}

static const char *member(const json_t *object, const char *key, char *out) {
    return cell(json_object_get(object, key), out, CELL);
}

static const char *bytes_member(const json_t *object, const char *key,
                                char *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0) return "-";
    cli_format_bytes((uint64_t)json_integer_value(value), out, CELL);
    return out;
}

static void print_uptime(FILE *out, const json_t *root) {
    double s = json_number_value(json_object_get(root, "uptime_s"));
    if (s <= 0) return;
    uint64_t minutes = (uint64_t)s / 60;
    fprintf(out, LABEL "%" PRIu64 " h %02" PRIu64 " min\n", "up", minutes / 60,
            minutes % 60);
}

static void print_profile(FILE *out, const json_t *root) {
    const json_t *profile = json_object_get(root, "profile");
    const char *key;
    json_t *value;
    char name[CELL], text[CELL];

    if (!json_is_object(profile)) return;
    fprintf(out, LABEL, "profile");
    const char *separator = "";
    json_object_foreach((json_t *)profile, key, value) {
        snprintf(name, sizeof(name), "%s", key);
        make_printable(name);
        fprintf(out, "%s%s %s", separator, name,
                cell(value, text, sizeof(text)));
        separator = ", ";
    }
    fputc('\n', out);
}

static void print_head(FILE *out, const json_t *root) {
    static const char *const keys[] = {
        "cluster",          "model",    "fingerprint", "epoch", "context",
        "tokens_generated", "takeovers"};
    static const char *const labels[] = {"cluster",  "model",   "fingerprint",
                                         "epoch",    "context", "generated",
                                         "takeovers"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        char text[160];
        const json_t *value = json_object_get(root, keys[i]);
        if (value == NULL) continue;
        fprintf(out, LABEL "%s\n", labels[i], cell(value, text, sizeof(text)));
    }
    print_uptime(out, root);
    print_profile(out, root);
}

static void print_requests(FILE *out, const json_t *root) {
    const json_t *r = json_object_get(root, "requests");
    char a[CELL], q[CELL], d[CELL], f[CELL];

    if (!json_is_object(r)) return;
    fprintf(out, LABEL "%s active, %s queued, %s done, %s failed\n", "requests",
            member(r, "active", a), member(r, "queued", q),
            member(r, "done", d), member(r, "failed", f));
}

static void print_experts(FILE *out, const json_t *root) {
    const json_t *c = json_object_get(root, "coverage");
    const json_t *local = json_object_get(root, "local_experts");
    char a[CELL], b[CELL], d[CELL];

    if (json_is_object(c)) {
        const json_t *slices = json_object_get(root, "slices");
        fprintf(out, LABEL "%s, %s of them held by one node only, %s by none\n",
                json_integer_value(slices) > 1 ? "slices" : "experts",
                member(c, "experts", a), member(c, "single", b),
                member(c, "unheld", d));
    }
    if (json_is_object(local)) {
        bool allowed = json_is_true(json_object_get(local, "allowed"));
        fprintf(out, LABEL "%s, %s resident\n", "own experts",
                allowed ? "allowed" : "not allowed",
                bytes_member(local, "resident_bytes", a));
    }
}

/* ---- what etcd knows ---- */

static void print_etcd(FILE *out, const json_t *root) {
    const json_t *e = json_object_get(root, "etcd");
    char a[160], b[CELL], c[CELL], d[160];

    if (!json_is_object(e)) return;
    bool connected = json_is_true(json_object_get(e, "connected"));
    cell(json_object_get(e, "endpoint"), a, sizeof(a));
    cell(json_object_get(e, "why"), d, sizeof(d));
    if (connected) {
        fprintf(out, LABEL "%s, revision %s, the leader is %s\n", "etcd", a,
                member(e, "revision", b), member(root, "leader", c));
    } else {
        fprintf(out, LABEL "away; the last placement stays%s%s\n", "etcd",
                d[0] != '\0' ? ": " : "", d);
    }
    if (json_is_true(json_object_get(e, "rolled_back"))) {
        fprintf(out,
                LABEL "etcd has an older placement than this rack, or "
                      "none: nothing is changed\n",
                "");
    }
    if (json_is_true(json_object_get(e, "name_taken"))) {
        fprintf(out,
                LABEL "another live process is registered under this "
                      "coordinator's name\n",
                "");
    }
}

/* Why the leader changes nothing, though it should. */
static void print_frozen(FILE *out, const json_t *root) {
    char text[256];
    const json_t *why = json_object_get(root, "frozen");
    if (!json_is_string(why) || json_string_length(why) == 0) return;
    fprintf(out, LABEL "%s\n", "frozen", cell(why, text, sizeof(text)));
}

/* Would every expert have a holder without the one node that is worst to lose?
 */
static void print_survival(FILE *out, const json_t *p) {
    const json_t *survives = json_object_get(p, "survives_largest");
    char a[CELL], b[160];

    if (!json_is_boolean(survives)) return;
    if (json_is_true(survives)) {
        fprintf(out, LABEL "any one may be lost, the largest too\n",
                "lost node");
        return;
    }
    cell(json_object_get(p, "weakest"), b, sizeof(b));
    fprintf(out, LABEL "%s of the units would have no holder without %s\n",
            "lost node", member(p, "lost_units", a), b);
}

static void print_placement(FILE *out, const json_t *root) {
    const json_t *p = json_object_get(root, "placement");
    char a[CELL], b[CELL], c[CELL], d[CELL], e[CELL];

    if (!json_is_object(p)) return;
    if (json_object_get(root, "min_replicas") != NULL) {
        fprintf(out,
                LABEL "%s units, %s replicas wanted: %s with one holder, "
                      "%s with none, %s on the move\n",
                "placement", member(p, "units", a),
                member(root, "min_replicas", b), member(p, "single", c),
                member(p, "unplaced", d), member(p, "moving", e));
    }
    print_survival(out, p);
}

/* ---- balance ---- */

/* A factor of a few digits; "-" if it is not known. */
static const char *factor(const json_t *object, const char *key, char *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) return "-";
    snprintf(out, CELL, "%.2f", json_number_value(value));
    return out;
}

static void print_moves(FILE *out, const json_t *moves) {
    char a[CELL], b[CELL], d[CELL];
    if (!json_is_true(json_object_get(moves, "moving"))) return;
    fprintf(out, LABEL "%s units to load (%s), %s to give up, for %.0f s\n",
            "moves", member(moves, "to_load", a),
            bytes_member(moves, "bytes_left", b), member(moves, "to_drop", d),
            json_number_value(json_object_get(moves, "since_ms")) / 1000);
}

/* How evenly the nodes are used, and what is being done about it. */
static void print_balance(FILE *out, const json_t *root) {
    const json_t *b = json_object_get(root, "balance");
    char x[CELL], y[CELL], z[CELL], w[CELL];

    if (!json_is_object(b)) return;
    if (!json_is_number(json_object_get(b, "imbalance"))) {
        fprintf(out, LABEL "nothing was computed of late\n", "imbalance");
    } else {
        fprintf(out, LABEL "%s; the worst layer is %s with %s", "imbalance",
                factor(b, "imbalance", x), member(b, "worst_layer", y),
                factor(b, "worst", z));
        const char *predicted = factor(b, "predicted", w);
        if (predicted == w) fprintf(out, "; predicted %s", predicted);
        fputc('\n', out);
    }
    print_moves(out, json_object_get(b, "moves"));
}

static void print_coordinators(FILE *out, const json_t *list) {
    static const char row[] = "%-14s %-26s %-10s %s\n";
    size_t i;
    json_t *c;

    if (!json_is_array(list) || json_array_size(list) == 0) return;
    fputc('\n', out);
    fprintf(out, row, "COORDINATOR", "ENDPOINT", "STATE", "");
    json_array_foreach((json_t *)list, i, c) {
        char a[CELL], b[CELL], d[CELL];
        bool leads = json_is_true(json_object_get(c, "leader"));
        fprintf(out, row, member(c, "name", a), member(c, "client", b),
                member(c, "state", d), leads ? "leads" : "");
    }
}

/* A unit: its expert and, where experts are cut, its slice. */
static void print_unit(FILE *out, uint64_t unit, uint64_t slices) {
    fprintf(out, "%" PRIu64, unit / slices);
    if (slices > 1) fprintf(out, ".%" PRIu64, unit % slices);
}

/* Hex digits of four units each, as ranges. */
static void print_held(FILE *out, const char *digits, uint64_t slices) {
    uint64_t units = 4 * strlen(digits), from = 0;
    bool before = false;
    const char *separator = " ";

    for (uint64_t u = 0; u <= units; u++) {
        bool held = false;
        if (u < units) {
            const char digit[2] = {digits[u / 4], '\0'};
            held = (strtoul(digit, NULL, 16) >> u % 4 & 1) != 0;
        }
        if (held && !before) from = u;
        if (!held && before) {
            fputs(separator, out);
            print_unit(out, from, slices);
            if (u - 1 > from) {
                fputc('-', out);
                print_unit(out, u - 1, slices);
            }
            separator = ",";
        }
        before = held;
    }
    fputc('\n', out);
}

static void print_holders(FILE *out, const json_t *layer) {
    const char *name;
    json_t *digits;
    json_int_t slices = json_integer_value(json_object_get(layer, "slices"));

    json_object_foreach(json_object_get(layer, "held"), name, digits) {
        char text[CELL];
        const char *held = json_string_value(digits);
        if (held == NULL) continue;
        snprintf(text, sizeof(text), "%s", name);
        make_printable(text);
        fprintf(out, "%8s%-12s", "", text);
        print_held(out, held, slices > 0 ? (uint64_t)slices : 1);
    }
}

/* [[expert, share]...] as "17 12%, 3 9%". */
static const char *hottest(const json_t *layer, char *out, size_t size) {
    size_t i, at = 0;
    json_t *pair;
    out[0] = '\0';
    json_array_foreach(json_object_get(layer, "hottest"), i, pair) {
        int n = snprintf(
            out + at, size - at, "%s%" JSON_INTEGER_FORMAT " %.0f%%",
            at > 0 ? ", " : "", json_integer_value(json_array_get(pair, 0)),
            100 * json_number_value(json_array_get(pair, 1)));
        if (n < 0 || at + (size_t)n >= size) {
            out[at] = '\0'; /* no half of one */
            break;
        }
        at += (size_t)n;
    }
    return out;
}

static void print_layers(FILE *out, const json_t *list) {
    static const char row[] = "%6s %7s %7s %12s %9s %10s  %s\n";
    size_t i;
    json_t *l;

    if (!json_is_array(list) || json_array_size(list) == 0) return;
    fputc('\n', out);
    fprintf(out, row, "LAYER", "SLICES", "UNITS", "HOLDERS", "PAIRS/s",
            "IMBALANCE", "HOTTEST EXPERTS");
    json_array_foreach((json_t *)list, i, l) {
        char a[CELL], b[CELL], c[CELL], d[CELL], e[CELL], range[2 * CELL + 4];
        char rate[CELL] = "-", x[CELL], hot[CELL];
        const json_t *heat = json_object_get(l, "heat");
        if (json_is_number(heat))
            snprintf(rate, sizeof(rate), "%.0f", json_number_value(heat));
        snprintf(range, sizeof(range), "%s to %s", member(l, "min_holders", d),
                 member(l, "max_holders", e));
        fprintf(out, row, member(l, "layer", a), member(l, "slices", b),
                member(l, "units", c), range, rate, factor(l, "imbalance", x),
                hottest(l, hot, sizeof(hot)));
        print_holders(out, l);
    }
}

/* ---- nodes ---- */

/* What there is to say of a node beside its figures: in a word, on its line. */
static const char *node_word(const json_t *n) {
    if (json_is_true(json_object_get(n, "missing"))) return "not registered";
    if (json_is_true(json_object_get(n, "draining"))) return "draining";
    return "";
}

static void add_note(char *out, size_t size, const char *note) {
    size_t at = strlen(out);
    if (note[0] == '\0') return;
    snprintf(out + at, size - at, "%s%s", at > 0 ? ", " : "", note);
}

/* And in more words, below it. */
static const char *node_note(const json_t *n, char *out, size_t size) {
    char words[160];
    out[0] = '\0';
    if (json_is_true(json_object_get(n, "missing")) &&
        json_is_true(json_object_get(n, "draining"))) {
        add_note(out, size, "draining");
    }
    const json_t *assigned = json_object_get(n, "assigned");
    const json_t *held = json_object_get(n, "held");
    if (assigned != NULL &&
        json_integer_value(assigned) != json_integer_value(held)) {
        snprintf(words, sizeof(words),
                 "holds %" JSON_INTEGER_FORMAT " units, is to hold "
                 "%" JSON_INTEGER_FORMAT,
                 json_integer_value(held), json_integer_value(assigned));
        add_note(out, size, words);
    }
    if (json_string_length(json_object_get(n, "why")) > 0) {
        add_note(out, size,
                 cell(json_object_get(n, "why"), words, sizeof(words)));
    }
    return out;
}

/* Numbers that mean something only of a node that is measured. */
static const char *rate_cell(const json_t *n, const char *key, double scale,
                             const char *unit, char *out) {
    const json_t *value = json_object_get(n, key);
    if (!json_is_number(value)) return "-";
    snprintf(out, CELL, "%.0f%s", json_number_value(value) * scale, unit);
    return out;
}

static void print_nodes(FILE *out, const json_t *nodes) {
    static const char row[] = "%-12s %-22s %-8s %7s %8s %8s %5s %7s  %s\n";
    size_t i;
    json_t *n;

    if (!json_is_array(nodes) || json_array_size(nodes) == 0) return;
    fputc('\n', out);
    fprintf(out, row, "NODE", "ENDPOINT", "STATE", "EXPERTS", "RESIDENT",
            "PAIRS/s", "BUSY", "DELAY", "");
    json_array_foreach((json_t *)nodes, i, n) {
        char c[7][CELL], delay[CELL] = "-", note[256];
        const json_t *us = json_object_get(n, "latency_us");
        if (json_is_number(us))
            snprintf(delay, sizeof(delay), "%.1f ms",
                     json_number_value(us) / 1000);
        fprintf(out, row, member(n, "name", c[0]), member(n, "endpoint", c[1]),
                member(n, "state", c[2]), member(n, "experts", c[3]),
                bytes_member(n, "resident_bytes", c[4]),
                rate_cell(n, "pairs_per_s", 1, "", c[5]),
                rate_cell(n, "busy", 100, "%", c[6]), delay, node_word(n));
        if (node_note(n, note, sizeof(note))[0] != '\0')
            fprintf(out, "%13s%s\n", "", note);
    }
}

int status_table_print(FILE *out, const char *json, bool layers, char *why,
                       size_t why_size) {
    json_error_t error;
    json_t *root = json_loads(json, 0, &error);

    if (!json_is_object(root)) {
        json_decref(root);
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator's status is not a JSON object: %s",
                       error.text);
    }
    print_head(out, root);
    print_requests(out, root);
    print_experts(out, root);
    print_etcd(out, root);
    print_frozen(out, root);
    print_placement(out, root);
    status_homeless_print(out, root);
    print_balance(out, root);
    print_coordinators(out, json_object_get(root, "coordinators"));
    print_nodes(out, json_object_get(root, "nodes"));
    if (layers) print_layers(out, json_object_get(root, "layers"));
    json_decref(root);
    return 0;
}
