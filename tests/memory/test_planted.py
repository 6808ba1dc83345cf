"""Planted bugs must be caught: a test that cannot fail proves nothing.

Each patch of tests/planted/ is applied to a copy of the tree; the test program
that guards the broken promise is built there and has to fail.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BUILD = os.path.relpath(os.environ.get("ROSTER_BUILD", "build"), ROOT)
FOLDERS = ["engine", "proto", "discovery", "coordinator", "expert_node",
           "client", "tests/support", "tests/memory", "tests/planted",
           "build/obj", "build/gen", "build/lib"]


def copy_tree(target):
    """Sources and objects, with their times: only what a patch touches is
    compiled again."""
    for folder in FOLDERS:
        shutil.copytree(os.path.join(ROOT, folder),
                        os.path.join(target, folder))
    for name in ["Makefile", "build/libroster.a"]:
        shutil.copy2(os.path.join(ROOT, name), os.path.join(target, name))


@unittest.skipIf(BUILD != "build", "the normal build is enough")
class Planted(unittest.TestCase):
    def test_a_sum_in_order_of_arrival_is_caught(self):
        self.expect_caught("arrival_order_sum")

    def test_slices_added_one_after_the_other_are_caught(self):
        self.expect_caught("slice_order")

    def expect_caught(self, bug):
        with tempfile.TemporaryDirectory() as tree:
            copy_tree(tree)
            subprocess.run(["patch", "-p1", "--silent", "-i",
                            f"tests/planted/{bug}.patch"],
                           cwd=tree, check=True)
            program = "build/tests/memory/test_bits"
            outside = {name: value for name, value in os.environ.items()
                       if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
            subprocess.run(["make", "--silent", program], cwd=tree, check=True,
                           env=outside, stdout=subprocess.DEVNULL)
            run = subprocess.run([program], cwd=tree, text=True,
                                 env=dict(os.environ, ROSTER_SHUFFLES="12"),
                                 stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT)
            self.assertNotEqual(run.returncode, 0, run.stdout)
            self.assertIn("rows differ", run.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
