/* weights_source.h - stands in for the weights endpoint of a coordinator or a
 * node: a thread that serves a model's files and units, and can be told to
 * misbehave. */
#ifndef TESTS_SUPPORT_WEIGHTS_SOURCE_H
#define TESTS_SUPPORT_WEIGHTS_SOURCE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "engine/fingerprint.h"
#include "engine/gguf.h"
#include "engine/model.h"
#include "proto/endpoint.h"
#include "proto/link.h"
#include "proto/message.h"

typedef enum {
    SOURCE_SOUND,
    SOURCE_SILENT,      /* reads and says nothing */
    SOURCE_REFUSES,     /* with `refusal` */
    SOURCE_SHORT_PIECE, /* a byte less than was asked for */
    SOURCE_OTHER_KIND,  /* a Done for everything */
    SOURCE_BUSY,        /* every second request is ERR_OVERLOADED */
    SOURCE_STOPS,       /* silent after `stop_after` answers */
    SOURCE_EMPTY,       /* has no units: ERR_NOT_HERE */
    SOURCE_ROTTEN,      /* units with a flipped bit, soundly sealed */
} source_manner;

typedef struct {
    char path[300]; /* of the model's first file */
    char endpoint[ENDPOINT_MAX];
    fingerprint print;
    uint64_t boot_id;
    atomic_int manner;
    atomic_uint answers, stop_after;
    atomic_int refusal; /* 0: ERR_WRONG_MODEL */
    /* Added to what the model is said to be, for the liars. */
    uint64_t more_head, more_manifest;
    const char *other_name; /* NULL: the true one */
    void *zmq;
    struct link *link;
    gguf *g;
    model_config model;
    atomic_ullong unit_bytes; /* given, of units */
    atomic_uint pieces;       /* given, of files and units */
    pthread_t thread;
    atomic_bool stopping;
} weights_source;

/* Of the model in `path`, whose manifest is made.  Whatever goes wrong fails
 * the cmocka test. */
void weights_source_start(weights_source *s, const char *path);
void weights_source_stop(weights_source *s);

#endif
