"""Machines on one computer, and everything that can happen to them.

A Network is a switch with machines at it.  A machine is two network namespaces:
its programs live in the back one, and what others connect to is the front one,
where the fault proxy (tests/chaos/fault_proxy.c) listens and passes connections
on.  So every connection between two machines crosses the switch and the proxy:

    caller's back --- switch --- front: proxy --- back: program

A machine's `public` address is where it is reached; its own connections come
from its `uplink` address.  We ourselves stand at the switch, as the client.

enter() puts the whole script into mount, network and process namespaces of its
own: what was started or mounted is gone with the script, however that ends, and
two runs never meet.  Only control groups are seen by others: their names hold
the outer process's number, it removes them, and should it be killed, the next
run does.
"""
import glob
import os
import shutil
import subprocess
import threading

import rack

PROXY = os.path.join(rack.BUILD, "tests/chaos/fault_proxy")
INSIDE = "FAULT_NET_INSIDE"  # in the environment: the outer process's number
CLIENT = "10.77.2.1"
CGROUPS = ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup")  # of version 1, 2

_PROBE = """mount -t tmpfs tmpfs /run && mkdir /run/netns &&
ip netns add one && ip link add switch type bridge &&
ip link add to-one type veth peer name eth0 netns one &&
ip netns exec one true"""
_UNSHARE = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child",
            "--mount-proc"]


# ---- going inside ----

def why_not():
    """A reason that there can be no machines here, or None."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("unshare", "ip", "setpriv"):
        if shutil.which(program) is None:
            return "no " + program
    run = subprocess.run(_UNSHARE + ["sh", "-c", _PROBE],
                         stdin=subprocess.DEVNULL, text=True, check=False,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return run.stdout.strip().replace("\n", "; ") if run.returncode else None


def inside():
    return INSIDE in os.environ


def enter(command, **popen):
    """Run the command inside; its Popen.  To be given to leave()."""
    for pid, path in _groups():
        if not os.path.exists("/proc/%d" % pid):
            _remove_group(path)
    env = dict(os.environ, **{INSIDE: str(os.getpid())})
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL"] + _UNSHARE +
                            command, env=env, **popen)


def leave(process):
    """End what still runs, and take away what outlives namespaces."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for pid, path in _groups():
        if pid == os.getpid():
            _remove_group(path)


def left_of(pid):
    """What there still is of that outer process's run."""
    mark = ("%s=%d\0" % (INSIDE, pid)).encode()
    left = [path for owner, path in _groups() if owner == pid]
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % number, "rb") as f:
                if mark in f.read():
                    left.append("process " + number)
        except OSError:
            continue
    return left


def _groups():
    """[(outer process, path)]"""
    return [(int(path.rsplit("/", 1)[1].split("-")[2]), path)
            for base in CGROUPS for path in glob.glob(base + "/roster-chaos-*")]


def _remove_group(path):
    """Its last processes may take a moment to be gone."""
    def gone():
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    rack.wait_until(gone, "the control group %s is gone" % path, 10)


def _ip(*words):
    run = subprocess.run(["ip"] + [str(w) for w in words], text=True,
                         stdin=subprocess.DEVNULL, capture_output=True,
                         check=False)
    if run.returncode != 0:
        raise RuntimeError("ip %s: %s" % (" ".join(map(str, words)),
                                          run.stderr.strip()))


# ---- the proxy ----

class Proxy:
    """A running fault_proxy; commands are answered at once."""

    def __init__(self, seed=1):
        self.process = subprocess.Popen([PROXY, "--seed", str(seed)], text=True,
                                        stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, bufsize=1)
        self._lock = threading.Lock()  # a command and its answer
        try:  # a network is no slower because computers are busy
            os.sched_setscheduler(self.process.pid, os.SCHED_RR,
                                  os.sched_param(1))
        except OSError:
            pass

    def ask(self, *words):
        line = " ".join(str(w) for w in words)
        with self._lock:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline().strip()
        if not answer.startswith("ok"):
            raise RuntimeError("fault_proxy: %s: %s" % (line, answer))
        return answer.split()[1:]

    def rule(self, source, target, fault, direction="both"):
        """fault: 'delay 20 5', 'pass' and so on; '*' is everybody.  How many
        bytes, messages or connections the rules that this one was put in the
        place of had hit."""
        return int(self.ask("rule", source, target, direction, fault)[1])

    def counts(self):
        words = self.ask("count")
        return {words[i]: int(words[i + 1]) for i in range(0, len(words), 2)}

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


# ---- machines ----

