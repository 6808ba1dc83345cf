"""A real etcd for tests: one member or three, on loopback and free ports.

Members keep their data when they are killed or stopped and started again; wipe()
forgets it, and with it the identity of the cluster.  What the test reads or
writes itself goes through the JSON gateway of any member, as a rack's processes
do.  A member dies with the test that started it, however that ends.
"""
import base64
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from rack import (BUILD, LOOK_BY_COMMAND_S, PATIENCE_S, PATIENT, Program,
                  RackTest, own_listen, skip, wait_until)

PROGRAM = shutil.which("etcd")
ANSWER_S = 10
CLAIMS = "/tmp/roster-test-ports"  # etcd_sync.c's, too


_ports = random.SystemRandom()
_claims = []  # open until this process ends


def _claim(port):
    """No other test takes that port as long as we live."""
    claim = os.open("%s/%d" % (CLAIMS, port), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
    except OSError:
        os.close(claim)
        return False
    _claims.append(claim)
    return True


def free_ports(n):
    """n different ports that nobody has now, that no other test has or may
    have, also while their owners are down, and that nobody is given who asks
    for any port: those are above 32767."""
    os.makedirs(CLAIMS, exist_ok=True)
    found = []
    while len(found) < n:
        port = _ports.randrange(10000, 32000)
        if _claim(port):
            found.append(port)
    return found


def _b64(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return base64.b64encode(raw).decode()


def _after_prefix(prefix):
    """The first key that does not begin like this."""
    raw = bytearray(prefix.encode())
    raw[-1] += 1
    return base64.b64encode(bytes(raw)).decode()


class Member:
    options = ()  # of its command line, beside our own
    context = None  # of TLS, for what the test itself asks
    headers = {}  # likewise

    def __init__(self, cluster, index, client, peer):
        self.cluster, self.index = cluster, index
        self.name = "m%d" % index
        self.url = "http://127.0.0.1:%d" % client
        self.peer = "http://127.0.0.1:%d" % peer
        self.data = os.path.join(cluster.folder, self.name)
        self.program = None
        self.starts = 0

    def start(self):
        self.starts += 1
        self.program = Program(
            self.cluster.folder, "%s-%d" % (self.name, self.starts), [
                PROGRAM, "--name", self.name, "--data-dir", self.data,
                "--listen-client-urls", self.url,
                "--advertise-client-urls", self.url,
                "--listen-peer-urls", self.peer,
                "--initial-advertise-peer-urls", self.peer,
                "--initial-cluster", self.cluster.peers,
                "--initial-cluster-state", "new",
                "--initial-cluster-token", self.cluster.token,
                "--heartbeat-interval", "50", "--election-timeout", "500",
                "--log-level", "error", *self.options])

    def kill(self):
        self.program.kill()

    def pause(self):
        self.program.stop()

    def go_on(self):
        self.program.go_on()

    def running(self):
        return self.program is not None and not self.program.ended()

    def healthy(self):
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=1,
                                        context=self.context) as a:
                return json.load(a).get("health") == "true"
        except (OSError, ValueError):
            return False

    def ask(self, path, body):
        request = urllib.request.Request(
            self.url + "/v3/" + path, json.dumps(body).encode(),
            {"Content-Type": "application/json", **self.headers})
        with urllib.request.urlopen(request, timeout=ANSWER_S,
                                    context=self.context) as answer:
            return json.load(answer)


class Etcd:
    """start=False: the ports are known, nothing runs yet."""

    def __init__(self, members=1, start=True):
        if PROGRAM is None:
            skip("no etcd on this machine (Debian: etcd-server)")
        self.folder = tempfile.mkdtemp(prefix="roster-etcd-")
        ports = free_ports(2 * members)
        self.token = "t%d" % ports[0]
        self.members = [Member(self, i, ports[2 * i], ports[2 * i + 1])
                        for i in range(members)]
        self.peers = ",".join("%s=%s" % (m.name, m.peer)
                              for m in self.members)
        if start:
            self.start()

    @property
    def urls(self):
        """For --etcd."""
        return ",".join(m.url for m in self.members)

    # ---- its life ----

    def start(self):
        """All members that do not run, until they answer."""
        for member in self.members:
            if not member.running():
                member.start()
        self.wait_healthy()

    def wait_healthy(self):
        wait_until(lambda: all(m.healthy() for m in self.members
                               if m.running()), "etcd is healthy")

    def kill(self):
        for member in self.members:
            if member.running():
                member.kill()

    def wipe(self):
        """Killed, and everything that it knew is gone."""
        self.kill()
        for member in self.members:
            shutil.rmtree(member.data, ignore_errors=True)

    def close(self):
        for member in self.members:
            if member.running():
                member.program.signal(signal.SIGCONT)
                member.program.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what it holds ----

    def ask(self, path, body):
        """Of the first member that answers, which may take until there is a
        quorum; an AssertionError if it refuses."""
        until, last = time.monotonic() + PATIENCE_S, None
        while True:
            for member in self.members:
                if not member.running():
                    continue
                try:
                    return member.ask(path, body)
                except urllib.error.HTTPError as e:
                    if e.code < 500:
                        raise AssertionError("etcd refuses: %s" % e) from e
                    last = e
                except (OSError, ValueError) as e:
                    last = e
            if time.monotonic() >= until:
                raise AssertionError("etcd does not answer: %s" % last)
            time.sleep(0.05)

    @staticmethod
    def _pairs(answer):
        return {base64.b64decode(kv["key"]).decode():
                base64.b64decode(kv.get("value", ""))
                for kv in answer.get("kvs", [])}

    def get(self, key):
        """The value as bytes, or None."""
        return self._pairs(self.ask("kv/range", {"key": _b64(key)})).get(key)

    def list(self, prefix):
        return self._pairs(self.ask("kv/range", {
            "key": _b64(prefix), "range_end": _after_prefix(prefix)}))

    def put(self, key, value):
        self.ask("kv/put", {"key": _b64(key), "value": _b64(value)})

    def delete(self, key):
        self.ask("kv/deleterange", {"key": _b64(key)})

    def revision(self):
        answer = self.ask("kv/range", {"key": _b64("\0"), "limit": "1"})
        return int(answer["header"]["revision"])

    def compact(self):
        """Forget everything but what is true now."""
        self.ask("kv/compaction", {"revision": str(self.revision()),
                                   "physical": True})

    def history(self, key):
        """[(revision, create_revision, value or None)] of a key since the
        beginning: nothing may have been compacted."""
        seen = []
        for revision in range(1, self.revision() + 1):
            answer = self.ask("kv/range", {"key": _b64(key),
                                           "revision": str(revision)})
            kvs = answer.get("kvs", [])
            now = (int(kvs[0]["mod_revision"]),
                   int(kvs[0]["create_revision"]),
                   base64.b64decode(kvs[0].get("value", ""))) if kvs else None
            if now is None and seen and seen[-1][2] is not None:
                seen.append((revision, 0, None))
            elif now is not None and (not seen or seen[-1] != now):
                seen.append(now)
        return seen


class Storyteller:
    """Asks coordinators for the same story again and again, from a thread of
    its own for each; every answer must be the expected one."""

    def __init__(self, endpoints, story, prompt, n):
        self.story, self.told, self.wrong = story, 0, []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._tell, args=(e, prompt, n))
            for e in endpoints]
        for t in self._threads:
            t.start()

    def _tell(self, endpoint, prompt, n):
        while not self._over.is_set():
            asked = subprocess.run(
                [os.path.join(BUILD, "roster"), "generate", prompt,
                 "--endpoint", endpoint, "-n", str(n), "--temp", "0",
                 *PATIENT],
                stdin=subprocess.DEVNULL, capture_output=True, check=False)
            with self._lock:
                self.told += 1
                if asked.returncode != 0:
                    self.wrong.append(asked.stderr.decode(errors="replace"))
                elif asked.stdout.decode() != self.story:
                    self.wrong.append("another story: %r" % asked.stdout)

    def wait_more(self, n=1):
        """Until n more stories were told from now on."""
        told = self.told
        wait_until(lambda: self.told >= told + n, "more stories are told")

    def finish(self):
        """The number of stories; the failures are in `wrong`."""
        self._over.set()
        for t in self._threads:
            t.join()
        return self.told


