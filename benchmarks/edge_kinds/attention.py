"""Attention maps of small networks against an exact subdivision of Θ.

Weights and pixels are short fractions (some of them decimals, which floats round), so that outputs tie, preactivations
vanish on whole regions and lines meet in points. The truth: Θ is cut in rational arithmetic along every kink of the
original network (`truth`), which shares no code with the traversal.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from edge_kinds.kind import Kind, Outcome, Trial

from verifier.attention import Answer, AreaSettings, Inconsistency, RegionMap, attention_areas, attention_map
from verifier.attention.answer import ASPECTS
from verifier.attention.area_result import PROVED
from verifier.attention.replay import Replay
from verifier.encodings.perturbations import (
    Blend,
    Blur,
    Brightness,
    Contrast,
    Linear,
    Patch,
    Perturbation,
    Perturbed,
    Rotation,
    Shear,
    Translation,
    Zoom,
    perturbed,
)
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, leaky_relu, relu
from verifier.network.rationals import Rationals

Point = tuple[Fraction, ...]
Array = Any
MOST_CELLS = 50
"""Questions that are cut into more cells than this are left out: they take the truth too long."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One map's arguments."""

    network: Network
    image: Array
    perturbations: list[Perturbation]
    delta: float
    settings: Inconsistency
    clip: bool

    def ask(self, **options: Any) -> RegionMap:
        """The map."""
        return attention_map(
            self.network, self.image, self.perturbations, self.delta, settings=self.settings, clip=self.clip, **options
        )

    @property
    def layer(self) -> Perturbed:
        """The network as a function of the parameters."""
        return perturbed(self.network, self.image, self.perturbations, clip=self.clip)


def question(seed: int, parameters: tuple[int, ...] = (1, 2, 2, 2), *, still: bool = False) -> Question:
    """A random question; ``still``: only perturbations that leave the expected map where it is."""
    rng = np.random.default_rng(seed)
    height, width = [(2, 2), (2, 3), (3, 3)][rng.integers(3)]
    scale = [0.25, 0.25, 0.1][rng.integers(3)]

    def numbers(*shape: int) -> Array:
        return rng.integers(-4, 5, size=shape) * scale

    builder = NetworkBuilder((1, height, width))
    kind, hidden, classes = int(rng.integers(4)), int(rng.integers(1, 5)), int(rng.integers(2, 4))
    activation = leaky_relu(0.25) if rng.random() < 0.15 else relu()
    if kind == 0:
        builder.add(Reshape((height * width,)))
        builder.add(Dense(numbers(hidden, height * width), numbers(hidden)))
        last = builder.add(activation)
    elif kind == 1:
        builder.add(Conv(numbers(1, 1, 2, 2), numbers(1)))
        builder.add(activation)
        flat = (height - 1) * (width - 1)
        builder.add(Reshape((flat,)))
        builder.add(Dense(numbers(hidden, flat), numbers(hidden)))
        last = builder.add(relu())
    elif kind == 2:
        builder.add(MaxPool((2, 2), (1, 1)))
        flat = (height - 1) * (width - 1)
        builder.add(Reshape((flat,)))
        builder.add(Dense(numbers(hidden, flat), numbers(hidden)))
        last = builder.add(relu())
    else:
        builder.add(Conv(numbers(1, 1, 2, 2), numbers(1)))
        first = builder.add(relu())
        shape = (1, height - 1, width - 1)
        flat = int(np.prod(shape))
        vector = builder.add(Reshape((flat,)), first)
        builder.add(Dense(numbers(flat, flat), numbers(flat)), vector)
        second = builder.add(relu())
        builder.add(Sum((1, 1)), vector, second)
        pooled = builder.add(Reshape(shape))
        last = builder.add(MaxPool((1, min(2, width - 1)), (1, 1)), pooled)
        hidden = int(np.prod(builder.shape(last)))
        last = builder.add(Reshape((hidden,)), last)
    weight, bias = numbers(classes, hidden), numbers(classes)
    if rng.random() < 0.3:
        weight[1], bias[1] = weight[0], bias[0]  # two outputs are equal everywhere
    if rng.random() < 0.3:
        bias[:] = 0.0  # outputs are equal where all hidden neurons are inactive
    builder.add(Dense(weight, bias), last)
    image = rng.integers(0, 5, size=(1, height, width)) / 4
    ends = {"low": -float(rng.integers(0, 4)) / 4, "high": float(rng.integers(1, 5)) / 4}
    small = {"low": 0.0, "high": float(rng.integers(1, 5)) / 16}
    kinds: list[Callable[[], Perturbation]] = [
        lambda: Brightness(**ends),
        lambda: Patch(top=0, left=0, height=1, width=2, **ends),
        lambda: Contrast(**ends),
        lambda: Blend(mask=np.ones((height, width)), **ends),
        lambda: Linear(direction=numbers(1, height, width), **ends),
        lambda: Blur(**small),
    ]
    if not still:
        kinds += [
            lambda: Translation(**ends),
            lambda: Translation(down=1, right=0, **ends),
            lambda: Rotation(low=0.0, high=20.0, poses=3),
            lambda: Zoom(poses=3, **small),
            lambda: Shear(poses=3, **small),
        ]
    count = parameters[rng.integers(len(parameters))]
    return Question(
        network=builder.build(),
        image=image,
        perturbations=[kinds[rng.integers(len(kinds))]() for _ in range(count)],
        delta=float(rng.integers(0, 9)) / 4,
        settings=Inconsistency(
            filter=(("identity", "absolute") if still else ("identity", "absolute", "mean3"))[
                rng.integers(2 if still else 3)
            ],
            norm=(1, 2)[rng.integers(2)],
            classes=("all", "label")[rng.integers(2)],
        ),
        clip=bool(rng.random() < 0.6),
    )


