/* sim_client.h - clients: requests, the tokens that came, and the way to
 * another coordinator when one is gone. */
#ifndef TESTS_SIM_SIM_CLIENT_H
#define TESTS_SIM_SIM_CLIENT_H

#include "tests/sim/sim_base.h"
#include "tests/sim/sim_model.h"

#define SIM_REQUESTS 48

/* To a coordinator. */
typedef enum { ASK_GENERATE, ASK_CANCEL, ASK_HOLD, ASK_RELEASE } sim_ask_kind;

typedef struct {
    sim_ask_kind kind;
    uint64_t id;          /* request * 256 + attempt */
    uint32_t n_tokens;    /* prompt, and what was generated before */
    uint32_t n_new;       /* that are still wanted */
    uint32_t first_index; /* of these */
    uint32_t tokens[SIM_POSITIONS];
} sim_asking;

/* From a coordinator: a token, or the end. */
typedef struct {
    uint64_t id;
    bool end;
    uint32_t index, token;
    int code;
} sim_telling;

typedef struct {
    uint32_t n_prompt, n_new, n_got;
    uint32_t tokens[SIM_POSITIONS], expected[SIM_POSITIONS];
    uint32_t coordinator, attempt;
    uint64_t boot;           /* of the coordinator when it was asked */
    bool begun, held, ended; /* `ended`: this attempt, by the coordinator */
    uint32_t outcomes;       /* must become 1 */
    int code;                /* 0: finished */
    uint64_t moved_us;       /* begun, or a token */
    uint64_t told_us;        /* its messages come in order */
} sim_client;

typedef enum {
    CLIENT_BEGIN,
    CLIENT_LOOK,
    CLIENT_CANCEL,
    CLIENT_HOLD,
    CLIENT_RELEASE
} sim_client_what;

void sim_clients_make(sim *s);
void sim_client_event(sim *s, uint64_t number);
/* On the coordinator's side: something for the client of `id`. */
void sim_client_tell(sim *s, uint64_t id, bool end, uint32_t index,
                     uint32_t token, int code);
void sim_client_told(sim *s, const sim_telling *t);
bool sim_clients_done(const sim *s);
/* Nothing may go on for ever. */
void sim_clients_check(sim *s);

#endif
