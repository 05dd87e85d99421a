"""``verifier verify MODEL PROPERTY``: decide a VNN-LIB property of a network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result
    from verifier.network.graph import Network
    from verifier.properties.query import Query


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import VERDICT_STATUS, a_file, add_model, add_solving_arguments

    parser = subparsers.add_parser(
        "verify",
        description="Decide a VNN-LIB property (1.0 or 2.0, gz too) of a network. The file describes "
        "counterexamples: HOLDS means that none exists, VIOLATED shows one.",
        epilog=VERDICT_STATUS,
    )
    add_model(parser, nargs="?")
    parser.add_argument(
        "--network", type=_named, action="append", default=[], metavar="NAME=FILE",
        help="the network that a file of VNN-LIB 2.0 calls NAME, in place of MODEL; once for each",
    )  # fmt: skip
    parser.add_argument("property", type=Path, metavar="PROPERTY", help=".vnnlib or .vnnlib.gz")
    parser.add_argument(
        "--proof", type=a_file, metavar="FILE", help="if it holds, write a certificate for `verifier check-proof`"
    )
    add_solving_arguments(parser)
    parser.set_defaults(run=run)


def _named(text: str) -> tuple[str, Path]:
    """``NAME=FILE``."""
    name, sign, file = text.partition("=")
    if not (name and sign and file):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, Path(file)


def _networks(args: argparse.Namespace, ordered: bool) -> Network | dict[str, Network]:
    """The model, or the named networks; ``ordered`` as in `verifier.load`.

    Raises:
        InputError: both, neither, or a name twice.
    """
    from verifier.commands.inputs import load_model
    from verifier.errors import InputError
    from verifier.network.loading import load

    if not args.network:
        if args.model is None:
            raise InputError("no network is named", fix="verifier verify MODEL PROPERTY, or --network NAME=FILE")
        return load_model(args, ordered=ordered)
    if args.model is not None or args.input_shape is not None:
        raise InputError("a MODEL or --input-shape beside --network", fix="name all networks by --network NAME=FILE")
    names = [name for name, _ in args.network]
    if len(set(names)) < len(names):
        raise InputError(f"--network names {max(names, key=names.count)!r} twice")
    alone = ordered and len(args.network) == 1
    return {name: load(file, check=args.check_model, ordered=alone) for name, file in args.network}


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    from dataclasses import replace

    from verifier.commands.arguments import options_of
    from verifier.commands.console import say
    from verifier.commands.deciding import decide, result_of
    from verifier.properties.vnnlib import asked_of

    options = replace(options_of(args), proof=args.proof or False)

    def question() -> Query:
        return asked_of(args.property, lambda ordered: _networks(args, ordered))

    verdict, query = decide(args, question, options)
    if verdict.proof is not None and not args.quiet:
        say(f"{args.proof}: a certificate of {len(verdict.proof.data):,} bytes, for `verifier check-proof`")
    files = {args.property: "", **{file: f"network {name}" for name, file in args.network or ()}}
    return result_of(verdict, query, args, files=files)
