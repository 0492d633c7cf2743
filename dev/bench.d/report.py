"""What the figures say: medians with their spread, ratios, goals met and missed; as text, as a page and as a picture."""

import os
import platform
import subprocess
import time
from pathlib import Path
from statistics import median

import picture

MIB, GIB = 2**20, 2**30
KIB1, KIB64, MIB1, MIB64, MIB512 = 2**10, 2**16, 2**20, 2**26, 2**29
TITLES = {
    "peernet": "PeerNet",
    "peernet-written": "PeerNet, not synced",
    "garage": "Garage",
    "garage-sync": "Garage, synced",
    "minio": "MinIO",
}
LIMITS = {
    "memcpyMibPerSecond": ("memcpy of 64 MiB", "MiB/s"),
    "memcpyCpuSecondsPerGib": ("the same: CPU", "s/GiB"),
    "blake3MibPerSecond": ("BLAKE3 of 1 MiB, one thread", "MiB/s"),
    "blake3CpuSecondsPerGib": ("the same: CPU", "s/GiB"),
    "loopbackMibPerSecond": ("loopback TCP, one stream, 256 KiB writes", "MiB/s"),
    "loopbackCpuSecondsPerGib": ("the same: CPU of both ends", "s/GiB"),
    "streamMibPerSecond": ("gRPC stream of chunks' parts (tonic), 256 KiB messages", "MiB/s"),
    "streamCpuSecondsPerGib": ("the same: CPU of both ends", "s/GiB"),
    "sync4KibP50Ms": ("append 4 KiB and fdatasync, median", "ms"),
    "sync1MibMibPerSecond": ("new file of 1 MiB and fdatasync, one by one", "MiB/s"),
    "diskMibPerSecond": ("new files of 64 MiB and fdatasync, three at once", "MiB/s"),
    "diskCpuSecondsPerGib": ("the same: CPU", "s/GiB"),
    "unaryP50Ms": ("gRPC call that does nothing (tonic), one by one, median", "ms"),
    "unaryPerSecond": ("the same, eight at once", "/s"),
    "unaryCpuMicros": ("the same, eight at once: CPU of both ends", "µs per call"),
}


