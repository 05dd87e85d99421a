"""``verifier repair MODEL SPECIFICATION``: change a few weights so that a network is right on whole regions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.repair_data import Data
    from verifier.commands.result import Result
    from verifier.network.graph import Network
    from verifier.repair import Specification

STATUS = {
    "repaired": 0,
    "infeasible": 1,
    "repaired up to rounding": 3,
    "improved": 3,
    "unchanged": 3,
    "unfinished": 4,
}
"""Exit status by what the repair did; 2 is bad usage or input."""
NEXT = {
    "infeasible": "another --layer, --method layers, or --soft PRICE to come as near as possible",
    "repaired up to rounding": "--exact, or a larger margin in the specification",
    "improved": "--method lp or layers, or another --layer",
    "unchanged": "--method lp or layers, or another --layer",
    "unfinished": "a longer --timeout, or fewer requirements",
}
"""What to try after what the repair did."""


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import a_folder, add_json, add_model, add_quiet, add_reading, count, positive

    parser = subparsers.add_parser(
        "repair",
        description="Change a few weights of one layer so that the network meets a specification on whole polygons, "
        "lines and points, and prove it on all linear regions. The specification is a JSON file: see --example. It may "
        'also be a class map with areas relabelled: {"map": {"origin", "u", "v", "polygon"}, "relabel": [{"area": '
        '{"polygon"} or {"normals", "bounds"} or {"component": [s, t]}, "class": 2, "old": 4}]}. Where the smallest '
        'output is the class (ACAS Xu), say "smallest": true beside each "class", or beside "map". See also --schema.',
        epilog="exit status: 0 repaired and proved, 1 infeasible, 2 bad usage or input, 3 not all met (or only up to "
        "rounding), 4 unfinished. A property (.vnnlib, .vnnlib.gz) instead of a specification is repaired by changes of the "
        "last layer until it is proved of the changed network.",
    )
    add_model(parser, nargs="?")
    parser.add_argument("specification", type=Path, nargs="?", metavar="SPECIFICATION", help=".json, or a property")
    parser.add_argument("--example", action="store_true", help="print an example of a specification and stop")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of specifications and stop")
    parser.add_argument(
        "--method",
        choices=("lp", "greedy", "maxsmt", "layers"),
        default="lp",
        help="lp: smallest change of one layer (default); greedy: single weights; maxsmt: one small layer by Z3; "
        "layers: several together",
    )
    parser.add_argument(
        "--layer", action="append", metavar="NAME", help="layer that may change (repeat; the last, or all)"
    )
    parser.add_argument("--steps", type=count, metavar="N", help="greedy: most weights that may change (5)")
    parser.add_argument("--norm", choices=("l1", "linf", "mixed"), help="lp: what is kept small (l1)")
    parser.add_argument("--soft", type=positive, metavar="PRICE", help="lp: price of one unit of violation")
    parser.add_argument(
        "--reach", type=positive, metavar="NORM", help="lp: largest norm of a change (that of the layer's own weights)"
    )
    parser.add_argument("--timeout", type=positive, metavar="S", help="seconds for everything (60)")
    parser.add_argument(
        "--exact", action="store_true", help="check in rational arithmetic whatever the size (small cases always are)"
    )
    parser.add_argument("--out", type=a_folder, metavar="DIR", help="write the network, the report and pictures here")
    parser.add_argument(
        "--data", type=Path, metavar="FILE",
        help="report the effect on these inputs, too: .npz with images and labels as for certify, or inputs alone",
    )  # fmt: skip
    add_reading(parser)
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


EXAMPLE = {
    "requirements": [
        {
            "name": "this triangle should be class 2",
            "region": {"origin": [0, 0], "u": [1, 0], "v": [0, 1], "polygon": [[0, 0], [1, 0], [0, 1]]},
            "class": 2,
            "margin": 0.01,
        },
        {"name": "output 0 stays below 4 on a line", "region": {"line": [[0, 0], [1, 1]]},
         "output": {"rows": [[1, 0, 0]], "bound": [4]}},
        {"name": "a point", "region": {"point": [0.5, 0.5]}, "class": 0},
    ],
    "domain": {"lower": [0, 0], "upper": [1, 1]},
}  # fmt: skip


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    from verifier.commands.arguments import refuse
    from verifier.commands.inputs import load_model
    from verifier.commands.result import Result
    from verifier.errors import InputError

    if args.example:
        return Result(text=json.dumps(EXAMPLE, indent=2), found=EXAMPLE)
    if args.schema:
        from verifier.repair.schema import schema

        return Result(text=json.dumps(schema(), indent=2), found=schema())
    if args.model is None or args.specification is None:
        raise InputError("MODEL and SPECIFICATION are needed", fix="verifier repair MODEL SPECIFICATION, or --example")
    refuse(
        args,
        f"on --method {args.method}",
        *(() if args.method in ("lp", "layers") else ("norm", "soft", "reach")),
        *(() if args.method == "greedy" else ("steps",)),
    )
    network = load_model(args)
    if args.specification.name.endswith((".vnnlib", ".vnnlib.gz")):
        return run_property(args, network)
    return run_specification(args, network)


def run_specification(args: argparse.Namespace, network: Network) -> Result:
    """Change one layer until a specification is proved on whole regions."""
    from verifier.commands.repair_data import Data
    from verifier.commands.repair_report import as_record, effect_record, effect_words, in_words, write
    from verifier.repair import repair

    specification = read_specification(args.specification, network)
    data = Data(args, network)
    result = repair(
        network,
        specification,
        method=args.method,
        layers=args.layer,
        steps=args.steps or 5,
        norm=args.norm or "l1",
        soft=args.soft,
        reach=args.reach,
        timeout=args.timeout or 60.0,
        exact=args.exact,
        listener=args.listener,
    )
    effect = data.effect(result.frozen.forward)
    record = {**as_record(result, specification), "effect": effect_record(effect)}
    text = "\n".join([in_words(record), f"  {effect_words(effect)}"])
    if args.out is not None:
        write(result, specification, record, args, data, effect)
    return _result(args, network, record, text, STATUS[result.status], data, NEXT.get(str(result.status), ""))


PROPERTY_STATUS = {"holds": 0, "repaired": 0, "infeasible": 1, "unfinished": 4}
"""Exit status of a repair from a property."""
PROPERTY_NEXT = {
    "infeasible": "a larger --reach, or a specification (.json), for which other layers may change",
    "unfinished": "a longer --timeout",
}
"""What to try after a repair from a property."""


def run_property(args: argparse.Namespace, network: Network) -> Result:
    """Change the last layer until a property is proved of the changed network."""
    import verifier
    from verifier.commands.arguments import refuse
    from verifier.commands.repair_data import Data
    from verifier.commands.repair_report import effect_record, effect_words
    from verifier.commands.result import for_the_record
    from verifier.files import make_folder, write_text
    from verifier.limits import Deadline
    from verifier.report.repair_page import repair_page

    refuse(args, "with a property", "layer", "soft", "steps", *(["exact"] if args.exact else []))
    data = Data(args, network)
    timeout = args.timeout or 60.0
    deadline = Deadline.after(timeout)
    result = verifier.repair_property(
        verifier.read_vnnlib(args.specification, network),
        lambda query: verifier.verify(query, timeout=max(deadline.left, 0.5)),
        norm=args.norm or "l1",
        reach=args.reach,
        timeout=timeout,
        listener=args.listener,
    )
    effect = data.effect(result.network.forward)
    record = {
        "status": str(result.status),
        "reason": result.reason,
        "verdict": result.verdict.status.name,
        "decided by": result.verdict.engine,
        "counterexamples": result.counterexamples.tolist(),
        "changes": result.changes,
        "seconds": round(result.seconds, 3),
        "effect": effect_record(effect),
    }
    lines = [f"{str(result.status).upper()}" + (f": {result.reason}" if result.reason else "")]
    lines.append(
        f"  {len(result.changes)} weights of the last layer changed, for {len(result.counterexamples)} counterexamples"
    )
    largest = sorted(result.changes.items(), key=lambda item: -abs(item[1]))[:10]
    lines += [f"    {name}: {delta:+.6g}" for name, delta in largest]
    lines += [f"  {effect_words(effect)}", f"  {result.seconds:.2f} s"]
    steps = PROPERTY_NEXT.get(str(result.status), "")
    if args.out is not None:
        make_folder(args.out)
        write_text(args.out / "report.json", json.dumps(record, indent=2))
        verifier.write_onnx(result.network, args.out / "repaired.onnx", precision="float64")
        page = repair_page(
            result, network, words=lines[1:], record=for_the_record(args, data.files), images=data.images, effect=effect
        )
        write_text(args.out / "report.html", page)
    return _result(args, network, record, "\n".join(lines), PROPERTY_STATUS[result.status], data, steps)


def _result(
    args: argparse.Namespace, network: Network, record: dict[str, Any], text: str, status: int, data: Data, steps: str
) -> Result:
    from verifier.commands.result import Result

    asked = {name: getattr(args, name) for name in ("method", "layer", "steps", "norm", "soft", "reach", "timeout")}
    return Result(
        text=text, found=record, status=status, network=network, question=f"repair by {args.specification.name}",
        files=data.files, options=asked, next=steps,
    )  # fmt: skip


def read_specification(path: Path, network: Network) -> Specification:
    """A specification from a JSON file.

    Raises:
        InputError, PropertyError: naming the file and the requirement.
    """
    from verifier.errors import InputError, PropertyError
    from verifier.files import reading
    from verifier.repair import specification_from_json

    try:
        with reading(path):
            text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise InputError("not JSON: not UTF-8 text", place=str(path)) from None
    try:
        return specification_from_json(text, network)
    except PropertyError as error:
        raise PropertyError(
            error.problem, place=": ".join(filter(None, (str(path), error.place))), fix=error.fix
        ) from None
