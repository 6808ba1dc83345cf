"""A rack of real processes for bench_balance.py, and what its nodes count.

A model of Qwen3-MoE's shape with few layers, whose routers prefer experts by
Zipf(1); nodes that offer a quarter more memory than one copy of all experts
takes; one coordinator that computes no experts itself.
"""
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "support"))
import rack  # noqa: E402
from etcd import Etcd  # noqa: E402

SPARE = 0.25
BYTES_PER_WEIGHT = {"q8_0": 34 / 32, "q4_0": 18 / 32, "q4_k": 148 / 256}
STILL_S = 12  # without a move: the balancer has nothing to do
UNDONE_S = 60


class BalanceRack:
    def __init__(self, options, skew, sets=1, share=None):
        """share: how many nodes are to have memory for all experts."""
        self.options, self.share = options, share or options.nodes
        self.rack = rack.Rack()
        self.model = rack.make_model(
            self.rack.folder, arch="qwen3moe", layers=options.layers,
            width=options.width, expert_width=options.expert_width, heads=8,
            kv_heads=2, head_dim=64, experts=options.experts,
            used=options.used, vocab=options.vocab, context=4096,
            type=options.type, skew=skew, hot_sets=sets)
        self.rack.model = self.model
        self.etcd = Etcd(1)
        self.nodes, self.asked = [], None

    def close(self):
        self.rack.close()
        self.etcd.close()

    # ---- processes ----

    def unit_bytes(self):
        o = self.options
        return 3 * o.width * o.expert_width * BYTES_PER_WEIGHT[o.type]

    def start_node(self):
        o = self.options
        memory = (o.layers * o.experts * self.unit_bytes() * 1.005 *
                  (1 + SPARE) / self.share)
        node = self.rack.start(
            "roster-expert-node", self.model, "--etcd", self.etcd.urls,
            "--listen", "tcp://127.0.0.1:*", "--threads", 1, "--name",
            "node%d" % (len(self.nodes) + 1), "--memory", int(memory))
        self.nodes.append(node)
        return node

    def start_nodes(self, count=None):
        for _ in range(count or self.options.nodes):
            self.start_node()
        for node in self.nodes:
            node.wait_ready()

    def start_coordinator(self, *options):
        c = self.rack.start(
            "roster-coordinator", self.model, "--etcd", self.etcd.urls,
            "--listen", "tcp://127.0.0.1:*", "--threads", 1, "--name", "c1",
            "--min-replicas", 1, "--no-local-experts", *options)
        c.wait_ready()
        self.asked = c
        self.rack.wait_status(c, is_still, "the rack is placed")
        return c

    # ---- traffic ----

    def load(self, *options, **popen):
        popen.setdefault("stdout", subprocess.PIPE)
        return subprocess.Popen(
            [os.path.join(rack.BUILD, "tests/tools/token_load"), "--endpoint",
             self.asked.endpoint, "--prompt", "32", "--length", "32"] +
            [str(o) for o in options], text=True, **popen)

    def run(self, *options):
        process = self.load(*options)
        out, _ = process.communicate()
        if process.returncode != 0:
            raise RuntimeError("token_load failed:\n" +
                               "\n".join(self.rack.logs()))
        return json.loads(out.splitlines()[-1])

    def settle(self, *options, seconds=60):
        """Traffic until the rack has balanced itself."""
        process = self.load("--time", "%ds" % (seconds + 60), *options)
        quiet_since, epoch = time.monotonic(), None
        until = quiet_since + seconds
        while time.monotonic() < min(until, quiet_since + STILL_S):
            status = self.status()
            if status["epoch"] != epoch or not is_still(status):
                epoch, quiet_since = status["epoch"], time.monotonic()
            time.sleep(0.5)
        process.terminate()
        process.communicate()

    # ---- looking ----

    def status(self):
        return self.rack.status(self.asked)

    def rebalance(self, *options):
        result = self.rack.run("rebalance", "--json", *options, "--endpoint",
                               self.asked.endpoint)
        if result.status != 0:
            raise RuntimeError("no rebalance: " + result.err)
        return json.loads(result.out)

    def fallen(self):
        """What the coordinator says of requests that did not go well."""
        d = self.status()["dispatch"]
        return {k: d[k] for k in ("hedges", "lost_pairs") if k in d}


def cpu_s(pid):
    """What the process has used."""
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_still(status):
    return (status["placement"]["unplaced"] == 0
            and status["placement"]["moving"] == 0
            and not status["balance"]["moves"]["moving"])


def pairs_of(status):
    return {n["name"]: n["pairs"] for n in status["nodes"]}


def new_pairs(before, after):
    then, now = pairs_of(before), pairs_of(after)
    return [now[name] - then.get(name, 0) for name in now]


def evenness(pairs):
    """max / mean"""
    return max(pairs) / statistics.mean(pairs)


def noise_floor(pairs, times=200):
    """What max / mean would be on average if each pair had gone to any node."""
    n, mean = len(pairs), sum(pairs) / len(pairs)
    draw = random.Random(1)
    return statistics.mean(
        max(mean + math.sqrt(mean) * draw.gauss(0, 1) for _ in range(n)) / mean
        for _ in range(times))


class Watch:
    """Holders come and go: which do so again within a minute?"""

    def __init__(self):
        self.held, self.touched = None, {}
        self.changes = self.undone = 0

    def see(self, status):
        now, held = time.monotonic(), set()
        for number, layer in enumerate(status["layers"]):
            for node, digits in layer.get("held", {}).items():
                held |= {(node, number, unit) for unit in _units(digits)}
        for one in held ^ (held if self.held is None else self.held):
            if now - self.touched.get(one, -UNDONE_S) < UNDONE_S:
                self.undone += 1
            self.touched[one] = now
            self.changes += 1
        self.held = held


def _units(digits):
    return [4 * i + b for i, digit in enumerate(digits) for b in range(4)
            if int(digit, 16) >> b & 1]
