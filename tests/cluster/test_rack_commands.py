"""What an operator asks of a rack that organizes itself, and what the commands
answer: drain, top and status.
"""
import json
import re
import signal
import unittest

import rack
from etcd import EtcdTest
from rack import RackTest

PROMPT = "Once upon a time"
UNITS = rack.LAYERS * rack.EXPERTS
EXPERT_BYTES = 3 * 256 * 256 * 34 // 32  # of the story model, as stored


class Asking(EtcdTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        alone = rack.Rack()
        cls.addClassCleanup(alone.close)
        cls.story = alone.generate(alone.coordinator(), PROMPT)
        alone.finish()

    def ask(self, *arguments):
        return self.rack.run(*arguments, "--endpoint", self.asked.endpoint)

    def start_one_holder(self):
        """Two nodes with room for little more than half of the experts each:
        every unit has a single holder."""
        self.etcd.start()
        room = UNITS * EXPERT_BYTES * 6 // 10
        self.nodes = {n: self.start_rack_node("--memory", room, name=n)
                      for n in ("one", "two")}
        self.asked = self.start_rack_coordinator("--no-local-experts",
                                                 name="c1")
        self.asked.wait_ready()
        return self.wait_placed(self.asked, ("one", "two"))


class Drain(Asking):
    def test_a_drained_node_is_empty_until_that_is_undone(self):
        (self.asked,) = self.start_rack()
        result = self.ask("drain", "two", "--wait")
        self.assertEqual((0, ""), (result.status, result.text), result.err)
        told = self.of_node(self.asked, "two")
        self.assertEqual((0, 0, 0, True), tuple(
            told[k] for k in ("held", "assigned", "resident_bytes",
                              "draining")))
        self.assertEqual("c1", self.document("drain", "two")["by"])
        # Once more is no mistake, and is over at once.
        self.drain(self.asked, "two", "--wait")
        self.assertRegex(self.ask("status").text, r"two .*draining")
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))

        self.drain(self.asked, "two", "--undo")
        self.wait_placed(self.asked, ("one", "two"))
        told = self.of_node(self.asked, "two")
        self.assertEqual((UNITS, False), (told["held"], told["draining"]))
        self.assertIsNone(self.etcd.get(self.key("drain", "two")))
        self.drain(self.asked, "two", "--undo")  # nor is this
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))

    def test_what_is_undone_at_once_leads_nobody_astray(self):
        """A node that gave its units up and has to load them again is not
        asked for them meanwhile, by no coordinator."""
        both = self.start_rack(coordinators=("c1", "c2"))
        teller = self.tell_on(both, self.story)
        for _ in range(4):
            self.drain(both[0], "two", "--wait")
            self.drain(both[0], "two", "--undo")
            self.wait_placed(both[0], ("one", "two"))
        teller.finish()
        self.assertEqual([], teller.wrong)
        for c in both:
            self.assertEqual(0, self.rack.status(c)["dispatch"]["refusals"])

    def test_the_only_holder_cannot_be_emptied(self):
        self.start_one_holder()
        result = self.ask("drain", "one", "--wait", "--wait-timeout", "2s")
        self.assert_fails(result, "roster drain: ", "not empty within 2 s",
                          "one holds ", " units")
        status = self.wait_placed(self.asked, ("one", "two"))
        self.assertEqual(0, status["placement"]["unplaced"])
        told = self.of_node(self.asked, "one")
        self.assertTrue(told["draining"])
        self.assertGreater(told["held"], 0)
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))
        self.drain(self.asked, "one", "--undo")
        self.wait_placed(self.asked, ("one", "two"))
        self.assertFalse(self.of_node(self.asked, "one")["draining"])

    def test_a_drain_goes_on_when_nobody_waits_for_it_any_more(self):
        """The only holder is emptied as soon as somebody else has room."""
        self.start_one_holder()
        waiting = self.rack.command("drain", "one", "--wait", "--endpoint",
                                    self.asked.endpoint)
        rack.wait_until(lambda: self.document("drain", "one"), "it is asked")
        waiting.signal(signal.SIGINT)
        waiting.wait()
        self.assertEqual(1, waiting.status)
        self.start_rack_node(name="three")
        self.rack.wait_status(
            self.asked, lambda s: any(n["name"] == "one" and n["held"] == 0
                                      for n in s["nodes"]), "one is empty")
        self.wait_placed(self.asked, ("two", "three"))
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))

    def test_what_cannot_be_drained_is_named(self):
        (self.asked,) = self.start_rack()
        for name in ("nobody", "a/b"):
            for undo in ([], ["--undo"]):
                self.assert_fails(self.ask("drain", name, *undo),
                                  "no node or coordinator is called '%s'" %
                                  name)
        self.assert_fails(self.ask("drain", ""), "a name has")
        self.assert_fails(self.ask("drain"), status=2)
        self.assert_fails(self.ask("drain", "one", "--undo", "--wait"),
                          "--undo and --wait", status=2)
        self.assertEqual({}, self.etcd.list(self.key("drain")))

        self.etcd.kill()
        self.rack.wait_status(self.asked,
                              lambda s: not s["etcd"]["connected"],
                              "etcd's absence is noticed")
        self.assert_fails(self.ask("drain", "one"), self.asked.endpoint,
                          "etcd is away")
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))

    def test_a_drain_that_waits_ends_with_its_coordinator(self):
        self.start_one_holder()
        waiting = self.rack.command("drain", "one", "--wait", "--timeout",
                                    "2s", "--endpoint", self.asked.endpoint)
        rack.wait_until(lambda: self.document("drain", "one"), "it is asked")
        self.asked.kill()
        self.assert_fails(waiting.result(), "roster drain: ",
                          self.asked.endpoint)


