/* fuzz_jinja.c - any bytes as a chat template.
 *
 * The first byte of an input chooses the conversation, the rest is the source.
 * What must hold: parsing and rendering end within their limits and are refused
 * with a sentence, or give a text; a second rendering of the same template
 * gives the same one.  Sources stand in heap blocks of exactly their size. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "engine/jinja.h"
#include "engine/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const requests[] = {
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
    "{\"role\":\"user\",\"content\":\"Gr\\u00fc\\u00dfe, <b> & 'x' "
    "\\ud83d\\ude00\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"a1\","
    "\"function\":{\"name\":\"f\",\"arguments\":{\"n\":1.5,\"l\":[1,-2,true]}}}"
    "]},"
    "{\"role\":\"tool\",\"content\":\"{}\"}],\"tools\":[{\"type\":\"function\","
    "\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"n\":{\"type\":\"number\"}}}}}],"
    "\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</"
    "s>\"}",
    "{\"messages\":[],\"tools\":null,\"x\":[[1,2],[3,4]],\"n\":7,\"f\":0.1,"
    "\"s\":\"a b  c\\n d\",\"d\":{\"b\":2,\"A\":1}}",
};

static json_t *variables[ARRAY_LEN(requests)];

static const jinja_limits limits = {.steps = 20000,
                                    .memory_bytes = (size_t)8 << 20,
                                    .output_bytes = (size_t)1 << 20};

static void require(bool holds) {
    if (!holds) abort();
}

/* 0 and the text, or a refusal with a sentence. */
static int render(const jinja *t, const json_t *given, char **out,
                  size_t *len) {
    char why[256] = "";
    jinja_input in = {.variables = given, .limits = limits};
    in.now.tm_year = 126;
    in.now.tm_mday = 1;
    int rc = jinja_render(t, &in, out, len, why, sizeof(why));
    require(rc == 0 || (rc < 0 && why[0] != '\0' && *out == NULL));
    require(rc < 0 || (*out)[*len] == '\0');
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char why[256] = "", *first, *second;
    size_t n_first, n_second;
    jinja *t;
    if (size == 0) return 0;

    size_t which = data[0] % ARRAY_LEN(requests);
    if (variables[which] == NULL)
        variables[which] = json_loads(requests[which], 0, NULL);
    require(variables[which] != NULL);
    char *source = malloc(size);
    require(source != NULL);
    memcpy(source, data + 1, size - 1);
    int rc = jinja_new(&t, source, size - 1, why, sizeof(why));
    free(source);
    if (rc < 0) {
        require(t == NULL && why[0] != '\0');
        return 0;
    }
    int again = render(t, variables[which], &first, &n_first);
    rc = render(t, variables[which], &second, &n_second);
    require(rc == again && n_first == n_second);
    require(rc < 0 || memcmp(first, second, n_first) == 0);
    free(first);
    free(second);
    jinja_free(t);
    return 0;
}
