"""What scripts rely on: output, exit statuses, signals and settings of the
programs, as `--help` and docs promise them.
"""
import json
import os
import random
import re
import signal
import struct
import unittest

import rack
from rack import RackTest

PROMPT = "Once upon a time"


class Up(RackTest):
    """`roster up`: a rack of its own, nothing of which stays."""

    def up(self, *options, **how):
        started = self.rack.start("roster", "up", rack.STORIES, "--threads",
                                  "1", *options, name="up", **how)
        started.wait_ready()
        return started

    def check_gone(self, pids):
        for pid in pids:
            rack.wait_until(
                lambda pid=pid: rack.process_state(pid) in (None, "Z"),
                "process %d is gone" % pid)

    def test_serves_until_sigterm_or_sigint(self):
        stories = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            up = self.up()
            self.assertRegex(up.out().decode(),
                             r"^ready tcp://127\.0\.0\.1:\d+\n$")
            below = rack.descendants(up.pid)
            self.assertEqual(3, len(below))  # two nodes are the default
            stories.add(self.rack.generate(up, PROMPT))
            up.signal(number)
            self.assertEqual(0, up.wait())
            self.check_gone(below)
        self.assertEqual(1, len(stories))

    def test_ignores_the_end_of_stdin(self):
        up = self.up(stdin=b"")
        self.assertNotEqual("", self.rack.generate(up, PROMPT))
        self.assertFalse(up.ended())

    def test_leaves_no_process_when_it_is_killed(self):
        up = self.up("--nodes", "3", "--replicas", "2")
        below = rack.descendants(up.pid)
        self.assertEqual(4, len(below))
        up.kill()
        self.check_gone(below)

    def test_goes_on_without_a_node_but_not_without_its_coordinator(self):
        up = self.up("--nodes", "2")
        story = self.rack.generate(up, PROMPT)
        programs = {}
        for pid in rack.descendants(up.pid):
            with open("/proc/%d/comm" % pid) as f:
                programs.setdefault(f.read().strip()[:13], []).append(pid)
        nodes, (coordinator,) = programs["roster-expert"], \
            programs["roster-coordi"]

        os.kill(nodes[0], signal.SIGKILL)
        up.wait_log("going on without it")
        self.assertEqual(story, self.rack.generate(up, PROMPT))

        os.kill(coordinator, signal.SIGKILL)
        up.expects = (1,)
        self.assert_fails(up.result(), "roster up: ", "coordinator", "killed")
        self.check_gone(nodes)

    def test_listens_where_it_is_told(self):
        endpoint = "tcp://%s:7100" % rack.own_address()
        first = self.up("--nodes", "0", "--endpoint", endpoint)
        self.assertEqual(endpoint, first.endpoint)
        self.assertEqual(0, first.terminate())
        again = self.up("--nodes", "0", "--endpoint", first.endpoint)
        self.assertEqual(first.endpoint, again.endpoint)
        self.assertEqual([], self.rack.status(again)["nodes"])

    def test_a_command_with_a_rack_of_its_own_leaves_nothing(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            told = self.rack.command("generate", PROMPT, "--model",
                                     rack.STORIES, "--nodes", "2", "-n", "450",
                                     "--ignore-end")
            told.wait_output()
            below = rack.descendants(told.pid)
            self.assertEqual(3, len(below))
            told.signal(number)
            told.wait()
            self.assertEqual(1 if number != signal.SIGKILL else -number,
                             told.status)
            self.check_gone(below)


class Generate(RackTest):
    def setUp(self):
        super().setUp()
        self.asked = self.rack.coordinator(self.rack.nodes(2))

    def test_figures_go_to_stderr_alone(self):
        story = self.rack.generate(self.asked, PROMPT)
        result = self.rack.generating(self.asked, PROMPT, "--stats").result()
        self.assertEqual(story, result.text)
        for pattern in (r"prompt +5 tokens in [\d.]+ s: [\d.]+ tokens/s",
                        r"generation +64 tokens in [\d.]+ s: [\d.]+ tokens/s",
                        r"experts +12 run per token of 96 stored",
                        r"weights +[\d.]+ MB read per token of [\d.]+ MB",
                        r"nodes +node-0 [\d.]+ %, node-1 [\d.]+ %",
                        r"seed \d+"):
            self.assertRegex(result.err, pattern)
        shares = re.findall(r"([\d.]+) %",
                            re.search("nodes .*", result.err).group())
        self.assertAlmostEqual(100, sum(map(float, shares)), delta=0.3)

    def test_echo_prints_the_prompt_before_its_text(self):
        story = self.rack.generate(self.asked, PROMPT)
        self.assertEqual(PROMPT + story,
                         self.rack.generate(self.asked, PROMPT, "--echo"))

    def test_a_seed_gives_the_same_text(self):
        def told(*options):
            return self.rack.generating(self.asked, PROMPT, "--temp", "1",
                                        "--top-k", "0", "--top-p", "1",
                                        "--stats", *options).result()

        first, second = told("--seed", "5"), told("--seed", "5")
        self.assertEqual(first.text, second.text)
        self.assertNotEqual(first.text, told("--seed", "6").text)
        self.assertIn("seed 5", first.err)
        drawn = told()
        seed = re.search(r"seed (\d+)", drawn.err).group(1)
        self.assertEqual(drawn.text, told("--seed", seed).text)

    def test_several_at_once_tell_each_what_it_tells_alone(self):
        prompts = ["The big dog", "Tom and Sam were best friends.",
                   PROMPT, "One day", "Mom said", "A cat"]
        how = [["--temp", "0"], ["--temp", "0.9", "--seed", "3"],
               ["--temp", "0.7", "--seed", "9", "--top-k", "5"]]
        asks = [(p, how[i % 3]) for i, p in enumerate(prompts)]
        alone = [self.rack.generate(self.asked, p, *options, n=48)
                 for p, options in asks]
        for _ in range(2):
            together = [self.rack.generating(self.asked, p, *options, n=48)
                        for p, options in asks]
            results = [t.result() for t in together]
            self.assertEqual([0] * len(asks), [r.status for r in results])
            self.assertEqual(alone, [r.text for r in results])

    def test_the_endpoint_comes_from_the_environment_too(self):
        env = {"ROSTER_ENDPOINT": self.asked.endpoint}
        result = self.rack.run("generate", PROMPT, "--temp", "0", "-n", "8",
                               env=env)
        self.assertEqual(0, result.status, result.err)
        self.assertEqual(0, self.rack.run("status", env=env).status)
        self.assertEqual(2, self.rack.run("status", "--endpoint").status)

    def test_a_full_disk_is_an_error(self):
        told = self.rack.start(
            "/bin/sh", "-c", 'exec "$@" > /dev/full', "sh",
            os.path.join(rack.BUILD, "roster"), "generate", PROMPT,
            "--endpoint", self.asked.endpoint)
        told.expects = None
        self.assert_fails(told.result(), "roster generate: ", "stdout", "space")
        self.rack.wait_status(self.asked,
                              lambda s: s["requests"]["active"] == 0,
                              "the story that nobody reads has ended")

    def test_golden_continuations_of_the_f16_model(self):
        """llama.cpp's greedy stories, as published with the model."""
        model = os.path.join(rack.SHARED, "models/stories-moe.f16.gguf")
        text = os.path.join(rack.SHARED, "models/README.md")
        if not (os.path.exists(model) and os.path.exists(text)):
            rack.skip("greedy continuations of stories-moe.f16.gguf (%s is "
                      "not there)" % model)
        with open(text) as f:
            golden = re.findall(r"^\*\*(.+?)\*\*\n\n```text\n(.*?)\n```",
                                f.read(), re.M | re.S)
        self.assertEqual(5, len(golden))
        asked = self.rack.coordinator(model=model)
        for prompt, story in golden:
            told = self.rack.generate(asked, prompt, "--echo")
            self.assertEqual(story, told.rstrip("\n"))

    # ---- chat ----

    def chat(self, lines, *options):
        return self.rack.run("chat", "--endpoint", self.asked.endpoint,
                             "--temp", "0", "-n", "24", *options,
                             stdin="".join(lines).encode())

    def test_chat_takes_a_turn_from_each_line(self):
        one = self.chat(["Once upon a time\n"])
        two = self.chat(["Once upon a time\n", "The dog\n"])
        self.assertEqual((0, 0), (one.status, two.status), two.err)
        self.assertNotEqual("", one.text)
        self.assertTrue(two.text.startswith(one.text))
        self.assertGreater(len(two.text), len(one.text))
        again = self.chat(["Once upon a time\n", "The dog"])  # no last newline
        self.assertEqual(two.text, again.text)

    def test_chat_with_no_line_says_nothing(self):
        empty = self.chat([])
        self.assertEqual((0, ""), (empty.status, empty.text))

    def test_chat_takes_its_only_turn_from_the_command_line(self):
        one = self.chat(["Once upon a time\n"])
        given = self.rack.run("chat", PROMPT, "--endpoint",
                              self.asked.endpoint, "--temp", "0", "-n", "24")
        self.assertEqual((0, one.text), (given.status, given.text))

    def test_chat_ends_when_its_text_fills_the_context(self):
        full = self.chat(["word " * 300 + "\n"] * 3)
        self.assert_fails(full, "roster chat: ", "context")

    # ---- status ----

    def test_status_says_what_the_rack_does(self):
        self.rack.generate(self.asked, PROMPT)
        status = self.rack.status(self.asked)
        self.assertEqual("stories-moe", status["model"])
        self.assertEqual("roster", status["cluster"])
        self.assertEqual(rack.CONTEXT, status["context"])
        self.assertRegex(status["fingerprint"], "^[0-9a-f]{64}$")
        self.assertEqual({"version", "activation", "rows", "kv", "mla",
                          "blas"}, set(status["profile"]))
        self.assertEqual(64, status["tokens_generated"])
        self.assertEqual((1, 0, 0), tuple(status["requests"][k] for k in
                                          ("done", "failed", "cancelled")))
        for node in status["nodes"]:
            self.assertEqual(("up", 48, ""), (node["state"], node["experts"],
                                              node["why"]))
        table = self.rack.run("status", "--endpoint", self.asked.endpoint)
        self.assertEqual(0, table.status)
        for word in ("stories-moe", "node-0", "node-1", "up"):
            self.assertIn(word, table.text)


class Words(RackTest):
    """`roster tokenize` and `roster detokenize`."""

    def ids(self, data, *options):
        result = self.rack.run("tokenize", rack.STORIES, *options, stdin=data)
        self.assertEqual(0, result.status, result.err)
        self.assertRegex(result.text, r"^(\d+( \d+)*)?\n$")
        return [int(i) for i in result.text.split()]

    def bytes(self, ids, *options, separator=" "):
        result = self.rack.run("detokenize", rack.STORIES, *options,
                               stdin=separator.join(map(str, ids)).encode())
        self.assertEqual(0, result.status, result.err)
        return result.out

    def texts(self):
        draw = random.Random(11)
        yield b""
        yield b"\0\0 zero bytes \0"
        yield b" \n\t\r\n  leading and trailing  \n"
        yield "Ein Märchen, 一个故事, сказка, 🦊👩‍👧‍👦 e\u0301".encode()
        yield bytes(range(256)) * 2
        for _ in range(4 if rack.QUICK else 12):
            yield draw.randbytes(draw.randrange(1, 400))
            yield "".join(chr(draw.choice([
                draw.randrange(0x20, 0x7f), draw.randrange(0xa0, 0x800),
                draw.randrange(0x4e00, 0x9fff),
                draw.randrange(0x1f300, 0x1f700)]))
                for _ in range(draw.randrange(1, 200))).encode()

    def test_every_byte_comes_back(self):
        for text in self.texts():
            ids = self.ids(text)
            self.assertTrue(all(i < rack.VOCAB for i in ids))
            self.assertEqual(text, self.bytes(ids))
        story = PROMPT.encode()
        self.assertEqual(story, self.bytes(self.ids(story), separator=","))
        self.assertEqual(story, self.bytes(self.ids(story), separator="\n"))

    def test_special_tokens_come_only_when_asked_for(self):
        plain, written = b"Once", b"<|endoftext|>Once"
        ids = self.ids(plain)
        self.assertNotIn(0, ids)
        self.assertEqual([0] + ids, self.ids(plain, "--add-special"))
        self.assertNotIn(0, self.ids(written))
        self.assertEqual([0] + ids, self.ids(written, "--parse-special"))
        self.assertEqual([0, 0] + ids, self.ids(written, "--parse-special",
                                                "--add-special"))
        self.assertEqual(plain, self.bytes([0] + ids))
        self.assertEqual(written, self.bytes([0] + ids, "--special"))

    def test_ids_that_are_none_are_errors(self):
        for data, words in ((b"1 2 x", ["'x'"]), (b"1 -2", ["'-2'"]),
                            (b"99999", ["99999"]), (b"4096", ["4096"]),
                            (b"1 99999999999999999999", ["number 2"])):
            result = self.rack.run("detokenize", rack.STORIES, stdin=data)
            self.assert_fails(result, "roster detokenize: ", *words)
            self.assertEqual(b"", result.out)


class Eval(RackTest):
    TOKENS = [0, 421, 1031, 77, 4095, 12, 9, 3000, 3, 100, 2, 65]

    def test_files_have_their_sizes_and_shapes(self):
        n, k = len(self.TOKENS), 2
        logits, routing = self.rack.eval(self.TOKENS, routing=True)
        self.assertEqual(n * rack.VOCAB * 4, len(logits))
        self.assertEqual(list(range(rack.LAYERS)),
                         [layer["layer"] for layer in routing])
        for layer in routing:
            self.assertEqual({"layer", "topk", "weights"}, set(layer))
            self.assertEqual([k] * n, [len(row) for row in layer["topk"]])
            for chosen, weights in zip(layer["topk"], layer["weights"]):
                self.assertEqual(k, len(set(chosen)))
                self.assertTrue(all(0 <= e < rack.EXPERTS for e in chosen))
                self.assertAlmostEqual(1, sum(weights), places=5)
                self.assertEqual(sorted(weights, reverse=True), weights)

    def test_chunks_change_no_byte(self):
        whole = self.rack.eval(self.TOKENS, routing=True)
        for chunk in (1, 2, 5, 11, 12, 500):
            self.assertEqual(whole, self.rack.eval(
                self.TOKENS, "--chunk", chunk, routing=True), chunk)

    def test_tokens_can_come_from_a_file(self):
        path = os.path.join(self.rack.folder, "tokens")
        with open(path, "w") as f:
            f.write("\n".join(map(str, self.TOKENS)) + "\n")
        self.assertEqual(self.rack.eval(self.TOKENS),
                         self.rack.eval(["@" + path]))

    def test_cpu_levels_change_no_byte(self):
        best = self.rack.eval(self.TOKENS)
        with open("/proc/cpuinfo") as f:
            has = f.read()
        levels = ["scalar"] + ["avx2"] * ("avx2" in has) + \
            ["avx512"] * ("avx512_vnni" in has)
        for level in levels:
            env = {"ROSTER_CPU": level}
            self.assertEqual(best, self.rack.eval(self.TOKENS, env=env), level)
            self.assertEqual(best, self.rack.eval(
                self.TOKENS, "--nodes", "2", env=env), level)

    def test_a_cpu_level_that_nobody_knows_is_wrong_usage(self):
        env = {"ROSTER_CPU": "nonsense"}
        for program in ("roster-coordinator", "roster-expert-node"):
            started = self.rack.start(program, rack.STORIES, env=env)
            started.expects = None
            self.assert_fails(started.result(), "ROSTER_CPU", "nonsense",
                              status=2)
        self.check_failure(["--tokens", "1"], "nonsense", env=env,
                           status=(1, 2))

    def check_failure(self, options, *words, env=None, status=(1,)):
        out = os.path.join(self.rack.folder, "failed")
        result = self.rack.run("eval", rack.STORIES, "--logits", out + ".f32",
                               "--routing", out + ".json", *options, env=env)
        self.assertIn(result.status, status, result.err)
        for word in words:
            self.assertIn(word, result.last)
        self.assertEqual([], [f for f in os.listdir(self.rack.folder)
                              if f.startswith("failed")])

    def test_failures_leave_no_file(self):
        self.check_failure(["--tokens", "1,4096"], "4096", "vocabulary")
        self.check_failure(["--tokens", ",".join(["1"] * 513)], "513",
                           "context")
        self.check_failure(["--tokens", "@/nowhere"], "/nowhere")
        self.check_failure(["--tokens", "1", "--logits", "/nowhere/x"],
                           "/nowhere")
        # The nodes hold but one expert, and nobody else may compute.
        self.check_failure(["--tokens", "1,2,3", "--nodes", "1", "--experts",
                            "0:0", "--no-local-experts", "--timeout", "1s"],
                           "layer", "expert")

    def test_a_failure_keeps_the_file_of_before(self):
        out = os.path.join(self.rack.folder, "kept.f32")
        with open(out, "w") as f:
            f.write("before")
        result = self.rack.run("eval", rack.STORIES, "--tokens", "4096",
                               "--logits", out)
        self.assertEqual(1, result.status)
        with open(out) as f:
            self.assertEqual("before", f.read())

    def test_a_kill_leaves_no_part_of_a_file(self):
        out = os.path.join(self.rack.folder, "cut.f32")
        with open(out, "w") as f:
            f.write("before")
        told = self.rack.command("eval", rack.STORIES, "--tokens",
                                 ",".join(["1"] * 512), "--chunk", "1",
                                 "--logits", out)
        rack.wait_until(lambda: any(
            os.path.getsize(os.path.join(self.rack.folder, name)) > 0
            for name in os.listdir(self.rack.folder)
            if name.startswith("cut.f32.")), "some rows were written")
        told.kill()
        told.wait()
        self.assertEqual(-signal.SIGKILL, told.status)
        with open(out) as f:
            self.assertEqual("before", f.read())

    def test_exact_is_another_profile_with_nearly_the_same_logits(self):
        rounded = self.rack.eval(self.TOKENS)
        exact = self.rack.eval(self.TOKENS, "--exact")
        self.assertNotEqual(rounded, exact)
        self.assertEqual(exact, self.rack.eval(self.TOKENS, "--exact",
                                               "--nodes", "2"))
        mean = sum(abs(a[0] - b[0]) for a, b in zip(
            struct.iter_unpack("<f", exact),
            struct.iter_unpack("<f", rounded))) / (len(exact) // 4)
        self.assertLess(mean, 0.1)


class Settings(RackTest):
    """Command line before environment before file before default."""

    def file(self, text, name="settings"):
        path = os.path.join(self.rack.folder, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def cluster_and_name(self, *options, env=None):
        asked = self.rack.coordinator((), *options, env=env)
        result = self.rack.run("status", "--json", "--endpoint",
                               asked.endpoint)
        self.assertEqual(0, asked.terminate())
        status = json.loads(result.out)
        return status["cluster"], status["name"]

    def test_precedence(self):
        path = self.file("# a rack\ncluster = of-file\n\nname = from-file\n")
        env = {"ROSTER_CLUSTER": "of-environment"}
        self.assertEqual(("roster", "coordinator"), self.cluster_and_name())
        self.assertEqual(("of-file", "from-file"),
                         self.cluster_and_name("--config", path))
        self.assertEqual(("of-environment", "from-file"),
                         self.cluster_and_name("--config", path, env=env))
        self.assertEqual(("of-line", "from-file"),
                         self.cluster_and_name("--config", path, "--cluster",
                                               "of-line", env=env))

    def test_a_node_reads_its_settings_too(self):
        path = self.file("share = 1/3\nname = of-file\n")
        node = self.rack.start("roster-expert-node", rack.STORIES, "--listen",
                               "tcp://127.0.0.1:*", "--config", path,
                               env={"ROSTER_NAME": "of-environment"})
        node.wait_ready()
        told = self.rack.status(self.rack.coordinator([node]))["nodes"][0]
        self.assertEqual(("of-environment", rack.share_count(1, 3, 1)),
                         (told["name"], told["experts"]))

    def test_nodes_are_listed_in_a_file(self):
        nodes = self.rack.nodes(2)
        path = self.file("node = %s,%s\nno-local-experts = true\n" %
                         tuple(n.endpoint for n in nodes))
        asked = self.rack.coordinator((), "--config", path)
        self.assertNotEqual("", self.rack.generate(asked, PROMPT))
        status = self.rack.status(asked)
        self.assertEqual(2, len(status["nodes"]))
        self.assertFalse(status["local_experts"]["allowed"])

    def test_a_configuration_can_be_checked(self):
        good = self.file("cluster = here\nthreads = 1\n", "good")
        bad = self.file("cluster = here\ncolour = red\n", "bad")
        odd = self.file("threads = many\n", "odd")
        for program in ("roster-coordinator", "roster-expert-node"):
            for path, status, words in ((good, 0, ()),
                                        (bad, 2, ("bad", "2", "colour")),
                                        (odd, 2, ("odd", "threads", "many")),
                                        (bad + "-not", 2, ("bad-not",))):
                checked = self.rack.start(program, rack.STORIES, "--config",
                                          path, "--check-config")
                checked.expects = None
                result = checked.result()
                self.assertIn(result.status, (status, min(status, 1)), path)
                for word in words:
                    self.assertIn(word, result.last)

    def test_help_and_version_of_every_program(self):
        for program, arguments in (
                ("roster-coordinator", ()), ("roster-expert-node", ()),
                ("roster", ()), ("roster", ("up",)), ("roster", ("generate",)),
                ("roster", ("chat",)), ("roster", ("eval",)),
                ("roster", ("tokenize",)), ("roster", ("detokenize",)),
                ("roster", ("template",)),
                ("roster", ("inspect",)), ("roster", ("perplexity",)),
                ("roster", ("status",)), ("roster", ("top",)),
                ("roster", ("drain",))):
            told = self.rack.start(program, *arguments, "--help").result()
            self.assertEqual(0, told.status)
            self.assertIn("Usage: " + " ".join((program,) + arguments),
                          told.text)
            lines = told.text.splitlines()[1:]  # the usage line may be long
            self.assertEqual([], [line for line in lines if len(line) > 80])
            told = self.rack.start(program, *arguments, "--version").result()
            self.assertEqual(0, told.status)
            self.assertRegex(told.text, r"\d+\.\d+\.\d+")


if __name__ == "__main__":
    unittest.main()
