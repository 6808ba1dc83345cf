"""A whole rack loses power: every process is killed at once, etcd included, and
started again.  It serves the same story from its nodes' own disks, without asking
coordinators for weights again; nodes that come one after the other find what was
theirs still assigned to them; what was needed most is loaded first.  The same with
an etcd that lost its data.  And bits that flip in memory are found and healed.
"""
import os
import tempfile
import time
import unittest

import rack
from etcd import EtcdTest

PROMPT = "Once upon a time"
NODES = ("one", "two", "three")
SERVES_S = 60 * rack.SLOWER  # after etcd is back
# Nobody is taken for lost who takes its time on a busy computer.
WAITS = ("--replace-after", "600s")


class RestartTest(EtcdTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        alone = rack.Rack()
        cls.addClassCleanup(alone.close)
        cls.story = alone.generate(alone.coordinator(), PROMPT)
        alone.finish()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)  # last: nodes write there till the end
        self.caches = folder.name
        super().setUp()
        self.etcd.start()

    def start_node(self, name, *options, **how):
        cache = os.path.join(self.caches, name)
        node = self.start_rack_node("--cache", cache, *options, name=name,
                                    **how)
        self.nodes[name] = node
        return node

    def start_all(self, names=NODES, *options, leader=()):
        self.nodes = {}
        for n in names:
            self.start_node(n, *options)
        self.asked = self.start_rack_coordinator(
            "--no-local-experts", "--balance", "off", *leader, name="c1")

    def wait_all(self):
        self.asked.wait_ready()
        return self.wait_placed(self.asked, NODES)

    def tell(self):
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))

    def power_off(self):
        for p in list(self.nodes.values()) + [self.asked]:
            p.kill()
        self.etcd.kill()

    def served_bytes(self):
        """Of weights, by the coordinator."""
        return self.rack.status(self.asked)["weights"]["bytes"]


class Restart(RestartTest):
    def test_serves_from_its_disks(self):
        self.start_all(leader=WAITS)
        self.wait_all()
        self.tell()
        before, pulled = self.epoch(), self.served_bytes()
        self.assertGreater(pulled, 0)
        self.power_off()

        self.etcd.start()
        began = time.monotonic()
        self.start_all(leader=WAITS)
        self.asked.wait_ready()
        self.tell()
        seconds = time.monotonic() - began
        self.wait_all()
        print("record: the whole rack serves %.1f s after etcd is back, with "
              "%d bytes of weights pulled (%d at first)" %
              (seconds, self.served_bytes(), pulled), flush=True)
        self.assertLess(seconds, SERVES_S)
        self.assertLess(self.served_bytes(), pulled / 20)
        self.assertEqual(before, self.epoch())

    def test_nodes_that_come_one_by_one_keep_their_units(self):
        self.start_all(leader=WAITS)
        self.wait_all()
        before = self.epoch()
        self.power_off()

        self.etcd.start()
        self.start_all(NODES[:1], leader=WAITS)
        for name in NODES[1:]:
            time.sleep(3)  # it is about a rack that takes its time
            self.start_node(name)
        self.wait_all()
        self.assertEqual(before, self.epoch())
        self.tell()

    def test_serves_when_etcd_lost_its_data_as_well(self):
        """Nobody remembers a placement: a first one is made, from caches."""
        self.start_all()
        self.wait_all()
        pulled = self.served_bytes()
        self.power_off()

        self.etcd.wipe()
        self.etcd.start()
        self.start_all()
        self.wait_all()
        self.tell()
        self.assertEqual(1, self.rack.status(self.asked)["incarnation"])
        self.assertLess(self.served_bytes(), pulled)

    def test_homeless_experts_are_named(self):
        """More is lost than the others have room for."""
        size = str(8 << 20)  # of 20 MB of experts; three have just enough
        self.start_all(NODES, "--memory", size,
                       leader=("--replace-after", "3s"))
        self.wait_all()
        status = self.rack.status(self.asked)
        self.assertEqual(0, status["homeless"]["units"])
        self.nodes["three"].kill()

        def named(s):
            h = s["homeless"]
            return (h["units"] > 0 and h["layers"] and h["why"] and
                    h["units"] == s["coverage"]["unheld"])
        self.rack.wait_status(self.asked, named, "they are named")
        self.rack.wait_status(
            self.asked, lambda s: s["homeless"]["no_room"] > 0 and
            s["homeless"]["estimate_s"] is None, "there is no room for them")
        shown = self.rack.run("status", "--endpoint", self.asked.endpoint)
        self.assertIn("homeless", shown.text)
        self.start_node("three", "--memory", size)
        self.rack.wait_status(self.asked,
                              lambda s: s["homeless"]["units"] == 0,
                              "all have a home again")
        self.tell()


class Flipped(RestartTest):
    def test_a_flipped_bit_is_found_and_healed(self):
        self.nodes = {}
        self.start_node("one")
        # the first one that is read again after everything was loaded
        self.start_node("two", "--scrub", "0.0005", env={
            "ROSTER_FAILPOINTS": "scrub.flip=fail@300"})
        self.asked = self.start_rack_coordinator("--no-local-experts",
                                                 name="c1")
        self.asked.wait_ready()
        self.wait_placed(self.asked, ("one", "two"))
        self.nodes["two"].wait_log("not what was loaded")
        self.wait_placed(self.asked, ("one", "two"))
        self.tell()
        self.assertEqual(1, self.nodes["two"].err().count(
            "not what was loaded"))
        status = self.rack.status(self.asked)
        self.assertEqual(0, status["coverage"]["unheld"])


del RestartTest  # a base, not a test

if __name__ == "__main__":
    unittest.main()
