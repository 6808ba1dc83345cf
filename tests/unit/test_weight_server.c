/* test_weight_server.c - the model's files for those who have none: what is
 * there, pieces of it, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "coordinator/weight_server.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/unit_image.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

#define WAIT_MS 60000
#define ENDPOINT "inproc://weights"

typedef struct {
    const char *path;
    gguf *file;
    model_config model;
    manifest *checks;
    identity self;
    void *zmq;
    uv_loop_t loop;
    weight_server_config config;
    weight_server *server;
    struct link *node, *other;
    message_arena *arena;
    frames in;
    message m; /* the last message to a node */
    uint8_t *bytes;
    size_t n_bytes; /* of the file */
} rig;

static void open_model(rig *r) {
    char why[256] = "";
    model_shape shape = model_shape_small();
    r->path = fixture_path("weights.gguf");
    assert_int_equal(model_gen(&shape, r->path, why, sizeof(why)), 0);
    assert_int_equal(gguf_open(&r->file, r->path, why, sizeof(why)), 0);
    assert_int_equal(
        manifest_open(&r->checks, r->file, false, why, sizeof(why)), 0);
    assert_int_equal(model_read(&r->model, r->file, why, sizeof(why)), 0);
    r->bytes = fixture_read(r->path, &r->n_bytes);
}

static rig *open_rig(void) {
    char why[256] = "";
    rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    log_setup("test", (log_level)(LOG_ERROR + 1));
    open_model(r);
    r->zmq = zmq_ctx_new();
    strcpy(r->self.cluster, "test");
    r->self.boot_id = 77;
    r->self.model.bytes[0] = 9;
    assert_int_equal(uv_loop_init(&r->loop), 0);
    r->config = (weight_server_config){
        .loop = &r->loop,
        .self = &r->self,
        .file = r->file,
        .checks = r->checks,
        .model = &r->model,
        .links = {.zmq = r->zmq,
                  .max_part_bytes = 4 << 20,
                  .queue_messages = 100},
        .listen = ENDPOINT,
    };
    assert_int_equal(
        weight_server_open(&r->server, &r->config, why, sizeof(why)), 0);
    assert_int_equal(
        link_connect(&r->node, &r->config.links, ENDPOINT, why, sizeof(why)),
        0);
    assert_int_equal(
        link_connect(&r->other, &r->config.links, ENDPOINT, why, sizeof(why)),
        0);
    assert_int_equal(message_arena_new(&r->arena, 1 << 20), 0);
    frames_init(&r->in);
    return r;
}

static void close_rig(rig *r) {
    weight_server_close(r->server);
    weight_server_close(r->server); /* twice is fine */
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    weight_server_free(r->server);
    frames_fini(&r->in);
    link_close(r->node);
    link_close(r->other);
    message_arena_free(r->arena);
    zmq_ctx_term(r->zmq);
    manifest_close(r->checks);
    gguf_close(r->file);
    free(r->bytes);
    free(r);
}

/* ---- asking and hearing ---- */

static void ask_from(rig *r, struct link *from, const message *m) {
    uint64_t until = now_ms() + WAIT_MS;
    frames f;
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));
    message named = *m;
    named.cluster = m->cluster != NULL ? m->cluster : "test";
    assert_int_equal(message_seal(&f, &named), 0);
    while (link_send(from, &f) < 0) {
        assert_true(now_ms() < until);
        uv_run(&r->loop, UV_RUN_NOWAIT);
    }
}

static void ask(rig *r, const message *m) {
    ask_from(r, r->node, m);
}

static void hear(rig *r) {
    uint64_t until = now_ms() + WAIT_MS;
    char why[160] = "";
    do {
        assert_true(now_ms() < until);
        uv_run(&r->loop, UV_RUN_NOWAIT);
        frames_fini(&r->in);
    } while (link_recv(r->node, &r->in) != 0);
    assert_int_equal(message_open(&r->in, r->arena, &r->m, why, sizeof(why)),
                     0);
}

static message fetch(uint64_t id, uint32_t file, uint64_t offset,
                     uint32_t bytes, uint64_t stride, uint32_t count) {
    message m = {.kind = MESSAGE_FETCH, .request_id = id, .boot_id = 5};
    m.fetch.file = file;
    m.fetch.offset = offset;
    m.fetch.bytes = bytes;
    m.fetch.stride = stride;
    m.fetch.count = count;
    return m;
}