# -- truth -----------------------------------------------------------------------------------------------
def truth(network: Network, lower: Array, upper: Array) -> list[list[Point]] | None:
    """Θ in polygons (intervals) on which the network is affine, vertices exact; None: more than `MOST_CELLS`."""
    exact = ExactNetwork(network)
    ends = [(Fraction(a), Fraction(b)) for a, b in zip(lower, upper, strict=True)]
    if len(ends) == 1:
        todo = [[(ends[0][0],), (ends[0][1],)]]
    else:
        (a, b), (c, d) = ends
        todo = [[(a, c), (b, c), (b, d), (a, d)]]
    done: list[list[Point]] = []
    while todo:
        if len(todo) + len(done) > MOST_CELLS:
            return None
        polygon = todo.pop()
        values = exact.values(Rationals.of(np.array(polygon, dtype=object)))
        cut = next((c for c in _kinks(network, values) if min(c) < 0 < max(c)), None)
        if cut is None:
            done.append(polygon)
        else:
            todo += [part for sign in (1, -1) if len(part := _half(polygon, [sign * v for v in cut])) > len(ends)]
    return done


def _kinks(network: Network, values: dict[str, Rationals]) -> Iterable[list[int]]:
    """For every kink, layer by layer, numbers with the sign of "how far beyond it" at each vertex."""
    for node in network.activations:
        x = values[node.inputs[0]]
        flat = x.numerators.reshape(len(x.numerators), -1)
        if isinstance(node.operator, MaxPool):
            for window in node.operator.windows(network[node.inputs[0]].shape):
                entries = [k for k in window if k >= 0]
                for i, a in enumerate(entries):
                    for b in entries[i + 1 :]:
                        yield list(flat[:, a] - flat[:, b])
        else:
            assert isinstance(node.operator, PiecewiseLinear)
            for kink in node.operator.breaks:
                at = Fraction(kink)
                yield from (flat.T * at.denominator - at.numerator * x.denominator).tolist()


def _half(polygon: list[Point], side: list[int]) -> list[Point]:
    """What of a polygon lies where an affine function, given at its vertices, is >= 0."""
    if len(polygon) == 2:
        (a, b), (u, v) = polygon, side
        middle = tuple(p + (q - p) * Fraction(u, u - v) for p, q in zip(a, b, strict=True))
        return [a, middle] if u >= 0 else [middle, b]
    kept = []
    for i, (here, value) in enumerate(zip(polygon, side, strict=True)):
        there, other = polygon[(i + 1) % len(polygon)], side[(i + 1) % len(side)]
        if value >= 0:
            kept.append(here)
        if value * other < 0:
            share = Fraction(value, value - other)
            kept.append(tuple(p + (q - p) * share for p, q in zip(here, there, strict=True)))
    return kept


def volume(polygon: list[Point]) -> Fraction:
    """Area or length."""
    if len(polygon) == 2:
        return abs(polygon[1][0] - polygon[0][0])
    twice = sum(
        (a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True)), Fraction(0)
    )
    return abs(twice) / 2


