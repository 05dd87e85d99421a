"""Progress of long work on a terminal, in Python and on the command line; silent where nobody watches."""

from __future__ import annotations

import atexit
import contextlib
import sys
import time
from types import TracebackType
from typing import Any, Self

from verifier.arguments import checked
from verifier.events import Event, Note, Progress, StageStarted

REFRESH = 0.1
"""Least seconds between two looks of a bar."""


def say(text: str) -> None:
    """Write to standard error. Remarks are not results: where they cannot be written, the work goes on."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


@checked
def progress(*, log: bool = False) -> ProgressLine:
    """A listener that shows how far work has come, on standard error, while a ``with`` block runs.

    On a terminal a line tells the stage, what is done and left, and about how long it still takes; it is gone when the
    block ends. Elsewhere (a file, a pipe, a service) nothing is written, unless ``log=True``: then a line for every stage
    and remark. Ctrl-C ends the work with ``KeyboardInterrupt``. A service gives any function that takes a
    `verifier.events.Event` as ``listener=`` in its place.

    Args:
        log: whether stages and remarks are written, line by line, where there is no terminal.

    Raises:
        Nothing: where standard error cannot be written, the work goes on.

    Source:
        events as in `verifier.events`; the line is drawn by rich.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> with verifier.progress() as listener:
        ...     verdict = verifier.verify(verifier.robustness(network, [0.9, 0.1], epsilon=0.1), listener=listener)
        >>> verdict.status
        <Status.HOLDS: 'holds'>
    """
    return ProgressLine(log=log)


class ProgressLine:
    """What `progress` returns: a listener, and a context in which it may draw."""

    def __init__(self, *, log: bool = False) -> None:
        self._terminal = bool(sys.stderr) and sys.stderr.isatty()
        self._log = log
        self._bar: Any = None
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Hear of an event."""
        text = f"{time.monotonic() - self._began:7.1f} s  {describe(event)}"
        if isinstance(event, Progress):
            if self._terminal and time.monotonic() - self._last >= REFRESH:
                self._last = time.monotonic()
                self._draw(event, text)
        elif self._terminal and self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self._terminal or self._log:
            say(text)

    def _draw(self, event: Progress, text: str) -> None:
        if self._bar is None:
            self._bar = _bar()
            atexit.register(self._bar.stop)  # whoever does not use a block leaves no trace on the terminal either
            self._bar.start()
        total = None if event.left is None else event.done + event.left
        self._bar.update(self._bar.task_ids[0], description=text, completed=event.done, total=total)
        self._bar.refresh()


def _bar() -> Any:
    """A bar of rich's on standard error, which is drawn when it is told to: no thread runs beside the work."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    words = TextColumn("{task.description}", markup=False)
    bar = Progress(
        words, BarColumn(bar_width=20), console=Console(stderr=True), auto_refresh=False, transient=True,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    bar.add_task("", total=None)
    return bar


def describe(event: Event) -> str:
    """An event in words."""
    match event:
        case StageStarted(stage=stage, engine=engine):
            return f"{stage} {engine}".strip()
        case Progress(seconds=seconds, stage=stage, done=done, unit=unit, left=left, bound=bound):
            rest = "" if left is None else f", {left:,} left"
            if done and seconds > 1.0:
                rest += f", {done / seconds:,.0f} {unit}/s"
                rest += "" if left is None else f", about {seconds * left / done:,.0f} s to go"
            best = "" if bound is None else f", bound {bound:.6g}"
            return f"{stage}: {done:,} {unit}{rest}{best}"
        case Note(text=text):
            return text
    return type(event).__name__
