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
              "--seed", 33)),
    ("Größe 🦊 – été, 日本", ("--temp", 3, "--top-k", 0, "--top-p", 1,
                             "--min-p", 0, "--seed", 5)),
)
FAULTS = ("kill", "hang", "end")
# Of a node: it stops in the middle of a story (6 layers a token).
HELD = {"ROSTER_FAILPOINTS": "node.compute=stop@60"}


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
                                 *(more or rack.PATIENT))

    def undisturbed(self):
        """The stories as a coordinator tells them that has no other."""
        alone = self.rack.coordinator()
        told = [self.tell(alone.endpoint, s) for s in STORIES]
        texts = []
        for t in told:
            result = t.result()
            self.assertEqual(0, result.status, result.err)
            texts.append(result.out)
        alone.terminate()
        # Else nothing is shown about characters of several bytes.
        self.assertTrue(any(b > 0x7f for b in texts[2]))
        self.assertTrue(any(b > 0x7f for b in texts[3]))
        return texts

    def static_rack(self, n=2, envs=None):
        self.nodes = nodes = self.rack.nodes(2, replicas=2, envs=envs)
        def start(i, endpoint):
            peers = [o for e in group.endpoints if e != endpoint
                     for o in ("--peer", e)]
            return self.rack.start_coordinator(
                nodes, "--no-local-experts", "--name", "c%d" % i,
                "--drain-timeout", "20ms", *peers, listen=endpoint)

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
        texts = self.undisturbed()
        draw, trial, moved = random.Random(SEED), 0, 0
        # A story may end before the fault reaches it: that is no trial.
        while moved < trials:
            self.assertLess(trial, 10 * trials, "%d moved" % moved)
            moved += self.strike_in_a_story(group, texts, trial, draw,
                                            endpoints) > 0
            trial += 1
        print("record: %d coordinators struck, %d stories moved" %
              (trial, moved), flush=True)

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
        text = self.undisturbed()[2]
        told = self.tell(group.endpoints[0], STORIES[2])
        told.wait_output(len(text) // 8)
        group.strike(0, "kill")
        group.mend(0, "kill")
        for part in (4, 2):
            told.wait_output(len(text) // part)
            # Whoever tells now: the one with a request, if it is not over.
            teller = next((c for c in group.running if not c.ended() and
                           self.rack.status(c)["requests"]["active"]), None)
            if teller is None: break
            teller.kill()
        result = told.result()
        self.assertEqual((0, text), (result.status, result.out), result.err)
        self.assertGreater(moves(result), 0)

    def start_held(self):
        """A coordinator that cannot end a story: its only node stops."""
        node = self.rack.node(env=HELD)
        told_by = self.rack.coordinator([node], "--no-local-experts",
                                        "--park-timeout", "0")
        return node, told_by

    def lose(self, node, told_by, another):
        """The first dies in the middle of its story."""
        told = self.tell("%s,%s" % (told_by.endpoint, another.endpoint),
                         STORIES[0], "--timeout", "%ds" % (10 * rack.SLOWER))
        rack.wait_until(node.stopped, "the node stops in the story")
        told_by.kill()
        return told.result()

    def test_another_model_is_not_used(self):
        other = rack.make_model(self.rack.folder, layers=2)
        node, told_by = self.start_held()
        another = self.rack.coordinator(model=other)
        result = self.lose(node, told_by, another)
        self.assert_fails(result, "roster generate: ", told_by.endpoint,
                          another.endpoint, "another model")

    def test_another_profile_is_not_used(self):
        node, told_by = self.start_held()
        another = self.rack.coordinator((), "--kv", "f32")
        result = self.lose(node, told_by, another)
        self.assert_fails(result, "roster generate: ", another.endpoint,
                          "another profile", "kv f32")

    def test_when_all_are_dead_they_are_named_in_time(self):
        group = self.static_rack(envs={0: HELD, 1: HELD})
        seconds = 3 * rack.SLOWER
        soon = self.soon(group.running[0])
        told = self.tell(group.endpoints[0], STORIES[0], "--timeout",
                         "%ds" % seconds)
        for node in self.nodes:
            rack.wait_until(node.stopped, "the story cannot go on")
        for c in group.running:
            c.kill()
        died = time.monotonic()
        result = told.result()
        # The request's own time and the grace after it.
        self.assertLess(time.monotonic() - died, seconds + 2 + soon)
        self.assert_fails(result, "roster generate: ", *group.endpoints)

    def test_who_is_dead_is_passed_over_at_the_start(self):
        group = self.static_rack()
        text = self.undisturbed()[1]
        group.running[0].kill()
        result = self.tell(",".join(group.endpoints), STORIES[1]).result()
        self.assertEqual((0, text), (result.status, result.out), result.err)


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
        first, _ = self.start_rack(coordinators=("c1", "c2"))
        text = self.undisturbed()[1]
        self.drain(first, "c1")
        self.rack.wait_status(first, lambda s: s["state"] != "up",
                              "c1 is drained")
        result = self.tell(first.endpoint, STORIES[1]).result()
        self.assertEqual((0, text), (result.status, result.out), result.err)
        self.assertGreater(moves(result), 0)


if __name__ == "__main__":
    unittest.main()
