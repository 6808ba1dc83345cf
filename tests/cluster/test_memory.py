"""A node holds what it was given: its memory, read from /proc, is at most its
experts' bytes x 1.1 + 64 MB; and it holds the experts that its command line says.
"""
import os
import unittest

import rack
from rack import RackTest

SPARE = 64 * 10**6
Q8_0_BYTES = 34 / 32  # of a weight
PROMPT_TOKENS = 256
WIDE = dict(layers=2, width=1024, heads=8, kv_heads=2, head_dim=128,
            expert_width=2048, experts=16, used=2, vocab=259, context=512,
            type="q8_0")


def expert_bytes(width, expert_width):
    return int(3 * width * expert_width * Q8_0_BYTES)


class Memory(RackTest):
    def setUp(self):
        if rack.SANITIZED:
            rack.skip("memory of nodes: sanitizers need much of their own")
        super().setUp()

    def check(self, node, held_bytes, when):
        resident = rack.resident_bytes(node.pid)
        self.assertLessEqual(resident, 1.1 * held_bytes + SPARE,
                             "%s %s" % (node.name, when))
        self.assertGreater(resident, held_bytes, "experts are not in memory")

    def serve(self, asked, prompt):
        """A prompt of many tokens and a short story."""
        result = self.rack.generating(asked, prompt, "--stats", n=8).result()
        self.assertEqual(0, result.status, result.err)
        tokens = int(result.err.split("prompt")[1].split()[0])
        self.assertGreaterEqual(tokens, PROMPT_TOKENS)

    def shares(self, n_nodes, layers, each_bytes, prompt):
        nodes = self.rack.nodes(n_nodes)
        held = [each_bytes * rack.share_count(i, n_nodes, 1, layers)
                for i in range(n_nodes)]
        for node, its_bytes in zip(nodes, held):
            self.check(node, its_bytes, "after loading")
        asked = self.rack.coordinator(nodes, "--no-local-experts")
        for _ in range(3):
            self.serve(asked, prompt)
        for node, its_bytes in zip(nodes, held):
            self.check(node, its_bytes, "after serving")
            told = self.rack.node_status(asked, node)["resident_bytes"]
            self.assertAlmostEqual(its_bytes, told, delta=0.1 * its_bytes)

    def test_shares_of_the_story_model(self):
        each = expert_bytes(256, 256)
        words = "Once upon a time there was a little girl. " * 30
        for n in (1, 2, 4):
            self.shares(n, rack.LAYERS, each, words)

    def test_shares_of_a_model_of_real_widths(self):
        self.rack.model = rack.make_model(self.rack.folder, **WIDE)
        each = expert_bytes(WIDE["width"], WIDE["expert_width"])
        self.assertGreater(os.path.getsize(self.rack.model),
                           32 * each)  # else the test shows nothing
        for n in (2, 4):
            self.shares(n, WIDE["layers"], each, "word " * 60)
            self.rack.finish()


class Holdings(RackTest):
    def held(self, nodes):
        asked = self.rack.coordinator(nodes)
        status = self.rack.status(asked)
        self.assertEqual({"up"}, {n["state"] for n in status["nodes"]})
        return [n["experts"] for n in status["nodes"]], status["coverage"]

    def test_shares_follow_their_rule(self):
        every = rack.LAYERS * rack.EXPERTS
        for n, replicas in ((2, 1), (3, 1), (3, 2), (4, 3), (2, 2)):
            counts, coverage = self.held(self.rack.nodes(n, replicas))
            self.assertEqual([rack.share_count(i, n, replicas)
                              for i in range(n)], counts)
            self.assertEqual({"experts": every, "unheld": 0,
                              "single": every if replicas == 1 else 0},
                             coverage)

    def test_two_shares_are_different_experts(self):
        """Twice the same half leaves the other half unheld."""
        same = [self.rack.node("--share", "0/2") for _ in range(2)]
        counts, coverage = self.held(same)
        self.assertEqual([48, 48], counts)
        self.assertEqual((48, 0), (coverage["unheld"], coverage["single"]))

    def test_experts_are_held_as_listed(self):
        nodes = [self.rack.node("--experts", spec)
                 for spec in ("*:0-7", "0-2,5:8-15;3:*", "4:9")]
        counts, coverage = self.held(nodes)
        self.assertEqual([48, 48, 1], counts)
        # 3:0-7 is held twice; of layer 4 only 0-7 and 9 are held at all.
        self.assertEqual({"experts": 96, "unheld": 7, "single": 81}, coverage)

    def test_a_node_without_a_list_holds_all(self):
        counts, coverage = self.held([self.rack.node()])
        self.assertEqual([96], counts)
        self.assertEqual(0, coverage["unheld"])


if __name__ == "__main__":
    unittest.main()
