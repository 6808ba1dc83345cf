"""Nodes without a model file fetch what they hold from a coordinator: in a fixed
list and in a rack, from one file and from several, past coordinators that die,
lines that flip bits and files that change; never with more memory than their
experts need.
"""
import os
import re
import shutil
import sys
import tempfile
import time
import unittest

import rack
from etcd import EtcdTest, free_ports
from rack import RackTest

PROMPT = "Once upon a time"
UNITS = rack.LAYERS * rack.EXPERTS
EXPERT_BYTES = 3 * 256 * 256 * 34 // 32  # of the story model, as stored
SPARE = 64 * 10**6  # a node's memory beside its experts
SPLIT = os.path.join(rack.ROOT, "tests/golden/data/split")
DAMAGE = os.path.join(rack.ROOT, "tests/support/damage.py")

# About 210 MB, nearly all of it experts.
LARGE = dict(layers=2, width=1024, heads=8, kv_heads=2, head_dim=128,
             expert_width=2048, experts=16, used=2, vocab=259, context=256,
             type="q8_0")
LARGE_UNITS = LARGE["layers"] * LARGE["experts"]
LARGE_EXPERT_BYTES = 3 * LARGE["width"] * LARGE["expert_width"] * 34 // 32


def peak_bytes(pid):
    """The most that the process ever held in memory."""
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1)) * 1024


def is_connected_to(port):
    """Has somebody on this machine a connection to that port?"""
    with open("/proc/net/tcp") as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return any(int(row[2].split(":")[1], 16) == port and row[3] == "01"
               for row in rows)


def told_alone(model, prompt=PROMPT, n=64):
    """The story as a coordinator tells it without nodes."""
    alone = rack.Rack(model)
    try:
        return alone.generate(alone.coordinator(), prompt, n=n)
    finally:
        alone.finish()
        alone.close()


def split_model(folder):
    """The first file of a model in three, with no checksums beside it yet."""
    if not os.path.isdir(SPLIT):
        rack.skip("split model files (%s is not there)" % SPLIT)
    for name in sorted(os.listdir(SPLIT)):
        if name.endswith(".gguf"):
            shutil.copy(os.path.join(SPLIT, name), folder)
    return os.path.join(folder, "mixtral-00001-of-00003.gguf")


class FixedList(RackTest):
    """--weights-from; the nodes are started first and wait."""

    def start(self, *shares, model=None, options=()):
        ports = free_ports(len(shares) + 1)
        weights = "tcp://127.0.0.1:%d" % ports[-1]
        nodes = [self.rack.start(
            "roster-expert-node", "--weights-from", weights, "--listen",
            "tcp://127.0.0.1:%d" % port, "--data-port", free_ports(1)[0],
            "--threads", 1, "--name", "node-%d" % i, *share, name="puller")
            for i, (port, share) in enumerate(zip(ports, shares))]
        for node in nodes:
            node.wait_log("fetching the model from " + weights)
            self.assertEqual(b"", node.out())
        asked = self.rack.start_coordinator(
            ["tcp://127.0.0.1:%d" % port for port in ports[:-1]],
            "--weights-listen", weights, "--no-local-experts",
            "--start-timeout", "60s", *options, model=model)
        for program in nodes + [asked]:
            program.wait_ready()
        return asked, nodes

    def test_shares_are_pulled_and_tell_the_same_story(self):
        asked, nodes = self.start(["--share", "0/2"], ["--share", "1/2"])
        self.assertEqual(told_alone(self.rack.model),
                         self.rack.generate(asked, PROMPT))
        status = self.rack.status(asked)
        self.assertEqual([48, 48], [n["held"] for n in status["nodes"]])
        self.assertGreaterEqual(status["weights"]["bytes"],
                                UNITS * EXPERT_BYTES)
        # Once loaded, they need the source no more.
        asked.terminate()
        again = self.rack.coordinator(nodes, "--no-local-experts")
        self.assertNotEqual("", self.rack.generate(again, PROMPT))

    def test_slices_and_listed_experts_are_pulled(self):
        """And one node has the file: nobody can tell."""
        story = told_alone(self.rack.model)
        asked, _ = self.start(
            ["--slices", 4, "--share", "0/2"],
            ["--slices", 4, "--share", "1/2"], options=["--slices", 4])
        self.assertEqual(story, self.rack.generate(asked, PROMPT))
        asked.terminate()
        asked, _ = self.start(["--experts", "*:0-7"], ["--experts", "*:8-15"])
        self.assertEqual(story, self.rack.generate(asked, PROMPT))

    def test_biases_and_merged_tensors_are_pulled(self):
        """In slices, with what an expert of gpt-oss has beside its matrices."""
        shape = dict(arch="gpt-oss", expert_width=256, down_type="q4_0")
        two = rack.make_model(self.rack.folder, "two.gguf", **shape)
        one = rack.make_model(self.rack.folder, "one.gguf", merged=True,
                              **shape)
        story = told_alone(two, n=24)
        for model in (two, one):
            asked, nodes = self.start(
                ["--slices", 4, "--share", "0/2"],
                ["--slices", 4, "--share", "1/2"], model=model,
                options=["--slices", 4])
            self.assertEqual(story, self.rack.generate(asked, PROMPT, n=24))
            status = self.rack.status(asked)
            self.assertEqual([16, 16], [n["held"] for n in status["nodes"]])
            self.assertEqual(0, status["dispatch"]["local_pairs"])
            for program in [asked] + nodes:
                program.terminate()

    def test_a_split_model_is_pulled(self):
        model = split_model(self.rack.folder)
        asked, _ = self.start(["--share", "0/2"], ["--share", "1/2"],
                              model=model)
        self.assertEqual(told_alone(model, n=24),
                         self.rack.generate(asked, PROMPT, n=24))

    def test_a_source_that_does_not_fit_ends_the_node(self):
        """Nothing heals by waiting: another cluster, and what is no source."""
        asked = self.rack.coordinator((), "--cluster", "elsewhere")
        source = self.rack.status(asked)["weights"]["endpoint"]
        for endpoint, words in ((source, ("'elsewhere'",)),
                                (asked.endpoint, ())):
            node = self.rack.start("roster-expert-node", "--weights-from",
                                   endpoint, "--listen",
                                   "tcp://127.0.0.1:*")
            node.expects = None
            self.assert_fails(node.result(), "roster-expert-node: ", *words)

    def test_a_node_that_waits_can_be_ended(self):
        node = self.rack.start(
            "roster-expert-node", "--weights-from",
            "tcp://127.0.0.1:%d" % free_ports(1)[0], "--listen",
            "tcp://127.0.0.1:*")
        node.wait_log("waiting for a coordinator")
        node.expects = (0, -15)
        node.terminate()


