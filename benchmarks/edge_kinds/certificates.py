"""Certificates of what was proved, through files, by the checker that stands alone: accepted if and only if they should be."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edge_kinds.kind import Kind, Outcome, Trial
from edge_kinds.paths import NATIVE, random_case

import verifier
from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine
from verifier.limits import Deadline
from verifier.network.onnx_writer import write_onnx
from verifier.proofs.checking import ProofError
from verifier.proofs.writer import finish
from verifier.properties.vnnlib1 import write

PATHS = [name for name, (_, options) in NATIVE.items() if options.proof]


def _trials(seed: int) -> Iterator[Trial]:
    case = random_case(seed, short=True)
    truth, name = case.violated(), PATHS[seed % len(PATHS)]
    settings, options = NATIVE[name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "n.onnx"), Path(folder, "p.vnnlib")
        write_onnx(case.query.network, files[0])
        files[1].write_text(write(case.query))
        query = verifier.read_vnnlib(files[1], verifier.load(files[0]))
        found = NativeEngine(settings).solve(query, options, Deadline.after(options.timeout))
        outcome, detail = Outcome.UNDECIDED, f"{found.answer.name} {found.reason} (truth: {truth})"
        if found.answer is Answer.SAT:
            outcome = Outcome.RIGHT if truth else Outcome.WRONG
        elif found.answer is Answer.UNSAT:
            assert found.proof is not None
            finish(query, found.proof, "native").save(Path(folder, "c"))
            try:
                verifier.check_proof(Path(folder, "c"), *files, jobs=1)
                outcome = Outcome.WRONG if truth else Outcome.RIGHT
            except ProofError as error:
                outcome, detail = Outcome.WRONG, f"refused: {error}"
    yield Trial(engine=name, outcome=outcome, seconds=time.monotonic() - began, detail=f"seed {seed}: {detail}")


KINDS = [
    Kind(
        name="certificates",
        what="proofs of the native engine by boxes and by ReLUs, written to files and checked alone; the truth is that of the "
        "network's enumerated regions, and bounds lie beside the least value",
        run=_trials,
        cost=0.1,
    ),
]
