"""``verifier saliency MODEL --input x.npy --epsilon E --delta D``: saliency robustness (Le et al., ACML 2023)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.common import add_solving_arguments

    parser = subparsers.add_parser(
        "saliency",
        help="do inputs with a similar gradient map keep the label?",
        description="Saliency robustness: does every input within EPSILON (L∞) of the given one, whose vanilla "
        "gradient differs by at most DELTA in every entry, keep the label?",
        epilog="exit status: 0 holds, 1 violated, 2 bad usage or input, 3 unknown, 4 time-out, 5 error",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help=".onnx, .onnx.gz or .nnet")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="x̂: .npy, or numbers in text")
    parser.add_argument("--epsilon", type=float, required=True, help="radius in input units")
    parser.add_argument("--delta", type=float, required=True, help="largest difference of a gradient entry")
    parser.add_argument("--label", type=int, help="the label to keep (default: the network's own at x̂)")
    parser.add_argument(
        "--domain",
        default="0,1",
        metavar="LOW,HIGH",
        help="inputs are cut to this interval (default 0,1: images); 'none' for no cut; write --domain=-1,1",
    )
    add_solving_arguments(parser)
    parser.set_defaults(run=run)


def domain_of(text: str) -> tuple[float, float] | None:
    """The interval that ``LOW,HIGH`` says; None for "none".

    Raises:
        InputError: anything else, or LOW > HIGH.
    """
    from verifier.errors import InputError

    if text.lower() == "none":
        return None
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"domain {text!r} is not LOW,HIGH", fix="write --domain=0,1 or --domain=none") from None
    if not low <= high:
        raise InputError(f"domain {text!r}: {low:g} is above {high:g}")
    return low, high


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import verifier
    from verifier.commands.common import options_of, progress_listener, read_array, report

    options = options_of(args)
    domain = domain_of(args.domain)
    network = verifier.load(args.model)
    query = verifier.saliency_robustness(
        network, read_array(args.input), args.epsilon, args.delta, args.label, domain=domain
    )
    verdict = verifier.verify(query, options=options, listener=progress_listener(args))
    return report(verdict, args, query.description)
