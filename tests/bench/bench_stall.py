#!/usr/bin/env python3
"""How long a story stands still when a node is lost.

    tests/bench/bench_stall.py [--rounds 30] [--nodes 3] [--kinds kill,stop,cut]

A rack of real processes on loopback, every expert on two nodes, none computed by
the coordinator.  In each round a story is told, and at some moment a node is
killed (`kill`), stopped (`stop`), or cut off by a proxy that goes on accepting
and forwards nothing (`cut`).  The stall is the longest time between two pieces
of text from then on.  `calm` is the same without a fault.  The text is compared
with that of one process, and the extra calls are counted.
"""
import argparse
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../support"))
import rack  # noqa: E402

PROMPT = "Once upon a time"
TOKENS = 300


class Proxy:
    """Forwards the ports of one host to the same ports of another, as long as
    it is not told to stand still."""

    def __init__(self, ports, to, host):
        self.still, self.closed = False, False
        self.to, self.host = to, host
        self.pairs, self.listeners = {}, []
        for port in ports:
            s = socket.create_server((host, port))
            self.listeners.append(s)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _accept(self, listener):
        here, _ = listener.accept()
        try:
            there = socket.create_connection(
                (self.to, listener.getsockname()[1]), 1)
        except OSError:
            here.close()
            return
        for s in (here, there):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pairs[here], self.pairs[there] = there, here

    def _forward(self, s):
        other = self.pairs.get(s)
        if other is None:
            return
        try:
            data = s.recv(1 << 16)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        for end in (s, other):
            self.pairs.pop(end, None)
            end.close()

    def _run(self):
        while not self.closed:
            if self.still:
                time.sleep(0.002)
                continue
            ready, _, _ = select.select(self.listeners + list(self.pairs), [],
                                        [], 0.05)
            for s in ready:
                if self.still:
                    break
                (self._accept if s in self.listeners else self._forward)(s)

    def close(self):
        self.closed = True
        self.thread.join()
        for s in self.listeners + list(self.pairs):
            s.close()


def listening_ports(pid):
    """The TCP ports that a process listens on."""
    inodes = set()
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            link = os.readlink("/proc/%d/fd/%s" % (pid, fd))
        except OSError:
            continue
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    ports = []
    with open("/proc/%d/net/tcp" % pid) as f:
        for line in f.readlines()[1:]:
            field = line.split()
            if field[3] == "0A" and field[9] in inodes:
                ports.append(int(field[1].split(":")[1], 16))
    return ports


