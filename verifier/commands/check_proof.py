"""``verifier check-proof PROOF MODEL PROPERTY``: check again what ``verifier verify --proof`` wrote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import add_model

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
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import dataclasses
    import json

    import verifier
    from verifier.commands.inputs import load_model
    from verifier.proofs import ProofError, load_proof
    from verifier.proofs.check import check_proof

    proof = load_proof(args.proof)
    query = verifier.read_vnnlib(args.property, load_model(args, ordered=True))
    try:
        checked = check_proof(proof, query)
    except ProofError as error:
        if args.json:
            print(json.dumps({"right": False, "problem": str(error)}))
        else:
            print(f"the proof is not right: {error}")
        return 1
    if args.json:
        print(json.dumps({"right": True, "method": proof.method, **dataclasses.asdict(checked)}))
    else:
        print(f"the proof is right: no input of the set meets the property ({proof.method})")
        print(f"  {checked.leaves} leaves, {checked.certificates} certificates, {checked.records} sets of bounds")
        print(f"  least bound of a certificate {checked.margin:.3g}, checked in {checked.seconds:.2f} s")
    return 0
