"""Does the cost of a token stay what it is while the roster grows?"""
import os
import statistics

import rack
from speed import engines
from speed.results import Row

DECODE = 64
# Same widths and top-k; layers chosen so that every file is larger than the last
# cache.  (experts, layers)
SERIES = [(8, 192), (64, 24), (512, 4), (4096, 2)]
WIDTH, EXPERT_WIDTH = 1024, 256
CONTEXT = 256  # the cache of many layers is as much smaller
# Stages of `roster bench --breakdown` that are the router's, or a token's once.
NOT_A_LAYERS = {"router", "logits", "other", "outside"}


def _file(bench, experts, layers):
    return bench.files.get(
        "growth-%d" % experts, "q4_k",
        ["olmoe-1b-7b", "--layers", str(layers), "--experts", str(experts),
         "--vocab", "2048", "--width", str(WIDTH), "--expert-width",
         str(EXPERT_WIDTH)])


def _per_layer(roster, layers):
    """(µs of a token and layer without the router, those of the router)"""
    rows = engines.run_json(
        [os.path.join(rack.BUILD, "roster"), "bench", roster.model,
         "--endpoint", roster.endpoint, "-p", 0, "-n", DECODE, "-r", 1,
         "--breakdown", "-o", "json"])
    ms = rows[0]["breakdown_ms"]
    return (sum(v for k, v in ms.items() if k not in NOT_A_LAYERS) * 1000 /
            layers, ms["router"] * 1000 / layers)


def growth(bench):
    """Engines of all sizes take turns."""
    rosters, found = {}, {}
    try:
        for experts, layers in SERIES:
            rosters[experts] = engines.Coordinator(
                _file(bench, experts, layers), bench.threads,
                options=("--context", CONTEXT))
            found[experts] = []
            _per_layer(rosters[experts], layers)
        for _ in range(bench.times):
            for experts, layers in SERIES:
                found[experts].append(_per_layer(rosters[experts], layers))
    finally:
        for roster in rosters.values():
            roster.close()
    first = SERIES[0][0]
    rows = []
    for experts, _ in SERIES:
        value = statistics.median(a[0] / b[0] for a, b in zip(found[experts],
                                                              found[first]))
        router_us = statistics.median(r for _, r in found[experts])
        rows.append(Row("%d experts over %d" % (experts, first), value,
                        ("<=", 1.05) if experts != first else None,
                        us_a_layer=statistics.median(
                            u for u, _ in found[experts]),
                        router_us=router_us,
                        router_GB_s=experts * WIDTH * 4 / router_us / 1e3))
        bench.say(rows[-1])
    return {"growth": rows}


def sparsity(bench):
    """Mixtral's shape over dense models of equal active and of equal total size.
    Their attention, embedding and output matrices are the same."""
    total_ff = 8 * 14336
    models = {
        "moe": bench.files.get("mixtral-8x7b-4"),
        "active": bench.files.get("dense-13b-active-4"),
        "total": bench.files.get(
            "dense-total-4", "q4_k",
            ["dense-13b-active", "--layers", "4", "--expert-width",
             str(total_ff)]),
    }
    rosters = [engines.Roster(path, bench.threads, name=name)
               for name, path in models.items()]
    try:
        found = engines.in_turn(rosters, bench.times, 0, DECODE // 4)
    finally:
        for roster in rosters:
            roster.close()
    bytes_ = {name: engines.median(f, "gb_s") / engines.median(f)
              for name, f in found.items()}
    speed = {name: engines.median(f) for name, f in found.items()}
    over_total = engines.ratio(found, "moe", "total")
    rows = [Row("over a dense model of equal active size",
                engines.ratio(found, "moe", "active"), (">=", 0.95),
                Mixtral=speed["moe"], dense=speed["active"], unit="tokens/s"),
            Row("over a dense model of equal total size, of the ratio of bytes",
                over_total / (bytes_["total"] / bytes_["moe"]), (">=", 0.85),
                Mixtral=speed["moe"], dense=speed["total"],
                ratio_of_bytes=bytes_["total"] / bytes_["moe"],
                unit="tokens/s")]
    for row in rows:
        bench.say(row)
    return {"sparsity": rows}
