"""How fast the operator turns FineTuneJobs into Jobs, what that costs, and how soon it works again after a crash.

An API server on loopback with the controllers, and nodes that kwok plays: Pods run there at once and never end. The
same client first creates plain Jobs of the same shape (the floor: no operator can be faster), then FineTuneJobs, at ten
a second and as a burst, each on a cluster of its own. Times are those of one clock: when the client sent the POST, when
it had the answer, when a watch of its own told of the Job. Then the operator is killed and started again, three times.

The goals are what Kubeflow Trainer 2.0 with JobSet needed for 1,000 TrainJobs on such a machine. The last line is the
ratio of the burst's time to the floor's.

    make bench BENCH=control_plane
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from tunesmith.api import keys
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.settings import Settings
from tunesmith.core.decide import Subject, World, decide

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "tests")  # instead of this folder: hack/testcluster has a module of this one's name

from support.cluster import ApiServer, api_server  # noqa: E402
from support.ollama_server import free_port  # noqa: E402

# isort: split
import control_plane as programs_of_the_plane  # noqa: E402 - hack/testcluster, on the path since support.cluster

NAMESPACE = "bench"
RATE = 10
CONNECTIONS = 16
RESTARTS = 3
LONGEST = 180
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
FINETUNEJOBS = f"/apis/{keys.GROUP}/{keys.VERSION}/namespaces/{NAMESPACE}/{keys.PLURAL}"
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
SETTINGS = {
    "stageImage": "tunesmith-stages:bench",
    "leaseNamespace": NAMESPACE,
    "servers": [{"name": "main", "url": "http://ollama:11434"}],
}


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", type=int, default=1000, help="how many are created each time (default: 1000)")
    count = parser.parse_args().objects
    plain = {"paced": run(plain_job, count, RATE), "burst": run(plain_job, count, 0)}
    ours = {"paced": run(finetunejob, count, RATE), "burst": run(finetunejob, count, 0)}
    print_latencies(plain["paced"], ours["paced"])
    print_burst(plain["burst"], ours["burst"])
    ratio = ours["burst"].seconds / plain["burst"].seconds
    print(
        f"ratio {ratio:.1f} of the time of a burst of {count} to that of as many plain Jobs by the same client "
        "(Kubeflow Trainer 2.0 + JobSet: 14.3)"
    )


# --- what is created -------------------------------------------------------------------------------------------------

Object = dict[str, Any]


def finetunejob(name: str) -> Object:
    """Return a small FineTuneJob with sources of its own: what several need is made for one of them only."""
    return {
        "apiVersion": f"{keys.GROUP}/{keys.VERSION}",
        "kind": keys.KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {"volume": {"path": f"models/{name}"}},
            "datasets": [{"name": "faq", "volume": {"path": f"data/{name}.json"}}],
            "training": {"gpusPerNode": 0},
            "ollama": {"model": f"{name}:v1"},
        },
    }


def plain_job(name: str) -> Object:
    """Return the Job that the operator would create first for such a FineTuneJob, without its owner."""
    job = FineTuneJob.model_validate(finetunejob(name))
    subject = Subject(job=job, uid=f"uid-of-{name}", namespace=NAMESPACE, generation=1, status={})
    made = decide(subject, World(), Settings.model_validate(SETTINGS), datetime.now(UTC)).create[-1]
    meta = {part: value for part, value in made["metadata"].items() if part != "ownerReferences"}
    return {**made, "metadata": {**meta, "name": name}}


# --- the client ------------------------------------------------------------------------------------------------------


@dataclass
class Times:
    """By object, seconds of one clock."""

    sent: dict[str, float] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    """When the watch told of its (first) Job."""

    def delays(self, since: dict[str, float]) -> list[float]:
        """Return the seconds from `since` until the Job was seen, shortest first."""
        return sorted(max(0.0, self.seen[name] - since[name]) for name in since)


@dataclass
class Client:
    """Sixteen connections to the API server, and a watch of Jobs."""

    session: aiohttp.ClientSession
    times: Times = field(default_factory=Times)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(self, item: Object) -> None:
        """Create an object and remember when."""
        name = item["metadata"]["name"]
        body = json.dumps(item).encode()
        self.times.sent[name] = time.monotonic()
        path = JOBS if item["kind"] == "Job" else FINETUNEJOBS
        headers = {"Content-Type": "application/json"}
        async with self.session.post(path, data=body, headers=headers) as answer:
            said = await answer.read()
            self.times.answered[name] = time.monotonic()
            if answer.status != 201:
                sys.exit(f"{name} was refused: {said.decode()}")

    async def watch(self) -> None:
        """Remember when each object's first Job was seen, for ever."""
        headers = {"Accept": METADATA_ONLY}
        async with self.session.get(JOBS, params={"watch": "true"}, headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                now = time.monotonic()
                if line.startswith(b'{"type":"ADDED"'):
                    meta = json.loads(line)["object"]["metadata"]
                    self.times.seen.setdefault(meta["labels"][keys.JOB_LABEL], now)
                    self.news.set()

    async def see(self, count: int) -> None:
        """Wait until the Jobs of so many objects were seen."""
        async with asyncio.timeout(LONGEST):
            while len(self.times.seen) < count:
                self.news.clear()
                await self.news.wait()

    async def have_status(self, status: str, count: int) -> None:
        """Wait until so many FineTuneJobs show `status`, as ``kubectl get`` does."""
        async with asyncio.timeout(LONGEST):
            while (await self._statuses()).count(status) < count:  # noqa: ASYNC110 - asks the server
                await asyncio.sleep(1)

    async def _statuses(self) -> list[str]:
        params, headers = {"includeObject": "None"}, {"Accept": TABLE}
        async with self.session.get(FINETUNEJOBS, params=params, headers=headers) as answer:
            answer.raise_for_status()
            table = await answer.json()
        column = [item["name"] for item in table["columnDefinitions"]].index("Status")
        return [row["cells"][column] for row in table["rows"]]


@contextlib.asynccontextmanager
async def connected(server: ApiServer) -> AsyncIterator[Client]:
    """Connect to the API server as its administrator, and watch Jobs."""
    authority = server.plane.authority
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_cert_chain(authority.certificate_of("admin"), authority.key_of("admin"))
    connector = aiohttp.TCPConnector(limit=CONNECTIONS + 1, ssl=context)
    none = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(server.url, connector=connector, timeout=none, read_bufsize=2**20) as session:
        client = Client(session)
        async with asyncio.TaskGroup() as group:  # a watch that fails ends the benchmark
            watch = group.create_task(client.watch())
            yield client
            watch.cancel()


async def at_pace(client: Client, items: list[Object], rate: int) -> None:
    """Create `rate` objects a second, whether or not the server keeps up."""
    begun, tasks = time.monotonic(), []
    for number, item in enumerate(items):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(client.create(item)))
    await asyncio.gather(*tasks)


