"""The certificate of a HOLDS, or why there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from verifier.errors import TimeLimitError
from verifier.limits import Deadline
from verifier.network.affine import dense
from verifier.network.maxima import with_maxima
from verifier.options import Options
from verifier.proofs.tree import NoCertificate, ProofTree
from verifier.proofs.writer import Proof, finish, subject
from verifier.properties.query import Query

if TYPE_CHECKING:
    from verifier.engines.base import Engine


def certificate(
    query: Query, tree: ProofTree | None, engine: Engine | None, options: Options, deadline: Deadline
) -> tuple[Proof | None, str]:
    """A certificate of what was proved, and "", or None and why.

    Where whoever proved it wrote no tree, the native engine proves it again in what is left of the time.

    Args:
        tree: what the engine wrote down, if it did.
    """
    method = "" if engine is None else engine.name
    why = "" if engine is None else engine.withholds_proof(query)
    try:
        if tree is None and (query.gradient is not None or query.condition is not None):
            return _of_gradient(query, options, deadline, method), ""
        if tree is None and with_maxima(query.network) is not None:
            try:
                return _of_lattice(query, deadline, method), ""
            except NoCertificate:  # it has other ReLUs, too
                pass
        if tree is None:
            tree, method = _again(query, options, deadline, why), "native, after another engine"
        return finish(query, tree, method), ""
    except NoCertificate as error:
        return None, str(error)


def _of_gradient(query: Query, options: Options, deadline: Deadline, engine: str) -> Proof:
    """A question about the gradient, proved again on the checker's own bounds, whoever proved it first."""
    own = _without_map(query)
    about = subject(own)  # before the search: it says why there is none
    if not about.graph.asked:  # of this map the checker knows nothing: perhaps the label holds whatever the map is
        try:
            tree = _again(own, options, deadline, "")
        except NoCertificate as error:
            raise NoCertificate(
                f"the checker knows no conditions on such a map, and without one: {error.problem}"
            ) from None
        return finish(own, tree, f"native, whatever the map is, after {engine or 'bounds'}")
    from verifier.engines.saliency.prover import Prover

    tree = Prover(query, about.graph, about.claim).prove(deadline)
    return finish(query, tree, f"bounds of values and gradients, after {engine or 'bounds'}", about)


def _without_map(query: Query) -> Query:
    """The question without a map's condition and what it says of the gradient, about the network itself."""
    condition = query.condition
    if condition is None:
        return query
    outputs = condition.network.output_size
    disjuncts = tuple(replace(part, y_rows=dense(part.y_rows)[:, :outputs], exact={}) for part in query.disjuncts)
    return replace(query, network=condition.network, disjuncts=disjuncts, gradient=None, condition=None)


def _of_lattice(query: Query, deadline: Deadline, engine: str) -> Proof:
    from verifier.engines.native.lattice_proof import LatticeProver

    about = subject(query)
    tree = LatticeProver(about.graph, about.claim).prove(Deadline.after(deadline.left / 2))
    return finish(query, tree, f"affine pieces of a lattice network, after {engine or 'bounds'}", about)


def _again(query: Query, options: Options, deadline: Deadline, why: str) -> ProofTree:
    from verifier.engines.base import Answer
    from verifier.engines.native import NativeEngine

    native = NativeEngine()
    reason = native.rejects(query.network, query) or native.withholds_proof(query)
    if reason:
        raise NoCertificate(why or f"the native engine, whose proofs these are, does not take it: {reason}")
    try:
        found = native.search(query, replace(options, proof=True, prepass=False), deadline)
    except TimeLimitError as error:
        raise NoCertificate(f"the search that keeps a proof did not end: {error.problem}") from None
    if found.answer is not Answer.UNSAT or found.proof is None:
        ended = found.reason or found.answer.value
        raise NoCertificate(f"the native engine, whose proofs these are, did not prove it again: {ended}")
    return found.proof
