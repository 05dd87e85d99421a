"""VNN-LIB 2.0, read through the ``vnnlib`` package's typed syntax tree.

A file declares networks with named input, hidden and output tensors, and asks for inputs that meet all assertions
(Roy et al., *VNN-LIB 2.0: Rigorous Foundations for Neural Network Verification*, 2026). Several networks are put side by
side (`verifier.network.joint`); inputs that an assertion makes equal become one. A network ``equal-to`` another is the same
file; one ``isomorphic-to`` another has its structure with other numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError, PropertyError
from verifier.limits import poll
from verifier.network.graph import Network
from verifier.network.joint import Model, same_function, same_structure, side_by_side
from verifier.network.ports import Port
from verifier.properties.formula import And, Formula, Or, Term, less
from verifier.properties.meaning import to_query
from verifier.properties.products import Products
from verifier.properties.query import Query

Networks = Network | Mapping[str, Network]
"""The network of a question, or each of several by the name that its file declares."""


@dataclass(frozen=True)
class Variable:
    """A declared tensor of a VNN-LIB 2.0 file.

    Attributes:
        name: as declared.
        kind: "input" or "output".
        type_name: the element type as written, ``float32`` say.
        shape: as declared, with the batch axis.
        places: where its entries are in the flat input, or output, of the query's network.
    """

    name: str
    kind: str
    type_name: str
    shape: tuple[int, ...]
    places: npt.NDArray[np.int64]


def parse(text: str, networks: Networks, *, place: str = "") -> Query:
    """The query of a VNN-LIB 2.0 text.

    Args:
        networks: the only network that it declares, or each by its name.

    Raises:
        PropertyError: a syntax error (as the ``vnnlib`` package words it), a network that is missing or not what the file
            declares, sizes that are not the network's, more than a polynomial in a condition.
    """
    tree = _tree(text, place)
    declared = _Declared(tree, _by_name(tree, networks, place), place)
    products = Products(declared.network, place)
    reader = _Reader(declared, products, place)
    assertions = [reader.formula(assertion.expr) for assertion in tree.assertions]
    return to_query(products.network(), assertions, place=place)


def network_names(text: str, *, place: str = "") -> list[str]:
    """The networks that a text needs files for, in order: all but those that are ``equal-to`` another."""
    return [n.name for n in _tree(text, place).networks if not n.equal_to]


def variables(text: str, network: Network, *, place: str = "") -> list[Variable]:
    """The declared input and output tensors of a text, in order (counterexample files repeat them).

    Args:
        network: of the query that was read from it.
    """
    inputs, outputs = iter(network.input_ports), iter(network.output_ports)
    found = []
    for declaration in _tree(text, place).networks:
        groups = (("input", declaration.inputs, inputs), ("output", declaration.outputs, outputs))
        for kind, tensors, ports in groups:
            for tensor in tensors:
                type_name = _TYPES.get(tensor.dtype.name, tensor.dtype.name.lower())
                found.append(Variable(tensor.name, kind, type_name, tuple(tensor.shape), next(ports).places))
        for _ in declaration.hidden:
            next(outputs)
    return found


_TYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "Real": "real", "Unknown": "real"}
"""Names in counterexample files, by the package's own; a tensor declared ``real`` is "Unknown" to the package."""


# -- networks --------------------------------------------------------------------------------------------
def _by_name(tree: Any, networks: Networks, place: str) -> dict[str, Network]:
    """The network of each declaration, with its hidden tensors as further outputs."""
    names = [n.name for n in tree.networks]
    needed = [n.name for n in tree.networks if not n.equal_to]
    if isinstance(networks, Network):
        if len(needed) != 1:
            raise PropertyError(
                f"the property speaks of {len(names)} networks ({', '.join(names)}), and one is given",
                place=place,
                fix=f"name a file for each: {' '.join(f'--network {n}=FILE' for n in needed)}",
            )
        networks = {needed[0]: networks}
    unknown = [name for name in networks if name not in names]
    if unknown:
        raise PropertyError(
            f"it declares no network {unknown[0]!r}", place=place, fix=f"it declares {', '.join(names)}"
        )
    found: dict[str, Network] = {}
    for declaration in tree.networks:
        name, same, like = declaration.name, declaration.equal_to, declaration.isometric_to
        given = networks.get(name) or (networks.get(same) if same else None)
        if given is None:
            missing = same or name
            raise PropertyError(
                f"no file is given for the network {missing!r}", place=place, fix=f"--network {missing}=FILE"
            )
        if same and same in networks and not same_function(given, networks[same]):
            raise PropertyError(f"{name} is declared equal to {same}, and its file is another network", place=place)
        if like and like in networks:
            difference = same_structure(given, networks[like])
            if difference:
                raise PropertyError(f"{name} is declared isomorphic to {like}, and is not: {difference}", place=place)
        found[name] = _tapped(given, [str(h.onnx_name).strip('"') for h in declaration.hidden], place)
    return found


