/* proxy_zmtp.h - finds the messages in one direction of a ZMTP 3 connection.
 *
 * The fault proxy sends whole messages twice; bytes sent twice would only break
 * the framing.  A zmtp_stream is fed every byte of its direction and says where
 * each message ends.  What does not begin like ZMTP (HTTP, say) has no
 * messages, and commands (handshake, heartbeats) are none. */
#ifndef TESTS_CHAOS_PROXY_ZMTP_H
#define TESTS_CHAOS_PROXY_ZMTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZMTP_GREETING 64
#define ZMTP_KEEP_MAX ((size_t)1 << 20) /* longer messages are not kept */

typedef struct {
    enum { ZMTP_AT_GREETING, ZMTP_AT_HEAD, ZMTP_IN_BODY, ZMTP_OTHER } at;
    uint8_t head[9]; /* flags and size of the frame that begins */
    size_t n_head;
    uint64_t left; /* bytes of the greeting or frame still to come */
    bool more;     /* the message goes on after this frame */
    bool keep;     /* the message so far is in `kept` */
    uint8_t *kept; /* the frames of the message, heads included */
    size_t n_kept, room;
} zmtp_stream;

void zmtp_init(zmtp_stream *z);
void zmtp_fini(zmtp_stream *z);

/* Take bytes from data[0, n).  Returns how many it took: up to and including
 * the end of the next message, with *ended set, or all.  A message that ended
 * is in z->kept[0, n_kept) until the next call; n_kept is 0 if it was too long.
 */
size_t zmtp_take(zmtp_stream *z, const uint8_t *data, size_t n, bool *ended);

#endif
