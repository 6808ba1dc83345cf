"""Bad input meets a typed error or a clean cancel, and whoever got it serves on:
peers that do not fit, damaged messages, full queues, bad files, wrong options.
"""
import os
import random
import re
import shutil
import socket
import struct
import sys
import unittest

import rack
from rack import RackTest

PROMPT = "Once upon a time"
FLAG_MORE, FLAG_LONG, FLAG_COMMAND = 1, 2, 4


def data_endpoint(node):
    return re.search(r"batches on (\S+)", node.err()).group(1)


class Peers(RackTest):
    """Nodes that do not fit are refused, and the rest serves."""

    def refuse(self, odd_options, *words, model=None):
        good = self.rack.node("--share", "0/1")
        odd = self.rack.node(*odd_options, model=model)
        asked = self.rack.coordinator([good, odd])
        self.rack.wait_node(asked, odd, "refused")
        why = self.rack.node_status(asked, odd)["why"]
        for word in words:
            self.assertIn(word, why)
        self.assertIn(why, asked.err())
        self.assertNotEqual("", self.rack.generate(asked, PROMPT))
        self.assertEqual(0, self.rack.node_status(asked, odd)["batches"])
        self.assertFalse(odd.ended())

    def test_a_node_with_another_model_is_refused(self):
        model = rack.make_model(self.rack.folder)
        self.refuse([], "another fingerprint", model=model)

    def test_a_node_with_the_same_shape_and_other_weights_is_refused(self):
        """Only the weights tell them apart."""
        shape = dict(layers=2, width=64, expert_width=128, experts=4)
        one = rack.make_model(self.rack.folder, "one.gguf", seed=1, **shape)
        two = rack.make_model(self.rack.folder, "two.gguf", seed=2, **shape)
        self.rack.model = one
        self.refuse([], "another fingerprint", model=two)

    def test_a_node_with_one_flipped_bit_is_refused(self):
        """Also if the file changed after its checksums were written."""
        self.rack.model = rack.make_model(self.rack.folder)
        changed = os.path.join(self.rack.folder, "changed.gguf")
        shutil.copy(self.rack.model, changed)
        self.assertEqual(0, self.rack.node(model=changed).terminate())
        with open(changed, "r+b") as f:
            f.seek(-5000, os.SEEK_END)
            byte = f.read(1)[0]
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte ^ 0x40]))
        self.refuse([], "another fingerprint", model=changed)

    def test_a_node_with_another_profile_is_refused(self):
        self.refuse(["--exact"], "activation")

    def test_a_node_of_another_cluster_is_refused(self):
        self.refuse(["--cluster", "elsewhere"], "cluster 'elsewhere'")

    def test_what_is_no_node_is_not_used(self):
        other = self.rack.coordinator()
        node = self.rack.node()
        asked = self.rack.coordinator([other, node])
        self.rack.wait_node(asked, other, "refused")
        self.assertIn("not an expert node",
                      self.rack.node_status(asked, other)["why"])
        self.assertNotEqual("", self.rack.generate(asked, PROMPT))

    def test_a_client_of_another_cluster_is_refused(self):
        asked = self.rack.coordinator((), "--cluster", "here")
        result = self.rack.generating(asked, PROMPT, "--cluster",
                                      "elsewhere").result()
        self.assert_fails(result, asked.endpoint, "'here'", "'elsewhere'")
        self.assertNotEqual("", self.rack.generate(asked, PROMPT, "--cluster",
                                                   "here"))

    def test_a_client_that_asks_a_node_is_told(self):
        node = self.rack.node()
        result = self.rack.generating(node, PROMPT).result()
        self.assert_fails(result, node.endpoint, "node")


