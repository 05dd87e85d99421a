"""``verifier saliency MODEL --input x.npy --epsilon E --delta D``: saliency robustness (Le et al., ACML 2023)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.properties.builders import Domain
    from verifier.properties.query import Query


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import (
        a_picture,
        add_model,
        add_scale,
        add_solving_arguments,
        natural,
        nonnegative,
    )  # fmt: skip

    parser = subparsers.add_parser(
        "saliency",
        help="do inputs with a similar gradient map keep the label?",
        description="Saliency robustness: does every input within EPSILON (L∞) of the given one, whose saliency map "
        "is similar (by default: its vanilla gradient differs by at most DELTA in every entry), keep the label?",
        epilog="exit status: 0 holds, 1 violated, 2 bad usage or input, 3 unknown, 4 time-out, 5 error",
    )
    add_model(parser)
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="x̂: .png, .npy, .npz or text")
    add_scale(parser)
    parser.add_argument("--epsilon", type=nonnegative, help="radius in input units")
    parser.add_argument("--delta", type=nonnegative, help="largest difference of a gradient entry")
    parser.add_argument(
        "--find",
        choices=("delta", "epsilon"),
        help="instead of one question: the largest δ for the ε, or the largest ε for the δ, that holds",
    )
    parser.add_argument(
        "--picture", type=a_picture, metavar="FILE", help="draw x̂, the witness, their maps (.png, .svg)"
    )
    parser.add_argument("--label", type=natural, help="the label to keep (default: the network's own at x̂)")
    parser.add_argument(
        "--domain",
        default="network",
        metavar="LOW,HIGH",
        help="inputs are cut to this interval; 'network' (default): a .nnet file's own ranges, else 0,1 as for images; "
        "'none': no cut; write --domain=-1,1",
    )
    _add_map_arguments(parser)
    add_solving_arguments(parser)
    parser.set_defaults(run=run)


def _add_map_arguments(parser: argparse.ArgumentParser) -> None:
    from verifier.commands.arguments import count, natural, positive
    from verifier.properties import maps, similarity

    group = parser.add_argument_group("map and similarity")
    group.add_argument("--map", choices=maps.NAMES, default="gradient", help="the saliency map (default gradient)")
    group.add_argument(
        "--similarity",
        choices=similarity.NAMES,
        default="linf",
        help="norm of the maps' difference that is at most DELTA; top-k: the same K largest entries (default linf)",
    )
    group.add_argument("--top-k", type=count, metavar="K", help="for top-k; DELTA is 0 by default then")
    group.add_argument("--other", type=natural, help="for --map difference: the other output (default: the runner-up)")
    group.add_argument("--baseline", type=Path, metavar="FILE", help="for integrated gradients (default: zeros)")
    group.add_argument("--steps", type=count, help="for --map integrated: points of the midpoint rule (8)")
    group.add_argument("--samples", type=count, help="for --map smooth: noise vectors (8), from --seed")
    group.add_argument("--sigma", type=positive, help="for --map smooth: standard deviation (0.1)")


_FOR_MAPS = (
    (("difference",), "other"),
    (("integrated", "integrated-exact"), "baseline"),
    (("integrated",), "steps"),
    (("smooth",), "samples"),
    (("smooth",), "sigma"),
)
"""Which maps an option is for."""


def _map_of(args: argparse.Namespace, network: Any) -> dict[str, Any]:
    """The arguments of `verifier.saliency_robustness` that choose map and similarity."""
    from verifier.commands.arguments import refuse
    from verifier.commands.inputs import read_input
    from verifier.properties.maps import named_map

    refuse(args, f"on --map {args.map}", *(name for maps, name in _FOR_MAPS if args.map not in maps))
    if args.similarity != "top-k":
        refuse(args, f"on --similarity {args.similarity}", "top-k")
    chosen = named_map(
        args.map,
        network.input_size,
        other=args.other,
        baseline=None if args.baseline is None else read_input(args.baseline, network, args.scale),
        steps=args.steps or 8,
        samples=args.samples or 8,
        sigma=args.sigma or 0.1,
        seed=args.seed,
    )
    return {"map": chosen, "similarity": args.similarity, "top_k": args.top_k or 0}


def domain_of(text: str) -> Domain:
    """The interval that ``LOW,HIGH`` says; None for "none"; "network" for itself.

    Raises:
        InputError: anything else, or LOW > HIGH.
    """
    from verifier.errors import InputError

    if text.lower() == "network":
        return "network"
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
    from verifier.commands.arguments import options_of
    from verifier.commands.deciding import decide
    from verifier.commands.inputs import load_model, read_input
    from verifier.commands.verdicts import report
    from verifier.errors import InputError

    options = options_of(args)
    domain = domain_of(args.domain)
    network = load_model(args)
    x = read_input(args.input, network, args.scale)
    if args.similarity == "top-k" and args.delta is None and args.find != "delta":
        args.delta = 0.0
    how = {"label": args.label, "domain": domain, **_map_of(args, network)}
    if args.find:
        return _find(args, network, x, how)
    for name in ("epsilon", "delta"):
        if getattr(args, name) is None:
            raise InputError(f"--{name} is missing", fix=f"give --{name}, or --find {name} to search it")

    def question() -> Query:
        return verifier.saliency_robustness(network, x, epsilon=args.epsilon, delta=args.delta, **how)

    verdict, description = decide(args, question, options)
    status = report(verdict, args, description)
    if verdict.witness is not None:
        _draw(args, network, x, verdict.witness.input, how)
    return status


def _find(args: argparse.Namespace, network: Any, x: Any, how: dict[str, Any]) -> int:
    """Search the threshold; exit status 0 if nothing stayed undecided, 3 if something did."""
    import json
    from math import isfinite

    from verifier.commands.arguments import options_of, refuse
    from verifier.commands.console import progress_listener
    from verifier.commands.deciding import clock
    from verifier.commands.verdicts import write_witness
    from verifier.errors import InputError
    from verifier.saliency import largest_delta, largest_epsilon

    given = "epsilon" if args.find == "delta" else "delta"
    refuse(args, f"with --find {args.find}, which searches it", args.find)
    if getattr(args, given) is None:
        raise InputError(f"--find {args.find} needs --{given}")
    options = None if args.engine == "auto" else options_of(args)
    search = largest_delta if args.find == "delta" else largest_epsilon
    listener = progress_listener(args.quiet)
    with clock(args):
        found = search(
            network, x, getattr(args, given), timeout=args.timeout, options=options, listener=listener, **how
        )
    if found.witness is not None:
        _draw(args, network, x, found.witness.input, how)
        if args.witness is not None:
            write_witness(args.witness, found.witness.input)
    if args.json:
        record = {
            "find": args.find,
            given: getattr(args, given),
            "holds_up_to": found.lower if isfinite(found.lower) else None,
            "refuted_from": found.upper if isfinite(found.upper) else None,
            "no_other_label_in_range": found.lower == float("inf"),
            "witness": None if found.witness is None else found.witness.input.tolist(),
            "questions": found.questions,
            "undecided": found.undecided,
        }
        print(json.dumps(record, indent=2))
    elif found.lower == float("inf"):
        print(f"holds for every {args.find}: no input in range has another label")
    else:
        # all digits: a shorter number would be another one
        refuted = f"refuted from {found.upper!r} on" if isfinite(found.upper) else "not refuted at any value asked"
        proved = "nothing is proved" if found.proved is None else f"holds up to {found.lower!r}"
        print(f"{args.find}: {proved}, {refuted}")
        print(f"{found.questions} questions, {found.undecided} undecided")
    return 3 if found.undecided else 0


def _draw(args: argparse.Namespace, network: Any, x: Any, witness: Any, how: dict[str, Any]) -> None:
    """The picture, if it is wanted."""
    if args.picture is None:
        return
    from verifier.properties.builders import condition_at
    from verifier.report.saliency import picture

    picture(
        condition_at(network, x, label=args.label, map=how["map"], similarity=how["similarity"], top_k=how["top_k"]),
        x,
        witness,
        args.picture,
    )
