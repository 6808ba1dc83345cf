#!/usr/bin/env python3
"""Chaos: a rack of real processes on machines of its own, stories all the time,
and one fault after another.

  tests/chaos/chaos.py [--faults N] [--requests N] [--minutes N] [--seed S]
                       [--kinds kill_node,cut,...] [--keep]

Two coordinators that may not compute experts themselves, four nodes, every
expert on two of them, three members of etcd.  Up to three faults at a time, of
different classes (chaos_faults.py), so that the rack could always serve; hence
not one story may be lost, and each must be, byte for byte, what an undisturbed
coordinator told.  After each turn the rack must become whole again: everything
placed twice, nothing moving, everybody up.

A fault that hit nobody is not counted, nor is what operators ask for.  A run
ends after so many faults and requests, or minutes.  The last line is its
record.  A run that fails prints the seed, what was done until then, and the
folder with all logs.  Exit status: 0 all held; 1 it did not; 77 there can be no
machines here.
"""
import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, os.pardir, "support")]
import chaos_faults  # noqa: E402
import chaos_rack  # noqa: E402
import fault_net  # noqa: E402

SKIPPED = 77
WATCH_S = 1
CLASSES = ("node", "etcd", "front", "ask")


class Schedule:
    """Which faults, when: every kind comes once before any comes again."""

    def __init__(self, kinds, seed):
        self._rng = random.Random(seed)
        self._kinds, self._decks = kinds, {}
        self.number = 0

    def _draw(self, of):
        deck = self._decks.get(of)
        if not deck:
            deck = [k for k in self._kinds if chaos_faults.KINDS[k][0] == of]
            self._rng.shuffle(deck)
            self._decks[of] = deck
        return deck.pop() if deck else None

    def turn(self):
        """[(number, kind, seconds until it begins, its own generator)]"""
        weights = [sum(chaos_faults.KINDS[k][0] == c for k in self._kinds)
                   for c in CLASSES]
        first = self._rng.choices(CLASSES, weights)[0]
        others = [c for c in CLASSES if c != first and "ask" not in (c, first)
                  and self._rng.random() < 0.35]
        chosen = []
        for of in [first] + others:
            name = self._draw(of)
            if name is None:
                continue
            self.number += 1
            chosen.append((self.number, name, self._rng.uniform(0, 1),
                           random.Random(self._rng.random())))
        return chosen


