/* message_samples.h - one well-formed message of every kind, with every field
 * set to something else than its default, for tests of the wire. */
#ifndef TESTS_SUPPORT_MESSAGE_SAMPLES_H
#define TESTS_SUPPORT_MESSAGE_SAMPLES_H

#include "proto/message.h"

/* The message as plain C; what it points at is static. */
void sample_message(message_kind kind, message *m);

/* The same, sealed with its payloads into *f (empty).  As message_seal(). */
int sample_frames(message_kind kind, frames *f);

#endif
