"""How results show themselves: one line in a list, five lines in a print, a table and a picture in a notebook.

A class says what there is to know of its objects (`Shown._facts`) and which function draws them (`Shown._drawn_by`). The
drawing lives in `verifier.report`, above all results: it is named here and loaded when somebody wants to see something.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

MOST_LINES = 5
"""Lines of a print."""


class Shown:
    """What is printed of an object, and how it is drawn."""

    _drawn_by: ClassVar[str] = ""
    """``"module:function"`` that takes the object and returns a matplotlib figure; "" for what has no picture."""

    def _facts(self) -> tuple[str, dict[str, str]]:
        """A headline, and at most four facts in a few words each."""
        return type(self).__name__, {}

    def __repr__(self) -> str:
        title, facts = self._facts()
        return f"<{', '.join([title, *(f'{name} {fact}' for name, fact in facts.items())])}>"

    def __str__(self) -> str:
        title, facts = self._facts()
        width = max(map(len, facts), default=0)
        return "\n".join([title, *(f"  {name:<{width}}  {fact}" for name, fact in facts.items())][:MOST_LINES])

    def _repr_html_(self) -> str:
        """What a notebook shows: the facts as a table, and the picture where there is one."""
        return str(named("verifier.report.html:card")(self))

    def plot(self, **how: Any) -> Any:
        """Draw it.

        Args:
            how: as the function of `verifier.report` takes them that draws this class.

        Returns:
            a ``matplotlib.figure.Figure``; a notebook shows it, ``.savefig("picture.png")`` writes it.

        Raises:
            InputError: it has no picture, or matplotlib is not installed.
        """
        from verifier.errors import InputError
        from verifier.extras import lacking

        if not self._drawn_by:
            raise InputError(f"a {type(self).__name__} has no picture")
        try:
            return named(self._drawn_by)(self, **how)
        except ModuleNotFoundError as error:
            raise lacking(error.name) or error from None


def named(place: str) -> Any:
    """What ``"module:name"`` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