static void expect_error(rig *r, uint64_t id, int code, const char *part) {
    hear(r);
    assert_int_equal(r->m.kind, MESSAGE_ERROR);
    assert_int_equal(r->m.request_id, id);
    assert_int_equal(r->m.error.code, code);
    if (strstr(r->m.error.text, part) == NULL) {
        fail_msg("'%s' does not say '%s'", r->m.error.text, part);
    }
}

static void expect_piece(rig *r, uint64_t id, const uint8_t *bytes, size_t n) {
    hear(r);
    assert_int_equal(r->m.kind, MESSAGE_PIECE);
    assert_int_equal(r->m.request_id, id);
    assert_int_equal(r->m.to_boot_id, 5);
    assert_int_equal(frames_bytes(&r->in, 1), n);
    assert_memory_equal(frames_data(&r->in, 1), bytes, n);
}

/* ---- what is served ---- */

static void says_what_files_there_are(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = {.kind = MESSAGE_MODEL_REQUEST, .request_id = 3, .boot_id = 5};
    ask(r, &m);
    hear(r);
    assert_int_equal(r->m.kind, MESSAGE_MODEL);
    assert_int_equal(r->m.request_id, 3);
    assert_int_equal(r->m.model.n_files, 1);
    const message_file *f = &r->m.model.files[0];
    size_t head_bytes;
    gguf_head(r->file, 0, &head_bytes);
    assert_string_equal(f->name, "weights.gguf");
    assert_int_equal(f->bytes, r->n_bytes);
    assert_int_equal(f->head_bytes, head_bytes);
    assert_true(f->mtime_ns == gguf_file_mtime_ns(r->file, 0));
    assert_true(r->m.model.manifest_bytes > 0);
    assert_true(r->m.has_fingerprint);
    close_rig(r);
}

static void gives_pieces_in_a_row_and_apart(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = fetch(1, 0, 100, 5000, 0, 1);
    ask(r, &m);
    expect_piece(r, 1, r->bytes + 100, 5000);
    uint8_t apart[3 * 7];
    for (size_t i = 0; i < 3; i++)
        memcpy(apart + 7 * i, r->bytes + 64 + 1000 * i, 7);
    m = fetch(2, 0, 64, 7, 1000, 3);
    ask(r, &m);
    expect_piece(r, 2, apart, sizeof(apart));
    /* the last byte */
    m = fetch(3, 0, r->n_bytes - 1, 1, 0, 1);
    ask(r, &m);
    expect_piece(r, 3, r->bytes + r->n_bytes - 1, 1);
    assert_int_equal(weight_server_look(r->server).pieces, 3);
    assert_int_equal(weight_server_look(r->server).bytes, 5000 + 21 + 1);
    close_rig(r);
}

static void the_manifest_is_the_file_after_the_last(void **state) {
    (void)state;
    rig *r = open_rig();
    uint8_t *image;
    size_t n;
    assert_int_equal(manifest_image(r->checks, r->file, &image, &n), 0);
    message m = fetch(1, 1, 0, (uint32_t)n, 0, 1);
    ask(r, &m);
    expect_piece(r, 1, image, n);
    m = fetch(2, 1, 1, (uint32_t)n, 0, 1);
    ask(r, &m);
    expect_error(r, 2, ERR_RANGE, "beyond the end");
    free(image);
    close_rig(r);
}

static message fetch_unit(uint64_t id, uint32_t layer, uint32_t unit,
                          uint32_t slices, uint64_t offset, uint32_t bytes) {
    message m = {.kind = MESSAGE_FETCH_UNIT, .request_id = id, .boot_id = 5};
    m.fetch_unit.layer = layer;
    m.fetch_unit.unit = unit;
    m.fetch_unit.slices = slices;
    m.fetch_unit.offset = offset;
    m.fetch_unit.bytes = bytes;
    return m;
}

