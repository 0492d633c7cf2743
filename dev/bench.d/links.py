"""Links of limited width: each peer in a network namespace of its own, behind a veth to one bridge, with a token bucket (tbf)
in both directions, so that one machine stands for many.

The bridge is in a namespace too, so nothing of it is seen by the machine's own network. All names begin with the number of
this process; what a run that was killed has left is removed by the next one.
"""

import contextlib
import ctypes
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import systems

CLIENT = "client"  # the namespace behind a link without limit
BURST = "128kb"  # two of the largest segments that the kernel hands on whole
QUEUE = "50ms"  # what waits before a link at most; beyond it is dropped, as by a router
CONGESTION = "cubic"  # Linux's own default, whatever this machine has set
PREFIX = re.compile(r"pnb(\d+)-")
NAMES = Path("/run/netns")
NEWNET = 0x40000000  # CLONE_NEWNET
NETWORK = "0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10"
GRPC, HTTP = 7000, 8080
BUSY = 0.9  # of all processors: beyond it they are the limit rather than links
JOIN = 8  # seconds that a peer more may take until all are there; far above what any takes
STREAM = 4  # seconds for which the rate of one TCP stream is measured


def run(*command, given=None):
    done = subprocess.run(list(map(str, command)), input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"dev/bench: links cannot be laid: {' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def check():
    """Ends with a sentence where namespaces cannot be made."""
    if os.geteuid() != 0:
        sys.exit("dev/bench: links of limited width need root, for network namespaces; run it with sudo")
    for program in ("ip", "tc", "nsenter"):
        if not shutil.which(program):
            sys.exit(f"dev/bench: missing: {program}; install iproute2 and util-linux")


def remove(name):
    """A namespace, what still runs in it, and so its links."""
    for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)


def sweep(mine):
    """Removes the namespaces of this process, or those of processes that are no more."""
    for name in sorted(os.listdir(NAMES)) if NAMES.exists() else []:
        of = PREFIX.match(name)
        if of and (int(of[1]) == os.getpid() if mine else not Path(f"/proc/{of[1]}").exists()):
            remove(name)


@contextlib.contextmanager
def laid(count):
    """So many links, and one for the client, until the end of the block; without limit at first."""
    check()
    sweep(mine=False)
    try:
        yield Links(count)
    finally:
        # Whoever is impatient must not leave half of them.
        kept = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        sweep(mine=True)
        for number, handler in kept.items():
            signal.signal(number, handler)


