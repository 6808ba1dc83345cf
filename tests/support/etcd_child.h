/* etcd_child.h - a real etcd for tests, of one member or a few: child processes
 * on a temporary directory and free ports of the loopback, which die with the
 * test.
 *
 * Failures to start are the test's failures. */
#ifndef TESTS_SUPPORT_ETCD_CHILD_H
#define TESTS_SUPPORT_ETCD_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define ETCD_CHILD_MEMBERS 3

typedef struct {
    char folder[64];
    size_t n; /* members */
    char client_url[ETCD_CHILD_MEMBERS][64], peer_url[ETCD_CHILD_MEMBERS][64];
    const char *endpoints[ETCD_CHILD_MEMBERS]; /* as etcd_config wants them */
    char token[32]; /* of the cluster; another one after a wipe */
    int wipes;
    bool tls;
    pid_t pid[ETCD_CHILD_MEMBERS]; /* 0: not running */
} etcd_child;

/* Skips the running test, with a line that is counted, if the machine has no
 * etcd. */
void etcd_child_need(void);

/* Chooses the directory and the ports; starts nothing. */
void etcd_child_init(etcd_child *e);
void etcd_child_init_members(etcd_child *e, size_t n);
/* Clients are to speak TLS, before the first start: the directory has ca.pem,
 * server.pem and server.key, and clients need a certificate as well. */
void etcd_child_use_tls(etcd_child *e);
/* Starts all members and returns at once: clients wait for them by themselves.
 */
void etcd_child_start(etcd_child *e);
void etcd_child_start_member(etcd_child *e, size_t member);
/* SIGKILL.  The data stays. */
void etcd_child_kill(etcd_child *e);
void etcd_child_kill_member(etcd_child *e, size_t member);
/* Kill, and forget the data: the next start is another cluster. */
void etcd_child_wipe(etcd_child *e);
void etcd_child_fini(etcd_child *e);

#endif
