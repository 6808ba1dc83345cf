/* test_clients.c - who is connected, what waits for whom: over links in memory
 * whose queues are as short as a test wants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/clients.h"
#include "engine/log.h"

#define QUEUE 2
#define MB ((size_t)1 << 20)
#define MOST 1100

typedef struct {
    struct link *server, *links[MOST];
    uint32_t n_links;
    clients *c;
    uint64_t last_id;
    /* what was called */
    uint32_t n_held, n_released, n_gone;
    uint64_t last_gone;
} rig;

static void on_hold(void *ctx, const request *r, bool held) {
    rig *g = ctx;
    (void)r;
    if (held) g->n_held++;
    if (!held) g->n_released++;
}

static void on_gone(void *ctx, const request *r) {
    rig *g = ctx;
    g->n_gone++;
    g->last_gone = r->id;
}

static rig *open_rig(void) {
    log_setup("test", (log_level)(LOG_ERROR + 1));
    rig *g = calloc(1, sizeof(*g));
    assert_non_null(g);
    struct link *unused;
    assert_int_equal(link_memory(&unused, &g->server, QUEUE), 0);
    link_close(unused);
    clients_config config = {g->server, on_hold, on_gone, g};
    assert_int_equal(clients_new(&g->c, &config), 0);
    return g;
}

static void close_rig(rig *g) {
    for (uint32_t i = 0; i < g->n_links; i++)
        link_close(g->links[i]);
    clients_free(g->c);
    link_close(g->server);
    free(g);
}

/* A new client that has said something. */
static client *connect_client(rig *g) {
    struct link **l = &g->links[g->n_links++];
    assert_int_equal(link_memory(l, &g->server, QUEUE), 0);
    frames f;
    frames_init(&f);
    assert_non_null(frames_add(&f, 1));
    assert_int_equal(link_send(*l, &f), 0);
    frames_init(&f);
    assert_int_equal(link_recv(g->server, &f), 0);
    client *k = clients_of(g->c, &f);
    frames_fini(&f);
    return k;
}

static void disconnect(rig *g, uint32_t i) {
    link_close(g->links[i]);
    g->links[i] = NULL;
}

static request *add(rig *g, client *of, uint64_t request_id) {
    message m = {.request_id = request_id, .boot_id = 5};
    return clients_add_request(g->c, of, ++g->last_id, &m);
}

/* Messages are told apart by their sizes. */
static bool send_bytes(rig *g, client *to, size_t bytes) {
    frames f;
    frames_init(&f);
    assert_non_null(frames_add(&f, bytes));
    bool waits = clients_send(g->c, to, &f);
    assert_int_equal(f.count, 0); /* taken */
    return waits;
}

static size_t receive(rig *g, uint32_t i) {
    frames f;
    frames_init(&f);
    if (link_recv(g->links[i], &f) != 0) return 0;
    size_t bytes = frames_bytes(&f, 0);
    frames_fini(&f);
    return bytes;
}

static bool flush(rig *g) {
    bool moved;
    return clients_flush(g->c, &moved);
}

/* ---- sending ---- */

static void sends_at_once_to_a_client_that_reads(void **state) {
    (void)state;
    rig *g = open_rig();
    client *k = connect_client(g);
    for (size_t i = 1; i <= 10; i++) {
        assert_false(send_bytes(g, k, i));
        assert_int_equal(receive(g, 0), i);
    }
    assert_false(clients_waiting(g->c));
    close_rig(g);
}

static void keeps_the_order_of_what_waits(void **state) {
    (void)state;
    rig *g = open_rig();
    client *k = connect_client(g);
    for (size_t i = 1; i <= 10; i++) {
        assert_int_equal(send_bytes(g, k, i), i == QUEUE + 1);
    }
    assert_true(clients_waiting(g->c));
    for (size_t i = 1; i <= 10; i++) {
        assert_int_equal(receive(g, 0), i);
        if (i == 3) send_bytes(g, k, 11); /* behind the others */
        flush(g);
    }
    assert_int_equal(receive(g, 0), 11);
    assert_false(clients_waiting(g->c));
    close_rig(g);
}

static void says_whether_a_flush_moved_anything(void **state) {
    (void)state;
    rig *g = open_rig();
    client *k = connect_client(g);
    for (size_t i = 0; i < QUEUE + 2; i++)
        send_bytes(g, k, 1);
    bool moved;
    assert_true(clients_flush(g->c, &moved));
    assert_false(moved);
    receive(g, 0);
    assert_true(clients_flush(g->c, &moved));
    assert_true(moved);
    receive(g, 0);
    assert_false(clients_flush(g->c, &moved));
    assert_true(moved);
    assert_false(clients_flush(g->c, &moved));
    assert_false(moved);
    close_rig(g);
}

