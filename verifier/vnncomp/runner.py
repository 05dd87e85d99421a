"""Runs the instances of a category: each in its own process with its own time limit, results into the journal."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from verifier.engines.process import kill_tree
from verifier.errors import InputError, VerifierError
from verifier.events import Event, Listener, ignore
from verifier.threads import VARIABLES
from verifier.vnncomp.answer import read_answer, read_counterexample
from verifier.vnncomp.category import Category, Instance, read_question, resolve
from verifier.vnncomp.journal import Journal, Record

ATTEMPTS = 3
"""An instance whose worker is lost this many times ends as an error."""
GRACE = 0.25
"""Seconds past its limit after which an instance's process is killed."""


@dataclass(frozen=True)
class Settings:
    """What one instance's run depends on besides its files.

    Attributes:
        engine: as for `verify`.
        threads: threads of one instance.
        memory: GiB for each solver process; None for no limit.
        seed: seed of everything random.
        cap: no instance gets more seconds than this; None: the category's own limits.
    """

    engine: str = "auto"
    threads: int = 1
    memory: float | None = None
    seed: int = 0
    cap: float | None = None

    def limit(self, instance: Instance) -> float:
        """The instance's time limit in seconds."""
        return instance.timeout if self.cap is None else min(self.cap, instance.timeout)


@dataclass(frozen=True, kw_only=True)
class InstanceStarted(Event):
    """An instance has begun."""

    instance: Instance


@dataclass(frozen=True, kw_only=True)
class InstanceFinished(Event):
    """An instance has its result."""

    instance: Instance
    record: Record
    expected: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class InstanceLost(Event):
    """The worker of an instance was lost; it is run again, or given up."""

    instance: Instance
    reason: str


class WorkerLostError(Exception):
    """The worker that ran an instance is gone, and with it the instance's result."""


def run_process(
    category: str, folder: Path, instance: Instance, settings: Settings, processes: set[int] | None = None
) -> Record:
    """Run one instance in its own process group, kill it at its limit, and check its counterexample.

    Args:
        folder: the category's folder; the instance's files are relative to it.
        processes: receives the process's id while it runs, so that others can kill it.
    """
    limit = settings.limit(instance)
    with tempfile.TemporaryDirectory(prefix="verifier-vnncomp-") as place:
        out, details, log = Path(place, "out"), Path(place, "details"), Path(place, "log")
        onnx = instance.onnx if instance.onnx.startswith("[") else str((folder / instance.onnx).resolve())
        words = ["v1", category, onnx, str((folder / instance.vnnlib).resolve()), str(out), repr(limit)]
        words += ["--engine", settings.engine, "--threads", str(settings.threads), "--seed", str(settings.seed)]
        words += ["--details", str(details)] + ([] if settings.memory is None else ["--memory", str(settings.memory)])
        began = time.monotonic()
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "verifier.vnncomp.run_instance", *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **_environment(settings.threads)},
                start_new_session=True,
            )
        if processes is not None:
            processes.add(process.pid)
        try:
            code: int | None = process.wait(timeout=limit + GRACE)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            kill_tree(process.pid)
            process.wait()
            if processes is not None:
                processes.discard(process.pid)
        seconds = time.monotonic() - began
        record = _record(instance, code, seconds, limit, out, details, log)
    return _checked(record, folder, instance)


def _environment(threads: int) -> dict[str, str]:
    from verifier.vnncomp.run_instance import DIE_WITH_PARENT

    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**VARIABLES, "NUMBA_NUM_THREADS": str(threads), DIE_WITH_PARENT: "1", "PYTHONPATH": path}


def _record(
    instance: Instance, code: int | None, seconds: float, limit: float, out: Path, details: Path, log: Path
) -> Record:
    number = instance.number
    if code is None:
        return Record(number=number, result="timeout", seconds=seconds, reason="killed at the time limit")
    if code != 0:
        lines = log.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        reason = f"{how}: {lines[-1]}" if lines else how
        return Record(number=number, result="error", seconds=seconds, reason=reason)
    try:
        result, counterexample = read_answer(out.read_text())
    except (OSError, InputError) as error:
        return Record(number=number, result="error", seconds=seconds, reason=f"no result: {error}")
    try:
        more = json.loads(details.read_text())
    except (OSError, ValueError):
        more = {"reason": "the process left at its time limit" if result == "timeout" else ""}
    said = {name: str(more.get(name) or "") for name in ("engine", "stage", "reason")}
    if result in ("sat", "unsat") and seconds > limit:
        said["reason"] = f"{result}, but after the time limit"
        return Record(number=number, result="timeout", seconds=seconds, **said)
    return Record(number=number, result=result, seconds=seconds, counterexample=counterexample, **said)


