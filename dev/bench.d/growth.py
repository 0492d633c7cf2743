"""`dev/bench --growth`: how throughput grows with the number of peers, each behind a link of limited width (links.py).

One client behind a link without limit stores files and reads them, spread over all peers (`peernet bench`). It does not know who
holds what, so a peer passes on most of what it is given. Each zone of N/3 peers holds one copy of everything, and the peer with the
longest arc of it a share s. Of T bytes a second that are stored that one takes in T/N from the client and s·(1 − 1/N)·T as copies;
of T that are read it sends T/N to the client and s·(1 − 3/N)·T/3 to the others of its zone. With even arcs (s = 3/N) no design with
such clients does better than 3.2 times from 3 peers to 12 when storing and 2.29 times when reading; with the arcs there are
(ADR 10), it is 2.64 and 2.03. The rate of a link is that of one TCP stream over it in the same run.
"""

import json
import subprocess
import sys
from pathlib import Path

import links
from report import MIB, table

PEERS = (3, 6, 12)
MBIT = 50
ZONES = 3  # of which each holds one of three copies
SIZE, EACH, SECONDS = MIB, 4, 15  # bytes of a file, operations at once per peer, and for how long
GOAL = 3.2


def measure_at(peernet, place, count, mbit):
    with links.laid(count) as lines:
        peers = links.Peers(f"growth-{count}", Path(place) / f"growth-{count}", peernet, lines)
        out = []
        try:
            peers.start()
            lines.narrow(mbit)
            rate = lines.stream(0, 1)
            peers.rest()
            load = ["bench", "--size", SIZE, "--concurrency", EACH * count, "--seconds", SECONDS, "--output", "json", "--server", peers.server]
            work = links.busy()
            # Failed operations are in the result; without one there is nothing to go on with.
            done = subprocess.run(lines.command(links.CLIENT, peernet, *load), stdout=subprocess.PIPE, check=False)
            if not done.stdout:
                sys.exit(f"dev/bench: no result with {count} peers")
            said = json.loads(done.stdout)
            there = links.busy()
            busy = (there[0] - work[0]) / (there[1] - work[1])
            for cell in said["measurements"]:
                out.append({"peers": count, "mbit": mbit, "rate": rate, "busy": busy, **cell})
                print(f"dev/bench: {cell['op']} with {count} peers: {cell['mibPerSecond']:.1f} MiB/s", file=sys.stderr)
        finally:
            peers.stop()
        return out


def measure(peernet, place, mbit=MBIT):
    return [cell for count in PEERS for cell in measure_at(peernet, place, count, mbit)]


def most(op, peers):
    """The most that peers can do, in links: what the one with the longest arc takes in, or sends, fills its link."""
    places = sorted(links.place_of(rank) for rank in range(peers // ZONES))
    share = max((b - a) for a, b in zip(places, [*places[1:], places[0] + 1]))
    if op == "put":
        return 1 / (1 / peers + share * (1 - 1 / peers))
    return 1 / (1 / peers + share * (1 - ZONES / peers) / ZONES)


def verdict(cells):
    """A table, one line of ratios, and a sentence for each goal that is missed."""
    rows, ratios, wrong = [], [], []
    for op in ("put", "get"):
        mine = {c["peers"]: c for c in cells if c["op"] == op}
        first = mine[PEERS[0]]
        for peers, c in mine.items():
            rate, bound = c["mibPerSecond"], most(op, peers) * c["rate"] / MIB
            limit = " (the limit)" if c["busy"] > links.BUSY else ""
            rows.append([
                op.upper(), str(peers), f"{rate:.1f}", f"{rate / first['mibPerSecond']:.2f}", f"{most(op, peers) / most(op, PEERS[0]):.2f}",
                f"{bound:.1f}", f"{rate / bound:.2f}", str(c["failed"]), f"{100 * c['busy']:.0f} %{limit}",
            ])  # fmt: skip
        growth = mine[PEERS[-1]]["mibPerSecond"] / first["mibPerSecond"]
        ratios.append(f"{op} {PEERS[0]} → {PEERS[-1]} peers {growth:.2f}")
        if op == "put" and growth < GOAL:
            wrong.append(f"{op} grows {growth:.2f} times from {PEERS[0]} to {PEERS[-1]} peers, the goal is {GOAL}")
    header = ["", "peers", "MiB/s", ": 3 peers", "at most", "links allow, MiB/s", "ratio", "failed", "processors busy"]
    return table(header, rows), f"ratios (put ≥ {GOAL}): " + ", ".join(ratios), wrong
