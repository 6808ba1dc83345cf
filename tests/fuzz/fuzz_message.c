/* fuzz_message.c - libFuzzer over message_open().
 *
 * The input is [mode][length of the header, 2 bytes][header][payloads].  Mode 0
 * takes all of it as it is, which the checksums mostly refuse; mode 1 gives the
 * header the trailer it needs; mode 2 also sets the checksums of the payloads,
 * so that the checks of bodies against payloads are reached.  What was opened
 * must be sealed and opened again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "proto/message.h"
#include "proto/roster.pb-c.h"

#define FUZZ_ARENA ((size_t)1 << 20)
#define TRAILER_BYTES 9

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

static void add_part(frames *f, const uint8_t *data, size_t size) {
    void *part = frames_add(f, size);
    require(part != NULL);
    if (size > 0) memcpy(part, data, size);
}

/* The rest of the input in up to four payloads: sizes come from its bytes. */
static void add_payloads(frames *f, const uint8_t *data, size_t size) {
    while (size > 0 && f->count < FRAMES_MAX) {
        size_t bytes = (size_t)data[0] * 4;
        data++;
        size--;
        if (bytes > size || f->count == FRAMES_MAX - 1) bytes = size;
        add_part(f, data, bytes);
        data += bytes;
        size -= bytes;
    }
}

static void write_trailer(uint8_t *at, const uint8_t *header, size_t size) {
    uint64_t sum = XXH3_64bits(header, size);
    at[0] = 0x79;
    memcpy(at + 1, &sum, sizeof(sum));
}

static void replace_header(frames *f, const uint8_t *header, size_t size) {
    zmq_msg_t part;
    require(zmq_msg_init_size(&part, size + TRAILER_BYTES) == 0);
    uint8_t *out = zmq_msg_data(&part);
    if (size > 0) memcpy(out, header, size);
    write_trailer(out + size, out, size);
    zmq_msg_move(&f->part[0], &part);
    zmq_msg_close(&part);
}

/* The header with the checksums that the payloads have. */
static void correct_checksums(frames *f) {
    Roster__Header *h =
        roster__header__unpack(NULL, frames_bytes(f, 0), frames_data(f, 0));
    if (h == NULL) return;
    uint64_t sums[FRAMES_MAX];
    for (size_t i = 1; i < f->count; i++) {
        sums[i - 1] = XXH3_64bits(frames_data(f, i), frames_bytes(f, i));
    }
    uint64_t *theirs = h->checksums;
    size_t n_theirs = h->n_checksums;
    h->checksums = sums;
    h->n_checksums = f->count - 1;
    h->header_checksum = 0;

    size_t bytes = roster__header__get_packed_size(h);
    uint8_t *packed = malloc(bytes + 1);
    require(packed != NULL);
    roster__header__pack(h, packed);
    h->checksums = theirs;
    h->n_checksums = n_theirs;
    roster__header__free_unpacked(h, NULL);
    replace_header(f, packed, bytes);
    free(packed);
}

static void open_and_seal_again(frames *f) {
    static message_arena *arena, *second;
    if (arena == NULL) {
        require(message_arena_new(&arena, FUZZ_ARENA) == 0);
        require(message_arena_new(&second, FUZZ_ARENA) == 0);
    }
    message m, again;
    char why[256] = "";
    int rc = message_open(f, arena, &m, why, sizeof(why));
    require((rc == 0) == (m.kind != MESSAGE_NONE));
    require(rc == 0 || why[0] != '\0');
    if (rc < 0) return;

    require(message_seal(f, &m) == 0);
    require(message_open(f, second, &again, why, sizeof(why)) == 0);
    require(again.kind == m.kind && again.request_id == m.request_id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3) return 0;
    unsigned mode = data[0] % 3;
    size_t header = data[1] | (size_t)data[2] << 8;
    data += 3;
    size -= 3;
    if (header > size) header = size;

    frames f;
    frames_init(&f);
    add_part(&f, data, header);
    add_payloads(&f, data + header, size - header);
    if (mode == 1) replace_header(&f, data, header);
    if (mode == 2) correct_checksums(&f);
    open_and_seal_again(&f);
    frames_fini(&f);
    return 0;
}
