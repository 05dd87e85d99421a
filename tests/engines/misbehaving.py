"""Engines that misbehave in every way that was seen of solvers, for tests with real child processes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from verifier.engines.base import ENCODED, PIECEWISE_LINEAR, Answer, Availability, Capabilities, Engine, EngineResult
from verifier.events import Listener, Progress, ignore
from verifier.limits import Deadline
from verifier.options import Options
from verifier.properties.query import Query
from verifier.verdict import Certainty


class _Base(Engine):
    capabilities = Capabilities(operators=PIECEWISE_LINEAR, features=ENCODED)

    def availability(self) -> Availability:
        return Availability(True, "for tests")


class Right(_Base):
    """Answers by sampling corners: right on the tests' tiny queries."""

    name = "right"

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        listener(Progress(seconds=0.0, stage="solve", done=1, unit="boxes"))
        ends = np.stack([query.box.lower, query.box.upper])
        bits = (np.arange(2**query.box.size)[:, None] >> np.arange(query.box.size)) & 1
        corners = ends[bits, np.arange(query.box.size)]
        hits = corners[query.holds(corners)]
        if len(hits):
            return EngineResult(answer=Answer.SAT, x=hits[0])
        return EngineResult(answer=Answer.UNSAT, certainty=Certainty.NUMERICAL)


class Noisy(Right):
    name = "noisy"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        print("x" * 200_000, flush=True)
        os.system("echo from a shell; echo to stderr >&2")
        return super().solve(*args, **kwargs)  # type: ignore[arg-type]


class SaysUnsat(_Base):
    name = "says-unsat"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        return EngineResult(answer=Answer.UNSAT, certainty=Certainty.EXACT)


class SaysCenter(_Base):
    """Proposes the box's center, whatever the query."""

    name = "says-center"

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        return EngineResult(answer=Answer.SAT, x=query.box.center)


class SaysNan(_Base):
    name = "says-nan"

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        return EngineResult(answer=Answer.SAT, x=np.full(query.box.size, np.nan))


class SaysUnsatBare(_Base):
    name = "says-unsat-bare"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        return EngineResult(answer=Answer.UNSAT)


class SaysUnknown(_Base):
    name = "says-unknown"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        return EngineResult(answer=Answer.UNKNOWN, reason="incomplete")


class SaysTrue(_Base):
    name = "says-true"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        return True  # type: ignore[return-value]


class Raises(_Base):
    name = "raises"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        raise KeyError("status 17 is not in the status map")


class Aborts(_Base):
    name = "aborts"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        print("terminate called after throwing", flush=True)
        os.abort()


class Segfaults(_Base):
    name = "segfaults"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        ctypes.string_at(0)
        raise AssertionError("unreachable")


class Exits(_Base):
    name = "exits"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        os._exit(3)


class KilledHalfway(_Base):
    """Dies after part of a message."""

    name = "killed-halfway"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        os.write(int(sys.argv[1]), (1000).to_bytes(8, "little") + b"half a pickle")
        os.kill(os.getpid(), 9)
        raise AssertionError("unreachable")


class Garbage(_Base):
    """Writes bytes that are no pickle."""

    name = "garbage"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        os.write(int(sys.argv[1]), (7).to_bytes(8, "little") + b"garbage")
        time.sleep(60)
        raise AssertionError("unreachable")


class Hangs(_Base):
    """Hangs while it holds the GIL, and so does a process that it started; leaves their ids in a file."""

    name = "hangs"

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        grandchild = subprocess.Popen(["sleep", "1000"])
        place = os.environ.get("MISBEHAVING_PIDS")
        if place:
            Path(place).write_text(f"{os.getpid()} {grandchild.pid}")
        ctypes.PyDLL(None).sleep(1000)
        raise AssertionError("unreachable")


class EatsMemory(_Base):
    name = "eats-memory"

    def solve(self, *args: object, **kwargs: object) -> EngineResult:
        pieces = []
        while True:
            pieces.append(np.ones(2_000_000))
            time.sleep(0.005)
