/* fuzz_gguf.c - libFuzzer target: any bytes as a GGUF file.
 *
 *   clang -fsanitize=fuzzer,address,undefined ... tests/fuzz/fuzz_gguf.c
 *
 * The file is a heap block of exactly its size: reading one byte too many is
 * seen. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "tests/support/gguf_memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gguf *g;
    char why[512] = "";
    if (gguf_memory_open(&g, data, size, why, sizeof(why)) < 0) {
        if (g != NULL || strlen(why) == 0) abort();
        return 0;
    }
    sink = gguf_memory_walk(g);
    gguf_memory_close(g);
    return 0;
}
