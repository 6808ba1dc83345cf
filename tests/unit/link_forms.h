/* link_forms.h - runs a test over the memory form of link, over ZeroMQ's, and
 * over the one between processes that share memory.
 *
 * The file that includes it has the fixtures open_memory(), open_zmq(),
 * open_shared() where it uses SHARED() or ALL(), and close_fixture(). */
#ifndef TESTS_LINK_FORMS_H
#define TESTS_LINK_FORMS_H

#define MEMORY(test)                                                           \
    cmocka_unit_test_setup_teardown(test, open_memory, close_fixture)
#ifdef __SANITIZE_THREAD__
static int close_fixture(void **state);
/* libzmq is not instrumented: whatever its threads hand over looks like a race.
 * The memory form is what runs under this sanitizer. */
static void skipped(void **state) {
    (void)state;
    (void)close_fixture;
    skip();
}
#define ZMQ_FROM(open, test)                                                   \
    { #test, ((void)(test), (void)(open), skipped), NULL, NULL, NULL }
#else
#define ZMQ_FROM(open, test)                                                   \
    cmocka_unit_test_setup_teardown(test, open, close_fixture)
#endif
#define ZMQ(test) ZMQ_FROM(open_zmq, test)
#define SHARED(test) ZMQ_FROM(open_shared, test)
#define BOTH(test) MEMORY(test), ZMQ(test)
#define ALL(test) BOTH(test), SHARED(test)

#endif
