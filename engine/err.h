/* err.h - the error codes that Roster's functions return, and their texts.
 *
 * A function returns 0 or a negative code.  Codes above ERR_FIRST are -errno,
 * as in libuv; the ones listed here are ours.  Codes travel on the wire
 * (docs/protocol.md), so a number, once released, keeps its meaning. */
#ifndef ENGINE_ERR_H
#define ENGINE_ERR_H

#define ERR_FIRST (-10001)

/* clang-format off */
#define ERR_LIST(X)                                                            \
    X(ERR_FORMAT,        -10001, "the file is damaged or not what it says")    \
    X(ERR_UNSUPPORTED,   -10002, "not supported")                              \
    X(ERR_RANGE,         -10003, "a value is out of range")                    \
    X(ERR_USAGE,         -10004, "wrong usage")                                \
    X(ERR_NOT_HERE,      -10005, "the expert is not held here")                \
    X(ERR_WRONG_MODEL,   -10006, "the peer serves another model")              \
    X(ERR_WRONG_PROFILE, -10007, "the peer computes with another numerics profile") \
    X(ERR_WRONG_VERSION, -10008, "the peer speaks another protocol version")   \
    X(ERR_WRONG_CLUSTER, -10009, "the peer belongs to another cluster")        \
    X(ERR_WRONG_BOOT,    -10010, "the message was meant for an earlier process") \
    X(ERR_MALFORMED,     -10011, "the message is malformed")                   \
    X(ERR_CHECKSUM,      -10012, "a checksum does not match")                  \
    X(ERR_TOO_LARGE,     -10013, "larger than the limit")                      \
    X(ERR_OVERLOADED,    -10014, "overloaded: the queue is full")              \
    X(ERR_UNAVAILABLE,   -10015, "no live node holds a needed expert")         \
    X(ERR_DEADLINE,      -10016, "the deadline passed")                        \
    X(ERR_CANCELLED,     -10017, "cancelled")                                  \
    X(ERR_CLOSED,        -10018, "closed")                                     \
    X(ERR_CONTEXT,       -10019, "the prompt does not fit the context")        \
    X(ERR_INTERNAL,      -10020, "internal error")                             \
    X(ERR_STALE,         -10021, "the sender's placement is too old")          \
    X(ERR_NOT_LEADER,    -10022, "etcd is away or not used: nothing can be changed")
/* clang-format on */

enum {
#define ERR_ENUM(name, code, text) name = code,
    ERR_LIST(ERR_ENUM)
#undef ERR_ENUM
};

/* A sentence without a final stop; never NULL, also for unknown codes.  Static
 * storage for our codes, strerror()'s for -errno. */
const char *err_text(int code);

/* "ERR_DEADLINE", "ENOENT": for logs and tests that compare names.  Never NULL,
 * whatever the number: it may have come from a peer. */
const char *err_name(int code);

/* Write a printf-style sentence into `why` (which may be NULL) and return
 * `code`, so that a failure reads `return err_why(why, size, ERR_X, "...")`. */
int err_why(char *why, unsigned long why_size, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
