/* test_conductor.c - a coordinator's part in a rack: what it does about what
 * etcd says.
 *
 * The registry is played by the test: its functions are defined here, its view
 * is fed by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/conductor.h"
#include "discovery/registry.h"
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/nodes_rig.h"
#include "tests/support/over_tcp.h"
#include "tests/support/rack_feed.h"

/* ---- the registry, played ---- */

struct registry {
    registry_config config;
    coordinator_record own;
    const rack_view *view;
    int64_t term;
    uint64_t live_since;
    bool campaigns, closed;
    uint32_t writes; /* begun */
    registry_done written;
    void *written_ctx;
    registry_done drained;
    void *drained_ctx;
    char drain[RECORD_NAME];
    bool undo;
    rack_feed *feed;  /* what is written goes there */
    uint32_t no_room; /* so often a record cannot be taken */
};

static registry played;

int registry_open(registry **out, const registry_config *c, char *why,
                  size_t why_size) {
    (void)why;
    (void)why_size;
    played = (registry){.config = *c, .campaigns = true};
    *out = &played;
    return 0;
}

void registry_close(registry *r, void (*on_closed)(void *ctx), void *ctx) {
    r->closed = true;
    if (r->written != NULL) r->written(r->written_ctx, ETCD_CANCELLED, "", 0);
    on_closed(ctx);
}

int registry_set_coordinator(registry *r, const coordinator_record *c) {
    if (r->no_room > 0) {
        r->no_room--;
        return -ENOMEM;
    }
    r->own = *c;
    return 0;
}

const rack_view *registry_view(const registry *r) {
    return r->view;
}

int64_t registry_term(const registry *r) {
    return r->term;
}

uint64_t registry_live_since(const registry *r) {
    return r->live_since;
}

void registry_resign(registry *r) {
    r->campaigns = false;
}

void registry_campaign(registry *r) {
    r->campaigns = true;
}

/* As etcd would: it stands in the view before the answer comes. */
int registry_write_placement(registry *r, const placement_write *w,
                             registry_done cb, void *ctx) {
    assert_null(r->written); /* one at a time */
    assert_true(w->term == r->term);
    assert_true(w->expected_revision == rack_view_epoch_revision(r->view));
    r->writes++;
    r->written = cb;
    r->written_ctx = ctx;
    rack_feed_step(r->feed, w->head, w->layer_numbers, w->layers, w->n_layers);
    return 0;
}

int registry_drain(registry *r, const char *name, bool undo, registry_done cb,
                   void *ctx) {
    snprintf(r->drain, sizeof(r->drain), "%s", name);
    r->undo = undo;
    r->drained = cb;
    r->drained_ctx = ctx;
    return 0;
}

int registry_compact(registry *r, int64_t revision, registry_done cb,
                     void *ctx) {
    (void)r;
    (void)revision;
    (void)cb;
    (void)ctx;
    return 0;
}

bool registry_no_space(const registry *r) {
    (void)r;
    return false;
}

/* All is well with etcd's space. */
int registry_reclaim(registry *r, bool only_look, registry_space_done cb,
                     void *ctx) {
    const registry_space found = {0};
    (void)r;
    (void)only_look;
    cb(ctx, ETCD_OK, "", &found);
    return 0;
}

json_t *registry_status(const registry *r) {
    return json_pack("{s:b}", "connected", r->live_since != 0);
}

/* ---- the rig ---- */

typedef struct {
    nodes_rig *r;
    rack_feed feed;
    etcd_options options;
    conductor *conductor;
    bool busy;
    int refused; /* the last on_refuse */
    char text[400];
    char stranded[200]; /* the last on_stranded */
    uint32_t views;
} rig;

static bool is_idle(void *ctx) {
    const rig *a = ctx;
    return !a->busy;
}

static void on_refuse(void *ctx, int code, const char *text) {
    rig *a = ctx;
    a->refused = code;
    snprintf(a->text, sizeof(a->text), "%s", text);
}

static void on_stranded(void *ctx, const char *why) {
    rig *a = ctx;
    snprintf(a->stranded, sizeof(a->stranded), "%s", why);
}

