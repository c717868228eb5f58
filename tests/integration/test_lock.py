from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil
import pytest

from tunesmith.local.lock import AlreadyRunningError, Lock, end_process, hold

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from tunesmith.local.lock import hold
with hold(Path(sys.argv[1]) / "lock.json") as lock:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdout=subprocess.PIPE)
    child.stdout.readline()
    lock.note_child(child.pid)
    print(child.pid, flush=True)
    time.sleep(60)
"""
WAITS = "import time; print('here', flush=True); time.sleep(60)"
IGNORES = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"
HAS_CHILDREN = (
    "import subprocess, sys, time; "
    f"p = subprocess.Popen([sys.executable, '-c', {IGNORES!r}], stdout=subprocess.PIPE); "
    "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)"
)


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Return a function that starts Python and waits for its first line; what is left over is killed at the end."""
    processes = []

    def function(code: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield function
    for process in processes:
        process.kill()
        process.communicate()


Starter = Callable[..., tuple["subprocess.Popen[str]", str]]


def gone(pid: int, seconds: float = 5) -> bool:
    """Say whether a process ends within some seconds; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def test_lock_is_there_while_it_is_held(tmp_path: Path) -> None:
    """The lock names this process, and nothing is left of it afterwards."""
    with hold(tmp_path / "run" / "lock.json"):
        content = json.loads((tmp_path / "run" / "lock.json").read_text())
        assert content["run"]["pid"] == os.getpid()
        assert content["child"] is None
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock.json"]
    assert list((tmp_path / "run").iterdir()) == []


def test_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    """A run that fails does not stand in the way of the next."""
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "lock.json"):
        raise ZeroDivisionError
    with hold(tmp_path / "lock.json"):
        pass


def test_living_run_is_left_alone(tmp_path: Path, start: Starter) -> None:
    """While another process runs the job, nobody else does; it and its stage go on."""
    holder, child = start(HOLDER, str(tmp_path), WAITS)
    with pytest.raises(AlreadyRunningError, match=str(holder.pid)) as caught, hold(tmp_path / "lock.json"):
        pass
    assert caught.value.pid == holder.pid
    assert holder.poll() is None
    assert psutil.Process(int(child)).is_running()
    assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]
    os.kill(int(child), signal.SIGKILL)


def test_killed_run_is_cleared_and_its_stage_ended(tmp_path: Path, start: Starter) -> None:
    """After kill -9 the next run takes over, once what the old one left running has been ended."""
    holder, child = start(HOLDER, str(tmp_path), WAITS)
    holder.kill()
    holder.wait()
    assert psutil.Process(int(child)).is_running()
    with hold(tmp_path / "lock.json"):
        assert gone(int(child), 0.5)
        assert json.loads((tmp_path / "lock.json").read_text())["run"]["pid"] == os.getpid()


def test_killed_run_without_a_stage_is_cleared(tmp_path: Path, start: Starter) -> None:
    """A run that was killed between two stages left nothing running."""
    holder, child = start(HOLDER, str(tmp_path), WAITS)
    os.kill(int(child), signal.SIGKILL)
    holder.kill()
    holder.wait()
    with hold(tmp_path / "lock.json"):
        pass


HERE = {"host": platform.node()}
LEFT_BEHIND: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "half a file": lambda: '{"run": {"pid"',
    "something else": lambda: "[1, 2]",
    "no start time": lambda: json.dumps({"run": {**HERE, "pid": os.getpid()}, "child": None}),
    "a number that another process has now": lambda: json.dumps(
        {"run": {**HERE, "pid": os.getpid(), "started": 1.0}, "child": {**HERE, "pid": os.getpid(), "started": 1.0}}
    ),
    "a process that cannot be": lambda: json.dumps({"run": {**HERE, "pid": 2**22 + 1, "started": 1.0}, "child": None}),
}


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_lock_of_nobody_is_cleared(tmp_path: Path, name: str) -> None:
    """What does not name a living process is no lock; above all, a process that merely has the number is not ended."""
    (tmp_path / "lock.json").write_text(LEFT_BEHIND[name]())
    with hold(tmp_path / "lock.json"):
        assert json.loads((tmp_path / "lock.json").read_text())["run"]["pid"] == os.getpid()


def test_giving_back_does_not_take_anothers(tmp_path: Path) -> None:
    """A lock that has gone to somebody else stays theirs."""
    theirs = json.dumps({"run": {"pid": 1, "started": 1.0}, "child": None})
    with hold(tmp_path / "lock.json"):
        (tmp_path / "lock.json").write_text(theirs)
    assert (tmp_path / "lock.json").read_text() == theirs


def _try(folder: Path, together: Barrier) -> None:
    together.wait()
    try:
        Lock(folder / "lock.json").take()
        got = True
    except AlreadyRunningError:
        got = False
    together.wait()  # hold it until everybody has tried
    os._exit(0 if got else 1)  # as if killed: the lock stays


def test_one_of_many_takes_over(tmp_path: Path) -> None:
    """Of several runs that find a dead one's lock at the same moment, exactly one goes on."""
    fork = multiprocessing.get_context("fork")
    for _ in range(5):
        together = fork.Barrier(4)
        runs = [fork.Process(target=_try, args=(tmp_path, together)) for _ in range(4)]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert sorted(run.exitcode or 0 for run in runs) == [0, 1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]


# --- ending processes ------------------------------------------------------------------------------------------------


def test_process_is_asked_first(start: Starter) -> None:
    """A program that ends when asked is not killed."""
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(81)); {WAITS}"
    process, _ = start(code)
    end_process(process.pid)
    assert gone(process.pid, 0.5)


