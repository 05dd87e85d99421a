"""``verifier explain MODEL INPUT``: what the network provably depends on at an input."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result
    from verifier.explain import Features
    from verifier.network.graph import Network

QUESTIONS = ("features", "lipschitz", "influence", "stability")


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import (
        a_page,
        add_json,
        add_model,
        add_quiet,
        add_reading,
        count,
        natural,
        nonnegative,
        number,
        positive,
    )

    parser = subparsers.add_parser(
        "explain",
        help="formal explanations: what the network provably depends on at an input",
        description="features: a set of features that fixes the label whatever the others are, none of which can be left "
        "out. lipschitz: how fast an output can change. influence: which inputs can only raise or lower an output. "
        "stability: up to which radius a saliency map's top entries, signs or ranking cannot change.",
        epilog="exit status: 0 everything was decided, 3 something was not, 2 bad usage or input, 5 error",
    )
    add_model(parser)
    parser.add_argument("input", type=Path, metavar="INPUT", help=".png, .npy, .npz, or numbers in a text file")
    parser.add_argument(
        "--ask", type=_questions, default=("features",), metavar="WHAT[,WHAT…]",
        help=f"{', '.join(QUESTIONS)} (features)",
    )  # fmt: skip
    parser.add_argument(
        "--epsilon", type=nonnegative, metavar="E", help='radius (L∞), "2/255" too; the whole domain if not given'
    )
    parser.add_argument(
        "--domain", type=number, nargs=2, metavar=("LOW", "HIGH"), help="of the inputs (the network's, or 0 1)"
    )
    parser.add_argument(
        "--label", type=natural, metavar="K", help="the label, and the output explained (the network's own)"
    )
    group = parser.add_argument_group("features")
    group.add_argument("--patch", type=count, metavar="N", help="features are squares of N by N pixels (1: pixels)")
    group.add_argument("--names", metavar="NAME,NAME,…", help="names of the inputs, one each")
    group.add_argument("--each", type=positive, default=10.0, metavar="S", help="seconds for each question (10)")
    group = parser.add_argument_group("maps")
    group.add_argument("--norm", choices=("linf", "l1", "l2"), default="linf", help="lipschitz: of the inputs (linf)")
    group.add_argument("--gap", type=nonnegative, default=0.01, metavar="G", help="lipschitz: relative gap (0.01)")
    group.add_argument(
        "--stable", choices=("top-k", "signs", "ranking"), default="top-k", help="stability: of what (top-k)"
    )
    group.add_argument("--top-k", type=count, default=1, metavar="K", help="stability: so many entries (1)")
    group.add_argument("--map", metavar="NAME", help="stability: which map (absolute; for signs gradient)")
    parser.add_argument(
        "--timeout", type=positive, default=600.0, metavar="S", help="seconds for each kind of question (600)"
    )
    parser.add_argument("--report", type=a_page, metavar="FILE.html", help="write a page with pictures here")
    add_reading(parser)
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


def _questions(text: str) -> tuple[str, ...]:
    """An argparse type: several of `QUESTIONS`."""
    chosen = tuple(word.strip() for word in text.split(","))
    for word in chosen:
        if word not in QUESTIONS:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(QUESTIONS)}")
    return tuple(name for name in QUESTIONS if name in chosen)


def run(args: argparse.Namespace) -> Result:
    """Run the command; 0 if everything was decided, 3 if not."""
    from verifier.commands.arguments import refuse
    from verifier.commands.inputs import Reader, load_model
    from verifier.commands.result import Result
    from verifier.errors import InputError
    from verifier.explain import explain, influences, lipschitz, stable_radius
    from verifier.files import write_text
    from verifier.network.normalised import normalised
    from verifier.options import Options
    from verifier.report.explain import Findings, explanation_page, lines

    if "features" not in args.ask:
        refuse(args, "without --ask features", "patch")
    if args.epsilon is None and set(args.ask) & {"lipschitz", "influence"}:
        raise InputError("--ask lipschitz and --ask influence need a region", fix="give --epsilon")
    network = load_model(args)
    reader = Reader(args, network)
    x = reader.input(args.input)
    if not reader.normalisation.is_identity:  # features are of the data: the network's normalisation comes after them
        network = normalised(network, reader.normalisation.mean, reader.normalisation.std)
    domain: Any = "network" if args.domain is None else tuple(args.domain)
    names = None if args.names is None else [name.strip() for name in args.names.split(",")]
    common: dict[str, Any] = {"domain": domain, "timeout": args.timeout}
    found = Findings(network=network, input=x, epsilon=args.epsilon)
    if "features" in args.ask:
        found.explanation = explain(
            network, x, epsilon=args.epsilon, label=args.label, features=_features(network, args.patch, names),
            options=Options(timeout=args.each), listener=args.listener, **common,
        )  # fmt: skip
    if "lipschitz" in args.ask:
        found.norm = args.norm
        found.lipschitz = lipschitz(
            network, x, args.epsilon, output=args.label, norm=args.norm, gap=args.gap, listener=args.listener, **common
        )
    if "influence" in args.ask:
        outputs = None if args.label is None else [args.label]
        found.influence = influences(
            network, x, args.epsilon, outputs=outputs, names=names, each=args.each, listener=args.listener, **common
        )
    if "stability" in args.ask:
        map = args.map or ("gradient" if args.stable == "signs" else "absolute")
        most = {} if args.epsilon is None else {"most": args.epsilon}
        found.stability = stable_radius(
            network, x, args.stable, top_k=args.top_k, map=map, label=args.label, **most, **common
        )
        found.stable = f"{args.stable}{f' ({args.top_k})' if args.stable != 'signs' else ''} of the map {map!r}"
    if args.report is not None:
        write_text(args.report, explanation_page(found, str(args.model), str(args.input)))
    asked = {
        name: getattr(args, name) for name in ("ask", "epsilon", "label", "patch", "norm", "stable", "top_k", "map")
    }
    return Result(
        text="\n".join(lines(found)), found=found.record(), status=0 if found.decided else 3, network=network,
        question=f"{', '.join(args.ask)} at an input", files=reader.files, options=asked,
    )  # fmt: skip


def _features(network: Network, patch: int | None, names: list[str] | None) -> Features:
    from verifier.errors import InputError
    from verifier.explain import columns, patches

    if patch is not None and names is not None:
        raise InputError("--patch and --names both say what the features are", fix="give one of them")
    return columns(network, names) if patch is None else patches(network, patch)