class Links:
    """See the module's documentation. A place is a number, or CLIENT."""

    def __init__(self, count):
        self.count, self.mbit = count, None
        switch = self.namespace("switch")
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        places = [CLIENT, *range(count)]
        for place in places:
            self.lay(switch, place)
        # Known from the start: what every place asks of every other is more than the kernel keeps (gc_thresh3, 1,024 for all).
        known = [f"neighbour replace {self.address(p)} lladdr {self.station(p)} nud permanent dev eth0" for p in places]
        for place in places:
            run("ip", "-n", self.namespace(place), "-batch", "-", given="\n".join(known))

    def lay(self, switch, place):
        name, port = self.namespace(place), f"to-{place}"
        run("ip", "netns", "add", name)
        run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name, "address", self.station(place))
        run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
        run("ip", "-n", name, "address", "add", f"{self.address(place)}/32", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "route", "add", "10.213.0.0/16", "dev", "eth0", "src", self.address(place), "congctl", CONGESTION)

    def narrow(self, mbit):
        """From now on all links but the client's have so many Mbit/s in each direction."""
        self.mbit = mbit
        limit = ["rate", f"{mbit}mbit", "burst", BURST, "latency", QUEUE]
        for place in range(self.count):
            for where, device in ((self.namespace(place), "eth0"), (self.namespace("switch"), f"to-{place}")):
                run("tc", "-n", where, "qdisc", "replace", "dev", device, "root", "tbf", *limit)

    def namespace(self, place):
        return f"pnb{os.getpid()}-{place}"

    def number(self, place):
        return divmod(1 if place == CLIENT else place + 2, 256)

    def address(self, place):
        return "10.213.{}.{}".format(*self.number(place))

    def station(self, place):
        return "02:00:0a:d5:{:02x}:{:02x}".format(*self.number(place))

    def command(self, place, *command):
        """That command, at that place."""
        return ["nsenter", f"--net={NAMES / self.namespace(place)}", *map(str, command)]

    def within(self, place, work):
        """What `work` returns there: a thread of its own enters the namespace, and what it opens stays in it."""
        out = []

        def enter():
            with open(NAMES / self.namespace(place), "rb") as name:
                if ctypes.CDLL(None, use_errno=True).setns(name.fileno(), NEWNET):
                    raise OSError(ctypes.get_errno(), "a namespace cannot be entered")
            out.append(work())

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        thread.join()
        if not out:
            sys.exit(f"dev/bench: nothing came of what was done behind the link of {place}")
        return out[0]

    def sent(self):
        """Bytes that all limited places have sent so far, headers included."""
        total = 0
        for place in range(self.count):
            said = json.loads(run("ip", "-j", "-s", "-n", self.namespace(place), "link", "show", "eth0"))
            total += said[0]["stats64"]["tx"]["bytes"]
        return total

    def stream(self, sender, receiver):
        """Bytes a second that one TCP stream brings from one place to another."""
        listener = self.within(receiver, lambda: socket.create_server((self.address(receiver), 0)))
        port = listener.getsockname()[1]
        out = self.within(sender, lambda: socket.create_connection((self.address(receiver), port), 10))
        come, _ = listener.accept()
        listener.close()
        come.settimeout(10)
        end = threading.Event()

        def send():
            block = bytes(1 << 18)
            with contextlib.suppress(OSError):
                while not end.is_set():
                    out.sendall(block)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        try:
            buffer, begin = bytearray(1 << 20), time.monotonic()
            # What passes at once because the bucket was full does not count.
            while time.monotonic() < begin + 0.5:
                come.recv_into(buffer)
            bytes_, begin = 0, time.monotonic()
            while (now := time.monotonic()) < begin + STREAM:
                bytes_ += come.recv_into(buffer)
            return bytes_ / (now - begin)
        finally:
            end.set()
            come.close()
            out.close()
            sending.join()


def place_of(rank):
    """Where on the circle (0 to 1) a zone's peer of that rank stands, as the operator and `peernet up` place it (ADR 10)."""
    return math.log2(2 * rank + 1) % 1


class Peers(systems.System):
    """Peers, each behind the link of its number."""

    def __init__(self, name, place, peernet, lines, options=()):
        super().__init__(name, place, peernet)
        self.lines, self.options = lines, options
        self.server = self.at(0)
        self.patience = systems.PATIENCE + JOIN * lines.count

    def at(self, number):
        return f"http://{self.lines.address(number)}:{GRPC}"

    def start(self):
        self.place.mkdir()
        for n in range(self.lines.count):
            host = self.lines.address(n)
            self.launch(n, self.lines.command(
                n, self.peernet, "peer", "--name", f"peer-{n}", "--data-dir", self.place / str(n), "--network-id", NETWORK,
                "--zone", f"zone-{n % systems.NODES}", "--position", int(place_of(n // systems.NODES) * 2**64) + n % systems.NODES,
                "--seeds", f"{self.lines.address(0)}:{GRPC}", "--grpc-listen", f"{host}:{GRPC}",
                "--http-listen", f"{host}:{HTTP}", *(["--found"] if n == 0 else []), "--disk-reserve-percent", "1", *self.options,
            ))  # fmt: skip
        for n in range(self.lines.count):
            url = f"http://{self.lines.address(n)}:{HTTP}/readyz"
            self.wait("the peers are ready", lambda: self.lines.within(CLIENT, lambda: systems.answers(url)))
        self.wait("all are active", lambda: self.ask(0, "peers").count('"active"') == self.lines.count)

    def ask(self, number, *command):
        """What a command says, as JSON in text; given beside that peer, so over no link."""
        return systems.run(*self.lines.command(number, self.peernet, *command, "--server", self.at(number), "--output", "json"))


def busy():
    """Seconds that all processors were at work for processes of usual priority, and seconds that they were there."""
    user, _, system, _, _, *interrupts = fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (user + system + sum(interrupts)) / systems.TICK, sum(fields) / systems.TICK


def children():
    """CPU seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