class Run:
    def __init__(self, folder, options):
        self.options, self.folder = options, folder
        self.said, self.failed = [], []
        self.count, self.wishes, self.missed = {}, 0, 0
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self.rack = chaos_rack.ChaosRack(folder, options.seed, {
            "nodes": 4, "coordinators": options.coordinators,
            "streams": options.streams, "tokens": options.tokens}, self.say)

    def say(self, words):
        line = "%7.2f %s" % (time.monotonic() - self.began, words)
        with self._lock:
            self.said.append(line)
            with open(os.path.join(self.folder, "schedule"), "a") as f:
                f.write(line + "\n")
        if self.options.verbose:
            print(line, flush=True)

    def _live(self, number, fault):
        """What it hit; None: it cannot miss."""
        while True:
            try:
                seconds = next(fault)
            except StopIteration as end:
                return end.value
            self.say("%3d ... for %.2f s" % (number, seconds))
            time.sleep(seconds)

    def _fault(self, number, name, after, rng):
        """Its whole life, in a thread of its own."""
        of, function, _ = chaos_faults.KINDS[name]
        try:
            time.sleep(after)
            self.say("%3d %s" % (number, name))
            hits = self._live(number, function(self.rack, rng))
            self.say("%3d over%s" % (number, "" if hits is None else
                                     ", hits: %d" % hits))
        except Exception:  # pylint: disable=broad-except
            self.failed.append("%s: %s" % (name, traceback.format_exc()))
            return
        with self._lock:
            if of == "ask":
                self.wishes += 1
            elif hits == 0:
                self.missed += 1
            else:
                self.count[name] = self.count.get(name, 0) + 1

    def _watch(self, over):
        """What the coordinators say, for whoever has to find a mistake."""
        with open(os.path.join(self.folder, "states"), "w") as f:
            while not over.wait(WATCH_S):
                for name in self.rack.coordinators:
                    state = self.rack.status(name)
                    f.write("%.2f %s %s\n" % (time.monotonic() - self.began,
                                              name, json.dumps(state)))
                f.flush()

    def turn(self, faults):
        threads = [threading.Thread(target=self._fault, args=f) for f in faults]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if self.failed:
            raise AssertionError(self.failed[0])
        self.rack.wait_whole(self.options.patience)
        self.rack.check_stories()
        self.rack.wait_stories(1)
        stories = self.rack.stories
        self.say("    whole; %d stories, %d take-overs, longest wait %d ms" %
                 (stories.done, stories.takeovers, stories.longest_ms))

    def faults(self):
        return sum(self.count.values())

    def over(self):
        o = self.options
        if o.minutes:
            return time.monotonic() - self.began >= o.minutes * 60
        return (self.faults() >= o.faults and
                self.rack.stories.done >= o.requests)

    def kinds(self):
        possible = chaos_faults.possible(self.rack)
        for kind in self.options.kinds or []:
            if kind not in possible:
                raise AssertionError("there can be no %s here" % kind)
        return self.options.kinds or possible

    def run(self):
        """What went wrong, as sentences."""
        bad, over = [], threading.Event()
        watch = threading.Thread(target=self._watch, args=(over,))
        try:
            self.rack.start()
            self.say("the rack serves")
            watch.start()
            kinds = self.kinds()
            self.say("kinds: " + " ".join(kinds))
            schedule = Schedule(kinds, self.options.seed)
            while not self.over():
                faults = schedule.turn()
                if faults:
                    self.turn(faults)
                else:
                    self.rack.wait_stories(1)
        except Exception as e:  # pylint: disable=broad-except
            bad.append(str(e) or traceback.format_exc())
            if not isinstance(e, AssertionError):
                bad.append(traceback.format_exc())
        over.set()
        if watch.is_alive():
            watch.join()
        if self.rack.stories is not None:
            bad += self.rack.finish()
            stories = self.rack.stories
            bad += stories.wrong[:5] + stories.lost[:5]
            if not bad and stories.takeovers == 0 and not self.options.kinds:
                bad.append("no replica took over anything")
            if not bad and self.faults() == 0:
                bad.append("no fault hit anybody")
        return bad

    def record(self):
        stories = self.rack.stories
        if stories is None:
            return "record: nothing was served"
        kinds = ", ".join("%s %d" % k for k in sorted(self.count.items()))
        return ("record: %s chaos seed %d: %d faults (%s), %d that hit nobody, "
                "%d wishes, %d requests, %d tokens, %d lost, %d wrong, %d "
                "take-overs, %d moves, longest wait %.1f s, %d s; proxy %s" %
                (time.strftime("%Y-%m-%d"), self.options.seed,
                 self.faults(), kinds, self.missed, self.wishes, stories.asked,
                 stories.tokens, len(stories.lost), len(stories.wrong),
                 stories.takeovers, stories.moves, stories.longest_ms / 1000,
                 time.monotonic() - self.began,
                 ", ".join("%s %d" % c for c in
                           self.rack.net.proxy.counts().items())))


def inside(options):
    run = Run(options.folder, options)
    try:
        bad = run.run()
        record = run.record()
    finally:
        run.rack.close()
    if bad:
        print("FAILED: seed %d" % options.seed)
        print("\n".join("  " + b for b in bad))
        print("what was done:")
        print("\n".join("  " + line for line in run.said[-60:]))
    print(record, flush=True)
    return 1 if bad else 0


def outside(options):
    reason = fault_net.why_not()
    if reason is not None:
        print("skipped: chaos on machines: " + reason)
        return SKIPPED
    folder = tempfile.mkdtemp(prefix="roster-chaos-")
    process = fault_net.enter([sys.executable] + sys.argv +
                              ["--folder", folder])
    # Also where a shell has left SIGINT ignored, as it does in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    status = 1
    try:
        status = process.wait()
    finally:
        fault_net.leave(process)
        if status == 0 and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print("logs: " + folder)
    return status


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", type=lambda s: s.split(","), default=None)
    parser.add_argument("--coordinators", type=int, default=2)
    parser.add_argument("--streams", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--patience", type=float, default=90, metavar="S",
                        help="longest time until the rack is whole again")
    parser.add_argument("--keep", action="store_true",
                        help="the logs stay, also after a good run")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [k for k in options.kinds or [] if k not in chaos_faults.KINDS]
    if unknown:
        parser.error("no kind '%s'; there are: %s" %
                     (unknown[0], " ".join(chaos_faults.KINDS)))
    return inside(options) if fault_net.inside() else outside(options)


if __name__ == "__main__":
    sys.exit(main())
