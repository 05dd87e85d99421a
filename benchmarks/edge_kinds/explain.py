"""Formal explanations against the enumeration of linear regions in rationals: ties, flat maps and dead neurons included."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction as F
from itertools import pairwise
from math import isfinite

import numpy as np
from edge_kinds.enumeration import Layers, combined, exact_layers, forward, regions
from edge_kinds.kind import Kind, Outcome, Trial

from verifier.errors import InputError
from verifier.explain import Influence, explain, influences, lipschitz, stable_radius
from verifier.network.graph import Network, feedforward

SECONDS = 10.0
"""Time limit per answer."""
EPSILONS = (0.0625, 0.125, 0.25, 0.5)


def case(seed: int, inputs: int) -> tuple[Network, Layers, list[float], float, int]:
    """A network of quarters or of float64 numbers, an input, a radius and the label there; the same numbers as fractions."""
    rng = random.Random(seed)
    sizes = [inputs, *rng.choice([[3], [4], [3, 3], [4, 3]]), rng.choice([2, 3])]
    share = rng.choice([1, 2, 4, 0])

    def number() -> float:
        return rng.randint(-2 * share, 2 * share) / share if share else rng.gauss(0.0, 1.0)

    weights = [np.array([[number() for _ in range(a)] for _ in range(b)]) for a, b in pairwise(sizes)]
    biases = [np.array([number() / 2 for _ in range(b)]) for b in sizes[1:]]
    x = [rng.choice([0.0, 0.25, 0.5, 1.0, rng.random()]) for _ in range(inputs)]
    network = feedforward(weights, biases)
    return network, exact_layers(weights, biases), x, rng.choice(EPSILONS), int(network.forward(np.array(x)).argmax())


def ends(x: Sequence[float], epsilon: float, free: Iterable[int] | None = None) -> tuple[list[F], list[F]]:
    """The ball cut to [0, 1], in which only some inputs move (None: all)."""
    chosen = set(range(len(x)) if free is None else free)
    low = [max(F(0), F(v) - F(epsilon)) if k in chosen else F(v) for k, v in enumerate(x)]
    high = [min(F(1), F(v) + F(epsilon)) if k in chosen else F(v) for k, v in enumerate(x)]
    return low, high


def timed(engine: str, judge: Callable[[], tuple[Outcome, str]], place: str) -> Trial:
    """One answer, judged."""
    began = time.monotonic()
    outcome, detail = judge()
    return Trial(
        engine=engine, outcome=outcome, seconds=time.monotonic() - began, detail=detail and f"{place}: {detail}"
    )


# -- explanations ----------------------------------------------------------------------------------------
def explanations(seed: int) -> Iterable[Trial]:
    """Kept features fix the label, and none can go; the least change changes it."""
    network, layers, x, epsilon, label = case(seed, 3)

    def changes(free: Iterable[int]) -> bool:
        for region in regions(layers, *ends(x, epsilon, free)):
            y = region.outputs[0]
            for j in range(len(y)):
                if j != label and region.meets([combined([(F(1), y[j]), (F(-1), y[label])], F(0), len(x))]):
                    return True
        return False

    def judge() -> tuple[Outcome, str]:
        try:
            found = explain(network, x, epsilon=epsilon, timeout=SECONDS, contrastive="proved")
        except InputError as error:
            y = forward(layers, [F(v) for v in x])[0]
            tie = any(v >= y[label] for j, v in enumerate(y) if j != label)
            return (Outcome.RIGHT, "") if tie and "ties" in error.problem else (Outcome.WRONG, str(error))
        free = [k for k in range(len(x)) if k not in found.kept]
        if changes(free):
            return Outcome.WRONG, f"{found.kept} does not fix the label"
        for k in found.kept:
            if k not in found.undecided and not changes([*free, k]):
                return Outcome.WRONG, f"{k} of {found.kept} can go"
        if found.contrast is not None:
            some = found.contrast.features
            if not changes(some):
                return Outcome.WRONG, f"{set(some)} do not change the label"
            if found.contrast.irredundant and any(changes(some - {k}) for k in some):
                return Outcome.WRONG, f"{set(some)} is not irredundant"
        return (Outcome.UNDECIDED, f"{found.undecided} undecided") if found.undecided else (Outcome.RIGHT, "")

    yield timed("explain", judge, f"seed {seed}")


# -- gradients -------------------------------------------------------------------------------------------
def gradients(layers: Layers, x: Sequence[float], epsilon: float, output: int) -> list[tuple[F, ...]]:
    """The gradients that an output has in the ball, by the convention."""
    return [region.gradients[0][output] for region in regions(layers, *ends(x, epsilon))]


def constants(seed: int) -> Iterable[Trial]:
    """Lipschitz constants, to relative 3e-9."""
    network, layers, x, epsilon, label = case(seed, 2)
    found_at = gradients(layers, x, epsilon, label)
    sizes = {"linf": max(sum(map(abs, g)) for g in found_at), "l1": max(max(map(abs, g)) for g in found_at)}
    for norm, truth in sizes.items():

        def judge(norm: str = norm, truth: F = truth) -> tuple[Outcome, str]:
            found = lipschitz(network, x, epsilon, output=label, norm=norm, gap=0.0, timeout=SECONDS)  # type: ignore[arg-type]
            told = f"{norm}: {found.lower!r} to {found.upper!r}, and it is {float(truth)!r}"
            if F(found.lower) > truth or F(found.upper) < truth:
                return Outcome.WRONG, told
            if found.reason or found.upper > found.lower * (1 + 3e-9) + 1e-300:
                return Outcome.UNDECIDED, f"{told}: {found.reason}"
            return Outcome.RIGHT, ""

        yield timed("lipschitz", judge, f"seed {seed}")


def signs(seed: int) -> Iterable[Trial]:
    """Signs of influence, with witnesses."""
    network, layers, x, epsilon, label = case(seed, 2)
    found_at = gradients(layers, x, epsilon, label)

    def judge() -> tuple[Outcome, str]:
        row = influences(network, x, epsilon, outputs=[label], each=SECONDS).cells[0]
        for k, cell in enumerate(row):
            rises, falls = any(g[k] > 0 for g in found_at), any(g[k] < 0 for g in found_at)
            truth = {
                Influence.INCREASING: not falls,
                Influence.DECREASING: not rises,
                Influence.CONSTANT: not rises and not falls,
                Influence.NEITHER: rises and falls,
                Influence.UNKNOWN: True,
            }[cell.influence]
            inside = all(not isfinite(cell.lower) or F(cell.lower) <= g[k] for g in found_at)
            inside = inside and all(not isfinite(cell.upper) or F(cell.upper) >= g[k] for g in found_at)
            if not truth or not inside:
                return Outcome.WRONG, f"input {k} is {cell.influence}, in [{cell.lower}, {cell.upper}]"
            for point, sign in ((cell.rising, 1), (cell.falling, -1)):
                if point is not None and sign * forward(layers, [F(v) for v in point.tolist()])[1][label][k] <= 0:
                    return Outcome.WRONG, f"the witness for input {k} shows nothing"
        left = sum(cell.influence is Influence.UNKNOWN for cell in row)
        return (Outcome.UNDECIDED, f"{left} unknown") if left else (Outcome.RIGHT, "")

    yield timed("influences", judge, f"seed {seed}")


def radii(seed: int) -> Iterable[Trial]:
    """Radii up to which the largest entry, or the signs, of the gradient stay."""
    network, layers, x, _, label = case(seed, 2)
    reference = forward(layers, [F(v) for v in x])[1][label]
    leader = max(range(len(x)), key=lambda k: reference[k])
    for what in ("top-k", "signs"):

        def changed(g: Sequence[F], what: str = what) -> bool:
            if what == "signs":
                return any(r * v < 0 for r, v in zip(reference, g, strict=True))
            return any(v > g[leader] for v in g)

        def judge(what: str = what, changed: Callable[[Sequence[F]], bool] = changed) -> tuple[Outcome, str]:
            try:
                found = stable_radius(
                    network,
                    x,
                    what,
                    top_k=1,
                    map="gradient",
                    label=label,
                    most=0.5,
                    timeout=SECONDS,  # type: ignore[arg-type]
                )
            except InputError as error:
                flat = what == "signs" and not any(reference)
                return (Outcome.RIGHT, "") if flat else (Outcome.WRONG, str(error))
            if any(changed(g) for g in gradients(layers, x, found.lower, label)):
                return Outcome.WRONG, f"{what} change within {found.lower!r}"
            if found.witness is not None:
                point = [F(v) for v in found.witness.tolist()]
                far = max(abs(a - F(b)) for a, b in zip(point, x, strict=True))
                if not changed(forward(layers, point)[1][label]) or far > F(found.upper) or found.upper < found.lower:
                    return Outcome.WRONG, f"{what}: the witness at {found.upper!r} shows nothing"
            return (Outcome.UNDECIDED, f"{what}: {found}") if found.undecided else (Outcome.RIGHT, "")

        yield timed("stable_radius", judge, f"seed {seed}")


KINDS = [
    Kind(
        name="explanations",
        what="which inputs fix the label, and can none of them be left out? By the regions of every face of the box.",
        run=explanations,
        cost=0.1,
    ),
    Kind(
        name="Lipschitz constants",
        what="the largest norm of a gradient in a box, exactly. By the gradients of all its regions.",
        run=constants,
        cost=0.05,
    ),
    Kind(
        name="signs of influence",
        what="increasing, decreasing, constant or neither. By the gradients of all regions of the box.",
        run=signs,
        cost=0.05,
    ),
    Kind(
        name="stability radii",
        what="up to which radius do the largest entry and the signs of the gradient stay? By the regions of the ball.",
        run=radii,
        cost=0.1,
    ),
]