class Story:
    """Told by `roster generate`; remembers when text came."""

    def __init__(self, coordinator):
        self.process = subprocess.Popen(
            [os.path.join(rack.BUILD, "roster"), "generate", PROMPT,
             "--endpoint", coordinator.endpoint, "-n", str(TOKENS), "--temp",
             "0", "--ignore-end", "--timeout", "20s"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL)
        self.fd = self.process.stdout.fileno()
        self.text, self.times = b"", []

    def read(self, until=None):
        """To the end, or until that time; False: it has ended."""
        while until is None or time.monotonic() < until:
            left = None if until is None else max(0, until - time.monotonic())
            if not select.select([self.fd], [], [], left)[0]:
                return True
            data = os.read(self.fd, 65536)
            if not data:
                return False
            self.text += data
            self.times.append(time.monotonic())
        return True

    def wait(self):
        self.read()
        self.process.wait()
        if self.process.returncode != 0:
            raise SystemExit("a story failed: %s" %
                             self.process.stderr.read().decode())

    def longest_gap(self, since):
        """Of those that end after that time."""
        gaps = [b - a for a, b in zip(self.times, self.times[1:]) if b > since]
        return max(gaps) if gaps else 0.0


class Bench:
    def __init__(self, n_nodes, seed):
        self.random = random.Random(seed)
        self.rack = rack.Rack()
        alone = self.rack.coordinator()
        story = Story(alone)
        story.wait()
        self.text = story.text
        alone.terminate()
        self.n_nodes = n_nodes
        self.nodes = [self._node(i, "tcp://127.0.0.1:*")
                      for i in range(n_nodes)]
        self.proxies = []

    def _node(self, i, listen):
        return self.rack.node("--share", "%d/%dx2" % (i, self.n_nodes),
                              listen=listen)

    def close(self):
        for proxy in self.proxies:
            proxy.close()
        self.rack.close()

    def coordinator(self, kind):
        """Through the proxies only where they are needed: they cost time."""
        ends = [n.endpoint for n in self.nodes]
        if kind == "cut":
            hosts = ["127.0.1.%d" % (i + 1) for i in range(self.n_nodes)]
            self.proxies = [Proxy(listening_ports(n.pid), "127.0.0.1", host)
                            for n, host in zip(self.nodes, hosts)]
            ends = ["tcp://%s:%d" % (host, rack.port_of(end))
                    for host, end in zip(hosts, ends)]
        return self.rack.coordinator(ends, "--no-local-experts")

    def wait_all_up(self, asked):
        rack.wait_until(
            lambda: all(n["state"] == "up" and not n["suspect"]
                        for n in self.rack.status(asked)["nodes"]),
            "all nodes are up")

    def fault(self, kind, i):
        if kind == "kill":
            self.nodes[i].kill()
        elif kind == "stop":
            self.nodes[i].stop()
        elif kind == "cut":
            self.proxies[i].still = True

    def heal(self, kind, i):
        if kind == "kill":
            self.nodes[i] = self._node(i, self.nodes[i].endpoint)
        elif kind == "stop":
            self.nodes[i].go_on()
        elif kind == "cut":
            self.proxies[i].still = False

    def warm(self, asked):
        """Nodes come back into use, and are known again."""
        story = Story(asked)
        story.wait()

    def begin(self, asked):
        """A story that is being told."""
        while True:
            story = Story(asked)
            while story.read(time.monotonic() + 0.005):
                if len(story.text) > len(self.text) / 20:
                    return story
            story.wait()  # it was over before we looked

    def run(self, kind, rounds):
        asked = self.coordinator(kind)
        for _ in range(3):
            self.warm(asked)
        stalls = []
        for number in range(rounds):
            i = number % self.n_nodes
            self.warm(asked)
            self.wait_all_up(asked)
            story = self.begin(asked)
            story.read(time.monotonic() + self.random.uniform(0, 0.3))
            since = time.monotonic()
            self.fault(kind, i)
            story.wait()
            stalls.append(story.longest_gap(since))
            if story.text != self.text:
                raise SystemExit("%s: another story was told" % kind)
            self.heal(kind, i)
        dispatch = self.rack.status(asked)["dispatch"]
        asked.terminate()
        return stalls, dispatch


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=30)
    options.add_argument("--nodes", type=int, default=3)
    options.add_argument("--kinds", default="calm,kill,stop,cut")
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    bench = Bench(asked.nodes, asked.seed)
    try:
        print("%-5s %6s %9s %9s %9s   %s" % ("fault", "rounds", "median ms",
                                             "p99 ms", "max ms", "calls"))
        for kind in asked.kinds.split(","):
            stalls, d = bench.run(kind, asked.rounds)
            ms = [1000 * s for s in stalls]
            print("%-5s %6d %9.1f %9.1f %9.1f   %d calls, %.2f %% hedges "
                  "(%d of %d won), %d retries, %d trials, %d broken" %
                  (kind, len(ms), quantile(ms, 0.5), quantile(ms, 0.99),
                   max(ms), d["calls"], 100 * d["hedges"] / d["calls"],
                   d["hedge_wins"], d["hedges"], d["retries"], d["trials"],
                   d["broken"]), flush=True)
    finally:
        bench.close()


if __name__ == "__main__":
    main()
