"""A strict reader of VNN-LIB 1.0 as it is found, and a writer.

VNN-LIB 1.0 (https://www.vnnlib.org, 2021) is a subset of SMT-LIB 2: constants ``X_i`` and ``Y_j``, and
assertions of ``<= >= < > =`` between linear terms (``+ - *``), combined by ``and`` and ``or``. Files use more of SMT-LIB:
``not``, ``=>``, ``xor``, ``true``, ``false``, ``distinct``, ``let``, ``(! … :named …)``, division by numbers, comparisons
of more than two terms, ``|quoted|`` texts, and words in capitals. All of it is read for what SMT-LIB says it means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from itertools import combinations, count, pairwise
from math import lcm
from typing import TypeVar

from verifier.errors import PropertyError
from verifier.limits import poll
from verifier.network.graph import Network
from verifier.properties.conjunction import Conjunction
from verifier.properties.formula import And, Atom, Formula, Or, Term, less, negation
from verifier.properties.meaning import to_query
from verifier.properties.products import Products
from verifier.properties.query import Query

_PIECE = re.compile(r"(?:\s+|;[^\n]*)*(?:([()]|\"[^\"]*\"|\|[^|]*\||[^\s();\"|]+)|(.)|\Z)")
"""Blanks and comments, and then a token, a character that begins none, or the end: one of them matches everywhere."""
_NUMBER = re.compile(r"[+-]?(?:\d{1,2000}\.?\d{0,2000}|\.\d{1,2000})(?:[eE][+-]?\d{1,4})?\Z", re.ASCII)
_VARIABLE = re.compile(r"([XYxy])_(0|[1-9]\d*)\Z", re.ASCII)
_IGNORED = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}
_COMPARISONS = ("<=", ">=", "<", ">", "=")
_CONNECTIVES = ("and", "or", "not", "=>", "xor", "distinct", "!=")
_ONE, _MINUS_ONE = Decimal(1), Decimal(-1)

Expression = Formula | Term
T = TypeVar("T")


def parse(text: str, network: Network, *, place: str = "") -> Query:
    """The query of a VNN-LIB 1.0 text: "is there an input that satisfies all assertions?".

    Args:
        text: the file's text.
        network: the network; every ``X_i`` and ``Y_j`` must be declared, and fit its flattened input and output.
        place: the file's name, for messages.

    Raises:
        PropertyError: with the line, for anything outside the subset; for sizes that are not the network's.
    """
    products = Products(network, place)
    parser = _Parser(text, place, products)
    assertions = parser.commands()
    for letter, size, what in (("X", network.input_size, "inputs"), ("Y", network.output_size, "outputs")):
        declared = parser.declared[letter]
        if declared != set(range(len(declared))):
            missing = min(set(range(len(declared))) - declared)
            raise PropertyError(f"{letter}_{missing} is not declared, but {letter}_{max(declared)} is", place=place)
        if len(declared) != size:
            raise PropertyError(
                f"the property has {len(declared)} {what} and the network {size}",
                place=place,
                fix="is the property meant for another network?",
            )
    return to_query(products.network(), assertions, place=place)


class _Parser:
    """Recursive descent over a flat list of tokens; positions are kept only to name lines in errors."""

    def __init__(self, text: str, place: str, products: Products) -> None:
        self.text, self.place, self.products = text, place, products
        self.tokens: list[str] = []
        self.offsets: list[int] = []
        self.declared: dict[str, set[int]] = {"X": set(), "Y": set()}
        self.named: dict[str, Expression] = {}
        for piece in _PIECE.finditer(text):
            which = piece.lastindex
            if which == 1:
                self.tokens.append(piece[1])
                self.offsets.append(piece.start(1))
            elif which == 2:
                raise self._error_at(piece.start(2), f"unexpected character {piece[2]!r}")
        self.next = 0

    # -- errors ------------------------------------------------------------------------------------------
    def _error_at(self, offset: int, problem: str, fix: str = "") -> PropertyError:
        line = self.text.count("\n", 0, offset) + 1
        return PropertyError(problem, place=f"{self.place}, line {line}" if self.place else f"line {line}", fix=fix)

    def _error(self, problem: str, token: int | None = None, fix: str = "") -> PropertyError:
        k = self.next if token is None else token
        return self._error_at(self.offsets[k] if k < len(self.offsets) else len(self.text), problem, fix)

    def _take(self) -> str:
        if self.next >= len(self.tokens):
            raise self._error("the file ends inside an expression", fix="a closing parenthesis is missing")
        self.next += 1
        return self.tokens[self.next - 1]

    def _expect(self, token: str) -> None:
        found = self._take()
        if found != token:
            raise self._error(f"expected {token!r}, found {found!r}", self.next - 1)

    # -- grammar -----------------------------------------------------------------------------------------
    def commands(self) -> list[Formula]:
        """All commands; the asserted formulas."""
        assertions: list[Formula] = []
        while self.next < len(self.tokens):
            self._expect("(")
            command = self._take().lower()
            if command in ("declare-const", "declare-fun"):
                self._declare(command)
            elif command == "assert":
                assertions.append(self._formula())
                self._expect(")")
            elif command in _IGNORED:
                depth = 1
                while depth:
                    depth += {"(": 1, ")": -1}.get(self._take(), 0)
            else:
                raise self._error(
                    f"unknown command {command!r}", self.next - 1, "VNN-LIB 1.0 has declare-const and assert"
                )
        return assertions

    def _declare(self, command: str) -> None:
        name, at = self._take(), self.next - 1
        if command == "declare-fun":
            self._expect("(")
            self._expect(")")
        kind = self._take()
        if kind.lower() != "real":
            raise self._error(f"{name} is declared as {kind!r}; only Real is supported", self.next - 1)
        match = _VARIABLE.match(name)
        if not match:
            raise self._error(f"variable {name!r}: names are X_0, X_1, … and Y_0, Y_1, …", at)
        declared, index = self.declared[match[1].upper()], int(match[2])
        if index in declared:
            raise self._error(f"{name} is declared twice", at)
        declared.add(index)
        self._expect(")")

    def _formula(self) -> Formula:
        at = self.next
        found = self._expression()
        if isinstance(found, Term):
            raise self._error("a number stands where a condition should", at)
        return found

    def _term(self) -> Term:
        at = self.next
        found = self._expression()
        if not isinstance(found, Term):
            raise self._error("a condition stands where a number should", at)
        return found

    def _expression(self) -> Expression:
        token, at = self._take(), self.next - 1
        if token != "(":
            return self._leaf(token, at)
        head, at = self._take(), self.next - 1
        word = head.lower()
        if word in _COMPARISONS:
            return self._comparison(word, at)
        if word in _CONNECTIVES:
            return self._connective(word, at)
        if word in ("+", "-", "*", "/"):
            return self._arithmetic(word, at)
        if word == "let":
            return self._let()
        if word == "!":  # an expression with remarks
            found = self._expression()
            while self._take() != ")":
                pass
            return found
        raise self._error(
            f"{head!r} is not supported here",
            at,
            "expected a comparison, and, or, not, =>, xor, distinct, let, or arithmetic by + - * /",
        )

    def _comparison(self, head: str, at: int) -> Formula:
        fast = self._single_input_bound(head)
        if fast is not None:
            return fast
        terms = [self._term(), self._term()]
        terms += self._rest(self._term)
        atoms: list[Formula] = []
        for left, right in pairwise(terms):
            if head == "=":
                atoms += [less(left, right), less(right, left)]
            elif head in ("<=", "<"):
                atoms.append(less(left, right, head == "<"))
            else:
                atoms.append(less(right, left, head == ">"))
        return atoms[0] if len(atoms) == 1 else And(atoms)

    def _connective(self, head: str, at: int) -> Formula:
        if head in ("distinct", "!="):
            terms = self._rest(self._term)
            if len(terms) < 2:
                raise self._error(f"{head!r} needs two terms", at)
            return And([Or([less(a, b, True), less(b, a, True)]) for a, b in combinations(terms, 2)])
        parts = self._rest(self._formula)
        if len(parts) != 1 if head == "not" else len(parts) < (1 if head in ("and", "or") else 2):
            raise self._error(f"{head!r} without arguments" if not parts else f"{head!r} with {len(parts)} of them", at)
        if head == "not":
            return negation(parts[0])
        if head == "=>":  # a => b => c is a => (b => c)
            return Or([*(negation(p) for p in parts[:-1]), parts[-1]])
        if head == "xor":
            total = parts[0]
            for part in parts[1:]:
                total = Or([And([total, negation(part)]), And([negation(total), part])])
            return total
        return And(parts) if head == "and" else Or(parts)

    def _rest(self, one: Callable[[], T]) -> list[T]:
        """What stands before the closing parenthesis, which is taken too."""
        found: list[T] = []
        while self.next < len(self.tokens) and self.tokens[self.next] != ")":
            found.append(one())
            poll("while the property was read")
        self._expect(")")
        return found

    def _let(self) -> Expression:
        """``(let ((name expression) …) expression)``: the names are not known to each other's expressions."""
        self._expect("(")
        names: dict[str, Expression] = {}
        while self._take() == "(":
            name, at = self._take(), self.next - 1
            if name in "()" or _VARIABLE.match(name) or _NUMBER.match(name):
                raise self._error(f"{name!r} cannot be a name here", at)
            names[name] = self._expression()
            self._expect(")")
        if self.tokens[self.next - 1] != ")":
            raise self._error(f"expected ')', found {self.tokens[self.next - 1]!r}", self.next - 1)
        outer = self.named
        self.named = {**outer, **names}
        found = self._expression()
        self._expect(")")
        self.named = outer
        return found

    def _single_input_bound(self, head: str) -> Atom | None:
        """``<= X_i number)`` and ``>= X_i number)``, nearly all of a file, without rational arithmetic."""
        window = self.tokens[self.next : self.next + 3]
        if len(window) < 3 or window[2] != ")" or head == "=" or window[0][:2] not in ("X_", "x_"):
            return None
        index = int(window[0][2:]) if window[0][2:].isdecimal() else -1
        if index not in self.declared["X"] or not _NUMBER.match(window[1]):
            return None
        self.next += 3
        value, strict = Decimal(window[1]), head in ("<", ">")
        if head in ("<=", "<"):
            return Atom({index: _ONE}, {}, value, strict)
        return Atom({index: _MINUS_ONE}, {}, value.copy_negate(), strict)

    def _arithmetic(self, head: str, at: int) -> Term:
        parts = self._rest(self._term)
        if not parts:
            raise self._error(f"{head!r} without arguments", at)
        if head == "-":
            return parts[0].times(Fraction(-1)) if len(parts) == 1 else _sum(parts, Fraction(-1))
        if head == "+":
            return _sum(parts, Fraction(1))
        if head == "/":
            return self._quotient(parts, at)
        total = Term(constant=Fraction(1))
        for part in parts:
            total = self.products.times(total, part)
        return total

    def _quotient(self, parts: list[Term], at: int) -> Term:
        total = parts[0]
        if len(parts) < 2:
            raise self._error("'/' needs two terms", at)
        for part in parts[1:]:
            if not part.is_constant:
                raise self._error("a division by a variable is not linear", at)
            if part.constant == 0:
                raise self._error("a division by zero", at)
            total = total.times(1 / part.constant)
        return total

    def _leaf(self, token: str, at: int) -> Expression:
        if _NUMBER.match(token):
            return Term(constant=Fraction(token))
        if token in self.named:
            return self.named[token]
        if token.lower() in ("true", "false"):
            return And(()) if token.lower() == "true" else Or(())
        match = _VARIABLE.match(token)
        if not match:
            raise self._error(f"expected a number or a variable, found {token!r}", at)
        letter, index = match[1].upper(), int(match[2])
        if index not in self.declared[letter]:
            raise self._error(f"{token} is not declared", at)
        unit = {index: Fraction(1)}
        return Term(x=unit) if letter == "X" else Term(y=unit)


