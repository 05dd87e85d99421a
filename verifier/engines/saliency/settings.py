"""What the saliency engine's tree decides by numbers: one frozen object, which travels with the `Problem`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PropagationSettings:
    """How phases are propagated.

    Attributes:
        rounds: forwards and backwards, at most.
        steps, later: of the optimisation of slopes and multipliers in the forward bounds: at first, and below a branching.
        small_steps, small: steps in networks of at most ``small`` neurons, where another node costs less than better bounds.
        largest: target rows times neurons above which slopes and multipliers are not optimised.
        inequalities: on the gradient's values, that forward bounds may use at most.
    """

    rounds: int = 6
    steps: int = 12
    later: int = 4
    small_steps: int = 2
    small: int = 64
    largest: int = 1_500_000
    inequalities: int = 80


@dataclass(frozen=True, kw_only=True)
class ProgramSettings:
    """How the linear programs of subproblems are solved, and branchings are tried on them.

    Attributes:
        cuts: rows of the gradient box that are added at once, the most violated first.
        map_rounds: so often a solution is cut off by a condition on the map.
        candidates: neurons tried by each of the two rankings.
        iterations: of the simplex method in a trial.
    """

    cuts: int = 40
    map_rounds: int = 10
    candidates: int = 6
    iterations: int = 30


@dataclass(frozen=True, kw_only=True)
class DiveSettings:
    """How phases are searched on one linear program.

    Attributes:
        candidates: neurons among which a node of a large network chooses its branching; in a small one a node costs no more
            than a trial.
        reliable: trials of a neuron's phase before its pseudo-cost is believed.
        most_gain: gains are counted up to this: an infeasible child gains no more than a very good one.
    """

    candidates: int = 8
    reliable: int = 2
    most_gain: float = 2.0


@dataclass(frozen=True, kw_only=True)
class LeafSettings:
    """How a leaf, where only phases of the last layer are unknown, is searched by Lagrangian bounds.

    Attributes:
        few: subproblems with at most so many free phases are left to linear programs.
        entries: of the gradient map, among which rows are chosen.
        block, blocks, least_blocks, enough: steps between proofs in tightening, most and fewest of these blocks, and the factor
            on the mean width that does not pay.
        trial: steps of a branching on trial.
        tighten, tighten_later, branching: length of the first step, and factor from each to the next: in a leaf, in its
            subproblems, in a branching on trial.
        candidates: branchings tried at a subproblem.
        exact_work: steps of exact arithmetic (`RegionSearch.work`) that a linear region may take.
    """

    few: int = 6
    entries: int = 200
    block: int = 10
    blocks: int = 40
    least_blocks: int = 4
    enough: float = 0.97
    trial: int = 25
    tighten: tuple[float, float] = (0.2, 0.99)
    tighten_later: tuple[float, float] = (0.1, 0.993)
    branching: tuple[float, float] = (0.05, 0.95)
    candidates: int = 4
    exact_work: int = 1_000_000


@dataclass(frozen=True, kw_only=True)
class TreeSettings:
    """How the tree is searched.

    Attributes:
        small: in networks of at most so many neurons phases are searched on linear programs alone.
        few: unknown phases of a small network up to which they are searched on one linear program.
        propagation, programs, dive, leaf: its parts.
    """

    small: int = 64
    few: int = 12
    propagation: PropagationSettings = PropagationSettings()
    programs: ProgramSettings = ProgramSettings()
    dive: DiveSettings = DiveSettings()
    leaf: LeafSettings = LeafSettings()


@dataclass(frozen=True, kw_only=True)
class ProverSettings:
    """How a proof is found again on the checker's own bounds.

    Attributes:
        steps, later: in which weights are optimised: at the root, and below.
        bits: of multipliers, tried one after the other.
    """

    steps: int = 20
    later: int = 6
    bits: tuple[int, ...] = (10, 20, 52)
