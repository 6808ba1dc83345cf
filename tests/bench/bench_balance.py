#!/usr/bin/env python3
"""Does a rack balance itself?  Real processes and a real etcd on this machine.

  tests/bench/bench_balance.py [--experts 128] [--tokens 10000] [--picture OUT.svg]

Without a mode: tokens without and with balancing, max / mean of the pairs that
the nodes counted.  Modes:

  --move TIMES    The hot set is another one every 60 s: how long until max /
                  mean is below 1.2 for good, and is a move undone within 60 s?
  --throughput    Tokens per second under skewed over even traffic, each node
                  capped to a quarter of a CPU.
  --steps TIMES   The longest batch step while experts move, beside the longest
                  one of as long a time without moves.
  --join TIMES    How soon a node computes after its first expert has arrived.

A machine that others use as well is noisy: every figure stands beside what noise
alone would give, and the load average.
"""
import argparse
import datetime
import os
import re
import statistics
import time

import balance_rack
from balance_rack import BalanceRack, evenness, new_pairs, noise_floor
import fault_net
import heat_picture

HOT_SETS = 2  # ways in which the model's vocabulary is divided
TURN_S = 60
# What max / mean is taken of: enough pairs that 1 % is noise, and so long that
# it does not matter that nodes are heard of at different moments.
WINDOW_PAIRS, WINDOW_S = 40000, 4
CAP = 0.25  # of a CPU


def record(text, *values):
    print("record: %s, %s; load average %.1f" %
          (datetime.date.today(), text % values, os.getloadavg()[0]),
          flush=True)


# ---- before and after ----

