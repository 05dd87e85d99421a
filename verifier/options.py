"""Options of a run: a frozen object passed per call; there are no global settings."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from verifier.arguments import check_fields
from verifier.errors import InputError

BOUNDS = ("interval", "crown", "alpha-crown")
"""Bound methods."""

DEVICES = ("cpu", "cuda")
"""Where bounds of large networks can be made."""

BOUND_STEPS = 20
"""Steps of the optimisation of "alpha-crown" where nothing is said: auto_LiRPA's own default."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a query is to be decided.

    Attributes:
        engine: "auto", an engine's name, or several names separated by commas (a portfolio).
        timeout: wall-clock seconds for the whole question; None for no limit.
        memory: memory limit in GiB for each solver process (None for no limit), and for bounds of large networks in this
            one (None for a share of the machine's).
        prepass: whether the counterexample search runs before the engines.
        bounds: bound method for the encodings: "interval", "crown", "alpha-crown".
        bound_steps: steps of the slopes' optimisation, for the bounds "alpha-crown".
        propagate: for conditions on the gradient: whether the encodings use the phases and bounds that propagation
            in both directions finds for witnesses, and ask in parts (`verifier.engines.saliency.hints`).
        threads: threads that one engine may use.
        device: where bounds of networks of 30,000 neurons and more are made: "cpu", or "cuda" for torch's first GPU.
        seed: seed of everything random.
        compare: for several engines: let all finish and compare, instead of stopping at the first answer.
        proof: True: keep a certificate of HOLDS that `verifier check-proof` checks (`Verdict.proof`); a path: and write it
            there. A HOLDS without one says why (`Verdict.no_certificate`).
        reproducers: folder in which the query of a failed solver call is kept; None: none is kept.
    """

    engine: str = "auto"
    timeout: float | None = 60.0
    memory: float | None = None
    prepass: bool = True
    bounds: str = "crown"
    bound_steps: int = BOUND_STEPS
    propagate: bool = False
    threads: int = 1
    device: str = "cpu"
    seed: int = 0
    compare: bool = False
    proof: bool | str | Path = False
    reproducers: str | Path | None = field(default=None)

    def but(self, **changes: Any) -> Options:
        """The same options, some of them changed by name.

        Raises:
            TypeError: no option has that name.
            InputError: options out of range.
        """
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise TypeError(
                    f"there is no option {name!r}; {f'did you mean {near[0]!r}?' if near else ', '.join(known)}"
                )
        return replace(self, **changes)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f"timeout must be positive, got {self.timeout}")
        if self.memory is not None and not self.memory > 0:
            raise InputError(f"memory must be positive, got {self.memory}")
        if self.threads < 1:
            raise InputError(f"threads must be at least 1, got {self.threads}")
        if self.device not in DEVICES:
            raise InputError(f"there is no device {self.device!r}", fix=f"one of {', '.join(DEVICES)}")
        if self.device != "cpu":
            _check_device(self.device)
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}")
        if self.bound_steps < 1:
            raise InputError(f"bound_steps must be at least 1, got {self.bound_steps}")
        if self.bounds not in BOUNDS:
            raise InputError(f"there are no bounds {self.bounds!r}", fix=f"one of {', '.join(BOUNDS)}")


def _check_device(name: str) -> None:
    """Whether torch has it: looked at before any solving starts."""
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            f"torch finds no device {name!r} on this machine", fix="--device cpu, or a build of torch for it"
        )
