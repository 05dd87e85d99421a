"""Pictures and files of an attention map: Θ maps, saliency maps, an HTML page, csv and json of the regions."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verifier.attention.area_result import AreaMap
from verifier.attention.region_map import RegionMap
from verifier.attention.table import NAMES, Aspect, Table
from verifier.errors import InputError
from verifier.extras import require
from verifier.files import check_target, whole_text, write_figure, write_text
from verifier.network.operators import Array
from verifier.report.attention_areas import area_json, area_rows, mark, named_axes, tiles_figure, write_tiles
from verifier.report.attention_notes import notes
from verifier.report.attention_page import marked, page
from verifier.report.style import FAILS, HOLDS, INK, PARTLY, figure_of

ASPECTS: tuple[Aspect, Aspect] = ("label", "attention")
COLORS = (HOLDS, FAILS, PARTLY)
"""Of regions that hold everywhere, nowhere, in a part."""


def chosen_parameters(m: RegionMap) -> Array:
    """Parameters worth a picture.

    θ = 0, each perturbation alone at its far end, the farthest points of both components, the far corner of Θ.
    """
    box = m.perturbed.box
    points = [np.clip(np.zeros(box.size), box.lower, box.upper)]
    corner = np.where(np.abs(box.lower) > np.abs(box.upper), box.lower, box.upper)
    points += [np.where(np.arange(box.size) == i, corner, points[0]) for i in range(box.size)]
    if m.table is not None:
        for aspect in ("attention", "label"):
            far = m.farthest(aspect)  # type: ignore[arg-type]
            if far is not None:
                points.append(far[0])
    points.append(corner)
    distinct: list[Array] = []
    for p in points:
        if all(np.abs(p - q).max() > 1e-9 for q in distinct):
            distinct.append(p)
    return np.stack(distinct)


def map_figure(m: RegionMap, chosen: Array | None = None) -> Any:
    """The Θ maps of label and attention side by side, the outermost boundary drawn dark.

    Two parameters: the plane; one: bands, with the inconsistency as steps; more: the regions' centers over the
    first two parameters.

    Args:
        chosen: parameters ``(k, d)`` that are marked with their numbers; `chosen_parameters` by default.
    """
    figure = figure_of(11, 5.2)
    chosen = chosen_parameters(m) if chosen is None else np.atleast_2d(chosen)
    for k, aspect in enumerate(ASPECTS):
        axes = figure.add_subplot(1, 2, k + 1)
        named_axes(axes, m, aspect)
        _draw(axes, m, aspect)
        box = m.perturbed.box
        axes.set_xlim(box.lower[0], box.upper[0])
        if box.size > 1:
            axes.set_ylim(box.lower[1], box.upper[1])
        mark(axes, m, chosen)
        _legend(axes, m, aspect)
    figure.supxlabel(_listed(chosen), fontsize=8, color=INK)
    return figure


def _listed(chosen: Array) -> str:
    """The marked parameters, four in a line."""
    words = [f"{k}: ({', '.join(f'{v:.3g}' for v in point)})" for k, point in enumerate(chosen.tolist())]
    return "\n".join("    ".join(words[k : k + 4]) for k in range(0, len(words), 4))


def _legend(axes: Any, m: RegionMap, aspect: Aspect) -> None:
    """What the colours mean, below the picture."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if m.table is None:
        handles: list[Any] = [Patch(color="#00441b", label="holds"), Patch(color="#f7fcf5", label="does not hold")]
    else:
        words = ("holds", "never holds", "holds in a part")
        shown = zip(COLORS, NAMES[aspect], words, strict=True)
        handles = [Patch(color=c, label=f"{text} ({name})") for c, name, text in shown]
        if m.perturbed.dimension == 2:
            handles.append(Patch(facecolor="none", edgecolor=INK, label="outermost boundary"))
    if m.table is not None and m.perturbed.dimension == 1:
        handles.append(Line2D([], [], color=INK, linestyle="--", label="δ"))
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(handles), fontsize=8, frameon=False,
        handlelength=1.2, columnspacing=1.0,
    )  # fmt: skip