static void on_view(void *ctx) {
    rig *a = ctx;
    a->views++;
}

static rig *open_rig(void) {
    char why[200] = "";
    rig *a = calloc(1, sizeof(*a));
    assert_non_null(a);
    a->r = nodes_rig_open_registered(1);
    snprintf(a->r->self.name, sizeof(a->r->self.name), "c1");
    etcd_options_init(&a->options);
    rack_feed_open(&a->feed);
    char client[] = "tcp://127.0.0.1:7100";
    char shared[] = "tcp://127.0.0.1:7200";
    conductor_config c = {
        .loop = &a->r->loop,
        .self = &a->r->self,
        .profile = &a->r->profile,
        .model = &a->r->model->config,
        .file = a->r->model->file,
        .etcd = &a->options,
        .client = client,
        .weights = shared,
        .slices = 1,
        .min_replicas = 2,
        .replace_after_ms = 15000,
        .nodes = a->r->nodes,
        .is_idle = is_idle,
        .stranded_ms = 100,
        .on_refuse = on_refuse,
        .on_stranded = on_stranded,
        .on_view = on_view,
        .ctx = a,
    };
    assert_int_equal(conductor_open(&a->conductor, &c, why, sizeof(why)), 0);
    client[0] = shared[0] = '?'; /* ours alone */
    played.feed = &a->feed;
    return a;
}

static void close_rig(rig *a) {
    conductor_close(a->conductor);
    conductor_close(a->conductor); /* twice is fine */
    assert_true(played.closed);
    nodes_rig *r = a->r;
    nodes_close(r->nodes);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    conductor_free(a->conductor);
    nodes_rig_close(r);
    rack_feed_close(&a->feed);
    etcd_options_fini(&a->options);
    free(a);
}

/* The view as it stands is listed, or has changed. */
static void tell(rig *a) {
    rack_feed_settle(&a->feed);
    played.view = a->feed.view;
    if (played.live_since == 0) played.live_since = now_ms();
    played.config.on_change(played.config.ctx);
}

static uint32_t on_both(uint32_t layer, uint32_t unit) {
    (void)layer;
    (void)unit;
    return 3;
}

/* A bare epoch is one of incarnation 1. */
static void feed_placement(rig *a, uint64_t epoch, uint8_t model) {
    static const char *const names[] = {"one", "two"};
    const model_config *m = &a->r->model->config;
    rack_feed_plan p = {.epoch = epoch & ((1ull << EPOCH_BITS) - 1),
                        .incarnation = epoch >> EPOCH_BITS,
                        .model = {model},
                        .n_layers = m->n_layers,
                        .n_experts = m->n_experts,
                        .max_slices = 1,
                        .slices = a->r->cut.slices,
                        .nodes = names,
                        .n_nodes = 2,
                        .on = on_both};
    rack_feed_placement(&a->feed, &p);
}

static void feed_nodes(rig *a) {
    rack_feed_node(&a->feed, "one", 1, link_endpoint(a->r->one.link));
    rack_feed_node(&a->feed, "two", 2, link_endpoint(a->r->two.link));
}

static void turn_until_written(rig *a) {
    uint64_t until = now_ms() + NODES_RIG_WAIT_MS;
    while (played.written == NULL) {
        assert_true(now_ms() < until);
        uv_run(&a->r->loop, UV_RUN_ONCE);
    }
}

static void answer_write(rig *a, etcd_code code) {
    registry_done cb = played.written;
    played.written = NULL;
    tell(a);
    cb(played.written_ctx, code, "", a->feed.revision);
}

/* ---- our own record ---- */

static void registers_what_it_is(void **state) {
    (void)state;
    rig *a = open_rig();
    assert_string_equal(played.config.name, "c1");
    assert_string_equal(played.config.cluster, "test");
    assert_int_equal(played.config.role, REGISTRY_COORDINATOR);
    assert_true(played.config.boot == a->r->self.boot_id);
    assert_string_equal(played.own.client, "tcp://127.0.0.1:7100");
    assert_string_equal(played.own.weights, "tcp://127.0.0.1:7200");
    assert_true(played.own.has_model);
    assert_string_equal(played.own.profile.activation, "a8");
    assert_string_equal(played.own.profile.kv, "f32");
    close_rig(a);
}

