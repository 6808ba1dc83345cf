#!/usr/bin/env python3
"""A TCP relay that damages what it relays: a bad cable with a seed.

  damage.py --listen 127.0.0.2 --to 127.0.0.1 --ports 7101,7102 \\
            --flip-every 20000 --cut-every 300000 --seed 1

Connections to 127.0.0.2:PORT go on to 127.0.0.1:PORT.  In the data that comes
back, about one bit in `--flip-every` bytes is flipped, and about every
`--cut-every` bytes the connection is closed in mid-message; the first
`--spare` bytes of a connection pass untouched, so that every one begins well.
Prints `ready`, then a line `flip` or `cut` for each accident.
"""
import argparse
import random
import selectors
import signal
import socket
import sys

PIECE = 65536


class Relay:
    """One connection; its two sockets are nonblocking and know each other."""

    def __init__(self, loop, near, far, options):
        self.loop, self.near, self.far = loop, near, far
        self.options = options
        self.pending = {near: b"", far: b""}  # still to be sent to each
        self.back = 0  # bytes that came back
        self.flip_at = options.spare + self.gap(options.flip_every)
        self.cut_at = options.spare + self.gap(options.cut_every)
        for s in (near, far):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop.register(s, selectors.EVENT_READ, self)

    def gap(self, mean):
        """How far to the next accident; never, if there are none."""
        if mean == 0:
            return float("inf")
        return 1 + int(self.options.random.expovariate(1.0 / mean))

    def close(self):
        for s in (self.near, self.far):
            if s.fileno() >= 0:
                self.loop.unregister(s)
                s.close()

    def damaged(self, data):
        """What is delivered of `data`, and whether the connection lasts."""
        data, end = bytearray(data), self.back + len(data)
        while self.flip_at < end:
            if self.flip_at >= self.back:
                bit = 1 << self.options.random.randrange(8)
                data[self.flip_at - self.back] ^= bit
                print("flip", flush=True)
            self.flip_at += self.gap(self.options.flip_every)
        lasts = self.cut_at >= end
        if not lasts:
            del data[self.cut_at - self.back:]
            print("cut", flush=True)
        self.back = end
        return bytes(data), lasts

    def on_event(self, sock, events):
        other = self.far if sock is self.near else self.near
        lasts = True
        try:
            if events & selectors.EVENT_READ:
                data = sock.recv(PIECE)
                lasts = len(data) > 0
                if sock is self.far and data:
                    data, lasts = self.damaged(data)
                self.pending[other] += data
            for s in (sock, other):
                self.send(s)
        except BlockingIOError:
            pass
        except OSError:
            lasts = False
        if not lasts:
            self.close()

    def send(self, sock):
        while self.pending[sock]:
            try:
                n = sock.send(self.pending[sock])
            except BlockingIOError:
                break
            self.pending[sock] = self.pending[sock][n:]
        events = selectors.EVENT_READ
        if self.pending[sock]:
            events |= selectors.EVENT_WRITE
        self.loop.modify(sock, events, self)


class Listener:
    def __init__(self, loop, port, options):
        self.loop, self.port, self.options = loop, port, options
        self.sock = socket.create_server((options.listen, port))
        self.sock.setblocking(False)
        loop.register(self.sock, selectors.EVENT_READ, self)

    def on_event(self, sock, events):
        near, _ = sock.accept()
        try:
            far = socket.create_connection((self.options.to, self.port), 5)
        except OSError:
            near.close()
            return
        Relay(self.loop, near, far, self.options)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--ports", required=True)
    parser.add_argument("--flip-every", type=int, default=0)
    parser.add_argument("--cut-every", type=int, default=0)
    parser.add_argument("--spare", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.random = random.Random(options.seed)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    loop = selectors.DefaultSelector()
    for port in options.ports.split(","):
        Listener(loop, int(port), options)
    print("ready %s" % options.listen, flush=True)
    while True:
        for key, events in loop.select():
            if key.fileobj.fileno() >= 0:  # not closed by another's event
                key.data.on_event(key.fileobj, events)


if __name__ == "__main__":
    main()