def _sum(parts: list[Term], sign: Fraction) -> Term:
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part, sign)
    return total


# -- writing ---------------------------------------------------------------------------------------------
def write(query: Query) -> str:
    """The query as VNN-LIB 1.0 text, with every number exactly as the query holds it.

    Raises:
        PropertyError: the query speaks of the gradient, which VNN-LIB 1.0 cannot say.
    """
    if query.gradient is not None:
        raise PropertyError("VNN-LIB 1.0 cannot speak of the gradient", fix="keep the pickled query instead")
    lines = [f"; {line}" for line in query.description.splitlines()]
    lines += [f"(declare-const X_{k} Real)" for k in range(query.network.input_size)]
    lines += [f"(declare-const Y_{k} Real)" for k in range(query.network.output_size)]
    for k, (low, high) in enumerate(zip(*(ends.fractions() for ends in query.box.ends), strict=True)):
        lines += [f"(assert {_inequality('>=', {f'X_{k}': Fraction(1)}, low)})"]
        lines += [f"(assert {_inequality('<=', {f'X_{k}': Fraction(1)}, high)})"]
    if query.common is not None:
        lines += [f"(assert {atom})" for atom in _atoms(query.common)]
    for choice in (query.disjuncts, *query.clauses):
        disjuncts = [list(_atoms(disjunct)) for disjunct in choice]
        if len(disjuncts) == 1:
            lines += [f"(assert {atom})" for atom in disjuncts[0]]
        elif all(disjuncts):
            lines += ["(assert (or", *(f"  (and {' '.join(atoms)})" for atoms in disjuncts), "))"]
    return "\n".join(lines) + "\n"


