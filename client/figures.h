/* figures.h - what a generation cost, for people: the lines of --stats. */
#ifndef CLIENT_FIGURES_H
#define CLIENT_FIGURES_H

#include <stdio.h>
#include "client/include/roster.h"

void figures_print(FILE *out, const roster_stats *s,
                   const roster_generation *g);

#endif
