"""Planted bugs must be caught: a test that cannot fail proves nothing.

Each patch of tests/planted/ is applied to a copy of the tree; the test program
that guards the broken promise is built there and has to fail.  These are the
quick ones; `make planted` runs all (tests/planted/README.md).
"""
import os
import subprocess
import sys
import unittest

import planted


@unittest.skipUnless(planted.NORMAL, "the normal build is enough")
class Planted(unittest.TestCase):
    def test_a_sum_in_order_of_arrival_is_caught(self):
        self.expect_caught("arrival_order_sum")

    def test_slices_added_one_after_the_other_are_caught(self):
        self.expect_caught("slice_order")

    def test_every_patch_applies_and_is_told_of(self):
        folder = os.path.join(planted.ROOT, "tests/planted")
        told = []
        for name in ("README.md", "planted.py"):
            with open(os.path.join(folder, name)) as f:
                told.append(f.read())
        for patch in sorted(os.listdir(folder)):
            if not patch.endswith(".patch"):
                continue
            for text in told:
                self.assertIn(patch[:-len(".patch")], text)
            run = subprocess.run(["patch", "-p1", "--dry-run", "-i",
                                  os.path.join(folder, patch)], text=True,
                                 cwd=planted.ROOT, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, check=False)
            self.assertEqual(0, run.returncode, patch + "\n" + run.stdout)

    def expect_caught(self, bug):
        program = "build/tests/memory/test_bits"
        with planted.tree(bug, [program]) as tree:
            run = subprocess.run([program], cwd=tree, text=True,
                                 env=dict(os.environ, ROSTER_SHUFFLES="2"),
                                 stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, check=False)
        self.assertNotEqual(run.returncode, 0, run.stdout)
        self.assertIn("rows differ", run.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
