"""Faults do not hang and change no token: nodes, clients and coordinators are
killed and stopped at every place of a batch's way.

What a takeover by a replica must show is asserted with --no-local-experts, so
that nobody else can have computed the experts.
"""
import signal
import time
import unittest

import rack
from rack import RackTest

PROMPT = "Once upon a time"
LONG = 440  # tokens; a story that is still told while something happens
BEFORE_ANSWER = ("node.receive", "node.compute", "node.reply",
                 "link.send.half")
MID_STORY = 60  # visits: 6 layers a token
TELLINGS = 100  # at most, until the node that is to fail was asked


class NodeFaults(RackTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        alone = rack.Rack()
        cls.addClassCleanup(alone.close)
        cls.story = alone.generate(alone.coordinator(), PROMPT)
        alone.finish()

    def check_hit(self, node, action):
        if action == "kill":
            node.expects = (-signal.SIGKILL,)
            node.wait()
            self.assertEqual(-signal.SIGKILL, node.status)
        else:
            rack.wait_until(node.stopped, "the failpoint stops the node")

    def replica_takes_over(self, place, action, n_nodes, victim):
        spec = "%s=%s@%d" % (place, action, MID_STORY)
        nodes = self.rack.nodes(n_nodes, replicas=2,
                                envs={victim: {"ROSTER_FAILPOINTS": spec}})
        # Who is asked to compare would be hit without being needed.
        asked = self.rack.coordinator(nodes, "--no-local-experts",
                                      "--cross-check", "0")
        # Nodes are chosen by their speed: tell stories until it is hit.
        for _ in range(TELLINGS):
            self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
            if nodes[victim].ended() or nodes[victim].stopped():
                break
        self.check_hit(nodes[victim], action)
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        dispatch = self.rack.status(asked)["dispatch"]
        if place in BEFORE_ANSWER:
            self.assertGreater(dispatch["takeover_pairs"], 0)
        self.assertEqual(0, dispatch["takeover_local"])
        self.assertEqual(0, dispatch["local_pairs"])
        self.assertEqual(0, dispatch["lost_pairs"])

    def coordinator_takes_over(self, action):
        spec = "node.compute=%s@%d" % (action, MID_STORY)
        nodes = self.rack.nodes(2, envs={1: {"ROSTER_FAILPOINTS": spec}})
        asked = self.rack.coordinator(nodes, "--cross-check", "0")
        # A node that is slow is helped before it is hit.
        for _ in range(TELLINGS):
            self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
            if nodes[1].ended() or nodes[1].stopped():
                break
        self.check_hit(nodes[1], action)
        dispatch = self.rack.status(asked)["dispatch"]
        self.assertGreater(dispatch["takeover_local"], 0)
        self.assertEqual(0, dispatch["lost_pairs"])

    def nobody_takes_over(self, action, of_request=True):
        seconds = 3 * rack.SLOWER
        limit = ["--timeout", "%ds" % seconds]
        spec = "node.compute=%s@%d" % (action, MID_STORY)
        nodes = self.rack.nodes(2, envs={0: {"ROSTER_FAILPOINTS": spec}})
        asked = self.rack.coordinator(nodes, "--no-local-experts",
                                      *([] if of_request else limit))
        soon = self.soon(asked)
        story = self.rack.command("generate", PROMPT, "--endpoint",
                                  asked.endpoint, "-n", 64, "--temp", 0,
                                  *(limit if of_request else []))
        self.check_hit(nodes[0], action)
        hit = time.monotonic()
        result = story.result()
        self.assertLess(time.monotonic() - hit, seconds + soon)
        self.assert_fails(result, "roster generate: ", "layer", "expert")
        # The coordinator serves on, and says what is missing.
        status = self.rack.status(asked)
        self.assertEqual(1, status["requests"]["failed"])
        self.assertGreater(status["coverage"]["unheld"], 0)

    def test_the_coordinators_deadline_holds_for_who_names_none(self):
        self.nobody_takes_over("stop", of_request=False)

    def test_a_restarted_node_is_used_again(self):
        nodes = self.rack.nodes(2, replicas=2)
        asked = self.rack.coordinator(nodes, "--no-local-experts")
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        nodes[0].kill()
        self.rack.wait_node(asked, nodes[0], "down")
        again = self.rack.node("--share", "0/1", listen=nodes[0].endpoint)
        self.assertEqual(nodes[0].endpoint, again.endpoint)
        self.rack.wait_node(asked, again, "up")
        nodes[1].kill()  # every batch from here on is the new one's
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        self.rack.wait_status(
            asked, lambda s: s["nodes"][0]["batches"] >= rack.LAYERS * 64,
            "the new node counts its batches")

    def test_a_restarted_node_serves_what_only_it_holds(self):
        nodes = self.rack.nodes(2)
        asked = self.rack.coordinator(nodes, "--no-local-experts",
                                      "--park-timeout", "0")
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        nodes[0].kill()
        self.rack.wait_node(asked, nodes[0], "down")
        waiting = self.rack.generating(asked, PROMPT)
        self.rack.wait_status(asked, lambda s: s["requests"]["parked"] == 1,
                              "the story waits for the node")
        again = self.rack.node("--share", "0/2", listen=nodes[0].endpoint)
        result = waiting.result()
        self.assertEqual((0, self.story), (result.status, result.text), result.err)
        self.rack.wait_status(asked, lambda s: s["nodes"][0]["batches"] > 0,
                              "the new node counts its batches")

    def test_a_node_that_goes_on_is_used_again(self):
        nodes = self.rack.nodes(2)
        asked = self.rack.coordinator(nodes)
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        nodes[1].stop()
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        self.rack.wait_node(asked, nodes[1], "down")
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))

        nodes[1].go_on()
        self.rack.wait_node(asked, nodes[1], "up")
        before = self.rack.node_status(asked, nodes[1])["batches"]

        def computes():
            self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
            return self.rack.node_status(asked, nodes[1])["batches"] > before

        rack.wait_until(computes, "it computes again")
        self.assertEqual(0, self.rack.status(asked)["dispatch"]["lost_pairs"])

    def test_a_short_stop_in_mid_reply_changes_nothing(self):
        """What was half sent when it stopped arrives cut off, afterwards."""
        spec = {0: {"ROSTER_FAILPOINTS": "link.send.half=stop@%d" % MID_STORY}}
        nodes = self.rack.nodes(2, envs=spec)
        asked = self.rack.coordinator(nodes)
        story = self.rack.generating(asked, PROMPT)
        self.check_hit(nodes[0], "stop")
        nodes[0].go_on()
        result = story.result()
        self.assertEqual(0, result.status, result.err)
        self.assertEqual(self.story, result.text)
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))

    def test_a_slow_node_is_waited_for(self):
        """Each layer of the prompt takes it longer than a pair's patience, but
        it lives: its answers are used, and not asked for again and again."""
        model = rack.make_model(
            self.rack.folder, layers=2, width=512, heads=8, kv_heads=2,
            head_dim=64, expert_width=1024, experts=4, context=256)
        node = self.rack.node(model=model, env={"ROSTER_CPU": "scalar"})
        asked = self.rack.coordinator([node], "--no-local-experts",
                                      model=model)

        def seconds(letters):
            began = time.monotonic()
            self.rack.generate(asked, "x" * letters, n=1)
            return time.monotonic() - began

        # About two seconds a layer, on this computer as busy as it is.
        letters = int(2 * 2 * 4 / seconds(4))
        seconds(min(200, max(4, letters)))
        dispatch = self.rack.status(asked)["dispatch"]
        self.assertEqual(0, dispatch["refusals"])

    def test_nodes_that_refuse_and_swallow_batches_change_nothing(self):
        envs = {0: {"ROSTER_FAILPOINTS": "node.receive=fail@100"},
                1: {"ROSTER_FAILPOINTS": "node.reply=fail@150"}}
        asked = self.rack.coordinator(self.rack.nodes(3, envs=envs))

        def taken_over():
            self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
            return self.rack.status(asked)["dispatch"]["takeover_local"] > 0

        rack.wait_until(taken_over, "something is computed instead of them")

    def test_what_nobody_holds_is_an_error_within_five_seconds(self):
        spec = "node.compute=kill@%d" % MID_STORY
        nodes = self.rack.nodes(2, envs={0: {"ROSTER_FAILPOINTS": spec}})
        asked = self.rack.coordinator(nodes, "--no-local-experts")
        soon = self.soon(asked)
        story = self.rack.generating(asked, PROMPT)
        self.check_hit(nodes[0], "kill")
        killed = time.monotonic()
        result = story.result()
        self.assertLess(time.monotonic() - killed, 3.5 + soon)
        self.assert_fails(result, "roster generate: ", "layer", "expert")


