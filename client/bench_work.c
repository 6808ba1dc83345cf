/* bench_work.c - see bench_work.h. */
#include "client/bench_work.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

static int take_number(const json_t *from, const char *name, uint64_t *out) {
    const json_t *v = json_object_get(from, name);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return ERR_UNSUPPORTED;
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

static int take_stages(json_t *from, bench_work *out) {
    const char *name;
    json_t *value;

    if (!json_is_object(from)) return ERR_UNSUPPORTED;
    json_object_foreach(from, name, value) {
        if (strcmp(name, "idle") == 0) continue;
        if (out->n_stages == BENCH_STAGES) return ERR_UNSUPPORTED;
        bench_stage *s = &out->stages[out->n_stages++];
        snprintf(s->name, sizeof(s->name), "%s", name);
        int rc = take_number(from, name, &s->ns);
        if (rc < 0) return rc;
    }
    return 0;
}

static int take_requests(const json_t *from, uint64_t *out) {
    static const char *const kinds[] = {"active", "queued", "parked"};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        uint64_t n;
        int rc = take_number(from, kinds[i], &n);
        if (rc < 0) return rc;
        *out += n;
    }
    return 0;
}

static int parse(const char *text, bench_work *out) {
    json_t *root = json_loads(text, 0, NULL);
    json_t *work = json_object_get(root, "work");

    *out = (bench_work){0};
    int rc = take_number(work, "batch_tokens", &out->batch_tokens);
    if (rc == 0) rc = take_number(work, "steps", &out->steps);
    if (rc == 0) rc = take_number(work, "tokens", &out->tokens);
    if (rc == 0) rc = take_number(work, "weight_bytes", &out->weight_bytes);
    if (rc == 0) rc = take_number(work, "experts", &out->experts);
    if (rc == 0) rc = take_stages(json_object_get(work, "stage_ns"), out);
    if (rc == 0)
        rc = take_requests(json_object_get(root, "requests"), &out->n_requests);
    /* (a coordinator without nodes has none to tell of) */
    int told = take_number(root, "slices", &out->slices);
    if (told < 0 || out->slices == 0) out->slices = 1;
    json_decref(root);
    return rc;
}

int bench_work_read(session *s, bench_work *out, char *why, size_t why_size) {
    const char *text;

    int rc = roster_status(s->client, &text);
    if (rc < 0) {
        return session_explain(s, rc, roster_client_error(s->client), why,
                               why_size);
    }
    rc = parse(text, out);
    if (rc == 0) return 0;
    return err_why(why, why_size, rc,
                   "the coordinator's status does not tell what it has done");
}

void bench_work_add(bench_work *sum, const bench_work *from,
                    const bench_work *to) {
    sum->steps += to->steps - from->steps;
    sum->tokens += to->tokens - from->tokens;
    sum->weight_bytes += to->weight_bytes - from->weight_bytes;
    sum->experts += to->experts - from->experts;
    sum->batch_tokens = to->batch_tokens;
    sum->slices = to->slices;
    sum->n_stages = to->n_stages;
    for (size_t i = 0; i < to->n_stages; i++) {
        memcpy(sum->stages[i].name, to->stages[i].name,
               sizeof(sum->stages[i].name));
        sum->stages[i].ns += to->stages[i].ns - from->stages[i].ns;
    }
}

double bench_step_bytes(const bench_work *w) {
    return w->steps > 0 ? (double)w->weight_bytes / (double)w->steps : 0.0;
}

double bench_step_experts(const bench_work *w) {
    return w->steps > 0 ? (double)w->experts / (double)w->steps : 0.0;
}

double bench_ms_per_token(const bench_work *w, uint64_t ns) {
    return w->tokens > 0 ? (double)ns / 1e6 / (double)w->tokens : 0.0;
}

uint64_t bench_work_ns(const bench_work *w) {
    uint64_t ns = 0;
    for (size_t i = 0; i < w->n_stages; i++)
        ns += w->stages[i].ns;
    return ns;
}
