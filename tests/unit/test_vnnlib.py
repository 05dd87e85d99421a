"""Property files: what they mean, and what is refused with which line."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.errors import PropertyError
from verifier.network.graph import Network, feedforward
from verifier.network.loading import load
from verifier.properties import vnnlib1
from verifier.properties.conjunction import Conjunction
from verifier.properties.formula import Term
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.properties.vnnlib import read_text, read_vnnlib, version
from verifier.rounding import float_around


def net(inputs: int, outputs: int) -> Network:
    """A random network of this size."""
    rng = np.random.default_rng(inputs * 100 + outputs)
    return feedforward(
        [rng.normal(size=(3, inputs)), rng.normal(size=(outputs, 3))], [rng.normal(size=3), np.zeros(outputs)]
    )


def declare(inputs: int, outputs: int) -> str:
    lines = [f"(declare-const X_{k} Real)" for k in range(inputs)]
    return "\n".join(lines + [f"(declare-const Y_{k} Real)" for k in range(outputs)]) + "\n"


BOX = "(assert (>= X_0 -1)) (assert (<= X_0 1.5)) (assert (and (>= X_1 0.25) (<= X_1 0.5)))\n"


def parse(body: str, inputs: int = 2, outputs: int = 2, box: str = BOX) -> Query:
    return vnnlib1.parse(declare(inputs, outputs) + box + body, net(inputs, outputs), place="p.vnnlib")


def test_box_and_one_conjunction() -> None:
    query = parse("(assert (<= Y_0 Y_1)) (assert (> Y_1 3))")
    assert query.box.lower.tolist() == [-1, 0.25]
    assert query.box.upper.tolist() == [1.5, 0.5]
    (disjunct,) = query.disjuncts
    assert query.common is None
    assert disjunct.y_rows.tolist() == [[1, -1], [0, -1]]
    assert disjunct.bound.tolist() == [0, -3]
    assert disjunct.strict.tolist() == [False, True]


def test_disjunction_keeps_common_rows_apart() -> None:
    query = parse("(assert (>= Y_0 2)) (assert (or (<= Y_0 Y_1) (and (>= Y_1 5.0) (<= Y_1 6))))")
    assert query.common.y_rows.tolist() == [[-1, 0]]
    assert [len(disjunct) for disjunct in query.disjuncts] == [1, 2]


def test_conjunction_of_two_disjunctions_is_a_product() -> None:
    query = parse("(assert (or (<= Y_0 1) (<= Y_1 1))) (assert (or (>= Y_0 5) (>= Y_1 5)))")
    assert [disjunct.y_rows.tolist() for disjunct in query.disjuncts] == [
        [[1, 0], [-1, 0]],
        [[1, 0], [0, -1]],
        [[0, 1], [-1, 0]],
        [[0, 1], [0, -1]],
    ]


def test_boxes_inside_a_disjunction_give_their_hull_and_rows() -> None:
    boxes = "(assert (or (and (>= X_0 0) (<= X_0 1) (<= Y_0 0)) (and (>= X_0 2) (<= X_0 3) (<= Y_0 0))))"
    query = parse(boxes, box="(assert (>= X_1 0)) (assert (<= X_1 1))")
    assert query.box.lower.tolist() == [0, 0]
    assert query.box.upper.tolist() == [3, 1]
    y = np.full((1, 2), -1.0)

    def inside(x0: float, disjunct: Conjunction) -> bool:
        return bool(disjunct.holds(np.array([[x0, 0.5]]), y)[0])

    assert [inside(x0, query.disjuncts[0]) for x0 in (0, 1, 1.5, 2, 3)] == [True, True, False, False, False]
    assert [inside(x0, query.disjuncts[1]) for x0 in (0, 1, 1.5, 2, 3)] == [False, False, False, True, True]


def test_cases_with_an_empty_box_are_left_out() -> None:
    query = parse("(assert (or (and (>= X_0 2) (<= Y_0 0)) (<= Y_1 0)))")
    assert len(query.disjuncts) == 1
    assert not query.vacuous
    assert "X_0 would be at least 2" in parse("(assert (>= X_0 2))").vacuous


def test_linear_terms() -> None:
    query = parse("(assert (<= (+ (* 2 Y_0) (- X_0 0.5) (* -1 Y_1 3)) (- (- 1.5) X_1)))")
    (disjunct,) = query.disjuncts
    assert disjunct.y_rows.tolist() == [[2, -3]]
    assert disjunct.x_rows.tolist() == [[1, 1]]
    assert disjunct.bound.tolist() == [-1.0]


def test_strict_input_bounds_stay_strict() -> None:
    query = parse("(assert (< X_0 1))")
    assert query.box.upper[0] == 1
    y = np.zeros((2, 2))
    assert query.disjuncts[0].holds(np.array([[1.0, 0.25], [0.5, 0.25]]), y).tolist() == [False, True]


def test_equalities() -> None:
    query = parse("(assert (= Y_0 1)) (assert (= X_0 0.5))")
    assert query.box.lower[0] == query.box.upper[0] == 0.5
    assert query.disjuncts[0].y_rows.tolist() == [[1, 0], [-1, 0]]


def test_decimals_are_rounded_outward() -> None:
    query = parse("(assert (<= X_0 0.1)) (assert (>= X_0 0.1)) (assert (<= Y_0 0.1)) (assert (>= Y_0 0.1))")
    tenth = Fraction(1, 10)
    assert Fraction(float(query.box.lower[0])) < tenth < Fraction(float(query.box.upper[0]))
    (disjunct,) = query.disjuncts
    assert Fraction(float(disjunct.bound[0])) > tenth
    assert Fraction(float(-disjunct.bound[1])) < tenth


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**6), max_value=10**6))
def test_rounding_is_outward_and_tight(value: Decimal) -> None:
    exact = Fraction(value)
    for number in (value, exact):
        low, high = float_around(number)
        assert Fraction(low) <= exact <= Fraction(high)
        assert (low == high) == (Fraction(float(exact)) == exact)
        assert np.nextafter(low, np.inf) >= high


@given(st.fractions(), st.fractions(), st.fractions(min_value=-5, max_value=5))
def test_terms_are_linear(a: Fraction, b: Fraction, factor: Fraction) -> None:
    left, right = Term(x={0: a}, constant=b), Term(x={0: b}, y={1: a})
    total = left.plus(right, factor)
    assert total.x.get(0, 0) == a + factor * b
    assert total.y.get(1, 0) == factor * a
    assert total.constant == b
    assert 0 not in total.x.values()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("(assert (<= Y_0 Y_7))", "line 6: Y_7 is not declared"),
        ("(assert (<= Y_0 1)", "ends inside"),
        ("(assert (<= Y_0 1)))", "line 6: expected '\\('"),
        ("(assert (<= Y_0))", "expected a number"),
        ("(assert (/ Y_0 0))", "division by zero"),
        ("(assert (<= 1 (/ 1 Y_0)))", "a division by a variable"),
        ("(assert (=> (<= Y_0 1)))", "'=>' with 1"),
        ("(assert (not (<= Y_0 1) (<= Y_1 1)))", "'not' with 2"),
        ("(assert (+ Y_0 1))", "a number stands where a condition"),
        ("(assert (<= (<= Y_0 1) 1))", "a condition stands where a number"),
        ("(assert (let ((Y_0 1)) (<= Y_0 1)))", "'Y_0' cannot be a name"),
        ("(assert (let ((a 1)) (<= b 1)))", "found 'b'"),
        ("(assert (ite (<= Y_0 1) (<= Y_1 1) true))", "'ite' is not supported"),
        ("(assert (<= |Y_0 1))", "unexpected character"),
        ("\n\n(assert (<= (/ Y_0 Y_1) 1))", "line 8: a division by a variable"),
        ("(assert (<= Y_0 one))", "expected a number or a variable, found 'one'"),
        ("(assert (<= Y_0 1e))", "found '1e'"),
        ("(assert (<= Y_0 0x10))", "found '0x10'"),
        ("(declare-const X_0 Real)", "declared twice"),
        ("(declare-const X_4 Int)", "only Real"),
        ("(declare-const Z_4 Real)", "'Z_4'"),
        ("(maximize Y_0)", "unknown command 'maximize'"),
        ("(assert (and))", "without arguments"),
        ("assert", "expected '\\('"),
        ('(assert (<= Y_0 "1"))', "expected a number"),
    ],
)
def test_errors_name_the_line(body: str, words: str) -> None:
    with pytest.raises(PropertyError, match=words):
        parse(body)


def test_sizes_must_fit_the_network() -> None:
    with pytest.raises(PropertyError, match="2 inputs and the network 3"):
        vnnlib1.parse(declare(2, 2) + BOX, net(3, 2))
    with pytest.raises(PropertyError, match="2 outputs and the network 4"):
        vnnlib1.parse(declare(2, 2) + BOX, net(2, 4))
    with pytest.raises(PropertyError, match="X_1 is not declared"):
        vnnlib1.parse("(declare-const X_0 Real)(declare-const X_2 Real)", net(2, 2))


def test_an_unbounded_input_is_an_error() -> None:
    with pytest.raises(PropertyError, match="input 1 is not bounded"):
        parse("", box="(assert (<= X_0 1)) (assert (>= X_0 0)) (assert (<= X_1 1))")


def holds(query: Query, x: list[int], y: list[int]) -> bool:
    """Whether a point meets everything that a query asks, exactly."""
    xs, ys = [Fraction(v) for v in x], [Fraction(v) for v in y]
    low, high = (ends.fractions() for ends in query.box.ends)
    inside = all(a <= v <= b for a, v, b in zip(low, xs, high, strict=True))
    common = query.common is None or query.common.holds_exactly(xs, ys, None)
    clauses = (query.disjuncts, *query.clauses)
    return (
        inside
        and common
        and all(any(disjunct.holds_exactly(xs, ys, None) for disjunct in disjuncts) for disjuncts in clauses)
    )


WILD = {
    "not": ("(assert (not (or (<= Y_0 1) (> Y_1 2))))", lambda y: y[0] > 1 and y[1] <= 2),
    "implication": ("(assert (=> (<= Y_0 1) (>= Y_1 2)))", lambda y: y[0] > 1 or y[1] >= 2),
    "implications": ("(assert (=> (<= Y_0 1) (<= Y_1 1) (<= Y_1 0)))", lambda y: y[0] > 1 or y[1] > 1 or y[1] <= 0),
    "xor": ("(assert (xor (<= Y_0 1) (<= Y_1 1)))", lambda y: (y[0] <= 1) != (y[1] <= 1)),
    "true and false": ("(assert (and true (or false (<= Y_0 1))))", lambda y: y[0] <= 1),
    "not false": ("(assert (not false)) (assert (<= Y_0 1))", lambda y: y[0] <= 1),
    "let": ("(assert (let ((a (+ Y_0 Y_1)) (p (<= Y_0 1))) (and p (>= a 2))))", lambda y: y[0] <= 1 and sum(y) >= 2),
    "let of outer names": ("(assert (let ((a Y_0)) (let ((a Y_1) (b a)) (< a b))))", lambda y: y[1] < y[0]),
    "division": ("(assert (<= (/ Y_0 2) (/ 1 2) ))", lambda y: y[0] <= 1),
    "chain": ("(assert (<= 0 Y_0 Y_1 2))", lambda y: 0 <= y[0] <= y[1] <= 2),
    "strict chain": ("(assert (> 2 Y_0 Y_1))", lambda y: 2 > y[0] > y[1]),
    "chain of equals": ("(assert (= Y_0 Y_1 1))", lambda y: y[0] == y[1] == 1),
    "distinct": ("(assert (distinct Y_0 Y_1 1))", lambda y: y[0] != y[1] and y[0] != 1 and y[1] != 1),
    "unequal": ("(assert (!= Y_0 1))", lambda y: y[0] != 1),
    "named": ("(assert (! (<= Y_0 1) :named first))", lambda y: y[0] <= 1),
    "capitals": ("(ASSERT (OR (<= y_0 1E0) (AND (<= Y_1 0))))", lambda y: y[0] <= 1 or y[1] <= 0),
    "information": (
        '(set-info :source |a (b\n; "c) d|) (set-option :x (y (z))) (assert (<= Y_0 1))',
        lambda y: y[0] <= 1,
    ),
    "carriage returns": ("(assert ; one\r\n (<= Y_0\r\n 1))\r\n", lambda y: y[0] <= 1),
}


@pytest.mark.parametrize("name", WILD)
def test_files_as_they_are_found(name: str) -> None:
    body, truth = WILD[name]
    query = parse(body)
    points = [[a, b] for a in (-1, 0, 1, 2, 3) for b in (-1, 0, 1, 2, 3)]
    assert [holds(query, [0, Fraction(1, 2)], y) for y in points] == [bool(truth(y)) for y in points]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "p.vnnlib"
    file.write_bytes(b"\xef\xbb\xbf" + (declare(2, 2) + BOX + "(assert (<= Y_0 1))").encode())
    assert read_vnnlib(file, net(2, 2)).box.size == 2


@pytest.mark.parametrize(
    ("rows", "lower", "upper"),
    [
        ("(assert (and (>= X_0 0) (>= X_1 0) (<= (+ X_0 X_1) 3)))", [0, 0], [3, 3]),
        ("(assert (<= 0 X_0 1)) (assert (<= -1 (- X_1 X_0) 2))", [0, -1], [1, 3]),
        ("(assert (<= -1 (+ X_0 X_1) 1)) (assert (<= -2 (- X_0 X_1) 3))", [-1.5, -2], [2, 1.5]),
        ("(assert (= X_0 0.5)) (assert (= (+ X_0 (* 2 X_1)) 1))", [0.5, 0.25], [0.5, 0.25]),
    ],
)
def test_bounds_that_follow_from_rows(rows: str, lower: list[float], upper: list[float]) -> None:
    query = parse(rows + "(assert (<= Y_0 1))", box="")
    assert (query.box.lower.tolist(), query.box.upper.tolist()) == (lower, upper)
    assert sum(len(part) for part in (query.disjuncts[0], *([query.common] if query.common else []))) >= 2


def test_rows_that_bound_too_little_or_contradict_each_other() -> None:
    with pytest.raises(PropertyError, match="not bounded"):
        parse("(assert (<= (+ X_0 X_1) 3)) (assert (>= (+ X_0 X_1) 0))", box="")
    query = parse("(assert (<= (+ X_0 X_1) 0)) (assert (>= (+ X_0 X_1) 1)) (assert (<= (- X_0 X_1) 1))", box="")
    assert "exclude each other" in query.vacuous


def test_inputs_without_bounds_take_the_networks_own_ranges() -> None:
    own = replace(net(2, 2), domain=(np.array([-1.0, -2.0]), np.array([3.0, 4.0])))
    text = declare(2, 2) + "(assert (<= 0 X_0 1)) (assert (<= Y_0 1))"
    query = vnnlib1.parse(text, own, place="p.vnnlib")
    assert (query.box.lower.tolist(), query.box.upper.tolist()) == ([0.0, -2.0], [1.0, 4.0])
    assert "X_1: within the network's own input ranges" in query.description


def test_too_many_cases_are_an_error() -> None:
    clauses = "(or (<= Y_0 1) (<= Y_1 1) (<= Y_0 2))" * 11
    with pytest.raises(PropertyError, match="65536"):
        parse(f"(assert (or (and {clauses}) (<= Y_0 0)))")
    assert len(parse(f"(assert (and {clauses}))").parts) < 100  # side by side they are not multiplied out


def test_files(tmp_path: Path) -> None:
    text = declare(2, 2) + BOX + "(assert (<= Y_0 Y_1))"
    plain, zipped = tmp_path / "p.vnnlib", tmp_path / "q.vnnlib.gz"
    plain.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    assert read_vnnlib(plain, net(2, 2)).box.upper.tolist() == read_vnnlib(zipped, net(2, 2)).box.upper.tolist()
    zipped.write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(PropertyError, match="truncated"):
        read_vnnlib(zipped, net(2, 2))
    plain.write_bytes(b"\x00\xff\xfe")
    with pytest.raises(PropertyError, match="not a text file"):
        read_vnnlib(plain, net(2, 2))
    plain.write_text("; nothing\n")
    with pytest.raises(PropertyError, match="0 inputs"):
        read_vnnlib(plain, net(2, 2))
    with pytest.raises(PropertyError, match=r"missing\.vnnlib"):
        read_vnnlib(tmp_path / "missing.vnnlib", net(2, 2))


@given(st.integers(0, 2**32 - 1))
def test_written_queries_read_back_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = net(3, 2)

    def part(rows: int) -> Conjunction:
        return Conjunction(
            x_rows=rng.normal(size=(rows, 3)) * rng.integers(0, 2, size=(rows, 3)),
            y_rows=rng.normal(size=(rows, 2)),
            bound=rng.normal(size=rows),
            strict=rng.random(rows) < 0.3,
        )

    lower = rng.normal(size=3)
    query = Query(
        network=network,
        box=Box(lower, lower + rng.random(3)),
        disjuncts=tuple(part(int(k)) for k in rng.integers(1, 4, size=rng.integers(1, 4))),
        common=part(2) if rng.random() < 0.5 else None,
    )
    again = vnnlib1.parse(vnnlib1.write(query), network)
    points = query.box.sample(50, rng)
    assert again.box.lower.tolist() == query.box.lower.tolist()
    assert again.box.upper.tolist() == query.box.upper.tolist()
    assert again.holds(points).tolist() == query.holds(points).tolist()


@pytest.mark.slow
def test_all_shared_property_files_read(shared_data: Path) -> None:
    files = sorted((shared_data / "vnncomp").glob("*/vnnlib/*"))
    for path in files:
        text = read_text(path)
        network = FakeNetwork(text.count("(declare-const X_"), text.count("(declare-const Y_"))
        query = vnnlib1.parse(text, network, place=str(path))  # type: ignore[arg-type]
        assert (query.box.width >= 0).all()
        assert all(len(disjunct) for disjunct in query.disjuncts)
    assert len(files) > 600


class FakeNetwork:
    """As much of a network as the reader looks at: sizes."""

    source = ""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.input_size, self.output_size = inputs, outputs
        self.domain = self.tail = None
        self.integer_inputs = False


def test_published_counterexamples_satisfy_what_is_read(shared_data: Path) -> None:
    category = shared_data / "vnncomp" / "acasxu"
    witnesses = json.loads(gzip.decompress((category / "witnesses.json.gz").read_bytes()))
    assert len(witnesses) > 40
    for key, witness in sorted(witnesses.items())[::6]:
        model, prop = (category / f"{name.strip()}.gz" for name in key.split("|"))
        query = read_vnnlib(prop, load(model))
        x = np.array(witness["x"], dtype=np.float64).reshape(1, -1)
        assert np.abs(x - query.box.clip(x)).max() < 1e-6
        assert query.margins(query.box.clip(x))[0] > -1e-4


# -- VNN-LIB 2.0 -----------------------------------------------------------------------------------------
HEADER = """; a comment
(vnnlib-version <2.0>)
(declare-network f
  (declare-input X float32 [1,2])
  (declare-output Y float32 [1,2])
)
"""
SECOND = """(declare-network g
  (declare-input U float32 [1,2])
  (declare-output V float32 [1,2])
)
"""
BOX2 = """(assert (and (>= X[0,0] -1.0) (<= X[0,0] 1.5)))
(assert (>= X[0,1] 0.25)) (assert (<= X[0,1] 0.5))
"""


def read2(tmp_path: Path, text: str, network: Network | None = None) -> Query:
    pytest.importorskip("vnnlib")
    file = tmp_path / "p.vnnlib"
    file.write_text(text)
    return read_vnnlib(file, network or net(2, 2))


def test_version_2_means_the_same_as_version_1(tmp_path: Path) -> None:
    body2 = "(assert (or (<= Y[0,0] (+ Y[0,1] (* 2.0 X[0,1]))) (and (> Y[0,0] 0.1) (< Y[0,1] -0.5))))"
    body1 = "(assert (or (<= Y_0 (+ Y_1 (* 2.0 X_1))) (and (> Y_0 0.1) (< Y_1 -0.5))))"
    two, one = read2(tmp_path, HEADER + BOX2 + body2), parse(body1)
    assert version(HEADER) == 2
    assert two.box.lower.tolist() == one.box.lower.tolist()
    assert two.box.upper.tolist() == one.box.upper.tolist()
    points = one.box.sample(200, np.random.default_rng(0))
    assert two.holds(points).tolist() == one.holds(points).tolist()
    assert [disjunct.bound.tolist() for disjunct in two.disjuncts] == [
        disjunct.bound.tolist() for disjunct in one.disjuncts
    ]


def test_version_2_an_or_beside_an_and_is_a_product(tmp_path: Path) -> None:
    body = "(assert (and (<= Y[0,0] 1.0) (<= Y[0,1] 1.0))) (assert (or (>= Y[0,0] 0.5) (>= Y[0,1] 0.5)))"
    query = read2(tmp_path, HEADER + BOX2 + body)
    assert len(query.common) == 2
    assert len(query.disjuncts) == 2


def test_version_2_not_equal_is_two_strict_cases(tmp_path: Path) -> None:
    query = read2(tmp_path, HEADER + BOX2 + "(assert (!= Y[0,0] 1.0)) (assert (== Y[0,1] 2.0))")
    assert [disjunct.strict.tolist() for disjunct in query.disjuncts] == [[True], [True]]
    assert query.common.strict.tolist() == [False, False]


def test_version_2_types_keep_their_names() -> None:
    pytest.importorskip("vnnlib")
    from verifier.properties.vnnlib2 import variables

    body = BOX2 + "(assert (<= Y[0,0] Y[0,1]))"
    for name in ("float32", "real"):
        found = variables(HEADER.replace("float32", name) + body, net(2, 2))
        assert [(v.name, v.kind, v.type_name, v.shape) for v in found] == [
            ("X", "input", name, (1, 2)),
            ("Y", "output", name, (1, 2)),
        ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEADER + BOX2 + "(assert (<= Y[0,0] ))", "not valid VNN-LIB 2.0"),
        (HEADER + BOX2 + "(assert (<= Y[0,5] 1.0))", "VNN-LIB 2.0"),
        (HEADER.replace("[1,2]", "[1,3]") + BOX2, "has shape"),
        (HEADER + SECOND + BOX2, "2 networks.*--network f=FILE --network g=FILE"),
    ],
)
def test_version_2_errors(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PropertyError, match=words):
        read2(tmp_path, text)
