"""Very large networks of many inputs: bounds in windows, then optimised slopes for the rows, and a look for witnesses.

`bounds.structured.sweep` bounds all neurons that the condition depends on, in the memory that is allowed; most questions
that can be decided at such sizes are decided by that. What is left goes to ReLU splitting with these bounds
(`window_split`). What does not fit in memory is UNKNOWN, with the number that would have fitted.
"""

from __future__ import annotations

import time

import numpy as np

from verifier.bab import Ending
from verifier.bounds.structured.backward import backend_for
from verifier.bounds.structured.rows import RowBounds
from verifier.bounds.structured.sweep import Sweep
from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.settings import WindowSettings
from verifier.errors import MemoryLimitError, TimeLimitError
from verifier.events import Listener, Note
from verifier.falsify.falsifier import Falsifier
from verifier.falsify.search import FalsifierSettings
from verifier.limits import Deadline, MemoryBudget
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.verdict import Certainty


class WindowSearch:
    """One search.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; α-CROWN: Xu et al., ICLR 2021, Section 3; β-CROWN:
        Wang et al., NeurIPS 2021, Theorem 3.1.
    """

    def __init__(
        self, query: Query, conditions: Conditions, options: Options, settings: WindowSettings = WindowSettings()
    ) -> None:
        self.query, self.conditions, self.options, self.settings = query, conditions, options, settings

    def run(self, deadline: Deadline, listener: Listener) -> EngineResult:
        """Decide the query by bounds or a witness, or say what stopped it."""
        began, conditions = time.monotonic(), self.conditions
        try:
            sweep = Sweep(
                self.query.network,
                self.query.box,
                np.asarray(conditions.y_rows.any(axis=0)),
                backend=backend_for(self.query.network, self.query.box, self.options.device),
                memory=MemoryBudget.of(self.options.memory),
                deadline=deadline,
                threads=self.options.threads,
                settings=self.settings.sweep,
            )
            values = sweep.run()
            open_ = sum(int(sweep.open(values[n.inputs[0]], n.inputs[0]).sum()) for n in self.query.network.activations)
            text = f"{open_} of {self.query.network.neurons} neurons are unstable and matter"
            listener(Note(seconds=time.monotonic() - began, text=text))
            rows = RowBounds(sweep, conditions.y_rows, conditions.x_rows, conditions.bound, self.settings.rows)
            lower = rows.lower()
            if self._left(lower):
                lower = np.maximum(lower, rows.optimised(self.settings.row_steps))
        except TimeLimitError as error:
            return EngineResult(answer=Answer.TIMEOUT, reason=str(error))
        except MemoryLimitError as error:
            return EngineResult(answer=Answer.UNKNOWN, reason=str(error))
        left = self._left(lower)
        statistics: dict[str, float | int | str] = {"method": "bounds in windows", "unstable": open_}
        if not left:
            return EngineResult(answer=Answer.UNSAT, certainty=Certainty.RIGOROUS, statistics=statistics)
        if self.options.prepass and not deadline.passed:
            most = min(deadline.left * self.settings.look, self.settings.longest_look)
            falsifier = Falsifier(FalsifierSettings(most=most))
            witness = falsifier.run(self.query, deadline, seed=self.options.seed + 1, listener=listener)
            if witness is not None:
                return EngineResult(answer=Answer.SAT, x=witness, statistics=statistics)
        from verifier.engines.native.window_split import WindowSplit

        best = [int(members[lower[members].argmax()]) for members in map(conditions.members, left)]
        memory = self.settings.memory * MemoryBudget.of(self.options.memory).limit
        split = WindowSplit(rows, self.settings)
        found = split.run({row: float(lower[row]) for row in best}, memory, deadline, listener)
        statistics["nodes"] = found.done
        if found.ending is Ending.PROVED:
            return EngineResult(answer=Answer.UNSAT, certainty=Certainty.RIGOROUS, statistics=statistics)
        reason = f"{found.reason}; {found.left} nodes left, the lowest bound is {found.worst:.3g}"
        answer = Answer.TIMEOUT if found.late else Answer.UNKNOWN
        return EngineResult(answer=answer, reason=reason, statistics=statistics)

    def _margins(self, lower: Array) -> Array:
        """The best row of each disjunct."""
        best = np.full(self.conditions.disjuncts, -np.inf)
        np.maximum.at(best, self.conditions.disjunct_of, lower)
        return best

    def _left(self, lower: Array) -> list[int]:
        """The disjuncts that no row refutes."""
        return np.flatnonzero(~(self._margins(lower) > 0)).tolist()
