"""`dev/bench --swarm`: one peer shares a file, 1 to 32 others fetch it at once, each behind a link of limited width (links.py).

The least time in which N peers can have F bytes is max(F/u_s, F/d_min, N·F/(u_s + Σu_i)) (Kumar and Ross, "Peer-Assisted File
Distribution: The Minimum Distribution Time", 2006), where u_s is what the sharer sends, u_i and d_i what each other sends and
takes in a second. All of these are the rate of one TCP stream over the same links, measured in the same run; the bound for the
nominal rate is printed beside it. Peers count the bytes of pieces that came to them, so what came twice is known.

Volumes are in memory, since one disk would stand in for as many as there are peers. Where the processors were the limit rather
than the links, the table says so, and the same is measured once more with narrower links.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import links
import systems
from report import MIB, table

FETCHERS = (1, 4, 16, 32)
# Mbit/s, bytes of a file and of a piece: 256 pieces of about a tenth of a second each.
WIDE, NARROW = (100, 256 * MIB, MIB), (10, 32 * MIB, MIB // 8)
GOAL_TIME, GOAL_TWICE = 1.25, 0.05
STREAMS = 3  # of which the median is the rate of a link
PATIENCE = 6  # times the least time, after which a run has failed


def fetch(peers, name, size, fetchers, limit):
    """One file onto so many peers, and what it took."""
    place = peers.place / "file"
    with open(place, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    peers.ask(0, "share", place, "--as", name)
    place.unlink()
    peers.rest()
    sent, work, spent, ended = peers.lines.sent(), links.busy(), systems.cpu_seconds(peers.pids()), links.children()
    begin = time.monotonic()
    running, times = {}, []
    for n in range(1, fetchers + 1):
        command = peers.lines.command(n, peers.peernet, "fetch", name, "-", "--everywhere", "--no-input", "--server", peers.at(n))
        running[n] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while running:
            for n, process in list(running.items()):
                if process.poll() is not None:
                    if process.returncode:
                        sys.exit(f"dev/bench: {fetchers} fetchers, peer-{n} failed: {process.stderr.read().decode().strip()}")
                    times.append(time.monotonic() - begin)
                    del running[n]
            if time.monotonic() > begin + limit:
                sys.exit(f"dev/bench: {len(running)} of {fetchers} fetchers have not ended within {limit:.0f} s")
            time.sleep(0.02)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    seconds = max(times)
    used = systems.cpu_seconds(peers.pids()) - spent + links.children() - ended
    there = links.busy()
    received = 0
    for n in range(1, fetchers + 1):
        listed = [f for f in json.loads(peers.ask(n, "shares")) if f["name"] == name]
        received += listed[0]["received"]
    out = {
        "mbit": peers.lines.mbit, "size": size, "fetchers": fetchers, "seconds": seconds, "first": min(times),
        "twice": received / (fetchers * size) - 1, "sent": (peers.lines.sent() - sent) / (fetchers * size),
        "cores": used / seconds, "busy": (there[0] - work[0]) / (there[1] - work[1]), "spent": used,
    }  # fmt: skip
    for n in range(fetchers + 1):
        peers.ask(n, "unshare", name)
    print(f"dev/bench: {peers.lines.mbit} Mbit/s, {fetchers} fetchers: {seconds:.1f} s, {100 * out['twice']:.1f} % twice", file=sys.stderr)
    return out


def least(size, fetchers, rate):
    """The least time, where all links have the same rate."""
    return max(size / rate, fetchers * size / (rate * (1 + fetchers)))


def measure(peernet, place, counts=FETCHERS):
    """Every number of fetchers behind wide links, and behind narrow ones where processors were the limit."""
    runs = behind(peernet, place, *WIDE, counts)
    starved = [r["fetchers"] for r in runs if r["busy"] > links.BUSY]
    if starved:
        runs += behind(peernet, place, *NARROW, [n for n in counts if n >= min(starved)])
    return runs


def behind(peernet, place, mbit, size, piece, counts):
    """Every number of fetchers behind links of that rate."""
    with links.laid(max(counts) + 1) as lines:
        peers = links.Peers(f"swarm-{mbit}", Path(place) / f"swarm-{mbit}", peernet, lines, ["--chunk-size", piece])
        try:
            peers.start()
            lines.narrow(mbit)
            rate = median(lines.stream(n, n + 1) for n in range(min(STREAMS, lines.count - 1)))
            took = [fetch(peers, f"film-{n}", size, n, PATIENCE * least(size, n, rate) + 30) for n in counts]
            return [{"rate": rate, **t} for t in took]
        finally:
            peers.stop()


def verdict(runs):
    """A table, one line of ratios, and a sentence for each goal that is missed."""
    rows, ratios, wrong = [], [], []
    for r in runs:
        bound = least(r["size"], r["fetchers"], r["rate"])
        nominal = least(r["size"], r["fetchers"], r["mbit"] * 1e6 / 8)
        ratio, starved = r["seconds"] / bound, r["busy"] > links.BUSY
        rows.append([
            f"{r['mbit']} Mbit/s, {r['size'] // MIB} MiB", str(r["fetchers"]), f"{r['seconds']:.1f}", f"{bound:.1f} ({nominal:.1f})",
            f"{ratio:.2f}", f"{100 * r['twice']:.1f} %", f"{100 * (r['sent'] - 1):.0f} %",
            f"{r['cores']:.2f}, {100 * r['busy']:.0f} %" + (" (the limit)" if starved else ""),
        ])  # fmt: skip
        where = f"{r['fetchers']} at {r['mbit']} Mbit/s"
        ratios.append(f"{where} {ratio:.2f}, {100 * r['twice']:.1f} %")
        # Where processors are the limit the links are not measured; the narrower ones are, and count.
        if ratio > GOAL_TIME and not starved:
            wrong.append(f"{where}: {ratio:.2f} of the least time, the goal is {GOAL_TIME}")
        if r["twice"] > GOAL_TWICE:
            wrong.append(f"{where}: {100 * r['twice']:.1f} % came twice, the goal is {100 * GOAL_TWICE:.0f} %")
    header = ["links, file", "fetchers", "s", "least, s (nominal)", "ratio", "came twice", "sent beyond the file", "cores used by peers and clients, of all busy"]
    line = f"ratios (time ≤ {GOAL_TIME}, twice ≤ {100 * GOAL_TWICE:.0f} %): " + "; ".join(ratios)
    return table(header, rows), line, wrong
