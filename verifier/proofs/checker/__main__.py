"""``python -m checker PROOF NETWORK [PROPERTY]``: 0 the proof is right, 1 it is not, 2 something cannot be read."""

from __future__ import annotations

import sys

from .check import check
from .evaluate import ProofError
from .graph import CheckError


def main(arguments: list[str]) -> int:
    """Check and say so."""
    if len(arguments) not in (2, 3):
        print("usage: checker PROOF NETWORK [PROPERTY]", file=sys.stderr)
        return 2
    try:
        report = check(arguments[0], arguments[1], arguments[2] if len(arguments) > 2 else None)
    except ProofError as error:
        print(f"the proof is not right: {error}")
        return 1
    except (CheckError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
