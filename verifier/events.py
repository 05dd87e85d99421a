"""Typed events of long work. Progress bars, logs and reports only listen: `Listener` is any callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a run.

    Attributes:
        seconds: wall-clock seconds since the run began.
    """

    seconds: float


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """A stage ("search", "bounds", "encode", "solve", "replay") or engine has begun."""

    stage: str
    engine: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """How far a stage has come.

    Attributes:
        done: units finished (boxes, lines, regions …); ``unit`` says which.
        left: units known to be left; None when unknown.
        bound: the best proved bound so far, if the stage has one.
    """

    stage: str
    done: int
    unit: str
    left: int | None = None
    bound: float | None = None


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """A remark for the user, in words."""

    text: str


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that does nothing."""