def _draw(axes: Any, m: RegionMap, aspect: Aspect) -> None:
    from matplotlib.collections import PolyCollection

    t = m.table
    if t is None:
        if m.raster is None:
            text = "the regions are not in memory,\nand a map of this many parameters has no picture"
            axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
            return
        box = m.perturbed.box
        shares = m.raster[..., 0 if aspect == "attention" else 1].T
        extent = (box.lower[0], box.upper[0], box.lower[1], box.upper[1])
        axes.imshow(shares, origin="lower", extent=extent, aspect="auto", cmap="Greens", vmin=0, vmax=1)
        axes.set_facecolor("#f4cccc")  # where no region was seen
        return
    kinds = t.kinds(aspect)
    outer = m.outside(aspect) if m.method == "exhaustive" or aspect in m.boundary else np.zeros(len(t), dtype=bool)
    if t.vertices is None or m.perturbed.dimension > 2:
        axes.scatter(t.centers[:, 0], t.centers[:, 1], s=4, c=[COLORS[k] for k in kinds])
        return
    if m.perturbed.dimension == 1:
        for i in range(len(t)):
            low, high = t.polygon(i)[:, 0]
            axes.axvspan(low, high, color=COLORS[kinds[i]], alpha=0.8, linewidth=0)
            axes.plot([low, high], [t.high[i], t.high[i]], color="black", linewidth=1)
        axes.axhline(m.delta, color=INK, linewidth=0.8, linestyle="--")
        axes.set_ylabel("inconsistency (largest on the region)")
        return
    polygons = [t.polygon(i) for i in range(len(t))]
    fine = len(t) > 20_000
    axes.add_collection(
        PolyCollection(
            polygons,
            facecolors=[COLORS[k] for k in kinds],
            edgecolors=[COLORS[k] for k in kinds] if fine else "white",
            linewidths=0.3,
            rasterized=True,
        )
    )
    chosen = [polygons[i] for i in np.flatnonzero(outer)]
    axes.add_collection(PolyCollection(chosen, facecolors="none", edgecolors=INK, linewidths=0.9))


def summary_rows(m: RegionMap) -> list[tuple[str, str]]:
    """What a map says, as pairs of words and figures."""
    s = m.summary
    rows = [
        ("network", m.perturbed.original.source or "(built in Python)"),
        ("parameters", ", ".join(
            f"{n} in [{p.low:g}, {p.high:g}]" for n, p in zip(m.perturbed.labels, m.perturbed.perturbations, strict=True)
        )),
        ("label", str(m.label)),
        ("delta", f"{m.delta:g} ({m.settings.filter} filter, L{m.settings.norm}, classes: {m.settings.classes})"),
        ("method", m.method + ("" if m.complete else f", incomplete: {m.reason}")),
        ("regions", f"{s.regions:,} in {m.seconds:.2f} s, covering {s.covered:.9g} of Θ"),
        ("inconsistency", f"{s.smallest:.6g} to {s.largest:.6g}"),
        ("label holds on", f"{s.label_share:.6%} of Θ"),
    ]  # fmt: skip
    if m.tiles is not None:
        rows.append(("tiles", f"{len(m.tiles)} in {m.tiles.folder}; a region on a cut counts once per tile"))
    elif m.table is None:
        rows.append(("kept", "totals and a picture; the regions are not in memory (--keep, --stream)"))
    if s.near_delta:
        rows.append(("close calls", f"{s.near_delta} regions within 1e-7 of delta: their kind hangs on rounding"))
    for aspect, names in NAMES.items():
        parts = ", ".join(f"{n} {s.volumes[n]:.6%} ({s.counts[n]:,})" for n in names)
        rows.append((f"{aspect}: shares of Θ (regions)", parts))
        verdict = m.answers[aspect]  # type: ignore[index]
        shown = "" if verdict.theta is None else f" (θ = {', '.join(f'{v:.6g}' for v in verdict.theta)})"
        rows.append((f"{aspect}: verdict", f"{verdict.answer.value}: {verdict.reason}{shown}"))
        if m.table is None or (m.method == "gbs" and aspect not in m.boundary):
            continue
        far = m.farthest(aspect)  # type: ignore[arg-type]
        if far is None:
            rows.append((f"{aspect}: around θ = 0", "the region at θ = 0 does not hold everywhere"))
            continue
        point = ", ".join(f"{v:.6g}" for v in far[0])
        component = int(m.component(aspect).sum())  # type: ignore[arg-type]
        outermost, outside = int(m.outermost(aspect).sum()), int(m.outside(aspect).sum())  # type: ignore[arg-type]
        rows.append((f"{aspect}: around θ = 0", f"{component:,} connected regions, farthest point ({point})"))
        text = f"{outermost:,} regions, {outside - outermost:,} more behind faces where it jumps"
        if m.method == "exhaustive":
            text += f", {m.enclaves(aspect)} enclaves inside"  # type: ignore[arg-type]
        rows.append((f"{aspect}: outermost boundary", text))
    return rows


def write_csv(m: RegionMap, path: Path) -> None:
    """One line per region (in tiles: per piece): kinds, volume, inconsistency's range, winner, center, vertices.

    Raises:
        InputError: the map does not hold its regions.
    """
    if m.table is not None:
        tables: Iterable[Table] = [m.table]
    elif m.tiles is not None:
        tables = m.tiles.tables()
    else:
        fix = "raise keep=, or give a folder with stream="
        raise InputError("the map does not hold its regions", place=str(path), fix=fix)
    labels, drawn = m.perturbed.labels, m.perturbed.dimension <= 2
    with whole_text(path) as stream:
        out = csv.writer(stream)
        out.writerow(
            ["region", "label", "attention", "volume", "label_volume", "low", "high", "class"]
            + [f"center_{n}" for n in labels]
            + (["vertices"] if drawn else [])
        )
        number = itertools.count()
        for t in tables:
            for i in range(len(t)):
                row: list[object] = [next(number), NAMES["label"][t.label[i]], NAMES["attention"][t.attention[i]]]
                row += [repr(float(v)) for v in (t.volumes[i], t.label_volumes[i], t.low[i], t.high[i])]
                row += [int(t.winner[i]), *(repr(float(v)) for v in t.centers[i])]
                if drawn:
                    row.append(";".join(" ".join(repr(float(v)) for v in p) for p in t.polygon(i)))
                out.writerow(row)


