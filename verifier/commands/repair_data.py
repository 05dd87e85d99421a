"""The inputs on which ``verifier repair`` tells what a repair does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verifier.network.graph import Network
    from verifier.network.operators import Array
    from verifier.repair import Drawdown


class Data:
    """The inputs on which the effect of a repair is told.

    Attributes:
        reader: that read them.
        images, labels: in the data's units, ``(N, n)``, and the true labels; None where none are given.
    """

    def __init__(self, args: argparse.Namespace, network: Network) -> None:
        from verifier.commands.inputs import Reader, read_data

        self.network, self.specification, self.reader = network, args.specification, Reader(args, network)
        self.images: Array | None = None
        self.labels: Array | None = None
        if args.data is not None:
            self.images, self.labels = read_data(args.data, self.reader)

    @property
    def files(self) -> dict[Path, str]:
        """The files that the question is made of, with what was done to their numbers."""
        return {self.specification: "", **self.reader.files}

    def effect(self, after: Callable[[Array], Array]) -> Drawdown | None:
        """How labels change from the network's to another function's; None without data."""
        from verifier.repair.effect import label_changes

        if self.images is None:
            return None
        given = self.reader.normalisation.apply(self.images)
        return label_changes(self.network.forward, after, given, self.labels)
