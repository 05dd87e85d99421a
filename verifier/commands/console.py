"""What the commands say beside their results: progress and remarks, on standard error."""

from __future__ import annotations

import contextlib
import sys
import time

from verifier.events import Event, Listener, Note, Progress, StageStarted, ignore


def say(text: str, end: str = "\n") -> None:
    """Write to standard error. Remarks are not results: where they cannot be written, the work goes on."""
    with contextlib.suppress(OSError):
        print(text, end=end, file=sys.stderr, flush=True)


def progress_listener(quiet: bool) -> Listener:
    """A listener that shows the state of work on standard error: one changing line on a terminal."""
    if quiet:
        return ignore
    terminal = sys.stderr.isatty()
    began = last = time.monotonic()

    def listen(event: Event) -> None:
        nonlocal last
        now = time.monotonic()
        text = describe(event)
        if isinstance(event, Progress):
            if not terminal or now - last < 0.1:
                return
            last = now
            say(f"\r\033[K{now - began:7.1f} s  {text}", end="")
            return
        lead = "\r\033[K" if terminal else ""
        say(f"{lead}{now - began:7.1f} s  {text}")

    return listen


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
