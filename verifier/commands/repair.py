"""``verifier repair MODEL SPECIFICATION``: change a few weights so that a network is right on whole regions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result
    from verifier.network.graph import Network
    from verifier.network.operators import Array
    from verifier.repair import Drawdown, PolygonRegion, RepairResult, Requirement, Specification

STATUS = {
    "repaired": 0,
    "infeasible": 1,
    "repaired up to rounding": 3,
    "improved": 3,
    "unchanged": 3,
    "unfinished": 4,
}
"""Exit status by what the repair did; 2 is bad usage or input."""


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import a_folder, add_json, add_model, add_quiet, add_reading, count, positive

    parser = subparsers.add_parser(
        "repair",
        help="the smallest weight change that makes a network right on lines and polygons",
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
        write(result, specification, record, args, data.images, effect)
    return _result(args, network, record, text, STATUS[result.status], data)


PROPERTY_STATUS = {"holds": 0, "repaired": 0, "infeasible": 1, "unfinished": 4}
"""Exit status of a repair from a property."""


def run_property(args: argparse.Namespace, network: Network) -> Result:
    """Change the last layer until a property is proved of the changed network."""
    import verifier
    from verifier.commands.arguments import refuse
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
    if args.out is not None:
        make_folder(args.out)
        write_text(args.out / "report.json", json.dumps(record, indent=2))
        verifier.write_onnx(result.network, args.out / "repaired.onnx", precision="float64")
        page = repair_page(result, network, record=_for_the_record(args, lines), images=data.images, effect=effect)
        write_text(args.out / "report.html", page)
    return _result(args, network, record, "\n".join(lines), PROPERTY_STATUS[result.status], data)


def _result(
    args: argparse.Namespace, network: Network, record: dict[str, Any], text: str, status: int, data: Data
) -> Result:
    from verifier.commands.result import Result

    asked = {name: getattr(args, name) for name in ("method", "layer", "steps", "norm", "soft", "reach", "timeout")}
    return Result(
        text=text, found=record, status=status, network=network, question=f"repair by {args.specification.name}",
        files={args.specification: "", **data.reader.files}, options=asked,
    )  # fmt: skip


class Data:
    """The inputs on which the effect of a repair is told.

    Attributes:
        reader: that read them.
        images, labels: in the data's units, ``(N, n)``, and the true labels; None where none are given.
    """

    def __init__(self, args: argparse.Namespace, network: Network) -> None:
        from verifier.commands.inputs import Reader, read_data

        self.network, self.reader = network, Reader(args, network)
        self.images: Array | None = None
        self.labels: Array | None = None
        if args.data is not None:
            self.images, self.labels = read_data(args.data, self.reader)

    def effect(self, after: Callable[[Array], Array]) -> Drawdown | None:
        """How labels change from the network's to another function's; None without data."""
        from verifier.repair.effect import label_changes

        if self.images is None:
            return None
        given = self.reader.normalisation.apply(self.images)
        return label_changes(self.network.forward, after, given, self.labels)


def effect_record(effect: Drawdown | None) -> dict[str, Any] | None:
    """The effect on data as plain data."""
    import numpy as np

    if effect is None:
        return None
    changed = np.flatnonzero(effect.before != effect.after)
    return {
        "inputs": effect.total,
        "changed": effect.changed,
        "right before": effect.right_before,
        "right after": effect.right_after,
        "changed inputs": [[int(k), int(effect.before[k]), int(effect.after[k])] for k in changed],
    }


def effect_words(effect: Drawdown | None) -> str:
    """The effect on data in a line."""
    if effect is None:
        return "effect on data: not looked at (--data FILE)"
    _, facts = effect._facts()
    return "effect on data: " + ", ".join(f"{name} {fact}" for name, fact in facts.items())


def _for_the_record(args: argparse.Namespace, lines: list[str]) -> list[tuple[str, object]]:
    from verifier.commands.result import digest

    files = [("network", args.model), ("specification", args.specification), ("data", args.data)]
    rows: list[tuple[str, object]] = [(n, f"{p}, SHA-256 {digest(p)}") for n, p in files if p is not None]
    return [*rows, ("command line", " ".join(["verifier", *args.words])), *(("report", line.strip()) for line in lines)]


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


def as_record(result: RepairResult, specification: Specification) -> dict[str, Any]:
    """The report as plain data."""
    exact = result.check.exact
    return {
        "status": str(result.status),
        "reason": result.reason,
        "method": result.method,
        "requirements": len(specification.requirements),
        "key points": result.total,
        "met before": result.met_before,
        "met after": result.met_after,
        "check": {
            "arithmetic": "rational" if exact else "float64",
            "met": result.check.met,
            "total": result.check.total,
            "worst slack": result.check.worst,
        },
        "layers": {
            name: {"answer": str(a.outcome), "norm": a.norm, "excluded below": min(a.least, 1e300), "reason": a.reason}
            for name, a in result.attempts.items()
        },
        "repaired layer": result.layer,
        "changes": dict(result.changes),
        "norms": dict(result.norms),
        "violated": list(result.check.violated),
        "conflicts": {layer: list(names) for layer, names in result.conflicts.items()},
        "seconds": round(result.seconds, 3),
    }


def in_words(record: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{record['status'].upper()}" + (f": {record['reason']}" if record["reason"] else ""),
        f"  key points met: {record['met before']:,} before, {record['met after']:,} after, of "
        f"{record['key points']:,}",
    ]
    check = record["check"]
    how = "in rational arithmetic" if check["arithmetic"] == "rational" else "up to rounding errors (float64)"
    lines.append(f"  checked {how}: {check['met']:,} of {check['total']:,} met; worst slack {check['worst slack']:.3g}")
    if record["changes"]:
        norms = record["norms"]
        lines.append(
            f"  {norms['weights']:.0f} weights changed; sum of changes {norms['l1']:.4g}, largest {norms['linf']:.4g}"
        )
        largest = sorted(record["changes"].items(), key=lambda item: -abs(item[1]))[:10]
        lines += [f"    {name}: {delta:+.6g}" for name, delta in largest]
        if len(record["changes"]) > 10:
            lines.append(f"    … and {len(record['changes']) - 10} more (--json names all)")
    if len(record["layers"]) > 1:
        for name, answer in record["layers"].items():
            norm = f", norm {answer['norm']:.4g}" if answer["norm"] else ""
            lines.append(f"  layer {name}: {answer['answer']}{norm}")
    lines += [f"  still violated: {name}" for name in record["violated"][:10]]
    for layer, names in record["conflicts"].items():
        lines.append(f"  cannot hold together (layer {layer}): {'; '.join(names[:8])}")
    lines.append(f"  {record['seconds']:.2f} s")
    return "\n".join(lines)


def write(
    result: RepairResult,
    specification: Specification,
    record: dict[str, Any],
    args: argparse.Namespace,
    images: Array | None,
    effect: Drawdown | None,
) -> None:
    """The repaired network as ONNX, the report, the page, and pictures of every polygon and of the greedy steps."""
    import verifier
    from verifier.errors import NetworkError
    from verifier.files import make_folder, write_figure, write_text
    from verifier.regions import plane
    from verifier.repair.export import write_frozen_onnx
    from verifier.repair.slices import frozen_restriction
    from verifier.report.repair import before_and_after, met_curves
    from verifier.report.repair_page import repair_page

    folder = make_folder(args.out)
    write_text(folder / "report.json", json.dumps(record, indent=2))
    try:
        # in float64: what was proved is what is written, to the last bit
        verifier.write_onnx(result.frozen.fold(), folder / "repaired.onnx", precision="float64")
    except NetworkError:  # a unit depends on the patched layer: both channels are written
        write_frozen_onnx(result.frozen, folder / "repaired.onnx", precision="float64")
    if result.steps:
        shares = [k / result.total for k in (result.met_before, *(s.met for s in result.steps))]
        write_figure(folder / "met.png", met_curves({result.method: shares}), dpi=120)
    pictures = {}
    views = pictured(specification)
    if views and result.frozen.network.output_size > 1:
        rows: list[Any] = []
        for name, region, _ in views:
            before = plane(result.frozen.network, region.origin, region.u, region.v, region.polygon)
            rows.append((name, before, frozen_restriction(result.frozen, before)))
        figure = before_and_after(rows, best=[best for _, _, best in views])
        write_figure(folder / "classes.png", figure, dpi=120)
        pictures["classes before and after the repair"] = figure
    rows_of = _for_the_record(args, in_words(record).splitlines())
    page = repair_page(
        result, result.frozen.network, record=rows_of, images=images, effect=effect, pictures=pictures,
        conflicts=result.conflicts,
    )  # fmt: skip
    write_text(folder / "report.html", page)


def pictured(specification: Specification) -> list[tuple[str, PolygonRegion, str]]:
    """What pictures show, at most six: a name, a polygon, and "max" or "min" (the smallest output is the class).

    The polygons of a class map are shown together, as their convex hull.
    """
    import numpy as np
    from scipy.spatial import ConvexHull

    from verifier.repair import PiecesRegion, PolygonRegion

    views: list[tuple[str, PolygonRegion, str]] = []
    whole = [r for r in specification.requirements if isinstance(r.region, PiecesRegion)]
    if whole:
        first = whole[0].region
        assert isinstance(first, PiecesRegion)
        corners = np.concatenate([r.region.vertices for r in whole if isinstance(r.region, PiecesRegion)])
        hull = corners[ConvexHull(corners).vertices]
        views.append(("the map", PolygonRegion(first.origin, first.u, first.v, hull), best_of(whole[0])))
    for k, requirement in enumerate(specification.requirements):
        if isinstance(requirement.region, PolygonRegion):
            views.append((specification.label(k), requirement.region, best_of(requirement)))
    return views[:6]


def best_of(requirement: Requirement) -> str:
    """ "max" or "min": which output is the class that a requirement asks for."""
    return "max" if requirement.output.largest else "min"
