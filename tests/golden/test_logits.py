"""Logits and routing against the independent golden set.

The cases are those of tests/golden/data and, where the whole set lies beside
the repository (../shared/golden), all of that.  Every case runs through `roster
eval`: exactly, and with the activations of the normal profile; in one process
and through two expert nodes.  Models are reached by links in a folder of our
own, since what is remembered about a model's file is written beside it.
"""
import array
import json
import os
import subprocess
import sys
import tempfile
import unittest

BUILD = os.environ.get("ROSTER_BUILD", "build")
HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "data")
SHARED = os.path.join(HERE, "..", "..", "..", "shared", "golden")
LINKS = tempfile.TemporaryDirectory()


def find(folder, is_case):
    """{name: folder that has it}; the whole set goes before the small one."""
    found = {}
    for root in (DATA, SHARED):
        path = os.path.join(root, folder)
        if not os.path.isdir(path):
            continue
        for entry in sorted(os.listdir(path)):
            name = is_case(path, entry)
            if name:
                found[name] = path
    return found


CASES = find("logits", lambda path, entry: entry if os.path.exists(
    os.path.join(path, entry, "golden.json")) else None)
LONG = find("long", lambda path, entry: entry[:-5] if entry.endswith(".json")
            else None)


def link(path):
    """The path of a link to the file, in a folder of our own."""
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    own = os.path.join(LINKS.name, folder.strip("/").replace("/", "-"))
    os.makedirs(own, exist_ok=True)
    to = os.path.join(own, name)
    if not os.path.islink(to):
        os.symlink(path, to)
    return to


def floats(path):
    values = array.array("f")
    with open(path, "rb") as f:
        values.frombytes(f.read())
    return values


def evaluate(model, tokens, *options):
    """(logits, routing) of a run of `roster eval`."""
    with tempfile.TemporaryDirectory() as folder:
        logits, routing = folder + "/logits.f32", folder + "/routing.json"
        subprocess.run(
            [BUILD + "/roster", "eval", link(model), "--tokens",
             ",".join(map(str, tokens)), "--logits", logits, "--routing",
             routing] + list(options), check=True, stdin=subprocess.DEVNULL)
        with open(routing) as f:
            return floats(logits), json.load(f)


def distance(a, b):
    differences = [abs(x - y) for x, y in zip(a, b)]
    return max(differences), sum(differences) / len(differences)


class Logits(unittest.TestCase):
    def check_routing(self, golden, routing):
        expected = golden.get("routing", [])
        self.assertEqual(len(expected), len(routing))
        for want, got in zip(expected, routing):
            self.assertEqual(want["layer"], got["layer"])
            for a, b in zip(want["topk"], got["topk"]):
                self.assertEqual(set(a), set(b))

    def check_weights(self, golden, routing):
        for want, got in zip(golden.get("routing", []), routing):
            for ids, w, ids2, w2 in zip(want["topk"], want["weights"],
                                        got["topk"], got["weights"]):
                by_expert = dict(zip(ids2, w2))
                for expert, weight in zip(ids, w):
                    self.assertAlmostEqual(weight, by_expert[expert],
                                           delta=golden["tolerance"]["max_abs"] / 10)

    def run_case(self, name, *options):
        folder = os.path.join(CASES[name], name)
        with open(folder + "/golden.json") as f:
            golden = json.load(f)
        logits, routing = evaluate(folder + "/model.gguf", golden["tokens"],
                                   *options)
        expected = floats(folder + "/logits.f32")
        self.assertEqual(len(logits), len(expected))
        self.check_routing(golden, routing)
        return golden, distance(logits, expected), routing

    def exact(self, name, *options):
        golden, (most, _), routing = self.run_case(name, "--exact", *options)
        self.check_weights(golden, routing)
        self.assertLessEqual(most, golden["tolerance"]["max_abs"])

    def rounded(self, name, *options):
        golden, (most, mean), _ = self.run_case(name, *options)
        limit = golden["tolerance"]
        quantized = any(t not in ("F32", "F16", "BF16")
                        for t in golden["tensor_types"])
        if not quantized:  # float weights keep f32 activations
            self.assertLessEqual(most, limit["max_abs"])
            return
        self.assertLessEqual(most, limit["max_abs_rounded_activations"])
        self.assertLessEqual(mean, limit["mean_abs_rounded_activations"])

    def long(self, name):
        with open(os.path.join(LONG[name], name + ".json")) as f:
            golden = json.load(f)
        model = os.path.join(CASES[name], name, "model.gguf")
        logits, _ = evaluate(model, golden["tokens"], "--exact")
        expected = floats(os.path.join(LONG[name], name + ".logits.f32"))
        n = golden["n_vocab"]
        for i, position in enumerate(golden["positions"]):
            most, _ = distance(logits[position * n:(position + 1) * n],
                               expected[i * n:(i + 1) * n])
            self.assertLessEqual(most, golden["tolerance"]["max_abs"],
                                 "position %d" % position)

    def test_split_files_give_the_whole_models_logits(self):
        with open(DATA + "/logits/mixtral/golden.json") as f:
            tokens = json.load(f)["tokens"]
        whole, _ = evaluate(DATA + "/logits/mixtral/model.gguf", tokens)
        for i in (2, 3):
            link(DATA + "/split/mixtral-0000%d-of-00003.gguf" % i)
        split, _ = evaluate(DATA + "/split/mixtral-00001-of-00003.gguf",
                            tokens)
        self.assertEqual(whole.tobytes(), split.tobytes())


def add(name, function, *arguments):
    setattr(Logits, "test_" + name, lambda self: function(self, *arguments))


for case in CASES:
    add(case + "_exact", Logits.exact, case)
    add(case + "_exact_two_nodes", Logits.exact, case, "--nodes", "2")
    add(case + "_rounded", Logits.rounded, case)
    add(case + "_rounded_two_nodes", Logits.rounded, case, "--nodes", "2")
for case in LONG:
    add(case + "_long", Logits.long, case)

if __name__ == "__main__":
    if os.environ.get("ROSTER_TEST_QUICK"):  # sanitizer builds: one form each
        for case in CASES:
            delattr(Logits, "test_" + case + "_exact_two_nodes")
            delattr(Logits, "test_" + case + "_rounded")
    unittest.main(argv=sys.argv[:1])
