/* etcd_child.c - see etcd_child.h. */
#include "tests/support/etcd_child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/support/etcd_sync.h"

#define ETCD "/usr/bin/etcd"

void etcd_child_need(void) {
    if (access(ETCD, X_OK) == 0) return;
    printf("skipped: no " ETCD " (package etcd-server)\n");
    skip();
}

void etcd_child_init_members(etcd_child *e, size_t n) {
    assert_true(n >= 1 && n <= ETCD_CHILD_MEMBERS);
    memset(e, 0, sizeof(*e));
    strcpy(e->folder, "/tmp/roster-etcd-XXXXXX");
    assert_non_null(mkdtemp(e->folder));
    for (size_t i = 0; i < n; i++) {
        snprintf(e->client_url[i], sizeof(e->client_url[i]),
                 "http://127.0.0.1:%d", etcd_sync_free_port());
        snprintf(e->peer_url[i], sizeof(e->peer_url[i]), "http://127.0.0.1:%d",
                 etcd_sync_free_port());
        e->endpoints[i] = e->client_url[i];
    }
    e->n = n;
    strcpy(e->token, "0");
}

void etcd_child_init(etcd_child *e) {
    etcd_child_init_members(e, 1);
}

void etcd_child_use_tls(etcd_child *e) {
    e->tls = true;
    for (size_t i = 0; i < e->n; i++) {
        char *rest = e->client_url[i] + strlen("http");
        memmove(rest + 1, rest, strlen(rest) + 1);
        *rest = 's';
    }
}

/* "m0=http://...,m1=..." */
static void list_members(const etcd_child *e, char *out, size_t size) {
    size_t used = 0;
    for (size_t i = 0; i < e->n; i++)
        used += (size_t)snprintf(out + used, size - used, "%sm%zu=%s",
                                 i > 0 ? "," : "", i, e->peer_url[i]);
}

/* In the child; does not return. */
static void become_etcd(const etcd_child *e, size_t member) {
    char name[8], data[128], log[128], members[512];
    char cert[128], key[128], ca[128];
    snprintf(name, sizeof(name), "m%zu", member);
    snprintf(data, sizeof(data), "%s/%s", e->folder, name);
    snprintf(log, sizeof(log), "%s/%s.log", e->folder, name);
    snprintf(cert, sizeof(cert), "%s/server.pem", e->folder);
    snprintf(key, sizeof(key), "%s/server.key", e->folder);
    snprintf(ca, sizeof(ca), "%s/ca.pem", e->folder);
    list_members(e, members, sizeof(members));
    const char *const args[] = {
        ETCD,
        "--name",
        name,
        "--data-dir",
        data,
        "--listen-client-urls",
        e->client_url[member],
        "--advertise-client-urls",
        e->client_url[member],
        "--listen-peer-urls",
        e->peer_url[member],
        "--initial-advertise-peer-urls",
        e->peer_url[member],
        "--initial-cluster",
        members,
        "--initial-cluster-token",
        e->token,
        "--heartbeat-interval",
        "50",
        "--election-timeout",
        "500",
        e->tls ? "--cert-file" : NULL,
        cert,
        "--key-file",
        key,
        "--trusted-ca-file",
        ca,
        "--client-cert-auth",
        NULL,
    };
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    execv(ETCD, (char *const *)args);
    _exit(127);
}

void etcd_child_start_member(etcd_child *e, size_t member) {
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(127);
        become_etcd(e, member);
    }
    e->pid[member] = pid;
}

void etcd_child_start(etcd_child *e) {
    for (size_t i = 0; i < e->n; i++)
        etcd_child_start_member(e, i);
}

void etcd_child_kill_member(etcd_child *e, size_t member) {
    if (e->pid[member] == 0) return;
    kill(e->pid[member], SIGKILL);
    waitpid(e->pid[member], NULL, 0);
    e->pid[member] = 0;
}

void etcd_child_kill(etcd_child *e) {
    for (size_t i = 0; i < e->n; i++)
        etcd_child_kill_member(e, i);
}

static int remove_one(const char *path, const struct stat *s, int type,
                      struct FTW *at) {
    (void)s;
    (void)type;
    (void)at;
    return remove(path);
}

static void remove_tree(const char *path) {
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void etcd_child_wipe(etcd_child *e) {
    char data[128];
    etcd_child_kill(e);
    for (size_t i = 0; i < e->n; i++) {
        snprintf(data, sizeof(data), "%s/m%zu", e->folder, i);
        remove_tree(data);
    }
    snprintf(e->token, sizeof(e->token), "%d", ++e->wipes);
}

void etcd_child_fini(etcd_child *e) {
    if (e->folder[0] == '\0') return;
    etcd_child_kill(e);
    remove_tree(e->folder);
    e->folder[0] = '\0';
}
