"""Units on disk: what a node fetched once it does not fetch again, whoever was
killed; what is damaged there is fetched anew; and disks that are full or cannot
be written are said, no more.  Nodes give each other what they hold.
"""
import os
import re
import shutil
import subprocess
import tempfile
import time
import unittest

import rack
from etcd import EtcdTest, free_ports

PROMPT = "Once upon a time"
UNITS = rack.LAYERS * rack.EXPERTS
EXPERT_BYTES = 3 * 256 * 256 * 34 // 32  # of the story model, as stored
MIB = 1 << 20

# Units of 6.4 MiB, which is several pieces.
LARGE = dict(layers=2, width=1024, heads=8, kv_heads=2, head_dim=128,
             expert_width=2048, experts=8, used=2, vocab=259, context=256,
             type="q8_0")
LARGE_BYTES = 16 * 3 * LARGE["width"] * LARGE["expert_width"] * 34 // 32


def told_alone(model, prompt=PROMPT, n=64):
    """The story as a coordinator tells it without nodes."""
    alone = rack.Rack(model)
    try:
        return alone.generate(alone.coordinator(), prompt, n=n)
    finally:
        alone.finish()
        alone.close()


class Keeping(EtcdTest):
    def setUp(self):
        super().setUp()
        self.cache = os.path.join(self.rack.folder, "cache")
        self.port = free_ports(1)[0]

    def start_keeper(self, name="one", cache=None, **how):
        """A node that keeps what it fetches.  `one` has the same address every
        time, so that its name is its own again at once."""
        port = self.port if name == "one" else "*"
        return self.start_rack_node(
            "--cache", cache or self.cache, "--data-port", free_ports(1)[0],
            name=name, listen="tcp://127.0.0.1:%s" % port, **how)

    def start_asked(self, name="c1", *options):
        return self.start_rack_coordinator(
            "--no-local-experts", "--min-replicas", "1", *options, name=name)

    def start_pair(self, **how):
        self.etcd.start()
        asked = self.start_asked()
        node = self.start_keeper(**how)
        asked.wait_ready()
        return asked, node

    def serves(self, asked, story, *names):
        self.wait_placed(asked, names)
        self.assertEqual(story, self.rack.generate(asked, PROMPT))
        self.assertEqual(0, self.rack.status(asked)["dispatch"]["local_pairs"])

    def told(self, node):
        """(MiB fetched, sources, MiB that had been kept) of an assignment."""
        node.wait_log("weights: all is here,")
        found = re.findall(r"all is here, ([0-9.]+) MiB fetched from (\d+) "
                           r"sources?, ([0-9.]+) MiB had been kept",
                           node.err())
        return [float(x) for x in found[-1]]

    def kept_files(self):
        return [os.path.join(self.cache, f)
                for f in sorted(os.listdir(self.cache)) if f.endswith(".unit")]

    def wait_kept(self, n):
        rack.wait_until(lambda: len(self.kept_files()) == n,
                        "%d units are kept" % n)

    def bytes_given(self, asked):
        return self.rack.status(asked)["weights"]["bytes"]