class DrainOfCoordinators(Asking):
    def state(self, asked, name):
        return next(c["state"] for c in self.rack.status(asked)["coordinators"]
                    if c["name"] == name)

    def check_sent_on(self, drained):
        """It takes nothing new, and who asks it turns to the other one."""
        moved = self.rack.generating(drained, PROMPT, "--stats").result()
        self.assertEqual(0, moved.status, moved.err)
        self.assertEqual(self.story, moved.text)
        self.assertIn("moved to another coordinator", moved.err)

    def test_it_ends_what_it_has_and_leads_no_more(self):
        first, other = self.start_rack(
            coordinators=("c1", "c2"), options=(
                "--no-local-experts", "--park-timeout", "0", "--balance",
                "off", "--replace-after", "600s"))
        leader = self.rack.status(first)["leader"]
        if leader == "c2":
            first, other = other, first
        self.asked = other
        running = self.rack.generating(first, PROMPT, "--ignore-end", n=450)
        running.wait_output()
        for node in self.nodes.values():
            node.stop()  # so that the story is told on for a while
        self.assertEqual(1, self.rack.status(first)["requests"]["active"])
        self.drain(first, leader)
        first.wait_log("drained")
        self.assertEqual("draining", self.state(first, leader))
        self.assertFalse(running.ended())
        for node in self.nodes.values():
            node.go_on()
        self.check_sent_on(first)
        self.drain(other, leader, "--wait")  # the other one knows, too
        self.assertEqual(0, running.wait(), running.err())
        self.assertTrue(running.out().decode().startswith(self.story))

        for asked in (first, other):
            self.rack.wait_status(
                asked, lambda s: s["leader"] not in ("", leader),
                "the other one leads")
            rack.wait_until(lambda a=asked: self.state(a, leader) == "drained",
                            "it is known as drained")
        self.assertEqual(self.story, self.rack.generate(other, PROMPT))
        self.drain(other, "two", "--wait")  # it does lead
        self.assertRegex(self.ask("status").text,
                         r"%s +tcp://\S+ +drained" % leader)

        self.drain(other, leader, "--undo")
        self.rack.wait_status(
            first, lambda s: s["state"] == "up", "it serves again")
        self.assertEqual(self.story, self.rack.generate(first, PROMPT))
        rack.wait_until(lambda: self.state(other, leader) == "up",
                        "the other one hears it")

    def test_the_only_one_takes_the_wish_and_leads_again_after_it(self):
        (self.asked,) = self.start_rack()
        self.drain(self.asked, "c1", "--wait")
        self.assert_fails(self.rack.generating(self.asked, PROMPT).result(),
                          "drained")
        rack.wait_until(lambda: self.document("leader") is None,
                        "nobody leads")
        self.drain(self.asked, "c1", "--undo")
        self.rack.wait_status(self.asked, lambda s: s["leader"] == "c1" and
                              s["state"] == "up", "it leads again")
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))

    def test_one_that_starts_again_is_still_drained(self):
        first, other = self.start_rack(coordinators=("c1", "c2"))
        self.drain(other, "c1", "--wait")
        first.terminate()
        again = self.start_rack_coordinator("--no-local-experts", name="c1")
        again.wait_ready()
        again.wait_log("drained")
        self.check_sent_on(again)


