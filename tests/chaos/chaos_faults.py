"""Everything that can go wrong with a rack, one function for each kind.

A fault is a generator: it does the harm, yields how many seconds that is to
last, and repairs what does not repair itself.  A fault with several stages
yields between them.  One that can miss (a line that nobody used meanwhile)
returns how many bytes, messages or connections it hit.  `rng` is the fault's
own: the same seed draws the same.

Each kind belongs to a class, of which one fault at a time is possible, so that
there is always a replica, a coordinator to ask and, once etcd is back, a
majority:

    node   takes at most one node from the rack, or from one coordinator
    etcd   may take all of etcd: nobody needs it while nothing changes
    front  takes at most one coordinator; stories move to another
    ask    what operators ask for; alone, and no fault at all
"""
import contextlib
import os
import shutil

KINDS = {}  # name: (class, function, needs)


def kind(of, needs=None):
    def enter(function):
        KINDS[function.__name__] = (of, function, needs)
        return function

    return enter


def _node(r, rng):
    return rng.choice(r.nodes)


def _lift(r, sources, targets):
    """Rules end; what they hit."""
    return sum(r.net.proxy.rule(source, target, "pass")
               for target in targets for source in sources)


# ---- nodes: processes ----

@kind("node")
def kill_node(r, rng):
    """Back at once, soon, or after its units were placed elsewhere."""
    node = r.processes[_node(r, rng)]
    node.kill()
    yield rng.choice([0, rng.uniform(0.1, 2), rng.uniform(4, 6)])
    node.start()


@kind("node")
def freeze_node(r, rng):
    node = r.processes[_node(r, rng)]
    node.stop()
    yield rng.choice([rng.uniform(0.05, 1), rng.uniform(1, 4), 8])
    node.go_on()


@kind("node")
def restart_node(r, rng):
    node = r.processes[_node(r, rng)]
    node.terminate()
    yield rng.uniform(0, 1)
    node.start()


@kind("node")
def crash_node_again(r, rng):
    """Dies twice, the second time while it takes up its work."""
    node = r.processes[_node(r, rng)]
    node.kill()
    yield rng.uniform(0.1, 1)
    node.start()
    yield rng.uniform(0.05, 2)
    node.kill()
    yield rng.uniform(0.1, 1)
    node.start()


@kind("node", needs="groups")
def starve_node(r, rng):
    name = _node(r, rng)
    node = r.processes[name]
    node.host.starve(node.pid, rng.uniform(0.02, 0.15))
    yield rng.uniform(1, 5)
    node.host.starve(node.pid, None)


# ---- nodes: the network ----

@kind("node")
def node_link_down(r, rng):
    host = r.host(_node(r, rng))
    host.link("down")
    yield rng.uniform(0.3, 6)
    host.link("up")


@kind("node")
def blackhole(r, rng):
    """One coordinator and one node no longer hear of each other."""
    host, other = r.host(_node(r, rng)), r.host(rng.choice(r.coordinators))
    host.blackhole(other, True)
    yield rng.uniform(0.3, 6)
    host.blackhole(other, False)


@kind("node")
def node_without_etcd(r, rng):
    """Cut off from etcd alone, for longer than its lease: it goes on."""
    name = _node(r, rng)
    for member in r.etcds:
        r.net.proxy.rule(name, member, rng.choice(["cut", "stall", "drop"]))
    yield rng.uniform(2, 10)
    return _lift(r, [name], r.etcds)


def _proxied(r, rng, fault, least, most, direction="both"):
    """Between one node and one coordinator, or all of them."""
    name = _node(r, rng)
    source = rng.choice(r.coordinators + ["*"])
    r.net.proxy.rule(source, name, fault, direction)
    yield rng.uniform(least, most)
    return _lift(r, [source], [name])


def _side(rng):
    return rng.choice(["up", "down", "both"])


@kind("node")
def delay(r, rng):
    fault = "delay %d %d" % (rng.randint(2, 60), rng.randint(0, 20))
    return (yield from _proxied(r, rng, fault, 1, 4))


@kind("node")
def stall(r, rng):
    return (yield from _proxied(r, rng, "stall", 0.1, 4, _side(rng)))


@kind("node")
def half_open(r, rng):
    return (yield from _proxied(r, rng, "drop", 0.3, 5, _side(rng)))


@kind("node")
def cut(r, rng):
    return (yield from _proxied(r, rng, "cut", 0, 3))


@kind("node")
def corrupt(r, rng):
    fault = "corrupt %d" % rng.choice([500, 5000, 50000])
    return (yield from _proxied(r, rng, fault, 1, 4, _side(rng)))