def _tapped(network: Network, hidden: Sequence[str], place: str) -> Network:
    """The network with inner tensors as further outputs."""
    if not hidden:
        return network
    from verifier.network.loading import load

    if not network.model_file or network.tail is not None:
        raise PropertyError(
            f"the hidden tensor {hidden[0]!r} cannot be found: "
            + (
                "the network is from no ONNX file" if not network.model_file else f"its last {network.tail} is left out"
            ),
            place=place,
            fix="give an ONNX file, loaded without ordered=True",
        )
    try:
        return load(network.model_file, outputs=[*(p.name for p in network.output_ports), *hidden])
    except NetworkError as error:
        raise PropertyError(error.problem, place=place, fix=error.fix) from None


class _Declared:
    """The declared tensors, and where they are in the joint network."""

    def __init__(self, tree: Any, networks: Mapping[str, Network], place: str) -> None:
        self.tensors: dict[str, tuple[str, npt.NDArray[np.int64]]] = {}
        """By name: "x" or "y", and the flat places of its entries."""
        starts, start = {}, 0
        for name, network in networks.items():
            starts[name], start = start, start + network.input_size
        parents = list(range(start))
        for declaration in tree.networks:
            self._inputs(declaration, networks[declaration.name], starts[declaration.name], place)
        for assertion in tree.assertions:
            for first, second in self._equal(assertion.expr):
                a, b = sorted((_root(parents, first), _root(parents, second)))
                parents[b] = a
        roots = sorted({_root(parents, k) for k in range(start)})
        number = {root: k for k, root in enumerate(roots)}
        joint = np.array([number[_root(parents, k)] for k in range(start)], dtype=np.int64)
        self.tensors = {n: (letter, joint[p]) for n, (letter, p) in self.tensors.items()}
        if len(networks) == 1 and len(roots) == start:
            (self.network,) = networks.values()
        else:
            models = [Model(n, net, joint[starts[n] : starts[n] + net.input_size]) for n, net in networks.items()]
            self.network = side_by_side(models, len(roots))
        start = 0
        for declaration in tree.networks:
            network = networks[declaration.name]
            tensors = [*declaration.outputs, *declaration.hidden]
            for tensor, port in _matched(tensors, network.output_ports, "output", network, place):
                self.tensors[tensor.name] = "y", port.places.reshape(-1) + start
            start += network.output_size

    def _inputs(self, declaration: Any, network: Network, start: int, place: str) -> None:
        for tensor, port in _matched(declaration.inputs, network.input_ports, "input", network, place):
            self.tensors[tensor.name] = "x", port.places.reshape(-1) + start

    def _equal(self, node: Any) -> list[tuple[int, int]]:
        """Pairs of inputs that an assertion makes equal."""
        kind = type(node).__name__
        if kind == "And":
            return [pair for part in node.args for pair in self._equal(part)]
        if kind != "Equal":
            return []
        ends = [side for side in (node.lhs, node.rhs) if type(side).__name__ == "Var" and side.kind.name == "Input"]
        return [(self.place(ends[0])[1], self.place(ends[1])[1])] if len(ends) == 2 else []

    def place(self, variable: Any) -> tuple[str, int]:
        """Letter and flat position of one entry of a tensor."""
        letter, places = self.tensors[variable.name]
        shape = tuple(variable.shape)
        index = int(np.ravel_multi_index(tuple(variable.indices), shape)) if shape else 0
        return letter, int(places[index])


def _root(parents: list[int], k: int) -> int:
    while parents[k] != k:
        parents[k] = parents[parents[k]]
        k = parents[k]
    return k