static void gives_units(void **state) {
    (void)state;
    rig *r = open_rig();
    unit_image u;
    uint8_t wanted[1500];
    assert_int_equal(unit_image_of(&u, r->file, &r->model, 1, 3, 2, NULL, 0),
                     0);
    assert_int_equal(unit_image_read(&u, r->file, 700, 1500, wanted), 0);
    message m = fetch_unit(1, 1, 3, 2, 700, 1500);
    ask(r, &m);
    expect_piece(r, 1, wanted, 1500);
    m = fetch_unit(2, 1, 3, 2, u.bytes - 10, 11);
    ask(r, &m);
    expect_error(r, 2, ERR_RANGE, "beyond the end");
    m = fetch_unit(3, 1, 8, 2, 0, 1);
    ask(r, &m);
    expect_error(r, 3, ERR_RANGE, "no unit 8");
    m = fetch_unit(4, 7, 0, 1, 0, 1);
    ask(r, &m);
    expect_error(r, 4, ERR_RANGE, "layer 7");
    close_rig(r);
}

static void gives_nothing_of_a_damaged_unit(void **state) {
    (void)state;
    rig *r = open_rig();
    unit_image u;
    assert_int_equal(unit_image_of(&u, r->file, &r->model, 0, 1, 1, NULL, 0),
                     0);
    const unit_part *up = &u.parts[1];
    int fd = open(r->path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(
        pwrite(fd, "XX", 2, (off_t)(up->tensor->offset + up->offset)), 2);
    close(fd);
    message m = fetch_unit(1, 0, 1, 1, 0, 100); /* of another matrix */
    ask(r, &m);
    expect_error(r, 1, ERR_CHECKSUM, "ffn_up_exps");
    m = fetch_unit(2, 0, 2, 1, 0, 100);
    ask(r, &m);
    hear(r);
    assert_int_equal(r->m.kind, MESSAGE_PIECE);
    close_rig(r);
}

/* ---- what is refused ---- */

static void refuses_bytes_that_are_not_there(void **state) {
    (void)state;
    rig *r = open_rig();
    const struct {
        uint32_t file;
        uint64_t offset;
        uint32_t bytes;
        uint64_t stride;
        uint32_t count;
    } bad[] = {{2, 0, 1, 0, 1},          {4000, 0, 1, 0, 1},
               {0, r->n_bytes, 1, 0, 1}, {0, r->n_bytes - 1, 2, 0, 1},
               {0, 0, 1, r->n_bytes, 2}, {0, 1, 1, r->n_bytes / 2, 3}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        message m = fetch(i, bad[i].file, bad[i].offset, bad[i].bytes,
                          bad[i].stride, bad[i].count);
        ask(r, &m);
        expect_error(r, i, ERR_RANGE, "file");
    }
    assert_int_equal(weight_server_look(r->server).pieces, 0);
    close_rig(r);
}

static void refuses_strangers_and_other_business(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = fetch(1, 0, 0, 10, 0, 1);
    m.cluster = "other";
    ask(r, &m);
    expect_error(r, 1, ERR_WRONG_CLUSTER, "'other'");
    m = fetch(2, 0, 0, 10, 0, 1);
    m.to_boot_id = 78;
    ask(r, &m);
    expect_error(r, 2, ERR_WRONG_BOOT, "");
    m = fetch(3, 0, 0, 10, 0, 1);
    m.has_fingerprint = true;
    m.fingerprint[0] = 8;
    ask(r, &m);
    expect_error(r, 3, ERR_WRONG_MODEL, "");
    m = (message){.kind = MESSAGE_STATUS_REQUEST, .request_id = 4};
    ask(r, &m);
    expect_error(r, 4, ERR_MALFORMED, "");
    m = fetch(5, 0, 0, 10, 0, 1);
    m.has_fingerprint = true;
    m.fingerprint[0] = 9;
    ask(r, &m);
    expect_piece(r, 5, r->bytes, 10);
    close_rig(r);
}

static void garbage_is_answered_and_changes_nothing(void **state) {
    (void)state;
    rig *r = open_rig();
    frames f;
    frames_init(&f);
    memset(frames_add(&f, 40), 7, 40);
    message m = fetch(1, 0, 0, 10, 0, 1);
    ask(r, &m); /* until it is connected */
    expect_piece(r, 1, r->bytes, 10);
    assert_int_equal(link_send(r->node, &f), 0);
    hear(r);
    assert_int_equal(r->m.kind, MESSAGE_ERROR);
    ask(r, &m);
    expect_piece(r, 1, r->bytes, 10);
    close_rig(r);
}

/* The loop is not turned while they are asked, so all of them wait at once. */
static void reads_a_bounded_number_of_pieces_at_once(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = fetch(0, 0, 0, 10, 0, 1);
    ask(r, &m);
    expect_piece(r, 0, r->bytes, 10); /* connected */
    for (uint64_t id = 1; id <= 3 * BULK_SERVER_OF_PEER; id++) {
        m = fetch(id, 0, 0, 1000, 0, 1);
        frames f;
        frames_init(&f);
        assert_non_null(frames_add(&f, 0));
        m.cluster = "test";
        assert_int_equal(message_seal(&f, &m), 0);
        assert_int_equal(link_send(r->node, &f), 0);
    }
    m = fetch(1, 0, 0, 10, 0, 1);
    uint32_t pieces = 0, refused = 0;
    for (int i = 0; i < 3 * BULK_SERVER_OF_PEER; i++) {
        hear(r);
        pieces += r->m.kind == MESSAGE_PIECE;
        refused +=
            r->m.kind == MESSAGE_ERROR && r->m.error.code == ERR_OVERLOADED;
        assert_true(weight_server_look(r->server).outstanding <=
                    BULK_SERVER_OF_PEER);
    }
    assert_int_equal(pieces + refused, 3 * BULK_SERVER_OF_PEER);
    assert_true(pieces >= BULK_SERVER_OF_PEER);
    assert_true(refused > 0);
    ask(r, &m);
    expect_piece(r, 1, r->bytes, 10); /* and goes on */
    close_rig(r);
}

static void closes_with_pieces_on_their_way(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = fetch(1, 0, 0, 1000, 0, 1);
    for (int i = 0; i < 5; i++) {
        ask(r, &m);
        ask_from(r, r->other, &m);
    }
    uv_run(&r->loop, UV_RUN_NOWAIT);
    close_rig(r);
}

static void goes_on_when_a_file_was_cut_short(void **state) {
    (void)state;
    rig *r = open_rig();
    size_t n = r->n_bytes;
    assert_int_equal(truncate(r->path, (off_t)n - 100), 0);
    message m = fetch(1, 0, n - 200, 200, 0, 1);
    ask(r, &m);
    expect_error(r, 1, ERR_FORMAT, "weights.gguf");
    assert_non_null(strstr(r->m.error.text, "cut short"));
    m = fetch(2, 0, n - 200, 100, 0, 1);
    ask(r, &m);
    expect_piece(r, 2, r->bytes + n - 200, 100);
    assert_int_equal(weight_server_look(r->server).outstanding, 0);
    close_rig(r);
}

static void a_file_that_was_changed_is_not_served(void **state) {
    (void)state;
    rig *r = open_rig();
    char why[256] = "";
    const struct timespec times[2] = {{1, 0}, {1, 0}};
    assert_int_equal(utimensat(AT_FDCWD, r->path, times, 0), 0);
    weight_server *second;
    weight_server_config c = r->config;
    c.listen = "inproc://second";
    assert_int_equal(weight_server_open(&second, &c, why, sizeof(why)),
                     ERR_FORMAT);
    assert_non_null(strstr(why, "changed"));
    weight_server_close(second);
    weight_server_free(second);
    close_rig(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_files_there_are),
        cmocka_unit_test(gives_pieces_in_a_row_and_apart),
        cmocka_unit_test(the_manifest_is_the_file_after_the_last),
        cmocka_unit_test(gives_units),
        cmocka_unit_test(gives_nothing_of_a_damaged_unit),
        cmocka_unit_test(refuses_bytes_that_are_not_there),
        cmocka_unit_test(refuses_strangers_and_other_business),
        cmocka_unit_test(garbage_is_answered_and_changes_nothing),
        cmocka_unit_test(reads_a_bounded_number_of_pieces_at_once),
        cmocka_unit_test(closes_with_pieces_on_their_way),
        cmocka_unit_test(goes_on_when_a_file_was_cut_short),
        cmocka_unit_test(a_file_that_was_changed_is_not_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
