"""Compute the corpus's verdicts by enumeration: ``python tests/corpus/regenerate.py`` (some minutes)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus_cases import VERDICTS, cases
from corpus_oracle import decide


def main() -> None:
    """Decide every case, closed and by the convention, and write ``verdicts.json``."""
    known = json.loads(VERDICTS.read_text()) if VERDICTS.exists() and "--all" not in sys.argv else {}
    verdicts: dict[str, list[str]] = {}
    for case in cases():
        began = time.monotonic()
        if case.digest in known:
            verdicts[case.digest] = known[case.digest]
            continue
        closed = decide(case.query, closed=True)
        # the closed reading is a superset: where it has no witness, the convention has none
        convention = closed and decide(case.query)
        verdicts[case.digest] = ["sat" if found else "unsat" for found in (convention, closed)]
        print(case.name, *verdicts[case.digest], f"{time.monotonic() - began:.2f} s", flush=True)
    VERDICTS.write_text("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in verdicts.items()) + "\n}\n")


if __name__ == "__main__":
    main()
