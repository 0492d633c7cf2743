"""The systems that are compared: how each is installed, started as three processes on loopback, and stopped."""

import itertools
import os
import random
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peernet-bench"
GARAGE = "2.5.0"
MINIO = "v0.0.0-20260212201848-7aac2a2c5b7c"
NODES = 3
BUCKET = "load"
PATIENCE = 120  # seconds until a system serves; far above what any takes
TICK = os.sysconf("SC_CLK_TCK")
IN_THE_IMAGE = {"MALLOC_ARENA_MAX": "1"}  # as in Dockerfile


def run(*command, **more):
    """Runs a command that has to succeed; what it prints."""
    try:
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False, **more)
    except FileNotFoundError as missing:
        sys.exit(f"dev/bench: missing: {missing.filename}; or leave out with --systems what needs it")
    if done.returncode != 0:
        sys.exit(f"dev/bench: failed ({done.returncode}): {' '.join(map(str, command))}")
    return done.stdout


def build(root, names, given=None, more=()):
    """Compiles what is missing of the systems; the path of `peernet`, beside which is `peernet-node`."""
    if any(name.startswith("garage") for name in names) and not (CACHE / "garage/bin/garage").exists():
        run("cargo", "install", "--quiet", "garage", "--version", GARAGE, "--locked", "--root", CACHE / "garage")
    if "minio" in names and not (CACHE / "bin/minio").exists():
        module = CACHE / "minio-src"
        module.mkdir(parents=True, exist_ok=True)
        (module / "go.mod").write_text("module peers\n\ngo 1.24\n")
        run("go", "get", "-tool", f"github.com/minio/minio@{MINIO}", cwd=module)
        run("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", CACHE / "bin/minio", "github.com/minio/minio", cwd=module)
    if given:
        return given
    run("cargo", "build", "--quiet", "--profile", "dist", "--locked", "-p", "peernet-cli", "-p", "peernet-node", *more, cwd=root)
    return Path(os.environ.get("CARGO_TARGET_DIR") or root / "target") / "dist/peernet"


def is_free(port):
    """Whether nobody listens there at the moment."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def ports(count):
    """Ports that are free at the moment, below those that the system gives to clients: with a hundred peers it would soon give one of them."""
    free = filter(is_free, random.sample(range(10_000, 30_000), 20_000))
    return list(itertools.islice(free, count))


def cpu_seconds(pids):
    """User and system time of the processes so far."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids)
    return sum(int(f[11]) + int(f[12]) for f in fields) / TICK


def memory(pid, field):
    """A field of /proc/PID/status in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def idle(pids):
    """What a node takes that has nothing to do: the largest resident memory, and the CPU of one core on average."""
    before, seconds = cpu_seconds(pids), 3
    time.sleep(seconds)  # what is measured is this time
    core = (cpu_seconds(pids) - before) / seconds / len(pids)
    return {"resident": max(memory(pid, "VmRSS") for pid in pids), "core": core}


def peak(pids):
    """The largest resident memory that any of them ever had."""
    return max(memory(pid, "VmHWM") for pid in pids)


def stored(place):
    """Bytes on disk below a directory, whose files may come and go."""
    done = subprocess.run(["du", "--summarize", "--block-size=1", place], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[0])


def answers(url):
    """Whether an HTTP server says that it is well."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


