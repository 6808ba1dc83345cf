"""A whole rack on machines of its own: etcd, coordinators, nodes, stories.

Nothing here decides what fails; it knows how to start and end each process,
what the rack says of itself, and what must be true when all is over.
"""
import base64
import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request

import fault_net
import rack

LOAD = os.path.join(rack.BUILD, "tests/chaos/story_load")
CACHE_MB = 48  # a node's whole share fits, with room for a little more
GROWTH_MB = 96  # a node may have that much more memory at the end
NOTED_MS = 1000  # a story that waited so long is mentioned
LONGEST_MS = 10000  # for one token: there is always somebody who could make it
BUSY = 20  # and so many times what it took without a fault, on a busy computer
BAD_SIGNS = ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer",
             "runtime error", "Assertion", "assertion", "internal error",
             "a defect")


def takes(program, option):
    """Does this build know the option?"""
    said = subprocess.run([os.path.join(rack.BUILD, program), "--help"],
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=True)
    return re.search(r"^ +--%s\b" % option, said.stdout, re.M) is not None


def has_command(name):
    said = subprocess.run([os.path.join(rack.BUILD, "roster"), name, "--help"],
                          stdin=subprocess.DEVNULL, capture_output=True,
                          check=False)
    return said.returncode == 0


# What is started dies with the thread that started it.
_starter = concurrent.futures.ThreadPoolExecutor(1)


class Process:
    """One of the rack's processes: started again after each end."""

    def __init__(self, host, name, command, folder):
        self.host, self.name, self.command = host, name, command
        self.folder, self.program, self.starts = folder, None, 0
        self.boots = {}  # number of the start: boot id that others saw
        self.wanted = False  # it must be running: an end is a crash

    def start(self):
        self.starts += 1
        self.program = _starter.submit(
            rack.Program, self.folder, "%s-%d" % (self.name, self.starts),
            self.host.run_here(self.command)).result()
        self.wanted = True

    @property
    def pid(self):
        return self.program.pid

    def check_alive(self):
        """It has not ended by itself; asked also right before we end it."""
        if self.wanted and not self.running():
            self.wanted = False
            raise AssertionError("%s ended by itself, with status %s" %
                                 (self.name, self.program.status))

    def kill(self):
        self.check_alive()
        self.wanted = False
        self.program.signal(signal.SIGKILL)
        self.program.process.wait()

    def terminate(self, seconds=60):
        """An orderly end, or an AssertionError."""
        self.check_alive()
        self.wanted = False
        self.program.signal(signal.SIGTERM)
        self.program.wait(seconds * rack.SLOWER)
        if self.program.status != 0:
            raise AssertionError("%s ended with status %d" %
                                 (self.name, self.program.status))

    def stop(self):
        self.program.stop()

    def go_on(self):
        self.program.go_on()

    def running(self):
        return self.program is not None and not self.program.ended()

    def is_new(self, boot):
        """May this be the present process, and not an earlier one?"""
        return all(seen != boot for start, seen in self.boots.items()
                   if start != self.starts)


