"""`roster perplexity`: the measure of llama-perplexity."""
import array
import math
import os
import re
import unittest

import rack
from rack import RackTest

# llama.cpp's figure for 512, as published with the model.
PUBLISHED = 7.8195
TEXT = """Once upon a time, there was a little dog named Max. Max loved to play
in the park with his friends. One day, he found a big red ball under a tree.
"Look!" said Max. "I have a ball!" His friends ran to him, and they all played
together until the sun went down. Then Max went home and slept in his bed.
"""


def mean_loss(logits, tokens, ctx):
    """-log(probability), over what a window scores."""
    n_vocab = len(logits) // ctx
    for j in range(ctx // 2, ctx - 1):
        row = logits[j * n_vocab:(j + 1) * n_vocab]
        most = max(row)
        total = math.fsum(math.exp(x - most) for x in row)
        yield math.log(total) - (row[tokens[j + 1]] - most)


class Perplexity(RackTest):
    def text(self, content, name="text.txt"):
        path = os.path.join(self.rack.folder, name)
        with open(path, "w") as f:
            f.write(content)
        return path

    def measure(self, path, *options, model=rack.STORIES, seconds=None):
        result = self.rack.command("perplexity", model, path, *rack.PATIENT,
                                   *options).result(seconds)
        self.assertEqual(0, result.status, result.err)
        self.assertEqual("", result.err)  # no progress: this is no terminal
        lines = result.text.splitlines()
        last = re.fullmatch(r"perplexity (\d+\.\d{4})", lines[-1])
        self.assertIsNotNone(last, result.text)
        return float(last.group(1)), lines

    def refused(self, *arguments, words=(), status=1):
        result = self.rack.run("perplexity", *arguments)
        self.assert_fails(result, "roster perplexity: ", *words, status=status)
        self.assertEqual(b"", result.out)

    def test_is_what_the_logits_say(self):
        ctx = 24
        told = self.rack.run("tokenize", rack.STORIES, "--add-special",
                             stdin=TEXT.encode())
        tokens = [int(t) for t in told.out.split()]
        losses = []
        for at in range(0, len(tokens) // ctx * ctx, ctx):
            window = tokens[at:at + ctx]
            logits = array.array("f")
            logits.frombytes(self.rack.eval([0] + window[1:]))
            losses += mean_loss(logits, window, ctx)
        expected = math.exp(math.fsum(losses) / len(losses))
        got, lines = self.measure(self.text(TEXT), "--ctx", ctx, "--kv", "f32")
        self.assertAlmostEqual(expected, got, delta=2e-4)
        self.assertIn("%d windows of 24 tokens, %d tokens scored" %
                      (len(tokens) // ctx, len(losses)), lines[-2])

    def test_is_the_same_through_nodes_and_in_chunks(self):
        path = self.text(TEXT * 2)
        alone = self.measure(path, "--ctx", "64")
        for options in (("--nodes", "2"), ("--chunk", "5")):
            self.assertEqual(alone, self.measure(path, "--ctx", "64", *options))

    def test_is_the_published_figure_of_the_held_out_stories(self):
        path = os.path.join(rack.SHARED, "models/heldout.txt")
        if not os.path.exists(path):
            rack.skip("perplexity of heldout.txt (%s is not there)" % path)
        if rack.QUICK:
            rack.skip("perplexity of heldout.txt: not in a quick run")
        got, lines = self.measure(path, seconds=10 * rack.PATIENCE_S)
        self.assertLess(abs(got - PUBLISHED) / PUBLISHED, 0.005)
        self.assertIn("83 windows of 512 tokens", lines[-2])

    def test_refuses_a_text_that_is_too_short(self):
        self.refused(rack.STORIES, self.text(""),
                     words=["text.txt", "1024 are needed"])
        self.refused(rack.STORIES, self.text("Once upon a time"),
                     words=["has 5 tokens", "1024 are needed"])
        self.refused(rack.STORIES, os.path.join(self.rack.folder, "none"),
                     words=["none"])
        self.refused(rack.STORIES, self.rack.folder, words=["directory"])

    def test_refuses_windows_beyond_the_context(self):
        self.refused(rack.STORIES, self.text(TEXT * 20), "--ctx", "600",
                     words=["context"])

    def test_usage(self):
        path = self.text(TEXT)
        self.refused(status=2)
        self.refused(rack.STORIES, status=2)
        self.refused(rack.STORIES, path, "--ctx", "3", words=["--ctx"],
                     status=2)


if __name__ == "__main__":
    unittest.main()
