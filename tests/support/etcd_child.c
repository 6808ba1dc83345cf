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

void etcd_child_init(etcd_child *e) {
    memset(e, 0, sizeof(*e));
    strcpy(e->folder, "/tmp/roster-etcd-XXXXXX");
    assert_non_null(mkdtemp(e->folder));
    snprintf(e->client_url, sizeof(e->client_url), "http://127.0.0.1:%d",
             etcd_sync_free_port());
    snprintf(e->peer_url, sizeof(e->peer_url), "http://127.0.0.1:%d",
             etcd_sync_free_port());
    e->endpoints[0] = e->client_url;
    strcpy(e->token, "0");
}

/* In the child; does not return. */
static void become_etcd(const etcd_child *e) {
    char data[128], log[128], members[128];
    snprintf(data, sizeof(data), "%s/data", e->folder);
    snprintf(log, sizeof(log), "%s/log", e->folder);
    snprintf(members, sizeof(members), "m=%s", e->peer_url);
    const char *const args[] = {ETCD,          "--name",
                                "m",           "--data-dir",
                                data,          "--listen-client-urls",
                                e->client_url, "--advertise-client-urls",
                                e->client_url, "--listen-peer-urls",
                                e->peer_url,   "--initial-advertise-peer-urls",
                                e->peer_url,   "--initial-cluster",
                                members,       "--initial-cluster-token",
                                e->token,      NULL};
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    execv(ETCD, (char *const *)args);
    _exit(127);
}

void etcd_child_start(etcd_child *e) {
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(127);
        become_etcd(e);
    }
    e->pid = pid;
}

void etcd_child_kill(etcd_child *e) {
    if (e->pid == 0) return;
    kill(e->pid, SIGKILL);
    waitpid(e->pid, NULL, 0);
    e->pid = 0;
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
    snprintf(data, sizeof(data), "%s/data", e->folder);
    remove_tree(data);
    snprintf(e->token, sizeof(e->token), "%d", ++e->wipes);
}

void etcd_child_fini(etcd_child *e) {
    if (e->folder[0] == '\0') return;
    etcd_child_kill(e);
    remove_tree(e->folder);
    e->folder[0] = '\0';
}
