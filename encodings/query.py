"""A whole query as constraints: forward pass, backward pass, gradient box, common rows and disjuncts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.bounds.bound import Bound
from verifier.encodings.basis import basis_of_rows
from verifier.encodings.gradient import encode_gradient
from verifier.encodings.identity import add_identity
from verifier.encodings.model import Atom, Disjunction, ExactAtom, Expressions, Indices, Model
from verifier.encodings.network import ForwardPass, Neuron, as_variables, encode_forward
from verifier.encodings.similarity import encode_condition
from verifier.encodings.widening import slack
from verifier.properties.conjunction import Conjunction
from verifier.properties.numbers import ExactRow
from verifier.properties.query import Query

ROUNDING = 1e-12
"""What solvers with tolerances cannot tell from zero, relative to max(1, |z|)."""

Pattern = dict[str, npt.NDArray[np.int64]]
"""Per activation node the phase index of every neuron (`encodings.phases`), or the winner's position in a window."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """A query written into a model.

    Attributes:
        query: what the model says; its gradient box is free in the entries that are not written (see `encode`).
        x, y: variables of the flattened input and output.
        g: variables of the flattened gradient, -1 for entries without one; None if the query has none.
        disjuncts: the disjunction over the query's disjuncts; None if there is one disjunct (its rows are in the model).
    """

    query: Query
    model: Model
    forward: ForwardPass
    x: Indices
    y: Indices
    g: Indices | None
    disjuncts: Disjunction | None

    def pattern(self, chosen: Callable[[Disjunction], int]) -> Pattern:
        """The activation pattern, given which disjunct of each disjunction a solution has chosen."""
        result: Pattern = {}
        for name, neurons in self.forward.neurons.items():
            picked = np.zeros(len(neurons), dtype=np.int64)
            for k, neuron in enumerate(neurons):
                disjunct = 0 if neuron.disjunction is None else chosen(neuron.disjunction)
                picked[k] = neuron.phases[disjunct].index if isinstance(neuron, Neuron) else neuron.positions[disjunct]
            result[name] = picked
        return result

    def switches(self, core: Iterable[tuple[str, int]] | None) -> list[Disjunction]:
        """The disjunctions of the neurons of a core (all neurons, if None) that the bounds do not fix.

        A region that was refuted by its core is excluded by asking one of these to choose another disjunct.
        """
        if core is None:
            return [
                u.disjunction for neurons in self.forward.neurons.values() for u in neurons if u.disjunction is not None
            ]
        found = [self.forward.neurons[name][k].disjunction for name, k in core]
        return [d for d in found if d is not None]

    def other_regions(self, pattern: Pattern) -> Disjunction | None:
        """The disjunction that at least one free neuron is on another phase than in a pattern; None if none is free."""
        disjuncts: list[list[Atom]] = []
        for name, neurons in self.forward.neurons.items():
            for neuron, index in zip(neurons, pattern[name].reshape(-1).tolist(), strict=True):
                if neuron.disjunction is None:
                    continue
                indices = [p.index for p in neuron.phases] if isinstance(neuron, Neuron) else list(neuron.positions)
                disjuncts += [
                    disjunct for disjunct, i in zip(neuron.disjunction.disjuncts, indices, strict=True) if i != index
                ]
        return Disjunction(disjuncts, "another linear region") if disjuncts else None

    @property
    def free_neurons(self) -> int:
        """Number of neurons that the bounds do not fix."""
        return len(self.switches(None))


def encode(
    query: Query,
    values: Mapping[str, Bound],
    gradients: Mapping[str, Bound] | None = None,
    *,
    known: Mapping[str, Indices] | None = None,
    identity: Bound | None = None,
    entries: Indices | None = None,
    relax: float = 0.0,
) -> Encoding:
    """Write a query into a new model.

    Solutions of the model with open ends closed are a superset of the query's witnesses; with open ends
    respected they are exactly the witnesses.

    Args:
        values: valid bounds on every node's value over the query's box; exact proofs need rigorous ones.
        gradients: valid bounds on the gradient with respect to every node; needed if the query has a gradient.
        known: phases that every witness has, see `encodings.network.encode_forward`.
        identity: bounds on the input's gradient at every witness, from which Euler's identity is written as a
            redundant row (see `encodings.identity`); by default it is not.
        entries: if given, the gradient box is written for these entries and for the few that say most (see
            `encodings.basis`), and its bounds on the others are left out; by default it is written for all.
        relax: the query's own rows and its gradient box are widened by this much, see `encodings.widening.slack`: for solvers with
            tolerances, so that a witness on a boundary is not lost; 0 for exact proofs.

    Source:
        Le et al., ACML 2023, Section 4, Equations 9 to 16.
    """
    model = Model()
    forward = encode_forward(
        model,
        query.network,
        values,
        gradient=query.gradient is not None,
        known=known,
        negligible=ROUNDING if relax > 0 else 0.0,
    )
    model.confine(forward.x, *query.box.ends)
    g: Indices | None = None
    if query.gradient is not None:
        assert gradients is not None, "a query on the gradient needs gradient bounds"
        network = query.network
        box = query.gradient
        backward = encode_gradient(forward, box.output, gradients)
        written = np.arange(network.input_size)
        if entries is not None:
            basis = basis_of_rows(model, backward[network.input], box.upper - box.lower)
            written = np.union1d(entries, basis)
            query = replace(query, gradient=box.only(np.isin(np.arange(network.input_size), written)))
        g = _distinct(model, backward[network.input], gradients[network.input], forward.x, written)
        margin = slack(relax, model.upper[g[written]] - model.lower[g[written]])
        low, high = (ends.at(written) for ends in box.ends)
        model.confine(g[written], low, high, margin)
    if query.condition is not None and not query.condition.is_box:
        assert g is not None, "a condition on a map needs the gradient"
        encode_condition(model, query.condition, g, relax)
    output = query.network.output
    y = _distinct(model, forward.values[output], values[output], forward.x)
    if identity is not None and query.gradient is not None:
        add_identity(forward, backward, query.gradient.output, y, identity, relax)
    if query.common is not None:
        model.add_atoms(conjunction_atoms(query.common, model, (forward.x, y, g), relax))
    disjuncts: Disjunction | None = None
    if len(query.disjuncts) == 1:
        model.add_atoms(conjunction_atoms(query.disjuncts[0], model, (forward.x, y, g), relax))
    elif all(len(c) for c in query.disjuncts):
        disjuncts = Disjunction(
            [conjunction_atoms(c, model, (forward.x, y, g), relax) for c in query.disjuncts], "choices"
        )
        model.disjunctions.append(disjuncts)
    return Encoding(query, model, forward, forward.x, y, g, disjuncts)


def _distinct(
    model: Model, expressions: Expressions, bound: Bound, taken: Indices, wanted: Indices | None = None
) -> Indices:
    """The variables that expressions are; defined where one is no variable, or one that is already in use.

    Args:
        wanted: the expressions that are asked for, by default all; the others get -1.
    """
    used, rows = set(taken.tolist()), []
    asked = np.arange(len(expressions)) if wanted is None else wanted
    for k in asked.tolist():
        column = expressions.variable(k)
        if column < 0 or column in used:
            rows.append(k)
        used.add(column)
    plain = as_variables(model, expressions, bound, np.array(rows, dtype=np.int64))
    columns = np.full(len(expressions), -1)
    columns[asked] = [plain.variable(k) for k in asked.tolist()]
    model.tighten(columns[asked], bound.lower.reshape(-1)[asked], bound.upper.reshape(-1)[asked])
    return columns


def conjunction_atoms(
    part: Conjunction, model: Model, variables: tuple[Indices, Indices, Indices | None], relax: float
) -> list[Atom]:
    """The rows of a conjunction over the variables of x, y and g."""
    terms: list[tuple[list[int], list[float]]] = [([], []) for _ in range(len(part))]
    for rows, columns in zip((part.x_rows, part.y_rows, part.g_rows), variables, strict=True):
        if rows is None:
            continue
        assert columns is not None
        matrix = sp.csr_array(rows)
        matrix.eliminate_zeros()
        for k, (names, weights) in enumerate(terms):
            start, end = matrix.indptr[k], matrix.indptr[k + 1]
            names += columns[matrix.indices[start:end]].tolist()
            weights += matrix.data[start:end].tolist()
    width = model.upper - model.lower
    atoms = []
    for k, (names, weights) in enumerate(terms):
        reach = np.abs(np.array(weights)) @ width[names] if names else np.zeros(())
        bound = float(part.bound[k] + slack(relax, reach))
        strict = bool(part.strict[k])
        exact = _exact_atom(part.exact[k], variables, strict) if k in part.exact else None
        atoms.append(Atom(tuple(names), tuple(weights), -inf, bound, strict, exact))
    return atoms


def _exact_atom(row: ExactRow, variables: tuple[Indices, Indices, Indices | None], strict: bool) -> ExactAtom:
    names, weights = list[int](), list[Fraction]()
    for coefficients, columns in zip((row.x, row.y, row.g), variables, strict=True):
        for j, a in coefficients.items():
            assert columns is not None
            names.append(int(columns[j]))
            weights.append(a)
    return ExactAtom(tuple(names), tuple(weights), -inf, row.bound, strict)
