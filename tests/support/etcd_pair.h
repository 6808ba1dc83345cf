/* etcd_pair.h - a client of two scripted servers, all on one loop. */
#ifndef TESTS_SUPPORT_ETCD_PAIR_H
#define TESTS_SUPPORT_ETCD_PAIR_H

#include "tests/support/etcd_script.h"
#include "tests/support/etcd_sync.h"

typedef struct {
    etcd_sync sync;
    etcd_script *server[2]; /* [0] is asked first; NULL: ended */
    const char *endpoints[2];
} etcd_pair;

/* Patient for two seconds. */
extern const etcd_config etcd_pair_of_one, etcd_pair_of_two;

/* The client knows as many of the servers as config->n_endpoints says. */
void etcd_pair_open(etcd_pair *p, const etcd_config *config);
void etcd_pair_close(etcd_pair *p);
/* The first server is no more: connecting to it is refused. */
void etcd_pair_end_first(etcd_pair *p);

#endif
