"""`dev/bench --quick`: ratios of what peers cost to what the machine itself takes, within one run, and how far they may go.

A figure of another run says little: neighbours on the same host cost up to a third of the throughput, and a sync takes
0.2 ms or 2 ms depending on who else syncs. So each figure is divided by one that suffers from the same neighbours in the same
round, mostly CPU time by CPU time. Bounds are about three times what was measured (in brackets below, on two CPUs with a load
average of 20), and it is the median of the rounds that must stay within them: what passes its bound is a change of the
code, not of the weather.
"""

from statistics import median

from report import GIB, KIB1, MIB, MIB64, by, p50, servers_cpu, servers_micros, short

ROUNDS = 3
MINUTES = 0.75  # no round begins that would end later; one takes a quarter of a minute, more where the machine is busy
BUDGET = 96 * MIB  # what transfers of a peer may hold in memory (node/src/files.rs)
PEAK = 3  # [1.3] times the budget: the program, caches of the database, and what the allocator keeps


class Ratio:
    """Something of PeerNet by something of the machine: the sum of these limits."""

    def __init__(self, name, bound, cell, limits, means):
        self.name, self.bound, self.cell, self.limits, self.means = name, bound, cell, limits, means

    def of(self, results):
        """The median of the rounds, or None where nothing was measured."""
        rounds = zip(each(results, *self.cell), results["limits"])
        values = [by(value, sum(limits[name] for name in self.limits)) for value, limits in rounds]
        return median(values) if values else None


def each(results, op, size, at_once, figure):
    """One value per round."""
    wanted = {"op": op, "size": size, "concurrency": at_once}
    cells = (m for m in results["measurements"] if m["system"] == "peernet" and wanted.items() <= m.items())
    return [figure(m) for m in cells if m["operations"]]


RATIOS = [
    # By both that such a write waits for: by syncs alone, a disk that is fast beside the processors would look like a fault.
    Ratio("PUT 1 KiB c1 p50 : fdatasync and unary call", 25, ("put", KIB1, 1, p50), ("sync4KibP50Ms", "unaryP50Ms"),  # [about 8 quiet, 2 where syncs take 4 ms]
          "a small write waits for more syncs, or for more round trips, than it did"),
    Ratio("PUT 1 KiB c8 CPU : unary call", 110, ("put", KIB1, 8, servers_micros), ("unaryCpuMicros",),  # [37]
          "a small write costs the peers more messages or more work than it did"),
    Ratio("GET 1 KiB c8 CPU : unary call", 36, ("get", KIB1, 8, servers_micros), ("unaryCpuMicros",),  # [12]
          "a small read costs the peers more messages or more work than it did"),
    Ratio("PUT 64 MiB c8 CPU : BLAKE3", 100, ("put", MIB64, 8, servers_cpu), ("blake3CpuSecondsPerGib",),  # [33]
          "stored bytes are copied, hashed or sent more often than they were"),
    Ratio("GET 64 MiB c8 CPU : loopback TCP", 10, ("get", MIB64, 8, servers_cpu), ("loopbackCpuSecondsPerGib",),  # [3.1]
          "read bytes are copied, hashed or sent more often than they were"),
]  # fmt: skip


def verdict(results):
    """The one line of ratios, and a sentence for each that went too far."""
    found = [(ratio, ratio.of(results)) for ratio in RATIOS]
    peak = results["peak"].get("peernet")
    failed = sum(m["failed"] for m in results["measurements"])
    line = "ratios: " + ", ".join(f"{ratio.name} {short(value)} (≤ {ratio.bound})" for ratio, value in found)
    line += f", peak memory : budget {short(by(peak, BUDGET))} (≤ {PEAK})"
    wrong = [
        f"{ratio.name} was not measured" if value is None else
        f"{ratio.name} is {short(value)}, more than {ratio.bound}: {ratio.means}"
        for ratio, value in found
        if value is None or value > ratio.bound
    ]  # fmt: skip
    if peak is None or peak > PEAK * BUDGET:
        wrong.append(f"a peer's memory reached {short((peak or 0) / MIB)} MiB: something holds more than the budget of transfers lets it")
    if failed:
        wrong.append(f"{failed} operations failed")
    return line, wrong


def self_test():
    """Whether a ratio that is past its bound is noticed, each of them, and none that is not."""
    names = {name for ratio in RATIOS for name in ratio.limits}

    def results(worse):
        def cell(ratio):
            op, size, at_once, figure = ratio.cell
            value = ratio.bound * len(ratio.limits) * (1.1 if ratio is worse else 0.9)
            one = {"system": "peernet", "op": op, "size": size, "concurrency": at_once, "operations": 1, "bytes": GIB, "failed": 0}
            field, scale = {p50: ("p50Ms", 1), servers_cpu: ("serverCpuSeconds", 1), servers_micros: ("serverCpuSeconds", 1e-6)}[figure]
            return {**one, field: value * scale}

        rounds = [cell(ratio) for _ in range(ROUNDS) for ratio in RATIOS]
        return {"measurements": rounds, "limits": [dict.fromkeys(names, 1.0)] * ROUNDS, "peak": {"peernet": BUDGET}}

    assert verdict(results(None))[1] == []
    for ratio in RATIOS:
        # Cells are told apart by what they measure; two ratios of one cell would need two fields.
        sentences = verdict(results(ratio))[1]
        assert [s for s in sentences if s.startswith(ratio.name) and ratio.means in s], ratio.name
        assert len(sentences) == 1, sentences
    heavy = results(None)
    heavy["peak"]["peernet"] = PEAK * BUDGET + 1
    assert "memory" in verdict(heavy)[1][0]
    heavy["measurements"][0]["failed"] = 2
    assert "2 operations failed" in verdict(heavy)[1]
