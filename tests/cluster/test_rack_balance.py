"""Skewed traffic: the heat is seen, the leader (or an operator) gives the hot
experts more holders, the nodes' work becomes even, and no word changes.

The model's routers prefer a few experts of each layer; one of them gets more
than a third of its layer's pairs, so that three nodes cannot be even without a
second holder for it.
"""
import json
import os
import random
import shutil
import string
import subprocess
import tempfile
import threading
import unittest

import rack
from etcd import EtcdTest
from rack import BUILD, RackTest, wait_until

LAYERS, EXPERTS, USED = 3, 8, 2
WIDTH = 256
UNIT_BYTES = 3 * WIDTH * WIDTH * 34 // 32
UNITS = LAYERS * EXPERTS
NODES = ("one", "two", "three")
ROOM = UNITS * UNIT_BYTES * 150 // 100 // len(NODES)
PROMPT = "the quick brown fox"
WORDS = 16  # of the story, in tokens
PROMPTS = 40  # answered for one measurement


def prompts(seed):
    """Different texts without end; every byte is a token of its own."""
    draw = random.Random(seed)
    while True:
        yield "".join(draw.choice(string.ascii_letters + " ,.;")
                      for _ in range(200))


class Traffic:
    """Prompts, from some threads, until it is ended; with a story, the same
    one each time, whose bytes (which need not be text) are compared."""

    def __init__(self, endpoint, threads=2, story=None):
        self.failed, self.told = [], 0
        self._endpoint, self._story = endpoint, story
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,))
                         for i in range(threads)]
        for t in self._threads:
            t.start()

    def _run(self, seed):
        for text in prompts(seed):
            if self._over.is_set():
                return
            words = 2
            if self._story is not None:
                text, words = PROMPT, WORDS
            asked = subprocess.run(
                [os.path.join(BUILD, "roster"), "generate", text, "--endpoint",
                 self._endpoint, "-n", str(words), "--temp", "0",
                 *rack.PATIENT],
                stdin=subprocess.DEVNULL, capture_output=True, check=False)
            with self._lock:
                self.told += 1
                if asked.returncode != 0:
                    self.failed.append(asked.stderr.decode(errors="replace"))
                elif self._story not in (None, asked.stdout):
                    self.failed.append("another story: %r" % asked.stdout)

    def wait_more(self, n):
        told = self.told
        wait_until(lambda: self.told >= told + n, "more prompts are answered")

    def end(self):
        self._over.set()
        for t in self._threads:
            t.join()


