#!/usr/bin/env python3
"""How fast is Roster, beside its limits and beside its peers?

    tests/bench/bench_speed.py [QUESTION ...] [--peers FOLDER] [--models FOLDER]

Makes the model files it needs, runs each question, and writes the figures to
docs/performance.md with a picture for each.  Without a QUESTION: all of them.
Peers are looked for in FOLDER/llama.cpp and FOLDER/ik_llama.cpp (their
llama-bench, or a build tree that has it); without them only Roster is measured.
Every figure is a median of alternating runs, so that a machine that others use
as well shows ratios that can be trusted more than speeds.

Questions: {questions}
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "support")]
import fault_net  # noqa: E402
from speed import engines, files, growth, plot  # noqa: E402
from speed import racks, results, single  # noqa: E402

DOCS = os.path.join(ROOT, "docs")
# These need machines of their own: network namespaces.
INSIDE = {"micro-batches", "links"}
# name: (what runs it, how it is measured)
QUESTIONS = {
    "peers": (single.against_peers,
              "decode of 32 tokens and a prompt of 512, one stream, same file "
              "and threads, engines in turn"),
    "streams": (single.streams, "decode of 32 tokens, 1 and 16 streams in turn"),
    "two-nodes": (racks.same_cpus, "`roster up --nodes 0` and `--nodes 2` on "
                                   "the same CPUs, in turn"),
    "dispatch": (racks.dispatch,
                 "`bench_dispatch`: four experts of a node for each row, what "
                 "they compute taken off; bytes there and back"),
    "growth": (growth.growth, "decode, the same top-k and widths, in turn"),
    "sparsity": (growth.sparsity, "decode, in turn"),
    "slices": (racks.slices, "decode, 8 nodes capped to 0.1 CPU"),
    "micro-batches": (racks.micro_batches,
                      "a prompt, 4 nodes capped to 0.15 CPU, links of 1 Gbit"),
    "links": (racks.shaped, "decode, links shaped in network namespaces, "
                            "delayed by 100 µs each way by a proxy"),
    "scale-out": (racks.scale_out, "a prompt, nodes capped to 0.1 CPU"),
    "neighbours": (single.neighbours,
                   "decode, quiet and beside a busy process on each CPU, in "
                   "turn"),
    "loading": (single.loading,
                "time until ready, over that of reading the file once"),
}
TITLES = {
    "decode": "Decoding one stream, over other engines",
    "bandwidth": "Decoding, over the memory's read bandwidth",
    "prompt": "A prompt of 512 tokens, over other engines",
    "streams": "16 streams over one, of what their bytes allow",
    "two-nodes": "Two nodes on the same CPUs, over one process",
    "dispatch": "Dispatch of a layer to a node, beyond ZeroMQ's round trip",
    "growth": "Decode time of a layer as the roster grows",
    "sparsity": "Mixtral over dense models",
    "slices": "Four slices over whole experts, top-2, eight capped nodes",
    "micro-batches": "Two micro-batches over one, capped nodes, 1 Gbit",
    "links": "Shaped links: tokens a second over the bound",
    "scale-out": "Prompt throughput over linear, capped nodes",
    "neighbours": "Share of its quiet speed kept beside busy neighbours",
    "loading": "Loading, over reading the file once",
}


# Of one question; the next ones are asked all the same.
FAILURES = (engines.Failed, OSError, RuntimeError, AssertionError,
            subprocess.SubprocessError)


class Bench:
    def __init__(self, options):
        self.times, self.threads = options.times, options.threads
        self.models, self.kinds = options.files, options.kinds
        self.files = files.Files(options.models, options.make_model,
                                 options.python)
        self.peers = engines.find_peers(options.peers)
        self.arguments = ["--times", str(options.times), "--threads",
                          str(options.threads), "--models", options.models,
                          "--python", options.python]
        if options.make_model:
            self.arguments += ["--make-model", options.make_model]

    @staticmethod
    def say(what):
        if isinstance(what, results.Row):
            goal = " (goal %s %g)" % tuple(what.goal) if what.goal else ""
            what = "%s: %.3f %s%s  %s" % (what.what, what.value, what.unit,
                                          goal, what.figures)
        print(what, flush=True)


def parse(arguments):
    text = __doc__.format(questions=", ".join(QUESTIONS))
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", metavar="QUESTION")
    parser.add_argument("--times", type=int, default=5, metavar="N",
                        help="alternating runs (5)")
    parser.add_argument("--threads", type=int,
                        default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", default=os.path.join(ROOT, "..", "peers"))
    parser.add_argument("--models", default=os.path.join(ROOT, "build",
                                                         "models"))
    parser.add_argument("--files", type=lambda s: s.split(","),
                        default=files.MEASURED, metavar="NAME,...")
    parser.add_argument("--kinds", type=lambda s: s.split(","),
                        default=["q4_k", "q8_0"], metavar="TYPE,...")
    parser.add_argument("--make-model", default=_make_model())
    parser.add_argument("--python", default=sys.executable,
                        help="a Python that has numpy, for --make-model")
    parser.add_argument("--no-page", action="store_true",
                        help="write nothing to docs/")
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = set(options.questions) - set(QUESTIONS)
    if unknown:
        parser.error("no such question: " + ", ".join(sorted(unknown)))
    return options


def _make_model():
    path = os.path.join(ROOT, "..", "shared", "bench", "make_model.py")
    return path if os.path.exists(path) else None


def ask(bench, question):
    """{name: rows}; inside where the question wants that."""
    run, _ = QUESTIONS[question]
    if question not in INSIDE or fault_net.inside():
        return run(bench)
    reason = fault_net.why_not()
    if reason is not None:
        raise RuntimeError("no machines of their own: " + reason)
    with tempfile.NamedTemporaryFile(suffix=".json") as rows:
        process = fault_net.enter([sys.executable, os.path.abspath(__file__),
                                   question, "--rows", rows.name] +
                                  bench.arguments)
        try:
            if process.wait() != 0:
                raise RuntimeError("it failed inside")
        finally:
            fault_net.leave(process)
        found = json.load(rows)
    return {name: [results.Row.of(r) for r in all_]
            for name, all_ in found.items()}


def hand_over(path, found):
    """To who waits outside."""
    with open(path, "w") as f:
        json.dump({name: [r.as_json() for r in rows]
                   for name, rows in found.items()}, f)


def scaling(path, title, rows):
    """The throughput over the number of nodes, beside a straight line."""
    seen = [(r["figures"]["nodes"], r["figures"]["seen"]) for r in rows]
    first, last = seen[0], seen[-1]
    linear = [first, (last[0], first[1] * last[0] / first[0])]
    plot.lines(path, title, "nodes", "tokens/s",
               {"seen": seen, "linear": linear})


PICTURES = {"scale-out": scaling}  # the others have bars


def picture(folder, question, rows):
    """The file name of a question's picture."""
    name = question + ".svg"
    draw = PICTURES.get(question, plot.bars)
    draw(os.path.join(folder, name), TITLES[question], rows)
    return name


def main():
    options = parse(sys.argv[1:])
    bench = Bench(options)
    folder = os.path.join(DOCS, "performance")
    kept = results.Results(folder)
    failed = 0
    for question in options.questions or QUESTIONS:
        _, how = QUESTIONS[question]
        try:
            found = ask(bench, question)
        except FAILURES as e:
            print("%s: %s" % (question, e), file=sys.stderr, flush=True)
            failed += 1
            continue
        if options.rows:
            hand_over(options.rows, found)
            continue
        for name, rows in found.items():
            if rows and not options.no_page:
                kept.keep(name, rows, how[0].upper() + how[1:] + ".")
    if not options.no_page and not options.rows:
        pictures = {q: "performance/" + picture(folder, q,
                                                kept.kept[q]["rows"])
                    for q in TITLES if q in kept.kept}
        results.write_page(os.path.join(DOCS, "performance.md"), kept, TITLES,
                           pictures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
