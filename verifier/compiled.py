"""Compiled kernels: numba compiles them on first use, for all later processes; here this is done ahead of any clock.

The first use after an installation would otherwise take a minute or two inside somebody's time limit, where it can be
neither interrupted nor explained. `ensure` runs small samples of a part's work once, asks numba where its cache has
what they made, and keeps the list. Later processes look whether those files are still there, for these sources, this
numba and this processor: so a cache that was removed, or came from another machine, is made again ahead of the clock,
and numba itself, which takes long to load, is not needed to see that all is well.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np

from verifier.errors import OutputError
from verifier.events import Listener, Note, ignore
from verifier.files import make_folder, write_text
from verifier.limits import NEVER, in_force

COMPILED = ("attention", "attention/traversal", "bounds", "regions", "engines/native", "engines/saliency", "repair")
"""Folders with kernels."""
SEARCH = 0.3
"""Seconds of a sample's look for counterexamples."""
_done: set[str] = set()


def ensure(part: str, listener: Listener = ignore, sample: Callable[[], object] | None = None) -> None:
    """Compile what a part of the framework uses, unless that was done in this installation before.

    Args:
        part: a key of `SAMPLES`, or the name of a part that brings its own sample.
        listener: is told, if there is something to compile.
        sample: work that makes numba compile the part's kernels; by default that of `SAMPLES`.
    """
    if part in _done:
        return
    _done.add(part)
    state, folders = _fingerprint(), _folders()
    if any(_is_cached(folder / _record(part), state) for folder in folders):
        return
    listener(
        Note(seconds=0.0, text=f"compiling the kernels for {part}, once after an installation (one to two minutes)")
    )
    began = time.monotonic()
    _write_bytecode()
    _forget_stale(folders)
    try:
        with in_force(NEVER), _interrupted_between_kernels():
            (sample or SAMPLES[part])()
    except BaseException:
        _done.discard(part)
        raise
    listener(Note(seconds=time.monotonic() - began, text="compiled"))
    text = json.dumps({"state": state, "files": _cache_files()})
    for folder in folders:
        try:
            write_text(make_folder(folder) / _record(part), text)
        except OutputError:
            continue
        return


@contextlib.contextmanager
def _interrupted_between_kernels() -> Iterator[None]:
    """Ctrl-C ends compiling before or after a kernel (pressed again, at once).

    LLVM's callbacks into Python lose exceptions: within one, an interrupt would be a traceback and be ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield  # somebody has an answer of their own
        return
    from numba.core import event

    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def stop(*_: object) -> None:
        if asked:
            raise KeyboardInterrupt

    class Between(event.Listener):  # type: ignore[misc]
        on_start = on_end = staticmethod(stop)

    signal.signal(signal.SIGINT, note)
    try:
        with event.install_listener("numba:compile", Between()):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
    stop()


def ensure_engines(listener: Listener = ignore) -> None:
    """`ensure` for all that questions may need: for jobs that ask several of them within one time limit."""
    for part in SAMPLES:
        ensure(part, listener)


def _forget_stale(folders: list[Path]) -> None:
    """Delete what was compiled before the newest kernel was written.

    numba looks only at the file of the kernel itself: after a change of one kernel it would go on with the old code of
    another that has that one compiled into it.
    """
    newest = max((path.stat().st_mtime for path in _kernel_sources()), default=0.0)
    named = os.environ.get("NUMBA_CACHE_DIR")
    root = Path(__file__).parent if named is None else Path(named)
    known = set(root.rglob("*.nb[ic]"))
    for record in (path for folder in folders for path in folder.glob("compiled-*.json")):
        try:
            known |= {Path(file) for file in json.loads(record.read_text(encoding="utf-8"))["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for file in known:
        with contextlib.suppress(OSError):  # another process was faster, or the folder is not ours
            if file.suffix in (".nbi", ".nbc") and file.stat().st_mtime < newest:
                file.unlink()


def _kernel_sources() -> list[Path]:
    """The files with compiled code, in order."""
    root = Path(__file__).parent
    paths = sorted(path for folder in COMPILED for path in (root / folder).glob("*.py"))
    return [path for path in paths if "jit" in path.read_text(encoding="utf-8")]


def _record(part: str) -> str:
    return f"compiled-{part}.json"


def _is_cached(record: Path, state: str) -> bool:
    """Whether what a record lists is all there, made in this state."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        return bool(known["state"] == state and all(Path(file).exists() for file in known["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _cache_files() -> list[str]:
    """The files of numba's cache for all kernels of this package that are loaded; numba says where they are."""
    places = set()
    for name, module in list(sys.modules.items()):
        if name.startswith("verifier."):
            kernels = [value for value in vars(module).values() if hasattr(value, "signatures")]
            places |= {kernel.stats.cache_path for kernel in kernels}
    return sorted(str(file) for place in places if place for file in Path(place).glob("*.nb[ic]"))


def _write_bytecode() -> None:
    """The package's own bytecode, which an installation from sources lacks: without it every process starts 0.1 s later.

    Python writes it at the first import, but not where ``PYTHONDONTWRITEBYTECODE`` is set.
    """
    import compileall

    root = Path(__file__).parent
    for folder in (root, (root / "encodings").resolve()):  # links are not followed
        compileall.compile_dir(folder, quiet=2)


