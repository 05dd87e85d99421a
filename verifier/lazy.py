"""scipy.sparse, imported when it is first used: start-up counts, and many small questions never need it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import scipy.sparse as sp
else:

    class _Sparse:
        @staticmethod
        def issparse(value: object) -> bool:
            """As scipy's; without scipy.sparse in memory nothing can be one of its arrays."""
            module = sys.modules.get("scipy.sparse")
            return module is not None and module.issparse(value)

        def __getattr__(self, name: str) -> Any:
            import scipy.sparse

            return getattr(scipy.sparse, name)

    sp = _Sparse()

__all__ = ["sp"]
