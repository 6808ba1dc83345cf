"""A rack finds itself through etcd, whatever is started first."""
import random
import unittest

import rack
from etcd import EtcdTest

PROMPT = "Once upon a time"


class Start(EtcdTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        alone = rack.Rack()
        cls.addClassCleanup(alone.close)
        cls.story = alone.generate(alone.coordinator(), PROMPT)
        alone.finish()

    def parts(self):
        """What starts each part: two coordinators, four nodes, etcd."""
        self.coordinators, self.found = [], []
        starts = [("etcd", self.etcd.start)]
        for c in ("c1", "c2"):
            starts.append((c, lambda c=c: self.coordinators.append(
                self.start_rack_coordinator("--no-local-experts", name=c))))
        for n in ("one", "two", "three", "four"):
            starts.append((n, lambda n=n: self.found.append(
                self.start_rack_node(name=n))))
        return starts

    def serves(self):
        names = ("one", "two", "three", "four")
        for c in self.coordinators:
            c.wait_ready()
            self.assertEqual(self.story, self.rack.generate(c, PROMPT))
        for c in self.coordinators:
            status = self.wait_placed(c, names)
            self.assertEqual({"c1", "c2"},
                             {k["name"] for k in status["coordinators"]})
            self.assertTrue(status["placement"]["survives_largest"])
            self.assertEqual(0, status["dispatch"]["local_pairs"])
        leaders = {self.rack.status(c)["leader"] for c in self.coordinators}
        self.assertEqual(1, len(leaders))
        self.assertEqual(self.document("leader")["name"], leaders.pop())

    def test_any_order(self):
        """A drawn order, printed so that it can be tried again."""
        parts = self.parts()
        random.shuffle(parts)
        print("order: " + " ".join(name for name, _ in parts), flush=True)
        for _, start in parts:
            start()
        self.serves()

    def test_etcd_last_is_waited_for_and_said(self):
        parts = self.parts()
        for name, start in parts[1:]:
            start()
        for program in self.coordinators + self.found:
            program.wait_log("waiting")
            self.assertIn("etcd", program.err())
            self.assertIn(self.etcd.members[0].url.split("//")[1],
                          program.err())
            self.assertNotIn(b"ready", program.out() if program in
                             self.coordinators else b"")
        parts[0][1]()
        self.serves()

    def test_a_name_is_had_by_one_process_only(self):
        (asked,) = self.start_rack()
        twin = self.start_rack_node(name="one")
        twin.wait_log("one")
        self.rack.wait_status(asked, lambda s: len(s["nodes"]) == 2,
                              "there is one node of that name")
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        # When the first one goes, the other takes its place.
        self.nodes["one"].terminate()
        self.rack.wait_status(
            asked, lambda s: any(n["name"] == "one" and n["state"] == "up"
                                 and n["boot_id"] != "" and n["held"] > 0
                                 for n in s["nodes"]),
            "the twin is used")
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))


if __name__ == "__main__":
    unittest.main()
