/* make_model.c - writes a random-weight model file; see
 * tests/support/model_gen.h.
 *
 *   make_model --out /tmp/m.gguf --layers 2 --width 1024 --expert-width 2048 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "engine/err.h"
#include "engine/options.h"
#include "engine/weight.h"
#include "tests/support/model_gen.h"

#define EXIT_USAGE 2

/* The computable format of that name. */
static int find_type(const char *name, uint32_t *type) {
    for (uint32_t i = 0; i <= WEIGHT_MXFP4; i++) {
        const weight_format *f = weight_format_find(i);
        if (f == NULL || strcasecmp(name, f->name) != 0) continue;
        *type = i;
        return 0;
    }
    return ERR_USAGE;
}

int main(int argc, char **argv) {
    model_shape s = model_shape_small();
    const char *out = NULL, *type = "q8_0", *down_type = NULL;
    float skew = 0;
    const option table[] = {
        {"out", 'o', OPTION_STRING, &out, "FILE", "Where to write it."},
        {"arch", 0, OPTION_STRING, &s.arch, "NAME",
         "llama, qwen3moe, gpt-oss, llama4, grok or deepseek2."},
        {"layers", 0, OPTION_U32, &s.n_layers, "N", "Layers."},
        {"width", 0, OPTION_U32, &s.width, "N", "Width of the model."},
        {"heads", 0, OPTION_U32, &s.n_heads, "N", "Query heads."},
        {"kv-heads", 0, OPTION_U32, &s.n_kv_heads, "N", "KV heads."},
        {"head-dim", 0, OPTION_U32, &s.head_dim, "N", "Width of a head."},
        {"expert-width", 0, OPTION_U32, &s.expert_width, "N",
         "Hidden width of an expert, or of the dense FFN."},
        {"experts", 0, OPTION_U32, &s.n_experts, "N",
         "Experts per layer; 0 for a dense model."},
        {"used", 0, OPTION_U32, &s.n_used, "N", "Experts per token."},
        {"vocab", 0, OPTION_U32, &s.n_vocab, "N",
         "Tokens, at least 259: specials and bytes come first."},
        {"context", 0, OPTION_U32, &s.n_context, "N", "Context length."},
        {"type", 0, OPTION_STRING, &type, "TYPE",
         "Weights: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k to q6_k, "
         "iq4_nl, iq4_xs or mxfp4; norms and router are f32."},
        {"down-type", 0, OPTION_STRING, &down_type, "TYPE",
         "Of the experts' down matrices, if it is another."},
        {"merged", 0, OPTION_FLAG, &s.merged, NULL,
         "Gate and up of the experts in one tensor."},
        {"skew", 0, OPTION_F32, &skew, "S",
         "Exponent of the routers' preference: 0 is even traffic, 1 makes a "
         "few experts of each layer hot."},
        {"hot-sets", 0, OPTION_U32, &s.hot_sets, "N",
         "With a skew: cut the vocabulary into N parts whose tokens prefer "
         "experts in N different orders."},
        {"seed", 0, OPTION_U64, &s.seed, "N", "Seed of all values."},
    };
    const option_set set = {
        .program = "make_model",
        .usage = "--out FILE [options]",
        .about = "Writes a model with random weights, the same for a seed.",
        .table = table,
        .count = sizeof(table) / sizeof(table[0]),
    };

    char why[512];
    options *o;
    int rc = options_parse(&o, &set, argc, argv, why, sizeof(why));
    if (rc == OPTIONS_EXIT) return EXIT_SUCCESS;
    if (rc < 0) {
        fprintf(stderr, "make_model: %s\n", why);
        return EXIT_USAGE;
    }
    const char *const *args;
    if (out == NULL || options_args(o, &args) > 0 ||
        find_type(type, &s.type) < 0 ||
        (down_type != NULL && find_type(down_type, &s.down_type) < 0)) {
        fprintf(stderr, "make_model: --out FILE, a type that --help names, and "
                        "nothing else are needed\n");
        options_free(o);
        return EXIT_USAGE;
    }
    s.skew = (double)skew;
    rc = model_gen(&s, out, why, sizeof(why));
    if (rc < 0) fprintf(stderr, "make_model: %s\n", why);
    options_free(o);
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
