/* model_routing.c - a model's routing rule, from its keys.
 *
 * The rule is data: an architecture says what it does where its file is silent,
 * and the keys say the rest.  The rule has to fit the experts there are. */
#include <math.h>
#include "engine/architecture.h"
#include "engine/err.h"
#include "engine/util.h"

/* 0 stands for "not said". */
static int read_gating(const model_keys *k, routing_rule *rule) {
    uint32_t code;
    int rc = model_key_u32_or(k, "expert_gating_func", &code, 0);
    if (rc < 0 || code == 0) return rc;
    if (code > GATING_LAST) {
        return err_why(k->why, k->why_size, ERR_UNSUPPORTED,
                       "%s.expert_gating_func = %u is not supported", k->arch,
                       code);
    }
    rule->gating = (gating_func)code;
    return 0;
}

static int read_weights(const model_keys *k, routing_rule *rule) {
    bool norm;
    int rc = model_key_bool_or(k, "expert_weights_norm", &norm, false);
    if (rc < 0) return rc;
    rule->renormalize = rule->renormalize || norm;

    rc = model_key_f32_or(k, "expert_weights_scale", &rule->scale, rule->scale);
    if (rc < 0 || isfinite(rule->scale)) return rc;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.expert_weights_scale = %g makes no sense", k->arch,
                   (double)rule->scale);
}

/* As many experts as a token uses must stand in the groups that are kept. */
static int check_groups(const model_config *c, const model_keys *k,
                        const routing_rule *rule) {
    if (c->n_experts % rule->n_groups != 0) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.expert_group_count = %u does not divide %u experts",
                       k->arch, rule->n_groups, c->n_experts);
    }
    uint32_t left = c->n_experts / rule->n_groups * rule->n_groups_used;
    if (c->n_used <= left) return 0;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.expert_used_count = %u, but the %u groups of "
                   "%s.expert_group_used_count have %u experts",
                   k->arch, c->n_used, rule->n_groups_used, k->arch, left);
}

static int read_groups(const model_config *c, const model_keys *k,
                       routing_rule *rule) {
    int rc = model_key_u32_or(k, "expert_group_count", &rule->n_groups, 0);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "expert_group_count", rule->n_groups, 0,
                         c->n_experts > 1 ? c->n_experts : 1);
    if (rc < 0 || rule->n_groups <= 1) return rc;

    rc = model_key_u32(k, "expert_group_used_count", &rule->n_groups_used);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "expert_group_used_count", rule->n_groups_used, 1,
                         rule->n_groups);
    if (rc < 0) return rc;
    return check_groups(c, k, rule);
}

int model_read_routing(model_config *c, const model_keys *k,
                       const routing_rule *silent) {
    routing_rule rule = *silent;
    int rc = read_gating(k, &rule);
    if (rc == 0) rc = read_weights(k, &rule);
    if (rc == 0) rc = read_groups(c, k, &rule);
    if (rc < 0) return rc;
    c->routing = rule;
    return 0;
}

int model_read_plain_routing(model_config *c, const model_keys *k) {
    static const model_setting others[] = {
        {"expert_gating_func", 0, GATING_SOFTMAX},
        {"expert_weights_norm", 1, 1},
        {"expert_weights_scale", 0, 1},
    };
    static const routing_rule plain = {.gating = GATING_SOFTMAX,
                                       .renormalize = true};
    int rc = model_refuse(k, others, ARRAY_LEN(others));
    if (rc < 0) return rc;
    return model_read_routing(c, k, &plain);
}
