"""A coordinator that dies, hangs or ends takes no word with it: the client turns
to another one, and what it prints is what it would have printed.

The faults come at places of the story that a seeded generator draws; the seed is
in the name of a failure.  ROSTER_SOAK=1 makes many more of them.
"""
import os
import random
import re
import signal
import time
import unittest

import rack
from etcd import EtcdTest, free_ports
from rack import RackTest

PROMPT = "Once upon a time"
LONG = 240  # tokens
TRIALS = 200 if os.environ.get("ROSTER_SOAK") else 20 if not rack.QUICK else 6
SEED = 20

# Sampled so hot that tokens of single bytes come up, between and inside
# characters; the last one has a prompt of several bytes a character.
STORIES = (
    (PROMPT, ("--temp", 0)),
    (PROMPT, ("--temp", 0.8, "--seed", 7)),
    (PROMPT, ("--temp", 3, "--top-k", 0, "--top-p", 1, "--min-p", 0,
              "--seed", 11)),
    ("Größe 🦊 – été, 日本", ("--temp", 3, "--top-k", 0, "--top-p", 1,
                             "--min-p", 0, "--seed", 5)),
)
FAULTS = ("kill", "hang", "end")


def moves(result):
    """How often another coordinator took the story over, as --stats says."""
    found = re.search(r"moved to another coordinator (\d+) time", result.err)
    return int(found.group(1)) if found else 0


class Coordinators:
    """Coordinators at fixed ports, so that each can come back."""

    def __init__(self, test, start, n):
        self.test, self.start = test, start
        self.ports = free_ports(n)
        self.endpoints = ["tcp://127.0.0.1:%d" % p for p in self.ports]
        self.running = [None] * n

    def start_all(self):
        for i in range(len(self.running)):
            self.running[i] = self.start(i, self.endpoints[i])
        for c in self.running:
            c.wait_ready()

    def at(self, endpoint):
        return self.running[self.endpoints.index(endpoint)]

    def strike(self, i, fault):
        c = self.running[i]
        if fault == "kill":
            c.kill()
        elif fault == "hang":
            c.stop()
        else:
            c.signal(signal.SIGTERM)

    def mend(self, i, fault):
        c = self.running[i]
        if fault == "hang":
            c.go_on()
            return
        c.wait()
        self.running[i] = self.start(i, self.endpoints[i])
        self.running[i].wait_ready()


