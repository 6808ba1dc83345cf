"""Questions of several processes: nodes on the same CPUs, capped nodes, slices,
micro-batches, links that are shaped."""
import json
import os
import statistics
import subprocess

import fault_net
import rack
from speed import engines, files, links
from speed.results import Row

DECODE, PROMPT = 32, 512
SHORT_US = 10000
# It is resident twice, and in the page cache.
RESIDENT_SHARE = 0.25


def same_cpus(bench):
    """The same file through two nodes on the same CPUs, over in one process."""
    rows = []
    for name in bench.models:
        model = bench.files.get(name)
        if os.path.getsize(model) > RESIDENT_SHARE * _memory():
            continue
        both = [engines.Roster(model, bench.threads, name="in one process"),
                engines.Roster(model, 0, nodes=2, name="two nodes")]
        try:
            for what, prompt, gen, goal in (("decode", 0, DECODE, 0.90),
                                            ("prompt", PROMPT, 0, 0.95)):
                found = engines.in_turn(both, bench.times, prompt, gen)
                rows.append(Row(
                    "%s, %s" % (files.TITLES[name], what),
                    engines.ratio(found, "two nodes", "in one process"),
                    (">=", goal),
                    one_process=engines.median(found["in one process"]),
                    two_nodes=engines.median(found["two nodes"]),
                    unit="tokens/s"))
                bench.say(rows[-1])
        finally:
            for each in both:
                each.close()
    return {"two-nodes": rows}


def _memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def dispatch(bench):
    """bench_dispatch prints a JSON line for each number of nodes and rows, in
    microseconds of a layer and node, without computing; bytes are a node's."""
    found = {}
    for _ in range(bench.times):
        for one in _dispatch_once():
            found.setdefault((one["nodes"], one["rows"]), []).append(one)
    rows = []
    for (nodes, n_rows), seen in found.items():
        over_tcp, shared, zeromq = (
            statistics.median(s[key] for s in seen)
            for key in ("us", "shared_us", "zmq_us"))
        # a node that waits for a CPU is not what the goal is about
        own_cpus = nodes < len(os.sched_getaffinity(0))
        rows.append(Row(
            "%s%s, %s, %d KiB" % (
                _count(nodes, "node"), "" if own_cpus else " on shared CPUs",
                _count(n_rows, "row"), seen[0]["bytes"] >> 10),
            statistics.median(s["us"] - s["zmq_us"] for s in seen),
            ("<=", 25) if own_cpus else None, "µs", over_TCP=over_tcp,
            ZeroMQ_alone=zeromq, in_shared_memory=shared))
        bench.say(rows[-1])
    return {"dispatch": rows}


