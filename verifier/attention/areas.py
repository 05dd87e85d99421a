"""For which share of Θ do label and attention hold, provably: tiles of Θ by branch and bound, for networks of any size.

A tile is *proved* where bounds show that the label (the map) holds on all of it, *refuted* where they show that it
holds nowhere on it, and else split until it is too small or the time is over; what is left is *open*. All bounds are
rigorous: forward linear bounds on the outputs (`verifier.bounds.forward`), bounds on the saliency maps by linear
propagation of the Jacobian over the phases that are possible on the tile (`verifier.bounds.jacobian`). Neither needs
a region of its own for pixels that are clipped or for neurons that do not matter, so that a tile may hold thousands
of linear regions.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from verifier.attention.answer import ASPECTS, Answer, AspectAnswer, failing, with_both
from verifier.attention.area_bounds import AreaBounder
from verifier.attention.area_journal import AreaJournal
from verifier.attention.area_result import OPEN, PROVED, REFUTED, AreaMap, AreaSettings, Tiles
from verifier.attention.inconsistency import Inconsistency
from verifier.attention.question import question_of
from verifier.attention.replay import Replay
from verifier.attention.table import Aspect
from verifier.bab.interfaces import Children
from verifier.bab.search import BranchAndBound
from verifier.bab.search import Settings as SearchSettings
from verifier.bab.store import PriorityStore
from verifier.encodings.perturbations import Perturbed
from verifier.events import Listener, ignore
from verifier.limits import NEVER, Deadline, MemoryBudget, in_force
from verifier.network.operators import Array


class Halves:
    """Cuts a tile in two across its longest side, in widths of Θ."""

    def __init__(self, width: Array, smallest: float) -> None:
        self.width, self.smallest = width, smallest
        self.kept: list[Tiles] = []

    def split(self, batch: Tiles, lower: Array) -> Children[Tiles]:
        """See `verifier.bab.interfaces.Brancher`; tiles that are too small have no children."""
        sides = (batch.high - batch.low) / self.width
        large = np.flatnonzero(sides.prod(axis=1) > self.smallest)
        self.kept.append(batch.take(np.setdiff1d(np.arange(len(batch)), large)))
        some, axis = batch.take(large), sides[large].argmax(axis=1)
        rows = np.arange(len(large))
        middle = (some.low[rows, axis] + some.high[rows, axis]) / 2
        left, right = some.high.copy(), some.low.copy()
        left[rows, axis] = right[rows, axis] = middle
        children = Tiles.join([Tiles(some.low, left, some.kinds), Tiles(right, some.high, some.kinds)])
        return Children(children, np.concatenate([large, large]))


def area_map(
    perturbed: Perturbed,
    settings: Inconsistency,
    delta: float,
    label: int,
    *,
    how: AreaSettings | None = None,
    folder: Path | None = None,
    deadline: Deadline = NEVER,
    listener: Listener = ignore,
) -> AreaMap:
    """Cut Θ into tiles until every one is proved or refuted, too small, or the time is over.

    Args:
        folder: where what is found is kept; a search that finds the same question there goes on from it.

    Raises:
        UnsupportedOperatorError: an operator without bounds.
        InputError: the folder belongs to another question.
    """
    how, began = how or AreaSettings(), time.monotonic()
    box, replay = perturbed.box, Replay(perturbed, settings, label)
    journal = None
    if folder is not None:
        chosen = {name: value for name, value in vars(how).items() if name != "threads"}
        journal = AreaJournal(folder, question_of(perturbed, settings, delta, label, tiles=chosen))
    worst = _look(perturbed, settings, label, how)
    witness: dict[Aspect, Array | None] = {
        a: failing(replay, a, delta, [worst[a]]) if a in how.aspects else None for a in ASPECTS
    }
    kinds = np.array([[OPEN if a in how.aspects else PROVED for a in ASPECTS]], dtype=np.int8)
    start = Tiles(box.lower[None].copy(), box.upper[None].copy(), kinds)
    reason, bounded, found = "", 0, start
    seen: dict[Aspect, list[Array]] = {a: [] for a in ASPECTS}
    if not how.answers_only or any(witness[a] is None for a in how.aspects):
        bounder = AreaBounder(replay, delta, how, witness, journal)
        brancher = Halves(box.width, how.smallest)
        store = PriorityStore[Tiles](MemoryBudget.of(None), key=lambda some: -some.share)
        search = BranchAndBound(
            store,
            bounder,
            brancher,
            settings=SearchSettings(batch=how.batch, piece=how.piece, threads=how.threads, unit="tiles"),
            stop=bounder.between,
        )
        with in_force(deadline):
            result = search.run(start, deadline, listener)
        bounder.between(result)
        if bounder.lowest is not None:
            seen["label"].append(np.array(bounder.lowest[1]))
        bounded, reason = result.done, result.reason if result.late else ""
        rest = [*brancher.kept, *([store.pop(len(store)).batch] if len(store) else [])]
        found = Tiles.join([start.take([]), *bounder.finished, *rest])
        if result.stuck and not reason:
            reason = f"{result.stuck} tiles smaller than {how.smallest:g} of Θ were not split"
    order = np.lexsort(found.low.T[::-1])
    found = found.take(order)
    volume = ((found.high - found.low) / box.width).prod(axis=1)
    shares: dict[Aspect, tuple[float, float, float]] = {}
    answers: dict[Aspect, AspectAnswer] = {}
    for k, aspect in enumerate(ASPECTS):
        if aspect not in how.aspects:
            continue
        if how.answers_only and witness[aspect] is not None:
            answers[aspect] = _answer(witness[aspect], False, deadline, reason)
            continue
        parts = [float(volume[found.kinds[:, k] == kind].sum()) for kind in (PROVED, REFUTED, OPEN)]
        shares[aspect] = (parts[0], parts[1], parts[2])
        points = [*(found.low + found.high)[found.kinds[:, k] == REFUTED][:1] / 2, *seen[aspect]]
        theta = witness[aspect] if witness[aspect] is not None else failing(replay, aspect, delta, points)
        answers[aspect] = _answer(theta, bool((found.kinds[:, k] == PROVED).all()), deadline, reason)
    return AreaMap(
        perturbed=perturbed,
        settings=settings,
        delta=delta,
        label=label,
        tiles=found,
        shares=shares,
        answers=with_both(answers),
        reason=reason,
        worst={a: v[None] for a, v in worst.items()},
        bounded=bounded,
        seconds=time.monotonic() - began,
    )


def _answer(theta: Array | None, proved: bool, deadline: Deadline, reason: str) -> AspectAnswer:
    if theta is not None:
        return AspectAnswer(answer=Answer.NOT_ROBUST, reason="fails at a parameter, exactly", theta=theta)
    if proved:
        return AspectAnswer(answer=Answer.ROBUST, reason="proved on tiles that fill Θ, rounding included")
    kind = Answer.TIMEOUT if deadline.passed else Answer.UNDECIDED
    return AspectAnswer(answer=kind, reason=reason or "some tiles are open")


def _look(perturbed: Perturbed, settings: Inconsistency, label: int, how: AreaSettings) -> dict[Aspect, Array]:
    """The worst of some points for each aspect: a grid over at most two parameters, and corners."""
    box, d = perturbed.box, perturbed.dimension
    if d <= 2:
        axes = [np.linspace(a, b, how.grid) for a, b in zip(box.lower, box.upper, strict=True)]
        points = np.stack([g.reshape(-1) for g in np.meshgrid(*axes, indexing="ij")], axis=1)
    else:
        corners = np.stack([g.reshape(-1) for g in np.meshgrid(*[[0.0, 1.0]] * d, indexing="ij")], axis=1)
        inside = np.random.default_rng(0).random((how.grid**2, d))
        points = box.lower + np.concatenate([corners, inside]) * box.width
    outputs = perturbed.network.forward(points).reshape(len(points), -1)
    margin = outputs[:, label] - np.delete(outputs, label, axis=1).max(axis=1)
    result: dict[Aspect, Array] = {"label": points[int(margin.argmin())], "attention": points[0]}
    if "attention" in how.aspects:
        step = max(1, (1 << 24) // (perturbed.image.size * perturbed.network.output_size * 8))
        values = [settings(perturbed, points[k : k + step], label) for k in range(0, len(points), step)]
        result["attention"] = points[int(np.concatenate(values).argmax())]
    return result
