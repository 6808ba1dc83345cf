/* account.h - counts the reply bytes that one coordinator has not taken yet.
 *
 * A reply's memory is counted from the moment its request is accepted until
 * ZeroMQ has written it to the connection and let go of it, whichever thread
 * that happens in.  So a coordinator that asks and does not read is refused at
 * its own limit, whatever buffers lie between. */
#ifndef EXPERT_NODE_ACCOUNT_H
#define EXPERT_NODE_ACCOUNT_H

#include <stddef.h>
#include <stdint.h>
#include "proto/frames.h"

typedef struct account account;

account *account_new(void);       /* NULL: no memory; the caller holds it */
void account_release(account *a); /* lives on until its last reply is gone */

/* Append a part of `bytes` bytes to `f`, uninitialized and 64-byte aligned, and
 * return it; NULL if there is no memory or no place. */
void *account_add_part(account *a, frames *f, size_t bytes);

uint64_t account_bytes(const account *a); /* any thread */

#endif
