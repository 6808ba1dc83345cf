"""Two coordinators, and only one of them writes placements: the leader is stopped
just before it writes, sleeps past its lease while the other one leads and writes,
and goes on with its write, which must not count.

The judge is etcd itself: every revision of placement/epoch is read, and each must
be the successor of the one before, written in the term of the leader key that stood
then.  ROSTER_SOAK=1 (`make soak-leaders`) does it 50 times.
"""
import datetime
import json
import os
import unittest

import rack
from etcd import EtcdTest

SOAK = bool(os.environ.get("ROSTER_SOAK"))
TIMES = 50 if SOAK else 3
TTL = "2s"


class Leaders(EtcdTest):
    program = None  # of the coordinator; None: the one that is built

    def setUp(self):
        super().setUp()
        self.etcd.start()
        self.n = 0
        self.drained = False

    def lead(self, writes):
        """Another coordinator, which stops itself before its `writes`-th
        write."""
        self.n += 1
        program = self.start_rack_coordinator(
            "--etcd-ttl", TTL, "--replace-after", "60s", name="c%d" % self.n,
            env={"ROSTER_FAILPOINTS": "placement.write=stop@%d" % writes})
        program.wait_ready()
        return program

    def leader(self):
        found = self.document("leader")
        return found and found["name"]

    def toggle(self):
        """An operator's wish that makes the leader write; straight into etcd,
        since the coordinators are what is tested."""
        key = self.key("drain", "two")
        self.drained = not self.drained
        if self.drained:
            self.etcd.put(key, json.dumps({"by": "test", "at": ""}))
        else:
            self.etcd.delete(key)

    def double_writes(self):
        """Sentences; empty if every write was its leader's to make."""
        terms = {}  # revision -> create_revision of the leader key at it
        for revision, term, value in self.etcd.history(self.key("leader")):
            terms[revision] = term if value is not None else 0
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

    def sleepy_leaders(self, times):
        """Each time the leader falls asleep before a write; returns how many
        of the late writes were sent."""
        nodes = [self.start_rack_node("--etcd-ttl", TTL, name=n)
                 for n in ("one", "two", "three")]
        awake = self.start_rack_coordinator(
            "--etcd-ttl", TTL, "--replace-after", "60s", name="awake")
        awake.wait_ready()
        self.wait_placed(awake, ("one", "two", "three"))
        for _ in range(times):
            sleepy = self.lead(1)
            # The other one has to be in charge: the one that leads now leaves.
            awake.terminate()
            rack.wait_until(lambda: self.leader() == sleepy.name,
                            "the new one leads")
            awake = self.start_rack_coordinator(
                "--etcd-ttl", TTL, "--replace-after", "60s",
                name="awake-%d" % self.n)
            awake.wait_ready()
            epoch = self.epoch()
            self.toggle()
            rack.wait_until(sleepy.stopped, "it is about to write")
            rack.wait_until(lambda: self.leader() == awake.name,
                            "its lease runs out, the other one leads")
            rack.wait_until(lambda: self.epoch() != epoch,
                            "the other one writes")
            sleepy.go_on()
            sleepy.wait_log("not written")  # its write was refused, and it says so
            self.wait_placed(awake, ("one", "three"))
            sleepy.terminate()
        del nodes

    def test_a_leader_that_overslept_writes_nothing(self):
        self.sleepy_leaders(TIMES)
        self.assertEqual([], self.double_writes())
        print("record: %s, %d leaders overslept, 0 double writes" %
              (datetime.date.today().isoformat(), TIMES), flush=True)


if __name__ == "__main__":
    unittest.main()
