/* input.c - structs from callers that were compiled with another version of
 * roster.h: `size` comes first and says how much the caller knows. */
#include "client/lib/client.h"

#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define INPUT_MAX 4096 /* no struct of ours will ever be as large */

int client_input_copy(void *to, size_t own, const void *from, char *why,
                      size_t why_size) {
    size_t size = 0;

    memset(to, 0, own);
    if (from != NULL) memcpy(&size, from, sizeof(size));
    if (size <= sizeof(size) || size > INPUT_MAX) {
        return err_why(why, why_size, ERR_USAGE,
                       "the struct was not prepared by its _init() function");
    }
    const unsigned char *bytes = from;
    for (size_t i = own; i < size; i++) {
        if (bytes[i] == 0) continue;
        return err_why(why, why_size, ERR_UNSUPPORTED,
                       "the request uses members that this library (%s) does "
                       "not know",
                       roster_version());
    }
    memcpy(to, from, size_min(size, own));
    return 0;
}