static void knows_nothing_before_the_first_listing(void **state) {
    (void)state;
    rig *a = open_rig();
    assert_false(conductor_listed(a->conductor));
    assert_null(conductor_view(a->conductor));
    played.config.on_change(played.config.ctx); /* the connection broke, say */
    assert_false(conductor_listed(a->conductor));
    json_t *root = json_object();
    assert_int_equal(conductor_status(a->conductor, root), 0);
    assert_string_equal(json_string_value(json_object_get(root, "epoch")),
                        "0.0");
    json_decref(root);
    tell(a);
    assert_true(conductor_listed(a->conductor));
    assert_true(a->views > 0);
    close_rig(a);
}

/* ---- leading ---- */

static void the_leader_places_a_new_rack(void **state) {
    (void)state;
    rig *a = open_rig();
    feed_nodes(a);
    played.term = 5;
    tell(a);
    assert_int_equal(nodes_count(a->r->nodes), 2);
    assert_int_equal(played.writes, 0); /* others may be about to join */
    turn_until_written(a);
    answer_write(a, ETCD_OK);
    const rack_placement *p = rack_view_placement(a->feed.view);
    assert_non_null(p);
    uint32_t units = 2 * a->r->model->config.n_experts;
    for (int i = 0; i < 2; i++) {
        const char *name = rack_placement_head(p)->nodes[i];
        assert_int_equal(rack_placement_units(p, rack_placement_node(p, name)),
                         units);
    }
    assert_string_equal(rack_placement_head(p)->writer, "c1");
    assert_int_equal(rack_placement_head(p)->term, 5);
    close_rig(a);
}

static void who_does_not_lead_writes_nothing(void **state) {
    (void)state;
    rig *a = open_rig();
    feed_nodes(a);
    tell(a);
    uint64_t until = now_ms() + 1500; /* longer than a leader waits */
    while (now_ms() < until)
        uv_run(&a->r->loop, UV_RUN_ONCE);
    assert_int_equal(played.writes, 0);
    close_rig(a);
}

static void ends_with_a_write_under_way(void **state) {
    (void)state;
    rig *a = open_rig();
    feed_nodes(a);
    played.term = 5;
    tell(a);
    turn_until_written(a);
    close_rig(a);
}

/* ---- may we serve? ---- */

static void refuses_to_serve_in_another_model_s_rack(void **state) {
    (void)state;
    rig *a = open_rig();
    feed_nodes(a);
    feed_placement(a, 1, 99);
    played.term = 5;
    tell(a);
    assert_int_equal(a->refused, ERR_WRONG_MODEL);
    assert_non_null(strstr(a->text, "another model"));
    assert_int_equal(played.writes, 0);
    json_t *root = json_object();
    assert_int_equal(conductor_status(a->conductor, root), 0);
    assert_non_null(strstr(json_string_value(json_object_get(root, "frozen")),
                           "another model"));
    json_decref(root);
    feed_placement(a, epoch_pack(2, 1), 0); /* an operator put it right */
    tell(a);
    assert_int_equal(a->refused, 0);
    close_rig(a);
}

static void takes_no_requests_while_it_is_drained(void **state) {
    (void)state;
    rig *a = open_rig();
    tell(a);
    rack_feed_drain(&a->feed, "c2"); /* another one */
    tell(a);
    assert_int_equal(a->refused, 0);
    rack_feed_drain(&a->feed, "c1");
    tell(a);
    assert_int_equal(a->refused, ERR_CLOSED);
    assert_non_null(strstr(a->text, "drained"));
    assert_true(conductor_drained(a->conductor));
    assert_false(played.campaigns);
    rack_feed_drain_gone(&a->feed, "c1");
    tell(a);
    assert_int_equal(a->refused, 0);
    assert_true(played.campaigns);
    close_rig(a);
}

