"""``verifier certify MODEL DATA``: certified accuracy of a data set at given radii."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.certification import Certification
    from verifier.commands.result import Result
    from verifier.network.graph import Network
    from verifier.network.operators import Array


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands import arguments

    parser = subparsers.add_parser(
        "certify",
        description="For each input of a data set and each radius: is every input within that L∞ distance given the same "
        "label? Answers are added to the journal one by one, and a run that was cut off goes on where it was.",
        epilog="exit status: 0 every question was decided, 3 some were not, 2 bad usage or input, 5 error",
    )
    arguments.add_model(parser)
    parser.add_argument(
        "data", type=Path, metavar="DATA",
        help=f".npz with arrays named {' or '.join(arguments.IMAGES)}, and {' or '.join(arguments.LABELS)}; or .npy of inputs alone",
    )  # fmt: skip
    parser.add_argument(
        "--epsilon", type=arguments.radius, action="append", required=True, metavar="RADIUS",
        help='radius in the data\'s units after --scale, as a number or a fraction ("2/255"); may be repeated',
    )  # fmt: skip
    parser.add_argument("--first", type=arguments.natural, default=0, metavar="K", help="the first input taken (0)")
    parser.add_argument("--count", type=arguments.count, metavar="N", help="how many are taken (all)")
    arguments.add_domain(parser)
    parser.add_argument(
        "--journal", type=arguments.a_file, metavar="FILE", help="keep all answers here, and do not ask them again"
    )
    parser.add_argument("--out", type=arguments.a_report, action="append", default=[], metavar="FILE",
                        help="write the table (.md) or the curve (.png .svg .pdf); may be repeated")  # fmt: skip
    arguments.add_report(parser)
    arguments.add_reading(parser)
    parser.add_argument("--engine", type=arguments.engine_names, default="auto", metavar="NAME[,NAME…]", help="(auto)")
    parser.add_argument(
        "--timeout", type=arguments.positive, default=60.0, metavar="S", help="seconds for each question (60)"
    )
    parser.add_argument("--memory", type=arguments.positive, metavar="GIB", help="memory limit of each question")
    parser.add_argument(
        "--workers", type=arguments.count, default=1, metavar="N", help="questions asked side by side (1)"
    )
    parser.add_argument("--seed", type=arguments.natural, default=0, help="seed of everything random (0)")
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Result:
    """Run the command; 0 if every question was decided, 3 if not, 5 if one ended in an error."""
    from dataclasses import asdict

    import verifier
    from verifier.commands.arguments import domain_of, pages_too
    from verifier.commands.inputs import Reader, load_model, part, read_data
    from verifier.commands.result import Result
    from verifier.options import Options
    from verifier.report.tables import text_table

    network = load_model(args, ordered=True)
    reader = Reader(args, network)
    images, labels = read_data(args.data, reader)
    chosen = part(args.data, images, args.first, args.count)
    images, labels = images[chosen], None if labels is None else labels[chosen]
    found = verifier.certify(
        network,
        images,
        labels,
        epsilon=args.epsilon,
        domain=domain_of(args.domain),
        mean=args.mean,
        std=args.std,
        workers=args.workers,
        journal=args.journal,
        options=Options(engine=args.engine, timeout=args.timeout, memory=args.memory, seed=args.seed),
        listener=args.listener,
    )
    whose = "its own labels" if labels is None else "the given labels"
    text = f"{found.count} inputs, accuracy {found.accuracy:.1%} ({whose})\n\n{text_table(*found.figures(), numbers=range(7))}"
    asked = {name: getattr(args, name) for name in ("epsilon", "first", "count", "domain", "engine", "timeout")}
    for path in pages_too(args):
        _write(path, found, images, network, args, reader.files)
    statuses = {line.status for line in found.lines}
    undecided = bool(statuses & {"unknown", "timeout", "error"})
    record = {
        "accuracy": found.accuracy,
        "labels": whose,
        "certified": {epsilon: found.certified(epsilon) for epsilon in found.radii},
        "not_refuted": {epsilon: found.not_refuted(epsilon) for epsilon in found.radii},
        "answers": [asdict(line) for line in found.lines],
    }
    return Result(
        text=text, found=record, network=network, files=reader.files, options=asked,
        question=f"certified accuracy of {found.count} inputs",
        status=5 if "error" in statuses else 3 if undecided else 0,
        next="a longer --timeout for each question, another --engine, or smaller radii" if undecided else "",
    )  # fmt: skip


def _write(
    path: Path, found: Certification, images: Array, network: Network, args: argparse.Namespace, files: dict[Path, str]
) -> None:
    from verifier.commands.result import for_the_record
    from verifier.files import write_figure, write_text
    from verifier.report.certification import certification_page, certified_curve

    match path.suffix.lower():
        case ".md":
            head = f"# Certified accuracy of {args.model}\n\n{found.count} inputs, accuracy {found.accuracy:.1%}\n\n"
            write_text(path, head + found.table())
        case ".html":
            record = for_the_record(args, files)
            names = {"model": args.model.name, "data": args.data.name}
            write_text(path, certification_page(found, images, network.input_shape, record=record, **names))
        case _:
            write_figure(path, certified_curve(found))
