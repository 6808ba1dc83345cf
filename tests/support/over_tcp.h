/* over_tcp.h - runs tests whose links are ZeroMQ's over TCP.
 *
 * libzmq is not instrumented: what its input/output thread hands over looks
 * like a race to ThreadSanitizer, under which these tests are skipped. */
#ifndef TESTS_OVER_TCP_H
#define TESTS_OVER_TCP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#ifdef __SANITIZE_THREAD__
#define over_tcp(test)                                                         \
    { #test, ((void)(test), skipped_over_tcp), NULL, NULL, NULL }
static void skipped_over_tcp(void **state) {
    (void)state;
    skip();
}
#else
#define over_tcp(test) cmocka_unit_test(test)
#endif

#endif
