/* main.c - the `roster` command: a table of subcommands. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include "client/cli.h"
#include "client/commands.h"
#include "engine/util.h"

typedef struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} command;

/* clang-format off */
static const command commands[] = {
    {"up",         cmd_up,         "serve a model from this machine"},
    {"generate",   cmd_generate,   "continue a prompt"},
    {"chat",       cmd_chat,       "talk with a model in turns"},
    {"eval",       cmd_eval,       "write the logits of a token list to a file"},
    {"tokenize",   cmd_tokenize,   "turn text into token ids"},
    {"detokenize", cmd_detokenize, "turn token ids into text"},
    {"template",   cmd_template,   "turn a conversation into a model's text"},
    {"inspect",    cmd_inspect,    "say what a model file holds and needs"},
    {"perplexity", cmd_perplexity, "measure how well a model predicts a text"},
    {"bench",      cmd_bench,      "measure how fast a model is served"},
    {"status",     cmd_status,     "show what a coordinator and its rack do"},
    {"top",        cmd_top,        "the same, live, with rates"},
    {"drain",      cmd_drain,      "empty a node or a coordinator"},
    {"rebalance",  cmd_rebalance,  "place experts by their load now"},
    {"plan",       cmd_plan,       "work out who should hold what"},
    {"recover",    cmd_recover,    "put a wiped, restored or full etcd right"},
};
/* clang-format on */

static void print_help(FILE *out) {
    fputs("Usage: roster COMMAND [arguments]\n\n"
          "Asks racks of CPU servers that serve mixture-of-experts language "
          "models, and\nstarts small ones on this machine.\n\nCommands:\n",
          out);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-12s %s\n", commands[i].name, commands[i].about);
    fputs("\n`roster COMMAND --help` explains one. Exit status: 0 the whole "
          "result was\ndelivered; 1 a failure, whose last line on stderr says "
          "what and where; 2 usage.\n",
          out);
}

static int run(const command *c, int argc, char **argv) {
    /* A reader that leaves early is an error of the write, not our death. */
    signal(SIGPIPE, SIG_IGN);
    return c->run(argc, argv);
}

int main(int argc, char **argv) {
    standard_streams_keep();
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(name, commands[i].name) == 0)
            return run(&commands[i], argc - 1, argv + 1);
    }
    if (strcmp(name, "--version") == 0) {
        printf("roster %s\n", ROSTER_VERSION);
        return fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
    }
    return cli_usage("roster", "there is no command '%s'; see roster --help",
                     name);
}
