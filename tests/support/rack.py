"""Real processes on loopback for tests: expert nodes, coordinators, commands.

A Rack owns a temporary folder and every process that it started.  Daemons bind
free ports and are waited for by their `ready ENDPOINT` line.  finish() ends what
still runs and complains about what did not end well; close() kills.  A process
dies with the test that started it, however that ends.

Nothing here waits for a time to pass: wait_until() looks until a deadline, and
deadlines are generous: what will come true may take its time on a busy computer,
and more of it under a sanitizer.

Daemons listen at a loopback address of this test's own, where no port is given
to anybody else: a port stays free while its owner is down.
"""
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("ROSTER_BUILD",
                                       os.path.join(ROOT, "build")))
SHARED = os.environ.get("ROSTER_SHARED") or os.path.join(ROOT, "../shared")
STORIES = os.path.join(ROOT, "models", "stories-moe.q8_0.gguf")
LAYERS, EXPERTS, VOCAB, CONTEXT = 6, 16, 4096, 512  # of STORIES
LOOK_S = 0.005


def _sanitized():
    with open(os.path.join(BUILD, "roster"), "rb") as f:
        program = f.read()
    return b"__asan_init" in program or b"__tsan_init" in program


SANITIZED = _sanitized()
QUICK = bool(os.environ.get("ROSTER_TEST_QUICK")) or SANITIZED
SLOWER = 6 if SANITIZED else 1
# Between looks by a command: each costs a process, which what is looked at lacks.
LOOK_BY_COMMAND_S = 0.04 * SLOWER
PATIENCE_S = 240 if SANITIZED else 120
# Of a request that is to succeed: for its next token.
PATIENT = ("--timeout", "%ds" % PATIENCE_S)

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def wait_until(condition, what, seconds=None, look=LOOK_S):
    """The first true value of condition(), or an AssertionError."""
    seconds = PATIENCE_S if seconds is None else seconds
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= until:
            raise AssertionError("%s: not within %g s" %
                                 (what() if callable(what) else what, seconds))
        time.sleep(look)


def skip(reason):
    """Skip the test, with a line that tests/run.py shows."""
    print("skipped: " + reason, flush=True)
    raise unittest.SkipTest(reason)


def port_of(endpoint):
    return int(endpoint.rsplit(":", 1)[1])


class Result:
    """What a command that has ended left."""

    def __init__(self, program):
        self.status, self.out, self.err = (program.status, program.out(),
                                           program.err())

    @property
    def text(self):
        return self.out.decode("utf-8", errors="replace")

    @property
    def last(self):
        """The last line on stderr: what went wrong."""
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""


class Program:
    """A started process, its stdout and stderr in files."""

    def __init__(self, folder, name, command, env=None, stdin=None, **popen):
        self.name, self.command = name, command
        self.expects = (0,)  # exit statuses that are a good end
        self._paths = [os.path.join(folder, "%s.%s" % (name, s))
                       for s in ("out", "err")]
        with contextlib.ExitStack() as files:
            out, err = [files.enter_context(open(p, "wb"))
                        for p in self._paths]
            source = subprocess.DEVNULL
            if isinstance(stdin, bytes):
                source = files.enter_context(tempfile.TemporaryFile())
                source.write(stdin)
                source.seek(0)
            elif stdin is not None:
                source = stdin
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                command, stdin=source, stdout=out, stderr=err, cwd=ROOT,
                env=_environment(env), preexec_fn=_die_with_parent, **popen)
        self.pid = self.process.pid

    # ---- what it says ----

    def _read(self, i):
        with open(self._paths[i], "rb") as f:
            return f.read()

    def out(self):
        return self._read(0)

    def err(self):
        return self._read(1).decode("utf-8", errors="replace")

    def wait_output(self, least_bytes=1):
        """Until it has written that much to stdout and still runs."""
        def written():
            if os.path.getsize(self._paths[0]) >= least_bytes:
                return True
            if self.ended():
                raise AssertionError("%s ended before it wrote %d bytes: %s" %
                                     (self.name, least_bytes, self.err()))
            return False

        wait_until(written, "%s writes %d bytes" % (self.name, least_bytes))

    def wait_log(self, words):
        wait_until(lambda: words in self.err(),
                   "'%s' in the log of %s" % (words, self.name))

    def wait_ready(self, seconds=None):
        """The endpoint of its `ready` line."""
        def line():
            out = self.out()
            if out.startswith(b"ready ") and b"\n" in out:
                return out.decode().split()[1]
            if self.ended():
                raise AssertionError("%s ended with status %d: %s" %
                                     (self.name, self.status, self.err()))
            return None

        self.endpoint = wait_until(line, "%s is ready" % self.name,
                                   seconds)
        return self.endpoint

    # ---- its life ----

    @property
    def status(self):
        return self.process.returncode

    def ended(self):
        return self.process.poll() is not None

    def stopped(self):
        return process_state(self.pid) == "T"

    def signal(self, number):
        if not self.ended():
            os.kill(self.pid, number)

    def stop(self):
        self.signal(signal.SIGSTOP)
        wait_until(self.stopped, "%s is stopped" % self.name)

    def go_on(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        self.expects = (-signal.SIGKILL,)
        self.signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self):
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, seconds=None):
        wait_until(self.ended, "%s ends" % self.name, seconds)
        return self.status

    def result(self, seconds=None):
        self.wait(seconds)
        return Result(self)


