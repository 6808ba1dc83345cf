/* top_picture.h - one picture of `roster top`: what a rack did between two
 * looks at its status. */
#ifndef CLIENT_TOP_PICTURE_H
#define CLIENT_TOP_PICTURE_H

#include <jansson.h>
#include <stdint.h>

/* Two looks and the time between them. */
typedef struct {
    const json_t *now, *before; /* before: NULL at first */
    double seconds;
    uint64_t most_to_load; /* since the moves under way began; 0: none are */
} looks;

/* Per second; a counter that went back belongs to a process that was started
 * again: it counts from zero. */
double looks_rate(const looks *l, const json_t *now, const json_t *before,
                  const char *key);

/* To stdout, at most 100 columns. */
void top_picture_print(const looks *l);

#endif
