"""Floats around exact numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.rounding import float_above, float_below, gamma


@given(st.fractions())
def test_the_floats_around_a_number_enclose_it_tightly(value: Fraction) -> None:
    low, high = float_below(value), float_above(value)
    assert Fraction(low) <= value <= Fraction(high)
    assert low == high or math.nextafter(low, math.inf) == high


@pytest.mark.parametrize("value", [Fraction(10) ** 400, -(Fraction(10) ** 400), Fraction(1, 10**400), Fraction(0.1)])
def test_beyond_and_between_the_floats(value: Fraction) -> None:
    low, high = float_below(value), float_above(value)
    assert low == -math.inf or Fraction(low) <= value
    assert high == math.inf or Fraction(high) >= value
    assert math.nextafter(low, math.inf) == high or low == high


def test_gamma_is_rounded_up() -> None:
    for k in (1, 3, 1000, 10**6):
        u = Fraction(1, 2**53)
        assert Fraction(gamma(k)) >= k * u / (1 - k * u)