class Balance(EtcdTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp(prefix="roster-balance-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.model = rack.make_model(
            cls.folder, layers=LAYERS, width=WIDTH, heads=4, kv_heads=2,
            head_dim=64, expert_width=WIDTH, experts=EXPERTS, used=USED,
            vocab=300, skew="1.6", seed=5)
        alone = rack.Rack(cls.model)
        cls.addClassCleanup(alone.close)
        cls.story = cls.tell(alone, alone.coordinator())
        alone.finish()

    def start(self, *options, coordinators=("c1",)):
        self.etcd.start()
        self.nodes = {n: self.start_rack_node("--memory", ROOM, name=n)
                      for n in NODES}
        asked = [self.start_rack_coordinator(
            "--no-local-experts", "--min-replicas", "1", *options, name=c)
            for c in coordinators]
        for c in asked:
            c.wait_ready()
        for c in asked:
            self.wait_placed(c, NODES)
        return asked

    @staticmethod
    def tell(on, asked):
        told = on.generating(asked, PROMPT, n=WORDS).result()
        if told.status != 0:
            raise AssertionError("no story: " + told.err)
        return told.out

    def traffic(self, asked, **how):
        traffic = Traffic(asked.endpoint, **how)
        self.addCleanup(traffic.end)
        return traffic

    # ---- looking ----

    def measured(self, asked):
        """A status in which the load of late is known."""
        return self.rack.wait_status(
            asked, lambda s: s["balance"]["imbalance"] is not None,
            "the load is measured")

    def rebalance(self, asked, *options):
        result = self.rack.run("rebalance", "--json", *options, "--endpoint",
                               asked.endpoint)
        self.assertEqual(0, result.status, result.err)
        return json.loads(result.out)

    def wait_even(self, asked, before):
        """Until the nodes say that they are more even than they were."""
        return self.rack.wait_status(
            asked, lambda s: s["balance"]["imbalance"] is not None and
            s["balance"]["imbalance"] - 1 < (before - 1) / 2,
            "the work is more even than %g" % before)

    def check_counts(self, asked):
        """The nodes computed what the coordinator asked of them, and a little
        more, to be compared with each other's or because one was late; no
        request failed, though it may have waited for a slow node."""
        def equal(status):
            return all(0 <= n["pairs"] - n["pairs_used"] < n["pairs"] / 10
                       for n in status["nodes"])
        status = self.rack.wait_status(asked, equal, "counters agree")
        self.assertEqual(0, status["requests"]["failed"])

    def wait_replicas_in_use(self, asked):
        """In a layer with an expert of more than a third of the pairs, the
        busiest node would have at least that without a second holder."""
        def proves(layer):
            share = layer["hottest"][0][1] if layer["hottest"] else 0
            return (share > 0.36 and layer["max_holders"] > 1 and
                    layer["imbalance"] < len(NODES) * share)
        self.rack.wait_status(
            asked, lambda s: any(proves(l) for l in s["layers"]),
            "a hot expert's pairs are shared by its holders")

    # ---- tests ----

    def test_the_leader_makes_it_even_and_no_word_changes(self):
        (asked,) = self.start()
        self.assertEqual(self.story, self.tell(self.rack, asked))
        self.assertIsNone(self.rack.status(asked)["balance"]["last"])
        traffic = self.traffic(asked)
        teller = self.traffic(asked, threads=1, story=self.story)
        self.rack.wait_status(
            asked, lambda s: (s["balance"]["last"] or {}).get("reached", 0) > 0,
            "a better placement was reached")
        first = [r for r in asked.err().splitlines() if "rebalancing:" in r]
        self.assertGreater(len(first), 0, asked.err())
        uneven = float(first[0].split("imbalance ")[1].split()[0])
        self.assertGreater(uneven, 1.2)
        status = self.wait_even(asked, uneven)
        self.wait_replicas_in_use(asked)
        self.assertLess(status["balance"]["predicted"], uneven)
        traffic.wait_more(10)
        teller.wait_more(2)
        teller.end()
        traffic.end()
        self.assertEqual(([], []), (teller.failed, traffic.failed))
        self.assertEqual(self.story, self.tell(self.rack, asked))
        self.check_counts(asked)
        for n in self.rack.status(asked)["nodes"]:
            self.assertLessEqual(n["resident_bytes"], ROOM)

    def test_an_operator_may_look_first_and_do_it_then(self):
        (asked,) = self.start("--balance", "off")
        traffic = self.traffic(asked)
        traffic.wait_more(PROMPTS)
        status = self.measured(asked)
        uneven, epoch = status["balance"]["imbalance"], self.epoch()
        self.assertGreater(uneven, 1.2)

        report = self.rebalance(asked, "--dry-run")
        self.assertEqual(("c1", True, False), tuple(
            report[k] for k in ("leader", "dry_run", "started")))
        self.assertLess(report["after"]["imbalance"],
                        report["before"]["imbalance"])
        self.assertGreater(report["added"], 0)
        self.assertEqual(report["added"] * UNIT_BYTES, report["bytes"])
        moves = report["moves"]
        self.assertEqual(report["added"] + report["removed"], len(moves))
        for m in moves:
            self.assertIn(m.get("to", m.get("from")), NODES)
            self.assertLess(m["layer"], LAYERS)
            self.assertLess(m["expert"], EXPERTS)
            self.assertEqual(0, m["slice"])
        text = self.rack.run("rebalance", "--dry-run", "--endpoint",
                             asked.endpoint)
        self.assertRegex(text.text, r"^now +imbalance \d")
        self.assertRegex(text.text, r"layer \d expert \d (to|from) ")
        traffic.wait_more(PROMPTS)
        self.assertEqual(epoch, self.epoch(), "nothing was changed")

        report = self.rebalance(asked, "--wait")
        self.assertTrue(report["started"])
        self.assertNotEqual(epoch, self.epoch())
        self.assertFalse(
            self.rack.status(asked)["balance"]["moves"]["moving"])
        self.wait_even(asked, uneven)
        self.wait_replicas_in_use(asked)
        self.assertEqual(self.story, self.tell(self.rack, asked))
        traffic.end()
        self.assertEqual([], traffic.failed)
        self.check_counts(asked)

    def test_whoever_is_asked_the_leader_answers(self):
        asked = self.start("--balance", "off", coordinators=("c1", "c2"))
        traffic = self.traffic(asked[0])
        traffic.wait_more(PROMPTS)
        names = set()
        for c in asked:
            # Each of them measures all that the nodes do.
            self.assertGreater(self.measured(c)["balance"]["imbalance"], 1.2)
            names.add(self.rebalance(c, "--dry-run")["leader"])
        self.assertEqual({self.rack.status(asked[0])["leader"]}, names)
        traffic.end()


class Fixed(RackTest):
    def test_nodes_of_a_list_keep_what_they_were_told_to_hold(self):
        asked = self.rack.coordinator(self.rack.nodes(2))
        self.assert_fails(
            self.rack.run("rebalance", "--endpoint", asked.endpoint),
            asked.endpoint, "no etcd is configured")
        for wrong in (("--dry-run", "--wait"), ("now",)):
            self.assert_fails(
                self.rack.run("rebalance", *wrong, "--endpoint",
                              asked.endpoint), status=2)


if __name__ == "__main__":
    unittest.main()
