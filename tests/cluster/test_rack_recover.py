"""Bad days of etcd, and the way back: it is wiped, also so that its revisions pass
the old ones before anybody looks; restored from an older copy; its placement is
damaged; every coordinator was restarted meanwhile; it runs out of space.  Serving
goes on all the time, the status says what is wrong and what to do, and after
`roster recover` the leader places again, with every node keeping what it holds.
"""
import json
import os
import re
import shutil
import unittest

import rack
from etcd import EtcdTest

PROMPT = "Once upon a time"
NODES = ("one", "two", "three")
# Whatever is loaded is the recovery's doing, not that of a better balance.
OPTIONS = ("--no-local-experts", "--balance", "off")


class RecoveryTest(EtcdTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        alone = rack.Rack()
        cls.addClassCleanup(alone.close)
        cls.story = alone.generate(alone.coordinator(), PROMPT)
        alone.finish()

    def start_all(self, coordinators=("c1", "c2")):
        self.asked = self.start_rack(nodes=NODES, coordinators=coordinators,
                                     options=OPTIONS)
        self.teller = self.tell_on(self.asked, self.story)
        self.teller.wait_more(2)

    # ---- what is said and done ----

    def wait_frozen(self, *words):
        """Until some coordinator says so, and that it wants recovering."""
        def frozen(c):
            why = self.rack.status(c)["frozen"]
            return all(w in why for w in words + ("roster recover",))
        rack.wait_until(lambda: any(frozen(c) for c in self.asked),
                        "a leader says that it is frozen")

    def wait_rolled_back(self):
        for c in self.asked:
            self.rack.wait_status(
                c, lambda s: s["etcd"]["connected"] and
                s["etcd"]["rolled_back"], "%s sees it" % c.name)

    def recover(self, *options, asked=None):
        """The report, as soon as somebody leads who can do it."""
        last = [None]

        def done():
            last[0] = self.rack.run("recover", "--json", *options, *rack.PATIENT,
                                    "--endpoint",
                                    (asked or self.asked[-1]).endpoint)
            return last[0].status == 0

        rack.wait_until(done, lambda: "recovered: " + last[0].err)
        return json.loads(last[0].out)

    def wait_incarnation(self, n):
        for c in self.asked:
            self.rack.wait_status(
                c, lambda s: s["incarnation"] == n and s["frozen"] == "" and
                not s["etcd"]["rolled_back"] and s["etcd"]["registered"],
                "%s works with incarnation %d" % (c.name, n))

    def check_it_leads(self):
        """The leader places again: a drained node is emptied."""
        self.drain(self.asked[0], "three", "--wait")
        self.drain(self.asked[0], "three", "--undo")

    def check_all_told(self):
        self.teller.wait_more(2)
        self.teller.finish()
        self.assertEqual([], self.teller.wrong)

    def loaded(self):
        """How many units the nodes were told to load, by their logs."""
        counts = {}
        for name, node in self.nodes.items():
            seen = re.findall(r"units here, (\d+) to load", node.err())
            counts[name] = sum(int(n) for n in seen)
        return counts

    def check_recovered(self, was, incarnation=2, source="memory"):
        """The whole way from frozen to leading."""
        before = self.loaded()
        plan = self.recover("--dry-run")
        self.assertEqual((was, "%d.1" % incarnation, source),
                         (plan["was"], plan["becomes"], plan["from"]))
        self.assertIsNone(self.document("recovered", incarnation))
        report = self.recover("--yes")
        self.assertEqual(plan["becomes"], report["becomes"])
        self.assertEqual(rack.LAYERS * rack.EXPERTS, report["units"])
        self.wait_incarnation(incarnation)
        self.assertEqual(before, self.loaded())
        record = self.document("recovered", incarnation)
        self.assertEqual(report["becomes"], record["became"])
        self.assertIn("@", record["by"])
        self.check_it_leads()
        self.check_all_told()


class Days(RecoveryTest):
    def test_wiped(self):
        self.start_all()
        was = self.epoch()
        self.etcd.wipe()
        self.etcd.start()
        self.wait_rolled_back()
        self.wait_frozen()
        unasked = self.rack.run("recover", "--endpoint",
                                self.asked[0].endpoint)
        self.assert_fails(unasked, "--yes", status=2)
        self.assertIsNone(self.epoch())
        self.check_recovered(was)
        again = self.recover("--yes")
        self.assertEqual(0, again["transactions"])

    def test_wiped_and_overtaken_unseen(self):
        """Same cluster id, and a revision beyond the last one seen."""
        self.start_all()
        was, revision = self.epoch(), self.etcd.revision()
        everybody = list(self.nodes.values()) + self.asked
        self.teller.finish()
        for p in everybody:
            p.stop()
        self.etcd.wipe()
        self.etcd.start()
        while self.etcd.revision() < revision + 50:
            self.etcd.put("/another/key", "x")
        for p in everybody:
            p.go_on()
        self.teller = self.tell_on(self.asked, self.story)
        self.wait_rolled_back()
        self.check_recovered(was)

    def test_restored_from_an_older_copy(self):
        self.start_all()
        self.etcd.kill()
        data = self.etcd.members[0].data
        shutil.copytree(data, data + ".old")
        self.etcd.start()
        self.drain(self.asked[0], "three", "--wait")
        self.drain(self.asked[0], "three", "--undo")
        self.wait_placed(self.asked[0], NODES)
        was = self.epoch()
        self.etcd.wipe()
        os.rename(data + ".old", data)
        self.etcd.start()
        self.wait_rolled_back()
        self.assertNotEqual(was, self.epoch())
        self.check_recovered(was)

    def test_a_damaged_placement(self):
        self.start_all()
        was = self.epoch()
        self.etcd.put(self.key("placement", "epoch"), "nonsense")
        self.wait_frozen("cannot be used")
        self.check_recovered(was)

    def test_nobody_remembers_but_the_nodes(self):
        self.start_all(coordinators=("c1",))
        was = self.epoch()
        self.teller.finish()
        self.asked[0].kill()
        self.etcd.wipe()
        self.etcd.start()
        self.asked = [self.start_rack_coordinator(*OPTIONS, name="c1")]
        self.asked[0].wait_ready()
        self.wait_frozen("newer placement")
        before = self.loaded()

        def recovered():
            result = self.rack.run("recover", "--yes", "--json", "--endpoint",
                                   self.asked[0].endpoint)
            return result.status == 0 and json.loads(result.out)

        report = rack.wait_until(recovered, "the nodes have said what they "
                                 "hold")
        self.assertEqual((was, "2.1", "nodes"),
                         (report["was"], report["becomes"], report["from"]))
        self.wait_incarnation(2)
        self.assertEqual(before, self.loaded())
        self.teller = self.tell_on(self.asked, self.story)
        self.check_it_leads()
        self.check_all_told()

    def test_there_is_nothing_to_recover(self):
        self.start_all()
        before = self.epoch()
        report = self.recover("--yes")
        self.assertEqual((0, ""), (report["transactions"], report["why"]))
        self.assertEqual(before, self.epoch())
        alone = self.rack.coordinator()
        self.assert_fails(self.rack.run("recover", "--yes", "--endpoint",
                                        alone.endpoint), "etcd")


class OutOfSpace(RecoveryTest):
    def setUp(self):
        super().setUp()
        for m in self.etcd.members:
            m.options = ("--quota-backend-bytes", str(8 << 20))

    def fill(self):
        """Until it refuses; what is in the way is history."""
        block = os.urandom(1 << 20)
        for _ in range(64):
            try:
                self.etcd.put("/another/key", block)
            except AssertionError:
                return
        self.fail("etcd took everything")

    def test_out_of_space(self):
        self.start_all()
        self.fill()
        refused = self.rack.run("drain", "three", "--endpoint",
                                self.asked[0].endpoint)
        self.assert_fails(refused, "space")
        for c in self.asked[:1]:
            self.rack.wait_status(c, lambda s: s["etcd"]["no_space"] and
                                  "out of space" in s["frozen"],
                                  "the status says so")
        plan = self.recover("--dry-run", asked=self.asked[0])
        self.assertEqual(1, plan["space"]["alarms"])
        self.assertEqual(0, plan["space"]["disarmed"])
        report = self.recover("--yes", asked=self.asked[0])
        self.assertEqual((1, 1, 1), (report["space"]["alarms"],
                                     report["space"]["defragmented"],
                                     report["space"]["disarmed"]))
        self.assertEqual(0, report["transactions"])
        self.rack.wait_status(self.asked[0],
                              lambda s: not s["etcd"]["no_space"] and
                              s["frozen"] == "", "all is well again")
        self.assertEqual(1, self.rack.status(self.asked[0])["incarnation"])
        self.check_it_leads()
        self.check_all_told()


del RecoveryTest  # a base, not a test

if __name__ == "__main__":
    unittest.main()
