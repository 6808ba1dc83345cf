#!/bin/sh
# A rack that organizes itself: what `make run-cluster` calls after building.
#
#   run-cluster.sh BUILD_DIR
#
# A real etcd, a coordinator and two expert nodes that were given no model file
# find each other; a third node joins while stories are told, computes, is drained
# and leaves.  Every story must be the one that two nodes told.  All of it runs on
# loopback, on free ports and in a temporary directory; nothing is left, also
# when it is interrupted.
#
# Exit status: 0 if all of that held.
set -eu

build=$(cd "${1:?usage: run-cluster.sh BUILD_DIR}" && pwd)
cd "$(dirname "$0")/.."
model=models/stories-moe.q8_0.gguf
work=$(mktemp -d "${TMPDIR:-/tmp}/roster-cluster.XXXXXX")
started="" # pids of our processes

say() { printf '\n# %s\n' "$*"; }
fail() {
    echo "run-cluster.sh: $*" >&2
    tail -n 5 "$work"/*.log >&2
    exit 1
}

finish() {
    status=$?
    trap - EXIT INT TERM HUP
    for pid in $started; do kill "$pid" 2>/dev/null || true; done
    for pid in $started; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

etcd=$(command -v etcd) || fail "no etcd here (Debian: etcd-server)"

# ---- starting things ----

free_ports() { # N: as many ports that nobody has now
    python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*[s.getsockname()[1] for s in held])
PYTHON
}

# Until a command succeeds, 30 s at most.
until_true() { # WHAT COMMAND...
    what=$1
    shift
    tries=300
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$what: not within 30 s"
        sleep 0.1
    done
}

start() { # NAME PROGRAM ARGUMENT...: in the background; its pid in $pid
    name=$1
    shift
    "$@" >"$work/$name.out" 2>"$work/$name.log" &
    pid=$!
    started="$started $pid"
}

node() { # NAME: an expert node without a model file; its pid in $pid
    start "$1" "$build/roster-expert-node" --etcd "$url" --name "$1" \
        --listen 'tcp://127.0.0.1:*' --threads 1
}

roster() { "$build/roster" "$@" --endpoint "$endpoint"; }

# ---- what is asked of the rack ----

story() { # the same words every time: seed and temperature are given
    roster generate "The big dog" --seed 1 --temp 0.6 -n 450 --ignore-end
}

# A member of node NAME's entry in the coordinator's status.
of_node() { # NAME MEMBER
    roster status --json | python3 -c '
import json, sys
nodes = {n["name"]: n for n in json.load(sys.stdin)["nodes"]}
print(nodes.get(sys.argv[1], {}).get(sys.argv[2], 0))' "$1" "$2"
}

computed() { # NAME LEAST: that many batches, by the node's own counter
    [ "$(of_node "$1" batches)" -ge "$2" ]
}
holds() { # NAME LEAST MOST: units of experts
    held=$(of_node "$1" held)
    [ "$held" -ge "$2" ] && [ "$held" -le "$3" ]
}

# Story after story, each compared with the first, until told to end.
tell_on() {
    while [ ! -e "$work/enough" ]; do
        story >"$work/told" 2>"$work/told.log" || { touch "$work/broken"; break; }
        cmp -s "$work/whole" "$work/told" || { touch "$work/differs"; break; }
        echo . >>"$work/stories"
    done
}
told() { wc -l <"$work/stories"; }
told_more_than() { [ "$(told)" -gt "$1" ]; }
still_good() {
    [ ! -e "$work/broken" ] || { cat "$work/told.log" >&2; fail "a story was not told to its end"; }
    [ ! -e "$work/differs" ] || fail "a story was told with other words"
}

# ---- the play ----

ports=$(free_ports 2)
url=http://127.0.0.1:${ports% *}
peer=http://127.0.0.1:${ports#* }
say "etcd at $url"
start etcd "$etcd" --data-dir "$work/etcd" --log-level error \
    --listen-client-urls "$url" --advertise-client-urls "$url" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
    --initial-cluster "default=$peer"

say "two expert nodes without a model file, and a coordinator that has it"
node one
node two
start coordinator "$build/roster-coordinator" "$model" --etcd "$url" \
    --listen 'tcp://127.0.0.1:*' --no-local-experts --threads 1
until_true "the coordinator is ready" grep -q '^ready ' "$work/coordinator.out"
endpoint=$(sed -n 's/^ready //p' "$work/coordinator.out")
until_true "node one holds experts" holds one 1 96
until_true "node two holds experts" holds two 1 96
roster status

say "a story, told by two nodes"
story | tee "$work/whole"
[ -s "$work/whole" ] || fail "there is no story"

say "the same story again and again; a third node joins meanwhile"
: >"$work/stories"
tell_on &
telling=$!
started="$started $telling"
until_true "the first story is told" told_more_than 0
node three
three=$pid
until_true "node three computes" computed three 100
before=$(told)
until_true "one more story is told" told_more_than "$before"
still_good
roster status

say "node three is drained, and leaves"
roster drain three --wait
batches=$(of_node three batches)
kill -TERM "$three"
wait "$three" || fail "node three did not end well"
before=$(told)
until_true "one more story is told" told_more_than "$before"
still_good
touch "$work/enough"
wait "$telling"
still_good
roster status

say "node three computed $batches batches of experts; $(told) stories were told, all of them the same"
