/* commands.h - the subcommands of `roster`, a file each (cmd_*.c).  Each takes
 * its own arguments, argv[0] being its name, and returns the exit status. */
#ifndef CLIENT_COMMANDS_H
#define CLIENT_COMMANDS_H

int cmd_up(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_detokenize(int argc, char **argv);
int cmd_template(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_drain(int argc, char **argv);
int cmd_rebalance(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_recover(int argc, char **argv);

#endif
