/* config.c - settings by name: one table says where each value goes and how it
 * is read, so a new setting is a row. */
#include "client/lib/config.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define MAX_TIMEOUT_MS (24u * 3600u * 1000u)

typedef enum {
    SETTING_TEXT,
    SETTING_MS,
    SETTING_FD,
    SETTING_BOOL
} setting_kind;

typedef struct {
    const char *key;
    setting_kind kind;
    size_t offset;
    size_t size; /* of a text, with its zero */
} setting;

#define TEXT(name)                                                             \
    {                                                                          \
#name, SETTING_TEXT, offsetof(roster_config, name),                    \
            sizeof(((roster_config *)0)->name)                                 \
    }
#define VALUE(name, kind)                                                      \
    { #name, kind, offsetof(roster_config, name), 0 }

static const setting settings[] = {
    TEXT(endpoint),
    TEXT(cluster),
    TEXT(name),
    VALUE(connect_timeout_ms, SETTING_MS),
    VALUE(timeout_ms, SETTING_MS),
    VALUE(grace_ms, SETTING_MS),
    VALUE(interrupt_fd, SETTING_FD),
    VALUE(insecure, SETTING_BOOL),
    VALUE(failover, SETTING_BOOL),
};

void client_config_defaults(roster_config *c) {
    *c = (roster_config){
        .name = "libroster",
        .connect_timeout_ms = 5000,
        .timeout_ms = 0,
        .grace_ms = 2000,
        .interrupt_fd = -1,
        .failover = true,
    };
}

int roster_config_create(roster_config **out) {
    *out = malloc(sizeof(**out));
    if (*out == NULL) return -ENOMEM;
    client_config_defaults(*out);
    return 0;
}

void roster_config_destroy(roster_config **config) {
    if (config == NULL) return;
    free(*config);
    *config = NULL;
}

static int set_text(char *to, size_t size, const setting *s, const char *value,
                    char *why, size_t why_size) {
    size_t len = strlen(value);
    if (len >= size) {
        return err_why(why, why_size, ERR_USAGE,
                       "%s: longer than %zu characters", s->key, size - 1);
    }
    memcpy(to, value, len + 1);
    return 0;
}

/* Digits alone; false also for what does not fit. */
static bool read_number(const char *text, unsigned long *out) {
    char *end = NULL;

    errno = 0;
    *out = strtoul(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
}

static int set_fd(int *to, const setting *s, const char *value, char *why,
                  size_t why_size) {
    unsigned long fd;

    if (!read_number(value, &fd) || fd > INT_MAX) {
        return err_why(why, why_size, ERR_USAGE,
                       "%s: '%s' is not a file descriptor", s->key, value);
    }
    *to = (int)fd;
    return 0;
}

static int set_ms(uint32_t *to, const setting *s, const char *value, char *why,
                  size_t why_size) {
    unsigned long ms;

    if (!read_number(value, &ms) || ms == 0 || ms > MAX_TIMEOUT_MS) {
        return err_why(why, why_size, ERR_USAGE,
                       "%s: '%s' is not a number of milliseconds from 1 to %u",
                       s->key, value, MAX_TIMEOUT_MS);
    }
    *to = (uint32_t)ms;
    return 0;
}

static int set_bool(bool *to, const setting *s, const char *value, char *why,
                    size_t why_size) {
    static const char *const words[][2] = {
        {"false", "true"}, {"0", "1"}, {"no", "yes"}, {"off", "on"}};

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        for (int truth = 0; truth < 2; truth++) {
            if (strcmp(value, words[i][truth]) != 0) continue;
            *to = truth != 0;
            return 0;
        }
    }
    return err_why(why, why_size, ERR_USAGE, "%s: '%s' is not true or false",
                   s->key, value);
}

int roster_config_set(roster_config *config, const char *key, const char *value,
                      char *why, size_t why_size) {
    if (config == NULL || key == NULL || value == NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "roster_config_set() needs a handle, a key and a value");
    }
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const setting *s = &settings[i];
        if (strcmp(key, s->key) != 0) continue;

        void *to = (char *)config + s->offset;
        switch (s->kind) {
        case SETTING_TEXT:
            return set_text(to, s->size, s, value, why, why_size);
        case SETTING_MS:
            return set_ms(to, s, value, why, why_size);
        case SETTING_FD:
            return set_fd(to, s, value, why, why_size);
        case SETTING_BOOL:
            return set_bool(to, s, value, why, why_size);
        }
    }
    return err_why(why, why_size, ERR_USAGE, "there is no setting '%s'", key);
}

int client_config_endpoint(const roster_config *c, const char **out, char *why,
                           size_t why_size) {
    *out = c->endpoint;
    if (c->endpoint[0] != '\0') return 0;

    *out = getenv("ROSTER_ENDPOINT");
    if (*out != NULL && (*out)[0] != '\0') return 0;
    return err_why(why, why_size, ERR_USAGE,
                   "no endpoint: set one, or ROSTER_ENDPOINT in the "
                   "environment");
}
