/* test_mailbox.c - what the loop and the step thread leave for each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <stdlib.h>
#include "coordinator/mailbox.h"
#include "engine/err.h"

static step_request make(uint64_t id) {
    step_request q = {.id = id, .n_tokens = 1, .max_new = 1};
    q.tokens = calloc(1, sizeof(*q.tokens));
    assert_non_null(q.tokens);
    return q;
}

static bool awake(const mailbox *m) {
    struct pollfd fd = {.fd = mailbox_fd(m), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

static void is_full_until_the_loop_has_done(void **state) {
    (void)state;
    mailbox *m;
    assert_int_equal(mailbox_new(&m, 1, NULL), 0);
    for (uint32_t i = 0; i < STEP_MAX_EVENTS; i++) {
        assert_false(mailbox_full(m));
        step_event *e = calloc(1, sizeof(*e));
        e->bytes = sizeof(*e);
        mailbox_tell(m, e);
    }
    assert_true(mailbox_full(m));
    step_event *e = mailbox_events(m);
    assert_false(mailbox_has_events(m));
    assert_true(mailbox_full(m)); /* taken, not done with */
    while (e != NULL) {
        step_event *next = e->next;
        step_event_free(e);
        e = next;
    }
    mailbox_events_done(m);
    assert_false(mailbox_full(m));
    mailbox_free(m);
    mailbox_free(NULL);
}

static void gives_news_once_and_in_order(void **state) {
    (void)state;
    mailbox *m;
    assert_int_equal(mailbox_new(&m, 3, NULL), 0);
    for (uint64_t id = 1; id <= 3; id++) {
        step_request q = make(id);
        assert_int_equal(mailbox_submit(m, &q), 0);
    }
    ticket got[3];
    bool changed;
    assert_int_equal(mailbox_take(m, got, &changed), 3);
    assert_false(changed);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_int_equal(got[id - 1].id, id);
        sequence_free(got[id - 1].seq, NULL);
    }
    mailbox_nodes_changed(m);
    assert_int_equal(mailbox_hold(m, 2, true), 0);
    assert_int_equal(mailbox_cancel(m, 2), 0);
    assert_int_equal(mailbox_take(m, got, &changed), 1);
    assert_true(changed && got[0].held && got[0].cancelled);
    assert_null(got[0].seq);
    assert_int_equal(mailbox_take(m, got, &changed), 0);
    mailbox_drop(m, 2);
    assert_int_equal(mailbox_hold(m, 2, false), ERR_NOT_HERE);
    mailbox_free(m);
}

/* A refused one's tokens are still the caller's. */
static void refuses_beyond_its_capacity(void **state) {
    (void)state;
    mailbox *m;
    assert_int_equal(mailbox_new(&m, 1, NULL), 0);
    step_request q = make(1), late = make(2);
    assert_int_equal(mailbox_submit(m, &q), 0);
    assert_int_equal(mailbox_submit(m, &late), ERR_OVERLOADED);
    assert_int_equal(mailbox_cancel(m, 1), 0); /* nobody has seen it: gone */
    assert_int_equal(mailbox_submit(m, &late), 0);
    mailbox_free(m);
}

static void every_wish_wakes_and_a_look_sleeps_again(void **state) {
    (void)state;
    mailbox *m;
    ticket got[2];
    bool changed;
    assert_int_equal(mailbox_new(&m, 2, NULL), 0);
    assert_false(awake(m));
    step_request q = make(1);
    assert_int_equal(mailbox_submit(m, &q), 0);
    assert_true(awake(m));
    assert_int_equal(mailbox_take(m, got, &changed), 1);
    sequence_free(got[0].seq, NULL);
    assert_false(awake(m));
    assert_int_equal(mailbox_hold(m, 1, true), 0);
    assert_true(awake(m));
    assert_int_equal(mailbox_hold(m, 1, false), 0);
    assert_int_equal(mailbox_cancel(m, 1), 0);
    mailbox_nodes_changed(m);
    assert_int_equal(mailbox_take(m, got, &changed), 1); /* all at once */
    assert_true(got[0].cancelled && !got[0].held && changed);
    assert_false(awake(m));
    mailbox_events_done(m); /* it was not full: nobody waits for that */
    assert_false(awake(m));
    mailbox_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_full_until_the_loop_has_done),
        cmocka_unit_test(gives_news_once_and_in_order),
        cmocka_unit_test(refuses_beyond_its_capacity),
        cmocka_unit_test(every_wish_wakes_and_a_look_sleeps_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