def _atoms(part: Conjunction) -> Iterable[str]:
    for k in range(len(part)):
        row = part.exact_row(k)
        coefficients = {f"{letter}_{j}": a for letter, m in (("X", row.x), ("Y", row.y)) for j, a in m.items()}
        yield _inequality("<" if part.strict[k] else "<=", coefficients, row.bound)


def _inequality(sign: str, coefficients: Mapping[str, Fraction], bound: Fraction) -> str:
    """An inequality in decimals; times a number that makes it so, where they are none."""
    factor = lcm(*(_not_decimal(a) for a in (*coefficients.values(), bound)))
    terms = [name if a * factor == 1 else f"(* {_decimal(a * factor)} {name})" for name, a in coefficients.items()]
    left = terms[0] if len(terms) == 1 else f"(+ {' '.join(terms)})" if terms else "0"
    return f"({sign} {left} {_decimal(bound * factor)})"


def _not_decimal(value: Fraction) -> int:
    """The part of a denominator that no power of ten has."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest


def _decimal(value: Fraction) -> str:
    """A fraction whose denominator divides a power of ten."""
    twos = (value.denominator & -value.denominator).bit_length() - 1
    fives = next(k for k in count() if 5**k == value.denominator >> twos)
    digits = max(twos, fives)
    shown = str(abs(value.numerator) * 10**digits // value.denominator).rjust(digits + 1, "0")
    place = len(shown) - digits
    return ("-" if value < 0 else "") + shown[:place] + (f".{shown[place:]}" if digits else "")
