"""`dev/bench --rest`: what a peer takes that has nothing to do, with and without chunks, and how long it takes to start on them.

Networks of three peers, and one peer alone, which is filled with up to a million chunks. It stores them itself, as files that
clients put, but cut into chunks of 1 KiB (node/examples/small_chunks.rs), so that a million need some gigabytes and minutes;
its index, its references and its folders are those of a million chunks of any size. Then `peernet-node` starts on that volume,
comes to rest, and is watched for long enough to see what recurs each minute: comparisons, and looks at names and references.
"""

import http.client
import os
import sys
import threading
import time
from pathlib import Path

import systems
from moves import status
from report import MIB, short, table

# Peers, and chunks in all: each network's chunks are those of the one before it and some more.
STEPS = [(3, (0, 100_000)), (1, (0, 100_000, 1_000_000))]
FILE, CHUNK = 1_000, 1024  # chunks of a file, bytes of a chunk
AT_ONCE = 4
WATCHED = 150  # seconds
GOAL_MEMORY, GOAL_CPU, GOAL_CHUNKS = 20, 0.5, 200  # MiB, % of a core, MiB for a million chunks


class Resting(systems.PeerNet):
    """Peers with a copy of everything each, which are filled by another program on the same volumes."""

    chunks = 0

    def __init__(self, place, peernet, peers):
        self.copies = ["--replication-factor", peers, "--replication-write", (peers + 1) // 2]
        super().__init__(f"rest-{peers}", place / f"rest-{peers}", peernet, peers, self.copies)

    def fill(self, chunks):
        """Until each peer holds so many; MiB/s do not matter, so nothing waits for the disk."""
        node, self.options = self.program, [*self.copies, "--durability", "written"]
        self.program = node.parent / "examples/small_chunks"
        self.start_peers()
        files = iter(range(self.chunks // FILE, chunks // FILE))
        lock, failed = threading.Lock(), []

        def put(port):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            while not failed:
                with lock:
                    number = next(files, None)
                if number is None:
                    return
                connection.request("PUT", f"/v1/files/fill/{number}", os.urandom(FILE * CHUNK))
                answer = connection.getresponse()
                said = answer.read()
                if answer.status not in (200, 201):
                    failed.append(f"{answer.status} {said.decode(errors='replace')}")

        workers = [threading.Thread(target=put, args=(self.http[n % self.peers],)) for n in range(AT_ONCE)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failed:
            sys.exit(f"dev/bench: a file could not be stored: {failed[0]}")
        self.wait("each holds all chunks", lambda: all(p.get("chunks", 0) >= chunks for p in status(self)))
        self.stop()
        self.program, self.options, self.chunks = node, self.copies, chunks

    def come_to_rest(self):
        """Until the peers take less than 2 % of a core each for five seconds, five minutes at most."""
        for _ in range(60):
            before = systems.cpu_seconds(self.pids())
            time.sleep(5)  # what is measured is this time
            if systems.cpu_seconds(self.pids()) - before < 0.02 * 5 * self.peers:
                return
        sys.exit("dev/bench: the peers did not come to rest")


def resident(pid):
    """Bytes that are its own, and bytes of its program's file."""
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    sizes = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}
    return sizes["Anonymous"], sizes["Rss"] - sizes["Anonymous"]


def watch(network):
    """The largest of the peers, and the CPU of one on average."""
    pids = network.pids()
    before, began = systems.cpu_seconds(pids), time.monotonic()
    time.sleep(WATCHED)  # what is measured is this time
    core = (systems.cpu_seconds(pids) - before) / (time.monotonic() - began) / len(pids)
    own, program = max((resident(pid) for pid in pids), key=sum)
    return {"own": own, "program": program, "core": core}


def measure(peernet, place, steps=STEPS):
    out = []
    for peers, amounts in steps:
        network = Resting(Path(place), peernet, peers)
        try:
            for chunks in amounts:
                if chunks == 0:
                    network.start()
                else:
                    network.stop()
                    network.fill(chunks)
                    began = time.monotonic()
                    network.start_peers()
                    began = time.monotonic() - began
                network.come_to_rest()
                row = {"peers": peers, "chunks": chunks, "start": began if chunks else None, **watch(network)}
                print(f"dev/bench: {row}", file=sys.stderr, flush=True)
                out.append(row)
        finally:
            network.stop()
    return out


def verdict(results):
    """A table, a line of figures, and a sentence for each goal that is missed."""
    rows = []
    for r in results:
        who = "one of three peers" if r["peers"] == 3 else "a peer alone"
        what = f"{r['chunks']:,} chunks" if r["chunks"] else "no data"
        whole = r["own"] + r["program"]
        start = f"{r['start']:.1f}" if r["start"] else "–"
        rows.append([f"{who}, {what}", *(short(b / MIB) for b in (whole, r["own"], r["program"])), f"{100 * r['core']:.2f}", start])
    of = {(r["peers"], r["chunks"]): r for r in results}
    idle, alone, full = of[3, 0], of[1, 0], of[1, 1_000_000]
    figures = [
        ("resident memory of an idle peer, MiB", (idle["own"] + idle["program"]) / MIB, GOAL_MEMORY),
        ("its CPU, % of a core", 100 * idle["core"], GOAL_CPU),
        ("what a million chunks add, MiB", (full["own"] + full["program"] - alone["own"] - alone["program"]) / MIB, GOAL_CHUNKS),
    ]
    line = "at rest: " + ", ".join(f"{name} {short(value)} (≤ {goal})" for name, value, goal in figures)
    wrong = [f"{name}: {short(value)}, the goal is {goal}" for name, value, goal in figures if value > goal]
    return table(["at rest", "resident, MiB", "its own", "of the program", "% of a core", "start, s"], rows), line, wrong
