"""Networks that are loaded: random torch modules that write in place, random ONNX graphs of many opsets."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from edge_kinds.kind import Kind, Outcome, Trial

import verifier
from verifier.errors import VerifierError

# -- torch -----------------------------------------------------------------------------------------------
PROGRAMS = 8
"""Programs of one torch module: to export a module takes far longer than to export one more step of it."""


def random_module(seed: int) -> Any:
    """A module of random programs, each of steps that write in place or through views; it returns all their results."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
            self.acts = nn.ModuleList(
                [nn.ReLU(inplace=True), nn.Hardtanh(-0.4, 0.7, inplace=True), nn.LeakyReLU(0.3, inplace=True)]
            )

        def forward(self, x: Any) -> Any:
            pick = random.Random(seed)
            return torch.stack([self.program(pick, x * 1.0) for _ in range(PROGRAMS)], 1)

        def program(self, pick: random.Random, x: Any) -> Any:
            held = [x]
            for _ in range(pick.randint(2, 4)):
                a, b, step = pick.choice(held), pick.choice(held), pick.randrange(14)
                if step < 3:
                    held.append(self.acts[step](a))
                elif step == 3:
                    a.relu_()
                elif step == 4:
                    a.clamp_(-0.5, 0.5)
                elif step == 5:
                    a += 0.25 * b
                elif step == 6:
                    a[:, 1:3].mul_(-2.0)
                elif step == 7:
                    a[:, 0] = b[:, 3]
                elif step == 8:
                    held.append(F.pad(a.view(-1, 2, 3)[:, :, ::2].neg_().abs().flatten(1), (0, 2)))
                elif step == 9:
                    held.append(self.layers[0](F.relu(a, inplace=True)))
                elif step == 10:
                    held.append(a.view(1, 3, 2).transpose(1, 2).reshape(1, 6))
                elif step == 11:
                    first, second = torch.split(a, 3, dim=1)
                    second.copy_(first)
                    held.append(torch.cat([second, first.abs_()], 1))
                elif step == 12:
                    made = torch.zeros_like(x)
                    made[:, ::2] = a[:, :3]
                    made[:, 5:].sub_(1.0)
                    held.append(made)
                else:
                    held.append(self.layers[1](a) - b)
            return sum(held[1:], held[0])

    return Random().eval().double()


@lru_cache(maxsize=1)
def _loaded(seed: int) -> tuple[float, str, Any]:
    """Seconds, the error if there was one, and by how much each program of a module differs from torch."""
    import torch

    module = random_module(seed)
    start = time.perf_counter()
    try:
        network = verifier.load(module, (6,))
    except VerifierError as error:
        return time.perf_counter() - start, str(error), np.full(PROGRAMS, np.inf)
    seconds = time.perf_counter() - start
    x = torch.tensor(np.random.default_rng(seed).normal(size=(10, 6)))
    with torch.no_grad():
        theirs = np.concatenate([module(row[None].clone()).numpy() for row in x])
    gaps = np.abs(network.forward(x.numpy()) - theirs) / np.maximum(1.0, np.abs(theirs).max())
    return seconds, "", gaps.max(axis=(0, 2))


def _torch(seed: int) -> Iterator[Trial]:
    seconds, error, gaps = _loaded(seed // PROGRAMS)
    gap = gaps[seed % PROGRAMS]
    outcome = Outcome.RIGHT if gap < 1e-12 else Outcome.WRONG
    yield Trial(engine="load", outcome=outcome, seconds=seconds, detail=error or f"differs by {gap:.3g}")


KINDS = [
    Kind(
        name="torch in place",
        what="a random module that writes in place and through views, loaded, against torch itself in float64",
        run=_torch,
        cost=0.1,
    ),
]
