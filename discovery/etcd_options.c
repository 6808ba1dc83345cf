/* etcd_options.c - rows, checks, and the way to libetcd's own settings.
 *
 * An endpoint may be given once per option or several with commas, since a list
 * keeps commas that come from the command line.  A password comes from a file:
 * a command line can be read by everybody on the machine. */
#include "discovery/etcd_options.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define TTL_DEFAULT_MS 5000
#define TTL_LEAST_MS 2000 /* what etcd itself keeps */
#define TTL_MOST_MS (10u * 60 * 1000)
#define URL_MAX 255

void etcd_options_init(etcd_options *o) {
    *o = (etcd_options){.ttl_ms = TTL_DEFAULT_MS};
}

void etcd_options_fini(etcd_options *o) {
    free(o->text);
    explicit_bzero(o->password, sizeof(o->password));
    o->text = NULL;
    o->n_endpoints = 0;
}

size_t etcd_options_append(etcd_options *o, option *table, size_t count) {
    const option rows[] = {
        {"etcd", 0, OPTION_LIST, &o->urls, "URL[,URL]",
         "Client endpoint of the etcd that the rack registers with, such as "
         "http://127.0.0.1:2379; several of one etcd cluster with commas, or "
         "repeated."},
        {"etcd-user", 0, OPTION_STRING, &o->user, "NAME",
         "User name for etcd; needs --etcd-password-file."},
        {"etcd-password-file", 0, OPTION_STRING, &o->password_file, "FILE",
         "File whose first line is the user's password."},
        {"etcd-ca", 0, OPTION_STRING, &o->ca_file, "FILE",
         "Certificate authorities (PEM) that etcd's certificate is checked "
         "against, instead of the system's."},
        {"etcd-cert", 0, OPTION_STRING, &o->cert_file, "FILE",
         "Client certificate (PEM) for etcd; needs --etcd-key.  It must have "
         "no common name, or etcd's gateway refuses it."},
        {"etcd-key", 0, OPTION_STRING, &o->key_file, "FILE",
         "Private key (PEM) of --etcd-cert."},
        {"etcd-ttl", 0, OPTION_MS, &o->ttl_ms, "TIME",
         "How long this process stays registered without a sign of life; 2s "
         "is the least."},
    };
    _Static_assert(ARRAY_LEN(rows) == ETCD_OPTIONS_ROWS, "rows of the table");
    memcpy(table + count, rows, sizeof(rows));
    return count + ARRAY_LEN(rows);
}

static bool begins_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static int add_endpoint(etcd_options *o, const char *url, char *why,
                        size_t why_size) {
    if (strchr(url, '@') != NULL) { /* not to be repeated in a log */
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd: an endpoint has no user or password in it; "
                       "see --etcd-user and --etcd-password-file");
    }
    if (!begins_with(url, "http://") && !begins_with(url, "https://")) {
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd '%.80s': expected http://HOST:PORT or "
                       "https://HOST:PORT",
                       url);
    }
    if (strlen(url) > URL_MAX) {
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd '%.40s...': longer than %d characters", url,
                       URL_MAX);
    }
    if (o->n_endpoints == ETCD_OPTIONS_MAX_ENDPOINTS) {
        return err_why(why, why_size, ERR_USAGE, "--etcd: at most %d endpoints",
                       ETCD_OPTIONS_MAX_ENDPOINTS);
    }
    o->endpoints[o->n_endpoints++] = url;
    return 0;
}

/* All items one after the other, with zero bytes where commas were. */
static int split_endpoints(etcd_options *o, char *why, size_t why_size) {
    size_t bytes = 0;
    for (size_t i = 0; i < o->urls.count; i++)
        bytes += strlen(o->urls.items[i]) + 1;
    o->text = malloc(bytes + 1);
    if (o->text == NULL) return err_why(why, why_size, -ENOMEM, "no memory");

    char *at = o->text;
    for (size_t i = 0; i < o->urls.count; i++) {
        const char *item = o->urls.items[i];
        for (;;) {
            size_t len = strcspn(item, ",");
            memcpy(at, item, len);
            at[len] = '\0';
            int rc = add_endpoint(o, at, why, why_size);
            if (rc < 0) return rc;
            at += len + 1;
            if (item[len] == '\0') break;
            item += len + 1;
        }
    }
    return 0;
}

static int read_password(etcd_options *o, char *why, size_t why_size) {
    FILE *file = fopen(o->password_file, "re");
    if (file == NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd-password-file '%s': %s", o->password_file,
                       strerror(errno));
    }
    /* Unbuffered, so that no copy stays behind in freed memory. */
    setvbuf(file, NULL, _IONBF, 0);
    size_t len = fread(o->password, 1, sizeof(o->password), file);
    bool failed = ferror(file) != 0;
    fclose(file);
    if (failed) {
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd-password-file '%s': cannot be read",
                       o->password_file);
    }
    size_t line = 0;
    while (line < len && strchr("\r\n", o->password[line]) == NULL)
        line++; /* strchr() also finds a zero byte */
    if (line == 0 || line == sizeof(o->password) ||
        (line < len && o->password[line] == '\0')) {
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd-password-file '%s': expected a line of 1 to %d "
                       "characters",
                       o->password_file, ETCD_OPTIONS_PASSWORD_MAX);
    }
    memset(o->password + line, 0, sizeof(o->password) - line);
    return 0;
}

/* Options that only make sense together. */
static int check_company(const etcd_options *o, char *why, size_t why_size) {
    bool extras = o->user != NULL || o->password_file != NULL ||
                  o->ca_file != NULL || o->cert_file != NULL ||
                  o->key_file != NULL;
    if (o->urls.count == 0 && extras) {
        return err_why(why, why_size, ERR_USAGE,
                       "options that begin with --etcd- need --etcd");
    }
    if ((o->user == NULL) != (o->password_file == NULL)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd-user and --etcd-password-file need each other");
    }
    if ((o->cert_file == NULL) != (o->key_file == NULL)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd-cert and --etcd-key need each other");
    }
    if (o->ttl_ms < TTL_LEAST_MS || o->ttl_ms > TTL_MOST_MS) {
        return err_why(why, why_size, ERR_USAGE,
                       "--etcd-ttl: expected 2s to 10m");
    }
    return 0;
}

int etcd_options_check(etcd_options *o, char *why, size_t why_size) {
    int rc = check_company(o, why, why_size);
    if (rc == 0) rc = split_endpoints(o, why, why_size);
    if (rc == 0 && o->password_file != NULL) {
        rc = read_password(o, why, why_size);
    }
    return rc;
}

char *etcd_options_text(const etcd_options *o, char *out, size_t size) {
    assert(size > 0);
    out[0] = '\0';
    size_t used = 0;
    for (size_t i = 0; i < o->n_endpoints && used < size; i++) {
        int n = snprintf(out + used, size - used, "%s%s", i > 0 ? ", " : "",
                         o->endpoints[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    return out;
}

etcd_config etcd_options_config(const etcd_options *o) {
    return (etcd_config){
        .endpoints = o->endpoints,
        .n_endpoints = o->n_endpoints,
        .user = o->user,
        .password = o->user != NULL ? o->password : NULL,
        .ca_file = o->ca_file,
        .cert_file = o->cert_file,
        .key_file = o->key_file,
    };
}

uint32_t etcd_options_ttl_s(const etcd_options *o) {
    return (o->ttl_ms + 999) / 1000;
}