def _dispatch_once():
    program = os.path.join(rack.BUILD, "tests/bench/bench_dispatch")
    done = subprocess.run([program, "--json"], text=True, check=True,
                          capture_output=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _count(n, what):
    return "%d %s%s" % (n, what, "" if n == 1 else "s")


# ---- nodes that get a share of a CPU ----

class CappedRack:
    """A coordinator that computes no experts, and nodes with a quota each.
    shares[i] is node i's part of a CPU."""

    def __init__(self, model, shares, node_options=(), options=()):
        self.rack, self.groups, self.model = rack.Rack(model), [], model
        try:
            nodes = self.rack.nodes(len(shares), options=node_options)
            self.coordinator = self.rack.coordinator(
                nodes, "--no-local-experts", *options)
            for node, share in zip(nodes, shares):
                self._cap(node.pid, share)
        except BaseException:
            self.close()
            raise

    def _cap(self, pid, share):
        group = fault_net.make_group(os.getpid(), "speed%d" % len(self.groups))
        if group is None:
            raise RuntimeError("no control group for CPU time can be made")
        self.groups.append(group)
        # a short period: a layer must not fit into what one allows
        group.limit(share, SHORT_US)
        group.take(pid)

    def measure(self, prompt, gen, streams=1):
        rows = engines.run_json(
            [os.path.join(rack.BUILD, "roster"), "bench", self.model,
             "--endpoint", self.coordinator.endpoint, "-p", prompt, "-n", gen,
             "-b", streams, "-r", 1, "-o", "json"])
        return {"ts": rows[0]["avg_ts"]}

    def close(self):
        self.rack.close()
        for group in self.groups:
            group.close()


def slices(bench):
    """A top-2 model, one stream, 8 capped nodes: 4 slices over whole experts."""
    model = bench.files.get("mixtral-8x7b-4")
    found = {}
    for n in (1, 4):
        capped = CappedRack(model, [0.1] * 8, ("--slices", n), ("--slices", n))
        try:
            capped.measure(0, 2)
            found[n] = [capped.measure(0, 8)["ts"]
                        for _ in range(bench.times)]
        finally:
            capped.close()
    row = Row("Mixtral 8x7B, 4 layers, decode",
              statistics.median(found[4]) / statistics.median(found[1]),
              (">=", 2.5), whole=statistics.median(found[1]),
              four_slices=statistics.median(found[4]), unit="tokens/s")
    bench.say(row)
    return {"slices": [row]}


NODES = (1, 2, 4, 6, 8, 12, 16)


def scale_out(bench):
    """Prompts over nodes of 0.1 CPU each, on to where this computer ends."""
    shape = ["olmoe-1b-7b", "--layers", "2", "--experts", "64", "--vocab",
             "4096", "--width", "1024", "--expert-width", "2048"]
    model = bench.files.get("scale-out", "q4_k", shape)
    speeds = {}
    for n in NODES:
        capped = CappedRack(model, [0.1] * n)
        try:
            capped.measure(64, 0)
            speeds[n] = statistics.median(capped.measure(256, 0)["ts"]
                                          for _ in range(bench.times))
        finally:
            capped.close()
        bench.say("%d nodes: %.1f tokens/s" % (n, speeds[n]))
    rows = [Row("%d nodes over %d times one" % (n, n),
                speeds[n] / (n * speeds[1]), (">=", 0.85) if n == 8 else None,
                nodes=n, seen=speeds[n], unit="tokens/s")
            for n in speeds]
    return {"scale-out": rows}


# ---- links ----

def micro_batches(bench):
    """Prompts, two micro-batches in turn over one; four capped nodes."""
    shape = ["qwen3-30b-a3b", "--layers", "2", "--experts", "32", "--vocab",
             "4096"]
    model = bench.files.get("micro-batches", "q4_k", shape)
    found = {}
    for n in (1, 2):
        made = links.Rack(model, 4, gbit=1, cap=0.15,
                          options=["--micro-batches", n])
        try:
            made.measure(64, 0)
            found[n] = [made.measure(PROMPT, 0)["ts"]
                        for _ in range(bench.times)]
        finally:
            made.close()
    row = Row("Qwen3 30B-A3B, 2 layers of 32 experts, prompt",
              statistics.median(found[2]) / statistics.median(found[1]),
              (">=", 1.15), one=statistics.median(found[1]),
              two=statistics.median(found[2]), unit="tokens/s")
    bench.say(row)
    return {"micro-batches": [row]}


def shaped(bench):
    """Decode through two nodes over the bound: the time of one process plus a
    round trip for each layer, of plain TCP along the same way with messages of
    the same size.  Both take turns."""
    model = bench.files.get("qwen3-30b-a3b-12")
    rows = []
    for gbit in (10, 1):
        made = links.Rack(model, 2, gbit=gbit, threads=bench.threads)
        one = None
        try:
            one = engines.Roster(model, bench.threads)
            rows.append(_over_bound(bench, one, made, gbit))
        finally:
            if one is not None:
                one.close()
            made.close()
        bench.say(rows[-1])
    return {"links": rows}


def _over_bound(bench, one, made, gbit):
    layers, used, width = 12, 8, 2048  # of the file
    asked, answer = width * 36 // 32, width * 4 * used // 2
    turns = []
    made.measure(0, 2)
    for _ in range(bench.times):
        trip_s = made.round_trip_s(asked, answer)
        local_s = 1 / one.measure(0, DECODE)["ts"]
        turns.append((made.measure(0, DECODE)["ts"],
                      1 / (local_s + layers * trip_s), trip_s))
    return Row("%s, 2 nodes, %d Gbit, decode" %
               (files.TITLES["qwen3-30b-a3b-12"], gbit),
               statistics.median(seen / bound for seen, bound, _ in turns),
               (">=", 0.85), seen=statistics.median(t[0] for t in turns),
               bound=statistics.median(t[1] for t in turns),
               round_trip_us=statistics.median(t[2] for t in turns) * 1e6,
               unit="tokens/s")
