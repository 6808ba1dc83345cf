"""The README's three machines, as network namespaces (deploy/three-machines.sh).

Needs root and a kernel that lets us make namespaces, bridges and pairs of
virtual Ethernet; is skipped elsewhere.
"""
import os
import re
import signal
import subprocess
import unittest
import uuid

import rack

SCRIPT = os.path.join(rack.ROOT, "deploy", "three-machines.sh")
MARK = "THREE_MACHINES_TEST"  # in the environment of all it starts

PROBE = """mount -t tmpfs tmpfs /run && mkdir /run/netns &&
ip netns add one && ip link add switch type bridge &&
ip link add to-one type veth peer name eth0 netns one &&
ip netns exec one true"""


def why_not():
    """A reason that there can be no namespaces here, or None."""
    if os.geteuid() != 0:
        return "not root"
    try:
        run = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork",
                              "--mount-proc", "sh", "-c", PROBE],
                             stdin=subprocess.DEVNULL, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        return "no unshare"
    return run.stdout.strip().replace("\n", "; ") if run.returncode else None


def marked(mark):
    """Pids of processes whose environment holds the mark."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                if mark.encode() in f.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


def commands(text):
    """Lines that start a daemon or ask it, without the prompt or folder."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"^ *\S*\$ (?:build/)?(roster.*)$", text, re.M)
    return [" ".join(line.split()) for line in found]


class ThreeMachines(unittest.TestCase):
    def setUp(self):
        reason = why_not()
        if reason is not None:
            rack.skip("three machines as namespaces: " + reason)
        self.mark = uuid.uuid4().hex

    def start(self, **more):
        env = {k: v for k, v in os.environ.items()
               if not k.startswith("ROSTER_")}
        env.update(more)
        env[MARK] = self.mark
        return subprocess.Popen([SCRIPT, rack.BUILD], env=env, text=True,
                                stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    def assert_nothing_left(self):
        rack.wait_until(lambda: not marked(self.mark),
                        lambda: "gone: %s" % marked(self.mark))

    def test_a_story_survives_the_loss_of_a_machine(self):
        script = self.start()
        out, err = script.communicate(timeout=rack.PATIENCE_S * 3)
        self.assertEqual(0, script.returncode, out + err)
        self.assertIn("Once upon a time, there was", out)
        self.assertIn("The story is the same, byte for byte", out)
        self.assertRegex(out, r"(?m)^one +tcp://10\.77\.0\.11:7101 +down ")
        self.assertTrue(out.endswith("done\n"), out)
        self.assert_nothing_left()

        with open(os.path.join(rack.ROOT, "README.md")) as f:
            told = commands(f.read())
        for command in commands(out):
            self.assertIn(command, told, "the README says otherwise")

    def test_nothing_is_left_however_it_ends(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            # Its nodes stop in the first story: it cannot be done before.
            script = self.start(ROSTER_FAILPOINTS="node.compute=stop@60")
            for line in script.stdout:
                if line.startswith("ready tcp://10.77.0.10:7100"):
                    break
            self.assertGreaterEqual(len(marked(self.mark)), 4)
            script.send_signal(number)
            script.communicate(timeout=rack.PATIENCE_S)
            self.assertNotEqual(0, script.returncode)
            self.assert_nothing_left()


if __name__ == "__main__":
    unittest.main()
