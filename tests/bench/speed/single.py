"""Questions of one machine: decode, prompts, streams, neighbours, loading."""
import itertools
import os
import statistics
import subprocess
import time

import rack
from speed import engines, files
from speed.results import Row

DECODE, PROMPT = 32, 512
BESIDE, PEER_TIMES = 16, 3  # tokens and runs beside busy neighbours
GOALS = {"decode": {"llama.cpp": 1.25, "ik_llama.cpp": 1.25},
         "prompt": {"llama.cpp": 2.5, "ik_llama.cpp": 1.5}}
# Two engines' weights and the mapped file must fit beside each other.
RESIDENT_SHARE = 0.3


def _memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class _Fresh:
    """Roster started for each measurement, where memory is short."""
    name = "Roster"

    def __init__(self, model, threads):
        self.model, self.threads = model, threads

    def _ask(self, question, *arguments):
        roster = engines.Roster(self.model, self.threads)
        try:
            roster.measure(16, 0)
            return question(roster, *arguments)
        finally:
            roster.close()

    def measure(self, prompt, gen, streams=1):
        return self._ask(engines.Roster.measure, prompt, gen, streams)

    def measure_both(self, prompt, gen):
        return self._ask(engines.Roster.measure_both, prompt, gen)

    def close(self):
        pass


def _roster(model, threads):
    if os.path.getsize(model) > RESIDENT_SHARE * _memory():
        return _Fresh(model, threads)
    return engines.Roster(model, threads)


def against_peers(bench):
    """{question: rows} of decode, prompt and bandwidth."""
    rows = {"decode": [], "prompt": [], "bandwidth": []}
    for name in bench.models:
        for kind in bench.kinds:
            _one_file(bench, name, kind, rows)
    return rows


def _peers_for(bench, model, title):
    """Those of them that run the file."""
    for peer, program in bench.peers.items():
        engine = engines.Peer(peer, program, model, bench.threads)
        try:
            engine.measure(16, 0)
            yield engine
        except engines.Failed as e:
            bench.say("%s does not run %s: %s" % (peer, title, e))


def _one_file(bench, name, kind, rows):
    model = bench.files.get(name, kind)
    title = "%s, %s" % (files.TITLES[name], kind)
    all_ = list(_peers_for(bench, model, title))
    roster = _roster(model, bench.threads)
    try:
        found = dict(zip(("prompt", "decode"), engines.both_in_turn(
            [roster] + all_, bench.times, PROMPT, DECODE)))
    finally:
        roster.close()
    for question, peer in itertools.product(("decode", "prompt"), all_):
        seen = found[question]
        rows[question].append(Row(
            "%s / %s" % (title, peer.name),
            engines.ratio(seen, "Roster", peer.name),
            (">=", GOALS[question][peer.name]),
            **{"Roster": engines.median(seen["Roster"]),
               peer.name: engines.median(seen[peer.name]),
               "unit": "tokens/s"}))
        bench.say(rows[question][-1])
    decodes = found["decode"]["Roster"]
    rows["bandwidth"].append(Row(
        title, engines.median(decodes, "share"), (">=", 0.85),
        GB_s=engines.median(decodes, "gb_s")))
    bench.say(rows["bandwidth"][-1])


def streams(bench):
    """16 streams over one.  Weight bytes a second with 16 streams over those
    with one are the tokens a second over what their bytes would allow."""
    rows = []
    for name in bench.models:
        roster = _roster(bench.files.get(name), bench.threads)
        try:
            pairs = []
            for _ in range(bench.times):
                one = roster.measure(0, DECODE)
                many = roster.measure(0, DECODE, 16)
                pairs.append((one, many))
        finally:
            roster.close()
        rows.append(Row(
            files.TITLES[name],
            statistics.median(m["gb_s"] / o["gb_s"] for o, m in pairs),
            (">=", 0.8),
            one=statistics.median(o["ts"] for o, _ in pairs),
            sixteen=statistics.median(m["ts"] for _, m in pairs),
            unit="tokens/s"))
        bench.say(rows[-1])
    return {"streams": rows}


# ---- neighbours ----

class Neighbours:
    """A process on each CPU that wants all of it."""

    def __enter__(self):
        self.all = [subprocess.Popen(
            ["taskset", "-c", str(cpu), "sh", "-c", "while :; do :; done"])
            for cpu in sorted(os.sched_getaffinity(0))]

    def __exit__(self, *_):
        for each in self.all:
            each.kill()
            each.wait()


def neighbours(bench):
    """Of the first file.  The peers, which load it for each figure, for
    comparison and less often."""
    name = bench.models[0]
    model = bench.files.get(name)
    rows = []
    roster = engines.Roster(model, bench.threads)
    try:
        rows.append(_beside(bench, roster, name, bench.times, (">=", 0.45)))
    finally:
        roster.close()
    for peer in _peers_for(bench, model, files.TITLES[name]):
        rows.append(_beside(bench, peer, name, min(bench.times, PEER_TIMES)))
    return {"neighbours": rows}


def _beside(bench, engine, name, times, goal=None):
    kept = []
    for _ in range(times):
        quiet = engine.measure(0, BESIDE)["ts"]
        with Neighbours():
            kept.append(engine.measure(0, BESIDE)["ts"] / quiet)
    row = Row("%s, %s" % (files.TITLES[name], engine.name),
              statistics.median(kept), goal, worst=min(kept))
    bench.say(row)
    return row


# ---- loading ----

def _read_once(path):
    """Seconds to read the file's bytes, by as many readers as there are CPUs."""
    began = time.monotonic()
    size, n = os.path.getsize(path), len(os.sched_getaffinity(0))
    block = 4 << 20
    blocks = (size + block - 1) // block
    share = (blocks + n - 1) // n
    readers = [subprocess.Popen(
        ["dd", "if=" + path, "of=/dev/null", "bs=%d" % block,
         "skip=%d" % (i * share), "count=%d" % share],
        stderr=subprocess.DEVNULL) for i in range(n)]
    for each in readers:
        each.wait()
    return time.monotonic() - began


def _forget():
    """The page cache; False where that is not allowed."""
    try:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("1")
    except OSError:
        return False
    return True


def loading(bench):
    rows = []
    for name, cold in ((bench.models[0], True), (bench.models[0], False)):
        model = bench.files.get(name)
        engines.Roster(model, bench.threads).close()  # makes the checksums
        pairs = []
        for _ in range(bench.times):
            if cold and not _forget():
                break
            read = _read_once(model)
            if cold:
                _forget()
            began = time.monotonic()
            roster = engines.Roster(model, bench.threads)
            ready = time.monotonic() - began
            roster.close()
            pairs.append((read, ready))
        if not pairs:
            continue
        rows.append(Row(
            "%s, %s" % (files.TITLES[name],
                        "from the disk" if cold else "from the page cache"),
            statistics.median(b / a for a, b in pairs), ("<=", 1.3),
            read_s=statistics.median(a for a, _ in pairs),
            ready_s=statistics.median(b for _, b in pairs)))
        bench.say(rows[-1])
    return {"loading": rows}