def _checked(record: Record, folder: Path, instance: Instance) -> Record:
    """The record with what the competition's check says of its counterexample, found apart from the tool's run."""
    if record.result != "sat":
        return record
    from verifier.network.runtime import RuntimeModel
    from verifier.properties.vnnlib import read_text, version
    from verifier.properties.vnnlib2 import variables
    from verifier.vnncomp.witness import check

    try:
        query = read_question(instance.onnx, Path(instance.vnnlib), folder)
        text = read_text(resolve(folder / instance.vnnlib))
        declared = variables(text, query.network) if version(text) == 2 else ()
        x, _ = read_counterexample(record.counterexample, declared)
        found = check(query, RuntimeModel(query.network), x)
    except Exception as error:  # a check that cannot be made has not been passed
        return replace(record, witness=f"INVALID: {type(error).__name__}: {error}")
    if not found.valid:
        problem = "the condition does not hold" if not found.condition else f"outside the box by {found.outside:.1e}"
        return replace(record, witness=f"INVALID: {problem}")
    return replace(record, witness="valid" if found.outside == 0 else f"outside by {found.outside:.1e}")


def failure(instance: Instance, error: BaseException) -> Record:
    """The record of an instance that could not be run at all."""
    return Record(
        number=instance.number, result="error", seconds=0.0, reason=f"not run: {type(error).__name__}: {error}"
    )


class Executor(ABC):
    """Where instances run: this machine, or a cluster."""

    @property
    @abstractmethod
    def free(self) -> int:
        """How many more instances can be started now."""

    @abstractmethod
    def submit(self, instance: Instance) -> None:
        """Start an instance."""

    @abstractmethod
    def wait(self) -> list[tuple[Instance, Record | WorkerLostError]]:
        """The instances that have ended, waiting up to about a second for one; maybe none."""

    @abstractmethod
    def close(self) -> None:
        """End everything that still runs."""


class LocalExecutor(Executor):
    """Several processes on this machine."""

    def __init__(self, category: Category, settings: Settings, workers: int) -> None:
        self.category, self.settings, self.workers = category, settings, workers
        self._pool = concurrent.futures.ThreadPoolExecutor(workers)
        self._running: dict[concurrent.futures.Future[Record], Instance] = {}
        self._processes: set[int] = set()
        self._closed = threading.Event()

    @property
    def free(self) -> int:
        return self.workers - len(self._running)

    def submit(self, instance: Instance) -> None:
        category = self.category
        future = self._pool.submit(
            run_process, category.name, category.folder, instance, self.settings, self._processes
        )
        self._running[future] = instance

    def wait(self) -> list[tuple[Instance, Record | WorkerLostError]]:
        done, _ = concurrent.futures.wait(self._running, timeout=1.0, return_when=concurrent.futures.FIRST_COMPLETED)
        ended: list[tuple[Instance, Record | WorkerLostError]] = []
        for future in done:
            instance, error = self._running.pop(future), future.exception()
            ended.append((instance, future.result() if error is None else failure(instance, error)))
        return ended

    def close(self) -> None:
        while self._running:
            for pid in list(self._processes):
                kill_tree(pid)
            for future in [f for f in self._running if f.done() or f.cancel()]:
                del self._running[future]
            time.sleep(0.02)
        self._pool.shutdown(wait=True, cancel_futures=True)


def run_category(
    category: Category,
    instances: Sequence[Instance],
    journal: Journal,
    executor: Executor,
    listener: Listener = ignore,
) -> dict[int, Record]:
    """Run all instances that the journal has no result for; returns the results of all.

    An instance whose worker is lost is run again, at most `ATTEMPTS` times.
    """
    began = time.monotonic()

    def now() -> float:
        return time.monotonic() - began

    waiting = deque(journal.open_instances(instances))
    total, done = len(instances), len(instances) - len(waiting)
    lost: dict[int, int] = {}
    running = 0

    def finish(instance: Instance, record: Record) -> None:
        nonlocal done
        journal.finished(record)
        done += 1
        expected = category.expected(instance)
        listener(
            InstanceFinished(seconds=now(), instance=instance, record=record, expected=expected, done=done, total=total)
        )

    try:
        while waiting or running:
            while waiting and executor.free > 0:
                instance = waiting.popleft()
                journal.started(instance.number)
                listener(InstanceStarted(seconds=now(), instance=instance))
                try:
                    executor.submit(instance)
                except (OSError, VerifierError) as error:
                    finish(instance, failure(instance, error))
                else:
                    running += 1
            for instance, outcome in executor.wait():
                running -= 1
                if isinstance(outcome, Record):
                    finish(instance, outcome)
                    continue
                lost[instance.number] = lost.get(instance.number, 0) + 1
                listener(InstanceLost(seconds=now(), instance=instance, reason=str(outcome)))
                if lost[instance.number] < ATTEMPTS:
                    waiting.append(instance)
                else:
                    reason = f"the worker was lost {ATTEMPTS} times: {outcome}"
                    finish(instance, Record(number=instance.number, result="error", seconds=0.0, reason=reason))
    finally:
        executor.close()
    wanted = {instance.number for instance in instances}
    return {number: record for number, record in journal.records().items() if number in wanted}
