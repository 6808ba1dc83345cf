/* leader_job.c - see leader_job.h. */
#include "coordinator/leader_job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t leader_units(const planner_model *m) {
    uint32_t units = 0;
    for (uint32_t l = 0; l < m->n_layers; l++)
        units += m->n_experts * m->slices[l];
    return units;
}

/* ---- copying the question ---- */

static int copy_model(planner_model *to, const planner_model *from) {
    size_t layers = (size_t)from->n_layers + 1;
    uint32_t *slices = calloc(layers, sizeof(*slices));
    uint64_t *bytes = calloc(layers, sizeof(*bytes));
    *to = *from;
    to->slices = slices; /* also on failure: to be freed */
    to->unit_bytes = bytes;
    if (slices == NULL || bytes == NULL) return -ENOMEM;
    memcpy(slices, from->slices, from->n_layers * sizeof(*slices));
    memcpy(bytes, from->unit_bytes, from->n_layers * sizeof(*bytes));
    return 0;
}

static int copy_nodes(leader_job *j, const planner_input *in) {
    size_t n = (size_t)in->n_nodes + 1;
    j->nodes = calloc(n, sizeof(*j->nodes));
    j->names = calloc(n, sizeof(*j->names));
    if (j->nodes == NULL || j->names == NULL) return -ENOMEM;
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        j->nodes[i] = in->nodes[i];
        snprintf(j->names[i], RECORD_NAME, "%s", in->nodes[i].name);
        j->nodes[i].name = j->names[i];
    }
    return 0;
}

int leader_job_new(leader_job **out, leader_job_kind kind,
                   const planner_input *in) {
    *out = NULL;
    leader_job *j = calloc(1, sizeof(*j));
    if (j == NULL) return -ENOMEM;
    j->kind = kind;
    int rc = copy_model(&j->model, in->model);
    if (rc == 0) rc = copy_nodes(j, in);
    if (rc < 0) {
        leader_job_free(j);
        return rc;
    }
    j->now = in->now != NULL ? rack_placement_ref(in->now) : NULL;
    j->input = *in;
    j->input.model = &j->model;
    j->input.now = j->now;
    j->input.nodes = j->nodes;
    j->input.target = NULL;
    *out = j;
    return 0;
}

void leader_job_free(leader_job *j) {
    if (j == NULL) return;
    planner_step_fini(&j->step);
    balance_result_fini(&j->result);
    balance_map_fini(&j->target);
    balance_map_fini(&j->holders);
    rack_placement_unref(j->now);
    free((uint32_t *)j->model.slices);
    free((uint64_t *)j->model.unit_bytes);
    free(j->nodes);
    free(j->names);
    free(j->balance_nodes);
    free(j->pinned);
    free(j->banned);
    free(j->load);
    free(j->report.moves);
    free(j);
}

/* ---- what an operator is told ---- */

typedef struct {
    leader_report *report;
    const leader_job *job;
    uint32_t room;
} report_writer;

static void write_move(report_writer *w, uint32_t layer, uint32_t unit,
                       uint32_t node, bool added) {
    leader_report *r = w->report;
    if (r->n_moves == w->room) return;
    leader_move *m = &r->moves[r->n_moves++];
    *m = (leader_move){.layer = layer, .unit = unit, .added = added};
    snprintf(m->node, sizeof(m->node), "%s", w->job->names[node]);
}

static bool names(const balance_map *m, uint32_t unit, uint32_t node) {
    for (uint32_t i = m->first[unit]; i < m->first[unit + 1]; i++) {
        if (m->nodes[i] == node) return true;
    }
    return false;
}

static void write_unit(report_writer *w, uint32_t layer, uint32_t base,
                       uint32_t unit) {
    const balance_map *now = &w->job->holders, *t = &w->job->result.target;
    for (uint32_t i = t->first[unit]; i < t->first[unit + 1]; i++) {
        if (names(now, unit, t->nodes[i])) continue;
        write_move(w, layer, unit - base, t->nodes[i], true);
    }
    for (uint32_t i = now->first[unit]; i < now->first[unit + 1]; i++) {
        if (names(t, unit, now->nodes[i])) continue;
        write_move(w, layer, unit - base, now->nodes[i], false);
    }
}

static int write_report(leader_job *j) {
    const balance_result *r = &j->result;
    uint64_t moves = r->added + r->removed;
    uint32_t room =
        moves < LEADER_MOVES_MAX ? (uint32_t)moves : LEADER_MOVES_MAX;
    j->report = (leader_report){.dry_run = j->dry_run,
                                .pays = r->pays,
                                .before = r->before,
                                .after = r->after,
                                .added = r->added,
                                .removed = r->removed,
                                .moved_bytes = r->moved_bytes};
    j->report.moves = calloc((size_t)room + 1, sizeof(*j->report.moves));
    if (j->report.moves == NULL) return -ENOMEM;

    report_writer w = {&j->report, j, room};
    uint32_t base = 0;
    for (uint32_t l = 0; l < j->model.n_layers; l++) {
        uint32_t n = j->model.n_experts * j->model.slices[l];
        for (uint32_t u = 0; u < n; u++)
            write_unit(&w, l, base, base + u);
        base += n;
    }
    return 0;
}

void leader_job_run(leader_job *j) {
    if (j->kind == LEADER_JOB_PLAN) {
        j->rc = planner_next(&j->input, &j->step);
        return;
    }
    j->rc = balance(&j->question, &j->result);
    if (j->rc == 0 && j->asked) j->rc = write_report(j);
}
