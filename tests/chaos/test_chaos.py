"""The short form of chaos.py: one seed, a few faults of each class, no story
lost and none wrong.  `make chaos MINUTES=N SEED=S` is the long one.
"""
import os
import signal
import subprocess
import sys
import unittest

import fault_net
import rack

CHAOS = [sys.executable, os.path.join(rack.ROOT, "tests/chaos/chaos.py")]


class Chaos(unittest.TestCase):
    def setUp(self):
        reason = fault_net.why_not()
        if reason is not None:
            rack.skip("chaos on machines of its own: " + reason)

    def start(self, *options):
        return subprocess.Popen(CHAOS + list(options), text=True,
                                stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)

    def assert_nothing_left(self, run):
        rack.wait_until(lambda: not fault_net.left_of(run.pid),
                        lambda: "gone: %s" % fault_net.left_of(run.pid))

    def test_no_story_is_lost_or_wrong(self):
        run = self.start("--seed", "3", "--patience",
                         str(rack.PATIENCE_S // rack.SLOWER), "--faults",
                         "5" if rack.QUICK else "8")
        said, _ = run.communicate()
        print(said)
        self.assertEqual(0, run.returncode)
        self.assertIn(" 0 lost, 0 wrong,", said)
        self.assert_nothing_left(run)

    def end(self, number, status):
        run = self.start("--verbose")
        for line in run.stdout:
            if "kinds: " in line:
                break
        self.assertGreater(len(fault_net.left_of(run.pid)), 9)
        run.send_signal(number)
        run.communicate()
        self.assertEqual(status, run.returncode)
        self.assert_nothing_left(run)

    def test_nothing_is_left_when_it_is_ended(self):
        self.end(signal.SIGTERM, 143)

    def test_nothing_is_left_when_it_is_interrupted(self):
        self.end(signal.SIGINT, 130)


if __name__ == "__main__":
    unittest.main()