def as_json(m: RegionMap, *, regions: bool = False) -> dict[str, Any]:
    """The totals (and, if asked for, the regions) as plain data."""
    s = m.summary
    result: dict[str, Any] = {
        "label": m.label,
        "delta": m.delta,
        "filter": m.settings.filter,
        "norm": m.settings.norm,
        "classes": m.settings.classes,
        "parameters": [
            {"name": n, "low": p.low, "high": p.high}
            for n, p in zip(m.perturbed.labels, m.perturbed.perturbations, strict=True)
        ],
        "method": m.method,
        "complete": m.complete,
        "reason": m.reason,
        "verdicts": {
            aspect: {
                "answer": a.answer.value,
                "reason": a.reason,
                "theta": None if a.theta is None else a.theta.tolist(),
            }
            for aspect, a in m.answers.items()
        },
        "regions": s.regions,
        "counts": dict(s.counts),
        "shares": dict(s.volumes),
        "label_share": s.label_share,
        "covered": s.covered,
        "inconsistency": [s.smallest, s.largest],
        "near_delta": s.near_delta,
        "seconds": m.seconds,
    }
    if m.table is not None:
        result["around_origin"] = {}
        for aspect in NAMES:
            if m.method == "gbs" and aspect not in m.boundary:
                continue
            far = m.farthest(aspect)  # type: ignore[arg-type]
            result["around_origin"][aspect] = {
                "regions": int(m.component(aspect).sum()),  # type: ignore[arg-type]
                "outermost_boundary": int(m.outermost(aspect).sum()),  # type: ignore[arg-type]
                "outside": int(m.outside(aspect).sum()),  # type: ignore[arg-type]
                "farthest": None if far is None else {"theta": far[0].tolist(), "distance": far[1]},
            }
        if regions:
            result["table"] = [
                {
                    "label": NAMES["label"][t_label],
                    "attention": NAMES["attention"][t_attention],
                    "volume": float(m.table.volumes[i]),
                    "inconsistency": [float(m.table.low[i]), float(m.table.high[i])],
                    "vertices": m.table.polygon(i).tolist() if m.perturbed.dimension <= 2 else None,
                    "center": m.table.centers[i].tolist(),
                }
                for i, (t_label, t_attention) in enumerate(zip(m.table.label, m.table.attention, strict=True))
            ]
    return result


ENDINGS = (".html", ".csv", ".json", ".png", ".pdf", ".svg")


def check_ending(path: Path) -> Path:
    """The path, if `write` knows its ending and a file can be written there.

    Raises:
        InputError: it does not, or none can.
    """
    if path.suffix.lower() not in ENDINGS:
        what = path.suffix or "a file without ending"
        raise InputError(f"cannot write {what}", place=str(path), fix=f"use one of {', '.join(ENDINGS)}")
    if path.suffix.lower() not in (".csv", ".json"):
        require("matplotlib")
    return check_target(path)


def write(m: RegionMap | AreaMap, paths: Sequence[Path], record: Sequence[tuple[str, object]] = ()) -> None:
    """Write a map to files by their endings: .html, .csv, .json, or a picture (.png, .pdf, .svg).

    Args:
        record: what else the page says for those who file it (digests, the command line).

    Raises:
        InputError: for any other ending.
    """
    for path in paths:
        check_ending(path)
    for path in paths:
        kind = path.suffix.lower()
        if kind == ".html":
            write_text(path, page(m, [*rows_of(m), *record], map_picture(m, marked(m))))
        elif kind == ".csv":
            (write_tiles if isinstance(m, AreaMap) else write_csv)(m, path)  # type: ignore[arg-type]
        elif kind == ".json":
            write_text(path, json.dumps(plain(m, everything=True), indent=1) + "\n")
        else:
            write_figure(path, map_picture(m))


def map_picture(m: RegionMap | AreaMap, chosen: Array | None = None) -> Any:
    """The picture of a map, with the chosen parameters marked.

    Shapes: chosen ``(d,)``.
    """
    return tiles_figure(m, chosen) if isinstance(m, AreaMap) else map_figure(m, chosen)


def rows_of(m: RegionMap | AreaMap) -> list[tuple[str, str]]:
    """What a map says, as pairs of words and figures."""
    rows = area_rows(m) if isinstance(m, AreaMap) else summary_rows(m)
    return rows + [("note", text) for text in notes(m)]


def plain(m: RegionMap | AreaMap, *, everything: bool = False) -> dict[str, Any]:
    """The totals (and, if asked for, the regions or tiles) as plain data."""
    data = area_json(m, tiles=everything) if isinstance(m, AreaMap) else as_json(m, regions=everything)
    return {**data, "notes": notes(m)}