class EtcdTest(RackTest):
    """A test with a rack and an etcd of `members` members, which does not run
    yet."""
    members = 1
    cluster = "roster"

    def setUp(self):
        self.etcd = Etcd(self.members, start=False)
        self.addCleanup(self.etcd.close)  # last: the rack takes its leave of it
        super().setUp()
        self.addCleanup(self._finish_tellers)
        self._tellers = []

    def _finish_tellers(self):
        for t in self._tellers:
            t.finish()

    # ---- what etcd says ----

    def key(self, *parts):
        return "/".join(["", "roster", self.cluster] + [str(p) for p in parts])

    def document(self, *parts):
        """A record of the rack, or None."""
        raw = self.etcd.get(self.key(*parts))
        return None if raw is None else json.loads(raw)

    def epoch(self):
        """As `roster status` writes it; None: there is no placement."""
        found = self.document("placement", "epoch")
        return found and "%d.%d" % (found["incarnation"], found["epoch"])

    # ---- the rack ----

    def start_rack_node(self, *options, model="", name=None, **how):
        """A node that finds its rack through etcd; without a model file
        unless `model` names one."""
        name = name or "node-%d" % len(self.rack.programs)
        files = [model] if model else []
        return self._start(
            name, "roster-expert-node", *files, "--etcd", self.etcd.urls, "--listen",
            how.pop("listen", own_listen()), "--threads", 1, "--name",
            name, "--cluster", self.cluster, *options, **how)

    def _start(self, name, program, *options, **how):
        started = self.rack.start(program, *options, name=name, **how)
        started.rack_name = name  # that of the files has a number
        return started

    def start_rack_coordinator(self, *options, name=None, **how):
        name = name or "coordinator-%d" % len(self.rack.programs)
        program = how.pop("program", "roster-coordinator")
        return self._start(
            name, program, self.rack.model, "--etcd", self.etcd.urls,
            "--listen", how.pop("listen", own_listen()), "--threads", 1,
            "--name", name, "--cluster", self.cluster, *options, **how)

    def start_rack(self, nodes=("one", "two"), coordinators=("c1",),
                   options=("--no-local-experts",)):
        """Etcd, nodes without model files and coordinators; the latter, ready
        and with everything placed."""
        self.etcd.start()
        self.nodes = {n: self.start_rack_node(name=n) for n in nodes}
        asked = [self.start_rack_coordinator(*options, name=c)
                 for c in coordinators]
        for c in asked:
            c.wait_ready()
        for c in asked:
            self.wait_placed(c, nodes)
        return asked

    def wait_placed(self, asked, nodes=()):
        """Until nothing moves, every unit has a holder, and all these nodes
        have what they are to have.  The status."""
        def placed(status):
            seen = {n["name"]: n for n in status["nodes"]}
            return (status["placement"]["unplaced"] == 0
                    and status["placement"]["moving"] == 0
                    and all(n in seen and seen[n]["state"] == "up"
                            and seen[n]["assigned"] == seen[n]["held"]
                            and (seen[n]["held"] > 0 or seen[n]["draining"])
                            for n in nodes))
        return self.rack.wait_status(asked, placed, "the rack is placed")

    def of_node(self, asked, name):
        """A node's entry in the status, or None."""
        return next((n for n in self.rack.status(asked)["nodes"]
                     if n["name"] == name), None)

    def drain(self, asked, name, *options):
        """Until it is done: etcd may just have come back."""
        said = [""]

        def done():
            result = self.rack.run("drain", name, *options, "--endpoint",
                                   asked.endpoint)
            said[0] = result.err
            return result.status == 0

        wait_until(done, lambda: "%s is drained: %s" % (name, said[0]),
                   look=LOOK_BY_COMMAND_S)

    def tell_on(self, asked, story, prompt="Once upon a time", n=64):
        """Stories from all these coordinators until the test's end."""
        teller = Storyteller([c.endpoint for c in asked], story, prompt, n)
        self._tellers.append(teller)
        return teller
