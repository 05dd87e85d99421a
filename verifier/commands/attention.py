"""``verifier attention MODEL INPUT --perturb brightness:0:0.2 …``: maps of attention robustness."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.attention import Answer, AreaMap, Inconsistency, RegionMap
    from verifier.commands.result import Result
    from verifier.encodings.perturbations import Perturbation
    from verifier.network.graph import Network
    from verifier.network.operators import Array

SYNTAX = """perturbations (NAME:LOW:HIGH, options as ,KEY=VALUE):
  brightness:0:0.2                       adds the parameter to every pixel
  patch:0:0.2,top=4,left=4,height=3,width=3[,value=1]    a rectangle (blended towards VALUE, if given)
  translation:0:1,down=0,right=1         pixels
  contrast:-0.2:0.2[,pivot=0.5]   blur:0:1[,size=3]
  blend:0:1,mask=FILE[,other=FILE]       occlusion: blended towards another image (or intensity), by a mask in [0, 1]
  linear:-1:1,direction=FILE[,map_direction=FILE][,name=fog]     any direction; FILEs are .npy
  rotation:-5:5[,poses=11]  (degrees)    zoom:-0.1:0.1[,poses=11]   shear:-0.1:0.1[,poses=11]

exit status: 0 label and attention hold on all parameters; 1 not; 2 bad usage or input; 3 not decided; 4 time-out"""


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands import arguments

    parser = subparsers.add_parser(
        "attention",
        description="For which parameters of a perturbation (brightness, a patch, a translation …) does the label hold, and does "
        "the saliency map move as it should? Exactly, on every linear region of the parameters (Munakata et al., NFM 2023).",
        epilog=SYNTAX,
    )
    arguments.add_model(parser)
    arguments.add_input(parser, "the image, in [0, 1] after --scale")
    parser.add_argument("--perturb", action="append", required=True, metavar="SPEC", help="once per parameter")
    parser.add_argument("--delta", type=arguments.nonnegative, default=3.0, help="largest consistent inconsistency (3)")
    parser.add_argument("--filter", default="identity", choices=("identity", "absolute", "mean3"),
                        help="what maps go through before they are compared (identity)")  # fmt: skip
    parser.add_argument("--norm", type=int, default=2, choices=(1, 2), help="norm of the maps' difference (2)")
    parser.add_argument("--classes", default="all", choices=("all", "label"), help="whose maps count (all)")
    parser.add_argument("--label", type=arguments.natural, help="the label to keep (default: the network's own)")
    parser.add_argument("--no-clip", action="store_true", help="do not clip pixels to [0, 1]")
    parser.add_argument("--map", default="gradient", choices=("gradient", "integrated", "smooth"),
                        help="what a saliency map is; all but gradient need --method areas (gradient)")  # fmt: skip
    parser.add_argument(
        "--samples", type=arguments.count, metavar="N", help="for --map integrated, smooth: steps, noisy copies (8)"
    )
    parser.add_argument(
        "--sigma", type=arguments.nonnegative, help="for --map smooth: standard deviation of the noise (0.1)"
    )
    parser.add_argument("--seed", type=arguments.natural, help="for --map smooth: of the noise (0)")
    parser.add_argument(
        "--baseline", type=arguments.number, metavar="V", help="for --map integrated: the baseline's intensity (0)"
    )
    parser.add_argument("--method", default="exhaustive", choices=("exhaustive", "gbs", "areas"),
                        help="all linear regions; the boundary around the image alone; or shares that are proved, "
                        "refuted and open, for networks of any size (exhaustive)")  # fmt: skip
    parser.add_argument("--aspect", choices=("attention", "label", "both"), help="for --method gbs (attention)")
    parser.add_argument("--band", type=arguments.nonnegative, metavar="W", help="for --method gbs: the paper's w^δ (0)")
    parser.add_argument("--smallest", type=arguments.positive, metavar="SHARE",
                        help="for --method areas: a tile with less than this share of Θ is not split (1e-5)")  # fmt: skip
    parser.add_argument("--threads", type=arguments.count, default=1, metavar="N",
                        help="threads; the result does not depend on them (1)")  # fmt: skip
    parser.add_argument("--keep", type=arguments.count, default=3_000_000, metavar="N",
                        help="most regions in memory; with more, totals and a picture are kept (3000000)")  # fmt: skip
    parser.add_argument("--stream", type=arguments.a_folder, metavar="DIR", help="map in tiles of at most --keep regions, each "
                        "written here (--method areas: what bounds tell of each tile); after an interruption the same "
                        "command goes on from there, to the same result")  # fmt: skip
    parser.add_argument("--timeout", type=arguments.positive, metavar="S", help="wall-clock seconds (no limit)")
    parser.add_argument("--out", type=arguments.a_map, action="append", default=[], metavar="FILE",
                        help="write .csv or .json regions, or a picture; may be repeated")  # fmt: skip
    arguments.add_report(parser)
    arguments.add_reading(parser)
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    parser.set_defaults(run=run)


_FOR_MAPS = (
    (("integrated", "smooth"), "samples"),
    (("smooth",), "sigma"),
    (("smooth",), "seed"),
    (("integrated",), "baseline"),
)
"""Which maps an option is for."""


def perturbation_of(text: str) -> Perturbation:
    """The perturbation that ``NAME:LOW:HIGH,KEY=VALUE…`` says.

    Raises:
        InputError: naming what is wrong.
    """
    from verifier.encodings import perturbations as known
    from verifier.errors import InputError

    kinds = {
        k.__name__.lower(): k
        for k in (
            known.Brightness, known.Patch, known.Translation, known.Contrast, known.Blur, known.Rotation,
            known.Zoom, known.Shear, known.Blend, known.Linear,
        )
    }  # fmt: skip
    head, *options = text.split(",")
    name, *ends = head.split(":")
    if name.lower() not in kinds:
        raise InputError(f"unknown perturbation {name!r}", fix=f"one of {', '.join(kinds)}")
    if len(ends) != 2:
        raise InputError(f"perturbation {text!r} needs a range", fix=f"write {name}:LOW:HIGH")
    kind = kinds[name.lower()]
    fields: dict[str, Any] = {}
    try:
        fields = {"low": float(ends[0]), "high": float(ends[1])}
        for option in options:
            key, _, value = option.partition("=")
            if key not in kind.__dataclass_fields__:
                raise InputError(f"{name} has no option {key!r}")
            fields[key] = _option(key, value)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"perturbation {text!r}: {error}") from None
    try:
        return kind(**fields)
    except TypeError:
        needed = {"patch": "top= and left=", "blend": "mask=", "linear": "direction="}
        raise InputError(f"{name} lacks an option", fix=f"a {name} needs {needed.get(name.lower(), 'more')}") from None


def _next(args: argparse.Namespace, status: int) -> str:
    """What to try where the answer is open."""
    if status not in (3, 4):
        return ""
    if args.method == "areas":
        return "a longer --timeout, a smaller --smallest, or narrower ranges"
    longer = "a longer --timeout, " if args.timeout is not None else ""
    return f"{longer}--method areas (proved shares, networks of any size), or narrower ranges"


def _option(key: str, value: str) -> Any:
    """The value of a perturbation's option: a number, a word, or an array from a file."""
    from verifier.commands.inputs import read_array

    if key == "name":
        return value
    if key in ("mask", "direction", "map_direction") or (key == "other" and not _is_number(value)):
        return read_array(Path(value))
    number = float(value)
    return int(number) if key not in ("value", "pivot", "other") and number.is_integer() else number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _map(
    args: argparse.Namespace,
    network: Network,
    image: Array,
    perturbations: list[Perturbation],
    settings: Inconsistency,
) -> AreaMap | RegionMap:
    """The map, by the method that was asked for."""
    from verifier.attention import AreaSettings, WalkSettings, attention_areas, attention_map

    shared: dict[str, Any] = {
        "settings": settings,
        "label": args.label,
        "clip": not args.no_clip,
        "stream": args.stream,
        "timeout": args.timeout,
        "listener": args.listener,
    }
    if args.method == "areas":
        how = AreaSettings(smallest=args.smallest or AreaSettings.smallest, threads=args.threads)
        return attention_areas(network, image, perturbations, args.delta, how=how, **shared)
    return attention_map(
        network,
        image,
        perturbations,
        args.delta,
        method=args.method,
        aspect=args.aspect or "attention",
        band=args.band or 0.0,
        keep=args.keep,
        how=WalkSettings(threads=args.threads),
        **shared,
    )