/* ---- a client that does not read ---- */

static void holds_the_requests_of_a_full_client_alone(void **state) {
    (void)state;
    rig *g = open_rig();
    client *full = connect_client(g), *other = connect_client(g);
    assert_non_null(add(g, full, 1));
    assert_non_null(add(g, full, 2));
    assert_non_null(add(g, other, 1));
    for (int i = 0; i < QUEUE; i++)
        send_bytes(g, full, MB);
    for (size_t i = 0; i < CLIENT_HOLD_BYTES / MB - 1; i++) {
        send_bytes(g, full, MB);
    }
    assert_false(clients_held(full));
    send_bytes(g, full, MB);
    send_bytes(g, full, MB);
    assert_true(clients_held(full));
    assert_int_equal(g->n_held, 2);
    assert_false(clients_held(other));
    assert_false(send_bytes(g, other, 7));
    assert_int_equal(receive(g, 1), 7);

    while (g->n_released == 0) {
        assert_int_equal(receive(g, 0), MB);
        flush(g);
    }
    assert_int_equal(g->n_released, 2);
    assert_true(clients_waiting(g->c)); /* let go before it is empty */
    close_rig(g);
}

static void cuts_off_who_never_reads(void **state) {
    (void)state;
    rig *g = open_rig();
    client *full = connect_client(g), *other = connect_client(g);
    assert_non_null(add(g, full, 1));
    assert_non_null(add(g, other, 1));
    for (size_t i = 0; i < CLIENT_MOST_BYTES / MB + QUEUE; i++) {
        send_bytes(g, full, MB);
        if (g->n_gone > 0) break;
    }
    assert_int_equal(g->n_gone, 1);
    assert_int_equal(g->last_gone, 1);
    assert_int_equal(clients_n_requests(g->c), 1);
    assert_null(clients_find(g->c, 1));
    assert_non_null(clients_find(g->c, 2));
    assert_false(clients_waiting(g->c)); /* its memory is free again */
    close_rig(g);
}

/* ---- clients that leave ---- */

static void a_client_that_left_loses_its_requests(void **state) {
    (void)state;
    rig *g = open_rig();
    client *gone = connect_client(g), *stays = connect_client(g);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_non_null(add(g, gone, id));
        assert_non_null(add(g, stays, id));
    }
    disconnect(g, 0);
    send_bytes(g, gone, 1); /* finds out; `gone` is no client any more */
    assert_int_equal(g->n_gone, 3);
    assert_int_equal(clients_n_requests(g->c), 3);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_non_null(clients_find_of(g->c, stays, id));
    }
    close_rig(g);
}

static void a_client_may_leave_while_its_answers_wait(void **state) {
    (void)state;
    rig *g = open_rig();
    client *a = connect_client(g), *gone = connect_client(g),
           *b = connect_client(g);
    for (int i = 0; i < QUEUE + 3; i++) {
        send_bytes(g, a, 1);
        send_bytes(g, gone, 2);
        send_bytes(g, b, 3);
    }
    assert_non_null(add(g, gone, 1));
    disconnect(g, 1);
    assert_true(flush(g));
    assert_int_equal(g->n_gone, 1);
    for (int i = 0; i < QUEUE + 3; i++) {
        assert_int_equal(receive(g, 0), 1);
        assert_int_equal(receive(g, 2), 3);
        flush(g);
    }
    assert_false(clients_waiting(g->c));
    close_rig(g);
}

static int build(void *ctx, frames *f) {
    uint32_t *built = ctx;
    ++*built;
    return frames_add(f, 9) != NULL ? 0 : -ENOMEM;
}

static int build_nothing(void *ctx, frames *f) {
    (void)ctx;
    (void)f;
    return -ENOMEM;
}

