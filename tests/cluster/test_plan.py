"""`roster plan`: placements worked out from a file of loads or a model."""
import json
import os
import unittest

import rack
from rack import RackTest

# The example that the algorithm was published with.
LOADS = [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
         [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
SLOTS = [[5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
         [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]]


def imbalance(loads, holders, speeds):
    """Of the rack: the slowest node's time over what would be even."""
    most = 0.0
    for layer, row in zip(loads, holders):
        times = [0.0] * len(speeds)
        for load, nodes in zip(layer, row):
            speed = sum(speeds[n] for n in nodes)
            for node in nodes:
                times[node] += load / speed
        most += max(times)
    return most * sum(speeds) / sum(map(sum, loads))


class Plan(RackTest):
    def file(self, name, content):
        path = os.path.join(self.rack.folder, name)
        with open(path, "w") as f:
            f.write(content if isinstance(content, str)
                    else json.dumps(content))
        return path

    def plan(self, *arguments):
        result = self.rack.run("plan", *arguments)
        self.assertEqual(0, result.status, result.err)
        return json.loads(result.out)

    def refused(self, *arguments, words=(), status=1):
        result = self.rack.run("plan", *arguments)
        self.assert_fails(result, "roster plan: ", *words, status=status)
        self.assertEqual(b"", result.out)

    def test_reproduces_the_published_check(self):
        loads = self.file("loads.json", LOADS)
        told = self.plan("--loads", loads, "--policy", "eplb", "--replicas",
                         16, "--groups", 4, "--nodes", 2, "--devices", 8)
        self.assertEqual({"slots": SLOTS}, told)

    def test_takes_the_global_policy_where_nodes_do_not_divide_groups(self):
        loads = self.file("loads.json", [[10, 60, 5, 30]])
        told = self.plan("--loads", loads, "--policy", "eplb", "--replicas", 6,
                         "--groups", 2, "--nodes", 3, "--devices", 3)
        self.assertEqual([[3, 2, 1, 1, 1, 0]], told["slots"])

    def test_places_by_load_memory_speed_and_zone(self):
        loads = self.file("loads.json", LOADS)
        told = self.plan("--loads", loads, "--nodes", 4, "--memory",
                         "16,16,12,12", "--speeds", "1,1,0.5,0.5", "--zones",
                         "a,b,a,b", "--min-replicas", 2)
        held = [0] * 4
        for row in told["holders"]:
            self.assertEqual(12, len(row))
            for nodes in row:
                self.assertTrue(2 <= len(nodes) == len(set(nodes)))
                self.assertEqual({0, 1}, {n % 2 for n in nodes})
                for node in nodes:
                    held[node] += 1
        for node, most in enumerate((16, 16, 12, 12)):
            self.assertLessEqual(held[node], most)
        self.assertAlmostEqual(
            told["after"], imbalance(LOADS, told["holders"], [1, 1, .5, .5]))
        self.assertLess(told["after"], 1.1)
        self.assertIsNone(told["before"])

    def test_improves_what_is_there(self):
        loads = self.file("loads.json", LOADS)
        now = [[[e % 3] for e in range(12)] for _ in LOADS]
        told = self.plan("--loads", loads, "--nodes", 3, "--replicas", 15,
                         "--now", self.file("now.json", now))
        self.assertAlmostEqual(told["before"],
                               imbalance(LOADS, now, [1, 1, 1]))
        self.assertAlmostEqual(told["after"],
                               imbalance(LOADS, told["holders"], [1, 1, 1]))
        self.assertLess(told["after"], told["before"])
        new = sum(len(set(b) - set(a)) for x, y in zip(now, told["holders"])
                  for a, b in zip(x, y))
        self.assertEqual(new, told["moves"])
        self.assertLess(new, 12)
        again = self.plan("--loads", loads, "--nodes", 3, "--replicas", 15,
                          "--now", self.file("then.json", told["holders"]))
        self.assertLessEqual(again["after"], told["after"] + 1e-9)

    def test_refuses_files_that_are_not_what_they_should_be(self):
        for content, words in (
                ("[[1, 2", ("line 1",)),
                ("{}", ("array of layers",)),
                ("[]", ("array of layers",)),
                ("[1, 2]", ("array of layers",)),
                ("[[]]", ("array of layers",)),
                ("[[1, 2], [3]]", ("layer 1", "2 numbers")),
                ("[[1, -2]]", ("layer 0", "expert 1", "negative")),
                ("[[1, \"2\"]]", ("expert 1",)),
                ("[[1, 1e999]]", ("line 1",)),
                ("[[1, null]]", ("expert 1",))):
            path = self.file("bad.json", content)
            self.refused("--loads", path, "--nodes", 2, words=words)
        self.refused("--loads", "/nowhere/x.json", "--nodes", 2,
                     words=("/nowhere/x.json", "no such file"))
        loads = self.file("loads.json", [[1, 2]])
        for now in ([[[0]]], [[[0], [2]]], [[[0, 0], [1]]], [[0, 1]],
                    [[[0], [-1]]], [[[0], [0.5]]], [], {}):
            path = self.file("now.json", now)
            self.refused("--loads", loads, "--nodes", 2, "--now", path,
                         words=("now.json",))

    def test_refuses_options_that_do_not_fit_together(self):
        loads = self.file("loads.json", LOADS)
        for arguments, words in (
                ((), ("model",)),
                ((loads, "--loads", loads, "--nodes", 2), ("model",)),
                (("--loads", loads), ("--nodes",)),
                (("--loads", loads, "--nodes", 2000), ("--nodes",)),
                (("--loads", loads, "--nodes", 2, "--policy", "best"),
                 ("--policy",)),
                (("--loads", loads, "--nodes", 2, "--policy", "eplb"),
                 ("--replicas",)),
                (("--loads", loads, "--nodes", 2, "--policy", "eplb",
                  "--replicas", 15), ("divide",)),
                (("--loads", loads, "--nodes", 2, "--memory", "1,2,3"),
                 ("--memory", "3")),
                (("--loads", loads, "--nodes", 3, "--memory", "1,2"),
                 ("--memory",)),
                (("--loads", loads, "--nodes", 2, "--memory", "much"),
                 ("--memory", "much")),
                (("--loads", loads, "--nodes", 2, "--speeds", "0"),
                 ("--speeds",)),
                (("--loads", loads, "--nodes", 2, "--speeds", "nan"),
                 ("--speeds",)),
                (("--loads", loads, "--nodes", 2, "--min-replicas", 0),
                 ("--min-replicas",)),
                ((rack.STORIES, "--nodes", 2), ("--memory",)),
                ((rack.STORIES, "--nodes", 2, "--memory", "1G", "--slices",
                  3), ("--slices",))):
            self.refused(*arguments, words=words, status=2)

    def test_says_whether_a_model_fits(self):
        told = self.plan(rack.STORIES, "--nodes", 3, "--memory", "16M",
                         "--min-replicas", 2, "--json")
        self.assertTrue(told["fits"] and told["survives_largest"])
        self.assertFalse(told["recovers"])
        self.assertEqual(rack.LAYERS * rack.EXPERTS, told["units"])
        self.assertEqual(2 * told["expert_bytes"],
                         sum(n["bytes"] for n in told["nodes"]))
        for node in told["nodes"]:
            self.assertEqual(16 << 20, node["memory"])
            self.assertEqual(node["memory"], node["bytes"] + node["spare"])

        told = self.plan(rack.STORIES, "--nodes", 2, "--memory", "1M,2M",
                         "--json")
        self.assertFalse(told["fits"])
        self.assertGreater(told["unplaced"], 0)

        text = self.rack.run("plan", rack.STORIES, "--nodes", 4, "--memory",
                             "20M", "--min-replicas", 2)
        self.assertEqual(0, text.status)
        self.assertIn("It fits.", text.text)
        self.assertIn("all copies can be made again", text.text)
        self.refused("/nowhere.gguf", "--nodes", 2, "--memory", "1G",
                     words=("/nowhere.gguf",))


if __name__ == "__main__":
    unittest.main()
