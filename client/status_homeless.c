/* status_homeless.c - see status_homeless.h. */
#include "client/status_homeless.h"

#include <string.h>
#include "engine/util.h"

#define LABEL "%-12s "
#define LAYERS_MOST 8 /* that are listed; the rest is counted */
#define TEXT 440

static const char *text_of(const json_t *o, const char *key, char out[TEXT]) {
    const char *text = json_string_value(json_object_get(o, key));
    snprintf(out, TEXT, "%s", text != NULL ? text : "");
    make_printable(out);
    return out;
}

static void print_when(FILE *out, const json_t *h) {
    const json_t *seconds = json_object_get(h, "estimate_s");
    if (json_is_number(seconds)) {
        fprintf(out, "; about %.0f s to go", json_number_value(seconds));
    }
    fputc('\n', out);
}

void status_homeless_print(FILE *out, const json_t *root) {
    const json_t *h = json_object_get(root, "homeless");
    const json_t *layers = json_object_get(h, "layers");
    json_int_t units = json_integer_value(json_object_get(h, "units"));
    char text[TEXT];
    size_t i;
    json_t *l;
    if (units <= 0) return;

    fprintf(out, LABEL "%lld units are held by no live node", "homeless",
            (long long)units);
    print_when(out, h);
    fprintf(out, LABEL "%s\n", "", text_of(h, "why", text));
    json_array_foreach((json_t *)layers, i, l) {
        if (i == LAYERS_MOST) {
            fprintf(out, LABEL "and %zu layers more\n", "",
                    json_array_size(layers) - i);
            break;
        }
        fprintf(out, LABEL "layer %lld: experts %s\n", "",
                (long long)json_integer_value(json_object_get(l, "layer")),
                text_of(l, "experts", text));
    }
}