class Top(Asking):
    def pictures_are_counted_and_plain_beyond_a_terminal(self):
        result = self.ask("top", "-n", "2", "--interval", "100ms")
        self.assertEqual((0, ""), (result.status, result.err))
        self.assertNotIn("\033", result.text)
        self.assertEqual(2, result.text.count("NODE "))
        for name in ("one", "two"):
            self.assertEqual(2, len(re.findall(
                r"^%s +up +%d +[\d.]+ MB" % (name, UNITS), result.text,
                re.M)))
        self.assertIn("epoch " + self.epoch(), result.text)
        once = self.ask("top", "--interval", "100ms")
        self.assertEqual((0, ""), (once.status, once.err))
        self.assertEqual(1, once.text.count("NODE "))
        for line in result.text.splitlines() + once.text.splitlines():
            self.assertLessEqual(len(line), 100)

    def objects_are_one_a_line_and_show_the_work(self):
        teller = self.tell_on([self.asked], self.story)
        teller.wait_more()
        shown = self.rack.command("top", "--interval", "500ms", "--json",
                                  "--endpoint", self.asked.endpoint)

        def pictures():
            whole = shown.out().decode().rpartition("\n")[0]
            return [json.loads(line) for line in whole.splitlines()]

        def busy(seen):
            return seen["generated_per_s"] > 0 and all(
                n["pairs_per_s"] > 0 for n in seen["nodes"])

        rack.wait_until(lambda: any(map(busy, pictures())),
                        "a time of work is shown")
        shown.signal(signal.SIGINT)
        result = shown.result()
        teller.finish()
        self.assertEqual((0, ""), (result.status, result.err))
        for seen in pictures():
            self.assertGreaterEqual(seen["seconds"], 0.5)
            self.assertEqual(["one", "two"],
                             sorted(n["name"] for n in seen["nodes"]))
            self.assertTrue(all(n["held"] == UNITS for n in seen["nodes"]))
        self.assertEqual(3, len(self.ask(
            "top", "-n", "3", "--interval", "100ms",
            "--json").text.splitlines()))

    def an_interrupt_is_its_end(self):
        """Which is well unless a number of pictures was asked for."""
        for options, status in ((["--json"], 0), (["-n", "1000"], 1)):
            shown = self.rack.command("top", "--interval", "100ms", *options,
                                      "--endpoint", self.asked.endpoint)
            shown.wait_output()
            shown.signal(signal.SIGINT)
            self.assertEqual(status, shown.result().status)

    def wrong_usage_is_said(self):
        self.assert_fails(self.ask("top", "--interval", "99ms"), "--interval",
                          status=2)
        self.assert_fails(self.ask("top", "one"), status=2)

    def ends_with_its_coordinator(self, end):
        shown = self.rack.command("top", "-n", "0", "--interval", "100ms",
                                  "--timeout", "2s", "--endpoint",
                                  self.asked.endpoint)
        shown.wait_output()
        end()
        self.assert_fails(shown.result(), "roster top: ", self.asked.endpoint)

    def test_what_it_shows_and_how_it_ends(self):
        (self.asked,) = self.start_rack()
        self.pictures_are_counted_and_plain_beyond_a_terminal()
        self.objects_are_one_a_line_and_show_the_work()
        self.an_interrupt_is_its_end()
        self.wrong_usage_is_said()
        self.ends_with_its_coordinator(self.asked.terminate)
        self.asked = self.start_rack_coordinator("--no-local-experts",
                                                 name="c1")
        self.asked.wait_ready()
        self.ends_with_its_coordinator(self.asked.kill)


