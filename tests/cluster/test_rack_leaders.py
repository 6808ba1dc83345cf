"""Two coordinators, and only one of them writes placements: the leader is stopped
just before it writes, sleeps past its lease while the other one leads and writes,
and goes on with its write, which must not count.

The judge is etcd itself: every revision of placement/epoch is read, and each must
be the successor of the one before, written in the term of the leader key that stood
then.  ROSTER_SOAK=1 (`make soak-leaders`) does it ROSTER_SOAK_TIMES (50) times.
"""
import datetime
import json
import os
import unittest

import planted
import rack
from etcd import EtcdTest

SOAK = bool(os.environ.get("ROSTER_SOAK"))
TIMES = int(os.environ.get("ROSTER_SOAK_TIMES", "50")) if SOAK else 2
TTL = "6s" if rack.SANITIZED else "3s"  # it must not run out by chance


class Leaders(EtcdTest):
    def setUp(self):
        super().setUp()
        self.etcd.start()
        self.n = 0
        self.drained = False
        for n in ("one", "two", "three"):
            self.start_rack_node("--etcd-ttl", TTL, name=n)
        self.awake = self.start_leader("awake")
        self.awake.wait_ready()
        self.wait_placed(self.awake, ("one", "two", "three"))

    def start_leader(self, name, **how):
        return self.start_rack_coordinator(
            "--etcd-ttl", TTL, "--replace-after", "60s", "--balance", "off",
            name=name, **how)

    def leads(self, program):
        found = self.document("leader")
        return found and found["name"] == program.rack_name

    def toggle(self):
        """An operator's wish that makes the leader write; straight into etcd,
        since the coordinators are what is tested."""
        key = self.key("drain", "two")
        self.drained = not self.drained
        if self.drained:
            self.etcd.put(key, json.dumps({"by": "test", "at": ""}))
        else:
            self.etcd.delete(key)

    def oversleep(self, meanwhile, program="roster-coordinator"):
        """A leader falls asleep just before it writes.  Its lease runs out, the
        other coordinator leads, and `meanwhile` happens; then the sleeper
        wakes and goes on with its write."""
        self.n += 1
        sleepy = self.start_leader(
            "sleepy-%d" % self.n, program=program,
            env={"ROSTER_FAILPOINTS": "placement.write=stop@1"})
        sleepy.wait_ready()
        self.awake.terminate()  # so that the new one leads
        rack.wait_until(lambda: self.leads(sleepy), "the new one leads")
        self.awake = self.start_leader("awake-%d" % self.n)
        self.awake.wait_ready()
        before = self.epoch()
        self.toggle()
        rack.wait_until(sleepy.stopped, "it is about to write")
        meanwhile(before)
        sleepy.go_on()
        return sleepy

    def the_other_writes(self, before):
        rack.wait_until(lambda: self.leads(self.awake), "the other one leads")
        rack.wait_until(lambda: self.epoch() != before, "the other one writes")

    def the_wish_is_taken_back(self, before):
        """Nobody but the sleeper has anything to write then: what stops it is
        the leader key alone."""
        self.toggle()
        rack.wait_until(lambda: self.leads(self.awake), "the other one leads")
        self.wait_placed(self.awake, ("one", "two", "three")
                         if not self.drained else ("one", "three"))
        self.assertEqual(before, self.epoch())

    def double_writes(self):
        """Sentences; empty if every write was its leader's to make."""
        terms = {revision: term if value is not None else 0
                 for revision, term, value
                 in self.etcd.history(self.key("leader"))}
        wrong, before = [], 0
        for revision, _, value in self.etcd.history(
                self.key("placement", "epoch")):
            if value is None:
                wrong.append("the epoch was deleted at %d" % revision)
                continue
            record = json.loads(value)
            seen = [t for r, t in sorted(terms.items()) if r <= revision]
            if not seen or record["term"] != seen[-1]:
                wrong.append("epoch %d was written in term %d, the leader's "
                             "was %s" % (record["epoch"], record["term"],
                                         seen[-1:]))
            if record["epoch"] != before + 1:
                wrong.append("epoch %d follows %d" % (record["epoch"], before))
            before = record["epoch"]
        return wrong

    def test_a_leader_that_overslept_writes_nothing(self):
        for i in range(TIMES):
            ways = (self.the_other_writes, self.the_wish_is_taken_back)
            sleepy = self.oversleep(ways[i % 2])
            sleepy.wait_log("not written")  # the write was refused, it says so
            self.wait_placed(self.awake, ("one", "three"))
            sleepy.terminate()
        self.assertEqual([], self.double_writes())
        print("record: %s, %d leaders overslept, 0 double writes" %
              (datetime.date.today().isoformat(), TIMES), flush=True)

    def test_without_the_compare_a_double_write_is_seen(self):
        if not planted.NORMAL:
            rack.skip("a planted mistake: the normal build is enough")
        program = "build/roster-coordinator"
        with planted.tree("missing_compare", [program]) as tree:
            before = self.epoch()
            self.oversleep(self.the_wish_is_taken_back,
                           program=os.path.join(tree, program))
            rack.wait_until(lambda: self.epoch() != before,
                            "the sleeper writes, which it must not")
            self.assertNotEqual([], self.double_writes())


if __name__ == "__main__":
    unittest.main()
