/* nodes_rig.h - the loop thread's side of the nodes, facing nodes within the
 * test that say what it wants.
 *
 * A scripted node is a ROUTER; it answers nothing by itself.  With a list there
 * is one, "inproc://node"; else three may register, on loopback ports of their
 * own. Whatever goes wrong fails the cmocka test. */
#ifndef TESTS_SUPPORT_NODES_RIG_H
#define TESTS_SUPPORT_NODES_RIG_H

#include "coordinator/model_cut.h"
#include "coordinator/nodes.h"
#include "tests/support/memory_rack.h"

#define NODES_RIG_WAIT_MS 60000
#define NODES_RIG_DATA "tcp://127.0.0.1:4711"
#define NODES_RIG_BOOT 500
#define NODES_RIG_PLACES 4

typedef struct {
    struct link *link;
    frames in; /* the last message from the coordinator */
    message_arena *arena;
    message m;
    uint64_t greeting; /* the last hello's number */
} scripted_node;

typedef struct {
    memory_model *model;
    tokenizer *words;
    memory_rack *rack;
    step *steps;
    void *zmq;
    uv_loop_t loop;
    identity self;
    profile profile;
    model_cut cut;
    nodes_config config;
    nodes *nodes;
    scripted_node one, two, three;
    holdings held; /* all experts of the first layer */
    bool settled;
    uint32_t racks; /* that the step thread was given */
} nodes_rig;

nodes_rig *nodes_rig_open(void);
/* Nodes register; experts are cut into so many slices. */
nodes_rig *nodes_rig_open_registered(uint32_t slices);
void nodes_rig_close(nodes_rig *r);

/* Turn the loop until a message of this kind comes, which is then in `n`;
 * others are passed over. */
void nodes_rig_take(nodes_rig *r, scripted_node *n, message_kind kind);
/* To whom the last message came from. */
void nodes_rig_send(scripted_node *n, const message *m);
/* A welcome of the right sort, named "scripted", with r->held. */
message nodes_rig_welcome(const nodes_rig *r);
/* Take the next ping and answer it. */
void nodes_rig_pong(nodes_rig *r, scripted_node *n, uint64_t boot_id,
                    uint64_t holdings_version);

/* ---- what the coordinator says of a node, by its place in the list ---- */
json_t *nodes_rig_status(const nodes_rig *r, const rack_view *view);
bool nodes_rig_says(const nodes_rig *r, size_t node, const char *key,
                    const char *part);
json_int_t nodes_rig_number(const nodes_rig *r, size_t node, const char *key);
json_int_t nodes_rig_epoch(const nodes_rig *r);
void nodes_rig_wait(nodes_rig *r, size_t node, const char *key,
                    const char *part);

#endif