class Exact:
    """The exact answers at points and on cells of one question."""

    def __init__(self, asked: Question, label: int) -> None:
        self.asked, self.label, self.layer = asked, label, asked.layer
        self.outputs, self.original = ExactNetwork(self.layer.network), ExactNetwork(asked.network)
        self.start = self._maps(Rationals.of(self.layer.image.reshape(1, *asked.network.input_shape)))

    def margins(self, points: list[Point]) -> list[list[Fraction]]:
        """The label's output less each other one, at each point."""
        found = self.outputs.values(Rationals.of(np.array(points, dtype=object)))[self.layer.network.output]
        flat = found.numerators.reshape(len(points), -1)
        return [
            [Fraction(int(row[self.label] - v), found.denominator) for j, v in enumerate(row) if j != self.label]
            for row in flat
        ]

    def label_area(self, cell: list[Point]) -> Fraction:
        """Volume of the part of a cell where the label's output is above all others."""
        rest = cell
        for j in range(self.asked.network.output_size - 1):
            values = [m[j] for m in self.margins(rest)]
            if max(values) <= 0:
                return Fraction(0)
            if min(values) < 0:
                common = int(np.lcm.reduce([v.denominator for v in values], dtype=object))
                rest = _half(rest, [int(v * common) for v in values])
                if len(rest) <= len(cell[0]):
                    return Fraction(0)
        return volume(rest)

    def inconsistency(self, point: Point) -> float:
        """At a point: exact maps against the expected ones, rounded only at the end (square roots)."""
        found = self.outputs.values(list(point), stop=self.layer.pixels)[self.layer.pixels]
        maps = self._maps(Rationals(found.numerators.reshape(1, *self.asked.network.input_shape), found.denominator))
        moved = self.asked.settings.expected(self.layer, [[float(v) for v in point]], self.label)[0]
        still = self.asked.settings.reference(self.layer, self.label)
        total = 0.0
        for actual, start, step in zip(maps, self.start, moved - still, strict=True):
            gap = [a - s - Fraction(t) for a, s, t in zip(actual, start, step.reshape(-1).tolist(), strict=True)]
            norm = sum((abs(g) for g in gap), Fraction(0))
            total += float(norm) if self.asked.settings.norm == 1 else float(sum(g * g for g in gap)) ** 0.5
        return total

    def _maps(self, pixels: Rationals) -> list[list[Fraction]]:
        values = self.original.values(pixels)
        outputs = self.asked.settings.outputs(self.layer, self.label)
        maps = [self.original.gradient((), j, values) for j in outputs]
        if self.asked.settings.filter == "absolute":
            return [[abs(v) for v in m] for m in maps]
        if self.asked.settings.filter == "mean3":
            return [self._mean(m) for m in maps]
        return maps

    def _mean(self, entries: list[Fraction]) -> list[Fraction]:
        rows, columns = self.layer.image.shape[-2:]
        grid = {(i, j): entries[i * columns + j] for i in range(rows) for j in range(columns)}
        around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return [sum((grid.get((i + u, j + v), Fraction(0)) for u, v in around), Fraction(0)) / 9 for i, j in grid]


