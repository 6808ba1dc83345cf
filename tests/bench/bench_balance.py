#!/usr/bin/env python3
"""Does a rack balance itself?  Real processes and a real etcd on this machine.

  tests/bench/bench_balance.py [--experts 128] [--tokens 10000] [--picture OUT.svg]

A model of Qwen3-MoE's shape with few layers, whose routers prefer experts by
Zipf(1); four nodes that offer 25 % more memory than one copy of all experts
takes.  10,000 tokens without and 10,000 with balancing; what the nodes counted,
max / mean.  With --move, then the hot set moves again and again: how long until
max / mean is below 1.2.  With --throughput, tokens per second under skewed and
under even traffic, nodes capped to a quarter of a CPU each.
"""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "support"))
import heat_picture  # noqa: E402
import rack  # noqa: E402
from etcd import Etcd  # noqa: E402
from fault_net import Group  # noqa: E402

SPARE = 0.25
HOT_SETS = 2  # ways in which the model's vocabulary is divided


def record(text):
    print("record: %s, %s" % (datetime.date.today(), text), flush=True)


class Bench:
    def __init__(self, options, skew, sets=1):
        self.options = options
        self.rack = rack.Rack()
        self.model = rack.make_model(
            self.rack.folder, arch="qwen3moe", layers=options.layers,
            width=options.width, expert_width=options.expert_width, heads=8,
            kv_heads=2, head_dim=64, experts=options.experts,
            used=options.used, vocab=options.vocab, context=4096,
            type=options.type, skew=skew, hot_sets=sets)
        self.rack.model = self.model
        self.etcd = Etcd(1)
        self.nodes = []

    def close(self):
        self.rack.close()
        self.etcd.close()

    # ---- the rack ----

    def unit_bytes(self):
        per = {"q8_0": 34 / 32, "q4_0": 18 / 32, "q4_k": 148 / 256}
        o = self.options
        return 3 * o.width * o.expert_width * per[o.type] * 1.005

    def start_nodes(self, cap=None):
        o = self.options
        units = o.layers * o.experts
        memory = int(units * self.unit_bytes() * (1 + SPARE) / o.nodes)
        for i in range(o.nodes):
            node = self.rack.start(
                "roster-expert-node", self.model, "--etcd", self.etcd.urls,
                "--listen", "tcp://127.0.0.1:*", "--threads", 1, "--name",
                "node%d" % (i + 1), "--memory", memory)
            if cap is not None:
                cap.take(node.pid)
            self.nodes.append(node)
        for node in self.nodes:
            node.wait_ready()

    def start_coordinator(self, *options):
        c = self.rack.start(
            "roster-coordinator", self.model, "--etcd", self.etcd.urls,
            "--listen", "tcp://127.0.0.1:*", "--threads", 1, "--name", "c1",
            "--min-replicas", 1, "--no-local-experts", *options)
        c.wait_ready()
        self.asked = c
        self.rack.wait_status(c, self.is_still, "the rack is placed")
        return c

    @staticmethod
    def is_still(status):
        return (status["placement"]["unplaced"] == 0
                and status["placement"]["moving"] == 0
                and not status["balance"]["moves"]["moving"])

    # ---- traffic ----

    def load(self, *options):
        return subprocess.Popen(
            [os.path.join(rack.BUILD, "tests/tools/token_load"), "--endpoint",
             self.asked.endpoint, "--prompt", "32", "--length", "32"] +
            [str(o) for o in options], stdout=subprocess.PIPE, text=True)

    def run(self, *options):
        process = self.load(*options)
        out, _ = process.communicate()
        if process.returncode != 0:
            raise RuntimeError("token_load failed:\n" + self.rack.logs())
        return json.loads(out.splitlines()[-1])

    def status(self):
        return self.rack.status(self.asked)

    def pairs(self):
        return {n["name"]: n["pairs"] for n in self.status()["nodes"]}

    def measure(self, seed):
        """max / mean of what the nodes computed for so many tokens."""
        before = self.pairs()
        figures = self.run("--tokens", self.options.tokens // 2, "--seed",
                           seed)
        time.sleep(1)  # the last pongs
        after = self.pairs()
        done = [after[n] - before[n] for n in after]
        status = self.status()
        worst = max(l.get("imbalance") or 1 for l in status["layers"])
        return max(done) / statistics.mean(done), worst, figures, status

    def settle(self, seconds=60):
        """Traffic until the rack has balanced itself."""
        process = self.load("--time", "%ds" % (seconds + 60))
        quiet_since = time.monotonic()
        until = time.monotonic() + seconds
        epoch = self.status()["epoch"]
        while time.monotonic() < until:
            status = self.status()
            if status["epoch"] != epoch or not self.is_still(status):
                epoch, quiet_since = status["epoch"], time.monotonic()
            if time.monotonic() - quiet_since > 12: break
            time.sleep(0.5)
        process.terminate()
        process.communicate()


