"""`check_proof`: the stand-alone checker from within the package, with the package's errors."""

from __future__ import annotations

from os import PathLike

from verifier.arguments import checked
from verifier.errors import InputError, VerifierError
from verifier.proofs.checker import check, stream
from verifier.proofs.checker.check import Report
from verifier.proofs.checker.graph import CheckError


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
        return check.check_together(
            str(proof), str(network), None if property_file is None else str(property_file), jobs
        )
    except stream.ProofError as error:
        raise ProofError(str(error), place=str(proof)) from None
    except CheckError as error:
        raise InputError(str(error), place=str(proof)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", place=str(error.filename)) from None
