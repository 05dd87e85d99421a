"""What is imported when it is first used (start-up counts), and packages that are functions as well.

scipy.sparse: many small questions never need it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import scipy.sparse as sp
else:

    class _Sparse:
        @staticmethod
        def issparse(value: object) -> bool:
            """As scipy's; without scipy.sparse in memory nothing can be one of its arrays."""
            # another thread may be importing it: before it has this function it has no arrays
            look = getattr(sys.modules.get("scipy.sparse"), "issparse", None)
            return look is not None and look(value)

        def __getattr__(self, name: str) -> Any:
            import scipy.sparse

            return getattr(scipy.sparse, name)

    sp = _Sparse()

__all__ = ["CallablePackage", "callable_as", "sp"]


class CallablePackage(ModuleType):
    """A package that is called like the function it is named after: ``verifier.repair(…)`` is ``verifier.repair.repair(…)``.

    Python binds a package's name in its parent when it is imported, whatever stood there before: the name cannot be the
    function, so the package learns to be called.
    """

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self.__wrapped__(*args, **keywords)

    @property
    def __wrapped__(self) -> Any:
        """The function: `inspect.signature` follows it."""
        return getattr(self, self.__name__.rpartition(".")[2])


def callable_as(package: str) -> None:
    """Make a package, which has a function of its own name, callable as that function."""
    sys.modules[package].__class__ = CallablePackage
