"""What stands in etcd may be wrong: damaged, nonsense, or somebody's malice.  Nobody
falls over it, stories are told on, each thing is named in the log (and not again
and again), and all is as before when it is gone.  And etcd itself may ask for
TLS and a password.
"""
import base64
import json
import os
import ssl
import subprocess
import unittest

import rack
from etcd import EtcdTest

PROMPT = "Once upon a time"
UNITS = rack.LAYERS * rack.EXPERTS
WORDS = 24  # of a story
PASSWORD = "a rack's own secret"


def b64(data):
    return base64.b64encode(data).decode()


class Hostile(EtcdTest):
    """A rack of two nodes and two coordinators that tell stories, while one
    thing after another is put into etcd and taken away again."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        alone = rack.Rack()
        cls.addClassCleanup(alone.close)
        cls.story = alone.generate(alone.coordinator(), PROMPT, n=WORDS)
        alone.finish()

    def setUp(self):
        super().setUp()
        self.asked = self.start_rack(
            coordinators=("c1", "c2"),
            options=("--no-local-experts", "--replace-after", "2s"))
        self.everybody = self.asked + list(self.nodes.values())
        self.teller = self.tell_on(self.asked, self.story, n=WORDS)
        self.read = {}

    # ---- what they say ----

    def complaints(self, program, words=""):
        """Warnings of this turn."""
        said = program.err()[self.read.get(program.name, 0):].splitlines()
        return [line for line in said
                if (" warn " in line or " error " in line) and words in line]

    def named(self, words, programs=None, most=1):
        """Each of them names it, and not again and again."""
        programs = self.everybody if programs is None else programs
        for program in programs:
            rack.wait_until(lambda p=program: self.complaints(p, words),
                            "'%s' in a warning of %s" % (words, program.name))
        self.teller.wait_more()
        for program in programs:
            said = self.complaints(program, words)
            self.assertLessEqual(len(said), most, said)

    def check_follows(self):
        """The rack is whole, and takes an operator's wish."""
        for c in self.asked:
            self.wait_placed(c, ("one", "two"))
        self.drain(self.asked[0], "two")
        for c in self.asked:
            self.rack.wait_status(
                c, lambda s: any(n["name"] == "two" and n["draining"] and
                                 n["held"] == 0 for n in s["nodes"]),
                "node two is empty")
        self.drain(self.asked[1], "two", "--undo")
        for c in self.asked:
            status = self.wait_placed(c, ("one", "two"))
            self.assertTrue(status["placement"]["survives_largest"])
            self.assertFalse(status["etcd"]["rolled_back"])
            self.assertEqual("", status["frozen"])

    def turn(self, attack, most):
        """Do it, and see that nobody minds for long; `most` warnings at all
        may each process write."""
        for program in self.everybody:
            self.read[program.name] = len(program.err())
        attack()
        self.check_follows()
        self.teller.wait_more(1)
        self.assertEqual([], self.teller.wrong[:3], attack.__name__)
        self.assertEqual([], [p.name for p in self.everybody if p.ended()])
        for program in self.everybody:
            said = self.complaints(program)
            self.assertLessEqual(len(said), most, said)
        for c in self.asked:
            self.assertEqual(0, self.rack.status(c)["requests"]["failed"])

    # ---- records ----

    def garbage_in_every_kind_of_record(self):
        values = (b"", b"\0\xff\xfe garbage", b"{", b"[]", b"{}",
                  b'{"boot":"0000000000000000"}', b'{"boot":1}' * 3,
                  b'{"boot":"' + b"f" * 100000 + b'"}', b"[" * 200000)
        keys = [self.key(kind, "evil") for kind in
                ("nodes", "coordinators", "ready", "drain")]
        for key in keys:
            for value in values:
                self.etcd.put(key, value)
            self.named(key, most=len(values))
        for c in self.asked:
            self.assertEqual(["one", "two"], sorted(
                n["name"] for n in self.rack.status(c)["nodes"]))
        for key in keys:
            self.etcd.delete(key)

    def keys_that_are_none_of_ours(self):
        """They are nobody's business: not even a line."""
        names = [name.encode() for name in (
            "nodes/a/b", "nodes/", "placement/layer/x", "other",
            "placement/layer/99999", "nodes/" + "n" * 1000)]
        keys = [self.key().encode() + name
                for name in names + [b"nodes/\xff\x01\n"]]
        for key in keys:
            self.etcd.ask("kv/put", {"key": b64(key), "value": b64(b"{}")})
        self.teller.wait_more(1)
        for key in keys:
            self.etcd.ask("kv/deleterange", {"key": b64(key)})

    def huge_documents(self):
        """Near what etcd takes in one request."""
        large = b"x" * 1000000
        records = [self.key("nodes", "large-%d" % i) for i in range(4)]
        for key in records:
            self.etcd.put(key, large)
            self.named(key)
        # All at once, when everything is listed.
        late = self.start_rack_coordinator("--no-local-experts", name="c3")
        self.named(records[-1], [late])
        late.wait_ready()
        late.terminate()
        for key in records:
            self.etcd.delete(key)

    def a_leader_key_with_nonsense(self):
        key = self.key("leader")
        for value in (b"nonsense", b"{}"):
            self.etcd.put(key, value)
        self.named(key, most=2)
        self.etcd.put(key, json.dumps({"name": "evil", "boot": "1" * 16}))
        for c in self.asked:
            self.rack.wait_status(
                c, lambda s: s["leader"] == "evil" and
                not s["etcd"]["leading"], "nobody of the rack leads")
        self.teller.wait_more(2)
        self.etcd.delete(key)
        for c in self.asked:
            self.rack.wait_status(c, lambda s: s["leader"] in ("c1", "c2"),
                                  "somebody leads again")

    def two_nodes_of_one_endpoint(self):
        """A second name for node one: who answers there calls itself one."""
        record = self.document("nodes", "one")
        record["boot"] = "1234567812345678"
        self.etcd.put(self.key("nodes", "evil"), json.dumps(record))
        for c in self.asked:
            self.rack.wait_status(
                c, lambda s: any(n["name"] == "evil" and
                                 "calls itself 'one'" in n["why"]
                                 for n in s["nodes"]), "it is refused")
        self.named("calls itself 'one'", self.asked)
        for c in self.asked:
            told = self.of_node(c, "evil")
            self.assertEqual((0, 0), (told["held"], told["batches"]))
        self.etcd.delete(self.key("nodes", "evil"))

    def own_records_are_written_over(self):
        """Whose it is puts it back, once the way is free."""
        for parts in (("nodes", "two"), ("coordinators", "c2"),
                      ("ready", "one")):
            good = self.document(*parts)
            self.etcd.put(self.key(*parts), "nonsense")
            self.teller.wait_more(1)
            self.etcd.delete(self.key(*parts))
            rack.wait_until(lambda p=parts: self.etcd.get(self.key(*p)),
                            "%s/%s is registered again" % parts)
            self.assertEqual(good["boot"], self.document(*parts)["boot"])

    def test_records_that_are_wrong(self):
        self.turn(self.garbage_in_every_kind_of_record, most=40)
        self.turn(self.keys_that_are_none_of_ours, most=0)
        self.turn(self.huge_documents, most=5)
        self.turn(self.a_leader_key_with_nonsense, most=6)
        self.turn(self.two_nodes_of_one_endpoint, most=4)
        self.turn(self.own_records_are_written_over, most=10)

    # ---- placements ----

    def put_epoch(self, **changes):
        """The epoch's record with some members changed; as it was before."""
        key = self.key("placement", "epoch")
        before = self.etcd.get(key)
        self.etcd.put(key, json.dumps({**json.loads(before), **changes}))
        return before

    def put_back(self, before):
        self.etcd.put(self.key("placement", "epoch"), before)

    def next_epoch(self):
        return self.document("placement", "epoch")["epoch"] + 1

    def a_layer_with_flipped_bytes(self):
        key = self.key("placement", "layer", 3)
        good = self.etcd.get(key)
        for at in (0, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[at] ^= 0x10
            self.etcd.put(key, bytes(bad))
        self.named(key, most=3)
        self.etcd.put(key, b"x" * 1000000)
        self.etcd.put(key, good)

    def an_epoch_that_went_back(self):
        before = self.put_epoch(epoch=1)
        self.named("an older one", self.asked)
        for c in self.asked:
            self.rack.wait_status(c, lambda s: s["etcd"]["rolled_back"],
                                  "it is known")
        self.teller.wait_more(1)
        self.put_back(before)
        for c in self.asked:
            self.rack.wait_status(c, lambda s: not s["etcd"]["rolled_back"],
                                  "it is known to be gone")

    def an_epoch_that_cannot_be_read(self):
        key = self.key("placement", "epoch")
        before = self.etcd.get(key)
        for value in (b"garbage", b"{}", b"x" * 1000000):
            self.etcd.put(key, value)
        self.named(key, most=3)
        self.put_back(before)

    def an_epoch_of_another_shape(self):
        epoch = self.next_epoch()
        for changes in ({"n_experts": 8}, {"n_layers": 3}, {"slices": 3},
                        {"n_layers": 100000}, {"nodes": ["one", "one"]},
                        {"nodes": ["one"]}):
            before = self.put_epoch(epoch=epoch, **changes)
            self.teller.wait_more(1)
            self.put_back(before)

    def an_epoch_of_another_model(self):
        before = self.put_epoch(epoch=self.next_epoch(), model="ab" * 32)
        self.named("another model")
        self.put_back(before)

    def a_node_that_does_not_exist(self):
        """The leader finds another holder for what it would have held."""
        nodes = self.document("placement", "epoch")["nodes"]
        self.put_epoch(epoch=self.next_epoch(), nodes=[
            "ghost" if n == "two" else n for n in nodes])
        rack.wait_until(
            lambda: "two" in self.document("placement", "epoch")["nodes"],
            "node two is placed again")

    def test_placements_that_are_wrong(self):
        self.turn(self.a_layer_with_flipped_bytes, most=12)
        self.turn(self.an_epoch_that_went_back, most=3)
        self.turn(self.an_epoch_that_cannot_be_read, most=10)
        self.turn(self.a_node_that_does_not_exist, most=4)

    def test_placements_of_another_rack(self):
        """The number is newer, and what it stands for is not ours."""
        self.turn(self.an_epoch_of_another_shape, most=20)
        self.turn(self.an_epoch_of_another_model, most=4)


# ---- TLS and passwords ----


def make_certificates(folder):
    """A CA, another CA, and a server's certificate of the first."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True,
                       stdin=subprocess.DEVNULL, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "2"]
    for ca in ("ca", "other"):
        openssl("req", "-x509", *curve, "-subj", "/CN=%s" % ca, "-keyout",
                ca + ".key", "-out", ca + ".pem")
    with open(os.path.join(folder, "san"), "w") as f:
        f.write("subjectAltName=IP:127.0.0.1\n")
    openssl("req", *curve, "-subj", "/O=etcd", "-keyout", "server.key",
            "-out", "server.csr")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey",
            "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san",
            "-out", "server.pem")


class Guarded(EtcdTest):
    """Etcd with TLS, and with passwords."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        alone = rack.Rack()
        cls.addClassCleanup(alone.close)
        cls.story = alone.generate(alone.coordinator(), PROMPT, n=WORDS)
        alone.finish()

    def file(self, name, text):
        path = os.path.join(self.etcd.folder, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def use_tls(self):
        make_certificates(self.etcd.folder)
        at = lambda name: os.path.join(self.etcd.folder, name)
        for member in self.etcd.members:
            member.url = member.url.replace("http://", "https://")
            member.options = ("--cert-file", at("server.pem"), "--key-file",
                              at("server.key"))
            member.context = ssl.create_default_context(cafile=at("ca.pem"))
        return at("ca.pem"), at("other.pem")

    def use_passwords(self):
        """A superuser for the test, and one for the rack's keys alone."""
        ask = self.etcd.ask
        ask("auth/user/add", {"name": "root", "password": "root's"})
        ask("auth/role/add", {"name": "root"})
        ask("auth/user/grant", {"user": "root", "role": "root"})
        ask("auth/user/add", {"name": "rack", "password": PASSWORD})
        ask("auth/role/add", {"name": "rack"})
        ask("auth/role/grant", {"name": "rack", "perm": {
            "permType": "READWRITE", "key": b64(b"/roster/"),
            "range_end": b64(b"/roster0")}})
        ask("auth/user/grant", {"user": "rack", "role": "rack"})
        ask("auth/enable", {})
        token = ask("auth/authenticate",
                    {"name": "root", "password": "root's"})["token"]
        for member in self.etcd.members:
            member.headers = {"Authorization": token}

    def check_serves(self, *options):
        for name in ("one", "two"):
            self.start_rack_node(*options, name=name)
        asked = self.start_rack_coordinator("--no-local-experts", *options,
                                            name="c1")
        asked.wait_ready()
        self.wait_placed(asked, ("one", "two"))
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT, n=WORDS))
        self.drain(asked, "two", "--wait")
        return asked

    def check_waits(self, *options, words):
        """A clear line, once, and the process goes on trying."""
        for start in (self.start_rack_node, self.start_rack_coordinator):
            program = start(*options)
            program.wait_log("etcd")
            said = rack.wait_until(lambda p=program: [
                line for line in p.err().splitlines()
                if " warn " in line and any(w in line for w in words)],
                "%s in the log" % (words,))
            self.assertLessEqual(len(said), 2, said)
            self.assertFalse(program.ended())
            self.assertNotIn(PASSWORD, program.err())
            self.assertEqual(0, program.terminate())

    def test_tls(self):
        ca, other = self.use_tls()
        self.etcd.start()
        self.check_serves("--etcd-ca", ca)
        self.check_waits("--etcd-ca", other, words=("certificate",))
        self.check_waits(words=("certificate",))

    def test_passwords(self):
        self.etcd.start()
        self.use_passwords()
        good = self.file("password", PASSWORD + "\n")
        asked = self.check_serves("--etcd-user", "rack",
                                  "--etcd-password-file", good)
        wrong = self.file("wrong", "a guess\n")
        words = ("authentication failed", "password")
        self.check_waits("--etcd-user", "rack", "--etcd-password-file", wrong,
                         words=words)
        self.check_waits("--etcd-user", "nobody", "--etcd-password-file",
                         good, words=words)
        self.check_waits(words=("user name", "user", "permission"))
        self.assertNotIn(PASSWORD, asked.err())
        self.assertEqual(self.story, self.rack.generate(asked, PROMPT, n=WORDS))

    def test_both(self):
        ca, _ = self.use_tls()
        self.etcd.start()
        self.use_passwords()
        good = self.file("password", PASSWORD + "\n")
        self.check_serves("--etcd-ca", ca, "--etcd-user", "rack",
                          "--etcd-password-file", good)

    def test_a_password_can_be_put_right(self):
        """The wrong file, and then a process with the right one."""
        self.etcd.start()
        self.use_passwords()
        wrong = self.file("wrong", "a guess\n")
        node = self.start_rack_node("--etcd-user", "rack",
                                    "--etcd-password-file", wrong, name="one")
        node.wait_log("authentication")
        self.etcd.ask("auth/user/changepw",
                      {"name": "rack", "password": "a guess"})
        asked = self.start_rack_coordinator(
            "--no-local-experts", "--etcd-user", "rack",
            "--etcd-password-file", wrong, name="c1")
        asked.wait_ready()
        self.wait_placed(asked, ("one",))


if __name__ == "__main__":
    unittest.main()
