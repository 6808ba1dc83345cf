/* status.c - see status.h. */
#include "coordinator/status.h"

#include <jansson.h>
#include <stdio.h>
#include "coordinator/server_internal.h"
#include "engine/err.h"
#include "engine/util.h"

static json_t *profile_json(const profile *p) {
    return json_pack("{s:i, s:s, s:s, s:s, s:s, s:s}", "version",
                     (int)p->version, "activation", p->activation, "rows",
                     p->rows, "kv", p->kv, "mla", p->mla, "blas", p->blas);
}

static json_t *requests_json(const step_stats *t) {
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I}", "active",
        (json_int_t)t->counts.running, "queued", (json_int_t)t->counts.queued,
        "parked", (json_int_t)t->counts.parked, "done", (json_int_t)t->done,
        "failed", (json_int_t)t->failed, "cancelled", (json_int_t)t->cancelled);
}

static json_t *dispatch_json(const dispatch_stats *d) {
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I}",
        "local_pairs", (json_int_t)d->local_pairs, "takeover_pairs",
        (json_int_t)d->takeover_pairs, "takeover_local",
        (json_int_t)d->takeover_local, "late_rows", (json_int_t)d->late_rows,
        "refusals", (json_int_t)d->refusals, "lost_pairs",
        (json_int_t)d->lost_pairs, "calls", (json_int_t)d->calls, "hedges",
        (json_int_t)d->hedges, "hedge_wins", (json_int_t)d->hedge_wins,
        "retries", (json_int_t)d->retries, "trials", (json_int_t)d->trials,
        "resumed_pairs", (json_int_t)d->resumed_pairs, "splits",
        (json_int_t)d->splits, "broken", (json_int_t)d->broken);
}

/* What the steps have read, and where their time went. */
static json_t *work_json(const step_stats *t) {
    json_t *stages = json_object();
    for (stage s = 0; s < STAGES; s++) {
        json_object_set_new(stages, stage_name(s),
                            json_integer((json_int_t)t->stage_ns[s]));
    }
    return json_pack("{s:i, s:I, s:I, s:I, s:I, s:o}", "batch_tokens",
                     (int)t->batch_tokens, "steps", (json_int_t)t->steps,
                     "tokens", (json_int_t)t->tokens, "weight_bytes",
                     (json_int_t)t->work.weight_bytes, "experts",
                     (json_int_t)t->work.experts, "stage_ns", stages);
}

/* Are we in use? */
static const char *state_of(const server *s) {
    if (s->refusing) return "ending";
    if (s->declined == ERR_WRONG_MODEL) return "refusing";
    if (s->conductor == NULL || !conductor_drained(s->conductor)) return "up";
    return server_idle(s) ? "drained" : "draining";
}

/* What others know of us is less than what we know: our own entry says so. */
static void correct_own(const server *s, json_t *root) {
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(root, "coordinators"), i, c) {
        if (!json_is_true(json_object_get(c, "us"))) continue;
        json_object_set_new(c, "state", json_string(state_of(s)));
    }
}

static json_t *weights_json(const weight_server *w) {
    bulk_server_stats t = weight_server_look(w);
    return json_pack("{s:s, s:I, s:I, s:I, s:i}", "endpoint",
                     weight_server_endpoint(w), "pieces", (json_int_t)t.pieces,
                     "bytes", (json_int_t)t.bytes, "refusals",
                     (json_int_t)t.refusals, "outstanding", (int)t.outstanding);
}

/* The nodes, and what is known of the rack by etcd. */
static int add_rack(const server *s, json_t *root) {
    int rc = json_object_set_new(root, "state", json_string(state_of(s)));
    if (s->shared != NULL) {
        rc |= json_object_set_new(root, "weights", weights_json(s->shared));
    }
    if (rc == 0 && s->nodes != NULL) {
        const rack_view *view =
            s->conductor != NULL ? conductor_view(s->conductor) : NULL;
        rc = nodes_status(s->nodes, view, root);
    }
    if (rc == 0 && s->conductor != NULL) {
        rc = conductor_status(s->conductor, root);
        correct_own(s, root);
    }
    return rc;
}

char *status_text(const server *s) {
    char hex[FINGERPRINT_HEX_SIZE], boot[20];
    const identity *self = s->config.self;
    fingerprint_hex(&self->model, hex);
    snprintf(boot, sizeof(boot), "%016llx", (unsigned long long)self->boot_id);
    step_stats steps;
    step_read_stats(s->config.steps, &steps);
    dispatch_stats d;
    exchange_totals(s->config.experts, &d);

    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:I, s:i, s:o, s:I, s:I, s:I, "
        "s:I, s:s, s:o, s:{s:b, s:I}, s:I, s:o}",
        "cluster", self->cluster, "name", self->name, "version", ROSTER_VERSION,
        "model", s->config.weights->config.name, "fingerprint", hex, "boot_id",
        boot, "profile", profile_json(s->config.profile), "uptime_s",
        (json_int_t)((now_ms() - s->started_ms) / 1000), "context",
        (int)s->config.max_context, "requests", requests_json(&steps), "steps",
        (json_int_t)steps.steps, "tokens", (json_int_t)steps.tokens,
        "tokens_generated", (json_int_t)s->tokens_generated, "kv_pages_free",
        (json_int_t)steps.counts.free_pages, "cpu", cpu_name(cpu_current()),
        "dispatch", dispatch_json(&d), "local_experts", "allowed",
        s->config.local_allowed, "resident_bytes",
        (json_int_t)local_experts_bytes(s->config.local), "takeovers",
        (json_int_t)d.takeover_pairs, "work", work_json(&steps));
    if (root == NULL) return NULL;
    char *text = NULL;
    if (add_rack(s, root) == 0) text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}