class Status(Asking):
    def test_a_rack_that_survives_says_so(self):
        (self.asked,) = self.start_rack(nodes=("one", "two", "three"),
                                        options=("--slices", "2"))
        placement = self.rack.status(self.asked)["placement"]
        self.assertEqual((2 * UNITS, 0, 0, 0, True, 0), tuple(
            placement[k] for k in ("units", "unplaced", "single", "moving",
                                   "survives_largest", "lost_units")))
        text = self.ask("status").text
        for pattern in (
                r"^cluster +roster$", r"^model +stories-moe$",
                r"^epoch +%s$" % re.escape(self.epoch()),
                r"^etcd +%s, revision \d+, the leader is c1$" %
                re.escape(self.etcd.urls),
                r"^placement +%d units, 2 replicas wanted: 0 with one holder, "
                r"0 with none, 0 on the move$" % (2 * UNITS),
                r"^lost node +any one may be lost, the largest too$",
                r"^c1 +%s +up +leads$" % re.escape(self.asked.endpoint),
                r"^one +tcp://\S+ +up ", r"^three +tcp://\S+ +up "):
            self.assertRegex(text, re.compile(pattern, re.M))
        self.assertNotIn("LAYER", text)
        self.etcd.kill()
        self.rack.wait_status(self.asked,
                              lambda s: not s["etcd"]["connected"],
                              "etcd's absence is noticed")
        self.assertRegex(self.ask("status").text,
                         r"etcd +away; the last placement stays: \S+")

    def test_layers_are_shown_when_asked_for(self):
        """And who holds what of each: with two nodes and two replicas, both
        hold all."""
        (self.asked,) = self.start_rack()
        table = self.ask("status", "--layers").text.split("LAYER")[1]
        rows = [line.split() for line in table.splitlines()[1:] if line]
        layers = [row for row in rows if "to" in row]
        self.assertEqual([[str(i), "1", str(rack.EXPERTS), "2", "to", "2"]
                          for i in range(rack.LAYERS)],
                         [row[:6] for row in layers])
        held = [row for row in rows if "to" not in row]
        # Nodes stand in the order in which they were met.
        for i in range(rack.LAYERS):
            self.assertEqual([[n, "0-%d" % (rack.EXPERTS - 1)]
                              for n in ("one", "two")],
                             sorted(held[2 * i:2 * i + 2]))
        self.assertEqual(2 * rack.LAYERS, len(held))
        layers = self.rack.status(self.asked)["layers"]
        self.assertEqual(rack.LAYERS, len(layers))

    def test_a_rack_that_would_not_survive_names_its_weakest(self):
        """And when it is lost, what it held is missed."""
        placement = self.start_one_holder()["placement"]
        self.assertFalse(placement["survives_largest"])
        weakest = placement["weakest"]
        self.assertIn(weakest, ("one", "two"))
        lost = placement["lost_units"]
        self.assertGreater(lost, 0)
        self.assertLessEqual(lost, self.of_node(self.asked, weakest)["held"])
        self.assertRegex(self.ask("status").text,
                         r"lost node +%d of the units would have no holder "
                         r"without %s\n" % (lost, weakest))

        self.nodes[weakest].kill()
        status = self.rack.wait_status(
            self.asked, lambda s: any(
                n["name"] == weakest and not n["registered"] for n in
                s["nodes"]), "its absence is known")
        told = next(n for n in status["nodes"] if n["name"] == weakest)
        self.assertTrue(told["missing"])
        self.assertNotEqual("up", told["state"])
        self.assertRegex(self.ask("status").text,
                         r"%s .*not registered" % weakest)
        self.assert_fails(
            self.rack.generating(self.asked, PROMPT, "--timeout",
                                 "1s").result(), "expert")


class Static(RackTest):
    """A fixed list of nodes has no etcd, and still has a status."""

    def test_nobody_can_be_drained(self):
        asked = self.rack.coordinator(self.rack.nodes(2))
        for name in ("node-0", "coordinator", "nobody"):
            self.assert_fails(
                self.rack.run("drain", name, "--endpoint", asked.endpoint),
                asked.endpoint, "no etcd is configured", "fixed list")
        self.assertNotEqual("", self.rack.generate(asked, PROMPT))

    def test_the_loss_of_a_node_is_foreseen(self):
        for replicas, survives in ((1, False), (2, True)):
            nodes = self.rack.nodes(2, replicas)
            asked = self.rack.coordinator(nodes, "--no-local-experts")
            placement = self.rack.status(asked)["placement"]
            self.assertEqual(survives, placement["survives_largest"])
            text = self.rack.run("status", "--layers", "--endpoint",
                                 asked.endpoint).text
            self.assertIn("any one may be lost" if survives else
                          "would have no holder", text)
            self.assertIn("%d to %d" % (replicas, replicas), text)
            top = self.rack.run("top", "-n", "1", "--interval", "100ms",
                                "--endpoint", asked.endpoint)
            self.assertEqual((0, ""), (top.status, top.err))


del Asking  # a base, not a test

if __name__ == "__main__":
    unittest.main()