def skewed(options):
    bench = Bench(options, skew=1.0)
    try:
        bench.start_nodes()
        c = bench.start_coordinator("--balance", "off")
        before, worst_before, _, status = bench.measure(1)
        pictures = [("before", status)]
        c.terminate()
        bench.start_coordinator()
        began = time.monotonic()
        bench.settle()
        took = time.monotonic() - began
        after, worst_after, figures, status = bench.measure(2)
        pictures.append(("after", status))
        held = sum(n["held"] for n in status["nodes"])
        resident = sum(n["resident_bytes"] for n in status["nodes"])
        record("%d experts, %d nodes, 25 %% spare, Zipf(1), %d tokens: "
               "max/mean %.3f -> %.3f (worst layer %.2f -> %.2f), %d holders "
               "of %d units, resident/placed %.3f, still after %.0f s, %d failed" %
               (options.experts, options.nodes, options.tokens, before, after,
                worst_before, worst_after, held,
                options.layers * options.experts,
                resident / (held * bench.unit_bytes() / 1.005), took,
                figures["failed"]))
        if options.picture:
            heat_picture.write(options.picture, pictures, options.experts)
    finally:
        bench.close()


def moving(options):
    """The hot set is another one every 60 s."""
    bench = Bench(options, skew=1.0, sets=HOT_SETS)
    half = options.vocab // HOT_SETS
    try:
        bench.start_nodes()
        bench.start_coordinator()
        for turn in range(options.move):
            first = 259 if turn % 2 == 0 else half
            last = half - 1 if turn % 2 == 0 else options.vocab - 1
            process = bench.load("--time", "60s", "--first", first, "--last",
                                 last, "--seed", turn, "--length", 2)
            began, back, series = time.monotonic(), None, []
            while process.poll() is None:
                earlier = bench.pairs()
                time.sleep(4)
                later = bench.pairs()
                done = [later[n] - earlier[n] for n in later]
                if sum(done) == 0: continue
                ratio = max(done) / statistics.mean(done)
                series.append(ratio)
                now = time.monotonic() - began
                if ratio < 1.2 and back is None: back = now
                if ratio >= 1.2: back = None
            record("the hot set moved (%d): below 1.2 for good after %s, last "
                   "%.2f, series %s" %
                   (turn, "%.0f s" % back if back is not None else "never",
                    series[-1], " ".join("%.2f" % r for r in series)))
    finally:
        bench.close()


def throughput(options):
    """Tokens per second, nodes capped: skewed over even traffic."""
    rates = {}
    for skew in (0.0, 1.0):
        bench = Bench(options, skew=skew)
        groups = []
        try:
            class Cap:
                @staticmethod
                def take(pid):
                    group = Group("roster-bench-%d" % os.getpid(), str(pid))
                    group.limit(0.25)
                    group.take(pid)
                    groups.append(group)
            bench.start_nodes(Cap)
            bench.start_coordinator()
            bench.settle()
            rates[skew] = [bench.run("--time", "20s", "--seed", seed)
                           ["tokens_per_s"] for seed in range(3)]
        finally:
            bench.close()
            for group in groups:
                group.close()
    even, hot = (statistics.median(rates[s]) for s in (0.0, 1.0))
    record("4 nodes of 0.25 CPU: %.1f tokens/s even, %.1f skewed: %.3f" %
           (even, hot, hot / even))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("experts", 128), ("used", 8), ("layers", 4),
                        ("width", 512), ("expert-width", 256), ("vocab", 4096),
                        ("nodes", 4), ("tokens", 10000)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--type", default="q8_0")
    parser.add_argument("--picture")
    parser.add_argument("--move", type=int, default=0, metavar="TIMES")
    parser.add_argument("--throughput", action="store_true")
    options = parser.parse_args()
    if options.throughput:
        throughput(options)
    elif options.move:
        moving(options)
    else:
        skewed(options)


main()
