"""Engines that run the same file: Roster, and the peers that are found.

An engine that stays resident is asked again and again, so that engines can take
turns within seconds: a shared machine's speed drifts within minutes.
"""
import json
import os
import shutil
import statistics
import subprocess

import rack

TIMEOUT_S, START_S = 900, 600
PEERS = {"llama.cpp": "llama-bench", "ik_llama.cpp": "llama-bench"}


class Failed(RuntimeError):
    pass


def run_json(command):
    """What a benchmark prints; Failed with its last words."""
    done = subprocess.run([str(c) for c in command], text=True, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=TIMEOUT_S)
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Failed("%s: %s" % (os.path.basename(str(command[0])),
                                 words[-1] if words else done.returncode))
    return json.loads(done.stdout)


class Peer:
    """A llama-bench; loads the file anew each time, which it maps."""

    def __init__(self, name, program, model, threads):
        self.name, self.program = name, program
        self.common = ["-m", model, "-t", threads, "-r", 1, "-o", "json"]

    def measure(self, prompt, gen, streams=1):
        """Tokens/s of a prompt (gen is 0) or of decoding (prompt is 0)."""
        assert streams == 1
        return {"ts": self._run(prompt, gen)[0]["avg_ts"]}

    def measure_both(self, prompt, gen):
        """(of a prompt, of decoding): the file is loaded once for the two."""
        rows = self._run(prompt, gen)
        return tuple({"ts": next(r["avg_ts"] for r in rows if r[kind] > 0)}
                     for kind in ("n_prompt", "n_gen"))

    def _run(self, prompt, gen):
        return run_json([self.program, *self.common, "-p", prompt, "-n", gen])

    def close(self):
        pass


class Roster:
    """`roster up` for as long as it is measured."""

    def __init__(self, model, threads, nodes=0, name="Roster", options=()):
        self.name, self.model = name, model
        self.rack = rack.Rack(model)
        try:
            self.up = self.start(nodes, threads, options)
            self.endpoint = self.up.wait_ready(START_S)
        except BaseException:
            self.rack.close()
            raise

    def start(self, nodes, threads, options):
        return self.rack.start(
            "roster", "up", self.model, "--nodes", nodes, "--threads", threads,
            "--start-timeout", "%ds" % START_S, *options)

    def measure(self, prompt, gen, streams=1):
        rows = run_json([os.path.join(rack.BUILD, "roster"), "bench",
                         self.model, "--endpoint", self.endpoint, "-p", prompt,
                         "-n", gen, "-b", streams, "-r", 1, "-o", "json"])
        return {"ts": rows[0]["avg_ts"], "gb_s": rows[0].get("gb_s"),
                "share": rows[0].get("bandwidth_share")}

    def measure_both(self, prompt, gen):
        return self.measure(prompt, 0), self.measure(0, gen)

    def close(self):
        self.rack.close()


class Coordinator(Roster):
    """A coordinator by itself, with options that `roster up` does not have."""

    def start(self, nodes, threads, options):
        assert nodes == 0
        return self.rack.start(
            "roster-coordinator", self.model, "--listen", rack.own_listen(),
            "--threads", threads, *options)


def find_peers(folder):
    """{name: program}: FOLDER/NAME/llama-bench, or build trees of theirs."""
    found = {}
    for name, program in PEERS.items():
        for path in (os.path.join(folder, name, program),
                     os.path.join(folder, name, "bin", program),
                     os.path.join(folder, name, "build", "bin", program)):
            if shutil.which(path):
                found[name] = path
                break
    return found


def in_turn(engines, times, prompt, gen, streams=1):
    """{name: [figures]}: every engine once, then all again, so many times.
    (Each measurement begins with a run that does not count.)"""
    found = {e.name: [] for e in engines}
    for turn in range(times):
        order = engines if turn % 2 == 0 else engines[::-1]
        for engine in order:
            found[engine.name].append(engine.measure(prompt, gen, streams))
    return found


def both_in_turn(engines, times, prompt, gen):
    """({name: [figures]} of prompts, the same of decoding), in one round:
    an engine that must load its file for each measurement does so once."""
    prompts, decodes = ({e.name: [] for e in engines} for _ in range(2))
    for turn in range(times):
        for engine in engines if turn % 2 == 0 else engines[::-1]:
            a, b = engine.measure_both(prompt, gen)
            prompts[engine.name].append(a)
            decodes[engine.name].append(b)
    return prompts, decodes


def ratio(found, ours, theirs, key="ts"):
    """The median of ratios, turn by turn: drift falls out."""
    return statistics.median(a[key] / b[key]
                             for a, b in zip(found[ours], found[theirs]))


def median(figures, key="ts"):
    return statistics.median(f[key] for f in figures)
