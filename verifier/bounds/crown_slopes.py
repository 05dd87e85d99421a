"""Optimised relaxations: projected gradient ascent on CROWN's lower slopes α and split multipliers β.

No automatic differentiation is needed. A CROWN bound is the least value of a linear function on a box, and by the
envelope theorem its derivative with respect to a slope is the derivative at the minimiser: walk forward from the
minimiser x* through the chosen relaxation, and where the coefficient a of a neuron is positive (so that the lower line
``α z`` is used), ``∂bound/∂α = a z``; for a multiplier β of ``z >= 0`` it is ``-z``, of ``z <= 0`` it is ``z`` (α: Xu et
al., ICLR 2021; β: Wang et al., NeurIPS 2021).

A neuron has either an α (while it is free) or a β (once its phase is fixed), so one array of weights holds both. The
ascent runs in float32; what counts is one pass in float64 with the weights found, with slack for its rounding: any
α in [0, 1] and any β >= 0 are sound.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.condensed import CondensedNetwork, Start
from verifier.bounds.condensed_kernels import (
    add_constant,
    add_sizes,
    ascent_step,
    least,
    least_within,
    relax,
    score_neurons,
)
from verifier.limits import poll, thread_pool
from verifier.network.operators import Array

Phases = npt.NDArray[np.int8]
CHUNK = 256
"""Rows that are bounded together."""
LARGEST_HALF = 6e4
"""Weights above this do not fit into float16; any smaller multiplier is sound."""


@dataclass(eq=False)
class Pass:
    """One backward pass for R rows: bounds (without slack), minimisers ``(n, R)``, and coefficients of the neurons."""

    lower: Array
    minimiser: Array
    kept: Array


@dataclass(frozen=True, eq=False)
class Ascent:
    """What an ascent found for R rows.

    Attributes:
        lower: ``(R,)``: the best bounds, in float32: nothing is proved by them.
        weights: ``(neurons, R)`` float32: the slopes and multipliers that gave them.
        minimiser: ``(R, n)`` of the last step.
        scores: ``(neurons, R)``: by how much the relaxation of each free neuron lowers the bound at the minimiser (-1
            for fixed neurons); None unless asked for.
    """

    lower: Array
    weights: Array
    minimiser: Array
    scores: Array | None


def initial_weights(condensed: CondensedNetwork, rows: int, blocks: int | None = None) -> Array:
    """CROWN's own slopes for the neurons of the first blocks (all blocks), ``(neurons, rows)`` float32."""
    start = np.concatenate([b.start for b in condensed.blocks[:blocks]])
    return np.repeat(start.astype(np.float32)[:, None], rows, axis=1)


def linear(
    condensed: CondensedNetwork, start: Start, weights: Array, phases: Phases, slack: Array | None = None
) -> tuple[Array, Array, Array]:
    """Linear functions of the input below some rows, ``constants (R,)`` and ``slopes (n, R)``; and `Pass.kept`.

    Args:
        weights, phases: ``(neurons, R)``: of all unstable neurons in blocks that the rows depend on.
        slack: ``(R,)``: if given, what rounding in float64 may have cost is added to it, anywhere on the box.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; β-CROWN: Wang et al., NeurIPS 2021, Theorem 3.1.
    """
    dtype, rows, entries = weights.dtype, len(start), 0
    weights, phases = (
        np.ascontiguousarray(weights),
        np.ascontiguousarray(phases),
    )  # kernels are compiled for this layout
    total = start.constant.astype(dtype)
    kept = np.zeros(weights.shape, dtype=dtype)
    pending: dict[int, Array] = {s: a.astype(dtype, order="C") for s, a in start.coefficients.items()}
    for number in range(max(pending, default=0), 0, -1):
        a = pending.pop(number, None)
        if a is None:
            continue
        block = condensed.blocks[number]
        part = slice(block.first, block.first + block.count)
        slope, intercept = block.relaxation(dtype)
        relax(a, weights[part], phases[part], slope, intercept, kept[part], total)
        if slack is not None:
            add_sizes(kept[part], block.relaxation_cost, slack)
            add_sizes(np.where(phases[part] != 0, weights[part], 0.0), block.relaxation_cost, slack)
            add_sizes(a, block.cost, slack)
        add_constant(a, block.constant.astype(dtype), total)
        for s, matrix in block.edges:
            if s not in pending:
                pending[s] = np.zeros((condensed.blocks[s].size, rows), dtype=dtype)
            matrix.backward(a, pending[s])
            entries += matrix.entries
    box = condensed.blocks[0]
    found = pending.get(0)
    if found is None:
        found = np.zeros((box.size, rows), dtype=dtype)
    if slack is not None:
        add_sizes(found, box.cost, slack)
    condensed.work.add(rows * entries)
    return total, found, kept


