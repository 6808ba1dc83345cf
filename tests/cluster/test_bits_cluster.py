"""The same bits everywhere: the logits of real processes do not depend on nodes,
replicas, slices, placement, threads, chunks or CPU level, also on models of real
widths.  The combinations are drawn by a fixed seed, each option's values about
equally often.
"""
import os
import random
import unittest

import rack
from rack import RackTest

SOAK = bool(os.environ.get("ROSTER_SOAK"))
SEED = 20250
NODES = ((0, 1), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3))
CHUNKS = (0, 1, 3, 7, 16, 33)
THREADS = (1, 2, 3)
SLICES = (1, 2, 4, 8)
CUT_NODES = ((1, 1), (2, 1), (2, 2), (3, 1), (3, 2))


def cpu_levels(wide):
    """What this machine can be told to be; None: what it is.  Sanitized scalar
    kernels take minutes for wide models."""
    with open("/proc/cpuinfo") as f:
        has = f.read()
    return ([None] + ["scalar"] * (not (wide and rack.SANITIZED)) +
            ["avx2"] * ("avx2" in has) + ["avx512"] * ("avx512_vnni" in has))


def random_placement(draw, layers, experts, n_nodes):
    """Each expert of each layer on one node or more: a list for each node."""
    held = [[] for _ in range(n_nodes)]
    for layer in range(layers):
        of = [[] for _ in range(n_nodes)]
        for expert in range(experts):
            for node in draw.sample(range(n_nodes),
                                    draw.randint(1, n_nodes)):
                of[node].append(str(expert))
        for node, its in enumerate(of):
            if its:
                held[node].append("%d:%s" % (layer, ",".join(its)))
    return [";".join(h) for h in held]


def cycles(draw, values, n):
    """n values in random order, each about equally often."""
    values = (list(values) * n)[:max(n, len(values))]
    draw.shuffle(values)
    return values[:n]