def machine(place):
    """What it all ran on."""

    def said(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:
            return ""

    cpus = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": said("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"),
        "CPUs": f"{os.cpu_count()} × {cpus[0] if cpus else platform.machine()}",
        "memory": f"{pages / GIB:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": said("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(place)),
        "load before": os.getloadavg()[0],
    }


class Figures:
    """The results, by system, operation, size and number at once."""

    def __init__(self, results):
        self.results = results
        self.cells = {}
        for m in results["measurements"]:
            self.cells.setdefault((m["system"], m["op"], m["size"], m["concurrency"]), []).append(m)
        self.systems = list(dict.fromkeys(m["system"] for m in results["measurements"]))
        self.kinds = list(dict.fromkeys((m["op"], m["size"], m["concurrency"]) for m in results["measurements"]))
        self.failed = sum(m["failed"] for m in results["measurements"])

    def each(self, system, op, size, at_once, figure):
        """One value per round; nothing where it was not measured, or where nothing succeeded."""
        values = (figure(m) for m in self.cells.get((system, op, size, at_once), []) if m["operations"])
        return [v for v in values if v is not None]

    def mid(self, *which):
        """The median, or None."""
        values = self.each(*which)
        return median(values) if values else None

    def limit(self, name):
        return median(limits[name] for limits in self.results["limits"])

    def rounds(self):
        return len(self.results["limits"])


def rate(m):
    return m["mibPerSecond"]


def operations(m):
    return m["operationsPerSecond"]


def p50(m):
    return m["p50Ms"]


def servers_cpu(m):
    """Seconds per GiB."""
    return m["serverCpuSeconds"] * GIB / m["bytes"] if m["bytes"] else None


def all_cpu(m):
    """The same with the client's."""
    return (m["serverCpuSeconds"] + m["clientCpuSeconds"]) * GIB / m["bytes"] if m["bytes"] else None


def servers_micros(m):
    """Microseconds per operation."""
    return m["serverCpuSeconds"] * 1e6 / m["operations"] if m["operations"] else None


def short(value):
    """Three digits where there are as many."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def spread(values):
    """Median, and least to most."""
    if not values:
        return "–"
    if len(values) == 1:
        return short(values[0])
    return f"{short(median(values))} ({short(min(values))}–{short(max(values))})"


def name_of(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 2**10} KiB"


def heading(op):
    """How a reader of the page knows it."""
    return {"put": "PUT", "get": "GET", "get-one": "GET (one peer's word)"}[op]


def by(a, b):
    return a / b if a is not None and b else None


def goals(f):
    """Goal, wanted, what came out, whether it is met (None: not to be said)."""
    mine = lambda *cell: f.mid("peernet", *cell)  # noqa: E731
    rows = []

    def at_least(what, wanted, value):
        rows.append((what, f"≥ {short(wanted)}", value, None if value is None or wanted is None else value >= wanted))

    def at_most(what, wanted, value):
        rows.append((what, f"≤ {short(wanted)}", value, None if value is None else value <= wanted))

    put, get = ("put", MIB64, 8, rate), ("get", MIB64, 8, rate)
    at_least("PUT 64 MiB c8 : Garage, synced", 4, by(mine(*put), f.mid("garage-sync", *put)))
    at_least("PUT 64 MiB c8 : Garage as it is, not synced", 4, by(mine(*put), f.mid("garage", *put)))
    at_least("PUT 64 MiB c8 : Garage as it is, neither synced", 4, by(f.mid("peernet-written", *put), f.mid("garage", *put)))
    third = 0.75 * f.limit("diskMibPerSecond") / 3
    minio = f.mid("minio", *put)
    at_least("PUT 64 MiB c8, MiB/s: the lower of 0.8 of MinIO and 0.75 of a third of the disk", min(third, 0.8 * minio) if minio else third, mine(*put))
    small = ("put", MIB1, 8, rate)
    at_least("PUT 1 MiB c8 : Garage, synced", 4, by(mine(*small), f.mid("garage-sync", *small)))
    at_least("PUT 1 MiB c8 : Garage as it is, not synced", 4, by(mine(*small), f.mid("garage", *small)))
    at_least("PUT 1 MiB c8 : Garage as it is, neither synced", 4, by(f.mid("peernet-written", *small), f.mid("garage", *small)))
    at_most("PUT 64 MiB c8: CPU of the peers, s/GiB", 3.0, mine("put", MIB64, 8, servers_cpu))
    for other in ("garage", "minio"):
        at_least(f"GET 64 MiB c8 : {TITLES[other]}", 1.8, by(mine(*get), f.mid(other, *get)))
    whole = ("get", MIB512, 1, rate)
    at_least("GET 512 MiB c1 : Garage", 2, by(mine(*whole), f.mid("garage", *whole)))
    at_most("GET 64 MiB c8: CPU with the client's, s/GiB", 1.0, mine("get", MIB64, 8, all_cpu))
    at_most("PUT 1 KiB c1, p50 : one fdatasync of 4 KiB", 4, by(mine("put", KIB1, 1, p50), f.limit("sync4KibP50Ms")))
    tiny = ("put", KIB1, 8, operations)
    at_least("PUT 1 KiB c8 : Garage as it is, neither synced", 8, by(f.mid("peernet-written", *tiny), f.mid("garage", *tiny)))
    at_least("PUT 1 KiB c8 : Garage, both synced", 8, by(mine(*tiny), f.mid("garage-sync", *tiny)))
    read = ("get", KIB1, 8, operations)
    at_least("GET 1 KiB c8 : Garage (a quorum read on our side)", 1.7, by(mine(*read), f.mid("garage", *read)))
    at_least("GET 1 KiB c8 : Garage (one peer's word on our side)", 2.5, by(mine("get-one", KIB1, 8, operations), f.mid("garage", *read)))
    idle = f.results["idle"].get("peernet")
    if idle:
        at_most("resident memory of an idle peer, MiB", 20, idle["resident"] / MIB)
        at_most("CPU of an idle peer, % of a core", 0.5, idle["core"] * 100)
    peak = f.results["peak"].get("peernet")
    at_most("peak resident memory of a peer, MiB", 150, peak / MIB if peak else None)
    return rows


def text(results):
    """For a terminal."""
    f = Figures(results)
    lines = [f"{'':36}{'ops/s':>9}{'MiB/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'s/GiB':>9}{'us/op':>9}"]
    for system in f.systems:
        for op, size, at_once in f.kinds:
            figures = (operations, rate, p50, lambda m: m["p99Ms"], servers_cpu, servers_micros)
            row = [short(f.mid(system, op, size, at_once, figure)) for figure in figures]
            lines.append(f"{f'{system} {heading(op)} {name_of(size)} c{at_once}':36}" + "".join(f"{v:>9}" for v in row))
    for name, (title, unit) in LIMITS.items():
        lines.append(f"{title + ', ' + unit:60}{short(f.limit(name)):>8}")
    lines.append(f"failed operations: {f.failed}")
    return "\n".join(lines)


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---" if n == 0 else "--:" for n in range(len(header))) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def comparison(f, figure, kinds):
    rows = []
    for op, size, at_once in kinds:
        cells = [spread(f.each(system, op, size, at_once, figure)) for system in f.systems]
        rows.append([f"{heading(op)} {name_of(size)} c{at_once}", *cells])
    return table(["", *(TITLES[s] for s in f.systems)], rows)


def busy(facts):
    """A warning where others have used the machine too. What ended a minute before still counts for a third in the load."""
    if facts["load before"] < 1:
        return ""
    return (
        f"**The machine was busy with other work: its load average was {facts['load before']:.1f} before the run began.** Absolute "
        "figures are too low for all systems and the spread is wide; CPU time per byte suffers least.\n\n"
    )


def page(results):
    f, facts = Figures(results), results["machine"]
    small = [k for k in f.kinds if k[1] < MIB]
    large = [k for k in f.kinds if k[1] >= MIB]
    met = {True: "yes", False: "**no**", None: "–"}
    goal_rows = [[what, wanted, short(value), met[is_met]] for what, wanted, value, is_met in goals(f)]
    limit_rows = [[title, unit, spread([x[name] for x in results["limits"]])] for name, (title, unit) in LIMITS.items()]
    memory_rows = []
    for s in f.systems:
        idle, peak = results["idle"].get(s), results["peak"].get(s)
        memory_rows.append([TITLES[s], *(("–",) * 2 if not idle else (short(idle["resident"] / MIB), f"{idle['core'] * 100:.1f}")), short(peak / MIB if peak else None)])
    text = (Path(__file__).parent / "page.md").read_text()
    return text.format(
        busy=busy(facts),
        facts=table(["", ""], [[k, f"{v:.1f}" if isinstance(v, float) else v] for k, v in facts.items()]),
        rounds=f.rounds(),
        failed=f.failed,
        goals=table(["", "goal", "measured", "met"], goal_rows),
        rate=comparison(f, rate, large),
        operations=comparison(f, operations, small),
        p50=comparison(f, p50, f.kinds),
        p99=comparison(f, lambda m: m["p99Ms"], f.kinds),
        cpu=comparison(f, servers_cpu, large),
        micros=comparison(f, servers_micros, small),
        memory=table(["", "idle, MiB", "idle, % of a core", "peak, MiB"], memory_rows),
        limits=table(["", "", ""], limit_rows),
    )


def write(results, docs):
    """docs/benchmarks.md and docs/benchmarks.svg."""
    f = Figures(results)
    groups = []
    for op, size, at_once in f.kinds:
        figure, unit = (rate, "MiB/s") if size >= MIB else (operations, "/s")
        bars = [(s, f.each(s, op, size, at_once, figure)) for s in f.systems]
        groups.append((f"{heading(op)} {name_of(size)} c{at_once}, {unit}", [(s, median(v), min(v), max(v)) for s, v in bars if v]))
    (docs / "benchmarks.svg").write_text(picture.bars("Against the best in each row", groups, TITLES))
    (docs / "benchmarks.md").write_text(page(results))