class System:
    """Three processes that stand for one another."""

    skips = ()  # sizes that take more time on it than they tell
    patience = PATIENCE

    def __init__(self, name, place, peernet):
        self.name, self.place, self.peernet = name, place, peernet
        self.processes = []
        self.key, self.secret = "GK" + secrets.token_hex(12), secrets.token_hex(32)

    def pids(self):
        return [process.pid for process in self.processes]

    def launch(self, number, command, **environment):
        """Starts a node, with its log in its place."""
        with open(self.place / f"{number}.log", "wb") as log:
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}
            )
        self.processes.append(process)

    def wait(self, what, is_so):
        """Until it is so; ends with the logs if it never is."""
        end = time.monotonic() + self.patience
        while not is_so():
            if time.monotonic() > end or any(p.poll() is not None for p in self.processes):
                for number in range(len(self.processes)):
                    log = (self.place / f"{number}.log").read_text(errors="replace")
                    print("\n".join(log.splitlines()[-15:]), file=sys.stderr)
                sys.exit(f"dev/bench: {self.name}: not so within {self.patience} s: {what}")
            time.sleep(0.1)

    def rest(self):
        """Until what was asked of it last is done with: less than a tenth of a core, but 10 s at most."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            before = cpu_seconds(self.pids())
            time.sleep(0.5)
            if cpu_seconds(self.pids()) - before < 0.05:
                return

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = []

    def s3(self, urls, region):
        """The target of the load where it speaks S3."""
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = self.key, self.secret
        return ["--s3", ",".join(urls), "--bucket", BUCKET, "--region", region]


class PeerNet(System):
    """Three peers unless told otherwise, R = 3, acknowledged when two have synced: the program that runs in pods."""

    def __init__(self, name, place, peernet, peers=NODES, options=()):
        super().__init__(name, place, peernet)
        self.peers, self.options = peers, options
        self.program = peernet.with_name("peernet-node")

    def start(self):
        self.place.mkdir()
        free = ports(2 * self.peers)
        self.grpc, self.http = free[: self.peers], free[self.peers :]
        self.server = f"http://127.0.0.1:{self.grpc[0]}"
        self.start_peers()

    def start_peers(self):
        """On new volumes, or on those that they had before."""
        network = "0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10"
        for n in range(self.peers):
            # The reserve changes no figure, and other programs' files are on this disk too.
            self.launch(n, [
                self.program, "--name", f"peer-{n}", "--data-dir", self.place / str(n), "--network-id", network,
                "--zone", f"zone-{n % NODES}", "--seeds", f"127.0.0.1:{self.grpc[0]}", "--grpc-listen", f"127.0.0.1:{self.grpc[n]}",
                "--http-listen", f"127.0.0.1:{self.http[n]}", *(["--found"] if n == 0 else []), "--disk-reserve-percent", "1",
                *self.options,
            ], **IN_THE_IMAGE)  # fmt: skip
        for port in self.http:
            self.wait("the peers are ready", lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        self.wait("all are active", lambda: self.active() == self.peers)

    def active(self):
        listed = run(self.peernet, "peers", "--server", self.server, "--output", "json")
        return listed.count('"active"')

    def target(self):
        return ["--server", self.server]


class PeerNetWritten(PeerNet):
    """The same, acknowledged when two have it in the page cache, and synced within about a second."""

    skips = ("64KiB", "512MiB")

    def __init__(self, name, place, peernet):
        super().__init__(name, place, peernet, options=("--durability", "written"))


class Garage(System):
    """Three nodes, three copies, LMDB. It syncs nothing unless told so."""

    sync = "false"

    def start(self):
        self.place.mkdir()
        free, secret = ports(2 * NODES), secrets.token_hex(32)
        rpc, self.api = free[:NODES], free[NODES:]
        for n in range(NODES):
            (self.place / f"{n}.toml").write_text(
                f'metadata_dir = "{self.place}/{n}/meta"\ndata_dir = "{self.place}/{n}/data"\ndb_engine = "lmdb"\n'
                f"replication_factor = {NODES}\nmetadata_fsync = {self.sync}\ndata_fsync = {self.sync}\n"
                f'rpc_bind_addr = "127.0.0.1:{rpc[n]}"\nrpc_public_addr = "127.0.0.1:{rpc[n]}"\nrpc_secret = "{secret}"\n'
                f'[s3_api]\ns3_region = "garage"\napi_bind_addr = "127.0.0.1:{self.api[n]}"\nroot_domain = ".s3.localhost"\n'
            )
            self.launch(n, [CACHE / "garage/bin/garage", "--config", self.place / f"{n}.toml", "server"], RUST_LOG="warn")
        nodes = []
        for n in range(NODES):
            self.wait("it has a key", (self.place / f"{n}/meta/node_key.pub").exists)
            nodes.append(self.garage("node", "id", "--quiet", node=n).strip())
        self.wait("the first node answers", lambda: self.is_up())
        for node in nodes[1:]:
            self.garage("node", "connect", node)
        for n, node in enumerate(nodes):
            self.garage("layout", "assign", "--zone", f"zone-{n}", "--capacity", "10G", node.split("@")[0])
        self.garage("layout", "apply", "--version", "1")
        self.garage("key", "import", "--yes", self.key, self.secret)
        self.garage("key", "allow", "--create-bucket", self.key)

    def is_up(self):
        command = [CACHE / "garage/bin/garage", "--config", self.place / "0.toml", "status"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def garage(self, *command, node=0):
        return run(CACHE / "garage/bin/garage", "--config", self.place / f"{node}.toml", *command, stderr=subprocess.DEVNULL)

    def target(self):
        return self.s3([f"http://127.0.0.1:{port}" for port in self.api], "garage")


class GarageSync(Garage):
    """The same with data and metadata synced, for comparisons of durable writes."""

    sync = "true"
    skips = ("64KiB", "512MiB")


class MinIO(System):
    """Three nodes with a drive each: erasure code 2+1, so half the bytes of three copies, with fdatasync."""

    def start(self):
        self.place.mkdir()
        self.api = ports(NODES)
        drives = [f"http://127.0.0.1:{port}{self.place}/{n}" for n, port in enumerate(self.api)]
        for n, port in enumerate(self.api):
            address = f"127.0.0.1:{port}"
            self.launch(
                n, [CACHE / "bin/minio", "server", "--quiet", "--address", address, *drives],
                _MINIO_SERVER_LOCAL=address, MINIO_CI_CD="1", MINIO_ROOT_USER=self.key, MINIO_ROOT_PASSWORD=self.secret,
                MINIO_BROWSER="off", MINIO_UPDATE="off",
            )  # fmt: skip
        for port in self.api:
            self.wait("the cluster is ready", lambda: answers(f"http://127.0.0.1:{port}/minio/health/cluster"))

    def target(self):
        return self.s3([f"http://127.0.0.1:{port}" for port in self.api], "us-east-1")


ALL = {"peernet": PeerNet, "peernet-written": PeerNetWritten, "garage": Garage, "garage-sync": GarageSync, "minio": MinIO}
