"""Decide all cases of the corpus again by enumeration: ``python tests/corpus/regenerate.py`` (some minutes)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus_cases import FILE, cases, line
from corpus_oracle import verdicts


def main() -> None:
    """Decide every case, closed and by the convention; write the file anew and name what changed."""
    lines, changed = [], 0
    for case in cases():
        began = time.monotonic()
        found = verdicts(case.query)
        lines.append(line(case.name, case.query, found))
        if found != (case.verdict, case.closed_verdict):
            changed += 1
            print(case.name, case.verdict, case.closed_verdict, "->", *found, f"{time.monotonic() - began:.2f} s")
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} cases, {changed} verdicts changed")


if __name__ == "__main__":
    main()
