#!/bin/sh
# The README's three machines, tried on one: network namespaces for machines and
# a bridge for the switch between them.  Two expert nodes hold every expert, a
# coordinator has none; one node is killed in the middle of a story.
#
#   three-machines.sh [BUILD_DIR]        (needs root; default: build)
#
# Everything happens in mount, network and process namespaces of its own: what
# was started, mounted or written is gone with this script, also when that is
# killed.  The computer's own network is not touched.
#
# Exit status: 0 the rack did what the README says; 1 it did not, or the
# namespaces cannot be made.
set -eu

say() { printf '\n# %s\n' "$*"; }
fail() { echo "three-machines.sh: $*" >&2; exit 1; }

# ---- outside: start the rest in its namespaces, and answer for it ----

if [ "${1:-}" != --inside ]; then
    build=${1:-$(dirname "$0")/../build}
    [ "$(id -u)" = 0 ] || fail "needs root, for network namespaces"
    [ -x "$build/roster" ] || fail "no programs in $build: run make first"
    build=$(cd "$build" && pwd)
    cd "$(dirname "$0")/.."

    # Killed with us, and with it all that is inside.
    setpriv --pdeathsig KILL unshare --mount --net --pid --fork --kill-child \
        --mount-proc deploy/three-machines.sh --inside "$build" &
    inside=$!
    trap 'kill -KILL "$inside" 2>/dev/null || true' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    wait "$inside" && exit 0
    fail "it did not work; see above"
fi

# ---- inside ----

build=$2
model=models/stories-moe.q8_0.gguf
coordinator=tcp://10.77.0.10:7100
mount -t tmpfs tmpfs /run # for `ip netns` and our files; nobody else sees it
work=/run/three-machines
mkdir "$work" /run/netns

# We stand at the switch: 10.77.0.1 is the client's computer.
make_switch() {
    ip link set lo up
    ip link add switch type bridge
    ip address add 10.77.0.1/24 dev switch
    ip link set switch up
}

make_machine() { # NAME ADDRESS
    ip netns add "$1"
    ip link add "to-$1" type veth peer name eth0 netns "$1"
    ip link set "to-$1" master switch up
    ip -n "$1" address add "$2/24" dev eth0
    ip -n "$1" link set eth0 up
    ip -n "$1" link set lo up
}

# Words as one would type them.
words() {
    for word; do
        case $word in
        *' '*) printf ' "%s"' "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    echo
}

# A daemon on a machine, until it says that it is ready.  Its pid: $started.
start() { # MACHINE PROGRAM ARGUMENT...
    machine=$1
    shift
    printf '%s$' "$machine"
    words "$@"
    program=$build/$1
    shift
    ip netns exec "$machine" "$program" "$@" \
        >"$work/$machine.out" 2>>"$work/$machine.log" &
    started=$!
    tries=600
    until grep -q '^ready ' "$work/$machine.out"; do
        tries=$((tries - 1))
        if [ "$tries" = 0 ] || ! kill -0 "$started" 2>/dev/null; then
            cat "$work/$machine.log" >&2
            fail "$machine is not ready"
        fi
        sleep 0.1
    done
    cat "$work/$machine.out"
}

node_one() {
    start machine-1 roster-expert-node "$model" \
        --listen tcp://10.77.0.11:7101 --share 0/2x2 --name one --insecure
    one=$started
}

# The client's computer asks.
roster() {
    "$build/roster" "$@" --endpoint "$coordinator" --insecure
}

show() { # the same, with its command line
    printf 'laptop$ roster'
    words "$@" --endpoint "$coordinator" --insecure
    roster "$@" 2>&1
}

# Until `roster status` says that node one is in a state.
wait_one() { # STATE
    tries=100
    until roster status | grep -q "^one .* $1 "; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "node one is not $1"
        sleep 0.1
    done
}

say "a switch and three machines"
make_switch
make_machine machine-1 10.77.0.11
make_machine machine-2 10.77.0.12
make_machine machine-3 10.77.0.10
ip -brief address show switch

say "two expert nodes, each with every expert, and a coordinator without any"
node_one
start machine-2 roster-expert-node "$model" \
    --listen tcp://10.77.0.12:7101 --share 1/2x2 --name two --insecure
two=$started
start machine-3 roster-coordinator "$model" --listen "$coordinator" \
    --node tcp://10.77.0.11:7101 --node tcp://10.77.0.12:7101 \
    --no-local-experts --insecure
three=$started

say "a story, asked for from a fourth computer"
show generate "Once upon a time" --seed 7 --temp 0.6 --echo --stats
show status

say "a longer one, and node one is killed while it is told"
long() {
    roster generate "The big dog" --seed 1 -n 450 --ignore-end "$@"
}
long >"$work/whole"
long --stats >"$work/told" 2>"$work/figures" &
telling=$!
until [ -s "$work/told" ]; do
    kill -0 "$telling" 2>/dev/null || break
    sleep 0.01
done
kill -KILL "$one"
echo "machine-1\$ kill -KILL $one"
wait "$telling" || { cat "$work/figures" >&2; fail "the story was not told"; }
cat "$work/figures"
cmp "$work/whole" "$work/told" || fail "the loss of a node changed the story"
echo
echo "The story is the same, byte for byte: $(wc -c <"$work/told") of them."
wait_one down
show status

say "node one comes back"
node_one
wait_one up
show status

say "the end: every process leaves in good order"
kill -TERM "$three"
wait "$three" || fail "the coordinator did not end well"
kill -TERM "$one" "$two"
wait "$one" || fail "node one did not end well"
wait "$two" || fail "node two did not end well"
echo done