class Pulling(EtcdTest):
    def serves(self, asked, story, *names):
        status = self.wait_placed(asked, names)
        self.assertEqual(story, self.rack.generate(asked, PROMPT))
        self.assertEqual(0, self.rack.status(asked)["dispatch"]["local_pairs"])
        return status


class Files(Pulling):
    def test_one_node_has_the_file_and_one_has_not(self):
        self.etcd.start()
        one = self.start_rack_node(name="one", model=self.rack.model)
        two = self.start_rack_node(name="two")
        asked = self.start_rack_coordinator("--no-local-experts", name="c1")
        asked.wait_ready()
        story = told_alone(self.rack.model)
        status = self.serves(asked, story, "one", "two")
        self.assertEqual({UNITS}, {n["held"] for n in status["nodes"]})
        # Only the one without the file has asked for bytes.
        self.assertLess(status["weights"]["bytes"], 1.5 * UNITS * EXPERT_BYTES)
        for node, other in ((one, "two"), (two, "one")):
            self.drain(asked, other, "--wait")
            self.assertEqual(story, self.rack.generate(asked, PROMPT))
            self.drain(asked, other, "--undo")
            self.wait_placed(asked, ("one", "two"))
            self.assertGreater(
                self.of_node(asked, node.rack_name)["batches"], 0)

    def test_a_split_model(self):
        self.rack.model = split_model(self.rack.folder)
        (asked,) = self.start_rack()
        self.assertEqual(told_alone(self.rack.model, n=24),
                         self.rack.generate(asked, PROMPT, n=24))

    def test_a_byte_that_changes_on_disk_is_refused_by_its_checksum(self):
        """The last expert of the last layer: its units stay away, with their
        tensor's name in the log, until the byte is put right."""
        model = os.path.join(self.rack.folder, "changing.gguf")
        shutil.copy(self.rack.model, model)
        story = told_alone(self.rack.model)
        self.rack.model = model
        self.etcd.start()
        asked = self.start_rack_coordinator(
            "--no-local-experts", "--min-replicas", "1", "--start-timeout",
            "1s", name="c1")
        asked.wait_log("registered in etcd")

        def flip():
            with open(model, "r+b") as f:
                f.seek(-5000, os.SEEK_END)
                byte = f.read(1)[0]
                f.seek(-1, os.SEEK_CUR)
                f.write(bytes([byte ^ 0x40]))

        flip()
        node = self.start_rack_node(name="one")
        node.wait_log("blk.5.ffn_up_exps")
        line = next(l for l in node.err().splitlines()
                    if "blk.5.ffn_up_exps" in l)
        self.assertRegex(line, r"warn .*\b15\b.*checksum")
        asked.wait_ready()
        status = self.rack.wait_status(
            asked, lambda s: any(n["held"] == UNITS - 1 for n in s["nodes"]),
            "all others are held")
        told = status["nodes"][0]
        self.assertEqual((UNITS, UNITS - 1), (told["assigned"], told["held"]))
        self.assertEqual(1, status["coverage"]["unheld"])
        flip()
        self.serves(asked, story, "one")
        warnings = [l for l in node.err().splitlines() if "checksum" in l]
        self.assertLess(len(warnings), 20 + time.monotonic() - node.began)