static void a_probe_finds_out_who_left_in_silence(void **state) {
    (void)state;
    rig *g = open_rig();
    client *quiet = connect_client(g), *gone = connect_client(g);
    connect_client(g); /* has no requests */
    client *busy = connect_client(g);
    assert_non_null(add(g, quiet, 1));
    assert_non_null(add(g, gone, 1));
    assert_non_null(add(g, busy, 1));
    send_bytes(g, busy, 1);
    disconnect(g, 1);

    uint32_t built = 0;
    clients_probe(g->c, build, &built);
    assert_int_equal(built, 2); /* the quiet one and the one that left */
    assert_int_equal(g->n_gone, 1);
    assert_int_equal(receive(g, 0), 9);
    assert_int_equal(receive(g, 2), 0);
    assert_int_equal(receive(g, 3), 1);
    assert_int_equal(receive(g, 3), 0);
    clients_probe(g->c, build_nothing, NULL); /* harms nobody */
    assert_int_equal(clients_n_requests(g->c), 2);
    close_rig(g);
}

static void a_full_client_is_not_probed(void **state) {
    (void)state;
    rig *g = open_rig();
    client *k = connect_client(g);
    assert_non_null(add(g, k, 1));
    for (int i = 0; i < QUEUE + 1; i++)
        send_bytes(g, k, 1);
    uint32_t built = 0;
    clients_probe(g->c, build, &built);
    clients_probe(g->c, build, &built);
    assert_int_equal(built, 0);
    close_rig(g);
}

/* ---- requests ---- */

static void finds_requests_by_either_number(void **state) {
    (void)state;
    rig *g = open_rig();
    client *a = connect_client(g), *b = connect_client(g);
    request *r = add(g, a, 70), *q = add(g, b, 70);
    assert_ptr_equal(clients_find(g->c, r->id), r);
    assert_ptr_equal(clients_find_of(g->c, b, 70), q);
    assert_null(clients_find_of(g->c, a, 71));
    assert_null(clients_find(g->c, 99));
    clients_drop_request(g->c, r);
    assert_null(clients_find_of(g->c, a, 70));
    assert_ptr_equal(clients_any_request(g->c), q);
    clients_drop_request(g->c, q);
    assert_null(clients_any_request(g->c));
    assert_int_equal(g->n_gone, 0); /* dropped by us, not by the client */
    close_rig(g);
}

static void refuses_a_request_id_that_is_in_use(void **state) {
    (void)state;
    rig *g = open_rig();
    client *k = connect_client(g);
    request *r = add(g, k, 1);
    assert_non_null(r);
    assert_null(add(g, k, 1));
    clients_drop_request(g->c, r);
    assert_non_null(add(g, k, 1));
    close_rig(g);
}

/* ---- many clients ---- */

static void knows_a_client_again(void **state) {
    (void)state;
    rig *g = open_rig();
    client *k = connect_client(g);
    frames f;
    frames_init(&f);
    frames_add(&f, 1);
    assert_int_equal(link_send(g->links[0], &f), 0);
    frames_init(&f);
    assert_int_equal(link_recv(g->server, &f), 0);
    assert_ptr_equal(clients_of(g->c, &f), k);
    frames_fini(&f);
    close_rig(g);
}

static void forgets_an_idle_client_for_a_new_one(void **state) {
    (void)state;
    rig *g = open_rig();
    client *busy = connect_client(g);
    assert_non_null(add(g, busy, 1));
    for (uint32_t i = 0; i < CLIENTS_MAX + 20; i++) {
        assert_non_null(connect_client(g));
    }
    assert_non_null(clients_find_of(g->c, busy, 1));
    close_rig(g);
}

static void has_no_room_when_everybody_is_busy(void **state) {
    (void)state;
    rig *g = open_rig();
    for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
        assert_non_null(add(g, connect_client(g), 1));
    }
    assert_null(connect_client(g));
    clients_drop_request(g->c, clients_find(g->c, 500));
    assert_non_null(connect_client(g));
    close_rig(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_at_once_to_a_client_that_reads),
        cmocka_unit_test(keeps_the_order_of_what_waits),
        cmocka_unit_test(says_whether_a_flush_moved_anything),
        cmocka_unit_test(holds_the_requests_of_a_full_client_alone),
        cmocka_unit_test(cuts_off_who_never_reads),
        cmocka_unit_test(a_client_that_left_loses_its_requests),
        cmocka_unit_test(a_client_may_leave_while_its_answers_wait),
        cmocka_unit_test(a_probe_finds_out_who_left_in_silence),
        cmocka_unit_test(a_full_client_is_not_probed),
        cmocka_unit_test(finds_requests_by_either_number),
        cmocka_unit_test(refuses_a_request_id_that_is_in_use),
        cmocka_unit_test(knows_a_client_again),
        cmocka_unit_test(forgets_an_idle_client_for_a_new_one),
        cmocka_unit_test(has_no_room_when_everybody_is_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
