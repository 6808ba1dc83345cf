"""`roster bench`: its tables, and that its figures are of what was run.  How
fast that was is not tested here."""
import csv
import io
import json
import os
import unittest

import rack
from rack import RackTest

STAGES = ["attention", "router", "dense", "pack", "wire", "wait", "experts",
          "add", "logits", "other"]
PAIRS = rack.LAYERS * 2  # (layer, expert) of a token, top 2


class Bench(RackTest):
    def bench(self, *options):
        result = self.rack.command("bench", rack.STORIES, *rack.PATIENT,
                                   *options).result()
        self.assertEqual(0, result.status, result.err)
        self.assertEqual("", result.err)  # no progress: this is no terminal
        return result.text

    def rows(self, *options):
        rows = json.loads(self.bench("-o", "json", *options))
        for row in rows:
            self.check(row)
        return rows

    def check(self, row):
        """What holds in every row, on any machine."""
        n = (row["n_prompt"] + row["n_gen"]) * row["streams"]
        for ns, ts in zip(row["samples_ns"], row["samples_ts"]):
            self.assertAlmostEqual(n * 1e9 / ns, ts, delta=1e-4 * ts)
        mean = sum(row["samples_ts"]) / len(row["samples_ts"])
        self.assertAlmostEqual(mean, row["avg_ts"], delta=1e-4 * mean)
        self.assertEqual(len(row["samples_ts"]), len(row["samples_read_gb_s"]))
        self.assertGreater(min(row["samples_read_gb_s"]), 0)

    def refused(self, *arguments, words=(), status=1):
        result = self.rack.run("bench", *arguments)
        self.assert_fails(result, "roster bench: ", *words, status=status)
        self.assertEqual(b"", result.out)

    def inspect(self):
        result = self.rack.run("inspect", rack.STORIES, "--json")
        return json.loads(result.out)

    # ---- what is run ----

    def test_runs_each_value_with_each_other(self):
        rows = self.rows("-p", "8,4", "-n", "3", "-t", "1,2", "-r", "2")
        self.assertEqual([(8, 0), (4, 0), (0, 3)] * 2,
                         [(r["n_prompt"], r["n_gen"]) for r in rows])
        self.assertEqual([1] * 3 + [2] * 3, [r["n_threads"] for r in rows])
        self.assertTrue(all(len(r["samples_ns"]) == 2 for r in rows))

    def test_says_what_it_measured(self):
        file = self.inspect()
        row, = self.rows("-p", "4", "-n", "0", "-r", "1", "--kv", "f32")
        for name, value in {"model_size": file["total_bytes"],
                            "model_n_params": file["total_params"],
                            "model_filename": rack.STORIES, "backends": "CPU",
                            "type_k": "f32", "type_v": "f32", "n_depth": 0,
                            "n_batch": 256, "n_nodes": 0, "streams": 1,
                            "stddev_ts": 0}.items():
            self.assertEqual(value, row[name], name)
        self.assertIsNone(row["gb_s"])  # of a prompt it would say nothing

    def test_leaves_a_test_of_nothing_out(self):
        rows = self.rows("-p", "0", "-n", "2", "-r", "1")
        self.assertEqual([(0, 2)], [(r["n_prompt"], r["n_gen"]) for r in rows])
        self.assertEqual([], self.rows("-p", "0", "-n", "0"))

    # ---- bytes ----

    def test_a_stream_alone_reads_what_inspect_says(self):
        row, = self.rows("-p", "0", "-n", "24", "-r", "1")
        self.assertEqual(PAIRS, row["step_experts"])
        # (the embedding's row is counted beside the matrix that it is part of)
        self.assertAlmostEqual(1, row["step_bytes"] /
                               self.inspect()["decode_bytes"], delta=1e-3)
        self.assertAlmostEqual(
            row["step_bytes"] * row["avg_ts"] / 1e9, row["gb_s"],
            delta=1e-3 * row["gb_s"])
        read = sum(row["samples_read_gb_s"]) / len(row["samples_read_gb_s"])
        self.assertAlmostEqual(row["gb_s"] / read, row["bandwidth_share"],
                               delta=1e-3 * row["bandwidth_share"])

    def test_streams_share_the_experts_that_they_chose(self):
        row, = self.rows("-p", "0", "-n", "24", "-b", "8", "-r", "1")
        self.assertEqual(8, row["streams"])
        most = rack.LAYERS * rack.EXPERTS
        self.assertLess(PAIRS, row["step_experts"])
        self.assertLess(row["step_experts"], min(8 * PAIRS, most))

    # ---- where the time goes ----

    def check_stages(self, row):
        stages = row["breakdown_ms"]
        self.assertEqual(STAGES + ["outside"], list(stages))
        self.assertTrue(all(stages[s] >= 0 for s in STAGES), stages)
        self.assertAlmostEqual(row["ms_per_token"], sum(stages.values()),
                               delta=1e-6)
        self.assertGreater(stages["attention"], 0)
        self.assertGreater(stages["router"], 0)

    def test_the_stages_of_one_process(self):
        for row in self.rows("-p", "32", "-n", "24", "-r", "1", "--breakdown"):
            self.check_stages(row)
            stages = row["breakdown_ms"]
            self.assertGreater(stages["experts"], 0)
            self.assertEqual(0, stages["wait"] + stages["wire"])
            if row["n_prompt"] > 0:  # the whole of it was looked at
                self.assertGreaterEqual(stages["outside"], 0)

    def test_the_stages_with_nodes(self):
        for row in self.rows("-p", "32", "-n", "24", "-r", "1", "--nodes", "2",
                             "--slices", "2", "--breakdown"):
            self.check_stages(row)
            self.assertEqual((2, 2), (row["n_nodes"], row["n_slices"]))
            stages = row["breakdown_ms"]
            self.assertGreater(stages["pack"], 0)
            self.assertGreater(stages["wait"] + stages["wire"], 0)

    # ---- forms ----

    def test_csv_has_the_same_columns(self):
        options = ("-p", "4", "-n", "2", "-r", "1", "--breakdown")
        lines = list(csv.DictReader(io.StringIO(
            self.bench("-o", "csv", *options))))
        rows = self.rows(*options)
        names = [n for n in rows[0]
                 if not n.startswith("samples_") and n != "breakdown_ms"]
        stages = [s + "_ms" for s in STAGES + ["outside"]]
        self.assertEqual(sorted(names + stages), sorted(lines[0]))
        for line, row in zip(lines, rows):
            for name in ("model_type", "n_prompt", "n_gen", "n_threads"):
                self.assertEqual(str(row[name]), line[name])
        self.assertEqual("", lines[0]["gb_s"])

    def test_markdown_has_a_line_for_each_test(self):
        text = self.bench("-p", "4", "-n", "2", "-r", "2", "-b", "2",
                          "--nodes", "1", "--breakdown")
        tables = [[[c.strip() for c in line.split("|")[1:-1]]
                   for line in part.splitlines() if line.startswith("|")]
                  for part in text.split("Milliseconds of a token")]
        head, _, pp, tg = tables[0]
        self.assertEqual(["model", "size", "params", "backend", "threads",
                          "nodes", "streams", "test", "t/s"], head[:9])
        self.assertEqual(["1", "2", "pp4"], pp[5:8])
        self.assertEqual(["1", "2", "tg2"], tg[5:8])
        self.assertRegex(tg[8], r"^\d+\.\d\d ± \d+\.\d\d$")
        self.assertEqual(4, len(tables[1]))
        self.assertEqual(STAGES, tables[1][0][4:-1])

    # ---- a rack that runs ----

    def test_measures_a_rack_that_runs(self):
        coordinator = self.rack.coordinator()
        row, = self.rows("-p", "4", "-n", "0", "-r", "1", "-t", "1",
                         "--endpoint", coordinator.endpoint, "--insecure")
        self.assertEqual(4, row["n_prompt"])
        status = self.rack.status(coordinator)
        self.assertEqual(2, status["requests"]["done"])  # with the warm-up

    # ---- failures ----

    def test_usage(self):
        for option in ("-p", "-n", "-t", "-b"):
            self.refused(rack.STORIES, option, "2,x", status=2,
                         words=["'2,x' is not a list"])
        self.refused(rack.STORIES, "-b", "0", status=2, words=["--streams"])
        self.refused(rack.STORIES, "-r", "0", status=2,
                     words=["--repetitions"])
        self.refused(rack.STORIES, "-o", "xml", status=2, words=["xml"])
        self.refused(status=2)

    def test_says_what_does_not_fit(self):
        self.refused(os.path.join(self.rack.folder, "none"), words=["none"])
        self.refused(rack.STORIES, "-p", str(rack.CONTEXT + 1), "-r", "1",
                     words=["context"])
        self.refused(rack.STORIES, "-p", "0", "-n", str(rack.CONTEXT + 1),
                     "-r", "1", "-o", "csv", words=["context"])


if __name__ == "__main__":
    unittest.main()
