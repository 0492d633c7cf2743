"""`dev/bench --moves`: how fast data moves when peers leave, join and die, beside how fast clients store it; and lookups.

One run: under `peernet up`, which does what the operator does, a peer leaves and one joins while there is no data, files are
stored, and the same again, in turn; so what a leave costs that moves nothing can be told apart. Then, in a network of four, a
peer is killed, and its copies are made anew on the others. A stored byte is written three times, a moved one once; rates are
of the bytes stored and of the bytes moved. At last, networks of 3, 10 and 30 peers are asked who holds keys.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import systems
from report import GIB, MIB, short, table

PEERS = 5
ROUNDS = 3
FILES, AT_ONCE, SIZE = 24, 8, 64 * MIB
GRACE = 3  # seconds after which a dead peer's copies are made anew
NETWORKS = (3, 10, 30)
GOAL_MOVES, GOAL_CACHED, GOAL_HOP = 0.7, 50_000, 1.5
PATIENCE = 600


class Runner(systems.System):
    """Peers under the local runner."""

    def start(self):
        self.place.mkdir()
        grpc, http = block(), block()
        self.server = f"http://127.0.0.1:{grpc}"
        self.launch(0, [
            self.peernet, "up", "--no-input", "--peers", PEERS, "--dir", self.place / "net", "--grpc-port", grpc, "--http-port", http,
        ])  # fmt: skip
        self.wait("all peers are ready", lambda: len(held(self)) == PEERS and self.healthy())

    def healthy(self):
        command = [self.peernet, "status", "--check", "--server", self.server]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def scale(self, peers):
        """Seconds until it is so."""
        begin = time.monotonic()
        systems.run(self.peernet, "scale", peers, "--dir", self.place / "net", "--server", self.server)
        return time.monotonic() - begin


def block():
    """The first of as many free ports as there are peers, below those that the system gives to whoever asks for any."""
    while True:
        first = random.randrange(10_000, 30_000, 10)
        if all(map(systems.is_free, range(first, first + PEERS))):
            return first


def status(system):
    """What every peer says of itself; none while none answers."""
    command = [system.peernet, "status", "--output", "json", "--server", system.server]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return json.loads(done.stdout)["peers"] if done.stdout else []


def held(system):
    """Bytes of chunks by peer."""
    return {p["name"]: p["bytes"] for p in status(system) if "bytes" in p}


def store(system, files):
    """MiB/s at which clients store these files, so many at once."""
    begin = time.monotonic()
    left, running = list(files), []
    while left or running:
        while left and len(running) < AT_ONCE:
            command = [system.peernet, "put", "--no-input", "--server", system.server, left.pop()]
            running.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        if running.pop(0).wait():
            sys.exit("dev/bench: a file could not be stored")
    return len(files) * SIZE / MIB / (time.monotonic() - begin)


def make_files(place, name):
    """Random content, each another."""
    folder = place / name
    folder.mkdir()
    for n in range(FILES):
        with open(folder / f"{name}-{n}", "wb") as file:
            for _ in range(SIZE // MIB):
                file.write(os.urandom(MIB))
    return sorted(folder.iterdir())


def leaves_and_joins(peernet, place):
    """Rates of storing, leaving and joining, in MiB/s, and the seconds of a leave and a join that move nothing."""
    network = Runner("runner", place / "runner", peernet)
    last = f"local-{PEERS - 1}"
    out = {"empty leave": [], "empty join": [], "leave": [], "join": [], "put": []}
    try:
        network.start()
        for _ in range(ROUNDS):
            out["empty leave"].append(network.scale(PEERS - 1))
            out["empty join"].append(network.scale(PEERS))
        out["put"].append(store(network, make_files(place, "first")))
        for n in range(ROUNDS):
            network.rest()
            moved = held(network)[last]
            out["leave"].append(moved / MIB / network.scale(PEERS - 1))
            # What is stored with four peers moves with the join as well.
            seconds = network.scale(PEERS)
            out["join"].append(held(network)[last] / MIB / seconds)
        out["moved"] = moved
    finally:
        network.stop()
    shutil.rmtree(network.place)
    shutil.rmtree(place / "first")
    return out


def repair(peernet, place):
    """MiB/s of copies made anew, from the moment the others are allowed to begin; and of storing before."""
    network = systems.PeerNet("repair", place / "repair", peernet, peers=4, options=["--grace-seconds", GRACE])
    try:
        network.start()
        put = store(network, make_files(place, "second"))
        network.rest()
        before = held(network)
        names = sorted(before)
        lost, whole = before[names[-1]], sum(before.values())
        network.processes.pop().kill()
        begin = time.monotonic()
        network.wait("the others have three copies again", lambda: sum(v for n, v in held(network).items() if n != names[-1]) >= whole)
        return {"put": put, "repair": lost / MIB / (time.monotonic() - begin - GRACE), "lost": lost}
    finally:
        network.stop()


def lookups(peernet, place):
    """By number of peers, what each kind of question costs, and the call that does nothing beside it."""
    out = []
    for peers in NETWORKS:
        network = systems.PeerNet(f"ring-{peers}", place / f"ring-{peers}", peernet, peers=peers)
        try:
            network.start()
            network.rest()
            for _ in range(ROUNDS):
                command = ["bench", "--lookups", "1,256", "--concurrency", "1,8", "--seconds", "1", "--output", "json"]
                asked = json.loads(systems.run(peernet, *command, "--server", network.server))
                unary = json.loads(systems.run(peernet, "bench", "--limits", place, "--output", "json"))
                out.append({"peers": peers, "asked": asked, "unary": unary["unaryP50Ms"]})
        finally:
            network.stop()
    return out


def measure(peernet, place):
    results = {}
    for name, part in [("runner", leaves_and_joins), ("repair", repair), ("lookups", lookups)]:
        results[name] = part(peernet, Path(place))
        print(f"dev/bench: {name}: {results[name]}", file=sys.stderr, flush=True)
    return results


def verdict(results):
    """A table, one line of ratios, and a sentence for each goal that is missed."""
    runner, mended = results["runner"], results["repair"]
    put, leave, join = (median(runner[k]) for k in ("put", "leave", "join"))
    rows = [
        ["stored by clients, three copies", f"{short(put)} MiB/s", ""],
        [f"graceful leave of a peer with {short(runner['moved'] / GIB)} GiB", f"{short(leave)} MiB/s", f"{short(1024 / leave)} s/GiB"],
        ["the same without data", "", f"{short(median(runner['empty leave']))} s"],
        ["join of a peer that takes as much", f"{short(join)} MiB/s", f"{short(1024 / join)} s/GiB"],
        ["the same without data", "", f"{short(median(runner['empty join']))} s"],
        ["stored by clients in a network of four", f"{short(mended['put'])} MiB/s", ""],
        [f"repair of {short(mended['lost'] / GIB)} GiB after a peer died", f"{short(mended['repair'])} MiB/s", f"{short(1024 / mended['repair'])} s/GiB"],
    ]
    ratios = [("leave : put", leave / put, GOAL_MOVES, True), ("join : put", join / put, GOAL_MOVES, True),
              ("repair : put", mended["repair"] / mended["put"], GOAL_MOVES, True)]  # fmt: skip
    for peers in NETWORKS:
        rounds = [r for r in results["lookups"] if r["peers"] == peers]
        cell = lambda r, keys, c: next(a for a in r["asked"] if (a["keys"], a["concurrency"]) == (keys, c))  # noqa: E731
        cached = median(cell(r, 256, 8)["lookupsPerSecond"] for r in rounds)
        single = median(cell(r, 1, 8)["lookupsPerSecond"] for r in rounds)
        hop = median(cell(r, 1, 1)["p50Ms"] / r["unary"] for r in rounds)
        rows.append([f"lookups with {peers} peers, 256 keys a question, c8", f"{short(cached)} /s", ""])
        rows.append([f"lookups with {peers} peers, one key a question, c8", f"{short(single)} /s", f"c1: {short(hop)} calls that do nothing"])
        ratios += [(f"lookups/s, {peers} peers", cached, GOAL_CACHED, True), (f"lookup : unary call, {peers} peers", hop, GOAL_HOP, False)]
    line = "ratios: " + ", ".join(f"{name} {short(value)} ({'≥' if up else '≤'} {short(goal)})" for name, value, goal, up in ratios)
    wrong = [f"{name} is {short(value)}, the goal is {short(goal)}" for name, value, goal, up in ratios if (value < goal) == up and value != goal]
    return table(["", "rate", "time"], rows), line, wrong
