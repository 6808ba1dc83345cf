/* etcd_child.h - a real etcd of one member for tests: a child process on a
 * temporary directory and free ports of the loopback, which dies with the test.
 *
 * Failures to start are the test's failures. */
#ifndef TESTS_SUPPORT_ETCD_CHILD_H
#define TESTS_SUPPORT_ETCD_CHILD_H

#include <sys/types.h>

typedef struct {
    char folder[64];
    char client_url[64], peer_url[64];
    const char *endpoints[1]; /* client_url, as etcd_config wants it */
    char token[32];           /* of the cluster; another one after a wipe */
    int wipes;
    pid_t pid; /* 0: not running */
} etcd_child;

/* Skips the running test, with a line that is counted, if the machine has no
 * etcd. */
void etcd_child_need(void);

/* Chooses the directory and the ports; starts nothing. */
void etcd_child_init(etcd_child *e);
/* Starts it and returns at once: clients wait for it by themselves. */
void etcd_child_start(etcd_child *e);
/* SIGKILL.  The data stays. */
void etcd_child_kill(etcd_child *e);
/* Kill, and forget the data: the next start is another cluster. */
void etcd_child_wipe(etcd_child *e);
void etcd_child_fini(etcd_child *e);

#endif
