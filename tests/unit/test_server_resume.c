/* test_server_resume.c - a client that goes on here with what another
 * coordinator began, and who else it is told of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/unit/server_rig.h"

/* ---- resuming ---- */

/* The stream ended before its last text was delivered, and what comes next is
 * the end: the text is owed all the same. */
static void a_resume_that_ends_at_once_gets_what_is_owed(void **state) {
    (void)state;
    rig *r = open_rig();
    static const uint32_t told[] = {1, 70, 80, 90, 100}; /* 3 were generated */
    char owed[64] = "";
    for (uint32_t i = 2; i < 5; i++) {
        gguf_string piece = tokenizer_piece(words, (int32_t)told[i], false);
        memcpy(owed + strlen(owed), piece.data, piece.len);
    }
    assert_true(strlen(owed) > 1);
    for (uint64_t seed = 1;; seed++) {
        assert_true(seed < 100000);
        message m = generate(seed, 4);
        m.generate.tokens = (message_u32s){told, 5};
        m.generate.resumed_tokens = 3;
        m.generate.delivered_bytes = 1;
        m.generate.ignore_end = false;
        m.generate.sampling = (message_sampling){
            .temperature = 100.0f, .seed = seed, .has_seed = true};
        ask(r, &m);
        assert_int_equal(hear(r), MESSAGE_ACCEPTED);
        if (hear(r) == MESSAGE_FINISHED) break;
        assert_memory_equal(r->m.token.text.data, owed + 1, strlen(owed) - 1);
        assert_int_equal(r->m.token.index, 3);
        assert_int_equal(hear(r), MESSAGE_FINISHED);
    }
    assert_int_equal(r->m.finished.reason, FINISH_END);
    assert_int_equal(r->m.finished.text.len, strlen(owed) - 1);
    assert_memory_equal(r->m.finished.text.data, owed + 1, strlen(owed) - 1);
    close_rig(r);
}

/* The ids and texts of a generation, as a client keeps them. */
typedef struct {
    uint32_t prompt, tokens[CONTEXT];
    uint32_t n; /* prompt and generated */
    char text[64 * CONTEXT];
    size_t bytes;
    finish_reason reason;
} story;

static void take_text(story *told, message_text text) {
    assert_true(told->bytes + text.len <= sizeof(told->text));
    if (text.len > 0) memcpy(told->text + told->bytes, text.data, text.len);
    told->bytes += text.len;
}

/* Hear up to `most` tokens; true: it has finished. */
static bool hear_story(rig *r, story *told, uint32_t most) {
    for (uint32_t heard = 0; heard < most;) {
        message_kind kind = hear(r);
        if (kind == MESSAGE_ACCEPTED) continue;
        if (kind == MESSAGE_FINISHED) {
            take_text(told, r->m.finished.text);
            told->reason = r->m.finished.reason;
            return true;
        }
        assert_int_equal(kind, MESSAGE_TOKEN);
        assert_int_equal(r->m.token.index, told->n - told->prompt);
        told->tokens[told->n++] = r->m.token.id;
        take_text(told, r->m.token.text);
        assert_int_equal(r->m.token.delivered_bytes, told->bytes);
        heard++;
    }
    return false;
}

static message sampled(uint64_t id, uint32_t max_tokens) {
    message m = generate(id, max_tokens);
    m.generate.sampling = (message_sampling){
        .temperature = 5.0f, .top_p = 1.0f, .seed = 99, .has_seed = true};
    return m;
}

static void begin_story(story *told) {
    memset(told, 0, sizeof(*told));
    told->prompt = told->n = ARRAY_LEN(prompt);
    memcpy(told->tokens, prompt, sizeof(prompt));
}

/* Cut after any token, the rest is what it would have been: ids, bytes (also of
 * characters that tokens share), how many, and why it ended. */
