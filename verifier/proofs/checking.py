"""`check_proof`: the stand-alone checker from within the package, with the package's errors."""

from __future__ import annotations

import multiprocessing
import os
import time
from os import PathLike
from pathlib import Path
from typing import Any

from verifier.arguments import checked
from verifier.errors import InputError, VerifierError
from verifier.proofs.checker import evaluate
from verifier.proofs.checker.check import Report, check
from verifier.proofs.checker.graph import CheckError

SMALL = 4000
"""Bytes of a certificate that is not worth a second process."""


class ProofError(VerifierError):
    """A certificate that does not prove what it says."""


@checked
def check_proof(
    proof: str | PathLike[str],
    network: str | PathLike[str],
    property_file: str | PathLike[str] | None = None,
    jobs: int = 0,
) -> Report:
    """Check a certificate by the stand-alone checker: that no input meets the property's condition.

    Args:
        proof: the certificate's file (`Verdict.proof`, ``verifier verify --proof``).
        network: the ONNX file that it is about.
        property_file: the VNN-LIB file, or a statement of our own kinds as JSON; None: the statement that the certificate
            carries, which `Report.words` sums up.
        jobs: processes that share the work; 0: as many as there are processors.

    Raises:
        ProofError: the certificate does not prove it; says where.
        InputError: a file cannot be read.

    Example:
        >>> import verifier
        >>> verifier.check_proof("no.proof", "net.onnx", "p.vnnlib")
        Traceback (most recent call last):
        ...
        verifier.errors.InputError: no.proof: cannot be read: No such file or directory
    """
    try:
        return _together(str(proof), str(network), None if property_file is None else str(property_file), jobs)
    except evaluate.ProofError as error:
        raise ProofError(str(error), place=str(proof)) from None
    except CheckError as error:
        raise InputError(str(error), place=str(proof)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", place=str(error.filename)) from None


def _share(job: tuple[Any, ...]) -> Report | CheckError | OSError:
    try:
        return check(*job)
    except (CheckError, OSError) as error:
        return error


def _together(proof: str, network: str, property_file: str | None, jobs: int) -> Report:
    """The check by several processes (0: as many as there are processors), each of which evaluates a share of the refutations."""
    began, jobs = time.monotonic(), jobs or os.cpu_count() or 1
    if jobs == 1 or Path(proof).stat().st_size < SMALL:
        return check(proof, network, property_file)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        found = pool.map(_share, [(proof, network, property_file, (k, jobs)) for k in range(jobs)], 1)
    good = [report for report in found if isinstance(report, Report)]
    for report in found:
        if not isinstance(report, Report):
            raise report
    good[0].margin, good[0].seconds = min(r.margin for r in good), time.monotonic() - began
    return good[0]
