"""``verifier explain MODEL INPUT``: what the network provably depends on at an input."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.inputs import Reader
    from verifier.commands.result import Result
    from verifier.explain import Features
    from verifier.network.graph import Network
    from verifier.network.operators import Array

QUESTIONS = ("features", "lipschitz", "influence", "stability")
SUFFIXES = (".png", ".npy", ".npz", ".txt", ".csv")
"""Of the files of a data folder."""
TOPS = ("gradient", "gradient-input")
"""Maps that are held against the explanation."""


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import (
        a_file,
        add_domain,
        add_json,
        add_model,
        add_quiet,
        add_reading,
        add_report,
        count,
        natural,
        nonnegative,
        positive,
    )

    parser = subparsers.add_parser(
        "explain",
        description="What the network provably depends on. features: a set of features that fixes the label whatever the others are, none of which can be left "
        "out. lipschitz: how fast an output can change. influence: which inputs can only raise or lower an output. "
        "stability: up to which radius a saliency map's top entries, signs or ranking cannot change.",
        epilog="exit status: 0 everything was decided, 3 something was not, 2 bad usage or input, 5 error",
    )
    add_model(parser)
    parser.add_argument(
        "input", type=Path, metavar="INPUT", help=".png, .npy, .npz, or numbers in a text file; with --data many inputs"
    )
    parser.add_argument(
        "--data", action="store_true",
        help="INPUT is a data set (.npz, .npy, or a folder of pictures and arrays): the features of each, as a table",
    )  # fmt: skip
    parser.add_argument(
        "--ask", type=_questions, default=("features",), metavar="WHAT[,WHAT…]",
        help=f"{', '.join(QUESTIONS)} (features)",
    )  # fmt: skip
    parser.add_argument(
        "--epsilon", type=nonnegative, metavar="E", help='radius (L∞), "2/255" too; the whole domain if not given'
    )
    add_domain(parser)
    parser.add_argument(
        "--label", type=natural, metavar="K", help="the label, and the output explained (the network's own)"
    )
    group = parser.add_argument_group("features")
    group.add_argument("--patch", type=count, metavar="N", help="features are squares of N by N pixels (1: pixels)")
    group.add_argument("--names", metavar="NAME,NAME,…", help="names of the inputs, one each")
    group.add_argument(
        "--proof", type=a_file, metavar="FILE",
        help="write a certificate for `verifier check-proof`: the free features together cannot change the label",
    )  # fmt: skip
    group.add_argument("--each", type=positive, default=10.0, metavar="S", help="seconds for each question (10)")
    group = parser.add_argument_group("data sets")
    group.add_argument("--first", type=natural, metavar="K", help="the first input taken (0)")
    group.add_argument("--count", type=count, metavar="N", help="how many are taken (all)")
    group.add_argument(
        "--journal", type=a_file, metavar="FILE", help="keep all rows here, and do not ask for them again"
    )
    group = parser.add_argument_group("maps")
    group.add_argument("--norm", choices=("linf", "l1", "l2"), default="linf", help="lipschitz: of the inputs (linf)")
    group.add_argument("--gap", type=nonnegative, default=0.01, metavar="G", help="lipschitz: relative gap (0.01)")
    group.add_argument(
        "--stable", choices=("top-k", "signs", "ranking"), default="top-k", help="stability: of what (top-k)"
    )
    group.add_argument("--top-k", type=count, default=1, metavar="K", help="stability: so many entries (1)")
    group.add_argument("--map", metavar="NAME", help="stability: which map (absolute; for signs gradient)")
    parser.add_argument(
        "--timeout", type=positive, default=600.0, metavar="S",
        help="seconds for each kind of question, with --data for each input (600)",
    )  # fmt: skip
    add_report(parser)
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
    from verifier.commands.arguments import domain_of, refuse
    from verifier.commands.inputs import Reader, load_model
    from verifier.commands.result import Result, digest
    from verifier.errors import InputError
    from verifier.explain import explain, influences, lipschitz, stable_radius
    from verifier.explain.abductive import EACH
    from verifier.files import write_text
    from verifier.network.normalised import normalised
    from verifier.report.explain import Findings, explanation_page, lines

    if "features" not in args.ask:
        refuse(args, "without --ask features", "patch", "proof")
    if not args.data:
        refuse(args, "without --data", "first", "count", "journal")
    else:
        refuse(args, "with --data", "proof", "report", "label")
        if args.ask != ("features",):
            raise InputError("with --data the features are asked for, and nothing else", fix="leave --ask out")
    if args.epsilon is None and set(args.ask) & {"lipschitz", "influence"}:
        raise InputError("--ask lipschitz and --ask influence need a region", fix="give --epsilon")
    network = load_model(args)
    reader = Reader(args, network)
    inputs = _inputs(args.input, reader) if args.data else reader.input(args.input)[None]
    if not reader.normalisation.is_identity:  # features are of the data: the network's normalisation comes after them
        network = normalised(network, reader.normalisation.mean, reader.normalisation.std)
    names = None if args.names is None else [name.strip() for name in args.names.split(",")]
    common: dict[str, Any] = {"domain": domain_of(args.domain), "timeout": args.timeout}
    if args.data:
        return _table(args, network, inputs, _features(network, args.patch, names), reader, common)
    x = inputs[0]
    found = Findings(network=network, input=x, epsilon=args.epsilon)
    if "features" in args.ask:
        found.explanation = explain(
            network, x, epsilon=args.epsilon, label=args.label, features=_features(network, args.patch, names),
            options=replace(EACH, timeout=args.each, proof=args.proof or False), listener=args.listener, **common,
        )  # fmt: skip
        found.tops = {map: found.explanation.needed_top(_map(network, x, found.explanation.label, map)) for map in TOPS}
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
        record: list[tuple[str, object]] = [
            ("network", f"{args.model}, SHA-256 {digest(args.model)}"),
            ("input", f"{args.input}, SHA-256 {digest(args.input)}"),
            ("command line", " ".join(["verifier", *args.words])),
        ]
        write_text(args.report, explanation_page(found, str(args.model), str(args.input), record))
    asked = {
        name: getattr(args, name) for name in ("ask", "epsilon", "label", "patch", "norm", "stable", "top_k", "map")
    }
    return Result(
        text="\n".join(lines(found)), found=found.record(), status=0 if found.decided else 3, network=network,
        question=f"{', '.join(args.ask)} at an input",
        next="" if found.decided else "a longer --each or --timeout, larger patches (--patch), or a smaller --epsilon",
        files=reader.files, options=asked,
    )  # fmt: skip


def _inputs(data: Path, reader: Reader) -> Array:
    """All inputs of a file, or of the files of a folder by their names, ``(N, n)`` in the data's units."""
    import numpy as np

    from verifier.commands.inputs import read_data
    from verifier.errors import InputError

    if not data.is_dir():
        return read_data(data, reader)[0]
    files = sorted(path for path in data.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"holds no {', '.join(SUFFIXES)}", place=str(data))
    return np.concatenate([reader.inputs(path) for path in files])


