"""What ``verifier repair`` says and writes: its record, its words, and the folder of ``--out``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.repair_data import Data
    from verifier.repair import Drawdown, PolygonRegion, RepairResult, Requirement, Specification


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
    data: Data,
    effect: Drawdown | None,
) -> None:
    """The repaired network as ONNX, the report, the page, and pictures of every polygon and of the greedy steps."""
    import verifier
    from verifier.commands.result import for_the_record
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
    page = repair_page(
        result, result.frozen.network, words=in_words(record).splitlines()[1:], record=for_the_record(args, data.files),
        images=data.images, effect=effect, pictures=pictures, conflicts=result.conflicts,
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
