/* cmd_chat.c - `roster chat`: a text that person and model write in turns.
 *
 * The context is kept here, so any coordinator can answer every request: with a
 * chat template as messages, which are rendered anew for each turn; without one
 * as the token ids of a plain text, to which the turn is added.  On a terminal,
 * Ctrl-C stops an answer and Ctrl-D ends the chat; elsewhere every line of
 * stdin is a turn and the first failure ends it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/ask.h"
#include "client/cli.h"
#include "client/commands.h"
#include "client/conversation.h"
#include "client/signals.h"
#include "engine/err.h"

#define NAME "roster chat"
#define READ_BYTES 4096
#define OWN_OPTIONS 3

typedef struct {
    ask_config config;
    const char *first; /* turn given on the command line; NULL: none */
    const char *template_file, *system; /* as given; NULL: not */
    bool terminal, plain;
    session session;
    conversation *conversation; /* NULL: turns are plain text */
    ask_history history;
    char *input; /* read from stdin, not yet used */
    size_t n_input, capacity;
    bool ended; /* stdin */
} chat;

static int parse(chat *c, options **o, int argc, char **argv) {
    option table[OWN_OPTIONS + ASK_OPTIONS] = {
        {"template", 0, OPTION_STRING, &c->template_file, "FILE",
         "Chat template, or a model whose template to use; default: that of "
         "--model."},
        {"system", 0, OPTION_STRING, &c->system, "TEXT",
         "First message of the chat, for the template."},
        {"plain", 0, OPTION_FLAG, &c->plain, NULL,
         "Use no template: turns are one plain text."},
    };
    size_t n = OWN_OPTIONS + ask_options(&c->config, table + OWN_OPTIONS);
    const option_set set = {
        .program = NAME,
        .usage = "[PROMPT] [--endpoint E | --model FILE [--nodes N]] [options]",
        .about =
            "Talks with a model in turns: a line from you, an answer from the "
            "model, which sees all that was said. PROMPT is the first turn; "
            "without a terminal it is the only one, and without PROMPT every "
            "line of stdin is a turn. On a terminal, Ctrl-C stops an answer "
            "and Ctrl-D ends the chat. Turns are put into the chat template of "
            "--model or --template; without one they are one plain text.",
        .table = table,
        .count = n,
    };
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(o, &set, argc, argv, 0, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    if (n_args > 0) c->first = args[0];
    if (c->plain && (c->template_file != NULL || c->system != NULL))
        return cli_usage(NAME, "--plain goes with no template");
    if (ask_check(&c->config, *o, why, sizeof(why)) < 0)
        return cli_usage(NAME, "%s", why);
    return CLI_RUN;
}

/* ---- lines of stdin ---- */

static int read_more(chat *c) {
    if (c->capacity - c->n_input < READ_BYTES) {
        size_t capacity = c->capacity * 2 + READ_BYTES;
        char *grown = realloc(c->input, capacity);
        if (grown == NULL) return -ENOMEM;
        c->input = grown;
        c->capacity = capacity;
    }
    ssize_t n = read(STDIN_FILENO, c->input + c->n_input, READ_BYTES);
    if (n < 0) return errno == EINTR || errno == EAGAIN ? 0 : -errno;
    c->n_input += (size_t)n;
    c->ended = n == 0;
    return 0;
}

/* Wait for a line.  Its length without the newline, and *used with it; 0 and
 * *used 0 at the end of stdin; -EINTR for a signal. */
static int next_line(chat *c, size_t *len, size_t *used) {
    for (;;) {
        char *newline =
            c->n_input > 0 ? memchr(c->input, '\n', c->n_input) : NULL;
        if (newline != NULL) {
            *len = (size_t)(newline - c->input);
            *used = *len + 1;
            return 0;
        }
        if (c->ended) {
            *len = *used = c->n_input;
            return 0;
        }
        struct pollfd fds[2] = {
            {.fd = STDIN_FILENO, .events = POLLIN},
            {.fd = c->session.signals, .events = POLLIN},
        };
        if (poll(fds, 2, -1) < 0) continue; /* interrupted */
        if (fds[1].revents != 0) {
            c->session.signal = signals_take(c->session.signals);
            return -EINTR;
        }
        int rc = read_more(c);
        if (rc < 0) return rc;
    }
}

/* ---- turns ---- */

/* The whole chat in the model's own form, which has all special tokens in it;
 * what was said becomes its last message. */
static int take_message(chat *c, const char *text, size_t len, char *why,
                        size_t why_size) {
    char *whole = NULL;
    size_t n;
    int rc =
        conversation_add(c->conversation, "user", text, len, why, why_size);
    if (rc < 0) return rc;
    rc = conversation_render(c->conversation, &whole, &n, why, why_size);
    ask_history_fini(&c->history);
    if (rc == 0)
        rc = ask(&c->session, &c->config, &c->history, whole, n, why, why_size);
    free(whole);
    if (rc < 0 && c->history.answer_bytes == 0) {
        conversation_drop(c->conversation);
        return rc;
    }
    /* (a stopped answer stays as far as it came) */
    int kept = conversation_add(c->conversation, "assistant", c->history.answer,
                                c->history.answer_bytes, NULL, 0);
    return rc < 0 ? rc : kept;
}

/* A turn after the first begins a new line of the text. */
static int take_turn(chat *c, const char *text, size_t len, char *why,
                     size_t why_size) {
    bool fresh = c->history.count == 0;
    char *turn = malloc(len + 2);
    if (turn == NULL) return err_why(why, why_size, -ENOMEM, "no memory");

    size_t n = 0;
    if (!fresh) turn[n++] = '\n';
    memcpy(turn + n, text, len);
    n += len;
    int rc = ask(&c->session, &c->config, &c->history, turn, n, why, why_size);
    free(turn);
    return rc;
}

/* On a terminal the chat outlives a failed answer, but not its connection. */
static bool goes_on(chat *c, int rc, const char *why) {
    if (!c->terminal) return false;
    if (rc == -EINTR) {
        fputs("[stopped]\n", stderr);
        return c->session.signal == SIGINT;
    }
    if (rc == ERR_CLOSED || rc == -EPIPE || rc == -EIO) return false;
    (void)cli_fail(NAME, "%s", why);
    if (rc == ERR_CONTEXT) {
        ask_history_fini(&c->history);
        if (c->conversation != NULL) conversation_clear(c->conversation);
        fputs("The context is full: starting over with an empty one.\n",
              stderr);
    }
    return true;
}

static int answer(chat *c, const char *text, size_t len, char *why,
                  size_t why_size) {
    why[0] = '\0'; /* an earlier answer may have failed */
    int rc = c->conversation != NULL ? take_message(c, text, len, why, why_size)
                                     : take_turn(c, text, len, why, why_size);
    if (rc < 0 && goes_on(c, rc, why)) rc = 0;
    /* On a terminal the answer has ended its line itself. */
    if (rc == 0 && !isatty(STDOUT_FILENO)) rc = cli_write("\n", 1);
    if (rc < 0 && why[0] == '\0')
        err_why(why, why_size, rc, "%s", err_text(rc));
    return rc;
}

static int converse(chat *c, char *why, size_t why_size) {
    for (;;) {
        size_t len, used;
        if (c->terminal) fputs("> ", stderr);
        int rc = next_line(c, &len, &used);
        if (rc == -EINTR && c->terminal && c->session.signal == SIGINT) {
            fputs("\n(Ctrl-D ends the chat)\n", stderr);
            continue;
        }
        if (rc == -EINTR) {
            return err_why(why, why_size, rc, "interrupted by %s",
                           strsignal(c->session.signal));
        }
        if (rc < 0) {
            return err_why(why, why_size, rc, "cannot read stdin: %s",
                           err_text(rc));
        }
        if (used == 0) {
            if (c->terminal) fputc('\n', stderr);
            return 0;
        }
        if (len > 0) rc = answer(c, c->input, len, why, why_size);
        if (rc < 0) return rc;
        c->n_input -= used;
        memmove(c->input, c->input + used, c->n_input);
    }
}

/* With a template, the text is the template's to the last special token. */
static int open_conversation(chat *c, char *why, size_t why_size) {
    const char *file = c->template_file != NULL ? c->template_file
                                                : c->config.session.rack.model;
    if (c->plain || file == NULL) {
        return c->system == NULL
                   ? 0
                   : err_why(
                         why, why_size, ERR_USAGE,
                         "--system needs a template: --template or --model");
    }
    int rc =
        conversation_open(&c->conversation, file, c->system, why, why_size);
    if (rc < 0) return rc;
    if (c->conversation == NULL && c->system != NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "--system needs a template, and %s has none", file);
    }
    if (c->conversation == NULL) return 0;
    c->config.add_special = false;
    c->config.parse_special = true;
    c->config.echo = false;
    return 0;
}

static int run(chat *c, char *why, size_t why_size) {
    if (c->first != NULL) {
        int rc = answer(c, c->first, strlen(c->first), why, why_size);
        if (rc < 0 || !c->terminal) return rc;
    }
    if (c->terminal) c->config.echo = false; /* typed lines show already */
    return converse(c, why, why_size);
}

int cmd_chat(int argc, char **argv) {
    char why[CLI_WHY] = "";
    options *o = NULL;
    chat c = {.terminal = isatty(STDIN_FILENO) != 0};
    ask_config_init(&c.config);

    int status = parse(&c, &o, argc, argv);
    if (status != CLI_RUN) {
        options_free(o);
        return status;
    }
    int rc = open_conversation(&c, why, sizeof(why));
    if (rc == 0)
        rc = session_open(&c.session, &c.config.session, why, sizeof(why));
    if (rc == 0) rc = run(&c, why, sizeof(why));
    session_close(&c.session);
    conversation_close(c.conversation);
    ask_history_fini(&c.history);
    free(c.input);
    options_free(o);
    return rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
}
