#!/bin/sh
# Tells a story: what `make run` calls after building.
#
#   run.sh BUILD_DIR
#
# One coordinator and two expert nodes run on loopback for as long as this takes;
# with a terminal a prompt stays open afterwards, until Ctrl-D.  Nothing that was
# started is left.
set -eu

build=${1:?usage: run.sh BUILD_DIR}
model=models/stories-moe.q8_0.gguf
cd "$(dirname "$0")/.."

echo "Starting a coordinator and two expert nodes for $model ..." >&2
if [ -t 0 ]; then
    echo "After it: write how it goes on; Ctrl-C stops an answer, Ctrl-D ends." >&2
fi
echo >&2

exec "$build/roster" chat "Once upon a time" --model "$model" --nodes 2 \
    --echo --stats -n 300 --temp 0.6 --seed 7