static void its_record_says_when_it_is_empty(void **state) {
    (void)state;
    rig *a = open_rig();
    a->busy = true;
    rack_feed_drain(&a->feed, "c1");
    tell(a);
    assert_int_equal(played.own.drained, 0);
    a->busy = false;
    played.no_room = 2; /* tried again */
    uint64_t until = now_ms() + NODES_RIG_WAIT_MS;
    while (played.own.drained == 0) {
        assert_true(now_ms() < until);
        uv_run(&a->r->loop, UV_RUN_ONCE);
    }
    assert_string_equal(played.own.client, "tcp://127.0.0.1:7100");
    rack_feed_drain_gone(&a->feed, "c1");
    played.no_room = 1;
    tell(a);
    assert_int_equal(played.own.drained, 1);
    tell(a);
    assert_int_equal(played.own.drained, 0);
    close_rig(a);
}

/* ---- an etcd that forgets ---- */

static void its_record_says_which_placement_it_knows(void **state) {
    (void)state;
    rig *a = open_rig();
    tell(a);
    assert_int_equal(played.own.epoch, 0);
    feed_nodes(a);
    feed_placement(a, 4, 0);
    played.no_room = 1;
    tell(a);
    assert_int_equal(played.own.epoch, 0);
    tell(a); /* tried again */
    assert_int_equal(played.own.incarnation, 1);
    assert_int_equal(played.own.epoch, 4);
    uint64_t sum = played.own.placement;
    assert_true(sum == rack_placement_sum(rack_view_placement(a->feed.view)));
    feed_placement(a, epoch_pack(2, 1), 0);
    tell(a);
    assert_int_equal(played.own.incarnation, 2);
    assert_int_equal(played.own.epoch, 1);
    assert_true(played.own.placement != sum);
    close_rig(a);
}

/* ---- draining others ---- */

typedef struct {
    int code;
    uint32_t calls;
} told;

static void on_done(void *ctx, int code, const char *why) {
    told *t = ctx;
    (void)why;
    t->code = code;
    t->calls++;
}

static int drain(rig *a, const char *name, bool undo, told *t, char why[200]) {
    why[0] = '\0';
    return conductor_drain(a->conductor, name, undo, on_done, t, why, 200);
}

static void records_a_drain_of_who_is_there(void **state) {
    (void)state;
    rig *a = open_rig();
    char why[200];
    told t = {1, 0};
    assert_int_equal(drain(a, "one", false, &t, why), ERR_NOT_LEADER);
    assert_non_null(strstr(why, "etcd is away"));
    feed_nodes(a);
    rack_feed_coordinator(&a->feed, "c2", 8);
    tell(a);
    assert_int_equal(drain(a, "three", false, &t, why), ERR_RANGE);
    assert_non_null(strstr(why, "'three'"));
    assert_int_equal(drain(a, "a/b", false, &t, why), ERR_RANGE);
    for (int undo = 0; undo < 2; undo++) {
        assert_int_equal(drain(a, "c2", undo == 1, &t, why), 0);
        assert_string_equal(played.drain, "c2");
        assert_int_equal(played.undo, undo);
        assert_int_equal(t.calls, undo);
        played.drained(played.drained_ctx, ETCD_OK, "", 1);
    }
    assert_int_equal(t.calls, 2);
    close_rig(a);
}

static void says_what_became_of_a_drain(void **state) {
    (void)state;
    rig *a = open_rig();
    char why[200];
    const struct {
        etcd_code etcd;
        int code;
    } outcomes[] = {{ETCD_OK, 0},
                    {ETCD_UNKNOWN, ERR_NOT_LEADER},
                    {ETCD_REFUSED, ERR_NOT_LEADER},
                    {ETCD_NO_MEMORY, -ENOMEM},
                    {ETCD_CANCELLED, ERR_CLOSED}};
    feed_nodes(a);
    tell(a);
    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++) {
        told t = {1, 0};
        assert_int_equal(drain(a, "one", false, &t, why), 0);
        played.drained(played.drained_ctx, outcomes[i].etcd, "", 1);
        assert_int_equal(t.calls, 1);
        assert_int_equal(t.code, outcomes[i].code);
    }
    close_rig(a);
}