def backward(
    condensed: CondensedNetwork, start: Start, weights: Array, phases: Phases, slack: Array | None = None
) -> Pass:
    """One pass in the float type of the weights: see `linear`.

    Shapes: weights, phases ``(neurons, rows)``; slack ``(rows,)``.
    """
    total, a, kept = linear(condensed, start, weights, phases, slack)
    dtype, box, cut = a.dtype, condensed.blocks[0], condensed.cut
    low, high, x = box.low.astype(dtype), box.high.astype(dtype), np.empty_like(a)
    if cut is None:
        least(a, low, high, total, x)
    else:
        scale = np.empty_like(total)
        least_within(a, low, high, cut.slope.astype(dtype), dtype.type(cut.constant), total, x, scale)
        if slack is not None:
            slack += scale * cut.cost
    return Pass(total, x, kept)


@np.errstate(over="ignore", invalid="ignore")
def below(condensed: CondensedNetwork, row: Start, weights: Array, phases: Phases) -> tuple[Array, float]:
    """A linear function of the input ``(n,)``, with its constant, that is nowhere above a row: proved, like `prove`.

    Args:
        row: one row, with its weights and phases ``(neurons, 1)``: the function holds where the phases do.
    """
    slack = row.slack.copy()
    constant, slope, _ = linear(condensed, row, weights.astype(np.float64), phases, slack)
    return slope[:, 0].copy(), float(np.nextafter(constant[0] - slack[0] * (1 + 1e-6), -np.inf))


def inputs_of(condensed: CondensedNetwork, values: Sequence[Array | None], number: int, rows: int, dtype: Any) -> Array:
    """Preactivations of a block's live neurons, ``(live, R)``."""
    block = condensed.blocks[number]
    z = np.repeat(block.constant.astype(dtype)[:, None], rows, axis=1)
    for s, matrix in block.edges:
        value = values[s]
        assert value is not None
        matrix.forward(value, z)
    return z


@np.errstate(over="ignore", invalid="ignore")
def prove(condensed: CondensedNetwork, start: Start, weights: Array, phases: Phases, reserve: float = 1.0) -> Array:
    """Proved lower bounds ``(R,)``: one pass in float64, its rounding (times ``reserve``) subtracted.

    Source:
        β-CROWN: Wang et al., NeurIPS 2021, Theorem 3.1: any multipliers >= 0 give a bound; rounding as in
        Higham, Accuracy and Stability of Numerical Algorithms, 2002, Section 3.1.
    """
    slack = start.slack.copy()
    lower = backward(condensed, start, weights.astype(np.float64), phases, slack).lower - reserve * slack * (1 + 1e-6)
    return np.where(lower < np.inf, lower, -np.inf)  # NaN and overflow prove nothing