def _matched(
    tensors: Sequence[Any], ports: Sequence[Port], kind: str, network: Network, place: str
) -> list[tuple[Any, Port]]:
    """The declared tensors with the network's: by the names that the file gives, else in order."""
    names = [str(getattr(t, "onnx_name", None) or "").strip('"') for t in tensors]
    by_name = {p.name: p for p in ports}
    if len(tensors) != len(ports):
        raise PropertyError(
            f"{len(tensors)} {kind} tensors are declared, and the network has {len(ports)} ({', '.join(by_name)})",
            place=place,
            fix="is the property meant for another network?",
        )
    found = []
    for tensor, name, port in zip(tensors, names, ports, strict=True):
        port = by_name.get(name, port)
        if prod(tensor.shape) != port.size:
            raise PropertyError(
                f"{kind} {tensor.name} has shape {list(tensor.shape)}, and the network's {kind} {port.name} has {port.size}",
                place=place,
                fix="is the property meant for another network?",
            )
        found.append((tensor, port))
    return found


# -- the syntax tree -------------------------------------------------------------------------------------
_NUMBER = re.compile(r"(?<![\w.\"\[,])[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.\"\],])")
"""A number that is no index, shape or version."""


def _plain(match: re.Match[str]) -> str:
    """A number as the standard's grammar has it: digits on both sides of a point, no exponent, no plus sign."""
    text = match.group()
    if re.fullmatch(r"-?\d+(?:\.\d+)?", text):
        return text
    from decimal import Decimal

    shown = format(Decimal(text), "f")
    return shown if "." in shown else f"{shown}.0"


def _tree(text: str, place: str) -> Any:
    try:
        import vnnlib
    except ImportError:
        raise PropertyError(
            "reading VNN-LIB 2.0 needs the package vnnlib", place=place, fix="pip install vnnlib"
        ) from None
    plain = "\n".join(
        _NUMBER.sub(_plain, line) if not line.lstrip().startswith(";") else line for line in text.split("\n")
    )
    try:
        return vnnlib.parse_query_string(plain)
    except Exception as error:
        raise _refusal(str(error), place) from None


def _refusal(message: str, place: str) -> PropertyError:
    """The package's message in one line: it is one already, or JSON with a list of errors."""
    try:
        first = json.loads(message)["errors"][0]
        line = f"{place}, line {first['line']}" if place else f"line {first['line']}"
        problem = f"not valid VNN-LIB 2.0: {first['message']} {first['offendingSymbol']!r}"
        hint = str(first.get("hint", ""))
        if "IntConstant" in hint:
            hint = f"a number of a tensor of floats needs a point: {first['offendingSymbol']}.0"
        return PropertyError(problem, place=line, fix=hint.rstrip("."))
    except (ValueError, KeyError, IndexError, TypeError):
        return PropertyError(f"not valid VNN-LIB 2.0: {' '.join(message.split())}", place=place)


class _Reader:
    """From the package's nodes to formulas."""

    def __init__(self, declared: _Declared, products: Products, place: str) -> None:
        self.declared, self.products, self.place = declared, products, place

    def formula(self, node: Any) -> Formula:
        """An assertion's condition."""
        poll("while the property was read")
        kind = type(node).__name__
        if kind in ("And", "Or"):
            parts = [self.formula(part) for part in node.args]
            return And(parts) if kind == "And" else Or(parts)
        left, right = self.term(node.lhs), self.term(node.rhs)
        match kind:
            case "LessEqual":
                return less(left, right)
            case "GreaterEqual":
                return less(right, left)
            case "LessThan":
                return less(left, right, True)
            case "GreaterThan":
                return less(right, left, True)
            case "Equal":
                return And((less(left, right), less(right, left)))
            case "NotEqual":
                return Or((less(left, right, True), less(right, left, True)))
        raise PropertyError(f"{kind} is not supported: {node}", place=self.place)

    def term(self, node: Any) -> Term:
        """A number, a variable, or arithmetic of terms."""
        kind = type(node).__name__
        if kind == "Var":
            letter, index = self.declared.place(node)
            unit = {index: Fraction(1)}
            return Term(x=unit) if letter == "x" else Term(y=unit)
        if hasattr(node, "lexeme"):
            return Term(constant=Fraction(node.lexeme))
        if kind == "Negate":
            return self.term(node.expr).times(Fraction(-1))
        if kind == "Plus":
            return _sum([self.term(a) for a in node.args], Fraction(1))
        if kind == "Minus":
            return _sum([self.term(node.head), *(self.term(a) for a in node.rest)], Fraction(-1))
        if kind == "Multiply":
            total = Term(constant=Fraction(1))
            for part in node.args:
                total = self.products.times(total, self.term(part))
            return total
        raise PropertyError(f"{kind} is not supported in a term: {node}", place=self.place)


def _sum(parts: Sequence[Term], sign: Fraction) -> Term:
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part, sign)
    return total
