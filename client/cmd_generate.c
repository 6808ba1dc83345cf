/* cmd_generate.c - `roster generate`: one prompt, one streamed answer. */
#include <string.h>
#include "client/ask.h"
#include "client/cli.h"
#include "client/commands.h"

#define NAME "roster generate"

static int parse(ask_config *c, options **o, const char **prompt, int argc,
                 char **argv) {
    option table[ASK_OPTIONS];
    const option_set set = {
        .program = NAME,
        .usage = "PROMPT [--endpoint E | --model FILE [--nodes N]] [options]",
        .about =
            "Continues PROMPT and prints the continuation as it comes (after "
            "the prompt itself with --echo). It asks a coordinator that runs "
            "already, or serves a model file for as long as it takes.",
        .table = table,
        .count = ask_options(c, table),
    };
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(o, &set, argc, argv, 1, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    *prompt = args[0];
    if (ask_check(c, *o, why, sizeof(why)) < 0)
        return cli_usage(NAME, "%s", why);
    return CLI_RUN;
}

int cmd_generate(int argc, char **argv) {
    char why[CLI_WHY] = "";
    const char *prompt = NULL;
    options *o = NULL;
    ask_config c;
    ask_config_init(&c);

    int status = parse(&c, &o, &prompt, argc, argv);
    if (status != CLI_RUN) {
        options_free(o);
        return status;
    }
    session s;
    ask_history history = {0};
    int rc = session_open(&s, &c.session, why, sizeof(why));
    if (rc == 0)
        rc = ask(&s, &c, &history, prompt, strlen(prompt), why, sizeof(why));
    session_close(&s);
    ask_history_fini(&history);
    options_free(o);
    return rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
}
