"""``verifier plane MODEL CORNERS``: a network on a convex polygon of a plane, exactly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result
    from verifier.regions.classes import ClassMap
    from verifier.regions.plane import PlaneRestriction


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import add_json, add_model, add_out, add_quiet, add_reading, positive

    parser = subparsers.add_parser(
        "plane",
        epilog="exit status: 0; 2 bad usage or input; 130 interrupted",
        description="Cut a convex polygon between three or more inputs into the network's linear regions, and report "
        "them and the exact map of classes. The plane's coordinates are those of the first corner (0, 0), the second "
        "(1, 0) and the one farthest from the line through both (0, 1).",
    )
    add_model(parser)
    parser.add_argument(
        "corners", type=Path, nargs="+", metavar="CORNER",
        help="inputs at the polygon's corners: .png, .npy or text, one each, or one file with all of them",
    )  # fmt: skip
    parser.add_argument("--best", choices=("max", "min"), default="max", help="the class is the largest output (max)")
    add_out(parser)
    parser.add_argument(
        "--acas-xu", action="store_true",
        help="a network of ACAS Xu over distance and angle: the smallest output is best, the picture a polar map",
    )  # fmt: skip
    parser.add_argument(
        "--memory", type=positive, default=4.0, metavar="GIB",
        help="past this much memory the polygon is cut into tiles, and files are written for each tile (4)",
    )  # fmt: skip
    add_reading(parser)
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    import numpy as np

    from verifier import compiled
    from verifier.commands.inputs import Reader, load_model
    from verifier.commands.result import Result
    from verifier.regions import plane_tiles

    best = "min" if args.acas_xu else args.best
    network = load_model(args)
    compiled.ensure(compiled.LINES, args.listener)
    reader = Reader(args, network)
    corners = reader.normalisation.apply(np.concatenate([reader.inputs(path) for path in args.corners]))
    areas = np.zeros(network.output_size)
    number, lines, tiles = 0, list[str](), list[dict[str, Any]]()
    for tile, found in plane_tiles(network, corners, memory=args.memory, listener=args.listener):
        number += 1
        classes = found.classes(best=best)
        areas += classes.areas
        sizes = (
            f"{len(found):,} linear regions, {len(found.vertices):,} vertices, {len(found.neighbours):,} shared edges"
        )
        whole = tile.share == 1
        if not whole:
            low, high = tile.corners.min(axis=0), tile.corners.max(axis=0)
            sizes = (
                f"tile {number} (s = {low[0]:.6g} to {high[0]:.6g}, t = {low[1]:.6g} to {high[1]:.6g}; "
                f"{tile.share:.4%} of the area): {sizes}"
            )
        lines.append(sizes)
        tiles.append(
            {"share": tile.share, "corners": tile.corners, "regions": len(found), "vertices": len(found.vertices)}
        )
        for path in args.out:
            _write(path if whole else path.with_stem(f"{path.stem}-{number}"), found, classes, args.acas_xu)
    if number > 1:
        lines.append(
            f"The polygon did not fit into {args.memory:g} GiB and was cut into {number} tiles, each of which has files "
            "of its own; a region that a tile's border cuts counts in each tile."
        )
    for label, area in enumerate(areas.tolist()):
        if area > 0:
            lines.append(f"class {label:<4} {area / areas.sum():9.4%} of the area")
    return Result(
        text="\n".join(lines), found={"tiles": tiles, "shares": areas / areas.sum()}, network=network,
        question="the network on the polygon with these corners", files=reader.files, options={"best": best},
    )  # fmt: skip


def _write(path: Path, found: PlaneRestriction, classes: ClassMap, acas_xu: bool) -> None:
    """Write a restriction and its classes to one file."""
    import numpy as np

    from verifier.report import tables

    arrays = {
        "vertices": found.vertices,
        "offsets": found.offsets,
        "indices": found.indices,
        "values": found.values,
        "origin": found.plane.origin,
        "u": found.plane.u,
        "v": found.plane.v,
        "class_vertices": classes.vertices,
        "class_offsets": classes.offsets,
        "class_indices": classes.indices,
        "classes": classes.labels,
        "boundaries": classes.boundaries,
    }

    def rows() -> tuple[list[str], Any]:
        corner = found.indices
        region = np.repeat(np.arange(len(found)), np.diff(found.offsets))
        header = ["region", "s", "t", *(f"y{k}" for k in range(found.values.shape[1]))]
        return header, np.column_stack([region, found.vertices[corner], found.values[corner]])

    def figure() -> Any:
        from verifier.report.regions import acas_xu_map, plane_plot

        return acas_xu_map(classes, found.plane) if acas_xu else plane_plot(classes, plane=found.plane)

    tables.write(path, arrays, rows, figure)