@kind("node")
def duplicate(r, rng):
    fault = "duplicate %d" % rng.randint(1, 4)
    return (yield from _proxied(r, rng, fault, 1, 4, _side(rng)))


@kind("node")
def throttle(r, rng):
    fault = "throttle %d" % rng.choice([20000, 200000])
    return (yield from _proxied(r, rng, fault, 1, 4, _side(rng)))


# ---- nodes: disks ----

@kind("node", needs="caches")
def disk_full(r, rng):
    """Not a byte is left, and the node comes back without what it had."""
    name = _node(r, rng)
    node, folder = r.processes[name], r.cache(name)
    node.kill()
    _empty(folder)
    filler = os.path.join(folder, "filler")
    try:
        with open(filler, "wb", buffering=0) as f:
            while True:
                f.write(bytes(1 << 20))
    except OSError:
        pass
    node.start()
    yield rng.uniform(1, 4)
    os.remove(filler)


@kind("node", needs="caches")
def cache_lost(r, rng):
    node = r.processes[_node(r, rng)]
    node.kill()
    _empty(r.cache(node.name))
    yield rng.uniform(0, 1)
    node.start()


@kind("node", needs="caches")
def cache_flipped(r, rng):
    """A bit in every file of some size, while the node is away."""
    node = r.processes[_node(r, rng)]
    node.kill()
    for path in _files(r.cache(node.name)):
        size = os.path.getsize(path)
        if size < 4096:
            continue
        with open(path, "r+b") as f:
            at = rng.randrange(size)
            f.seek(at)
            was = f.read(1)[0]
            f.seek(at)
            f.write(bytes([was ^ 1 << rng.randrange(8)]))
    yield rng.uniform(0, 1)
    node.start()


def _files(folder):
    return sorted(os.path.join(at, name)
                  for at, _, names in os.walk(folder) for name in names)


def _empty(folder):
    for path in _files(folder):
        os.remove(path)


# ---- nodes that come and go ----

@kind("node")
def node_joins(r, rng):
    """A further one takes its share, is drained and leaves."""
    node = r.processes[r.spare]
    node.start()
    r.wait_whole()
    yield rng.uniform(0, 1)
    with _drained(r, rng, r.spare):
        r.wait_empty(r.spare)
        if rng.random() < 0.5:
            node.terminate()
        else:
            node.kill()
        yield rng.uniform(0, 1)


@kind("node")
def drain_and_undo(r, rng):
    name = _node(r, rng)
    with _drained(r, rng, name):
        yield rng.uniform(0, 4)


@kind("node")
def kill_while_moving(r, rng):
    """A node dies while another one's units are on their way to others."""
    leaves, dies = rng.sample(r.nodes, 2)
    with _drained(r, rng, leaves):
        yield rng.uniform(0, 0.5)
        r.processes[dies].kill()
        yield rng.uniform(0, 3)
        r.processes[dies].start()
        yield rng.uniform(0, 1)


@kind("node")
def rolling_restart(r, rng):
    for name in list(r.nodes):
        r.processes[name].terminate()
        yield rng.uniform(0, 0.3)
        r.processes[name].start()
        r.wait_whole()


# ---- etcd ----

@kind("etcd")
def kill_etcd_member(r, rng):
    member = r.processes[rng.choice(r.etcds)]
    member.kill()
    yield rng.uniform(0.5, 4)
    member.start()


@kind("etcd")
def freeze_etcd_member(r, rng):
    member = r.processes[rng.choice(r.etcds)]
    member.stop()
    yield rng.uniform(0.5, 6)
    member.go_on()


@kind("etcd")
def etcd_member_link_down(r, rng):
    host = r.host(rng.choice(r.etcds))
    host.link("down")
    yield rng.uniform(0.5, 5)
    host.link("up")


@kind("etcd")
def quorum_loss(r, rng):
    members = [r.processes[n] for n in rng.sample(r.etcds, 2)]
    killed = rng.random() < 0.5
    for member in members:
        if killed:
            member.kill()
        else:
            member.stop()
    yield rng.uniform(1, 9)
    for member in members:
        if killed:
            member.start()
        else:
            member.go_on()


@kind("etcd")
def etcd_dead(r, rng):
    """All of it, for longer than any lease as often as not."""
    members = [r.processes[n] for n in r.etcds]
    for member in members:
        member.kill()
    yield rng.uniform(1, 10)
    for member in members:
        member.start()