static void drains_nobody_while_etcd_is_away(void **state) {
    (void)state;
    rig *a = open_rig();
    char why[200];
    told t;
    feed_nodes(a);
    tell(a);
    played.live_since = 0;
    assert_int_equal(drain(a, "one", false, &t, why), ERR_NOT_LEADER);
    close_rig(a);
}

/* ---- reports ---- */

static void reports_the_rack(void **state) {
    (void)state;
    rig *a = open_rig();
    feed_nodes(a);
    rack_feed_coordinator(&a->feed, "c1", a->r->self.boot_id);
    rack_feed_coordinator(&a->feed, "c2", 8);
    rack_feed_leader(&a->feed, "c2", 8);
    feed_placement(a, 12, 0);
    tell(a);
    json_t *root = json_object();
    assert_int_equal(conductor_status(a->conductor, root), 0);
    assert_string_equal(json_string_value(json_object_get(root, "epoch")),
                        "1.12");
    assert_string_equal(json_string_value(json_object_get(root, "leader")),
                        "c2");
    assert_int_equal(json_integer_value(json_object_get(root, "incarnation")),
                     1);
    json_t *all = json_object_get(root, "coordinators");
    assert_int_equal(json_array_size(all), 2);
    assert_true(json_is_true(json_object_get(json_array_get(all, 0), "us")));
    assert_true(
        json_is_true(json_object_get(json_array_get(all, 1), "leader")));
    json_t *placed = json_object_get(root, "placement");
    json_int_t units = 2 * a->r->model->config.n_experts;
    assert_int_equal(json_integer_value(json_object_get(placed, "units")),
                     units);
    /* nobody has reported anything as resident */
    assert_int_equal(json_integer_value(json_object_get(placed, "moving")),
                     2 * units);
    json_decref(root);
    close_rig(a);
}

/* It cannot reach etcd, and the rack goes on without it. */
static void sends_requests_to_others_while_every_node_refuses_it(void **state) {
    (void)state;
    rig *a = open_rig();
    scripted_node *n = &a->r->one;
    rack_feed_node(&a->feed, "one", NODES_RIG_BOOT, link_endpoint(n->link));
    tell(a);
    nodes_rig_take(a->r, n, MESSAGE_HELLO);
    message m = nodes_rig_welcome(a->r);
    m.welcome.name = "one";
    nodes_rig_send(n, &m);
    nodes_rig_pong(a->r, n, NODES_RIG_BOOT, 0);
    assert_int_equal(a->refused, 0);

    uint64_t until = now_ms() + NODES_RIG_WAIT_MS;
    m = (message){
        .kind = MESSAGE_ERROR, .cluster = "test", .boot_id = NODES_RIG_BOOT};
    m.error.code = ERR_STALE;
    m.error.text = "";
    while (a->refused == 0) {
        assert_true(now_ms() < until);
        assert_string_equal(a->stranded, "");
        nodes_rig_take(a->r, n, MESSAGE_PING);
        nodes_rig_send(n, &m);
    }
    assert_int_equal(a->refused, ERR_CLOSED);
    assert_non_null(strstr(a->stranded, "newer placement"));
    while (a->refused != 0) { /* it has caught up */
        assert_true(now_ms() < until);
        nodes_rig_pong(a->r, n, NODES_RIG_BOOT, 0);
    }
    close_rig(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        over_tcp(registers_what_it_is),
        over_tcp(knows_nothing_before_the_first_listing),
        over_tcp(the_leader_places_a_new_rack),
        over_tcp(who_does_not_lead_writes_nothing),
        over_tcp(ends_with_a_write_under_way),
        over_tcp(refuses_to_serve_in_another_model_s_rack),
        over_tcp(takes_no_requests_while_it_is_drained),
        over_tcp(its_record_says_when_it_is_empty),
        over_tcp(its_record_says_which_placement_it_knows),
        over_tcp(records_a_drain_of_who_is_there),
        over_tcp(says_what_became_of_a_drain),
        over_tcp(drains_nobody_while_etcd_is_away),
        over_tcp(reports_the_rack),
        over_tcp(sends_requests_to_others_while_every_node_refuses_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