static void a_story_is_the_same_wherever_it_is_cut(void **state) {
    enum { LENGTH = 24 };
    (void)state;
    rig *r = open_rig();
    static story whole, cut;
    begin_story(&whole);
    message m = sampled(1, LENGTH);
    ask(r, &m);
    assert_true(hear_story(r, &whole, UINT32_MAX));
    assert_int_equal(whole.n, whole.prompt + LENGTH);
    for (uint32_t after = 0; after <= LENGTH; after++) {
        begin_story(&cut);
        m = sampled(10 + 2 * after, LENGTH);
        ask(r, &m);
        bool over = after > 0 && hear_story(r, &cut, after);
        assert_false(over);
        message stop = {.kind = MESSAGE_CANCEL, .request_id = m.request_id};
        ask(r, &stop);
        while (hear(r) != MESSAGE_FINISHED)
            continue; /* what came before it was stopped is lost */

        m = sampled(11 + 2 * after, LENGTH);
        m.generate.tokens = (message_u32s){cut.tokens, cut.n};
        m.generate.resumed_tokens = after;
        m.generate.delivered_bytes = cut.bytes;
        ask(r, &m);
        assert_true(hear_story(r, &cut, UINT32_MAX));
        assert_int_equal(cut.n, whole.n);
        assert_memory_equal(cut.tokens, whole.tokens,
                            whole.n * sizeof(uint32_t));
        assert_int_equal(cut.bytes, whole.bytes);
        assert_memory_equal(cut.text, whole.text, whole.bytes);
        assert_int_equal(cut.reason, whole.reason);
    }
    close_rig(r);
}

/* Tokens that fill the context can be finished, though not begun with. */
static void a_resume_that_has_it_all_is_only_finished(void **state) {
    (void)state;
    rig *r = open_rig();
    uint32_t full[CONTEXT];
    for (uint32_t i = 0; i < CONTEXT; i++)
        full[i] = prompt[i % ARRAY_LEN(prompt)];
    message m = generate(1, CONTEXT - 5);
    m.generate.tokens = (message_u32s){full, CONTEXT};
    m.generate.resumed_tokens = CONTEXT - 5;
    m.generate.delivered_bytes = 1u << 20; /* all of it */
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_ACCEPTED);
    assert_int_equal(r->m.accepted.max_tokens, CONTEXT - 5);
    assert_int_equal(hear(r), MESSAGE_FINISHED);
    assert_int_equal(r->m.finished.reason, FINISH_LENGTH);
    assert_true(server_idle(r->server));
    m.request_id = 2;
    m.generate.resumed_tokens = 0;
    ask(r, &m);
    expect_error(r, 2, ERR_CONTEXT, "450");
    close_rig(r);
}

static void a_resume_has_no_text(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = generate(1, 9);
    m.generate.resumed_tokens = 2;
    m.generate.text = (message_text){"and", 3};
    ask(r, &m);
    expect_error(r, 1, ERR_RANGE, "no text");
    close_rig(r);
}

/* ---- who else there is ---- */

static void tells_of_itself_and_its_peers(void **state) {
    static const char *const peers[] = {"tcp://127.0.0.1:7", "tcp://10.0.0.1:8",
                                        "tcp://127.0.0.1:7"};
    (void)state;
    rig *r = open_rig();
    message m = {.kind = MESSAGE_MEMBERS_REQUEST, .request_id = 1};
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_MEMBERS);
    assert_int_equal(r->m.members.count, 0); /* not known yet */

    server_set_members(r->server, "tcp://127.0.0.1:6", peers, 3);
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_MEMBERS);
    assert_int_equal(r->m.members.count, 3); /* nobody twice */
    assert_string_equal(r->m.members.items[0].name, "served");
    assert_string_equal(r->m.members.items[0].endpoint, "tcp://127.0.0.1:6");
    assert_false(r->m.members.items[0].leaving);
    assert_string_equal(r->m.members.items[1].endpoint, peers[0]);
    assert_string_equal(r->m.members.items[2].endpoint, peers[1]);

    server_refuse(r->server);
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_MEMBERS);
    assert_true(r->m.members.items[0].leaving);
    assert_false(r->m.members.items[1].leaving);
    close_rig(r);
}

int main(void) {
    if (cpu_setup(NULL, 0) < 0) return 1;
    log_setup("test", (log_level)(LOG_ERROR + 1));
    const struct CMUnitTest tests[] = {
        WITH_SMALL(a_resume_that_ends_at_once_gets_what_is_owed),
        WITH_LARGE(a_story_is_the_same_wherever_it_is_cut),
        WITH_SMALL(a_resume_that_has_it_all_is_only_finished),
        WITH_SMALL(a_resume_has_no_text),
        WITH_SMALL(tells_of_itself_and_its_peers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
