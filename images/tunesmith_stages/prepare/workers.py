"""Runs a function over a stream of tasks in several processes, and yields the results in the tasks' order.

The processes are forks of this one (:mod:`.worker`): what it has read and imported, they need not. So this one must not
have threads that hold a lock; `prepare` has none. They get their tasks and give back their results through a pipe each.
At any time a bounded number of tasks is under way, so that memory does not grow with the stream. Which process did what
shows in nothing: the results, and the error of the earliest task that failed, are the same for any number of them.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Generic, TypeVar

from tunesmith_stages.contract import ExitCode, Failure
from tunesmith_stages.prepare.worker import STOPS, work
from tunesmith_stages.program import StageError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_WORTH_A_PROCESS = 4
"""With up to so many tasks, what each process has to learn by itself would take longer than they do."""
_GIVEN = 2
"""Tasks that a process has at once: the one it works on, and the next."""
_AHEAD = 4
"""Results, by process, that may wait for an earlier one."""


def in_order(
    tasks: Iterable[_Task], function: Callable[[_Task], _Result], processes: int
) -> Generator[_Result, None, None]:
    """Yield ``function(task)`` for each task, in the tasks' order. Close it when it is not read to its end.

    Args:
        tasks: read here, as they are needed. They must be picklable.
        function: need not be picklable.
        processes: how many to use. With 1, or few tasks, they are done here.

    Raises:
        StageError: of the first task that raised one, or a process was killed.
    """
    rest = _until_error(iter(tasks))
    first = list(itertools.islice(rest, _WORTH_A_PROCESS + 1)) if processes > 1 else []
    if len(first) > _WORTH_A_PROCESS:
        with _Team(function, processes) as team:
            yield from team.results(itertools.chain(first, rest))
        return
    for task in itertools.chain(first, rest):
        if isinstance(task, StageError):
            raise task
        yield function(task)


@dataclass
class _Worker:
    process: ForkProcess
    pipe: Connection
    tasks: int = 0
    """Tasks that it has and has not given back."""


@dataclass
class _Outcome(Generic[_Result]):
    """What came of a task: its result, or why there is none."""

    result: _Result | None = None
    error: StageError | None = None


@dataclass
class _Team(Generic[_Task, _Result]):
    function: Callable[[_Task], _Result]
    processes: int
    workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> _Team[_Task, _Result]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            for _ in range(self.processes):
                self.workers.append(self._started())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def _started(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            not_theirs = [ours, *(worker.pipe for worker in self.workers)]
            process = ForkProcess(target=work, args=(self.function, theirs, not_theirs), daemon=True)
            process.start()
        return _Worker(process, ours)

    def __exit__(self, *_: object) -> None:
        """End the processes at once: what they still do is of no use to anybody, and they hold nothing open."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()

    def results(self, tasks: Iterator[_Task | StageError]) -> Iterator[_Result]:
        """Yield the results in order; see :func:`in_order`."""
        waiting: dict[int, _Outcome[_Result]] = {}
        numbered = enumerate(tasks)
        given = yielded = 0
        while True:
            while given - yielded < _AHEAD * self.processes and (worker := self._free()):
                number, task = next(numbered, (given, None))
                if task is None:
                    break
                given += 1
                if isinstance(task, StageError):
                    waiting[number] = _Outcome(error=task)
                else:
                    _give(worker, number, task)
            if yielded == given:
                return
            if yielded not in waiting:
                waiting.update(self._receive())
                continue
            outcome = waiting.pop(yielded)
            if outcome.error is not None:
                raise outcome.error
            yielded += 1
            yield outcome.result  # type: ignore[misc]  # there is one if there is no error

    def _free(self) -> _Worker | None:
        worker = min(self.workers, key=lambda worker: worker.tasks)
        return worker if worker.tasks < _GIVEN else None

    def _receive(self) -> Iterator[tuple[int, _Outcome[_Result]]]:
        """Yield what came of tasks, each with its number, after waiting for at least one."""
        ready = wait([worker.pipe for worker in self.workers])
        for worker in self.workers:
            if worker.pipe not in ready:
                continue
            try:
                number, result, failure = worker.pipe.recv()
            except (EOFError, OSError):
                raise _lost(worker) from None
            worker.tasks -= 1
            yield number, _Outcome(result, _error(failure) if failure else None)


def _until_error(tasks: Iterator[_Task]) -> Iterator[_Task | StageError]:
    """Yield the tasks and, as the last, the error that ended them. What is before it comes first, and may fail, too."""
    try:
        yield from tasks
    except StageError as error:
        yield error


def _give(worker: _Worker, number: int, task: object) -> None:
    try:
        worker.pipe.send((number, task))
    except OSError:
        raise _lost(worker) from None
    worker.tasks += 1


def _error(failure: Failure) -> StageError:
    return StageError(failure.code, failure.message, reason=failure.reason, hint=failure.hint)


def _lost(worker: _Worker) -> StageError:
    """Return what it means that a process is gone without a word."""
    worker.process.join()
    code = worker.process.exitcode or 0
    if code == -signal.SIGKILL:
        return StageError(
            ExitCode.OUT_OF_MEMORY,
            "a process that prepares rows was killed (SIGKILL); that is what the kernel does when memory runs out",
            hint="Give the stage more memory, or fewer processors: it starts one process on each.",
        )
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return StageError(ExitCode.INTERNAL, f"a process that prepares rows ended without a word ({how})")
