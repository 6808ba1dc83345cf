/* memory.c - see memory.h.
 *
 * A container's limit is that of its cgroup or of any one above it, and
 * /proc/meminfo knows nothing of it.  Within a container the path that
 * /proc/self/cgroup names may be that of the host: then the folders are not
 * there, and the top one is the container's own. */
#include "expert_node/memory.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_SIZE 1024
#define OFFER_PERCENT 80

static FILE *open_under(const char *root, const char *path) {
    char full[PATH_MAX];
    int n = snprintf(full, sizeof(full), "%s%s", root, path);
    if (n < 0 || (size_t)n >= sizeof(full)) return NULL;
    return fopen(full, "re");
}

/* The number in a file of its own; "max" or nothing readable is `otherwise`. */
static uint64_t read_number(const char *root, const char *folder,
                            const char *name, uint64_t otherwise) {
    char path[PATH_MAX], text[64] = "";
    int n = snprintf(path, sizeof(path), "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof(path)) return otherwise;
    FILE *file = open_under(root, path);
    if (file == NULL) return otherwise;
    bool got = fgets(text, sizeof(text), file) != NULL;
    fclose(file);

    char *end;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    return got && end != text && errno == 0 ? number : otherwise;
}

static uint64_t machine_available(const char *root) {
    FILE *file = open_under(root, "/proc/meminfo");
    if (file == NULL) return 0;
    char line[LINE_SIZE];
    unsigned long long kib = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    }
    fclose(file);
    return (uint64_t)kib << 10;
}

/* What one cgroup has left; UINT64_MAX: it has no limit. */
static uint64_t group_left(const char *root, const char *folder, bool v2) {
    uint64_t limit = read_number(
        root, folder, v2 ? "memory.max" : "memory.limit_in_bytes", UINT64_MAX);
    uint64_t used = read_number(
        root, folder, v2 ? "memory.current" : "memory.usage_in_bytes", 0);
    if (limit == UINT64_MAX) return limit;
    return limit > used ? limit - used : 0;
}

/* The least that a cgroup and those above it have left. */
static uint64_t groups_left(const char *root, const char *base,
                            const char *path, bool v2) {
    char folder[PATH_MAX];
    int n = snprintf(folder, sizeof(folder), "%s%s", base, path);
    if (n < 0 || (size_t)n >= sizeof(folder)) return UINT64_MAX;

    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t left = group_left(root, folder, v2);
        if (left < least) least = left;
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= strlen(base) || slash == NULL) return least;
        *slash = '\0';
    }
}

/* A line of /proc/self/cgroup: "0::/PATH", or "N:CONTROLLERS:/PATH". */
static uint64_t line_left(const char *root, char *line) {
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
    if (path == NULL) return UINT64_MAX;
    *path++ = '\0';
    controllers++;
    if (controllers[0] == '\0') {
        return groups_left(root, "/sys/fs/cgroup", path, true);
    }
    if (strstr(controllers, "memory") == NULL) return UINT64_MAX;
    return groups_left(root, "/sys/fs/cgroup/memory", path, false);
}

uint64_t memory_available(const char *root) {
    uint64_t least = machine_available(root);
    FILE *file = open_under(root, "/proc/self/cgroup");
    if (file == NULL) return least;
    char line[LINE_SIZE];
    while (fgets(line, sizeof(line), file) != NULL) {
        uint64_t left = line_left(root, line);
        if (left < least) least = left;
    }
    fclose(file);
    return least;
}

uint64_t memory_offer(const char *root) {
    return memory_available(root) / 100 * OFFER_PERCENT;
}
