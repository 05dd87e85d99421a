"""Checks what a JSON file holds against a schema, strictly: unknown keys and wrong types are named, with the place.

The schema is the published one, ``verifier/data/repair.schema.json``. Of JSON Schema this knows what that file uses:
``$ref`` into ``$defs``, ``oneOf``, ``type``, ``properties``, ``required``, ``additionalProperties: false``, ``items``,
``minItems`` and ``maxItems``. (Where alternatives do not match, a general validator reports all of them; here the one
that was meant is found by its keys, so that one fault makes one message.)
"""

from __future__ import annotations

import difflib
import json
import math
from functools import cache
from importlib import resources
from typing import Any

Path = tuple[str | int, ...]

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "number": (int, float),
    "integer": (int,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
}


class Mismatch(Exception):
    """Something that does not fit the schema.

    Attributes:
        path: keys and indices from the top to the place.
        problem: what is wrong there.
    """

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(problem)


@cache
def schema() -> dict[str, Any]:
    """The schema of specifications of repairs."""
    text = (resources.files("verifier") / "data" / "repair.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def validate(value: object, rule: dict[str, Any] | None = None, path: Path = ()) -> None:
    """Check a value against a rule of the schema (the whole schema, if None).

    Raises:
        Mismatch: at the first thing that does not fit.
    """
    rule = _resolved(schema() if rule is None else rule)
    if "oneOf" in rule:
        validate(value, _meant(value, [_resolved(r) for r in rule["oneOf"]], path), path)
        return
    kinds = rule.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        raise Mismatch(path, f"{_shown(value)} is not {' or '.join(_article(k) for k in kinds)}")
    if isinstance(value, dict):
        _validate_object(value, rule, path)
    elif isinstance(value, list):
        low, high = rule.get("minItems", 0), rule.get("maxItems", math.inf)
        if not low <= len(value) <= high:
            wanted = f"{low}" if low == high else f"at least {low}"
            raise Mismatch(path, f"{len(value)} entries where {wanted} belong")
        for k, item in enumerate(value):
            validate(item, rule.get("items", {}), (*path, k))


def _validate_object(value: dict[str, Any], rule: dict[str, Any], path: Path) -> None:
    properties = rule.get("properties", {})
    for key in value:
        if key not in properties and rule.get("additionalProperties") is False:
            near = difflib.get_close_matches(key, properties, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(map(repr, properties))}"
            raise Mismatch(path, f"the key {key!r} is not known ({advice})")
    for key in rule.get("required", []):
        if key not in value:
            raise Mismatch(path, f"the key {key!r} is missing")
    for key, item in value.items():
        validate(item, properties.get(key, {}), (*path, key))


def _meant(value: object, rules: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """The alternative that a value is closest to: the one with most of its required keys, then with most known keys."""
    if not isinstance(value, dict):
        return {"type": "object"}

    def closeness(rule: dict[str, Any]) -> tuple[int, ...]:
        known = rule["properties"]
        near = sum(bool(difflib.get_close_matches(key, known, n=1)) for key in value)
        return len(value.keys() & set(rule["required"])), len(value.keys() & known.keys()), near, rules.index(rule)

    best = max(rules, key=closeness)
    if closeness(best)[0]:
        return best
    # none of the keys that tell the alternatives apart: a misspelt one, or none
    telling = [key for rule in rules for key in rule["required"]]
    for key in value:
        near = difflib.get_close_matches(key, telling, n=1)
        if near:
            raise Mismatch(path, f"the key {key!r} is not known (did you mean {near[0]!r}?)")
    choices = [" with ".join(map(repr, rule["required"])) for rule in rules]
    raise Mismatch(path, f"one of these keys is needed: {'; '.join(choices)}")


def _resolved(rule: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in rule:
        rule = schema()["$defs"][rule["$ref"].rsplit("/", 1)[1]]
    return rule


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, TYPES[kind]) and not (isinstance(value, float) and not math.isfinite(value))


def _article(kind: str) -> str:
    return {"integer": "a whole number", "object": "an object", "array": "a list", "null": "null"}.get(
        kind, f"a {kind}"
    )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def in_words(path: Path) -> str:
    """A place below another: ``region.line[1]``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")