async def at_once(client: Client, items: list[Object]) -> None:
    """Create all objects as fast as sixteen connections can."""
    left = iter(items)

    async def create() -> None:
        for item in left:
            await client.create(item)

    await asyncio.gather(*(create() for _ in range(CONNECTIONS)))


# --- one run ---------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What was measured on one cluster."""

    load: float
    """Of the machine, the minute before."""
    times: Times
    plane_cpu: float
    """CPU seconds of the API server, etcd, the controllers and kwok until the last Job was there."""
    cpu: float = 0.0
    """CPU seconds of the operator until the last Job was there."""
    whole_cpu: float = 0.0
    """The same until all statuses said that the Pods run."""
    whole_seconds: float = 0.0
    idle: float = 0.0
    """Cores that the operator uses when nothing changes any more."""
    memory: float = 0.0
    """MB resident when all are there."""
    restarts: list[float] = field(default_factory=list)
    """Seconds from each kill until a FineTuneJob that is created just then has its Job."""

    @property
    def seconds(self) -> float:
        """From the first POST until the last Job was seen."""
        return max(self.times.seen.values()) - min(self.times.sent.values())


def run(make: Callable[[str], Object], count: int, rate: int) -> Run:
    """Create `count` objects on a new cluster, `rate` a second or, if that is 0, in a burst."""
    print(f"{make.__name__}, {count} {f'at {rate} a second' if rate else 'in a burst'}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with api_server(folder / "cluster") as server:
            prepare(server, folder)
            if make is plain_job:
                return asyncio.run(measure_plain(server, count, rate))
            operator = Operator(server, folder)
            with operator.running():
                return asyncio.run(measure_ours(server, operator, count, rate))


def prepare(server: ApiServer, folder: Path) -> None:
    """Give the cluster nodes whose Pods never end, a claim, and the CRD."""
    kwok = programs_of_the_plane.kwok(server.plane)
    endless = tuple(word for word in kwok.argv if not word.endswith("pod-complete.yaml"))
    server.daemons.start(replace(kwok, argv=endless))
    server.add_nodes(12)
    server.kubectl("create", "namespace", NAMESPACE)
    server.kubectl("apply", "--filename=-", objects=storage())
    crd = subprocess.run([sys.executable, "-m", "tunesmith", "crd"], check=True, capture_output=True, text=True).stdout
    (folder / "crd.yaml").write_text(crd, encoding="utf-8")
    server.kubectl("apply", f"--filename={folder / 'crd.yaml'}")
    ask = programs_of_the_plane.ask
    server.daemons.wait_for("CRD", "kube-apiserver", 30, lambda: ask(server.plane, FINETUNEJOBS) is not None)
    claim = f"--namespace={NAMESPACE}", "pvc/tunesmith"
    server.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s", *claim)
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")


def storage() -> list[Object]:
    """Return a volume and the claim that the operator's Pods mount."""
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    size = {"storage": "1Ti"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "bench"},
            "spec": {**common, "capacity": size, "hostPath": {"path": "/nowhere"}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "tunesmith", "namespace": NAMESPACE},
            "spec": {**common, "volumeName": "bench", "resources": {"requests": size}},
        },
    ]