def _folders() -> list[Path]:
    """Where the record may be: beside numba's cache."""
    from platformdirs import user_cache_path

    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        return [Path(named)]
    return [Path(__file__).parent / "__pycache__", user_cache_path("pwl-verifier", appauthor=False)]


def _fingerprint() -> str:
    """The state of everything that numba's cache depends on: sources, versions, settings, processor."""
    root = Path(__file__).parent
    words = [importlib.metadata.version("numba"), str(sys.implementation.cache_tag), platform.python_version()]
    words += [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_")]
    words.append(_processor())
    for path in _kernel_sources():
        status = path.stat()
        words.append(f"{path.relative_to(root)} {status.st_mtime_ns} {status.st_size}")
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _processor() -> str:
    """What code is compiled for: the processor's name and instructions."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            lines = file.read(8192).split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))


def _regions() -> None:
    from verifier.network.convolution import Conv
    from verifier.network.graph import NetworkBuilder, feedforward
    from verifier.network.operators import Dense, Reshape
    from verifier.network.piecewise import MaxPool, clip, relu
    from verifier.regions import line, lines, plane

    rng = np.random.default_rng(0)
    dense = feedforward([rng.normal(size=s) for s in ((8, 3), (8, 8), (3, 8))], [rng.normal(size=n) for n in (8, 8, 3)])
    builder = NetworkBuilder((1, 4, 4))
    for operator in (
        Conv(rng.normal(size=(2, 1, 3, 3)), rng.normal(size=2), padding=(1, 1, 1, 1)), relu(), MaxPool((2, 2), (2, 2)),
        Reshape((8,)), Dense(rng.normal(size=(6, 8)), rng.normal(size=6)), clip(-0.5, 0.5),
        Dense(rng.normal(size=(3, 6)), rng.normal(size=3)),
    ):  # fmt: skip
        builder.add(operator)
    for network in (dense, builder.build()):
        a, b, c = 3 * rng.normal(size=(3, network.input_size))
        for found in (line(network, a, b), plane(network, a, b, c)):
            found.classes()
            found.gradient(0)
        lines(network, [a, b], [b, c])[0].pattern()
    along = feedforward([[[0.1, -0.3]], [[1.0]]], [[0.0], [0.0]])  # zero along the line, but for rounding
    line(along, [0.3, 0.1], [0.9, 0.3])


def _native() -> None:
    from verifier.engines.native import NativeEngine
    from verifier.falsify.falsifier import Falsifier
    from verifier.falsify.search import FalsifierSettings
    from verifier.limits import NEVER, Deadline
    from verifier.network.convolution import Conv
    from verifier.network.graph import NetworkBuilder, feedforward
    from verifier.network.operators import Dense, Reshape
    from verifier.network.piecewise import leaky_relu, relu
    from verifier.options import Options
    from verifier.properties.builders import robustness

    ensure(LINES)
    rng = np.random.default_rng(0)
    for inputs, activation in ((3, None), (3, leaky_relu(0.1)), (40, None)):
        sizes = (inputs, 30, 30, 3)
        weights = [rng.normal(size=(o, i)) * np.sqrt(2 / i) for i, o in itertools.pairwise(sizes)]
        network = feedforward(weights, [0.1 * rng.normal(size=o) for o in sizes[1:]], activation=activation)
        for epsilon in (0.02, 0.1, 0.2):
            query = robustness(network, rng.uniform(0.3, 0.7, inputs), epsilon)
            if epsilon == 0.2:
                Falsifier(FalsifierSettings(most=SEARCH)).run(query, NEVER)
            NativeEngine().solve(query, Options(), NEVER)
            if inputs == 3:  # with a proof, compiled code is used from the first box on
                NativeEngine().solve(query, Options(threads=1, proof=True), Deadline.after(5.0))
    builder = NetworkBuilder((1, 10, 10))  # sparse matrices between its ReLUs
    for operator in (
        Conv(rng.normal(size=(3, 1, 3, 3)) / 3, rng.normal(size=3)), relu(),
        Conv(rng.normal(size=(3, 3, 3, 3)) / 5, rng.normal(size=3)), relu(),
        Reshape((108,)), Dense(rng.normal(size=(3, 108)), rng.normal(size=3)),
    ):  # fmt: skip
        builder.add(operator)
    query = robustness(builder.build(), rng.uniform(0.3, 0.7, 100), 0.25)
    NativeEngine().solve(query, Options(), Deadline.after(2.0))


def _saliency() -> None:
    from verifier.engines.saliency import SaliencyEngine
    from verifier.limits import NEVER
    from verifier.network.graph import feedforward
    from verifier.options import Options
    from verifier.properties.builders import saliency_robustness

    ensure(NATIVE)
    rng = np.random.default_rng(0)
    shapes = ((6, 5), (60, 6), (3, 60))  # most phases are known before the last layer, whose leaves are compiled
    network = feedforward([rng.normal(size=s) for s in shapes], [0.1 * rng.normal(size=s[0]) for s in shapes])
    query = saliency_robustness(network, rng.uniform(0.3, 0.7, 5), epsilon=0.3, delta=0.3)
    SaliencyEngine().solve(query, Options(), NEVER)


LINES, NATIVE, SALIENCY = "lines and planes", "the native engine", "the saliency engine"
SAMPLES: dict[str, Callable[[], None]] = {LINES: _regions, NATIVE: _native, SALIENCY: _saliency}
"""Work that makes numba compile a part's kernels."""
