"""etcd is not on the way of a token: its members die, lose their quorum, forget
their history and come back, and no request fails; when it is back the rack follows
it again within seconds.

ROSTER_SOAK=1 (`make soak-etcd`) takes ROSTER_SOAK_SECONDS (a minute) for what is
seconds here, holds the rack to 5 s, and prints a record.
"""
import datetime
import os
import time
import unittest

import rack
from etcd import EtcdTest

SOAK = bool(os.environ.get("ROSTER_SOAK"))
AWAY_S = int(os.environ.get("ROSTER_SOAK_SECONDS", "60")) if SOAK else 5
CONVERGE_S = 5 if SOAK else rack.PATIENCE_S  # the figure is printed, too
PROMPT = "Once upon a time"


class EtcdFaults(EtcdTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        alone = rack.Rack()
        cls.addClassCleanup(alone.close)
        cls.story = alone.generate(alone.coordinator(), PROMPT)
        alone.finish()

    def start_all(self):
        # Without balancing: what it moved just now stays for a minute.
        self.asked = self.start_rack(
            nodes=("one", "two", "three"), coordinators=("c1", "c2"),
            options=("--no-local-experts", "--balance", "off"))
        self.teller = self.tell_on(self.asked, self.story)
        self.teller.wait_more(2)
        self.drained = False

    def followed(self):
        """Seconds until a change of now has reached every coordinator: node
        three is drained, or used again, and the placement changes."""
        began = time.monotonic()
        before = self.epoch()
        self.drained = not self.drained
        undo = [] if self.drained else ["--undo"]

        def asked():
            return self.rack.run("drain", "three", *undo, "--endpoint",
                                 self.asked[0].endpoint).status == 0

        rack.wait_until(asked, "a drain is recorded")
        rack.wait_until(lambda: self.epoch() != before, "a new epoch")
        for c in self.asked:
            self.rack.wait_status(
                c, lambda s: s["etcd"]["connected"] and
                s["etcd"]["registered"] and s["epoch"] != before,
                "%s follows" % c.name)
        return time.monotonic() - began

    def check_followed(self, what):
        seconds = self.followed()
        print("record: %s, etcd of %d member%s: %s: followed in %.1f s" %
              (datetime.date.today().isoformat(), self.members,
               "s" if self.members > 1 else "", what, seconds), flush=True)
        self.assertLess(seconds, CONVERGE_S)
        self.teller.wait_more(2)
        self.assertEqual([], self.teller.wrong)

    def check_all_told(self):
        told = self.teller.finish()
        self.assertEqual([], self.teller.wrong)
        for c in self.asked:
            status = self.rack.status(c)
            self.assertEqual(0, status["requests"]["failed"])
            self.assertEqual(0, status["dispatch"]["local_pairs"])
        print("record: %d stories meanwhile, 0 failed" % told, flush=True)

    def restart_with_the_same_data(self):
        self.etcd.kill()
        for c in self.asked:
            self.rack.wait_status(c, lambda s: not s["etcd"]["connected"],
                                  "it is noticed")
        self.teller.wait_more(2)
        time.sleep(AWAY_S)
        self.etcd.start()
        self.check_followed("restarted with the same data after %d s" % AWAY_S)

    def compact_while_watching(self):
        """Also while the watchers cannot look: they have to list anew."""
        self.etcd.compact()
        self.check_followed("compacted")
        for c in self.asked:
            c.stop()
        for _ in range(5):
            self.etcd.put(self.key("other", "key"), "x")
        self.etcd.compact()
        for c in self.asked:
            c.go_on()
        self.check_followed("compacted unseen")


class OneMember(EtcdFaults):
    members = 1

    def test_restart_and_compaction(self):
        self.start_all()
        self.compact_while_watching()
        self.restart_with_the_same_data()
        self.check_all_told()


class ThreeMembers(EtcdFaults):
    members = 3

    def test_members_and_quorum_are_lost(self):
        self.start_all()
        for member in self.etcd.members:
            member.kill()
            self.check_followed("member %s killed" % member.name)
            member.start()
            self.etcd.wait_healthy()
        for member in self.etcd.members[1:]:
            member.kill()
        time.sleep(AWAY_S)
        self.teller.wait_more(2)
        self.etcd.start()
        self.check_followed("quorum lost for %d s" % AWAY_S)
        if SOAK:
            self.compact_while_watching()
            self.restart_with_the_same_data()
        self.check_all_told()


class Wiped(EtcdFaults):
    members = 1

    def test_an_etcd_that_forgot_everything_changes_nothing(self):
        """Serving goes on with the placement that the rack has; nothing is
        re-placed until an operator says so."""
        self.start_all()
        self.etcd.wipe()
        self.etcd.start()
        for c in self.asked:
            self.rack.wait_status(
                c, lambda s: s["etcd"]["connected"] and
                s["etcd"]["rolled_back"], "%s sees it" % c.name)
        self.teller.wait_more(4)
        self.assertIsNone(self.epoch())
        self.check_all_told()


del EtcdFaults  # a base, not a test

if __name__ == "__main__":
    unittest.main()
