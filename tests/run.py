#!/usr/bin/env python3
"""Runs Roster's tests and counts them.

  tests/run.py --build build [--only unit,sim,memory,golden,cluster,chaos]
               [-k WORD]

A suite is a cmocka program under BUILD/tests/<group>/ or a unittest script
tests/<group>/test_*.py.  Every suite runs in a process group of its own, which is
ended when it exceeds its time; two run at a time.  The last line is
`N passed, N failed, N skipped`.
"""
import argparse
import concurrent.futures
import itertools
import os
import re
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GROUPS = ["unit", "sim", "memory", "golden", "cluster", "chaos"]
# What measures slowness, or wants every CPU, has the computer to itself.
ALONE = {"test_faults.py", "test_chaos.py"}
SUITE_SECONDS = int(os.environ.get("ROSTER_SUITE_SECONDS", "1800"))


def suites(build, group):
    programs = os.path.join(build, "tests", group)
    if os.path.isdir(programs):
        for name in sorted(os.listdir(programs)):
            path = os.path.join(programs, name)
            if name.startswith("test_") and os.access(path, os.X_OK):
                yield name, [path]
    scripts = os.path.join(ROOT, "tests", group)
    if os.path.isdir(scripts):
        for name in sorted(os.listdir(scripts)):
            if name.startswith("test_") and name.endswith(".py"):
                yield name, [sys.executable, os.path.join(scripts, name)]


def run(command, build):
    env = dict(os.environ, ROSTER_BUILD=os.path.abspath(build),
               CMOCKA_MESSAGE_OUTPUT="stdout",
               PYTHONPATH=os.path.join(ROOT, "tests", "support"))
    env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    env.setdefault("TSAN_OPTIONS", "halt_on_error=1")
    process = subprocess.Popen(command, cwd=ROOT, env=env,
                               stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT,
                               start_new_session=True)
    try:
        output, _ = process.communicate(timeout=SUITE_SECONDS)
        text = output.decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        text = output.decode(errors="replace")
        text += "\n%s: ended after %d s\n" % (command[-1], SUITE_SECONDS)
        return 124, text
    return process.returncode, text


def timed(suite, build):
    group, name, command = suite
    began = time.time()
    status, text = run(command, build)
    return group, name, status, text, time.time() - began


def count(status, text):
    """(passed, failed, skipped) of one suite's output."""
    def number(pattern):
        return sum(int(n) for n in re.findall(pattern, text))

    ran = re.search(r"^Ran (\d+) tests? in", text, re.M)
    if ran:
        bad = number(r"failures=(\d+)") + number(r"errors=(\d+)")
        skipped = number(r"skipped=(\d+)")
        passed = int(ran.group(1)) - bad - skipped
    else:
        passed = number(r"\[  PASSED  \] (\d+) test\(s\)\.")
        bad = number(r"\[  FAILED  \] (\d+) test\(s\), listed")
        skipped = number(r"\[  SKIPPED \] (\d+) test\(s\), listed")
    if status != 0 and bad == 0:
        bad = 1  # it crashed, or hung
    if status == 0 and passed + bad + skipped == 0:
        bad = 1  # it ran nothing
    return passed, bad, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--only", default=",".join(GROUPS))
    parser.add_argument("-k", metavar="WORD", default="",
                        help="only suites whose name contains WORD")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1),
                        help="suites at a time: most of them wait more than "
                             "they compute")
    options = parser.parse_args()

    chosen = []
    for group in options.only.split(","):
        if group not in GROUPS:
            parser.error("no group '%s'" % group)
        chosen += [(group, name, command)
                   for name, command in suites(options.build, group)
                   if options.k in name]

    totals, broken, start = [0, 0, 0], [], time.time()
    beside = [suite for suite in chosen if suite[1] not in ALONE]
    alone = [suite for suite in chosen if suite[1] in ALONE]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for group, name, status, text, took in itertools.chain(
                pool.map(lambda suite: timed(suite, options.build), beside),
                (timed(suite, options.build) for suite in alone)):
            result = count(status, text)
            totals = [a + b for a, b in zip(totals, result)]
            word = "FAIL" if result[1] else "ok"
            print("%-5s %s/%s: %d passed, %d failed, %d skipped, %.1f s" %
                  ((word, group, name) + result + (took,)), flush=True)
            for line in re.findall(r"^(?:skipped|record): .*$", text, re.M):
                print("      " + line)
            if result[1]:
                broken.append("%s/%s" % (group, name))
                print(text, flush=True)
    if broken:
        print("failed: " + " ".join(broken))
    print("%.0f s" % (time.time() - start))
    print("%d passed, %d failed, %d skipped" % tuple(totals))
    return 1 if totals[1] or sum(totals) == 0 else 0


sys.exit(main())
