"""``verifier verify MODEL PROPERTY``: decide a VNN-LIB property of a network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.common import add_solving_arguments

    parser = subparsers.add_parser(
        "verify",
        help="decide a property file about a network",
        description="Decide a VNN-LIB property (1.0 or 2.0, gz too) of a network. The file describes "
        "counterexamples: HOLDS means that none exists, VIOLATED shows one.",
        epilog="exit status: 0 holds, 1 violated, 2 bad usage or input, 3 unknown, 4 time-out, 5 error",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help=".onnx, .onnx.gz or .nnet")
    parser.add_argument("property", type=Path, metavar="PROPERTY", help=".vnnlib or .vnnlib.gz")
    add_solving_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import verifier
    from verifier.commands.common import options_of, progress_listener, report

    options = options_of(args)
    network = verifier.load(args.model)
    query = verifier.read_vnnlib(args.property, network)
    verdict = verifier.verify(query, options=options, listener=progress_listener(args))
    return report(verdict, args, query.description)