class Trust(RackTest):
    """Nodes that crash again and again, or whose bits are not those of others,
    are asked for nothing that others hold."""

    def setUp(self):
        super().setUp()
        alone = self.rack.coordinator()
        self.story = self.rack.generate(alone, PROMPT)
        alone.terminate()

    def quarantine(self, asked, node):
        return self.rack.node_status(asked, node)["quarantine"]

    def tell_until(self, asked, condition, what):
        """Stories, so that nodes have something to do."""
        def told():
            self.rack.generate(asked, PROMPT)
            return condition()

        return rack.wait_until(told, what)

    def flipping(self, n_nodes, *options):
        """All nodes hold all experts; the bits of the second one flip from some
        answer on."""
        spec = {1: {"ROSTER_FAILPOINTS": "node.flip=fail@%d" % MID_STORY}}
        nodes = self.rack.nodes(n_nodes, replicas=n_nodes, envs=spec)
        asked = self.rack.coordinator(nodes, "--cross-check", 20, *options)
        return nodes, asked

    def check_convicted(self, nodes, asked):
        found = self.tell_until(asked,
                                lambda: self.quarantine(asked, nodes[1]),
                                "the node that differs is found")
        self.assertRegex(found["reason"], r"differs: layer \d+ expert \d+")
        self.assertEqual(-1, found["left_s"])
        asked.wait_log("differs: layer")
        for node in nodes[:1] + nodes[2:]:
            self.assertIsNone(self.quarantine(asked, node))
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        before = self.rack.node_status(asked, nodes[1])["pairs_used"]
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        after = self.rack.node_status(asked, nodes[1])["pairs_used"]
        self.assertEqual(before, after)

    def test_a_third_holder_says_who_is_wrong(self):
        nodes, asked = self.flipping(3, "--no-local-experts")
        self.check_convicted(nodes, asked)
        # A new process is as good as any.
        nodes[1].kill()
        again = self.rack.node("--share", "1/3x3", listen=nodes[1].endpoint)
        self.rack.wait_node(asked, again, "up")
        rack.wait_until(lambda: self.quarantine(asked, again) is None,
                        "it is trusted again")

    def test_the_coordinators_file_says_who_is_wrong(self):
        nodes, asked = self.flipping(2)
        self.check_convicted(nodes, asked)

    def test_both_are_named_if_nobody_can_say_who_is_wrong(self):
        nodes, asked = self.flipping(2, "--no-local-experts")
        last = self.tell_until(
            asked, lambda: self.rack.status(asked)["cross_check"]["last"],
            "the difference is found")
        for node in nodes:
            name = self.rack.node_status(asked, node)["name"]
            self.assertIn(name, last)
            self.assertIsNone(self.quarantine(asked, node))
        checks = self.rack.status(asked)["cross_check"]
        self.assertGreater(checks["undecided"], 0)

    def test_replicas_agree(self):
        nodes = self.rack.nodes(2, replicas=2)
        asked = self.rack.coordinator(nodes, "--no-local-experts",
                                      "--cross-check", 10)
        checks = self.tell_until(
            asked, lambda: (lambda c: c if c["agreed"] > 10 else None)(
                self.rack.status(asked)["cross_check"]), "some are compared")
        self.assertEqual(0, checks["differed"])
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))

    def test_a_node_that_keeps_crashing_is_asked_last(self):
        nodes = self.rack.nodes(2, replicas=2)
        asked = self.rack.coordinator(nodes, "--no-local-experts")

        def crash():
            nodes[0].kill()
            self.rack.wait_node(asked, nodes[0], "down")
            nodes[0] = self.rack.node("--share", "0/2x2",
                                      listen=nodes[0].endpoint)
            self.rack.wait_node(asked, nodes[0], "up")
            return self.quarantine(asked, nodes[0])

        self.rack.wait_node(asked, nodes[0], "up")
        self.assertIsNone(crash())
        self.assertIsNone(crash())
        # The third within a minute, which may be over on a busy computer.
        found = rack.wait_until(crash, "it is in quarantine")
        self.assertIn("3 times", found["reason"])
        self.assertGreater(found["left_s"], 0)
        before = self.rack.node_status(asked, nodes[0])["pairs_used"]
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))
        after = self.rack.node_status(asked, nodes[0])
        if after["quarantine"] is not None:  # still, or what was told is late
            self.assertEqual(before, after["pairs_used"])
        nodes[1].kill()  # but it is better than nobody
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT))