class Stories:
    """The load: what story_load says, line by line.  `note` hears of stories
    that had to wait."""

    def __init__(self, folder, truth, endpoint, streams, tokens, note):
        self.done = self.tokens = self.takeovers = self.moves = 0
        self.longest_ms, self.lost, self.wrong = 0, [], []
        self._note = note
        self._errors = open(os.path.join(folder, "stories.err"), "wb")
        self._process = subprocess.Popen(
            [LOAD, "--truth", truth, "--endpoint", endpoint, "--insecure",
             "--streams", str(streams), "--tokens", str(tokens)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True, bufsize=1,
            errors="replace")  # a wrong story may be no text at all
        line = self._process.stdout.readline()
        if line != "ready\n":
            raise AssertionError("the stories have no truth: see stories.err")
        self._reader = threading.Thread(target=self._read)

    def begin(self):
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            words = line.split()
            if words[0] == "done":
                tokens, takeovers, moves, silence = map(int, words[3:7])
                self.tokens += tokens
                self.takeovers += takeovers
                self.moves += moves
                self.longest_ms = max(self.longest_ms, silence)
                if silence >= NOTED_MS:
                    self._note("    a story waited for a token for %d ms" %
                               silence)
                self.done += 1
            elif words[0] in ("lost", "wrong"):
                what = "%s %s" % (time.strftime("%H:%M:%S"), line.strip())
                getattr(self, words[0]).append(what)

    @property
    def asked(self):
        return self.done + len(self.lost) + len(self.wrong)

    def finish(self, seconds=120 * rack.SLOWER):
        """Tell every story to its end."""
        if self._process.stdin.closed:
            return
        self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.lost.append("the stories did not end within %d s" % seconds)
            self._process.kill()
            self._process.wait()
        if self._reader.is_alive():
            self._reader.join()
        if self._process.returncode != 0:
            self.lost.append("story_load ended with status %d" %
                             self._process.returncode)
        self._errors.close()


class ChaosRack:
    """`shape`: {nodes, coordinators, streams, tokens}; `note` takes a line for
    the run's report."""

    def __init__(self, folder, seed, shape, note):
        self.folder, self.shape, self.note = folder, shape, note
        self.net = fault_net.Network(seed)
        self.processes, self.baseline, self.limit_ms = {}, {}, LONGEST_MS
        self.caches = takes("roster-expert-node", "cache")
        self._node_weights = takes("roster-expert-node", "weights-listen")
        self.rebalances = has_command("rebalance")
        self.recovers = has_command("recover")
        self.draining = threading.Lock()
        self._make_etcd(3)
        for i in range(shape["coordinators"]):
            self._make_coordinator("c%d" % (i + 1), 11 + i)
        for i in range(shape["nodes"] + 1):  # one is added and leaves again
            self._make_node("n%d" % (i + 1), 21 + i)
        self.spare = "n%d" % (shape["nodes"] + 1)
        self.stories = None

    # ---- making ----

    def _add(self, name, number, ports, command):
        host = self.net.machine(name, number)
        host.serve(*ports)
        self.processes[name] = Process(host, name, command(host), self.folder)

    def _make_etcd(self, members):
        names = ["e%d" % (i + 1) for i in range(members)]
        uplinks = {n: "10.77.1.%d" % (31 + i) for i, n in enumerate(names)}
        peers = ",".join("%s=http://%s:2380" % n for n in uplinks.items())

        def command(name):
            return lambda host: [
                shutil.which("etcd"), "--name", name,
                "--data-dir", self.etcd_data(name),
                "--listen-client-urls", "http://%s:2379" % host.public,
                "--advertise-client-urls", "http://%s:2379" % host.public,
                "--listen-peer-urls", "http://%s:2380" % host.uplink,
                "--initial-advertise-peer-urls", "http://%s:2380" % host.uplink,
                "--initial-cluster", peers, "--initial-cluster-state", "new",
                "--initial-cluster-token", "chaos",
                "--heartbeat-interval", "50", "--election-timeout", "500",
                "--log-level", "error"]

        for i, name in enumerate(names):
            self._add(name, 31 + i, [2379], command(name))
        self.etcds = names
        self.etcd_urls = ",".join("http://%s:2379" % self.host(n).public
                                  for n in names)

    def _make_coordinator(self, name, number):
        self._add(name, number, [7100, 7103], lambda host: [
            os.path.join(rack.BUILD, "roster-coordinator"), rack.STORIES,
            "--etcd", self.etcd_urls, "--name", name, "--threads", "1",
            "--listen", "tcp://%s:7100" % host.public,
            "--weights-listen", "tcp://%s:7103" % host.public,
            "--no-local-experts", "--min-replicas", "2",
            "--replace-after", "3s", "--timeout", "60s",
            "--park-timeout", "60s",  # who is slow to come back is waited for
            "--drain-timeout", "5s", "--insecure"])

    def _make_node(self, name, number):
        more = []
        if self._node_weights:
            more += ["--weights-listen", "tcp://10.77.0.%d:7103" % number]
        if self.caches:
            self.net.small_disk(self.cache(name), CACHE_MB)
            more += ["--cache", self.cache(name)]
        self._add(name, number, [7101, 7102, 7103], lambda host: [
            os.path.join(rack.BUILD, "roster-expert-node"),
            "--etcd", self.etcd_urls, "--name", name, "--threads", "1",
            "--listen", "tcp://%s:7101" % host.public, "--insecure"] + more)

    # ---- parts ----

    def host(self, name):
        return self.processes[name].host

    @staticmethod
    def cache(node):
        return "/run/cache-" + node

    @staticmethod
    def etcd_data(member):
        return "/run/etcd-" + member

    @property
    def coordinators(self):
        return [n for n in self.processes if n[0] == "c"]

    @property
    def nodes(self):
        """Those that are to be there."""
        return [n for n, p in self.processes.items()
                if n[0] == "n" and p.wanted]

    def endpoint(self, name):
        return "tcp://%s:7100" % self.host(name).public

    # ---- starting ----

    def start(self):
        for name in self.etcds:
            self.processes[name].start()
        rack.wait_until(self.etcd_healthy, "etcd is healthy")
        for name, process in self.processes.items():
            if name[0] == "c" or (name[0] == "n" and name != self.spare):
                process.start()
        for name in self.coordinators:
            self.processes[name].program.wait_ready()
        alone = rack.Program(self.folder, "alone", [
            os.path.join(rack.BUILD, "roster-coordinator"), rack.STORIES,
            "--listen", "tcp://127.0.0.1:*"])
        self.stories = Stories(
            self.folder, alone.wait_ready(),
            ",".join(self.endpoint(c) for c in self.coordinators),
            self.shape["streams"], self.shape["tokens"], self.note)
        alone.terminate()
        self.wait_whole()
        self.stories.begin()
        self.wait_stories(2 * self.shape["streams"])
        self.limit_ms = LONGEST_MS + BUSY * self.stories.longest_ms
        self.baseline = {n: rack.resident_bytes(self.processes[n].pid)
                         for n in self.nodes}

    def etcd_healthy(self):
        def healthy(name):
            url = "http://%s:2379/health" % self.host(name).public
            try:
                with urllib.request.urlopen(url, timeout=1) as answer:
                    return json.load(answer).get("health") == "true"
            except (OSError, ValueError):
                return False

        return all(healthy(n) for n in self.etcds
                   if self.processes[n].running())

    def _ask_etcd(self, name, path, body):
        request = urllib.request.Request(
            "http://%s:2379/v3/%s" % (self.host(name).public, path),
            json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def compact_etcd(self):
        """Something changes that concerns nobody, and then everything but what
        is true now is forgotten."""
        key = base64.b64encode(b"\0").decode()
        for name in self.etcds:
            if not self.processes[name].running():
                continue
            self._ask_etcd(name, "kv/put", {"key": key, "value": key})
            seen = self._ask_etcd(name, "kv/range", {"key": key, "limit": "1"})
            self._ask_etcd(name, "kv/compaction", {
                "revision": seen["header"]["revision"], "physical": True})
            return

    # ---- what the rack says ----

    def roster(self, command, *arguments, asked=None, seconds=10):
        """The result of a `roster` command asked of a coordinator."""
        return subprocess.run(
            [os.path.join(rack.BUILD, "roster"), command, *arguments,
             "--endpoint", self.endpoint(asked or self.coordinators[0]),
             "--insecure", "--timeout", "%ds" % seconds],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False)

    def status(self, name):
        """None if it does not say."""
        said = self.roster("status", "--json", asked=name, seconds=3)
        return json.loads(said.stdout) if said.returncode == 0 else None

    def _complaint(self):
        """What is not yet as it should be, or None: everybody is up, every unit
        has two holders, and any one node may be lost."""
        for name, process in self.processes.items():
            if process.wanted and process.program.stopped():
                return name + " is stopped"
        for name in self.coordinators:
            status = self.status(name)
            if status is None:
                return name + " does not answer"
            placement = status["placement"]
            if placement is None:
                return name + " knows no placement"
            seen = {n["name"]: n for n in status["nodes"]}
            if placement["unplaced"] or placement["moving"]:
                return "%s: %d unplaced, %d moving" % (
                    name, placement["unplaced"], placement["moving"])
            for node in self.nodes:
                if node not in seen or seen[node]["state"] != "up":
                    return "%s: %s is not up" % (name, node)
                if seen[node]["assigned"] != seen[node]["held"]:
                    return "%s: %s does not hold what it should" % (name, node)
                if seen[node]["held"] == 0 and not seen[node]["draining"]:
                    return "%s: %s has nothing" % (name, node)
                if seen[node]["suspect"]:
                    return "%s: %s does not answer in time" % (name, node)
                if not self.processes[node].is_new(seen[node]["boot_id"]):
                    return "%s: %s was not greeted again" % (name, node)
            gone = [n for n, s in seen.items()
                    if n not in self.nodes and s["assigned"]]
            if gone:
                return "%s: %s is gone, and has units" % (name, gone[0])
            if status["coverage"]["single"] or status["coverage"]["unheld"]:
                return name + ": some experts have less than two holders"
            if not placement["survives_largest"]:
                return name + ": the loss of a node would not be survived"
            if status["frozen"]:
                return "%s: frozen: %s" % (name, status["frozen"])
            for node in self.nodes:
                process = self.processes[node]
                process.boots[process.starts] = seen[node]["boot_id"]
        return None

    def wait_whole(self, seconds=90):
        said = [None]

        def whole():
            self.check_alive()
            said[0] = self._complaint()
            if said[0] is not None:
                time.sleep(0.1)
            return said[0] is None

        rack.wait_until(whole, lambda: "the rack is whole (%s)" % said[0],
                        seconds * rack.SLOWER)

    def wait_stories(self, more):
        """Until so many more were told; the rack serves."""
        asked = self.stories.asked + more
        rack.wait_until(lambda: self.stories.asked >= asked,
                        "%d more stories are told" % more, 90 * rack.SLOWER)

    def wait_empty(self, node):
        """A drained node has nothing left."""
        def empty():
            status = self.status(self.coordinators[0])
            seen = {n["name"]: n for n in (status or {"nodes": []})["nodes"]}
            return node in seen and seen[node]["held"] == 0

        rack.wait_until(empty, node + " is empty", 90 * rack.SLOWER)

    def wait_used(self):
        """What etcd does not know is used as before.  One coordinator and one
        node may suffer from something else; and once another fault's end has
        given a node its etcd back, the leader may count on that one alone."""
        def used():
            told = [self.status(name) for name in self.coordinators]
            nodes = [status["nodes"] for status in told if status is not None]
            up = [sum(n["state"] == "up" for n in some) for some in nodes]
            return (max(up, default=0) >= len(self.nodes) - 1 or
                    any(n["registered"] for some in nodes for n in some))

        rack.wait_until(used, "nodes that answer are used", 20 * rack.SLOWER)

    def insist(self, *words, asked):
        """A command, until it succeeds."""
        said = [None]

        def done():
            said[0] = self.roster(*words, asked=asked)
            return said[0].returncode == 0

        rack.wait_until(done, lambda: "%s is recorded: %s" %
                        (" ".join(words), said[0].stderr), 60 * rack.SLOWER)

    # ---- what must hold ----

    def check_alive(self):
        """Nobody has ended whom we did not end."""
        for process in self.processes.values():
            process.check_alive()

    def check_stories(self):
        bad = self.stories.wrong + self.stories.lost
        if bad:
            raise AssertionError("%d wrong, %d lost: %s" % (
                len(self.stories.wrong), len(self.stories.lost), bad[0]))
        if self.stories.longest_ms > self.limit_ms * rack.SLOWER:
            raise AssertionError("a story waited for a token for %.1f s" %
                                 (self.stories.longest_ms / 1000))

    def finish(self):
        """The stories end, and then everything else.  A list of what is wrong
        besides stories."""
        self.stories.finish()
        bad = self._grown()
        for name in self.coordinators + self.nodes:
            process = self.processes[name]
            try:
                process.check_alive()
                if process.running():
                    process.go_on()
                    process.terminate()
            except AssertionError as e:
                bad.append(str(e))
        return bad + self._signs()

    def _grown(self):
        bad = []
        for name, before in self.baseline.items():
            process = self.processes[name]
            if not process.running():
                continue
            grown = (rack.resident_bytes(process.pid) - before) >> 20
            if grown > GROWTH_MB * rack.SLOWER:
                bad.append("%s has %d MiB more than at first" % (name, grown))
        return bad

    def _signs(self):
        """Words in the logs that no fault explains."""
        bad = []
        for name in sorted(os.listdir(self.folder)):
            if not name.endswith(".err") or name[0] == "e":
                continue
            with open(os.path.join(self.folder, name), errors="replace") as f:
                for line in f:
                    if any(sign in line for sign in BAD_SIGNS):
                        bad.append("%s: %s" % (name, line.strip()))
                        break
        return bad

    def close(self):
        for process in self.processes.values():
            if process.running():
                process.kill()
        self.net.close()