class Messages(RackTest):
    """Damaged messages on all three ports of a rack that serves."""

    DAMAGED = {
        "version-99": "ERR_WRONG_VERSION",
        "header-flipped": "ERR_CHECKSUM",
        "sum-flipped": "ERR_CHECKSUM",
        "header-half": "ERR_MALFORMED",
        "header-empty": "ERR_MALFORMED",
        "payload-flipped": "ERR_CHECKSUM",
        "payload-half": "ERR_CHECKSUM",
        "payload-none": "ERR_MALFORMED",
        "payload-extra": "ERR_MALFORMED",
        "many-parts": "-",  # dropped: there may be no header to answer
        "part-large": "-",  # ZeroMQ ends the connection
    }

    def setUp(self):
        super().setUp()
        self.node = self.rack.node()
        self.asked = self.rack.coordinator([self.node], "--no-local-experts")
        self.story = self.rack.generate(self.asked, PROMPT)
        self.ports = {"client": self.asked.endpoint,
                      "control": self.node.endpoint,
                      "data": data_endpoint(self.node)}

    def check_serving(self):
        self.assertEqual(self.story, self.rack.generate(self.asked, PROMPT))
        self.assertFalse(self.node.ended())
        self.assertFalse(self.asked.ended())

    def answers(self, port):
        result = self.rack.start(
            os.path.join(rack.BUILD, "tests/tools/odd_peer"),
            self.ports[port]).result()
        self.assertEqual(0, result.status, result.err)
        return dict(re.match(r"(\S+) (\S+)", line).groups()
                    for line in result.text.splitlines())

    def check_answers(self, port, **special):
        expected = dict(self.DAMAGED)
        expected.update({k.replace("_", "-"): v for k, v in special.items()})
        answers = self.answers(port)
        self.assertIn(answers.pop("noise"), ("ERR_MALFORMED", "ERR_CHECKSUM"))
        self.assertEqual(expected, answers)
        self.check_serving()

    def test_the_client_port_answers_each_with_its_error(self):
        self.check_answers("client", version_next="status",
                           cluster="ERR_WRONG_CLUSTER",
                           boot_id="ERR_WRONG_BOOT",
                           no_such_kind="ERR_MALFORMED",
                           other_model="welcome",  # a client may not know it
                           other_batch="ERR_MALFORMED",
                           header_large="ERR_TOO_LARGE")

    def test_the_control_port_answers_each_with_its_error(self):
        self.check_answers("control", version_next="status",
                           cluster="ERR_WRONG_CLUSTER",
                           boot_id="ERR_WRONG_BOOT",
                           no_such_kind="ERR_MALFORMED",
                           other_model="ERR_WRONG_MODEL",
                           other_batch="ERR_MALFORMED",
                           header_large="-")  # above what the socket takes

    def test_the_data_port_answers_each_with_its_error(self):
        self.check_answers("data", version_next="ERR_MALFORMED",
                           cluster="ERR_MALFORMED", boot_id="ERR_MALFORMED",
                           no_such_kind="ERR_MALFORMED",
                           other_model="ERR_MALFORMED",
                           other_batch="ERR_WRONG_MODEL",
                           header_large="ERR_TOO_LARGE")

    # ---- below messages ----

    GREETING = (b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" +
                b"NULL".ljust(20, b"\0") + bytes(32))

    @staticmethod
    def connected(endpoint):
        host, port = endpoint.split("//")[1].rsplit(":", 1)
        return socket.create_connection((host, int(port)), rack.PATIENCE_S)

    def send_raw(self, port, *pieces):
        """To a connection of its own; who is asked may close it any time."""
        with self.connected(self.ports[port]) as s:
            try:
                for piece in pieces:
                    s.sendall(piece)
                s.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    @staticmethod
    def ready_command():
        kind = b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        body = b"\x05READY" + kind
        return bytes([FLAG_COMMAND, len(body)]) + body

    def test_noise_below_messages_changes_nothing(self):
        noise = random.Random(7)
        hello = self.GREETING + self.ready_command()
        huge = bytes([FLAG_LONG]) + struct.pack(">Q", 1 << 62)
        for port in self.ports:
            self.send_raw(port)
            self.send_raw(port, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            self.send_raw(port, noise.randbytes(100000))
            self.send_raw(port, self.GREETING[:30])
            self.send_raw(port, self.GREETING, noise.randbytes(5000))
            self.send_raw(port, hello, noise.randbytes(5000))
            self.send_raw(port, hello, huge, bytes(1000))
            self.send_raw(port, hello, bytes([FLAG_MORE, 3]) + b"abc")
            self.send_raw(port, hello, bytes([0, 200]) + bytes(50))
            for _ in range(20):
                self.send_raw(port, hello, bytes([0, 40]), noise.randbytes(40))
        self.check_serving()

    def test_silent_connections_do_not_hold_up_others(self):
        held = [self.connected(where)
                for where in self.ports.values() for _ in range(30)]
        self.check_serving()
        for s in held:
            s.close()
        self.check_serving()


class BadCable(RackTest):
    """A relay between coordinator and node flips bits and cuts connections."""

    def stories_through(self, accident, *damage):
        node = self.rack.node(listen="tcp://127.0.0.1:*")
        ports = [rack.port_of(node.endpoint), rack.port_of(data_endpoint(node))]
        relay = self.rack.start(
            sys.executable, os.path.join(rack.ROOT, "tests/support/damage.py"),
            "--listen", "127.0.0.2", "--to", "127.0.0.1", "--ports",
            ",".join(map(str, ports)), *damage, name="relay")
        relay.wait_ready()
        asked = self.rack.coordinator(["tcp://127.0.0.2:%d" % ports[0]])
        story = self.rack.generate(self.rack.coordinator([node]), PROMPT)
        for _ in range(60):
            self.assertEqual(story, self.rack.generate(asked, PROMPT))
            if relay.out().count(accident) >= 4:
                break
        else:
            self.fail("only %r" % relay.out())
        status = self.rack.status(asked)
        self.assertEqual(0, status["dispatch"]["lost_pairs"])
        self.assertEqual(0, status["requests"]["failed"])

    def test_flipped_bits_change_no_token(self):
        self.stories_through(b"flip", "--flip-every", "30000")

    def test_cut_connections_change_no_token(self):
        self.stories_through(b"cut", "--cut-every", "50000")


class Requests(RackTest):
    def test_a_full_queue_refuses_at_once(self):
        # Its node stops in the long story, which is not over before it goes on.
        node = self.rack.node(
            env={"ROSTER_FAILPOINTS": "node.compute=stop@1000"})
        asked = self.rack.coordinator(
            [node], "--no-local-experts", "--park-timeout", "0",
            "--max-running", "1", "--max-queued", "1")
        alone = self.rack.generate(asked, PROMPT)
        long = self.rack.generating(asked, "The big dog", "--ignore-end", n=440)
        rack.wait_until(node.stopped, "the first runs")
        queued = self.rack.generating(asked, PROMPT)
        self.rack.wait_status(asked, lambda s: s["requests"]["queued"] == 1,
                              "the second waits")
        refused = [self.rack.generating(asked, PROMPT) for _ in range(3)]
        for command in refused:
            self.assert_fails(command.result(), "overloaded", "queue is full")
        self.assertFalse(long.ended(), "the refusals did not come at once")
        node.go_on()
        for command in (long, queued):
            result = command.result()
            self.assertEqual(0, result.status, result.err)
        self.assertEqual(alone, queued.out().decode())
        self.assertEqual(alone, self.rack.generate(asked, PROMPT))

    def test_a_prompt_above_the_context_is_refused(self):
        asked = self.rack.coordinator()
        result = self.rack.generating(asked, "word " * 600).result()
        self.assert_fails(result, "prompt", "tokens", "context",
                          str(rack.CONTEXT))
        self.assertEqual("", result.text)
        self.assertNotEqual("", self.rack.generate(asked, PROMPT))

    def test_a_story_ends_where_the_context_ends(self):
        asked = self.rack.coordinator((), "--context", "64")
        result = self.rack.generating(asked, PROMPT, "--ignore-end", "--stats",
                                      n=500).result()
        self.assertEqual(0, result.status, result.err)
        self.assertIn("generation  59 tokens", result.err)  # 64 - the prompt
        self.assert_fails(self.rack.generating(asked, "word " * 80).result(),
                          "context", "64")

    def test_values_that_cannot_be_used_are_refused(self):
        asked = self.rack.coordinator()
        for options, status in ((["--temp", "-1"], (1, 2)),
                                (["--top-p", "1.5"], (1, 2)),
                                (["--min-p", "2"], (1, 2)),
                                (["--temp", "warm"], (2,)),
                                (["--seed", "-3"], (2,)),
                                (["-n", "many"], (2,))):
            result = self.rack.run("generate", PROMPT, "--endpoint",
                                   asked.endpoint, *options)
            self.assertIn(result.status, status, options)
            self.assertEqual("", result.text)
            self.assertTrue(result.last.startswith("roster generate: "))
        self.assertNotEqual("", self.rack.generate(asked, PROMPT))

    def test_an_empty_prompt_is_told_or_answered(self):
        asked = self.rack.coordinator()
        result = self.rack.generating(asked, "").result()
        self.assertIn(result.status, (0, 1))  # BOS alone is a prompt, too
        if result.status == 1:
            self.assert_fails(result, "prompt")
        self.assertNotEqual("", self.rack.generate(asked, PROMPT))


class Addresses(RackTest):
    """Nothing leaves loopback unless --insecure says so."""

    def check(self, program, *arguments):
        result = self.rack.start(program, *arguments, name="bound").result()
        self.rack.programs[-1].expects = None
        self.assertIn(result.status, (1, 2), result.err)
        self.assertIn("loopback", result.last)
        self.assertIn("--insecure", result.last)
        self.assertEqual("", result.text)

    def test_binding_beyond_loopback_is_refused(self):
        for where in ("tcp://0.0.0.0:*", "tcp://*:7100", "tcp://[::]:0",
                      "tcp://192.0.2.1:7100"):
            self.check("roster-coordinator", rack.STORIES, "--listen", where)
            self.check("roster-expert-node", rack.STORIES, "--listen", where)
        self.check("roster", "up", rack.STORIES, "--nodes", "0", "--endpoint",
                   "tcp://0.0.0.0:*")

    def test_connecting_beyond_loopback_is_refused(self):
        self.check("roster", "generate", PROMPT, "--endpoint",
                   "tcp://192.0.2.1:7100")
        self.check("roster", "status", "--endpoint", "tcp://192.0.2.1:7100")
        self.check("roster-coordinator", rack.STORIES, "--listen",
                   "tcp://127.0.0.1:*", "--node", "tcp://192.0.2.1:7101")

    def test_insecure_allows_it(self):
        node = self.rack.node("--insecure", listen="tcp://0.0.0.0:*")
        asked = self.rack.coordinator(
            ["tcp://127.0.0.1:%d" % rack.port_of(node.endpoint)], "--insecure",
            "--no-local-experts", listen="tcp://0.0.0.0:*")
        asked.endpoint = "tcp://127.0.0.1:%d" % rack.port_of(asked.endpoint)
        self.assertNotEqual("", self.rack.generate(asked, PROMPT))

    def test_a_port_in_use_is_named(self):
        first = self.rack.coordinator()
        for program in ("roster-coordinator", "roster-expert-node"):
            second = self.rack.start(program, rack.STORIES, "--listen",
                                     first.endpoint)
            second.expects = None
            self.assert_fails(second.result(), first.endpoint, "in use")


class Files(RackTest):
    """A bad model file ends every program with a sentence, never a crash."""

    def commands(self, model):
        out = os.path.join(self.rack.folder, "out.f32")
        yield "roster-coordinator", (model, "--listen", "tcp://127.0.0.1:*")
        yield "roster-expert-node", (model, "--listen", "tcp://127.0.0.1:*")
        yield "roster", ("tokenize", model)
        yield "roster", ("eval", model, "--tokens", "1,2", "--logits", out)

    def check(self, model, *words, programs=None):
        for program, arguments in self.commands(model):
            if programs is not None and program not in programs:
                continue
            started = self.rack.start(program, *arguments, name="bad")
            started.expects = None
            result = started.result()
            self.assert_fails(result, os.path.basename(model), *words)
            self.assertEqual("", result.text)
        self.assertEqual([], [f for f in os.listdir(self.rack.folder)
                              if f.startswith("out.f32")])

    def write(self, name, data):
        path = os.path.join(self.rack.folder, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def small(self):
        with open(rack.make_model(self.rack.folder, "whole.gguf"), "rb") as f:
            return f.read()

    def test_files_that_are_no_models(self):
        self.check(os.path.join(self.rack.folder, "missing.gguf"),
                   "no such file")
        self.check(self.write("empty.gguf", b""))
        self.check(self.write("noise.gguf",
                              random.Random(3).randbytes(5000)),
                   "not a gguf file")
        self.check(self.write("text.gguf", b"Once upon a time " * 100),
                   "not a gguf file")
        os.mkdir(os.path.join(self.rack.folder, "folder.gguf"))
        self.check(os.path.join(self.rack.folder, "folder.gguf"))

    def test_files_that_are_cut_off(self):
        whole = self.small()
        lengths = [3, 4, 8, 20, 24, 60, 200, len(whole) // 10,
                   len(whole) // 2, len(whole) - 1]
        for length in lengths[::3] if rack.QUICK else lengths:
            self.check(self.write("cut-%d.gguf" % length, whole[:length]))

    def test_files_with_impossible_numbers(self):
        whole = self.small()
        for name, at, value, words in (
                ("version", 4, struct.pack("<I", 77), ("version",)),
                ("tensors", 8, struct.pack("<Q", 1 << 60), ("tensor",)),
                ("keys", 16, struct.pack("<Q", 1 << 60), ()),
                ("key-length", 24, struct.pack("<Q", 1 << 62), ())):
            data = whole[:at] + value + whole[at + len(value):]
            self.check(self.write(name + ".gguf", data), *words)

    def test_a_model_in_a_read_only_folder_works(self):
        folder = os.path.join(self.rack.folder, "read-only")
        os.mkdir(folder)
        model = os.path.join(folder, "model.gguf")
        shutil.copy(rack.make_model(self.rack.folder), model)
        os.chmod(folder, 0o555)
        self.addCleanup(os.chmod, folder, 0o755)
        how = {}
        if os.geteuid() == 0:  # whom no mode keeps from writing
            os.chmod(self.rack.folder, 0o755)
            how = {"user": 65534, "group": 65534, "extra_groups": []}
            if not self.usable_by_others():
                rack.skip("a read-only folder: only root can run the programs")
        out = os.path.join("/tmp" if how else self.rack.folder,
                           "roster-%d.f32" % os.getpid())
        result = self.rack.run("eval", model, "--tokens", "1,2", "--logits",
                               out, "--nodes", "2", **how)
        self.addCleanup(lambda: os.path.exists(out) and os.remove(out))
        self.assertEqual(0, result.status, result.err)
        self.assertEqual(["model.gguf"], os.listdir(folder))

    def usable_by_others(self):
        try:
            probe = self.rack.run("--version", user=65534, group=65534,
                                  extra_groups=[])
        except OSError:
            return False
        return probe.status == 0


class Usage(RackTest):
    """Wrong usage is exit status 2, and the sentence names the option."""

    def check(self, program, *arguments, words=()):
        with self.subTest(" ".join((program,) + arguments)):
            started = self.rack.start(program, *arguments, name="usage")
            started.expects = None
            result = started.result()
            self.assert_fails(result, *words, status=2)
            self.assertEqual("", result.text)

    def test_options_that_nobody_knows(self):
        for program in ("roster-coordinator", "roster-expert-node"):
            self.check(program, rack.STORIES, "--wrong", words=["--wrong"])
            self.check(program)
            self.check(program, rack.STORIES, "another.gguf")
        for command in ("up", "generate", "chat", "eval", "tokenize",
                        "detokenize", "template", "inspect", "perplexity",
                        "status"):
            self.check("roster", command, "--wrong", words=["--wrong"])
        self.check("roster", "sing", words=["sing"])
        self.check("roster")

    def test_values_that_make_no_sense(self):
        node, coordinator = "roster-expert-node", "roster-coordinator"
        for program, option, value in (
                (node, "--share", "2/2"), (node, "--share", "0/2x3"),
                (node, "--share", "half"), (node, "--experts", "0:99"),
                (node, "--experts", "9:0"), (node, "--listen", "here"),
                (node, "--data-port", "70000"), (node, "--threads", "-1"),
                (coordinator, "--listen", "http://127.0.0.1:80"),
                (coordinator, "--kv", "f8"), (coordinator, "--timeout", "1ms"),
                (coordinator, "--max-running", "0"),
                (coordinator, "--node", "127.0.0.1"),
                (coordinator, "--local-memory", "much")):
            # The sentence quotes the value or names the option.
            word = value if option in ("--listen", "--node") else option
            self.check(program, rack.STORIES, option, value,
                       words=[word.lstrip("-")])
        self.check(node, rack.STORIES, "--share", "0/2", "--experts", "*:0")
        self.check("roster", "generate", PROMPT, "--endpoint",
                   "tcp://127.0.0.1:1", "--model", rack.STORIES)
        self.check("roster", "eval", rack.STORIES, "--logits", "x")
        self.check("roster", "eval", rack.STORIES, "--tokens", "1,b",
                   "--logits", "x", words=["'b'"])
        self.check("roster", "up", rack.STORIES, "--nodes", "2", "--replicas",
                   "3", words=["--replicas"])


if __name__ == "__main__":
    unittest.main()
