"""``verifier saliency MODEL --input x.npy --epsilon E --delta D``: saliency robustness (Le et al., ACML 2023)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.inputs import Reader
    from verifier.commands.result import Result
    from verifier.properties.query import Query


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands import arguments

    parser = subparsers.add_parser(
        "saliency",
        description="Saliency robustness: does every input within EPSILON (L∞) of the given one, whose saliency map "
        "is similar (by default: its vanilla gradient differs by at most DELTA in every entry), keep the label?",
        epilog=arguments.VERDICT_STATUS,
    )
    arguments.add_model(parser)
    arguments.add_input(parser, "x̂")
    parser.add_argument(
        "--epsilon", type=arguments.radius, metavar="RADIUS", help="radius in the data's units, or a fraction: 2/255"
    )
    parser.add_argument("--delta", type=arguments.nonnegative, help="largest difference of a gradient entry")
    parser.add_argument(
        "--find",
        choices=("delta", "epsilon"),
        help="instead of one question: the largest δ for the ε, or the largest ε for the δ, that holds",
    )
    parser.add_argument(
        "--picture", type=arguments.a_picture, metavar="FILE", help="draw x̂, the witness, their maps (.png, .svg)"
    )
    parser.add_argument(
        "--proof",
        type=arguments.a_file,
        metavar="FILE",
        help="if it holds, write a certificate for `verifier check-proof`",
    )
    parser.add_argument("--label", type=arguments.natural, help="the label to keep (default: the network's own at x̂)")
    arguments.add_domain(parser)
    arguments.add_reading(parser)
    _add_map_arguments(parser)
    arguments.add_solving_arguments(parser)
    parser.set_defaults(run=run)


def _add_map_arguments(parser: argparse.ArgumentParser) -> None:
    from verifier.commands.arguments import count, natural, positive
    from verifier.properties import named_maps, similarity

    group = parser.add_argument_group("map and similarity")
    group.add_argument(
        "--map", choices=named_maps.NAMES, default="gradient", help="the saliency map (default gradient)"
    )
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
    group.add_argument("--layer", help="for --map grad-cam: whose feature maps (the last activation that makes any)")


_FOR_MAPS = (
    (("difference",), "other"),
    (("integrated", "integrated-exact"), "baseline"),
    (("integrated",), "steps"),
    (("smooth",), "samples"),
    (("smooth",), "sigma"),
    (("grad-cam",), "layer"),
)
"""Which maps an option is for."""


def _map_of(args: argparse.Namespace, reader: Reader) -> dict[str, Any]:
    """The arguments of `verifier.saliency_robustness` that choose map and similarity."""
    from verifier.commands.arguments import refuse
    from verifier.properties.named_maps import named_map

    refuse(args, f"on --map {args.map}", *(name for maps, name in _FOR_MAPS if args.map not in maps))
    if args.similarity != "top-k":
        refuse(args, f"on --similarity {args.similarity}", "top-k")
    chosen = named_map(
        args.map,
        reader.network.input_size,
        other=args.other,
        baseline=None if args.baseline is None else reader.given(args.baseline),
        steps=args.steps or 8,
        samples=args.samples or 8,
        sigma=args.sigma or 0.1,
        seed=args.seed,
        layer=args.layer,
    )
    return {"map": chosen, "similarity": args.similarity, "top_k": args.top_k or 0}


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    import verifier
    from verifier.commands.arguments import domain_of, options_of
    from verifier.commands.deciding import decide, result_of
    from verifier.commands.inputs import Reader, load_model
    from verifier.errors import InputError

    options = options_of(args)
    domain = domain_of(args.domain)
    network = load_model(args)
    reader = Reader(args, network)
    x = reader.input(args.input)
    if args.similarity == "top-k" and args.delta is None and args.find != "delta":
        args.delta = 0.0
    how = {"label": args.label, "domain": domain, **_map_of(args, reader)}
    asked = {
        name: getattr(args, name) for name in ("epsilon", "delta", "label", "domain", "map", "similarity", "top_k")
    }
    if args.find and args.proof:
        raise InputError("--proof is of one question, and --find asks many", fix="ask the one that it finds again")
    if args.find:
        return _find(args, reader, x, how, asked)
    for name in ("epsilon", "delta"):
        if getattr(args, name) is None:
            raise InputError(f"--{name} is missing", fix=f"give --{name}, or --find {name} to search it")

    def question() -> Query:
        return verifier.saliency_robustness(
            network, x, epsilon=args.epsilon, delta=args.delta, mean=args.mean, std=args.std, **how
        )

    verdict, query = decide(args, question, replace(options, proof=args.proof or False))
    figure = None
    if verdict.witness is not None and (args.picture or args.report):
        figure = _picture(args, reader, x, verdict.witness.input, how)
    return result_of(verdict, query, args, reader=reader, options=asked, comparison=figure)


def _find(args: argparse.Namespace, reader: Reader, x: Any, how: dict[str, Any], asked: dict[str, Any]) -> Result:
    """Search the threshold; exit status 0 if nothing stayed undecided, 3 if something did."""
    import time

    from verifier import compiled
    from verifier.commands.arguments import options_of, refuse
    from verifier.commands.deciding import clock
    from verifier.commands.result import Result, for_the_record
    from verifier.commands.verdicts import witness_record, write_witness
    from verifier.errors import InputError
    from verifier.files import write_text
    from verifier.report.threshold import threshold_page
    from verifier.saliency import largest_delta, largest_epsilon

    given = "epsilon" if args.find == "delta" else "delta"
    refuse(args, f"with --find {args.find}, which searches it", args.find)
    if getattr(args, given) is None:
        raise InputError(f"--find {args.find} needs --{given}")
    options = None if args.engine == "auto" else options_of(args)
    search = largest_delta if args.find == "delta" else largest_epsilon
    value = getattr(args, given)
    how = {**how, "mean": args.mean, "std": args.std}
    began = time.monotonic()
    compiled.ensure_engines(args.listener)
    with clock(args, compiling=time.monotonic() - began):
        found = search(reader.network, x, value, timeout=args.timeout, options=options, listener=args.listener, **how)
    words, figure = f"the largest {args.find} that holds for {given} {value}", None
    if found.witness is not None:
        if args.picture is not None or args.report is not None:
            figure = _picture(args, reader, x, found.witness.input, how)
        if args.witness is not None:
            write_witness(args.witness, found.witness, reader)
    if args.report is not None:
        record = for_the_record(args, reader.files)
        near, differs = ("ε", value) if args.find == "epsilon" else (value, "δ")
        asked_for = (
            f"the largest {'δ' if args.find == 'delta' else 'ε'} for which every input within L∞ distance {near} of the given "
            f"one, whose {args.map} map is within {differs} of its map ({args.similarity}), keeps the label"
        )
        write_text(args.report, threshold_page(found, asked_for, record=record, figure=figure))
    if found.lower == float("inf"):
        text = f"holds for every {args.find}: no input in range has another label"
    else:
        # all digits: a shorter number would be another one
        refuted = f"refuted from {found.upper!r} on" if found.witness is not None else "not refuted at any value asked"
        proved = "nothing is proved" if found.proved is None else f"holds up to {found.lower!r}"
        text = f"{args.find}: {proved}, {refuted}\n{found.questions} questions, {found.undecided} undecided"
    fields = {
        "find": args.find,
        given: value,
        "holds_up_to": found.lower,
        "refuted_from": found.upper,
        "no_other_label_in_range": found.lower == float("inf"),
        "witness": witness_record(found.witness, reader),
        "questions": found.questions,
        "undecided": found.undecided,
    }
    return Result(
        text=text, found=fields, status=3 if found.undecided else 0, network=reader.network, question=words,
        next="a longer --timeout, of which every question gets a third at most" if found.undecided else "",
        files=reader.files, options=asked,
    )  # fmt: skip


def _picture(args: argparse.Namespace, reader: Reader, x: Any, witness: Any, how: dict[str, Any]) -> Any:
    """The figure of input and witness with their maps; written to ``--picture`` if that is wanted."""
    from verifier.files import write_figure
    from verifier.properties.builders import condition_at
    from verifier.report.saliency import witness_figure

    given = reader.normalisation.apply(x)
    condition = condition_at(
        reader.network, given, label=args.label, map=how["map"], similarity=how["similarity"], top_k=how["top_k"]
    )
    figure = witness_figure(condition, given, witness)
    if args.picture is not None:
        write_figure(args.picture, figure)
    return figure
