/* profile.c - compares field by field, so that a refusal names the field. */
#include "engine/profile.h"

#include <string.h>
#include "engine/err.h"

profile profile_of_node(bool exact) {
    return (profile){PROFILE_VERSION, exact ? "f32" : "a8", "f32", "", "", ""};
}

profile profile_of_coordinator(bool exact, const char *kv, const char *blas) {
    profile p = profile_of_node(exact);
    p.kv = kv;
    p.mla = "absorbed";
    p.blas = blas;
    return p;
}

static bool same(const char *field, const char *a, const char *b, char *why,
                 size_t why_size) {
    if (strcmp(a, b) == 0) return true;
    err_why(why, why_size, 0, "profile differs in %s: '%s' and '%s'", field, a,
            b);
    return false;
}

bool profile_same_experts(const profile *a, const profile *b, char *why,
                          size_t why_size) {
    if (a->version != b->version) {
        err_why(why, why_size, 0, "profile differs in version: %u and %u",
                a->version, b->version);
        return false;
    }
    return same("activation", a->activation, b->activation, why, why_size) &&
           same("rows", a->rows, b->rows, why, why_size);
}
