"""Networks that are loaded: random torch modules that write in place, random ONNX graphs of many opsets."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from edge_kinds.kind import Kind, Outcome, Trial
from onnx_graphs import OPSETS, Builder

import verifier
from verifier.errors import NetworkError, VerifierError
from verifier.network.agreement import agreement
from verifier.network.runtime import RuntimeModel
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Status

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


# -- ONNX ------------------------------------------------------------------------------------------------
MOST_ENTRIES = 300
"""Tensors of a random graph are not made larger than this."""


class RandomGraph(Builder):
    """A graph of random operators over tensors of known shapes, in a random opset."""

    def __init__(self, seed: int, kind: str) -> None:
        super().__init__(random.Random(seed).choice(list(OPSETS)), kind, seed)
        self.pick = random.Random(seed)
        shape = self.pick.choice([(1, 6), (1, 3, 4), (1, 2, 5, 4), (2, 3, 4), (1, 4, 3, 3)])
        self.held: list[tuple[str, tuple[int, ...]]] = [(self.x(*shape), shape)]

    def grow(self) -> Any:
        """The model of a few random steps, all of whose results the output depends on."""
        for _ in range(self.pick.randint(2, 7)):
            value, shape = self.pick.choice(self.held[-3:])
            step = self.pick.choice(STEPS)
            made = step(self, value, shape)
            if made is not None and np.prod(made[1]) <= MOST_ENTRIES:
                self.held.append(made)
        flat = [self.op("Reshape", v, self.constant(np.array([1, -1]))) for v, _ in self.held[-3:]]
        return self.model(flat[0] if len(flat) == 1 else self.op("Concat", *flat, axis=1))

    def axis(self, shape: tuple[int, ...]) -> int:
        """An axis, counted from the front or the back."""
        return self.pick.randrange(-len(shape), len(shape))


Step = Callable[[RandomGraph, str, tuple[int, ...]], tuple[str, tuple[int, ...]] | None]


def _unary(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    kind, attributes = g.pick.choice(
        [("Relu", {}), ("Abs", {}), ("Neg", {}), ("LeakyRelu", {"alpha": 0.25}), ("HardSigmoid", {"alpha": 0.5})]
    )
    return g.op(kind, v, **attributes), shape


def _clip(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    return g.clip(v, g.pick.choice([-0.5, 0.0, 0.25]), g.pick.choice([0.5, 6.0])), shape


def _constant(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    other = tuple(d if g.pick.random() < 0.6 else 1 for d in shape[g.pick.randrange(len(shape)) :])
    kind = g.pick.choice(["Add", "Sub", "Mul", "Max", "Min", "Sum"])
    first, second = (v, g.numbers(*other)) if g.pick.random() < 0.6 else (g.numbers(*other), v)
    return g.op(kind, first, second), shape


def _pair(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    fits = [u for u, s in g.held if s == shape]
    kind = g.pick.choice(["Add", "Sub", "Max", "Min", "Mean"])
    return g.op(kind, v, g.pick.choice(fits)), shape


def _leaky_choice(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    level = g.constant(np.array(g.pick.choice([-0.25, 0.0, 0.5])))
    above = g.op("Sub", v, level)
    small = g.op("Mul", above, g.constant(np.array(0.125)))
    return g.op(
        "Where", g.op(g.pick.choice(["Greater", "GreaterOrEqual"][: 1 + (g.opset > 11)]), v, level), above, small
    ), shape


def _matmul(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    if g.pick.random() < 0.5:
        return g.op("MatMul", v, g.numbers(shape[-1], 3)), (*shape[:-1], 3)
    stack = shape[:-2] if g.pick.random() < 0.5 else ()
    return g.op("MatMul", g.numbers(*stack, 2, shape[-2]), v), (*shape[:-2], 2, shape[-1])


def _reduce(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    kind, since = g.pick.choice(
        [("ReduceMean", 18), ("ReduceSum", 13), ("ReduceMax", 18), ("ReduceMin", 18), ("ReduceL1", 18)]
    )
    axis = g.axis(shape)
    keep = tuple(1 if k == axis % len(shape) else d for k, d in enumerate(shape))
    return g.over(kind, v, [axis], since, keepdims=1), keep


def _transpose(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    order = g.pick.sample(range(len(shape)), len(shape))
    return g.op("Transpose", v, perm=order), tuple(shape[k] for k in order)


def _gather(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    axis = g.axis(shape)
    size = shape[axis]
    where = [g.pick.randrange(-size, size) for _ in range(g.pick.randint(1, 3))]
    at = axis % len(shape)
    return g.op("Gather", v, g.constant(np.array(where)), axis=axis), (*shape[:at], len(where), *shape[at + 1 :])


def _slice(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    if g.opset < 10:
        return None
    axis = g.axis(shape)
    size, step = shape[axis], g.pick.choice([-2, -1, 1, 2])
    start, end = g.pick.randrange(-size - 1, size + 1), g.pick.randrange(-size - 1, size + 1)
    length = len(range(size)[slice(start, end if end >= -size else (None if step < 0 else 0), step)])
    if length == 0:
        return None
    parts = (g.constant(np.array([p])) for p in (start, end, axis, step))
    return g.op("Slice", v, *parts), tuple(length if k == axis % len(shape) else d for k, d in enumerate(shape))


def _concat(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    axis = g.axis(shape)
    parts = [v, *(u for u, s in g.held if s == shape and u != v)][:2] + (
        [g.numbers(*shape)] if g.pick.random() < 0.5 else []
    )
    g.pick.shuffle(parts)
    at = axis % len(shape)
    return g.op("Concat", *parts, axis=axis), (*shape[:at], shape[at] * len(parts), *shape[at + 1 :])


def _conv(g: RandomGraph, v: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    if len(shape) < 3:
        return None
    rank, channels = len(shape) - 2, shape[1]
    kernel = [g.pick.randint(1, min(3, d)) for d in shape[2:]]
    strides, before, after = ([g.pick.choice(c) for _ in range(rank)] for c in ((1, 2), (0, 1), (0, 1)))
    groups = g.pick.choice([1, channels])
    options = {"kernel_shape": kernel, "strides": strides, "pads": [*before, *after]}
    kind = g.pick.choice(["Conv", "ConvTranspose", "MaxPool", "AveragePool"])
    if kind == "ConvTranspose":
        sizes = [
            s * (d - 1) + k - p - q for s, d, k, p, q in zip(strides, shape[2:], kernel, before, after, strict=True)
        ]
        if min(sizes) < 1:
            return None
        weight = g.numbers(channels, 2, *kernel)
        return g.op(kind, v, weight, g.numbers(2 * groups), group=groups, **options), (shape[0], 2 * groups, *sizes)
    if kind.endswith("Pool") and any(p >= k or q >= k for k, p, q in zip(kernel, before, after, strict=True)):
        return None
    sizes = [(d + p + q - k) // s + 1 for s, d, k, p, q in zip(strides, shape[2:], kernel, before, after, strict=True)]
    if kind == "Conv":
        weight = g.numbers(2 * groups, channels // groups, *kernel)
        return g.op(kind, v, weight, g.numbers(2 * groups), group=groups, **options), (shape[0], 2 * groups, *sizes)
    return g.op(kind, v, **options), (*shape[:2], *sizes)


STEPS: list[Step] = [
    *(_unary, _clip, _constant, _pair, _leaky_choice, _matmul, _reduce, _transpose, _gather, _slice, _concat),
    *(_conv, _conv, _conv),
]


def _onnx(seed: int) -> Iterator[Trial]:
    start = time.perf_counter()
    for kind, allowed in (("float64", 1e-12), ("float32", 1e-4)):
        model = RandomGraph(seed, kind).grow()
        try:
            runtime = RuntimeModel(model)
        except NetworkError:  # no kernel for this type
            continue
        try:
            network = verifier.load(model)
        except VerifierError as error:
            yield Trial(engine="load", outcome=Outcome.WRONG, seconds=time.perf_counter() - start, detail=str(error))
            return
        found = agreement(network, runtime, inputs=6)
        outcome = Outcome.RIGHT if found.gap < allowed else Outcome.WRONG
        seconds = time.perf_counter() - start
        yield Trial(engine="load", outcome=outcome, seconds=seconds, detail=f"differs by {found.gap:.3g}")
        return
    yield Trial(engine="load", outcome=Outcome.UNDECIDED, seconds=0.0, detail="onnxruntime cannot run the graph")


# -- the whole way: a file, a question, an answer ---------------------------------------------------------
SOLVERS = 40
"""One case in so many is put to solvers too: their processes take a second to start."""


def _verdicts(seed: int) -> Iterator[Trial]:
    """A threshold on one output of a random graph, near its largest value at points in onnxruntime."""
    model = RandomGraph(seed, "float32").grow()
    network, runtime = verifier.load(model), RuntimeModel(model)
    rng = np.random.default_rng(seed)
    center, radius = rng.uniform(-1, 1, network.input_size), rng.choice([0.01, 0.05, 0.2])
    box = Box(center - radius, center + radius)
    points = np.vstack([box.sample(40, rng), box.lower, box.upper]).astype(np.float32).astype(np.float64)
    points = points[box.contains(points)]
    k = int(rng.integers(network.output_size))
    seen = runtime.run(points).reshape(len(points), -1)[:, k]
    spread = max(1e-3, float(np.ptp(seen)))
    bound = float(seen.max() + spread * rng.choice([-0.25, 0.05, 0.5, 2.0]))
    row = np.zeros((1, network.output_size))
    row[0, k] = -1.0
    query = Query(network=network, box=box, disjuncts=(Conjunction(y_rows=row, bound=np.array([-bound])),))
    error = 1e-4 * max(1.0, float(np.abs(seen).max()))  # of float32
    solvers = ("z3", "highs") if network.neurons <= 12 and seed % SOLVERS == 0 else ()
    for engine in ("auto", "native", *solvers):
        start = time.perf_counter()
        verdict = verifier.verify(query, engine=engine, timeout=10.0 if engine in solvers else 1.0)
        seconds = time.perf_counter() - start
        outcome, detail = Outcome.UNDECIDED, verdict.reason
        if verdict.status is Status.HOLDS:
            wrong = seen.max() > bound + error
            outcome, detail = Outcome.WRONG if wrong else Outcome.RIGHT, f"holds, and {seen.max()} > {bound} is seen"
        elif verdict.status is Status.VIOLATED:
            assert verdict.witness is not None
            y = runtime.run(verdict.witness.input)[k]
            wrong = y < bound - error or not box.contains(verdict.witness.input)
            outcome, detail = Outcome.WRONG if wrong else Outcome.RIGHT, f"violated, and {y} < {bound}"
        elif verdict.status is Status.ERROR:
            outcome = Outcome.WRONG
        yield Trial(engine=engine, outcome=outcome, seconds=seconds, detail=detail)


KINDS = [
    Kind(
        name="torch in place",
        what="a random module that writes in place and through views, loaded, against torch itself in float64",
        run=_torch,
        cost=0.06,
    ),
    Kind(
        name="random ONNX graphs",
        what="a graph of random operators in a random opset from 9 to 22, loaded, against onnxruntime, in float64 where "
        "that has kernels for it",
        run=_onnx,
        cost=0.03,
    ),
    Kind(
        name="verdicts on random ONNX graphs",
        what="a threshold on an output of a random ONNX graph over a box, against the graph itself in onnxruntime at random "
        "points, at the box's corners and at the witness",
        run=_verdicts,
        cost=0.06,
    ),
]
