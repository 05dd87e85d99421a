"""Queries: *find x in X with condition(x, N(x), ∇N(x))*. A "yes" refutes the property; a "no" proves it.

The condition is ``common and (case_1 or case_2 or ...)``: every part a conjunction of closed or strict
linear inequalities over the flattened input x, the flattened output y, and the gradient g of one
linear combination of outputs with respect to the flattened input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.conjunction import Choice, Conjunction
from verifier.properties.numbers import Numbers
from verifier.properties.sets import Box
from verifier.shown import Shown

if TYPE_CHECKING:
    from verifier.properties.map_condition import MapCondition


NOISE = 1e-11
"""Share of a gradient's largest entry by which float64 may miss it: a first test lets such points pass to the replay."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GradientBox:
    """``lower <= g <= upper`` where ``g = ∂(output · y)/∂x``, flattened; ends included.

    Attributes:
        output: ``(m,)`` coefficients of the output combination (a unit vector for one output).
        lower, upper: ``(n,)``; infinite where a component is free. Rounded outwards where the exact ends are no float64.
        exact_lower, exact_upper: the ends as they were given; None: the float64 numbers.

    Raises:
        PropertyError: ends that cross, or are not finite.

    Source:
        Le et al., ACML 2023, Equation 12.
    """

    output: Array
    lower: Array
    upper: Array
    exact_lower: Numbers | None = None
    exact_upper: Numbers | None = None

    def __post_init__(self) -> None:
        for name in ("output", "lower", "upper"):
            value = np.array(getattr(self, name), dtype=np.float64).reshape(-1)
            if np.isnan(value).any():
                raise PropertyError(f"{name} of the gradient box contains NaN")
            object.__setattr__(self, name, value)
        if self.lower.shape != self.upper.shape or (self.lower > self.upper).any():
            raise PropertyError("the gradient box is empty or its ends differ in length")

    @staticmethod
    def exactly(output: Array, lower: Numbers, upper: Numbers) -> GradientBox:
        """The box between exact ends."""
        return GradientBox(output=output, lower=lower.below, upper=upper.above, exact_lower=lower, exact_upper=upper)

    @cached_property
    def ends(self) -> tuple[Numbers, Numbers]:
        """The lower and the upper ends as they were given."""
        return (
            Numbers.of(self.lower) if self.exact_lower is None else self.exact_lower,
            Numbers.of(self.upper) if self.exact_upper is None else self.exact_upper,
        )

    def only(self, kept: npt.NDArray[np.bool_]) -> GradientBox:
        """The same box, free in all components but those that are ``kept (n,)``."""
        lower, upper = self.ends
        return GradientBox.exactly(self.output, lower.where(kept, -np.inf), upper.where(kept, np.inf))

    def room(self, g: Array) -> Array:
        """How deep inside each float64 gradient of a batch ``(batch, n)`` is, ``(batch,)``; negative outside.

        What may be no more than the rounding errors of the gradient counts as 0: the exact replay decides there.
        """
        found = np.minimum(g - self.lower, self.upper - g).min(axis=-1)
        error = NOISE * np.abs(g).max(axis=-1, initial=0.0)
        return np.where((found < 0) & (found >= -error), 0.0, found)

    def contains(self, g: Array) -> npt.NDArray[np.bool_]:
        """Whether each gradient of a batch ``(batch, n)`` is inside, up to its rounding errors."""
        return np.asarray(self.room(g) >= 0)

    def contains_exactly(self, g: Sequence[Fraction]) -> bool:
        """Whether a gradient is inside, in rational arithmetic."""
        lower, upper = self.ends
        return all(
            (lower.below[k] == -np.inf or v >= lower[k]) and (upper.above[k] == np.inf or v <= upper[k])
            for k, v in enumerate(g)
        )


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A property as it was asked, for those who check its proof by themselves.

    Attributes:
        text: a property file's text, or JSON of one of our own kinds (docs/proofs.md).
        is_vnnlib: whether it is VNN-LIB text.
    """

    text: str
    is_vnnlib: bool


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Query(Shown):
    """Find x in ``box`` with ``common``, the gradient box, the map condition, and at least one of ``disjuncts``.

    A condition with several disjunctions keeps some of them in ``clauses`` instead of multiplying them out: engines do
    not see these (`verifier.engines.disjunctions` branches on them), and what is proved without them holds with them.

    Attributes:
        network: the network.
        box: bounds of every input.
        disjuncts: the disjunction; at least one. An empty conjunction is "true".
        common: rows that hold in every disjunct (a polytope over x, say); None for none.
        gradient: what g is and its box; None when no row speaks of g.
        condition: similarity of a saliency map, where a gradient box cannot say it all; every x that meets it
            has its gradient in the gradient box. None for none.
        anchor: a point of special interest in the box (x̂), where searches start; None: the box's center.
        clauses: further disjunctions: at least one conjunction of each has to hold, too.
        vacuous: why no input at all can meet the condition, where that is plain as it stands; "" if it is not.
        description: the property in words, for reports.
        statement: the property as it was asked; None where nothing says it.

    Raises:
        PropertyError: parts that do not fit the network or the box.

    Source:
        "find x in X with condition": the negated property, as in VNN-LIB (Demarchi et al., 2023).
    """

    network: Network
    box: Box
    disjuncts: tuple[Conjunction, ...]
    common: Conjunction | None = None
    clauses: tuple[tuple[Conjunction, ...], ...] = ()
    vacuous: str = ""
    gradient: GradientBox | None = None
    condition: MapCondition | None = None
    anchor: Array | None = None
    description: str = ""
    statement: Statement | None = None

    _drawn_by = "verifier.report.network:query_plot"

    def _facts(self) -> tuple[str, dict[str, str]]:
        spoken = (
            ["outputs"] + ["gradient"] * (self.gradient is not None) + ["saliency map"] * (self.condition is not None)
        )
        facts = {
            "inputs": f"{self.box.varying} of {self.box.size} vary",
            "disjuncts": f"{len(self.disjuncts)}",
            "about": ", ".join(spoken),
            "of": repr(self.network),
        }
        return f"Query {self.description!r}" if self.description else "Query", facts

    def __post_init__(self) -> None:
        n, m = self.network.input_size, self.network.output_size
        if self.box.size != n:
            raise PropertyError(
                f"the property has {self.box.size} inputs and the network {n}",
                place=self.network.source,
                fix="is the property meant for another network?",
            )
        if self.network.integer_inputs:
            whole = self.box.integers()
            if whole is not None:
                object.__setattr__(self, "box", whole)
            elif not self.vacuous:
                object.__setattr__(
                    self, "vacuous", "the network takes integers, and an input's bounds have none between"
                )
        if not self.disjuncts:
            raise PropertyError("a query needs at least one disjunct", fix="an empty Conjunction means 'true'")
        for part in self.parts:
            for name, size in (("x_rows", n), ("y_rows", m), ("g_rows", n)):
                rows = getattr(part, name)
                if rows is not None and rows.shape[1] != size:
                    raise PropertyError(
                        f"{name} speaks of {rows.shape[1]} variables and the network has {size}",
                        place=self.network.source,
                        fix="is the property meant for another network?",
                    )
            if part.g_rows is not None and self.gradient is None:
                raise PropertyError("a row speaks of the gradient, but the query does not say of which output")
        if self.gradient is not None and (self.gradient.output.shape != (m,) or self.gradient.lower.shape != (n,)):
            raise PropertyError("the gradient box does not fit the network's inputs and outputs")
        if self.anchor is not None:
            anchor = np.array(self.anchor, dtype=np.float64).reshape(-1)
            if anchor.shape != (n,):
                raise PropertyError(f"an anchor of {anchor.size} entries for {n} inputs")
            object.__setattr__(self, "anchor", anchor)

    @property
    def features(self) -> frozenset[str]:
        """What the condition uses beyond linear rows over inputs and outputs: engines declare which they can take.

        "gradient"; "a saliency map"; and for a condition on one that is more than a gradient box "map NAME" and
        "similarity NAME".
        """
        found = set[str]()
        if self.gradient is not None:
            found.add("gradient")
        if self.condition is not None:
            found.add("a saliency map")
            if not self.condition.is_box:
                found |= {f"map {self.condition.map.name}", f"similarity {self.condition.similarity.name}"}
        return frozenset(found)

    @property
    def parts(self) -> tuple[Conjunction, ...]:
        """The common conjunction, if any, the disjuncts, and those of the clauses."""
        common = () if self.common is None else (self.common,)
        return common + self.disjuncts + tuple(part for clause in self.clauses for part in clause)

    @property
    def start(self) -> Array:
        """Where a search starts: the anchor, or the box's center."""
        return self.box.center if self.anchor is None else self.anchor

    def split(self) -> list[Query]:
        """One query per disjunct: this query has a witness if and only if one of them has (the same witness)."""
        return (
            [self]
            if len(self.disjuncts) == 1
            else [replace(self, disjuncts=(disjunct,)) for disjunct in self.disjuncts]
        )

    def margins(self, x: Array) -> Array:
        """How far each point is from meeting the condition, in float64; >= 0 means met (strict rows aside).

        For each point of ``(batch, n)``: the largest over the disjuncts of the smallest slack over all rows
        (box excepted), ``(batch,)``.
        """
        y, g = self._evaluate(x)
        worst = np.full(len(x), np.inf)
        if self.gradient is not None and g is not None:
            worst = np.minimum(worst, self.gradient.room(g))
        if self.common is not None and len(self.common):
            worst = np.minimum(worst, self.common.slack(x, y, g).min(axis=1))
        if self.condition is not None:
            worst = np.minimum(worst, self.condition.margin(x))
        for choice in self._choices:
            worst = np.minimum(worst, choice.margins(x, y, g))
        return worst

    def holds(self, x: Array) -> npt.NDArray[np.bool_]:
        """Whether each point of ``(batch, n)`` is a witness, in float64: a first test, not the replay."""
        y, g = self._evaluate(x)
        result = self.box.contains(x)
        if self.gradient is not None and g is not None:
            result &= self.gradient.contains(g)
        result &= self.met(x, y, g)
        if self.condition is not None and result.any():
            result[result] = self.condition.margin(x[result]) >= 0
        return np.asarray(result)

    def met(self, x: Array, y: Array, g: Array | None) -> npt.NDArray[np.bool_]:
        """Whether common rows, a disjunct and one of each clause hold for a batch of inputs, outputs and gradients.

        Shapes: x ``(batch, n)``; y ``(batch, outputs)``; g ``(batch, n)``.
        """
        result = np.ones(len(x), dtype=bool) if self.common is None else self.common.holds(x, y, g)
        for choice in self._choices:
            result &= choice.holds(x, y, g)
        return result

    def met_exactly(
        self,
        x: Sequence[Fraction],
        y: Sequence[Fraction],
        g: Sequence[Fraction] | None,
        y_above: Sequence[Fraction] | None = None,
    ) -> bool:
        """The same for one point, in rational arithmetic; ``y_above`` as in `Conjunction.holds_exactly`."""
        return (self.common is None or self.common.holds_exactly(x, y, g, y_above)) and all(
            any(disjunct.holds_exactly(x, y, g, y_above) for disjunct in choice)
            for choice in (self.disjuncts, *self.clauses)
        )

    @cached_property
    def _choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(disjuncts) for disjuncts in (self.disjuncts, *self.clauses))

    def _evaluate(self, x: Array) -> tuple[Array, Array | None]:
        y = self.network.forward(x).reshape(len(x), -1)
        g = None
        if self.gradient is not None:
            g = self.network.gradient(x, self.gradient.output).reshape(len(x), -1)
        return y, g


def larger_output_disjuncts(outputs: int, label: int, *, width: int | None = None) -> tuple[Conjunction, ...]:
    """One disjunct per other label j: ``y_label - y_j <= 0`` (a tie counts as a change of label).

    Le et al. (ACML 2023), Equation 14, print ``y_j > y_label``: their disjuncts are these without the ties, so that what holds
    here holds there. (docs/papers.md; a strict row, `Conjunction.strict`, asks theirs.)

    Args:
        width: number of columns of the rows, where further outputs follow the labels'.

    Raises:
        PropertyError: a label that does not exist, or a network with one output.

    Source:
        Le et al., ACML 2023, Equation 14, as docs/papers.md reads it.
    """
    if not 0 <= label < outputs:
        raise PropertyError(f"label {label} does not exist", fix=f"labels are 0 to {outputs - 1}")
    if outputs < 2:
        raise PropertyError("a network with one output has no labels to compare")
    disjuncts = []
    for j in range(outputs):
        if j != label:
            row = np.zeros((1, outputs if width is None else width))
            row[0, label], row[0, j] = 1.0, -1.0
            disjuncts.append(Conjunction(y_rows=row, bound=np.zeros(1)))
    return tuple(disjuncts)
