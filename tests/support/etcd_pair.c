/* etcd_pair.c - see etcd_pair.h. */
#include "tests/support/etcd_pair.h"
#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

const etcd_config etcd_pair_of_one = {.n_endpoints = 1, .request_ms = 2000};
const etcd_config etcd_pair_of_two = {.n_endpoints = 2, .request_ms = 2000};

void etcd_pair_open(etcd_pair *p, const etcd_config *config) {
    static const char *const nowhere[] = {"http://127.0.0.1:1"};
    etcd_config first = {.endpoints = nowhere, .n_endpoints = 1};
    char why[256] = "";

    /* The servers need the loop, and the client their ports. */
    memset(p, 0, sizeof(*p));
    etcd_sync_open(&p->sync, &first);
    etcd_close(p->sync.etcd, NULL, NULL);
    for (size_t i = 0; i < 2; i++) {
        etcd_script_open(&p->server[i], &p->sync.loop);
        p->endpoints[i] = etcd_script_url(p->server[i]);
    }
    etcd_config c = *config;
    c.endpoints = p->endpoints;
    c.loop = &p->sync.loop;
    int rc = etcd_open(&p->sync.etcd, &c, why, sizeof(why));
    if (rc < 0) fprintf(stderr, "%s\n", why);
    assert(rc == 0);
}

void etcd_pair_end_first(etcd_pair *p) {
    if (p->server[0] != NULL) etcd_script_close(p->server[0]);
    p->server[0] = NULL;
}

void etcd_pair_close(etcd_pair *p) {
    etcd_pair_end_first(p);
    etcd_script_close(p->server[1]);
    etcd_sync_close(&p->sync);
}