@kind("etcd")
def etcd_compacted(r, rng):
    """While nobody hears of it, etcd forgets its history; whoever does not list
    everything anew is deaf to what happens then."""
    watchers = r.coordinators + r.nodes
    for member in r.etcds:
        for name in watchers:
            r.net.proxy.rule(name, member, "stall", "down")
    yield rng.uniform(0.5, 6)
    r.compact_etcd()
    hits = sum(r.net.proxy.rule(name, member, rng.choice(["pass", "cut"]))
               for member in r.etcds for name in watchers)
    yield rng.uniform(0, 0.5)
    _lift(r, watchers, r.etcds)
    name = _node(r, rng)
    with _drained(r, rng, name):
        r.wait_empty(name)
    return hits


@kind("etcd", needs="recovers")
def etcd_wiped(r, rng):
    """It knows nothing any more, until an operator says that this is so."""
    members = [r.processes[n] for n in r.etcds]
    for member in members:
        member.kill()
    yield rng.uniform(0, 3)
    for member in members:
        shutil.rmtree(r.etcd_data(member.name))
    for member in members:
        member.start()
    yield rng.uniform(1, 5)
    _wish(r, rng, "recover", "--yes")


@kind("etcd")
def nodes_without_etcd(r, rng):
    """All of them, as often as not for longer than their leases; coordinators
    see the records vanish, and nodes that answer."""
    for member in r.etcds:
        for name in r.nodes:
            r.net.proxy.rule(name, member, "cut")
    yield rng.uniform(2, 14)
    r.wait_used()
    return _lift(r, r.nodes, r.etcds)


@kind("etcd")
def etcd_slow(r, rng):
    for member in r.etcds:
        r.net.proxy.rule("*", member, "delay %d 100" % rng.randint(100, 900))
    yield rng.uniform(2, 6)
    return _lift(r, ["*"], r.etcds)


# ---- coordinators ----

@kind("front", needs="failover")
def kill_coordinator(r, rng):
    process = r.processes[rng.choice(r.coordinators)]
    process.kill()
    yield rng.choice([rng.uniform(0, 1), rng.uniform(1, 8)])
    process.start()


@kind("front", needs="failover")
def freeze_coordinator(r, rng):
    process = r.processes[rng.choice(r.coordinators)]
    process.stop()
    yield rng.choice([rng.uniform(0.1, 2), rng.uniform(2, 25)])
    process.go_on()


@kind("front", needs="failover")
def restart_coordinator(r, rng):
    process = r.processes[rng.choice(r.coordinators)]
    process.terminate()
    yield rng.uniform(0, 2)
    process.start()


@kind("front", needs="failover")
def coordinator_link_down(r, rng):
    host = r.host(rng.choice(r.coordinators))
    host.link("down")
    yield rng.uniform(0.5, 6)
    host.link("up")


@kind("front", needs="failover")
def client_link(r, rng):
    """Between the clients and one coordinator."""
    name = rng.choice(r.coordinators)
    fault = rng.choice(["cut", "stall", "drop", "delay 50 40", "corrupt 3000",
                        "throttle 3000"])
    r.net.proxy.rule("client", name, fault, _side(rng))
    yield rng.uniform(0.2, 4)
    return _lift(r, ["client"], [name])


@kind("front")
def coordinator_without_etcd(r, rng):
    """The leader as often as not: another one may lead when it comes back."""
    name = rng.choice(r.coordinators)
    for member in r.etcds:
        r.net.proxy.rule(name, member, rng.choice(["cut", "stall"]))
    yield rng.uniform(2, 10)
    return _lift(r, [name], r.etcds)


# ---- operators ----

def _wish(r, rng, *words):
    """Ask until it is recorded; etcd may be away for a while."""
    r.insist(*words, asked=rng.choice(r.coordinators))


@contextlib.contextmanager
def _drained(r, rng, name):
    """One operator at a time: another fault's end must not end this drain."""
    with r.draining:
        _wish(r, rng, "drain", name)
        yield
        _wish(r, rng, "drain", name, "--undo")


@kind("ask", needs="rebalances")
def rebalance(r, rng):
    """Whoever is asked may not lead: that is an answer too."""
    r.roster("rebalance", *rng.choice([[], ["--dry-run"]]),
             asked=rng.choice(r.coordinators))
    yield rng.uniform(0, 1)


@kind("ask")
def look_at_everything(r, rng):
    for name in r.coordinators:
        r.roster("status", "--layers", asked=name, seconds=3)
        r.roster("status", "--json", asked=name, seconds=3)
    yield rng.uniform(0, 0.5)


def possible(r):
    """The kinds that this rack and this computer allow."""
    has = {
        None: True,
        "groups": r.net.group_of(r.nodes[0]) is not None,
        "caches": r.caches,
        "failover": len(r.coordinators) > 1,
        "rebalances": r.rebalances,
        "recovers": r.recovers,
    }
    return [name for name, (_, _, needs) in KINDS.items() if has[needs]]