def _status(found: set[Answer]) -> int:
    """The exit status of some answers."""
    from verifier.attention import Answer

    if Answer.NOT_ROBUST in found:
        return 1
    if found == {Answer.ROBUST}:
        return 0
    return 4 if Answer.TIMEOUT in found else 3


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    from verifier.attention import Inconsistency
    from verifier.commands.arguments import pages_too, refuse
    from verifier.commands.inputs import Reader, load_model
    from verifier.commands.result import VERDICTS, Result, for_the_record
    from verifier.network.normalised import normalised
    from verifier.report.attention import plain, rows_of, write
    from verifier.report.tables import text_table

    if args.method != "gbs":
        refuse(args, f"on --method {args.method}", "aspect", "band")
    if args.method != "areas":
        refuse(args, f"on --method {args.method}", "smallest")
    refuse(args, f"on --map {args.map}", *(name for maps, name in _FOR_MAPS if args.map not in maps))
    perturbations = [perturbation_of(text) for text in args.perturb]
    given = {"samples": args.samples, "noise": args.sigma, "seed": args.seed, "baseline": args.baseline}
    numbers = {name: value for name, value in given.items() if value is not None}
    settings = Inconsistency(filter=args.filter, norm=args.norm, classes=args.classes, map=args.map, **numbers)
    network = load_model(args)
    reader = Reader(args, network)
    image = reader.image(args.input)
    if (
        not reader.normalisation.is_identity
    ):  # perturbations are of the data: the network's normalisation comes after them
        network = normalised(network, reader.normalisation.mean, reader.normalisation.std)
    m = _map(args, network, image, perturbations, settings)
    write(m, pages_too(args), for_the_record(args, reader.files))
    status = _status({a.answer for a in m.answers.values()})
    asked = {
        name: getattr(args, name)
        for name in ("perturb", "delta", "filter", "norm", "classes", "label", "map", "method")
    }
    return Result(
        text=text_table((), rows_of(m)), found=plain(m), status=status,
        verdict=VERDICTS[status], network=network, files=reader.files, options=asked,
        next=_next(args, status), question=f"label {m.label} and its attention for {', '.join(args.perturb)}",
    )  # fmt: skip
