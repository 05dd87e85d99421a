"""``verifier check-proof PROOF MODEL PROPERTY``: check a certificate by the checker that stands alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import add_json

    parser = subparsers.add_parser(
        "check-proof",
        description="Check that a certificate shows a property of a network to hold, on the ONNX file and the property's "
        "text themselves: that its parts cover the input set, and that every case is refuted on every part, by bounds "
        "computed anew with their rounding counted. Nothing of the search is used.",
        epilog="exit status: 0 the certificate is right, 1 it is not (it says where), 2 bad usage or input",
    )
    parser.add_argument("proof", type=Path, metavar="PROOF", help="file that `verifier verify --proof` wrote")
    parser.add_argument("model", type=Path, metavar="MODEL", help=".onnx or .onnx.gz")
    parser.add_argument(
        "property",
        type=Path,
        nargs="?",
        metavar="PROPERTY",
        help=".vnnlib or .vnnlib.gz, or a statement as JSON (default: the statement that the certificate carries)",
    )
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (default: one for each processor)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    import dataclasses

    from verifier.commands.result import Result
    from verifier.proofs.checking import ProofError, check_proof

    files = {args.model: "network", args.property: "", args.proof: ""}
    try:
        report = check_proof(args.proof, args.model, args.property, args.jobs)
    except ProofError as error:
        found: dict[str, Any] = {"right": False, "problem": str(error)}
        return Result(text=f"the proof is not right: {error}", found=found, status=1, files=files)
    margin = report.margin if report.margin < float("inf") else None  # all of it in rational arithmetic
    return Result(text=str(report), found={"right": True, **dataclasses.asdict(report), "margin": margin}, files=files)
