"""Engines in child processes, with a wall-clock and a memory limit, that can be killed at any moment.

A foreign solver may hold the GIL, crash, hang, or eat all memory. Each solver call therefore runs in a fresh
``python -m verifier.engines.child`` in a process group of its own, which is killed (SIGKILL) as a whole when its
time is over, when it uses more memory than it may, when the caller is interrupted, and when its answer is in.
Whatever is not a well-formed answer ends as ERROR or TIMEOUT with a reason, never as UNSAT.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from verifier.engines.base import Answer, Engine, EngineResult
from verifier.events import Event, Listener, ignore
from verifier.limits import Deadline
from verifier.options import Options
from verifier.properties.query import Query
from verifier.threads import VARIABLES

GRACE = 0.2
"""Seconds past its deadline that a child may use to report a time-out itself before it is killed."""
POLL = 0.05
"""Seconds between two looks at the clock and at the children's memory."""
HEADER = struct.Struct("<Q")
"""A message on the reply pipe: its length, then a pickle."""


@dataclass(frozen=True)
class Request:
    """What a child is asked; kept on disk in the child's own folder, and as the reproducer of a failure.

    Attributes:
        engine: the engine's name, or ``"module:Class"``.
        seconds: wall-clock seconds that the engine has; None for no limit.
        memory: memory limit in GiB; None for none.
    """

    engine: str
    query: Query
    options: Options
    seconds: float | None
    memory: float | None