@np.errstate(over="ignore", invalid="ignore")
def ascend(
    condensed: CondensedNetwork,
    start: Start,
    weights: Array,
    phases: Phases,
    *,
    steps: int,
    rate: float = 0.3,
    rate_fixed: float = 0.1,
    decay: float = 0.95,
    target: float = np.inf,
    score: bool = False,
) -> Ascent:
    """Raise the lower bounds of rows, from the weights given.

    Shapes: weights, phases ``(neurons, rows)``.

    Args:
        steps: bounds that are computed (1: no ascent).
        rate, rate_fixed, decay: first step lengths of Adam (Kingma, Ba, ICLR 2015) for α and β, and by what they
            shrink.
        target: stop when all bounds are above.
        score: whether to score the neurons at the end.

    Source:
        α-CROWN: Xu et al., ICLR 2021, Section 3; β-CROWN: Wang et al., NeurIPS 2021, Theorem 3.1; the steps
        are Adam's (Kingma, Ba, ICLR 2015).
    """
    rows = len(start)
    weights, phases = weights.astype(np.float32, order="C"), np.ascontiguousarray(phases)
    start = Start({s: a.astype(np.float32) for s, a in start.coefficients.items()}, start.constant, start.slack)
    best, lower = weights.copy(), np.full(rows, -np.inf, dtype=np.float32)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    last = max(start.coefficients, default=0)
    for step in range(steps):
        poll("while slopes were optimised")
        found = backward(condensed, start, weights, phases)
        better = found.lower > lower
        lower = np.maximum(lower, found.lower)
        done = step == steps - 1 or bool((lower > target).all())
        if done:
            best[:, better] = weights[:, better]
            break
        pace = (
            np.float32(rate * decay**step),
            np.float32(rate_fixed * decay**step),
            np.float32(1 / (1 - 0.9 ** (step + 1))),
            np.float32(1 / (1 - 0.99 ** (step + 1))),
        )
        values: list[Array | None] = [found.minimiser]
        for number in range(1, last + 1):
            block = condensed.blocks[number]
            part = slice(block.first, block.first + block.count)
            z = inputs_of(condensed, values, number, rows, np.float32)
            ascent_step(
                z,
                weights[part],
                phases[part],
                *block.relaxation(np.float32),
                found.kept[part],
                better,
                best[part],
                first[part],
                second[part],
                pace,
            )
            values.append(z)
    scores = None
    if score:
        scores = np.where(phases == 0, 0, -1).astype(np.float32)  # those that no row depends on keep 0
        values = [found.minimiser]
        for number in range(1, last + 1):
            block = condensed.blocks[number]
            part = slice(block.first, block.first + block.count)
            z = inputs_of(condensed, values, number, rows, np.float32)
            score_neurons(z, weights[part], phases[part], *block.relaxation(np.float32), found.kept[part], scores[part])
            values.append(z)
    return Ascent(lower, best, found.minimiser.T, scores)


@dataclass(frozen=True)
class NeuronBounder:
    """Bounds for the signs of ReLUs while a `CondensedNetwork` is built: CROWN, and an ascent on what stays open.

    Attributes:
        steps: of the ascent (1: CROWN alone).
        threads: that share the rows.
        until: `time.monotonic` moment after which nothing more is bounded.
        half: whether weights are rounded to float16 before they count, so that they can be written in that form.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; α-CROWN: Xu et al., ICLR 2021, Section 3.
    """

    steps: int = 1
    threads: int = 1
    until: float = np.inf
    half: bool = False

    def __call__(self, condensed: CondensedNetwork, start: Start, begin: Array | None = None) -> tuple[Array, Array]:
        """See `condensed.Bounder`."""
        lower = np.full(len(start), -np.inf)
        result = initial_weights(condensed, len(start)) if begin is None else begin

        def part(first: int) -> None:
            if time.monotonic() > self.until:
                return
            some = np.arange(first, min(first + CHUNK, len(start)))
            rows = start.take(some)
            weights = np.ascontiguousarray(result[:, some])
            phases = np.repeat(condensed.phases[:, None], len(some), axis=1)
            if self.steps > 1:
                weights = ascend(condensed, rows, weights, phases, steps=self.steps, target=0.0).weights
            if self.half:
                weights = np.minimum(weights, LARGEST_HALF).astype(np.float16).astype(np.float32)
            lower[some] = prove(condensed, rows, weights, phases)
            result[:, some] = weights

        chunks = range(0, len(start), CHUNK)
        if self.threads > 1 and len(chunks) > 1:
            with thread_pool(self.threads) as pool:
                list(pool.map(part, chunks))
        else:
            for first in chunks:
                part(first)
        return lower, result
