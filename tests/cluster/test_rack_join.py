"""A node joins while stories are told: it gets its share, computes it, and changes
no word; a node that is drained gives its share back and leaves.
"""
import unittest

import rack
from etcd import EtcdTest

PROMPT = "Once upon a time"
UNITS = rack.LAYERS * rack.EXPERTS
EXPERT_BYTES = 3 * 256 * 256 * 34 // 32  # of the story model, as stored
REST = 64 * 10**6  # a node's memory beside its experts


class Join(EtcdTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        alone = rack.Rack()
        cls.addClassCleanup(alone.close)
        cls.story = alone.generate(alone.coordinator(), PROMPT)
        alone.finish()

    def check_memory(self, asked, node, held):
        """By its own word and by the kernel's: what went is given back soon."""
        its_bytes = held * EXPERT_BYTES
        self.rack.wait_status(asked, lambda s: any(
            n["name"] == node.rack_name and
            abs(n["resident_bytes"] - its_bytes) < 0.1 * its_bytes
            for n in s["nodes"]), "%s has %d bytes" % (node.name, its_bytes))
        if rack.SANITIZED: return
        rack.wait_until(lambda: rack.resident_bytes(node.pid) <=
                        1.1 * its_bytes + REST, "its memory is given back")

    def test_a_third_node_takes_its_share_and_leaves(self):
        """Shares by memory; those by load are test_rack_balance.py's."""
        (asked,) = self.start_rack(
            options=("--no-local-experts", "--balance", "off"))
        epoch = self.epoch()
        teller = self.tell_on([asked], self.story)
        teller.wait_more()

        three = self.start_rack_node(name="three")
        three.wait_ready()
        self.wait_placed(asked, ("one", "two", "three"))
        # Its coming is one placement, what the others give up for it the next.
        status = self.rack.wait_status(
            asked, lambda s: s["epoch"] == self.epoch() and
            sum(n["held"] for n in s["nodes"]) == 2 * UNITS,
            "nobody holds more than its share")
        self.assertNotEqual(epoch, status["epoch"])
        held = {n["name"]: n["held"] for n in status["nodes"]}
        for name, count in held.items():
            self.assertLess(abs(count - 2 * UNITS // 3), 8, name)
        self.assertTrue(status["placement"]["survives_largest"])
        self.rack.wait_status(
            asked, lambda s: any(n["name"] == "three" and n["batches"] >= 100
                                 for n in s["nodes"]),
            "node three computes")
        own = self.rack.run("status", "--json", "--endpoint", three.endpoint)
        if own.status == 0:  # the node's own word, beside the coordinator's
            self.assertIn('"batches"', own.text)
        self.check_memory(asked, three, held["three"])
        # The others gave up what is its now.
        self.check_memory(asked, self.nodes["one"], held["one"])

        self.drain(asked, "three", "--wait")
        teller.wait_more()
        status = self.wait_placed(asked, ("one", "two"))
        self.assertEqual(0, self.of_node(asked, "three")["held"])
        three.terminate()
        self.assertEqual(0, three.status)
        teller.wait_more(2)
        self.assertGreater(teller.finish(), 4)
        self.assertEqual([], teller.wrong)
        status = self.rack.status(asked)
        self.assertEqual(0, status["dispatch"]["local_pairs"])
        self.assertEqual(0, status["requests"]["failed"])

    def test_a_node_that_is_killed_is_replaced_by_the_others(self):
        """Its units get new holders, once it has been away long enough."""
        (asked,) = self.start_rack(
            nodes=("one", "two", "three"),
            options=("--no-local-experts", "--replace-after", "3s"))
        teller = self.tell_on([asked], self.story)
        teller.wait_more()
        epoch = self.epoch()
        self.nodes["three"].kill()
        self.rack.wait_status(
            asked, lambda s: s["epoch"] != epoch and
            s["placement"]["single"] == 0 and
            s["placement"]["survives_largest"], "every unit has two holders")
        self.wait_placed(asked, ("one", "two"))
        teller.wait_more(2)
        teller.finish()
        self.assertEqual([], teller.wrong)
        self.assertEqual(0, self.rack.status(asked)["requests"]["failed"])

    def test_a_node_that_restarts_is_used_again_at_once(self):
        # However long it takes to start.
        (asked,) = self.start_rack(options=(
            "--no-local-experts", "--balance", "off", "--replace-after",
            "600s"))
        three = self.start_rack_node(name="three")
        three.wait_ready()
        self.wait_placed(asked, ("one", "two", "three"))
        epoch = self.epoch()
        three.kill()
        again = self.start_rack_node(name="three", listen=three.endpoint)
        again.wait_ready()
        self.rack.wait_status(
            asked, lambda s: any(n["name"] == "three" and n["state"] == "up"
                                 and n["held"] == n["assigned"] > 0
                                 for n in s["nodes"]), "it is back")
        self.assertEqual(epoch, self.epoch(), "nothing had to move")
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))

    def test_slices_are_placed_and_change_no_word(self):
        (asked,) = self.start_rack(
            nodes=("one", "two", "three"),
            options=("--no-local-experts", "--slices", "4"))
        status = self.rack.status(asked)
        self.assertEqual(4, status["slices"])
        self.assertEqual(4 * UNITS, status["placement"]["units"])
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))

    def test_memory_offered_is_not_exceeded(self):
        """Two nodes with room for half of the experts each: one replica."""
        self.etcd.start()
        room = UNITS * EXPERT_BYTES * 6 // 10
        for name in ("one", "two"):
            self.start_rack_node("--memory", room, name=name)
        asked = self.start_rack_coordinator("--no-local-experts", name="c1")
        asked.wait_ready()
        status = self.wait_placed(asked, ("one", "two"))
        for n in status["nodes"]:
            self.assertLessEqual(n["resident_bytes"], room)
        self.assertFalse(status["placement"]["survives_largest"])
        self.assertGreater(status["placement"]["single"], 0)
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))


if __name__ == "__main__":
    unittest.main()