class Failover(RackTest):
    def tell(self, endpoints, story, *more, n=LONG):
        prompt, how = story
        return self.rack.command("generate", prompt, "--endpoint", endpoints,
                                 "-n", n, "--ignore-end", "--stats", *how,
                                 *more)

    def undisturbed(self, endpoints):
        told = [self.tell(endpoints, s) for s in STORIES]
        texts = []
        for t in told:
            result = t.result()
            self.assertEqual((0, 0), (result.status, moves(result)), result.err)
            texts.append(result.out)
        # Else nothing is shown about characters of several bytes.
        self.assertTrue(any(b > 0x7f for b in texts[2]))
        self.assertTrue(any(b > 0x7f for b in texts[3]))
        return texts

    def static_rack(self, n=2, options=()):
        nodes = self.rack.nodes(2, replicas=2)
        def start(i, endpoint):
            peers = [o for e in group.endpoints if e != endpoint
                     for o in ("--peer", e)]
            return self.rack.start_coordinator(
                nodes, "--no-local-experts", "--name", "c%d" % i,
                "--drain-timeout", "20ms", *peers, *options, listen=endpoint)

        group = Coordinators(self, start, n)
        group.start_all()
        return group

    def strike_in_a_story(self, group, texts, trial, draw, endpoints):
        which = draw.randrange(len(STORIES))
        fault = FAULTS[trial % len(FAULTS)]
        text = texts[which]
        first = draw.randrange(len(group.endpoints))
        asked = endpoints(first)
        told = self.tell(asked, STORIES[which])
        told.wait_output(draw.randrange(1, max(2, len(text) // 2)))
        group.strike(first, fault)
        result = told.result()
        what = "trial %d, story %d, %s" % (trial, which, fault)
        self.assertEqual(0, result.status, "%s: %s" % (what, result.err))
        self.assertEqual(text, result.out, what)
        group.mend(first, fault)
        return moves(result)

    def strike_often(self, group, trials, endpoints):
        texts = self.undisturbed(group.endpoints[0])
        draw = random.Random(SEED)
        moved = [self.strike_in_a_story(group, texts, t, draw, endpoints)
                 for t in range(trials)]
        print("record: %d coordinators struck, %d stories moved" %
              (trials, sum(1 for m in moved if m)), flush=True)
        # A story may end before the fault reaches it, but not many do.
        self.assertGreater(sum(1 for m in moved if m), trials // 2)

    def test_a_story_is_the_same_whoever_dies_or_hangs_or_ends(self):
        group = self.static_rack()
        # Some are given the whole list, some learn it from the first.
        turn = iter(range(10**6))
        def endpoints(first):
            one = group.endpoints[first]
            if next(turn) % 2: return one
            return ",".join([one] + [e for e in group.endpoints if e != one])

        self.strike_often(group, TRIALS, endpoints)

    def test_every_coordinator_in_turn_may_die_under_one_story(self):
        group = self.static_rack(3)
        text = self.undisturbed(group.endpoints[0])[2]
        told = self.tell(group.endpoints[0], STORIES[2])
        for i, part in ((0, 8), (1, 4), (2, 2)):
            told.wait_output(len(text) // part)
            # Whoever tells now: the one with a request.
            teller = next((c for c in group.running if not c.ended() and
                           self.rack.status(c)["requests"]["active"]), None)
            if teller is None: break
            teller.kill()
            if i == 0:
                group.mend(group.running.index(teller), "kill")
        result = told.result()
        self.assertEqual((0, text), (result.status, result.out), result.err)
        self.assertGreater(moves(result), 0)

    def test_another_model_is_not_used(self):
        other = rack.make_model(self.rack.folder, layers=2)
        told_by = self.rack.coordinator()
        another = self.rack.coordinator(model=other)
        told = self.tell("%s,%s" % (told_by.endpoint, another.endpoint),
                         STORIES[0])
        told.wait_output(20)
        told_by.kill()
        result = told.result()
        self.assert_fails(result, "roster generate: ", told_by.endpoint,
                          another.endpoint, "another model")

    def test_another_profile_is_not_used(self):
        told_by = self.rack.coordinator()
        another = self.rack.coordinator((), "--kv", "f32")
        told = self.tell("%s,%s" % (told_by.endpoint, another.endpoint),
                         STORIES[0])
        told.wait_output(20)
        told_by.kill()
        result = told.result()
        self.assert_fails(result, "roster generate: ", another.endpoint,
                          "another profile", "kv f32")

    def test_when_all_are_dead_they_are_named_in_time(self):
        group = self.static_rack()
        seconds = 2 * rack.SLOWER
        told = self.tell(group.endpoints[0], STORIES[0], "--timeout",
                         "%ds" % seconds)
        told.wait_output(20)
        for c in group.running:
            c.kill()
        died = time.monotonic()
        result = told.result()
        # The request's own time and the grace after it.
        self.assertLess(time.monotonic() - died, seconds + 2 + 2 * rack.SLOWER)
        self.assert_fails(result, "roster generate: ", *group.endpoints)

    def test_who_is_dead_is_passed_over_at_the_start(self):
        group = self.static_rack()
        text = self.undisturbed(group.endpoints[1])[1]
        group.running[0].kill()
        result = self.tell(",".join(group.endpoints), STORIES[1]).result()
        self.assertEqual((0, text, 0),
                         (result.status, result.out, moves(result)), result.err)


class FailoverByEtcd(EtcdTest):
    tell = Failover.tell
    undisturbed = Failover.undisturbed
    strike_in_a_story = Failover.strike_in_a_story
    strike_often = Failover.strike_often

    def test_the_others_are_found_through_the_rack(self):
        self.etcd.start()
        for name in ("one", "two"):
            self.start_rack_node(name=name)

        def start(i, endpoint):
            return self.start_rack_coordinator(
                "--no-local-experts", "--drain-timeout", "20ms",
                name="c%d" % i, listen=endpoint)

        group = Coordinators(self, start, 2)
        group.start_all()
        for c in group.running:
            self.wait_placed(c, ("one", "two"))

        def endpoints(first):
            # Who begins must be known to the other: both are registered.
            rack.wait_until(lambda: all(
                len([k for k in self.rack.status(c)["coordinators"]]) == 2
                for c in group.running), "both are listed")
            return group.endpoints[first]

        self.strike_often(group, max(6, TRIALS // 3), endpoints)

    def test_a_drained_coordinator_sends_new_requests_elsewhere(self):
        first, second = self.start_rack(coordinators=("c1", "c2"))
        text = self.undisturbed(second.endpoint)[1]
        self.drain(first, "c1")
        self.rack.wait_status(first, lambda s: s["state"] != "up",
                              "c1 is drained")
        result = self.tell(first.endpoint, STORIES[1]).result()
        self.assertEqual((0, text), (result.status, result.out), result.err)
        self.assertEqual(1, moves(result))


if __name__ == "__main__":
    unittest.main()