# -- kinds -----------------------------------------------------------------------------------------------
def _wrong(m: RegionMap, exact: Exact, cells: list[list[Point]], rng: np.random.Generator) -> str:
    """What a map says wrongly; empty if nothing."""
    whole = Fraction(float(np.prod(m.perturbed.box.width)))
    if abs(m.summary.covered - 1.0) > 1e-6:
        return f"covers {m.summary.covered} of Θ"
    share = float(sum((exact.label_area(c) for c in cells), Fraction(0)) / whole)
    if abs(m.summary.label_share - share) > 1e-7:
        return f"label holds on {m.summary.label_share}, exactly {share}"
    table = m.joined().table if m.table is None else m.table
    least: dict[str, bool] = {"label": True, "attention": True}
    polygons = [[tuple(map(float, p)) for p in c] for c in cells]
    for cell, polygon in zip(cells, polygons, strict=True):
        margins = exact.margins(cell)
        weights = [Fraction(int(w)) for w in rng.integers(1, 20, size=len(cell))]
        inside = tuple(
            sum((w * v[i] for w, v in zip(weights, cell, strict=True)), Fraction(0)) / sum(weights)
            for i in range(len(cell[0]))
        )
        holds = min(exact.margins([inside])[0]) > 0
        value = exact.inconsistency(inside)
        least["label"] &= min(min(row) for row in margins) > 0
        least["attention"] &= value <= m.delta + 1e-9
        if table is None or table.vertices is None or volume(cell) < Fraction(1, 10**9):
            continue
        place = np.array([float(v) for v in inside])
        owners = [i for i in range(len(table)) if _holds(table.polygon(i), place)]
        if len(owners) != 1:
            if _near_edge(polygon, place):
                continue
            return f"{place} is in {len(owners)} regions"
        i = owners[0]
        if (table.label[i] == 0 and not holds) or (table.label[i] == 1 and holds):
            return f"{place}: label kind {table.label[i]}, holds there: {holds}"
        if not table.low[i] - 1e-6 <= value <= table.high[i] + 1e-6:
            return f"{place}: inconsistency {value}, said {table.low[i]} to {table.high[i]}"
        apart = abs(value - m.delta) > 1e-6 or not m.summary.near_delta
        if apart and table.attention[i] < 2 and (table.attention[i] == 0) != (value <= m.delta + 1e-12):
            return f"{place}: attention kind {table.attention[i]}, inconsistency {value}"
    for aspect in ASPECTS:
        answer = m.answers[aspect]
        if answer.answer is Answer.ROBUST and not least[aspect]:
            return f"{aspect}: Robust, wrongly"
        if answer.answer is Answer.NOT_ROBUST and answer.theta is None:
            return f"{aspect}: NotRobust without a witness"
        if answer.answer is Answer.NOT_ROBUST:
            point = tuple(Fraction(float(v)) for v in answer.theta)
            if aspect == "label" and min(exact.margins([point])[0]) > 0:
                return f"label: holds at the witness {point}"
            if aspect == "attention" and exact.inconsistency(point) <= m.delta - 1e-12:
                return f"attention: holds at the witness {point}"
    return ""


def _holds(polygon: Array, point: Array) -> bool:
    """Whether a point is in a convex polygon (interval), its border included."""
    if polygon.shape[1] == 1:
        return bool(polygon.min() <= point[0] <= polygon.max())
    step, to = np.roll(polygon, -1, axis=0) - polygon, point - polygon
    return bool((step[:, 0] * to[:, 1] - step[:, 1] * to[:, 0] >= 0).all())


def _near_edge(polygon: list[tuple[float, ...]], point: Array) -> bool:
    """Whether a point is so close to its cell's edge that floats do not tell on which side."""
    corners = np.array(polygon)
    if corners.shape[1] == 1:
        return bool(np.abs(corners[:, 0] - point[0]).min() < 1e-9)
    step = np.roll(corners, -1, axis=0) - corners
    length = np.maximum(np.linalg.norm(step, axis=1), 1e-300)
    away = np.abs(step[:, 0] * (point - corners)[:, 1] - step[:, 1] * (point - corners)[:, 0]) / length
    return bool(away.min() < 1e-9)


def _judged(engine: str, wrong: str, answers: Iterable[Answer], began: float, detail: str) -> Trial:
    open_answers = [a for a in answers if a in (Answer.UNDECIDED, Answer.TIMEOUT)]
    outcome = Outcome.WRONG if wrong else (Outcome.UNDECIDED if open_answers else Outcome.RIGHT)
    words = wrong or "undecided" * bool(open_answers)
    return Trial(
        engine=engine, outcome=outcome, seconds=time.perf_counter() - began, detail=f"{words} {detail}".strip()
    )


