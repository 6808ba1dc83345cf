/* output.c - see output.h. */
#include "client/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/err.h"

/* mkstemp() makes private files; ours get what open() would have given. */
static void give_usual_mode(int fd) {
    mode_t mask = umask(0);
    umask(mask);
    (void)fchmod(fd, 0666 & ~mask);
}

static int open_beside(output *o) {
    if (asprintf(&o->temp, "%s.XXXXXX", o->path) < 0) {
        o->temp = NULL;
        return -ENOMEM;
    }
    int fd = mkostemp(o->temp, O_CLOEXEC);
    if (fd < 0) {
        int rc = -errno;
        free(o->temp); /* there is nothing to remove under that name */
        o->temp = NULL;
        return rc;
    }
    give_usual_mode(fd);
    o->file = fdopen(fd, "w");
    if (o->file != NULL) return 0;
    int rc = -errno;
    close(fd);
    return rc;
}

int output_open(output *o, const char *path, char *why, size_t why_size) {
    struct stat st;

    *o = (output){.path = strdup(path)};
    int rc = 0;
    if (o->path == NULL) {
        rc = -ENOMEM;
    } else if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        o->file = fopen(path, "we");
        if (o->file == NULL) rc = -errno;
    } else {
        rc = open_beside(o);
    }
    if (rc == 0) return 0;
    output_discard(o);
    return err_why(why, why_size, rc, "cannot write %s: %s", path,
                   err_text(rc));
}

int output_commit(output *o, char *why, size_t why_size) {
    int rc = 0;

    errno = 0;
    if (ferror(o->file) || fflush(o->file) != 0) rc = errno ? -errno : -EIO;
    if (fclose(o->file) != 0 && rc == 0) rc = -errno;
    o->file = NULL;
    if (rc == 0 && o->temp != NULL && rename(o->temp, o->path) < 0) rc = -errno;
    if (rc < 0) {
        err_why(why, why_size, rc, "cannot write %s: %s", o->path,
                err_text(rc));
    } else {
        free(o->temp);
        o->temp = NULL;
    }
    output_discard(o);
    return rc;
}

void output_discard(output *o) {
    if (o->file != NULL) fclose(o->file);
    if (o->temp != NULL) unlink(o->temp);
    free(o->temp);
    free(o->path);
    *o = (output){0};
}