@dataclass
class Operator:
    """The operator as a process."""

    server: ApiServer
    folder: Path
    process: psutil.Popen = field(init=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run it until the block ends."""
        self.start()
        try:
            yield
        finally:
            self.kill()

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "tunesmith", "operator", f"--settings={self.folder / 'settings.yaml'}"]
        environ = {**os.environ, "KUBECONFIG": str(self.server.kubeconfig)}
        with (self.folder / "operator.log").open("ab") as log:
            self.process = psutil.Popen([*command, f"--port={free_port()}"], stderr=log, env=environ)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()

    def cpu(self) -> float:
        """Return the CPU seconds that it has used."""
        used = self.process.cpu_times()
        return float(used.user + used.system)

    def memory(self) -> float:
        """Return its resident MB."""
        return float(self.process.memory_info().rss) / 1e6


def plane_cpu(server: ApiServer) -> float:
    """Return the CPU seconds that the cluster's own programs have used."""
    used = (psutil.Process(process.pid).cpu_times() for process in server.daemons.running.values())
    return float(sum(times.user + times.system for times in used))


async def measure_plain(server: ApiServer, count: int, rate: int) -> Run:
    """Create plain Jobs: the floor."""
    async with connected(server) as client:
        load, before = os.getloadavg()[0], plane_cpu(server)
        await create_all(client, plain_job, count, rate)
        return Run(load, client.times, plane_cpu(server) - before)


async def create_all(client: Client, make: Callable[[str], Object], count: int, rate: int) -> None:
    items = [make(f"bench-{number:04}") for number in range(count)]
    await (at_pace(client, items, rate) if rate else at_once(client, items))
    await client.see(count)


async def measure_ours(server: ApiServer, operator: Operator, count: int, rate: int) -> Run:
    """Create FineTuneJobs; after a burst, also look at what the operator costs, and kill it."""
    async with connected(server) as client:
        await first_of_all(client)
        load, plane, own = os.getloadavg()[0], plane_cpu(server), operator.cpu()
        await create_all(client, finetunejob, count, rate)
        made = Run(load, client.times, plane_cpu(server) - plane, operator.cpu() - own)
        if rate:
            return made
        await client.have_status("Fetching", count + 1)
        made.whole_seconds = time.monotonic() - min(made.times.sent.values())
        made.whole_cpu = operator.cpu() - own
        made.idle = await idle_cores(operator)
        made.memory = operator.memory()
        client.times = Times()
        made.restarts = [await restart(operator, client, f"again-{number}") for number in range(RESTARTS)]
        return made


async def first_of_all(client: Client) -> None:
    """Wait until the operator works; this one is not measured."""
    await client.create(finetunejob("first"))
    await client.see(1)
    await client.have_status("Fetching", 1)
    client.times = Times()


async def idle_cores(operator: Operator) -> float:
    """Return how many cores the operator uses while nothing happens."""
    await asyncio.sleep(10)
    before, begun = operator.cpu(), time.monotonic()
    await asyncio.sleep(20)
    return (operator.cpu() - before) / (time.monotonic() - begun)


async def restart(operator: Operator, client: Client, name: str) -> float:
    """Kill the operator and start it; return the seconds until a new FineTuneJob has its Job."""
    killed = time.monotonic()
    operator.kill()
    operator.start()
    await client.create(finetunejob(name))
    await client.see(len(client.times.seen) + 1)
    return client.times.seen[name] - killed


# --- what is said of it ----------------------------------------------------------------------------------------------


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that `share` of the sorted values do not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))]


