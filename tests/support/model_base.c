/* model_base.c - see model_base.h. */
#include "tests/support/model_base.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "engine/weight.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

static const char *make(const char **path, const char *name, const char *arch,
                        uint32_t n_experts) {
    if (*path != NULL) return *path;
    char why[256] = "";
    model_shape s = model_shape_small();
    s.arch = arch;
    s.width = 32;
    s.head_dim = 8;
    s.expert_width = 32;
    s.n_experts = n_experts;
    s.n_used = n_experts > 0 ? 2 : 0;
    s.n_vocab = MODEL_GEN_MIN_VOCAB;
    s.type = WEIGHT_F32;
    *path = fixture_path(name);
    if (model_gen(&s, *path, why, sizeof(why)) < 0) {
        fprintf(stderr, "%s: %s\n", name, why);
        abort();
    }
    return *path;
}

const char *model_base_mixtral(void) {
    static const char *path;
    return make(&path, "base-mixtral.gguf", "llama", 4);
}

const char *model_base_qwen3moe(void) {
    static const char *path;
    return make(&path, "base-qwen3moe.gguf", "qwen3moe", 4);
}

const char *model_base_dense(void) {
    static const char *path;
    return make(&path, "base-dense.gguf", "llama", 0);
}

int model_base_read(gguf_edit *e, model_config *out, char *why,
                    size_t why_size) {
    static const char *path;
    if (path == NULL) path = fixture_path("edited.gguf");
    why[0] = '\0';
    gguf_edit_finish(e, path);
    gguf *g = NULL;
    int rc = gguf_open(&g, path, why, why_size);
    if (rc == 0) rc = model_read(out, g, why, why_size);
    gguf_close(g);
    unlink(path);
    return rc;
}