def add(name, function, *arguments):
    setattr(NodeFaults, "test_" + name, lambda self: function(self, *arguments))


for number, (place, action) in enumerate(
        (place, action) for place in BEFORE_ANSWER + ("link.send.sent",)
        for action in ("kill", "stop")):
    if rack.QUICK and number % 4 in (0, 3):
        continue
    victim, n_nodes = ((0, 2), (1, 3))[number // 2 % 2]
    add("replica_takes_over_%s_%s" % (action, place.replace(".", "_")),
        NodeFaults.replica_takes_over, place, action, n_nodes, victim)
for action in ("kill", "stop"):
    add("coordinator_takes_over_" + action, NodeFaults.coordinator_takes_over,
        action)
    add("nobody_takes_over_" + action, NodeFaults.nobody_takes_over, action)


class ClientFaults(RackTest):
    def setUp(self):
        super().setUp()
        self.nodes = self.rack.nodes(2)
        self.asked = self.rack.coordinator(self.nodes)
        self.story = self.rack.generate(self.asked, PROMPT)

    def long_story(self, coordinator=None, *how):
        """Being streamed."""
        told = self.rack.generating(coordinator or self.asked, "The big dog",
                                    "--ignore-end", *how, n=LONG)
        told.wait_output()
        return told

    def test_a_stopped_client_does_not_stop_others(self):
        slow = self.long_story()
        slow.stop()
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))
        slow.go_on()
        result = slow.result()
        alone = self.rack.generate(self.asked, "The big dog", "--ignore-end",
                                   n=LONG)
        if result.status == 0:
            self.assertEqual(alone, result.text)
        else:  # it was stopped for longer than heartbeats wait
            self.assertTrue(alone.startswith(result.text))
            self.assertTrue(result.last.startswith("roster generate: "))

    def test_a_client_that_stays_stopped_is_forgotten(self):
        slow = self.long_story()
        slow.stop()
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))
        self.rack.wait_status(self.asked,
                              lambda s: s["requests"]["active"] == 0,
                              "nothing runs for the stopped client")
        slow.kill()

    def test_a_killed_clients_request_is_cancelled(self):
        gone, stays = self.long_story(), self.long_story()
        gone.kill()
        status = self.rack.wait_status(
            self.asked, lambda s: s["requests"]["cancelled"] == 1,
            "its request is cancelled")
        self.assertEqual(0, status["requests"]["failed"])
        result = stays.result()
        self.assertEqual(0, result.status, result.err)
        self.assertEqual(result.text, self.long_story().result().text)
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))

    def test_an_interrupted_client_cancels_and_says_so(self):
        for number, word in ((signal.SIGINT, "interrupted"),
                             (signal.SIGTERM, "interrupted")):
            told = self.long_story()
            told.signal(number)
            self.assert_fails(told.result(), word)
        self.rack.wait_status(self.asked,
                              lambda s: s["requests"]["cancelled"] == 2,
                              "both requests are cancelled")

    def test_a_stopped_coordinator_does_not_stop_another(self):
        other = self.rack.coordinator(self.nodes)
        here, there = self.long_story(), self.long_story(other)
        self.asked.stop()
        result = there.result()
        self.assertEqual(0, result.status, result.err)
        self.assertEqual(self.story, self.rack.generate(other, PROMPT))
        self.asked.go_on()
        ended = here.result()
        if ended.status == 0:
            self.assertEqual(result.text, ended.text)
        else:
            self.assertTrue(result.text.startswith(ended.text))

    def test_a_killed_coordinator_does_not_stop_another(self):
        other = self.rack.coordinator(self.nodes)
        there = self.long_story(other)
        here = self.long_story(self.asked, "--timeout", "5s")
        self.asked.kill()
        lost, told = here.result(), there.result()
        self.assert_fails(lost, "roster generate: ", self.asked.endpoint)
        self.assertEqual(0, told.status, told.err)
        self.assertTrue(told.text.startswith(lost.text))
        self.assertEqual(self.story, self.rack.generate(other, PROMPT))

    def test_a_client_says_that_nobody_listens(self):
        self.assertEqual(0, self.asked.terminate())
        result = self.rack.generating(self.asked, PROMPT, "--timeout",
                                      "2s").result()
        self.assert_fails(result, self.asked.endpoint)


if __name__ == "__main__":
    unittest.main()