def print_latencies(plain: Run, ours: Run) -> None:
    """Print what was measured at ten a second."""
    print(f"{RATE} a second{'':<32} {'p50':>8} {'p99':>8} {'worst':>8}   goal p50, p99   load average")
    for label, delays, load, goal in (
        ("plain Job: sent to seen", plain.times.delays(plain.times.sent), plain.load, ""),
        ("FineTuneJob: sent to Job seen", ours.times.delays(ours.times.sent), ours.load, ""),
        ("FineTuneJob: answered to Job seen", ours.times.delays(ours.times.answered), ours.load, "0.030, 0.740"),
    ):
        p50, p99 = percentile(delays, 0.5), percentile(delays, 0.99)
        print(f"{label:<40} {p50:8.3f} {p99:8.3f} {delays[-1]:8.3f}   {goal:<13}   {load:.1f}")
    print(f"{'CPU of the operator, per object':<40} {1000 * ours.cpu / len(ours.times.seen):8.1f} ms")


def print_burst(plain: Run, ours: Run) -> None:
    """Print what was measured of the bursts and after them."""
    count, delays = len(ours.times.sent), ours.times.delays(ours.times.answered)
    print(f"\nburst of {count}; load average {plain.load:.1f} before the plain Jobs, {ours.load:.1f} before the others")
    for label, value, goal in (
        ("plain Jobs", f"{plain.seconds:8.1f} s", "floor: 3.7 s"),
        ("until each has its first Job", f"{ours.seconds:8.1f} s", "below 25 s; 53 s"),
        ("Jobs a second", f"{count / ours.seconds:8.1f}", ""),
        ("answered to Job seen, p50", f"{percentile(delays, 0.5):8.2f} s", ""),
        ("answered to Job seen, p99", f"{percentile(delays, 0.99):8.2f} s", ""),
        ("until all statuses say that it runs", f"{ours.whole_seconds:8.1f} s", ""),
        ("CPU of the operator per object", f"{1000 * ours.cpu / count:8.1f} ms", "19 ms"),
        ("the same until all statuses say so", f"{1000 * ours.whole_cpu / count:8.1f} ms", ""),
        ("CPU of the cluster, plain Jobs", f"{plain.plane_cpu:8.1f} s", ""),
        ("CPU of the cluster, FineTuneJobs", f"{ours.plane_cpu:8.1f} s", ""),
        ("memory of the operator", f"{ours.memory:8.0f} MB", "194 MB"),
        ("cores of the operator, idle", f"{ours.idle:8.3f}", ""),
        ("works again after kill -9, median", f"{statistics.median(ours.restarts):8.2f} s", "2.5 s"),
        ("works again after kill -9, worst", f"{max(ours.restarts):8.2f} s", ""),
    ):
        print(f"{label:<40} {value:<12} {f'({goal})' if goal else ''}".rstrip())


if __name__ == "__main__":
    main()
