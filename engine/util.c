/* util.c - see util.h. */
#include "engine/util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define BACKGROUND_NICE 10

uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint64_t now_ms(void) {
    return now_us() / 1000u;
}

/* On Linux a nice value is a thread's own.  A tenth of a core is left to it
 * where all are busy: who waits for experts waits, but not for ever. */
void thread_in_background(const char *name) {
    pthread_setname_np(pthread_self(), name);
    (void)!nice(BACKGROUND_NICE); /* giving way is never refused */
}

/* calloc() leaves large blocks to the kernel's zero pages, so scratch that is
 * never used costs no memory; what it returned is kept just before the block.
 */
void *aligned_alloc_zero(size_t bytes) {
    size_t align = bytes >= 2 * HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 64;
    size_t total;
    if (!size_add(bytes, align + 63 + sizeof(void *), &total)) return NULL;
    void *raw = calloc(1, total);
    if (raw == NULL) return NULL;

    uintptr_t at = (uintptr_t)raw + sizeof(void *);
    at = (at + align - 1) / align * align;
    ((void **)at)[-1] = raw;
    if (align == HUGE_PAGE_BYTES) {
        madvise((void *)at, bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES,
                MADV_HUGEPAGE);
    }
    return (void *)at;
}

void aligned_release(void *p) {
    if (p != NULL) free(((void **)p)[-1]);
}

void random_bytes(void *out, size_t n) {
    uint8_t *at = out;
    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) abort(); /* keys must not be guessed */
        at += got;
        n -= (size_t)got;
    }
}

uint64_t random_boot_id(void) {
    uint64_t id = 0;
    while (id == 0)
        random_bytes(&id, sizeof(id));
    return id;
}

int utf8_length(const char *s, size_t n) {
    const uint8_t *b = (const uint8_t *)s;
    /* The second byte's range excludes overlong forms, surrogates and what is
     * above U+10FFFF. */
    uint8_t low = 0x80, high = 0xBF;
    int length;

    if (b[0] < 0x80) return 1;
    if (b[0] < 0xC2 || b[0] > 0xF4) return -1;
    if (b[0] < 0xE0) {
        length = 2;
    } else if (b[0] < 0xF0) {
        length = 3;
        if (b[0] == 0xE0) low = 0xA0;
        if (b[0] == 0xED) high = 0x9F;
    } else {
        length = 4;
        if (b[0] == 0xF0) low = 0x90;
        if (b[0] == 0xF4) high = 0x8F;
    }

    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n) return 0;
        if (b[i] < low || b[i] > high) return -1;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

void make_printable(char *text) {
    for (uint8_t *at = (uint8_t *)text; *at != 0; at++) {
        bool wide = at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0;
        if (wide) *at++ = '?'; /* U+0080 to U+009F */
        if (wide || *at < 0x20 || *at == 0x7f) *at = '?';
    }
}

void standard_streams_keep(void) {
    int fd;
    do {
        fd = open("/dev/null", O_RDONLY); /* of no use to 1 and 2 */
        if (fd == STDIN_FILENO) {
            int unreadable = open("/dev/null", O_WRONLY);
            dup2(unreadable, STDIN_FILENO);
            close(unreadable);
        }
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}