def maps(seed: int) -> Iterable[Trial]:
    """A map as it is kept, and one in tiles, against the exact subdivision."""
    asked = question(seed)
    layer = asked.layer
    cells = truth(layer.network, layer.box.lower, layer.box.upper)
    if cells is None:
        yield Trial(engine="left out", outcome=Outcome.RIGHT, seconds=0.0)
        return
    for engine in ("kept", "tiles") if seed % 4 == 0 else ("kept",):
        rng = np.random.default_rng(seed + 1)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            m = asked.ask() if engine == "kept" else asked.ask(keep=max(len(cells) // 2, 12), stream=folder)
            if engine == "tiles" and m.tiles is not None:
                m.joined()
            answers = [a.answer for a in m.answers.values()]
            yield _judged(engine, _wrong(m, Exact(asked, m.label), cells, rng), answers, began, "")


def boundary(seed: int) -> Iterable[Trial]:
    """The guided search's boundary against that of the whole map, whose regions `maps` compares with the truth."""
    asked = question(seed, (2,), still=seed % 2 == 0)
    whole = asked.ask()
    for aspect in ("attention", "label"):
        began = time.perf_counter()
        found = asked.ask(method="gbs", aspect=aspect)
        wrong = ""
        for name in ("outside", "outermost"):
            a, b = (
                {tuple(p) for p in np.round(m.table.centers[getattr(m, name)(aspect)], 7).tolist()}  # type: ignore[union-attr]
                for m in (whole, found)
            )
            if a != b:
                wrong = f"{aspect}: {name} is {sorted(b)}, in the whole map {sorted(a)}"
        far = [m.farthest(aspect) for m in (whole, found)]
        if [f is None for f in far] not in ([True, True], [False, False]) or (
            far[0] is not None and far[1] is not None and abs(far[0][1] - far[1][1]) > 1e-7
        ):
            wrong = f"{aspect}: farthest {far[1]}, in the whole map {far[0]}"
        answers = [m.answers[aspect].answer for m in (found, whole)]
        if set(answers) == {Answer.ROBUST, Answer.NOT_ROBUST}:
            wrong = wrong or f"{aspect}: {found.answers[aspect]}, the whole map {whole.answers[aspect]}"
        yield _judged(f"gbs {aspect}", wrong, answers[:1], began, "")


def areas(seed: int) -> Iterable[Trial]:
    """Tiles of one to four parameters: at random points of random tiles what they say is true, exactly."""
    rng = np.random.default_rng(seed + 1)
    asked = question(seed, (1, 2, 3, 4), still=seed % 2 == 0)
    kind = ("gradient", "gradient", "integrated", "smooth")[rng.integers(4)]
    settings = replace(asked.settings, map=kind, samples=2)
    began = time.perf_counter()
    how = AreaSettings(smallest=1 / 40, grid=3)
    if seed % 3 == 0:  # as for a network that is too large for the other bounds
        how = replace(how, backward=0, rows=0)
    m = attention_areas(
        asked.network, asked.image, asked.perturbations, asked.delta, settings=settings, clip=asked.clip, how=how
    )
    sides = ((m.tiles.high - m.tiles.low) / m.perturbed.box.width).prod(axis=1)
    wrong = "" if abs(sides.sum() - 1.0) < 1e-12 else f"the tiles cover {sides.sum()} of Θ"
    replay = Replay(m.perturbed, settings, m.label)
    for k in rng.integers(len(m.tiles), size=4):
        share = rng.integers(0, 5, size=m.perturbed.dimension) / 4
        point = m.tiles.low[k] + share * (m.tiles.high[k] - m.tiles.low[k])
        above = replay.exceeds(point, m.delta)
        said = m.tiles.kinds[k]
        holds = replay.margin(point) > 0
        if said[0] and holds != (said[0] == PROVED):
            wrong = f"label at {point}: {holds}, the tile says {said[0]}"
        if said[1] and above is not None and above == (said[1] == PROVED):
            wrong = f"attention at {point}: above {above}, the tile says {said[1]}"
    for aspect in ASPECTS:
        answer = m.answers[aspect]
        if answer.theta is not None and not (
            replay.margin(answer.theta) <= 0 if aspect == "label" else replay.exceeds(answer.theta, m.delta)
        ):
            wrong = f"{aspect}: holds at the witness {answer.theta}"
    yield _judged("tiles", wrong, [m.answers[a].answer for a in ASPECTS], began, "")


KINDS = [
    Kind(
        name="attention maps",
        what="every region of Θ counted once, kinds and verdicts right; truth: Θ cut in rational arithmetic along every "
        "kink (MaxPool, residual connections, equal outputs, dead regions, with and without clipping).",
        run=maps,
        cost=0.05,
    ),
    Kind(
        name="attention boundaries",
        what="outermost boundary and farthest point by guided search, against the exhaustive map of the same question.",
        run=boundary,
        cost=0.03,
    ),
    Kind(
        name="attention areas",
        what="tiles of one to four parameters that are proved or refuted, gradient, Integrated Gradients and SmoothGrad "
        "maps, against exact evaluation at points of the tiles, corners included.",
        run=areas,
        cost=0.08,
    ),
]
