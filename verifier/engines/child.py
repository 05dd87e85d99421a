"""The child's side of `verifier.engines.process`: ``python -m verifier.engines.child FD FOLDER``.

Reads a pickled `Request` from ``FOLDER/request``, runs the engine, and writes its events and its result as
length-prefixed pickles to the file descriptor FD. Standard output and error are free for what a solver prints.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

from verifier.engines.base import Answer, Engine, EngineResult
from verifier.engines.disjunctions import solve
from verifier.engines.process import HEADER, Request
from verifier.errors import TimeLimitError
from verifier.limits import Deadline, MemoryBudget, in_force


def main(arguments: list[str]) -> None:
    """Answer one request; leaves by `os._exit`, since solvers were seen to hang or crash in their clean-up."""
    descriptor, folder = int(arguments[0]), Path(arguments[1])
    die_with_parent()

    def send(message: object) -> None:
        payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        data = memoryview(HEADER.pack(len(payload)) + payload)
        while data:
            data = data[os.write(descriptor, data) :]

    try:
        with (folder / "request").open("rb") as file:
            request: Request = pickle.load(file)
        limit_memory(request.memory)
        engine = load_engine(request.engine)
        deadline = Deadline.after(request.seconds)
        with in_force(deadline, MemoryBudget.of(request.memory)):
            result: Any = solve(engine, request.query, request.options, deadline, send)
    except TimeLimitError as error:
        result = EngineResult(answer=Answer.TIMEOUT, reason=error.problem)
    except MemoryError:
        result = EngineResult(answer=Answer.ERROR, reason="out of memory")
    except BaseException as error:
        result = EngineResult(answer=Answer.ERROR, reason=f"{type(error).__name__}: {error}")
    send(result)
    os._exit(0)


def load_engine(name: str) -> Engine:
    """The engine of class ``"module:Class"``."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    engine: Engine = found()
    return engine


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent dies, even by SIGKILL."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1
    try:
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(gib: float | None) -> None:
    """A hard stop behind the parent's watch, for memory taken faster than it looks.

    The limit is on writable private memory (RLIMIT_DATA), which follows the resident size within some 0.1 GiB
    for z3, torch, HiGHS and Marabou; the address space (RLIMIT_AS) is several times larger.
    """
    if gib is None:
        return
    import resource

    limit = int((1.25 * gib + 0.5) * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1:])