class BadLine(Pulling):
    """The way to the weights leads over a relay that flips bits."""

    def start_behind_relay(self, name, flip_every, seed=1):
        """A coordinator that is known at the relay's address."""
        weights, client = free_ports(2)
        relay = self.rack.start(
            sys.executable, DAMAGE, "--listen", "127.0.0.2", "--to",
            "127.0.0.1", "--ports", "%d,%d" % (weights, client),
            "--flip-every", flip_every, "--seed", seed, name="relay")
        rack.wait_until(lambda: b"ready" in relay.out(), "the relay is there")
        asked = self.start_rack_coordinator(
            "--no-local-experts", "--weights-listen",
            "tcp://127.0.0.1:%d" % weights, "--advertise", "127.0.0.2",
            name=name, listen="tcp://127.0.0.1:%d" % client)
        return asked, relay

    def test_flipped_bits_are_caught_and_asked_for_again(self):
        """About one in eight pieces is damaged."""
        self.etcd.start()
        asked, relay = self.start_behind_relay("c1", 2000000)
        node = self.start_rack_node(name="one")
        asked.wait_ready()
        self.serves(asked, told_alone(self.rack.model), "one")
        self.assertIn(b"flip", relay.out())
        self.assertRegex(node.err(),
                         r"warn .*(damaged|cannot (load|fetch))"
                         r".*(checksum|malformed)")

    def test_a_clean_source_takes_the_place_of_a_bad_one(self):
        """Nothing whole comes through the bad line, and all from the other."""
        self.etcd.start()
        bad, relay = self.start_behind_relay("c1", 20000)
        bad.wait_log("registered in etcd")
        for name in ("one", "two"):
            self.start_rack_node(name=name).wait_log("cannot fetch")
        clean = self.start_rack_coordinator("--no-local-experts", name="c2")
        clean.wait_ready()
        self.serves(clean, told_alone(self.rack.model), "one", "two")
        self.assertIn(b"flip", relay.out())


class Large(Pulling):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if rack.SANITIZED:
            rack.skip("large models: sanitized kernels take minutes")
        cls.folder = tempfile.mkdtemp(prefix="roster-large-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.model = rack.make_model(cls.folder, **LARGE)
        cls.story = told_alone(cls.model)

    def check_memory(self, node, held):
        self.assertLessEqual(peak_bytes(node.pid),
                             1.1 * held * LARGE_EXPERT_BYTES + SPARE)

    def source_of(self, node, coordinators):
        """The one of them whose weights the only node is connected to."""
        node.wait_log("to load")

        def source():
            for asked in coordinators:
                record = self.document("coordinators", asked.rack_name)
                if is_connected_to(rack.port_of(record["weights"])):
                    return asked
            return None

        return rack.wait_until(source, "the node fetches from somebody")

    def test_memory_stays_bounded_while_experts_are_pulled(self):
        """It is the most that the node ever had that counts."""
        (asked,) = self.start_rack(
            options=("--no-local-experts", "--min-replicas", "1"))
        status = self.serves(asked, self.story, "one", "two")
        held = {n["name"]: n["held"] for n in status["nodes"]}
        self.assertEqual(LARGE_UNITS, sum(held.values()))
        for name, node in self.nodes.items():
            self.check_memory(node, held[name])

    def test_another_coordinator_goes_on_as_the_source(self):
        self.etcd.start()
        asked = [self.start_rack_coordinator("--no-local-experts", name=c)
                 for c in ("c1", "c2")]
        for c in asked:
            c.wait_log("registered in etcd")
        node = self.start_rack_node(name="one")
        node.wait_ready()
        dying = self.source_of(node, asked)
        dying.kill()
        other = next(c for c in asked if c is not dying)
        other.wait_ready()
        self.serves(other, self.story, "one")
        self.check_memory(node, LARGE_UNITS)

    def test_a_node_waits_for_its_only_source(self):
        self.etcd.start()
        asked = self.start_rack_coordinator("--no-local-experts", name="c1")
        asked.wait_log("registered in etcd")
        # It stops itself with some of it loaded.
        node = self.start_rack_node(
            "--cache", os.path.join(self.rack.folder, "cache"), name="one",
            env={"ROSTER_FAILPOINTS": "unit_cache.write=stop@20"})
        rack.wait_until(node.stopped, "the node loads")
        asked.kill()
        node.go_on()
        node.wait_log("cannot load")
        self.assertFalse(node.ended())
        again = self.start_rack_coordinator("--no-local-experts", name="c1")
        again.wait_ready()
        self.serves(again, self.story, "one")
        self.assertEqual(LARGE_UNITS, self.of_node(again, "one")["held"])
        # Said, but not again and again.
        self.assertLess(node.err().count("cannot load"),
                        40 + time.monotonic() - node.began)


del Pulling  # a base, not a test

if __name__ == "__main__":
    unittest.main()