def measure(bench, seed):
    """(max / mean, the worst layer's, figures, status) for so many tokens."""
    before = bench.status()
    figures = bench.run("--tokens", bench.options.tokens // 2, "--seed", seed)
    time.sleep(1)  # the last pongs
    status = bench.status()
    worst = max(l.get("imbalance") or 1 for l in status["layers"])
    return evenness(new_pairs(before, status)), worst, figures, status


def skewed(options):
    bench = BalanceRack(options, skew=1.0)
    try:
        bench.start_nodes()
        c = bench.start_coordinator("--balance", "off")
        before, worst_before, _, status = measure(bench, 1)
        pictures = [("before", status)]
        c.terminate()
        bench.start_coordinator()
        began = time.monotonic()
        bench.settle()
        took = time.monotonic() - began
        after, worst_after, figures, status = measure(bench, 2)
        pictures.append(("after", status))
        held = sum(n["held"] for n in status["nodes"])
        resident = sum(n["resident_bytes"] for n in status["nodes"])
        record("%d experts, %d nodes, 25 %% spare, Zipf(1), %d tokens: "
               "max/mean %.3f -> %.3f (worst layer %.2f -> %.2f), %d holders "
               "of %d units, resident/placed %.3f, still after %.0f s, %d "
               "failed", options.experts, options.nodes, options.tokens, before,
               after, worst_before, worst_after, held,
               options.layers * options.experts,
               resident / (held * bench.unit_bytes()), took, figures["failed"])
        if options.picture:
            heat_picture.write(options.picture, pictures, options.experts)
    finally:
        bench.close()


# ---- a hot set that moves ----

def windows(bench, process, watch):
    """(end, max / mean, noise) of each stretch with enough pairs."""
    before, began = bench.status(), time.monotonic()
    while process.poll() is None:
        time.sleep(0.5)
        status, now = bench.status(), time.monotonic()
        watch.see(status)
        pairs = new_pairs(before, status)
        if sum(pairs) < WINDOW_PAIRS or now - began < WINDOW_S:
            continue
        before, began = status, now
        yield now, evenness(pairs), noise_floor(pairs)


def move_once(bench, turn, watch):
    part = bench.options.vocab // HOT_SETS
    first = turn % HOT_SETS * part
    process = bench.load("--time", "%ds" % TURN_S, "--first",
                         max(first, 259), "--last", first + part - 1,
                         "--seed", turn, "--length", 2, "--streams", 16)
    began, back, series, noise = time.monotonic(), None, [], 1
    for end, ratio, noise in windows(bench, process, watch):
        series.append((end - began, ratio))
        if ratio >= 1.2:
            back = None
        elif back is None:
            back = end - began
    process.communicate()
    record("the hot set moved (%d): below 1.2 for good after %s, noise alone "
           "%.3f, %d holders changed so far, %d again within %d s; %s", turn,
           "%.0f s" % back if back is not None else "never", noise,
           watch.changes, watch.undone, balance_rack.UNDONE_S,
           " ".join("%.0f:%.2f" % each for each in series))
    return back


def moving(options):
    bench = BalanceRack(options, skew=1.0, sets=HOT_SETS)
    watch = balance_rack.Watch()
    try:
        bench.start_nodes()
        bench.start_coordinator()
        backs = [move_once(bench, turn, watch) for turn in range(options.move)]
        late = sum(back is None or back > 20 for back in backs)
        record("%d experts, the hot set moved %d times: %d times not below 1.2 "
               "within 20 s, %d of %d changes undone within %d s",
               options.experts, options.move, late, watch.undone,
               watch.changes, balance_rack.UNDONE_S)
        show_speeds(bench)
    finally:
        bench.close()


def show_speeds(bench):
    print("speeds:", " ".join("%s %s" % (n["name"], n["speed"])
                              for n in bench.status()["nodes"]))
    for line in bench.asked.err().splitlines():
        if "rebalanc" in line:
            print(line)


# ---- throughput ----

def cap(bench, groups):
    for node in bench.nodes:
        group = fault_net.make_group(os.getpid(), "bench-%d" % node.pid)
        if group is None:
            raise SystemExit("control groups for CPU time cannot be made here")
        groups.append(group)
        group.limit(CAP)
        group.take(node.pid)


def run_capped(bench, seed):
    """(tokens per second, tokens per second of the busiest node's CPU time): the
    second is what the first comes to where nothing but the nodes is scarce."""
    before = bench.status()
    cpu = [balance_rack.cpu_s(node.pid) for node in bench.nodes]
    figures = bench.run("--time", "15s", "--seed", seed)
    used = [balance_rack.cpu_s(node.pid) - was
            for node, was in zip(bench.nodes, cpu)]
    print("  %.1f tokens/s, max/mean %.3f, CPU %s s, %s" %
          (figures["tokens_per_s"],
           evenness(new_pairs(before, bench.status())),
           " ".join("%.2f" % s for s in used), bench.fallen()), flush=True)
    return figures["tokens_per_s"], figures["tokens"] / max(used)


def throughput(options):
    """Both racks stand side by side and are used in turns, so that what else
    the machine does touches them alike."""
    benches, groups, rates = {}, [], {0.0: [], 1.0: []}
    try:
        for skew in rates:
            benches[skew] = BalanceRack(options, skew=skew)
            benches[skew].start_nodes()
            benches[skew].start_coordinator()
            cap(benches[skew], groups)
            benches[skew].settle()
        for seed in range(options.turns):
            for skew, bench in benches.items():
                rates[skew].append(run_capped(bench, seed))
        (even, even_cpu), (hot, hot_cpu) = (
            [statistics.median(r) for r in zip(*rates[s])] for s in (0.0, 1.0))
        ratios = [h[0] / e[0] for e, h in zip(rates[0.0], rates[1.0])]
        record("%d nodes of %g CPU: %.1f tokens/s even, %.1f skewed: %.3f "
               "(%.3f to %.3f); by the busiest node's CPU time %.3f",
               options.nodes, CAP, even, hot, hot / even, min(ratios),
               max(ratios), hot_cpu / even_cpu)
    finally:
        for bench in benches.values():
            bench.close()
        for group in groups:
            group.close()


# ---- steps ----

def steps_of(path):
    """[(end, ms)] of every token but a request's first."""
    with open(path) as f:
        return [tuple(map(float, line.split())) for line in f
                if not line.startswith("{")]


def longest(steps, first, last):
    return max((ms for end, ms in steps if first <= end - ms / 1000 and
                end <= last), default=0)


def rebalance_once(bench, path):
    """(median, longest while experts moved, [longest of as long a time], s)"""
    with open(path, "w") as out:
        process = bench.load("--series", "--prompt", 8, "--length", 3000,
                             "--time", "120s", stdout=out)
        time.sleep(25)
        first = time.monotonic()
        report = bench.rebalance("--wait")
        last = time.monotonic() + 1  # what goes is given up a little later
        time.sleep(10)
        process.terminate()
        process.wait()
    steps, length = steps_of(path), last - first
    quiet, at = [], first - 20
    while at + length <= first:
        quiet.append(longest(steps, at, at + length))
        at += length
    median = statistics.median(ms for _, ms in steps)
    print("%d holders came, %d went, %.1f MB in %.1f s; steps: median %.1f "
          "ms, longest %.1f ms, without moves %s" %
          (report["added"], report["removed"], report["bytes"] / 1e6,
           length, median, longest(steps, first, last),
           " ".join("%.1f" % ms for ms in quiet)), flush=True)
    return median, longest(steps, first, last), quiet


def steps(options):
    """A rack is even after one rebalance: each time is another rack's."""
    found = []
    for _ in range(options.steps):
        bench = BalanceRack(options, skew=1.0)
        try:
            bench.start_nodes()
            bench.start_coordinator("--balance", "off")
            found.append(rebalance_once(
                bench, os.path.join(bench.rack.folder, "steps")))
        finally:
            bench.close()
    shares = [most / median for median, most, _ in found]
    quiet = [most / median for median, _, all_ in found for most in all_]
    record("%d rebalances in a steady stream: the longest step %.2f times the "
           "median (median of the runs %.2f); as long without moves: %.2f "
           "(median %.2f)", options.steps, max(shares),
           statistics.median(shares), max(quiet), statistics.median(quiet))


# ---- a node that joins ----

def arrived_at(node):
    """When all that a placement gave the node was resident; None: not yet."""
    found = re.search(r"^(\S+)Z .*all is resident, [1-9]", node.err(), re.M)
    if found is None: return None
    utc = datetime.timezone.utc
    at = datetime.datetime.fromisoformat(found.group(1)).replace(tzinfo=utc)
    return at.timestamp()


def join_once(bench):
    """After how long the coordinator said that the node computes: by the node's
    log, or since it was said to hold something."""
    node, held = bench.start_node(), None
    name, until = "node%d" % len(bench.nodes), time.time() + 60
    while time.time() < until:
        status, now = bench.status(), time.time()
        own = [n for n in status["nodes"] if n["name"] == name]
        if held is None and any(n["held"] > 0 for n in own): held = now
        if any(n["pairs"] > 0 for n in own):
            return max(now - min(held, arrived_at(node) or held), 0)
    raise RuntimeError("the node that joined computed nothing")


def join(options):
    took = []
    for _ in range(options.join):
        bench = BalanceRack(options, skew=1.0, share=options.nodes - 1)
        try:
            bench.start_nodes(options.nodes - 1)
            bench.start_coordinator()
            process = bench.load("--time", "120s")
            time.sleep(5)
            took.append(join_once(bench))
            process.terminate()
            process.communicate()
        finally:
            bench.close()
    record("a node joined %d: its first experts in use %s s after they had "
           "arrived", options.nodes - 1,
           " ".join("%.2f" % s for s in took))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("experts", 128), ("used", 8), ("layers", 4),
                        ("width", 512), ("expert-width", 256), ("vocab", 4096),
                        ("nodes", 4), ("tokens", 10000), ("turns", 3)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--type", default="q8_0",
                        choices=sorted(balance_rack.BYTES_PER_WEIGHT))
    parser.add_argument("--picture")
    for name in ("move", "steps", "join"):
        parser.add_argument("--" + name, type=int, default=0, metavar="TIMES")
    parser.add_argument("--throughput", action="store_true")
    options = parser.parse_args()
    modes = [(options.move, moving), (options.steps, steps),
             (options.join, join), (options.throughput, throughput)]
    next((run for asked, run in modes if asked), skewed)(options)


if __name__ == "__main__":
    main()
