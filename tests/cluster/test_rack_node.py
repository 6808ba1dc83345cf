"""A rack's node told to end, stopped and misled: it ends wherever it is, leaves
nothing in its temporary folder, goes on after a pause, and takes no placement
whose numbers are not its model's.
"""
import json
import os
import time
import unittest

import rack
from etcd import EtcdTest

PROMPT = "Once upon a time"
PAUSE_S = 7  # longer than a coordinator may be silent


class Node(EtcdTest):
    def setUp(self):
        super().setUp()
        self.temporary = os.path.join(self.rack.folder, "tmp")
        os.mkdir(self.temporary)

    def start_node(self, name):
        return self.start_rack_node(name=name, env={"TMPDIR": self.temporary})

    def assert_ends(self, node):
        self.assertEqual(0, node.terminate())
        self.assertEqual([], os.listdir(self.temporary))

    def test_it_ends_wherever_it_is(self):
        early = self.start_node("early")
        early.wait_log("etcd does not answer")
        self.assert_ends(early)

        (asked,) = self.start_rack()
        asked.stop()
        puller = self.start_node("puller")
        puller.wait_log("learning the model")
        self.assert_ends(puller)
        asked.go_on()

        self.wait_placed(asked, ("one", "two"))
        loader = self.start_node("loader")
        loader.wait_log("to load")
        asked.stop()  # with some of it loaded, or all
        self.assert_ends(loader)
        asked.go_on()

        self.wait_placed(asked, ("one", "two"))
        drained = self.start_node("drained")
        drained.wait_ready()
        self.wait_placed(asked, ("one", "two", "drained"))
        self.drain(asked, "drained")
        rack.wait_until(lambda: "0 units here" in drained.err(),
                        "it gives up what it has")
        self.assert_ends(drained)

        last = self.start_node("last")
        last.wait_ready()
        self.wait_placed(asked, ("one", "two", "last"))
        self.etcd.members[0].pause()  # does not even refuse
        self.assert_ends(last)

    def test_it_goes_on_after_a_pause(self):
        (asked,) = self.start_rack()
        story = self.rack.generate(asked, PROMPT)
        held = self.of_node(asked, "two")["held"]
        two = self.nodes["two"]
        two.stop()
        rack.wait_until(
            lambda: self.of_node(asked, "two")["state"] != "up",
            "the coordinator misses it")
        time.sleep(PAUSE_S)
        two.go_on()
        two.wait_log("did not run for")
        status = self.wait_placed(asked, ("one", "two"))
        self.assertEqual([held], [n["held"] for n in status["nodes"]
                                  if n["name"] == "two"])
        self.assertEqual(story, self.rack.generate(asked, PROMPT))

    def test_numbers_that_are_not_its_models_change_nothing(self):
        (asked,) = self.start_rack()
        head = self.document("placement", "epoch")
        head["epoch"] += 1
        head["n_layers"] = 1000
        self.etcd.put(self.key("placement", "epoch"), json.dumps(head))
        fresh = self.start_node("fresh")
        # One knows the rack's placement and keeps it; one has only this.
        for node, words in ((self.nodes["one"], "another model or shape"),
                            (fresh, "the placement is of 1000 layers")):
            node.wait_log(words)
            self.assertNotIn("placement 1.%d:" % head["epoch"], node.err())
            self.assertFalse(node.ended())


if __name__ == "__main__":
    unittest.main()
