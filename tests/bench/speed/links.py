"""A rack whose machines are network namespaces, with links of a certain speed
and delay between them (tests/support/fault_net.py)."""
import os
import shutil
import subprocess
import sys

import fault_net
import rack
from speed import engines

GBIT = {1: "1gbit", 10: "10gbit"}
DELAY_MS = 0.1  # added to each direction by the proxy
BURST = 262144  # a queue's, above the largest packet that the kernel makes
ECHO_PORT, ECHOES = 7900, 200
SHORT_US = 10000  # of a quota: a layer must not fit into it
# Answers what it is sent, in messages of a size that the caller names.
_ECHO = """
import socket, sys
asked, answer = int(sys.argv[3]), b"x" * int(sys.argv[4])
s = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
c, _ = s.accept()
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    left = asked
    while left:
        n = len(c.recv(left))
        if not n: sys.exit()
        left -= n
    c.sendall(answer)
"""
_ASK = """
import socket, statistics, sys, time
port, asked, answer, times = (int(n) for n in sys.argv[1:5])
all_ = [socket.create_connection((host, port)) for host in sys.argv[5:]]
for c in all_: c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
took = []
for _ in range(times):
    began = time.perf_counter()
    for c in all_: c.sendall(b"x" * asked)
    for c in all_:
        left = answer
        while left: left -= len(c.recv(left))
    took.append(time.perf_counter() - began)
print(statistics.median(took))
"""


def _shape(namespace, gbit):
    """Both ends of the cable between a namespace and the switch."""
    queue = ["root", "tbf", "rate", GBIT[gbit], "burst", str(BURST),
             "latency", "50ms"]
    for where in (["tc", "qdisc", "replace", "dev", "to-" + namespace],
                  ["nsenter", "--net=/run/netns/" + namespace, "tc", "qdisc",
                   "replace", "dev", "eth0"]):
        subprocess.run(where + queue, check=True)


class Rack:
    """One coordinator that computes no experts, and nodes of one thread, a
    machine each."""

    def __init__(self, model, nodes, gbit=None, cap=None, threads=1,
                 options=()):
        self.model = model
        self.net = fault_net.Network()
        self.rack = rack.Rack(model)
        self.hosts = []
        try:
            self._start(nodes, gbit, cap, threads, options)
        except BaseException:
            self.close()
            raise

    def _start(self, nodes, gbit, cap, threads, options):
        self.home = self.net.machine("home", 1)
        where = []
        for i in range(nodes):
            host = self.net.machine("n%d" % i, 2 + i)
            host.serve(7101, 7102, ECHO_PORT)
            self.hosts.append(host)
            started = self._here(
                host, "roster-expert-node", self.model, "--listen",
                "tcp://%s:7101" % host.public, "--insecure", "--threads",
                1, "--share", "%d/%d" % (i, nodes))
            where += ["--node", "tcp://%s:7101" % host.public]
            started.wait_ready()
            if cap is not None:
                self._cap(host, started.pid, cap)
        self.coordinator = self._here(
            self.home, "roster-coordinator", self.model, "--listen",
            "tcp://127.0.0.1:7100", "--insecure", "--threads", threads,
            "--no-local-experts", *where, *options)
        self.coordinator.wait_ready()
        if gbit is not None:
            self._slow_down(gbit)

    def _here(self, host, program, *arguments):
        command = host.run_here([os.path.join(rack.BUILD, program)] +
                                [str(a) for a in arguments])
        return self.rack.start(shutil.which(command[0]), *command[1:],
                               name=program + "-" + host.name)

    def _cap(self, host, pid, share):
        group = self.net.group_of(host.name)
        if group is None:
            raise RuntimeError("no control group for CPU time can be made")
        group.limit(share, SHORT_US)
        group.take(pid)

    def _slow_down(self, gbit):
        _shape(self.home.back, gbit)
        for host in self.hosts:
            _shape(host.front, gbit)
        self.net.proxy.rule("*", "*", "delay %g" % DELAY_MS)

    def measure(self, prompt, gen):
        rows = engines.run_json(self.home.run_here(
            [os.path.join(rack.BUILD, "roster"), "bench", self.model,
             "--endpoint", "tcp://127.0.0.1:7100", "-p", str(prompt), "-n",
             str(gen), "-r", "1", "-o", "json"]))
        return {"ts": rows[0]["avg_ts"]}

    def round_trip_s(self, asked, answer):
        """Of plain TCP along the same ways, to all nodes at once, with messages
        of these sizes to and from each."""
        echoes = []
        try:
            for host in self.hosts:
                echoes.append(subprocess.Popen(
                    host.run_here([sys.executable, "-c", _ECHO, host.public,
                                   str(ECHO_PORT), str(asked), str(answer)]),
                    stdout=subprocess.PIPE))
                echoes[-1].stdout.readline()
            done = subprocess.run(
                self.home.run_here(
                    [sys.executable, "-c", _ASK] +
                    [str(n) for n in (ECHO_PORT, asked, answer, ECHOES)] +
                    [host.public for host in self.hosts]),
                text=True, capture_output=True, check=True)
        finally:
            for echo in echoes:
                echo.kill()
                echo.wait()
                echo.stdout.close()
        return float(done.stdout)

    def close(self):
        self.rack.close()
        self.net.take_down()
