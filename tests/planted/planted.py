#!/usr/bin/env python3
"""Plants each bug of tests/planted/ in a copy of the tree, and sees it caught.

  tests/planted/planted.py [NAME...]

One that is not caught, or by something else than expected, is a failure: either
the test that guards the promise is blind, or the patch no longer does what it
says.  README.md beside this file lists what is planted.
"""
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "support"))
import planted  # noqa: E402

RUN_S = 600
RACK = ["build/roster", "build/roster-coordinator", "build/roster-expert-node",
        "build/tests/chaos/fault_proxy", "build/tests/chaos/story_load"]
NO_MACHINES = 77  # exit status of chaos.py


class Plant:
    """`words`: a pattern that the failing run prints."""

    def __init__(self, targets, command, words, **env):
        self.targets, self.command = targets, command
        self.words, self.env = words, env


def bits():
    program = "build/tests/memory/test_bits"
    return Plant([program], [program], "rows differ", ROSTER_SHUFFLES="12")


def chaos(kinds, words, faults=8):
    return Plant(RACK, [sys.executable, "tests/chaos/chaos.py", "--seed", "1",
                        "--kinds", kinds, "--faults", str(faults),
                        "--patience", "40"], words)


PLANTS = {
    "arrival_order_sum": bits(),
    "slice_order": bits(),
    "nibble_order": Plant(["build/tests/unit/test_weight"],
                          ["build/tests/unit/test_weight"],
                          r"q4_0, form \d, kind \d, scalar"),
    # test_rack_leaders plants this one and looks for a double write
    "missing_compare": None,
    "payload_checksum": chaos("corrupt", r"\bwrong \d+ \d+"),
    "unit_checksum": chaos("cache_flipped", r"\bwrong \d+ \d+"),
    "compacted_watch": chaos("etcd_compacted", "the rack is whole|is empty"),
    "lost_lease": chaos("etcd_dead,node_without_etcd", "the rack is whole"),
    "lease_detector": chaos("nodes_without_etcd",
                            "nodes that answer are used"),
    # the first epoch again: nobody minds before there was a second
    "same_incarnation": chaos("etcd_wiped,drain_and_undo",
                              "the rack is whole|is recorded"),
    "resume_repeats": chaos("kill_coordinator", r"\b(lost|wrong) \d+ \d+"),
    "resume_bytes": chaos("kill_coordinator", r"\bwrong \d+ \d+"),
    "hung_coordinator": chaos("freeze_coordinator", "waited for a token", 14),
}


def plant(name):
    """'caught', 'skipped' or what went wrong."""
    p = PLANTS[name]
    with planted.tree(name, p.targets) as tree:
        env = dict(os.environ, **p.env,
                   ROSTER_BUILD=os.path.join(tree, "build"))
        try:
            run = subprocess.run(p.command, cwd=tree, env=env, text=True,
                                 stdin=subprocess.DEVNULL, timeout=RUN_S,
                                 stdout=subprocess.PIPE, check=False,
                                 stderr=subprocess.STDOUT)
        except subprocess.TimeoutExpired:
            return "not over within %d s" % RUN_S
    if run.returncode == NO_MACHINES and p.targets is RACK:
        return "skipped"
    if run.returncode == 0:
        return "not caught"
    if re.search(p.words, run.stdout) is None:
        return "caught, but nothing says '%s': %s" % (p.words,
                                                      run.stdout[-2000:])
    return "caught"


def main():
    if not planted.NORMAL:
        sys.exit("planted.py: only with the normal build")
    names = sys.argv[1:] or [n for n in PLANTS if PLANTS[n] is not None]
    unknown = [n for n in names if PLANTS.get(n) is None]
    if unknown:
        sys.exit("planted.py: no plant '%s'" % unknown[0])
    bad = 0
    for name in names:
        began = time.monotonic()
        said = plant(name)
        bad += said not in ("caught", "skipped")
        print("%-20s %5.1f s  %s" % (name, time.monotonic() - began, said),
              flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