def _environment(extra):
    """No setting of the user's own may reach what is tested."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith("ROSTER_")}
    env["ROSTER_CACHE"] = "none"  # unless a test asks for one
    env.update(extra or {})
    return env


def process_state(pid):
    """One letter as in ps, or None for a process that is no more."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def descendants(pid):
    """Pids of all processes below one."""
    found = []
    for task in _listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/children" % (pid, task)) as f:
                children = [int(n) for n in f.read().split()]
        except OSError:
            continue
        for child in children:
            found += [child] + descendants(child)
    return found


def _listdir(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def own_address():
    """A loopback address of this process alone: nobody's outgoing connection
    and no other test can take a port of it while its owner is down."""
    pid = os.getpid()
    return "127.%d.%d.%d" % (1 + pid % 200, pid // 200 % 250,
                             1 + pid // 50000 % 200)


def own_listen():
    """Any free port there."""
    return "tcp://%s:*" % own_address()


class Rack:
    def __init__(self, model=STORIES):
        self.model = model
        self.folder = tempfile.mkdtemp(prefix="roster-cluster-")
        self.programs = []

    # ---- starting ----

    def start(self, program, *arguments, name=None, **how):
        """One of Roster's programs, or a file with a path."""
        path = program if "/" in program else os.path.join(BUILD, program)
        name = "%s-%d" % (name or os.path.basename(program),
                          len(self.programs))
        started = Program(self.folder, name,
                          [path] + [str(a) for a in arguments], **how)
        self.programs.append(started)
        return started

    def start_node(self, *options, model=None, listen=None, threads=1,
                   name=None, **how):
        """Without waiting for it."""
        name = name or "node-%d" % len(self.programs)
        return self.start("roster-expert-node", model or self.model,
                          "--listen", listen or own_listen(), "--threads",
                          threads, "--name", name, *options, name=name, **how)

    def node(self, *options, **how):
        started = self.start_node(*options, **how)
        started.wait_ready()
        return started

    def nodes(self, n, replicas=1, envs=None, options=(), **how):
        """n nodes that share the experts; envs: {index: environment}."""
        started = [self.start_node("--share", "%d/%dx%d" % (i, n, replicas),
                                   *options, env=(envs or {}).get(i), **how)
                   for i in range(n)]
        for node in started:
            node.wait_ready()
        return started

    def start_coordinator(self, nodes=(), *options, model=None, threads=1,
                          listen=None, **how):
        lists = []
        for node in nodes:
            lists += ["--node", getattr(node, "endpoint", node)]
        return self.start("roster-coordinator", model or self.model, "--listen",
                          listen or own_listen(), "--threads", threads, *lists,
                          *options, name="coordinator", **how)

    def coordinator(self, nodes=(), *options, **how):
        started = self.start_coordinator(nodes, *options, **how)
        started.wait_ready()
        return started

    # ---- asking ----

    def command(self, *arguments, **how):
        """Start `roster ...`, not expecting anything of its end."""
        started = self.start("roster", *arguments, name=arguments[0], **how)
        started.expects = None
        return started

    def run(self, *arguments, **how):
        return self.command(*arguments, **how).result()

    def generating(self, coordinator, prompt="Once upon a time", *options,
                   n=64, **how):
        if "--timeout" not in options:
            options += PATIENT
        return self.command("generate", prompt, "--endpoint",
                            coordinator.endpoint, "-n", n, "--temp", 0,
                            *options, **how)

    def generate(self, coordinator, *arguments, **how):
        """The text; any failure is the test's."""
        result = self.generating(coordinator, *arguments, **how).result()
        if result.status != 0:
            raise AssertionError("generate ended with status %d: %s" %
                                 (result.status, result.err))
        return result.text

    def status(self, coordinator):
        return self.wait_status(coordinator, lambda s: True, "it says something")

    def node_status(self, coordinator, node):
        return next(n for n in self.status(coordinator)["nodes"]
                    if n["endpoint"] == node.endpoint)

    def wait_status(self, coordinator, condition, what):
        """The first status that meets the condition.  A coordinator that does
        not say in time is asked again."""
        seen = [None]

        def meets():
            if coordinator.ended():
                raise AssertionError("%s ended with status %d" %
                                     (coordinator.name, coordinator.status))
            result = self.run("status", "--json", "--endpoint",
                              coordinator.endpoint)
            if result.status != 0:
                seen[0] = result.err
                return False
            seen[0] = json.loads(result.out)
            return condition(seen[0])

        wait_until(meets, lambda: "%s; status: %s" % (what, seen[0]),
                   look=LOOK_BY_COMMAND_S)
        return seen[0]

    def wait_node(self, coordinator, node, state):
        self.wait_status(
            coordinator,
            lambda s: any(n["endpoint"] == node.endpoint and
                          n["state"] == state for n in s["nodes"]),
            "%s is %s" % (node.name, state))

    def eval(self, tokens, *options, model=None, routing=False, env=None):
        """The logits' bytes of `roster eval`, and the routing if asked for."""
        out = os.path.join(self.folder, "logits-%d" % len(self.programs))
        extra = ["--routing", out + ".json"] if routing else []
        result = self.run("eval", model or self.model, "--tokens",
                          ",".join(map(str, tokens)), "--logits", out, *extra,
                          *options, env=env)
        if result.status != 0:
            raise AssertionError("eval %s: %s" % (options, result.err))
        with open(out, "rb") as f:
            logits = f.read()
        os.remove(out)
        if not routing:
            return logits
        with open(out + ".json") as f:
            return logits, json.load(f)

    # ---- ending ----

    def finish(self):
        """End everything.  AssertionError if a process did not end well."""
        bad = []
        for p in reversed(self.programs):  # coordinators before their nodes
            if p.ended():
                continue
            p.go_on()
            p.signal(signal.SIGTERM)
        for p in self.programs:
            try:
                p.wait()
            except AssertionError as hang:
                bad.append("%s after SIGTERM" % hang)
                p.kill()
                continue
            if p.expects is not None and p.status not in p.expects:
                bad.append("%s ended with status %d" % (p.name, p.status))
        bad += ["%s: %s" % (p.name, sign) for p in self.programs
                for sign in ("AddressSanitizer", "LeakSanitizer",
                             "runtime error", "Assertion") if sign in p.err()]
        if bad:
            raise AssertionError("; ".join(bad))

    def logs(self):
        for p in self.programs:
            err = p.err().rstrip()
            if err:
                yield "---- %s (status %s): %s\n%s" % (
                    p.name, p.status, " ".join(p.command[1:]), err[-6000:])

    def close(self):
        for p in self.programs:
            if not p.ended():
                p.process.kill()
                p.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class RackTest(unittest.TestCase):
    """Each test has a rack of its own; its logs are shown if it fails."""

    model = STORIES

    def setUp(self):
        self.rack = Rack(self.model)
        self.addCleanup(self.rack.close)
        self.addCleanup(self._show_logs)
        self.addCleanup(self.rack.finish)  # first: cleanups run backwards

    def _show_logs(self):
        result = self._outcome.result
        failed = any(test is self for test, _ in
                     getattr(result, "failures", []) +
                     getattr(result, "errors", []))
        logs = list(self.rack.logs()) if failed else []
        if logs:
            print("\n".join(["==== logs of " + self.id()] + logs),
                  file=sys.stderr)

    def soon(self, asked):
        """Seconds that `at once` may take on this computer as busy as it is:
        many times what a small question takes."""
        began = time.monotonic()
        for _ in range(3):
            self.rack.status(asked)
        return 2 * SLOWER + 10 * (time.monotonic() - began)

    def assert_fails(self, result, *words, status=1):
        """It failed, and its last line says what: all these words."""
        self.assertEqual(result.status, status, result.err)
        for word in words:
            self.assertIn(word.lower(), result.last.lower())


# ---- models and memory ----

def make_model(folder, name="model.gguf", **shape):
    """Write a model with random weights; shape as make_model's options."""
    path = os.path.join(folder, name)
    options = []
    for key, value in shape.items():
        options += ["--" + key.replace("_", "-")]
        options += [] if value is True else [str(value)]
    subprocess.run([os.path.join(BUILD, "tests/tools/make_model"), "--out",
                    path] + options, check=True, stdin=subprocess.DEVNULL)
    return path


def resident_bytes(pid):
    """What the process holds in memory now."""
    with open("/proc/%d/smaps_rollup" % pid) as f:
        for line in f:
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("smaps_rollup has no Rss")


def share_count(index, n_nodes, replicas, layers=LAYERS, experts=EXPERTS):
    """How many experts `--share index/n_nodes x replicas` gives a node."""
    return sum(1 for l in range(layers) for e in range(experts)
               for r in range(replicas) if (e + l + r) % n_nodes == index)
