"""The fault proxy does to connections what it is told, and nothing else.

Plain connections on loopback: no machines are needed.
"""
import contextlib
import socket
import struct
import time
import unittest

import fault_net
import rack

PIECE = 65536
LONG_S = 120


def zmtp_greeting():
    return b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)


def zmtp_frame(body, more=False, command=False):
    flags = (1 if more else 0) | (4 if command else 0)
    if len(body) > 255:
        return struct.pack(">BQ", flags | 2, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


class FaultProxy(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.proxy = fault_net.Proxy(seed=5)
        self.stack.callback(self.proxy.close)
        self.proxy.ask("machine", "me", "127.0.0.1")
        self.server = self.stack.enter_context(
            socket.create_server(("127.0.0.1", 0)))
        self.server.settimeout(LONG_S)
        said = self.proxy.ask("listen", "you", "-", "127.0.0.1:0", "-",
                              "127.0.0.1:%d" % self.server.getsockname()[1])
        self.port = int(said[1])

    def connect(self):
        near = self.stack.enter_context(
            socket.create_connection(("127.0.0.1", self.port), LONG_S))
        far = self.stack.enter_context(self.server.accept()[0])
        far.settimeout(LONG_S)
        return near, far

    def receive(self, sock, n):
        """n bytes, or what came until the end."""
        got = b""
        while len(got) < n:
            piece = sock.recv(min(PIECE, n - len(got)))
            if not piece:
                break
            got += piece
        return got

    def through(self, sender, receiver, data):
        sender.sendall(data)
        return self.receive(receiver, len(data))

    def assert_silent(self, sock, seconds=0.2):
        sock.settimeout(seconds)
        with self.assertRaises(TimeoutError):
            sock.recv(1)
        sock.settimeout(LONG_S)

    def assert_refused(self):
        """A new connection is reset, if not at once then soon."""
        with self.assertRaises(ConnectionResetError):
            near = self.stack.enter_context(
                socket.create_connection(("127.0.0.1", self.port), LONG_S))
            near.recv(1)

    def assert_reset(self, sock):
        with self.assertRaises(ConnectionResetError):
            while sock.recv(PIECE):
                pass
            raise ConnectionAbortedError("an orderly end")

    # ---- without a fault ----

    def test_bytes_pass_both_ways(self):
        near, far = self.connect()
        data = bytes(range(256)) * 8
        self.assertEqual(data, self.through(near, far, data))
        self.assertEqual(data, self.through(far, near, data))

    def test_an_end_passes_behind_the_bytes(self):
        near, far = self.connect()
        near.sendall(b"last words")
        near.shutdown(socket.SHUT_WR)
        self.assertEqual(b"last words", self.receive(far, 100))
        self.assertEqual(b"answer", self.through(far, near, b"answer"))
        far.close()
        self.assertEqual(b"", near.recv(1))

    def test_nobody_behind_it_is_a_reset(self):
        self.server.close()
        self.assert_refused()

    # ---- with one ----

    def test_a_delay_keeps_the_order(self):
        near, far = self.connect()
        self.proxy.rule("me", "you", "delay 60 50", "up")
        began = time.monotonic()
        data = b"".join(b"%06d" % i for i in range(500))
        for at in range(0, len(data), 60):
            near.sendall(data[at:at + 60])
        self.assertEqual(data, self.receive(far, len(data)))
        self.assertGreaterEqual(time.monotonic() - began, 0.009)

    def test_a_stall_keeps_everything_until_it_is_over(self):
        near, far = self.connect()
        self.proxy.rule("*", "you", "stall", "up")
        near.sendall(b"kept")
        near.shutdown(socket.SHUT_WR)
        self.assert_silent(far)
        self.assertEqual(b"other way", self.through(far, near, b"other way"))
        self.proxy.rule("*", "you", "pass")
        self.assertEqual(b"kept", self.receive(far, 100))

    def test_what_was_lost_ends_the_connection_afterwards(self):
        near, far = self.connect()
        self.proxy.rule("me", "you", "drop", "down")
        far.sendall(b"into the void")
        self.assertEqual(b"other way", self.through(near, far, b"other way"))
        self.assert_silent(near)
        self.proxy.rule("me", "you", "pass")
        self.assert_reset(near)
        self.assertEqual(13, self.proxy.counts()["dropped"])

    def test_a_cut_resets_old_and_new_connections(self):
        near, far = self.connect()
        self.proxy.rule("me", "*", "cut")
        self.assert_reset(near)
        self.assert_reset(far)
        self.assert_refused()
        self.proxy.rule("me", "*", "pass")
        near, far = self.connect()
        self.assertEqual(b"new", self.through(near, far, b"new"))

    def test_corruption_flips_single_bits_after_the_spared_ones(self):
        near, far = self.connect()
        self.proxy.rule("me", "you", "corrupt 1000 5000", "up")
        data = bytes(200000)
        got = self.through(near, far, data)
        flipped = [i for i, byte in enumerate(got) if byte]
        self.assertEqual(len(flipped), self.proxy.counts()["flips"])
        self.assertGreater(len(flipped), 100)
        self.assertLess(len(flipped), 400)
        self.assertGreaterEqual(flipped[0], 5000)
        self.assertTrue(all(bin(got[i]).count("1") == 1 for i in flipped))

    def test_whole_messages_come_twice_and_commands_do_not(self):
        near, far = self.connect()
        self.proxy.rule("me", "you", "duplicate 1", "up")
        command = zmtp_frame(b"\x04PING", command=True)
        message = (zmtp_frame(b"header", more=True) +
                   zmtp_frame(b"payload" * 100))
        empty = zmtp_frame(b"")
        sent = [zmtp_greeting(), command, message, command, empty, message]
        for byte in b"".join(sent[:4]):  # messages have no borders in TCP
            near.sendall(bytes([byte]))
        near.sendall(b"".join(sent[4:]))
        expected = b"".join([zmtp_greeting(), command, message * 2, command,
                             empty * 2, message * 2])
        self.assertEqual(expected, self.receive(far, len(expected)))
        self.assertEqual(3, self.proxy.counts()["duplicates"])

    def test_what_is_not_zmtp_is_never_doubled(self):
        near, far = self.connect()
        self.proxy.rule("me", "you", "duplicate 1")
        data = b"GET / HTTP/1.1\r\n\r\n" * 50
        self.assertEqual(data, self.through(near, far, data))
        self.assert_silent(far, 0.1)

    def test_a_throttle_takes_its_time(self):
        near, far = self.connect()
        self.proxy.rule("me", "you", "throttle 100000", "up")
        began = time.monotonic()
        data = bytes(40000)
        self.assertEqual(data, self.through(near, far, data))
        self.assertGreaterEqual(time.monotonic() - began, 0.39)

    # ---- rules ----

    def test_a_fault_meets_only_those_that_it_names(self):
        near, far = self.connect()
        self.proxy.rule("somebody", "you", "cut")
        self.proxy.rule("me", "somebody", "cut")
        self.assertEqual(b"x", self.through(near, far, b"x"))

    def test_a_pass_for_all_takes_every_rule_away(self):
        near, far = self.connect()
        self.proxy.rule("me", "you", "stall")
        self.proxy.rule("*", "*", "pass")
        self.assertEqual(b"x", self.through(near, far, b"x"))

    def test_the_end_of_a_rule_tells_what_it_hit(self):
        near, far = self.connect()
        self.assertEqual(0, self.proxy.rule("me", "you", "delay 1", "up"))
        self.assertEqual(0, self.proxy.rule("me", "you", "pass"))
        self.proxy.rule("me", "you", "delay 1", "up")
        self.proxy.rule("you", "me", "stall")
        self.through(near, far, b"seen")
        self.through(far, near, b"the other way")
        self.assertEqual(4, self.proxy.rule("*", "*", "pass"))
        self.proxy.rule("me", "you", "corrupt 1000000000")
        self.through(near, far, b"whole")
        self.assertEqual(0, self.proxy.rule("me", "you", "cut"))
        self.assert_reset(near)
        self.assertGreater(self.proxy.rule("me", "you", "pass"), 0)

    def test_commands_that_make_no_sense_are_refused(self):
        for words in ("", "nonsense", "rule me you up", "rule me you up burn",
                      "rule me you sideways cut", "rule me you up delay",
                      "rule me you up delay x", "rule me you up corrupt 0",
                      "rule me you up cut 5", "listen a - nowhere - 1.2.3.4:5",
                      "listen a - 127.0.0.1:99999 - 127.0.0.1:1",
                      "listen a missing 127.0.0.1:0 - 127.0.0.1:1",
                      "machine " + "m" * 40 + " 1.2.3.4", "count me",
                      "x" * 5000):
            with self.assertRaisesRegex(RuntimeError, "error "):
                self.proxy.ask(words)
        near, far = self.connect()
        self.assertEqual(b"x", self.through(near, far, b"x"))


if __name__ == "__main__":
    unittest.main()