class Machine:
    def __init__(self, network, name, number):
        self.network, self.name = network, name
        self.public = "10.77.0.%d" % number
        self.uplink = "10.77.1.%d" % number
        self.back, self.front = name, "f-" + name
        self._plug(self.back, self.uplink)
        self._plug(self.front, self.public)
        _ip("-n", self.back, "address", "add", self.public + "/32", "dev", "lo")
        network.proxy.ask("machine", name, self.uplink)

    def _plug(self, namespace, address):
        """A namespace with a cable to the switch."""
        _ip("netns", "add", namespace)
        # The public address is in both: only its own port may answer for it.
        subprocess.run(self._enter(namespace) + [
            "sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore; "
            "echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce"], check=True)
        port = "to-" + namespace
        _ip("link", "add", port, "type", "veth", "peer", "name", "eth0",
            "netns", namespace)
        _ip("link", "set", port, "master", "switch", "up")
        _ip("-n", namespace, "address", "add", address + "/16", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")

    @staticmethod
    def _enter(namespace):
        return ["nsenter", "--net=/run/netns/" + namespace]

    def run_here(self, command):
        """The command line that runs a program on this machine."""
        return self._enter(self.back) + command

    def serve(self, *ports):
        """Let others reach these ports."""
        for port in ports:
            at = "%s:%d" % (self.public, port)
            self.network.proxy.ask("listen", self.name, self.front, at,
                                   self.back, at)

    # ---- what can happen to it ----

    def link(self, state):
        """'up' or 'down': its cables."""
        for namespace in (self.back, self.front):
            _ip("link", "set", "to-" + namespace, state)

    def blackhole(self, other, begin):
        """Packets between two machines vanish, in both directions."""
        verb = "add" if begin else "del"
        for a, b in ((self, other), (other, self)):
            _ip("-n", a.back, "route", verb, "blackhole", b.public + "/32")
            _ip("-n", b.front, "route", verb, "blackhole", a.uplink + "/32")

    def starve(self, pid, share):
        """The process gets this share of a CPU; None: what it wants again."""
        group = self.network.group_of(self.name)
        if group is None:
            return
        group.limit(share)
        group.take(pid)


class Group:
    """A control group that limits CPU time."""
    PERIOD_US = 100000

    def __init__(self, base, name):
        self.path = os.path.join(base, name)
        os.mkdir(self.path)
        self.old = os.path.exists(os.path.join(self.path, "cpu.cfs_quota_us"))

    def _write(self, name, text):
        with open(os.path.join(self.path, name), "w") as f:
            f.write(text)

    def limit(self, share, period_us=PERIOD_US):
        quota = -1 if share is None else int(share * period_us)
        if self.old:
            self._write("cpu.cfs_quota_us", "-1")  # any period fits that
            self._write("cpu.cfs_period_us", str(period_us))
            self._write("cpu.cfs_quota_us", str(quota))
        else:
            self._write("cpu.max", "%s %d" % ("max" if quota < 0 else quota,
                                              period_us))

    def take(self, pid):
        self._write("cgroup.procs", str(pid))

    def close(self):
        _remove_group(self.path)


def make_group(owner, name):
    """A control group of this outer process; None where there can be none."""
    for base in CGROUPS:
        try:
            group = Group(base, "roster-chaos-%s-%s" % (owner, name))
            group.limit(None)
        except OSError:
            continue
        return group
    return None


class Network:
    """Only inside (see enter())."""

    def __init__(self, seed=1):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        os.mkdir("/run/netns")
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "switch", "type", "bridge")
        _ip("address", "add", CLIENT + "/16", "dev", "switch")
        _ip("link", "set", "switch", "up")
        self.proxy = Proxy(seed)
        self.proxy.ask("machine", "client", CLIENT)
        self.machines, self._groups = {}, {}

    def machine(self, name, number):
        self.machines[name] = Machine(self, name, number)
        return self.machines[name]

    def group_of(self, name):
        """None where control groups for CPU time cannot be made."""
        if name not in self._groups:
            self._groups[name] = make_group(os.environ[INSIDE], name)
        return self._groups[name]

    @staticmethod
    def small_disk(path, megabytes):
        """A file system of its own, so that it can be full."""
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%dm" % megabytes,
                        "tmpfs", path], check=True)

    def close(self):
        self.proxy.close()

    def take_down(self):
        """So that another one can be made; its programs have ended."""
        self.close()
        for group in filter(None, self._groups.values()):
            group.close()
        for machine in self.machines.values():
            for namespace in (machine.back, machine.front):
                _ip("netns", "delete", namespace)
        _ip("link", "delete", "switch")
        # (`ip netns` has made a mount of its own of the folder in there)
        subprocess.run(["umount", "--recursive", "/run"], check=True)
