"""Specifications of repairs from JSON, checked strictly against the published schema (`verifier.repair.schema`)."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

import numpy as np

from verifier.errors import PropertyError, VerifierError
from verifier.network.graph import Network
from verifier.repair.schema import Mismatch, Path, in_words, validate
from verifier.repair.slices import Component, HalfPlanes, Relabel, specification_of_map
from verifier.repair.specification import (
    LineRegion,
    OutputPolytope,
    PointRegion,
    PolygonRegion,
    Region,
    Requirement,
    Specification,
    output_class,
)

DEEPEST = 100
"""Specifications are nested about five deep."""


def specification_from_json(text: str, network: Network) -> Specification:
    """A specification from the text of a JSON file; see `specification_from_dict`.

    Raises:
        PropertyError: not JSON, or not a specification.

    Raises:
        PropertyError: what is written is no specification, and where (also where a ValueError says so).
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not a number")

    if (
        _depth(text) > DEEPEST
    ):  # the parser's own limit follows the interpreter's, which other packages raise past safety
        raise PropertyError("not JSON that can be read: too deep")
    try:
        data = json.loads(text, parse_constant=refuse, object_pairs_hook=_once)
    except ValueError as error:
        raise PropertyError(f"not JSON: {error}") from None
    return specification_from_dict(data, network)


def _depth(text: str) -> int:
    """How deep brackets are nested outside of strings."""
    steps = {"[": 1, "{": 1, "]": -1, "}": -1}
    brackets = re.findall(r"[\[\]{}]", re.sub(r'"(?:\\.|[^"\\])*"', "", text))
    return max(accumulate(steps[b] for b in brackets), default=0)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key stands twice in one object: {', '.join(key for key, _ in pairs)}")
    return found


def specification_from_dict(data: object, network: Network) -> Specification:
    """A specification from what a JSON file holds, which must fit ``verifier/data/repair.schema.json`` strictly.

    ``{"requirements": [{"name": …, "region": {"origin": […], "u": […], "v": […], "polygon": [[s, t], …]} or
    {"line": [[…], […]]} or {"point": […]} or {"points": [[…], …]}, "class": 2, "margin": 0.0, "smallest": false}, …],
    "domain": {"lower": […], "upper": […]}}``. Instead of "class" an output polytope may be given as
    ``"output": {"rows": [[…], …], "bound": […]}``.

    Or a class map with areas relabelled:
    ``{"map": {"origin": […], "u": […], "v": […], "polygon": [[s, t], …]}, "relabel": [{"area": {"polygon": [[s, t], …]}
    or {"normals": [[…], …], "bounds": […]} (half-planes) or {"component": [s, t]}, "class": 2, "old": 4}, …],
    "keep": true, "margin": 0.0, "smallest": false}``; "old", "keep", "margin" and "smallest" may be left out.

    Raises:
        PropertyError: naming the requirement (or relabelling) and the key.
    """
    try:
        validate(data)
    except Mismatch as error:
        place, rest = _place(data, error.path)
        problem = error.problem
        if not error.path and not isinstance(data, dict):
            problem = 'a specification is an object with a list "requirements", or with a "map" and "relabel"'
        elif not error.path and not data:
            problem = 'a specification has a list "requirements", or a "map" and "relabel"; this one is empty'
        elif rest == ("region",) and "one of these keys" in problem:
            problem = 'a region has "polygon" (with "origin", "u", "v"), "line", "point" or "points"'
        elif error.path == () and isinstance(data, dict) and "map" in data and "missing" in problem:
            place = "map"
        elif rest == () and "is not an object" in problem:
            problem = "a requirement is an object" if "requirement" in place else problem
        elif rest and "is not" in problem:
            problem = f"cannot be read: {in_words(rest)}: {problem}"
        elif rest:
            problem = f"{in_words(rest)}: {problem}"
        raise PropertyError(problem, place=place) from None
    assert isinstance(data, dict)
    return _of_map(data, network) if "map" in data else _of_requirements(data, network)


def _place(data: object, path: Path) -> tuple[str, Path]:
    """The part of the specification that a path leads into, in words, and the rest of the path."""
    if len(path) > 1 and path[0] == "requirements":
        item = data["requirements"][path[1]]  # type: ignore[index]
        name = item.get("name") if isinstance(item, dict) else None
        return (name if isinstance(name, str) and name else f"requirement {path[1]}"), path[2:]
    if len(path) > 1 and path[0] == "relabel":
        return f"relabelling {path[1]}", path[2:]
    return (str(path[0]), path[1:]) if path else ("", ())


def _of_requirements(data: dict[str, Any], network: Network) -> Specification:
    requirements = []
    for k, item in enumerate(data["requirements"]):
        name = item.get("name", "")
        try:
            requirements.append(Requirement(_region(item["region"]), _output(item, network), name))
        except PropertyError as error:
            raise PropertyError(error.problem, place=name or f"requirement {k}", fix=error.fix) from None
        except ValueError as error:  # vectors of different lengths
            raise PropertyError(f"cannot be read: {error}", place=name or f"requirement {k}") from None
    domain = data.get("domain")
    ends = None if domain is None else (np.asarray(domain["lower"], float), np.asarray(domain["upper"], float))
    return Specification(tuple(requirements), ends)


def _region(item: dict[str, Any]) -> Region:
    if "polygon" in item:
        return PolygonRegion(*(np.asarray(item[key], dtype=np.float64) for key in ("origin", "u", "v", "polygon")))
    if "line" in item:
        start, end = item["line"]
        return LineRegion(np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64))
    return PointRegion(np.asarray(item["point"] if "point" in item else item["points"], dtype=np.float64))


def _output(item: dict[str, Any], network: Network) -> OutputPolytope:
    if "class" in item:
        largest = not item.get("smallest", False)
        return output_class(network.output_size, item["class"], largest=largest, margin=item.get("margin", 0.0))
    output = item["output"]
    rows, bound = np.asarray(output["rows"], dtype=np.float64), np.asarray(output["bound"], dtype=np.float64)
    return OutputPolytope(rows, bound, output.get("name", ""))


def _of_map(data: dict[str, Any], network: Network) -> Specification:
    from verifier.regions import plane

    place = "map"
    try:
        where = [np.asarray(data["map"][key], dtype=np.float64) for key in ("origin", "u", "v", "polygon")]
        PolygonRegion(*where).check("map")
        restriction = plane(network, *where)
        relabels = []
        for k, item in enumerate(data["relabel"]):
            place = f"relabelling {k}"
            relabels.append(Relabel(_area(item["area"]), item["class"], item.get("old")))
        place = "relabel"
        return specification_of_map(
            restriction,
            relabels,
            best="min" if data.get("smallest", False) else "max",
            keep=data.get("keep", True),
            margin=float(data.get("margin", 0.0)),
        )
    except VerifierError as error:
        raise PropertyError(error.problem, place=error.place or place, fix=error.fix) from None
    except ValueError as error:
        raise PropertyError(f"cannot be read: {error}", place=place) from None


def _area(area: dict[str, Any]) -> HalfPlanes | Component:
    if "component" in area:
        return Component((float(area["component"][0]), float(area["component"][1])))
    if "polygon" in area:
        return HalfPlanes.polygon(area["polygon"])
    normals, bounds = np.array(area["normals"], dtype=np.float64), np.array(area["bounds"], dtype=np.float64)
    if normals.shape != (len(bounds), 2):
        raise PropertyError("half-planes are normals (k, 2) and bounds (k,)")
    return HalfPlanes(normals, bounds)
