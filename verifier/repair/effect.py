"""What a repair changes, and what it does elsewhere: labels that changed on data and over other planes (drawdown)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.network.operators import Array
from verifier.repair.frozen import CHUNK, FrozenNetwork, parameter_label, parameters
from verifier.shown import Shown


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Drawdown(Shown):
    """How labels changed on a data set.

    Attributes:
        total: number of inputs.
        changed: inputs whose label is another after the repair.
        right_before, right_after: inputs with the true label; None if no labels were given.
        before, after: ``(total,)`` the labels that both networks give.
    """

    total: int
    changed: int
    right_before: int | None = None
    right_after: int | None = None
    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {"labels changed": f"{self.changed:,} of {self.total:,} inputs"}
        if self.right_before is not None and self.right_after is not None:
            before, after = self.right_before / self.total, self.right_after / self.total
            facts["accuracy"] = f"{before:.2%} before, {after:.2%} after"
        return "Drawdown", facts

    @property
    def drawdown(self) -> float | None:
        """Accuracy lost, as a fraction of all inputs; negative if gained; None without labels."""
        if self.right_before is None or self.right_after is None:
            return None
        return (self.right_before - self.right_after) / self.total


@checked
def drawdown(
    frozen: FrozenNetwork, inputs: Array, labels: npt.ArrayLike | None = None, *, largest: bool = True
) -> Drawdown:
    """Compare the labels of the original and the repaired network on a data set (Sotoudeh, Thakur, 2019, Section 6).

    Args:
        inputs: ``(batch, *input_shape)`` or flat.
        labels: true labels ``(batch,)``, if known.
        largest: whether the label is the largest output (else the smallest, as in ACAS Xu).

    Raises:
        InputError: inputs that do not fit the network.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Section 6; the word: Sotoudeh, Thakur, PLDI 2021.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> wanted = verifier.Requirement(verifier.LineRegion([0.4, 0.5], [0.2, 0.5]), verifier.output_class(2, 0, margin=0.1))
        >>> result = verifier.repair(network, verifier.Specification((wanted,)))
        >>> verifier.drawdown(result.frozen, np.array([[0.3, 0.5]]), [0]).changed
        1
    """
    return label_changes(frozen.network.forward, frozen.forward, inputs, labels, largest=largest)


def label_changes(
    before: Callable[[Array], Array],
    after: Callable[[Array], Array],
    inputs: Array,
    labels: npt.ArrayLike | None = None,
    *,
    largest: bool = True,
) -> Drawdown:
    """As `drawdown`, of any two functions from inputs ``(batch, …)`` to outputs ``(batch, …)``.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Section 6: drawdown.
    """
    pick = np.argmax if largest else np.argmin
    parts = [inputs[start : start + CHUNK] for start in range(0, len(inputs), CHUNK)]
    old, new = (
        np.concatenate([pick(network(part).reshape(len(part), -1), axis=1) for part in parts])
        for network in (before, after)
    )
    truth = None if labels is None else np.asarray(labels)
    return Drawdown(
        total=len(old),
        changed=int((old != new).sum()),
        right_before=None if truth is None else int((old == truth).sum()),
        right_after=None if truth is None else int((new == truth).sum()),
        before=old,
        after=new,
    )


def changes(before: FrozenNetwork, after: FrozenNetwork) -> dict[str, float]:
    """Every weight that differs: ``{"layer weight[i, j]": δ}``."""
    found = {}
    for layer in after.patches:
        old, new = before.operator(before.network[layer]), after.operator(after.network[layer])
        difference: Array = parameters(new) - parameters(old)
        for k in np.flatnonzero(difference):
            found[f"{layer} {parameter_label(new, int(k))}"] = float(difference[k])
    return found