def test_process_that_does_not_listen_is_killed(start: Starter) -> None:
    """Patience has an end."""
    process, _ = start(IGNORES)
    before = time.monotonic()
    end_process(process.pid, patience=0.2)
    assert gone(process.pid, 0.5)
    assert time.monotonic() - before < 30, "what a program has to end by itself is twice as long"


def test_what_it_started_ends_too(start: Starter) -> None:
    """Nothing below the program is left running, even if it ignores being asked."""
    process, grandchild = start(HAS_CHILDREN)
    end_process(process.pid, patience=0.5)
    assert gone(process.pid, 0.5)
    assert gone(int(grandchild), 0.5)


def test_ending_what_has_ended(start: Starter) -> None:
    """A process that is gone already is no error."""
    process, _ = start(WAITS)
    process.kill()
    process.wait()
    end_process(process.pid)


def test_lock_of_another_machine_is_left_alone(tmp_path: Path) -> None:
    """Whether another machine's process lives cannot be told here: its lock stays, and people are told where it is."""
    lock = tmp_path / "lock.json"
    lock.write_text(json.dumps({"run": {"host": "elsewhere", "pid": 1, "started": 1.0}, "child": None}))
    with pytest.raises(AlreadyRunningError, match=r"on elsewhere .*lock\.json"), hold(lock):
        pass
    assert lock.exists()


def test_same_process_number_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two containers, whose programs have the same number, one gets the lock, and the other sees whose it is."""
    lock = tmp_path / "lock.json"
    one = Lock(lock)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(platform, "node", lambda: "elsewhere")
        other = Lock(lock)
    link = os.link

    def other_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        other.take()
        link(source, target)

    monkeypatch.setattr(os, "link", other_first)
    monkeypatch.setattr("tunesmith.local.lock._alone", lambda _: contextlib.nullcontext())  # it is one machine's
    with pytest.raises(AlreadyRunningError, match="on elsewhere"):
        one.take()
    other.release()
    assert list(tmp_path.iterdir()) == []


def test_waits_for_who_holds_it(tmp_path: Path) -> None:
    """With somebody to tell, a held lock is waited for, and said once."""
    lock = tmp_path / "lock.json"
    told: list[AlreadyRunningError] = []
    other = Lock(lock)
    other.take()

    def tell(error: AlreadyRunningError) -> None:
        told.append(error)
        other.release()  # not before: a slow disk may keep who waits from its first look

    with hold(lock, tell):
        assert len(told) == 1
