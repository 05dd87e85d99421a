"""What the native engine decides by numbers: one frozen object, handed to the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from verifier.bounds.settings import NeuronSearchSettings, RowSettings, SweepSettings
from verifier.engines.base import LOW_DIMENSION


class CutSettings(NamedTuple):
    """What is spent on the functions that refute and cut a box; a tuple, for compiled code takes it as it is.

    Attributes:
        functions: made at most for a disjunct of a box.
        worth: a new function is kept if it raises the bound at the point by this share.
        even: how much the relative width of an input counts beside what splitting it promises.
        turns: how often all functions cut a box in turn.
        parts: shares of rows are rounded to so many parts of 1 where a proof is kept.
    """

    functions: int = 4
    worth: float = 0.02
    even: float = 0.05
    turns: int = 2
    parts: int = 64


@dataclass(frozen=True, kw_only=True)
class SubproblemSettings:
    """How a subproblem is searched.

    Attributes:
        steps: of the ascent on a node.
        patience: a subproblem is searched for so many times the work that its bounds took before it may be given up.
        hope: under a cut it is not given up while it is expected to end within so much of the time left.
        batch: nodes that are bounded together.
        candidates, most_candidates: ReLUs of a node that are tried before one is split: more while there are few nodes.
        reserve: leaves that are kept for a proof are refuted with so many times the slack for rounding, for others will
            round otherwise.
        margin: a bound in float32 must be so far above zero to be tried in float64.
        exact_work: steps of exact arithmetic (`RegionSearch.work`) that a linear region may take.
        penalty: what breaking a phase costs in the program of a linear region: a bound on its multiplier.
    """

    steps: int = 12
    patience: float = 0.5
    hope: float = 0.5
    batch: int = 128
    candidates: int = 4
    most_candidates: int = 32
    reserve: float = 10.0
    margin: float = 1e-5
    exact_work: float = 3e7
    penalty: float = 1e4


@dataclass(frozen=True, kw_only=True)
class SharpenSettings:
    """When bounds are found again where a row's bound leaves a counterexample possible (`native.cuts`).

    Attributes:
        share: a cut is used if the bound misses zero by at most this share of its own range over the box.
        gain: another follows if the last one brought the bound so much nearer to zero, as a share of what was missing.
        rounds: cuts, one after the other, at most.
        times: nothing is cut unless the time left is so many times what the bounds took: each cut takes some of that again.
    """

    share: float = 0.35
    gain: float = 0.08
    rounds: int = 8
    times: float = 20.0


@dataclass(frozen=True, kw_only=True)
class ReluSettings:
    """How the box is divided by ReLUs, and how their bounds are searched for.

    Attributes:
        root_steps, tighten_steps, refine_steps: of the ascents on the rows of a subproblem, on the neurons of the whole box, and
            on those of a subproblem.
        effort, harder, subproblem_effort: nodes of the searches for the bounds of a block's neurons: at first, by how much they
            grow from turn to turn, and in a subproblem.
        share, worth: a further turn of these searches is taken if it is expected to end within this share of the time
            left, and if the last one fixed so many of the unstable ReLUs.
        patience: share of the time left in which these searches may take more than their effort, while it pays.
        longest_refinement: where bounds take more work than this they are not found again, and there is one subproblem.
        lenience, lenience_at_first: see `SubproblemSearch.run`: for subproblems, and where the whole box's bounds will be searched
            for with more effort.
        tried_neurons, trial_steps, trial_root_steps: ReLUs that are tried before a subproblem is divided by one, and the steps of
            the ascents then, on neurons and on rows.
        neurons: how the bounds of neurons are searched for.
        subproblem: how a subproblem is searched.
        sharpen: when bounds that fail are used as cuts.
    """

    root_steps: int = 40
    tighten_steps: int = 20
    refine_steps: int = 4
    effort: int = 4000
    harder: int = 3
    subproblem_effort: int = 5000
    share: float = 0.35
    worth: float = 0.03
    patience: float = 0.25
    longest_refinement: float = 2.5e9
    lenience: float = 3.0
    lenience_at_first: float = 1.0
    tried_neurons: int = 8
    trial_steps: int = 2
    trial_root_steps: int = 10
    neurons: NeuronSearchSettings = NeuronSearchSettings()
    subproblem: SubproblemSettings = SubproblemSettings()
    sharpen: SharpenSettings = SharpenSettings()

    @staticmethod
    def impatient() -> ReluSettings:
        """Subproblems are given up at once, so that bounds are found anew again and again."""
        return ReluSettings(lenience=0.0, lenience_at_first=0.0, subproblem=SubproblemSettings(patience=0.0))


@dataclass(frozen=True, kw_only=True)
class ExactSettings:
    """When linear regions are looked at one by one in rational arithmetic; work is counted in `RegionSearch.work`.

    Attributes:
        neurons, inputs: networks of at most so many neurons, with at most so many inputs that vary, are also searched
            as a whole: few linear regions, most likely.
        at_once: steps of that search before the other begins.
        beside: steps of it for each box that the other examines meanwhile.
        few: boxes with at most so many undecided neurons are settled.
        per_box: steps after which such a box is given back to be split.
        earned: steps that each box examined earns: so many may be spent on boxes that were not settled in the end.
    """

    neurons: int = 40
    inputs: int = 64
    at_once: int = 20_000
    beside: int = 3
    few: int = 4
    per_box: int = 50_000
    earned: int = 500

    @staticmethod
    def never() -> ExactSettings:
        """Bounds in floats alone."""
        return ExactSettings(neurons=-1, few=-1)


@dataclass(frozen=True, kw_only=True)
class BoxSettings:
    """How boxes of the input are split.

    Attributes:
        batch: boxes that are examined together.
        step_seconds: time that a slice of them should take: deadlines are looked at in between.
        few_unstable: with at most this many unstable ReLUs a box is split on a ReLU.
        falsify_after, falsify_per_box: after so many boxes the search for counterexamples begins, and evaluates so many
            points for each box.
        spaces: how many half-spaces a box can carry.
        stuck: more boxes than this that are too small to be split end the search.
        numpy_boxes: boxes that are examined in numpy before compiled code is loaded, where both can.
        hit, tries: points whose rows are all below ``hit`` are replayed exactly, at most ``tries`` at once.
        first_slice: boxes of the first slice.
        narrow: boxes no wider than this, relative to the size of their ends, are not halved.
        cuts: what is spent on a box.
    """

    batch: int = 512
    step_seconds: float = 0.5
    few_unstable: int = 12
    falsify_after: int = 5000
    falsify_per_box: int = 10
    spaces: int = 12
    stuck: int = 10_000
    numpy_boxes: int = 100
    hit: float = 1e-9
    tries: int = 8
    first_slice: int = 64
    narrow: float = 1e-14
    cuts: CutSettings = CutSettings()


@dataclass(frozen=True, kw_only=True)
class CondensedSettings:
    """How boxes of a condensed network are searched.

    Attributes:
        batch: boxes between two looks at the clock.
        row_steps: of the ascent on the rows of a box.
        far, neuron_steps: where bounds miss the rows' values by more than so many times these values, many boxes would
            follow: then the slopes of all ReLUs' bounds are optimised in so many steps, once on the way to a box.
        near, few_neurons: where they miss them by less, or with at most so many unstable ReLUs, phases are searched.
        lenience: for as long as this many times the box's bounds took.
        look: seconds of the search for counterexamples once the bounds of the whole box have failed, at most.
    """

    batch: int = 4
    row_steps: int = 20
    far: float = 2.0
    neuron_steps: int = 6
    near: float = 1.2
    few_neurons: int = 400
    lenience: float = 2.0
    look: float = 3.0


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """How networks are searched whose neurons are bounded in windows.

    Attributes:
        sweep, rows: how neurons and rows are bounded.
        row_steps: of the ascent on the rows.
        look, longest_look: share of the time left, and seconds at most, of the search for counterexamples once bounds have
            failed.
        memory: share of the budget that open nodes may hold.
        steps, rate, decay: of the ascent on a node, the first step length of Adam, and what it shrinks by.
        leaf_steps, leaf_decay: the same where all phases are fixed.
        batch: nodes that are bounded together.
        candidates: neurons of a node that are tried before one is split.
        margin: a bound in float32 must be so far above zero to be tried in float64.
    """

    sweep: SweepSettings = SweepSettings()
    rows: RowSettings = RowSettings()
    row_steps: int = 40
    look: float = 0.25
    longest_look: float = 60.0
    memory: float = 0.25
    steps: int = 10
    rate: float = 0.1
    decay: float = 0.9
    leaf_steps: int = 300
    leaf_decay: float = 0.98
    batch: int = 16
    candidates: int = 4
    margin: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class CurvedSettings:
    """How networks with curved operators or jumps are searched.

    Attributes:
        share: of the time left, at most, that goes to the search for counterexamples before bounds.
        many, few: seconds of it, at most, where many inputs vary and where few do.
    """

    share: float = 0.5
    many: float = 200.0
    few: float = 0.5


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """What input splitting writes into a proof.

    Attributes:
        every: bounds are written at every so many divisions, and start from those.
        worth: a box is divided at the end of what is cut off it where that is more than this share.
        outward: and so far outside of it, as a share of the box.
        reserve: disjuncts are refuted with so many times the slack for rounding: the checker rounds otherwise.
    """

    every: int = 3
    worth: float = 0.5
    outward: float = 1e-6
    reserve: float = 4.0


@dataclass(frozen=True, kw_only=True)
class LatticeSettings:
    """How a lattice network's certificate is found.

    Attributes:
        most_leaves: of a box; networks that need more are no lattices.
        narrow: boxes are not divided below this share of the whole one.
    """

    most_leaves: int = 1 << 12
    narrow: float = 1e-9


@dataclass(frozen=True, kw_only=True)
class NativeSettings:
    """How the native engine works.

    Attributes:
        low_dimension: up to this many inputs that vary, boxes are split; above, ReLUs.
        boxes: how boxes are split.
        relu: how ReLUs are split.
        exact: when exact arithmetic takes over.
        record: what is written into a proof.
        condensed_from: from so many ReLUs on, a network of few inputs is condensed to those that are unstable.
        condensed: how boxes are searched then.
        carried_from: from so many neurons on, bounds of those of a curved network of few inputs are carried forward.
        many_disjuncts: from so many disjuncts on, each is bounded on its own box before a search carries what is left.
        disjuncts_together: boxes that are bounded together then, and between two looks at the clock.
        windows_from: from so many neurons on, a network of many inputs is bounded in windows.
        windows: how it is searched then.
        curved: how networks with curved operators are searched.
    """

    low_dimension: int = LOW_DIMENSION
    condensed_from: int = 5000
    condensed: CondensedSettings = CondensedSettings()
    carried_from: int = 1000
    windows_from: int = 30_000
    boxes: BoxSettings = BoxSettings()
    many_disjuncts: int = 64
    disjuncts_together: int = 256
    windows: WindowSettings = WindowSettings()
    curved: CurvedSettings = CurvedSettings()
    relu: ReluSettings = ReluSettings()
    exact: ExactSettings = ExactSettings()
    record: RecordSettings = RecordSettings()