class Bits(RackTest):
    def combinations(self, n, layers, experts, seed, wide):
        draw = random.Random(seed)
        for (nodes, replicas), threads, chunk, level, listed in zip(
                cycles(draw, NODES, n), cycles(draw, THREADS, n),
                cycles(draw, CHUNKS, n), cycles(draw, cpu_levels(wide), n),
                cycles(draw, (False, False, True), n)):
            options = ["--nodes", nodes, "--threads", threads, "--chunk", chunk]
            if nodes > 0 and listed:
                for spec in random_placement(draw, layers, experts, nodes):
                    options += ["--experts", spec]
            elif nodes > 0:
                options += ["--replicas", replicas]
            if nodes > 0:
                options += ["--no-local-experts"]
            yield options, {"ROSTER_CPU": level} if level else {}

    def check(self, n, layers, experts, tokens, seed, *common, wide=False):
        expected = self.rack.eval(tokens, "--threads", 1, *common,
                                  routing=True)
        for options, env in self.combinations(n, layers, experts, seed, wide):
            got = self.rack.eval(tokens, *options, *common, routing=True,
                                 env=env)
            self.assertTrue(got == expected, "other bits with %s %s" %
                            (" ".join(map(str, options + list(common))), env))

    def tokens(self, n, vocab):
        draw = random.Random(SEED)
        return [draw.randrange(vocab) for _ in range(n)]

    def test_the_story_model(self):
        self.check(6 if rack.QUICK else 20, rack.LAYERS, rack.EXPERTS,
                   self.tokens(40, rack.VOCAB), SEED)

    def test_the_story_model_with_exact_activations(self):
        self.check(2 if rack.QUICK else 5, rack.LAYERS, rack.EXPERTS,
                   self.tokens(12, rack.VOCAB), SEED + 1, "--exact", "--kv",
                   "f16")

    def test_a_model_of_real_widths(self):
        experts = 4 if rack.QUICK else 8
        self.rack.model = rack.make_model(
            self.rack.folder, layers=2, width=1024, heads=8, kv_heads=2,
            head_dim=128, expert_width=2048, experts=experts, used=2,
            vocab=300, context=256, type="q8_0", arch="qwen3moe")
        self.check(3 if rack.QUICK else 12, 2, experts, self.tokens(24, 300),
                   SEED + 2, wide=True)

    def cuts(self, n, experts, seed, wide):
        """Options of racks whose experts are cut; the first is the one that
        deals the most pieces out unevenly: eight slices on three nodes."""
        draw = random.Random(seed)
        pairs = [(8, (3, 2))] + list(zip(cycles(draw, SLICES, n),
                                         cycles(draw, CUT_NODES, n)))
        for (slices, (nodes, replicas)), threads, level, listed in zip(
                pairs[:n], cycles(draw, THREADS, n),
                cycles(draw, cpu_levels(wide), n),
                cycles(draw, (False, False, False, True), n)):
            options = ["--nodes", nodes, "--slices", slices, "--threads",
                       threads, "--no-local-experts"]
            if listed:
                for spec in random_placement(draw, 2, experts, nodes):
                    options += ["--experts", spec]
            else:
                options += ["--replicas", replicas]
            yield options, {"ROSTER_CPU": level} if level else {}

    def check_cuts(self, kind, n, seed):
        self.rack.model = rack.make_model(
            self.rack.folder, "cut-%s.gguf" % kind, layers=2, width=256,
            heads=4, kv_heads=2, head_dim=64, expert_width=2048, experts=8,
            used=3, vocab=300, context=64, type=kind)
        tokens = self.tokens(20, 300)
        expected = self.rack.eval(tokens, "--nodes", 0, "--threads", 1,
                                  routing=True)
        for options, env in self.cuts(n, 8, seed, wide=True):
            got = self.rack.eval(tokens, *options, routing=True, env=env)
            self.assertTrue(got == expected, "other bits of %s with %s %s" %
                            (kind, " ".join(map(str, options)), env))

    def test_slices_of_every_number_on_every_number_of_nodes(self):
        """Every slice count with every rack, of an expert of width 2,048."""
        self.rack.model = rack.make_model(
            self.rack.folder, layers=1, width=256, heads=4, kv_heads=2,
            head_dim=64, expert_width=2048, experts=4, used=2, vocab=300,
            context=64, type="q4_k")
        tokens = self.tokens(12, 300)
        expected = self.rack.eval(tokens, "--nodes", 0)
        for slices in SLICES:
            for nodes, replicas in ((1, 1), (2, 1), (3, 1), (3, 2)):
                got = self.rack.eval(
                    tokens, "--nodes", nodes, "--replicas", replicas,
                    "--slices", slices, "--no-local-experts")
                self.assertTrue(got == expected, "%d slices, %d nodes, x%d" %
                                (slices, nodes, replicas))

    def test_slices_of_every_format(self):
        kinds = ("q4_k", "q6_k", "q4_0", "q8_0", "q5_k", "bf16", "q2_k",
                 "mxfp4", "iq4_xs")
        for i, kind in enumerate(kinds if SOAK else kinds[:4]):
            n = 20 if SOAK else 2 if rack.QUICK else 3
            self.check_cuts(kind, n, SEED + 10 + i)

    def test_float_weights(self):
        for kind in ("f32", "bf16") if rack.QUICK else ("f32", "f16", "bf16"):
            self.rack.model = rack.make_model(
                self.rack.folder, kind + ".gguf", type=kind, experts=6, used=3)
            self.check(2 if rack.QUICK else 4, 2, 6, self.tokens(40, 259),
                       SEED + 3)

    def test_stories_told_together_by_changing_racks(self):
        """Batches mix as the clients come; nodes and threads differ."""
        asks = [("Once upon a time", 40), ("The big dog", 33), ("Mom", 25),
                ("One day, a little girl named Lily went", 30)]
        told = set()
        for n, replicas, threads in ((0, 1, 1), (2, 1, 2), (3, 2, 1)):
            asked = self.rack.coordinator(
                self.rack.nodes(n, replicas), "--batch-tokens",
                (64, 256)[n % 2], "--kv", "f32", threads=threads)
            asking = [self.rack.generating(asked, p, "--temp", "0.8", "--seed",
                                           "7", n=length)
                      for p, length in asks for _ in range(2)]
            results = [a.result() for a in asking]
            self.assertEqual({0}, {r.status for r in results})
            told.add(tuple(r.text for r in results))
        self.assertEqual(1, len(told))


if __name__ == "__main__":
    unittest.main()