class Kept(Keeping):
    def test_a_node_that_starts_again_fetches_nothing(self):
        story = told_alone(self.rack.model)
        asked, node = self.start_pair()
        self.serves(asked, story, "one")
        self.wait_kept(UNITS)
        self.assertEqual(0, self.told(node)[2])
        before = self.bytes_given(asked)
        node.kill()
        node = self.start_keeper()
        self.serves(asked, story, "one")
        fetched, _, kept = self.told(node)
        self.assertEqual(0, fetched)
        self.assertAlmostEqual(UNITS * EXPERT_BYTES / MIB, kept, delta=0.2)
        self.assertEqual(before, self.bytes_given(asked))

    def test_units_with_biases_are_kept(self):
        self.rack.model = rack.make_model(self.rack.folder, arch="gpt-oss",
                                          merged=True)
        story = told_alone(self.rack.model)
        asked, node = self.start_pair()
        self.serves(asked, story, "one")
        self.wait_kept(8)
        before = self.bytes_given(asked)
        node.kill()
        node = self.start_keeper()
        self.serves(asked, story, "one")
        self.assertEqual(0, self.told(node)[0])
        self.assertEqual(before, self.bytes_given(asked))

    def test_a_node_comes_back_before_its_coordinator(self):
        """Model description and units are kept: only etcd has to be there."""
        story = told_alone(self.rack.model)
        asked, node = self.start_pair()
        self.serves(asked, story, "one")
        self.wait_kept(UNITS)
        asked.kill()
        node.kill()
        node = self.start_keeper()
        node.wait_log("which was kept here")
        node.wait_log("all is resident, %d units" % UNITS)
        asked = self.start_asked("c2")
        asked.wait_ready()
        self.serves(asked, story, "one")
        self.assertEqual(0, self.bytes_given(asked))

    def test_flipped_bytes_in_the_cache_are_caught_and_fetched_anew(self):
        story = told_alone(self.rack.model)
        asked, node = self.start_pair()
        self.serves(asked, story, "one")
        self.wait_kept(UNITS)
        node.kill()
        flipped = self.kept_files()[::10]
        for path in flipped:
            with open(path, "r+b") as f:
                f.seek(EXPERT_BYTES // 2)
                byte = f.read(1)[0]
                f.seek(-1, os.SEEK_CUR)
                f.write(bytes([byte ^ 2]))
        node = self.start_keeper()
        self.serves(asked, story, "one")
        self.assertEqual(len(flipped),
                         node.err().count("is damaged: removed"))
        self.assertAlmostEqual(len(flipped) * EXPERT_BYTES / MIB,
                               self.told(node)[0], delta=0.1)

    def test_a_damaged_model_description_is_fetched_anew(self):
        story = told_alone(self.rack.model)
        asked, node = self.start_pair()
        self.serves(asked, story, "one")
        self.wait_kept(UNITS)
        node.kill()
        (kept,) = [f for f in os.listdir(self.cache)
                   if f.startswith("model-")]
        head = os.path.join(self.cache, kept,
                            os.path.basename(self.rack.model))
        times = os.stat(head)
        with open(head, "r+b") as f:
            f.seek(200)
            f.write(b"?")
        os.utime(head, ns=(times.st_atime_ns, times.st_mtime_ns))
        node = self.start_keeper()
        self.serves(asked, story, "one")
        self.assertIn("is damaged: removed", node.err())
        self.assertEqual(0, self.told(node)[0])  # the units are sound

    def test_two_nodes_share_a_folder(self):
        """What one has fetched the other finds."""
        story = told_alone(self.rack.model)
        asked, node = self.start_pair()
        self.serves(asked, story, "one")
        self.wait_kept(UNITS)
        before = self.bytes_given(asked)
        two = self.start_keeper("two")
        self.drain(asked, "one")
        two.wait_log("all is resident, %d units" % UNITS)
        self.assertEqual(0, self.told(two)[0])
        self.assertEqual(before, self.bytes_given(asked))
        self.assertEqual(story, self.rack.generate(asked, PROMPT))


class Given(Keeping):
    def test_nodes_give_each_other_what_they_hold(self):
        """A new node has its units from the coordinator and both holders."""
        story = told_alone(self.rack.model)
        self.etcd.start()
        asked = self.start_rack_coordinator("--no-local-experts", name="c1")
        for name in ("one", "two"):
            self.start_keeper(name, os.path.join(self.cache, name))
        asked.wait_ready()
        self.serves(asked, story, "one", "two")
        three = self.start_rack_node("--data-port", free_ports(1)[0],
                                     name="three")
        three.wait_log("registered in etcd")

        def fetched():
            """From several, and not most of it from the coordinator.  One that
            is asked late, on a busy computer, may find nothing left to do."""
            self.drain(asked, "three", "--wait")
            self.wait_placed(asked, ("one", "two"))
            before, read = self.bytes_given(asked), len(three.err())
            self.drain(asked, "three", "--undo")
            self.drain(asked, "one")
            self.drain(asked, "two")
            all_here = "all is resident, %d units" % UNITS
            rack.wait_until(lambda: all_here in three.err()[read:],
                            "three has all")
            self.assertEqual(story, self.rack.generate(asked, PROMPT))
            sources = self.told(three)[1]
            given = self.bytes_given(asked) - before
            for name in ("one", "two"):
                self.drain(asked, name, "--undo")
            return sources >= 2 and given < 0.7 * UNITS * EXPERT_BYTES

        rack.wait_until(fetched, "nodes are sources")


class BadDisks(Keeping):
    def test_a_folder_that_cannot_be_used_is_named(self):
        asked, node = self.start_pair(cache="/proc/roster-cache")
        self.serves(asked, told_alone(self.rack.model), "one")
        self.assertEqual(1, node.err().count("/proc/roster-cache"))
        self.assertRegex(node.err(), "warn .*not kept on disk")

    def test_a_full_disk_is_said_once_and_the_node_goes_on(self):
        """A real one: a small tmpfs, filled after the node has looked."""
        small = os.path.join(self.rack.folder, "small")
        os.mkdir(small)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m", "roster", small],
            stderr=subprocess.DEVNULL)
        if mounted.returncode != 0:
            rack.skip("full disk: no tmpfs can be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=True)
        self.etcd.start()
        node = self.start_keeper(cache=os.path.join(small, "cache"))
        node.wait_log("weights are kept in " + small)
        with open(os.path.join(small, "filler"), "wb") as f:
            f.write(bytes(13 * MIB))
        asked = self.start_asked()
        asked.wait_ready()
        node.wait_log("cannot be written")
        self.serves(asked, told_alone(self.rack.model), "one")
        said = [l for l in node.err().splitlines() if "cannot be written" in l]
        minutes = (time.monotonic() - node.began) // 60
        self.assertLessEqual(len(said), 1 + minutes, node.err())
        self.assertRegex(said[0], "warn .*%s.*No space left" % small)


class Killed(Keeping):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if rack.SANITIZED:
            rack.skip("large models: sanitized kernels take minutes")
        cls.folder = tempfile.mkdtemp(prefix="roster-large-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.model = rack.make_model(cls.folder, **LARGE)
        cls.story = told_alone(cls.model)

    def test_a_node_that_is_killed_while_it_writes_goes_on_there(self):
        self.etcd.start()
        asked = self.start_asked()
        node = self.start_keeper(
            env={"ROSTER_FAILPOINTS": "unit_cache.write=kill@101"})
        node.expects = (-9,)
        node.wait()
        node = self.start_keeper()
        asked.wait_ready()
        self.serves(asked, self.story, "one")
        fetched, _, kept = self.told(node)
        self.assertGreater(kept, 20)
        self.assertAlmostEqual(LARGE_BYTES / MIB, fetched + kept, delta=0.5)

    def test_a_source_that_is_killed_loses_its_pieces_to_the_other(self):
        """What had come from it is not fetched again."""
        self.etcd.start()
        asked = [self.start_asked("c1"), self.start_asked("c2")]
        for c in asked:
            c.wait_log("registered in etcd")
        node = self.start_keeper()
        node.wait_log("to load")
        asked[0].kill()
        asked[1].wait_ready()
        self.serves(asked[1], self.story, "one")
        fetched, _, kept = self.told(node)
        self.assertAlmostEqual(LARGE_BYTES / MIB, fetched + kept, delta=8)


del Keeping  # a base, not a test

if __name__ == "__main__":
    unittest.main()
