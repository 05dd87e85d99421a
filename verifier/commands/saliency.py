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
    parser.add_argument("--epsilon", type=float, help="radius in input units")
    parser.add_argument("--delta", type=float, help="largest difference of a gradient entry")
    parser.add_argument(
        "--find",
        choices=("delta", "epsilon"),
        help="instead of one question: the largest δ for the ε, or the largest ε for the δ, that holds",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw x̂, the witness, their maps (.png, .svg)")
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
    from verifier.errors import InputError

    options = options_of(args)
    domain = domain_of(args.domain)
    network = verifier.load(args.model)
    x = read_array(args.input)
    if args.find:
        return _find(args, network, x, domain)
    for name in ("epsilon", "delta"):
        if getattr(args, name) is None:
            raise InputError(f"--{name} is missing", fix=f"give --{name}, or --find {name} to search it")
    query = verifier.saliency_robustness(network, x, args.epsilon, args.delta, args.label, domain=domain)
    verdict = verifier.verify(query, options=options, listener=progress_listener(args))
    if verdict.witness is not None:
        _draw(args, network, x, verdict.witness.input)
    return report(verdict, args, query.description)


def _find(args: argparse.Namespace, network: Any, x: Any, domain: tuple[float, float] | None) -> int:
    """Search the threshold; exit status 0 if the interval is closed on both sides, 3 if not."""
    from dataclasses import replace
    from math import isfinite

    from verifier.commands.common import options_of
    from verifier.errors import InputError
    from verifier.saliency import largest_delta, largest_epsilon

    given = "epsilon" if args.find == "delta" else "delta"
    if getattr(args, given) is None:
        raise InputError(f"--find {args.find} needs --{given}")
    options = options_of(args)
    if options.engine == "auto":
        options = replace(options, engine="saliency", prepass=False)
    search = largest_delta if args.find == "delta" else largest_epsilon
    how = {"label": args.label, "domain": domain, "timeout": options.timeout or 3600.0, "options": options}
    found = search(network, x, getattr(args, given), **how)
    if found.lower == float("inf"):
        print(f"holds for every {args.find}: no input in range has another label")
        return 0
    refuted = f"refuted from {found.upper:.9g} on" if isfinite(found.upper) else "no witness found above"
    print(f"{args.find}: holds up to {found.lower:.9g}, {refuted}")
    print(f"{found.questions} questions, {found.undecided} undecided")
    if found.witness is not None:
        _draw(args, network, x, found.witness.input)
    return 3 if found.undecided else 0


def _draw(args: argparse.Namespace, network: Any, x: Any, witness: Any) -> None:
    """The picture, if it is wanted."""
    if args.picture is None:
        return
    import numpy as np

    from verifier.report.saliency import picture

    label = int(np.argmax(network.forward(x))) if args.label is None else args.label
    picture(network, x, witness, label, args.picture)
