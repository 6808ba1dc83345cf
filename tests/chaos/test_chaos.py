"""The short form of chaos.py: one seed, a few faults of each class, no story
lost and none wrong.  `make chaos MINUTES=N SEED=S` is the long one.
"""
import os
import subprocess
import sys
import unittest

import rack

CHAOS = os.path.join(rack.ROOT, "tests/chaos/chaos.py")
NO_MACHINES = 77  # its exit status


class Chaos(unittest.TestCase):
    def test_no_story_is_lost_or_wrong(self):
        faults = 6 if rack.QUICK else 16
        run = subprocess.run([sys.executable, CHAOS, "--seed", "3", "--faults",
                              str(faults)], stdin=subprocess.DEVNULL, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             check=False)
        if run.returncode == NO_MACHINES:
            rack.skip(run.stdout.strip().replace("skipped: ", ""))
        print(run.stdout)
        self.assertEqual(0, run.returncode)
        self.assertIn(" 0 lost, 0 wrong,", run.stdout)


if __name__ == "__main__":
    unittest.main()