def _table(
    args: argparse.Namespace,
    network: Network,
    inputs: Array,
    features: Features,
    reader: Reader,
    common: dict[str, Any],
) -> Result:
    """The features of many inputs."""
    from dataclasses import asdict

    from verifier.commands.inputs import part
    from verifier.commands.result import Result
    from verifier.explain import explain_all
    from verifier.explain.abductive import EACH

    chosen = inputs[part(args.input, inputs, args.first or 0, args.count)]
    found = explain_all(
        network, chosen, epsilon=args.epsilon, features=features, journal=args.journal,
        options=replace(EACH, timeout=args.each), listener=args.listener, **common,
    )  # fmt: skip
    asked = {name: getattr(args, name) for name in ("epsilon", "patch", "first", "count", "each", "timeout")}
    record = {"decided": found.decided, "features": list(features.names), "rows": [asdict(row) for row in found.rows]}
    return Result(
        text=f"{found.summary()}\n\n{found.table()}".rstrip("\n"), found=record, status=0 if found.decided else 3,
        network=network, question=f"the features that fix the labels of {len(chosen)} inputs", files=reader.files,
        options=asked,
    )  # fmt: skip


def _map(network: Network, x: Array, label: int, name: str) -> Array:
    """A saliency map at x."""
    from verifier.explain.extremes import maps_on_box

    condition = maps_on_box(network, x, 0.0, label=label, domain=None, map=name).condition
    assert condition is not None
    return condition.map.values(condition.network, condition.output, x[None])[0]


def _features(network: Network, patch: int | None, names: list[str] | None) -> Features:
    from verifier.errors import InputError
    from verifier.explain import columns, patches

    if patch is not None and names is not None:
        raise InputError("--patch and --names both say what the features are", fix="give one of them")
    return columns(network, names) if patch is None else patches(network, patch)
