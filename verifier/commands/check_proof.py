"""``verifier check-proof PROOF MODEL PROPERTY``: check again what ``verifier verify --proof`` wrote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import add_json, add_model

    parser = subparsers.add_parser(
        "check-proof",
        help="check a proof that `verify --proof` wrote",
        description="Check that a proof shows a VNN-LIB property of a network to hold: that its parts cover the input "
        "set, and that every case is refuted on every part, by bounds computed anew with their rounding counted. "
        "Nothing of the search is used.",
        epilog="exit status: 0 the proof is right, 1 it is not (it says where), 2 bad usage or input",
    )
    parser.add_argument("proof", type=Path, metavar="PROOF", help="file that `verifier verify --proof` wrote")
    add_model(parser)
    parser.add_argument("property", type=Path, metavar="PROPERTY", help=".vnnlib or .vnnlib.gz")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    import dataclasses

    import verifier
    from verifier.commands.inputs import load_model
    from verifier.commands.result import Result

    proof = verifier.load_proof(args.proof)
    query = verifier.read_vnnlib(args.property, load_model(args, ordered=True))
    common: dict[str, Any] = {
        "network": query.network,
        "question": query.description,
        "files": {args.property: "", args.proof: ""},
    }
    try:
        checked = verifier.check_proof(proof, query)
    except verifier.ProofError as error:
        found = {"right": False, "problem": str(error)}
        return Result(text=f"the proof is not right: {error}", found=found, status=1, **common)
    lines = [
        f"the proof is right: no input of the set meets the property ({proof.method})",
        f"  {checked.leaves} leaves, {checked.certificates} certificates, {checked.records} sets of bounds",
        f"  least bound of a certificate {checked.margin:.3g}, checked in {checked.seconds:.2f} s",
    ]
    found = {"right": True, "method": proof.method, **dataclasses.asdict(checked)}
    return Result(text="\n".join(lines), found=found, **common)