class ChildProcess:
    """One engine at work on one query in a child process. A context manager: leaving it kills the child.

    Args:
        engine: an engine of the registry, or any importable `Engine` class's instance.
        deadline: when the child must have answered.
        listener: receives the engine's events.
    """

    def __init__(
        self, engine: Engine, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore
    ) -> None:
        self.engine, self.query, self.options, self.listener = engine, query, options, listener
        self.deadline = deadline
        self.result: EngineResult | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"verifier-{engine.name}-"))
        self._buffer = bytearray()
        self._killed = False
        self._log = self.folder / "log"
        try:
            self._start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _start(self) -> None:
        kind = type(self.engine)
        request = Request(
            engine=f"{kind.__module__}:{kind.__qualname__}",
            query=self.query,
            options=self.options,
            seconds=None if self.deadline.at is None else self.deadline.left,
            memory=self.options.memory,
        )
        with (self.folder / "request").open("wb") as file:
            pickle.dump(request, file, protocol=pickle.HIGHEST_PROTOCOL)
        read_end, write_end = os.pipe()
        try:
            with self._log.open("wb") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "verifier.engines.child", str(write_end), str(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    env=self._environment(),
                    pass_fds=(write_end,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        os.set_blocking(read_end, False)
        self.pipe = read_end

    def _environment(self) -> Mapping[str, str]:
        path = [os.path.abspath(entry) for entry in sys.path]
        own = {"PYTHONPATH": os.pathsep.join(path), "TMPDIR": str(self.folder)}
        return {**os.environ, **VARIABLES, **own}

    # -- while it runs -----------------------------------------------------------------------------------
    def advance(self) -> EngineResult | None:
        """Read what the child has sent, look at the clock and at its memory; the result once there is one."""
        if self.result is None:
            self._read()
        if self.result is None and self.deadline.at is not None and time.monotonic() > self.deadline.at + GRACE:
            self._finish(EngineResult(answer=Answer.TIMEOUT, reason="killed at the time limit"))
        if self.result is None and self.options.memory is not None:
            used = resident_gib(self.process.pid)
            if used > self.options.memory:
                reason = f"killed: {used:.2f} GiB of memory, and {self.options.memory:g} GiB are allowed"
                self._finish(EngineResult(answer=Answer.ERROR, reason=reason))
        return self.result

    def _read(self) -> None:
        closed = False
        while not closed:
            try:
                chunk = os.read(self.pipe, 1 << 20)
            except BlockingIOError:
                break
            closed = not chunk
            self._buffer += chunk
        while self.result is None and len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if len(self._buffer) < HEADER.size + length:
                break
            payload = bytes(self._buffer[HEADER.size : HEADER.size + length])
            del self._buffer[: HEADER.size + length]
            self._message(payload)
        if closed and self.result is None:
            self._finish(EngineResult(answer=Answer.ERROR, reason=self._death()))

    def _message(self, payload: bytes) -> None:
        try:
            message = pickle.loads(payload)
        except Exception as error:
            self._finish(EngineResult(answer=Answer.ERROR, reason=f"unreadable answer from the child: {error}"))
            return
        if isinstance(message, Event):
            self.listener(message)
        else:
            self._finish(checked(message, self.query))

    def _death(self) -> str:
        """Why a child that closed its pipe without an answer did so, in words."""
        try:
            code = self.process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            return f"the process closed its pipe without an answer{self._tail()}"
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            return f"the process was ended by {name}{self._tail()}"
        return f"the process ended without an answer, exit status {code}{self._tail()}"

    def _tail(self) -> str:
        """The end of what the child printed."""
        try:
            lines = self._log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f": {' | '.join(lines[-3:])}" if lines else ""

    def _finish(self, result: EngineResult) -> None:
        self.result = result
        self.kill()

    def kill(self) -> None:
        """Kill the child and all that it has started. Harmless when it has ended."""
        if self._killed:
            return
        self._killed = True
        kill_tree(self.process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5.0)

    def close(self) -> None:
        """Kill the child, close the pipe and remove its folder."""
        self.kill()
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def checked(message: object, query: Query) -> EngineResult:
    """A child's answer if it is well formed, else an ERROR that says what is wrong with it."""

    def wrong(reason: str) -> EngineResult:
        return EngineResult(answer=Answer.ERROR, reason=reason)

    if not isinstance(message, EngineResult) or not isinstance(message.answer, Answer):
        return wrong(f"the engine answered with a {type(message).__name__}, which is no engine result")
    if message.answer is Answer.SAT:
        x = None if message.x is None else np.asarray(message.x, dtype=np.float64).reshape(-1)
        if x is None or x.size != query.network.input_size or not np.isfinite(x).all():
            return wrong("the engine answered sat without a usable point")
    if message.answer is Answer.UNSAT and message.certainty is None:
        return wrong("the engine answered unsat without saying how certain it is")
    return message


def run(
    children: Sequence[ChildProcess],
    until: Callable[[Mapping[int, EngineResult]], bool] | None = None,
    tick: Callable[[], None] | None = None,
) -> dict[int, EngineResult]:
    """Wait for children, all at once, in one thread.

    Args:
        until: stop early when this is true of the results so far (position in ``children`` -> result).
        tick: called after every look, about every `POLL` seconds.

    Returns:
        the results of the children that had answered.
    """
    results: dict[int, EngineResult] = {}
    with selectors.DefaultSelector() as selector:
        for k, child in enumerate(children):
            selector.register(child.pipe, selectors.EVENT_READ, k)
        while len(results) < len(children):
            selector.select(POLL)
            for k, child in enumerate(children):
                if k not in results:
                    result = child.advance()
                    if result is not None:
                        results[k] = result
                        selector.unregister(child.pipe)
            if tick is not None:
                tick()
            if until is not None and until(results):
                break
    return results


def solve_in_child(
    engine: Engine, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore
) -> EngineResult:
    """What `engine.solve` answers, found in a child process that is gone when this returns."""
    with ChildProcess(engine, query, options, deadline, listener) as child:
        return run([child])[0]


def resident_gib(pid: int) -> float:
    """Resident memory of a process and its descendants, in GiB; 0 where /proc does not exist."""
    total = 0
    for process in (pid, *descendants(pid)):
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total / 2**30


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, directly and indirectly; none where /proc does not exist."""
    found, stack = [], [pid]
    while stack:
        process = stack.pop()
        with contextlib.suppress(OSError, ValueError):
            for task in Path(f"/proc/{process}/task").iterdir():
                children = [int(p) for p in (task / "children").read_text().split()]
                found += children
                stack += children
    return found


def kill_tree(pid: int) -> None:
    """Kill a process that leads its own group, the group, and all descendants in other groups."""
    others = descendants(pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for other in others:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(other, signal.SIGKILL)
