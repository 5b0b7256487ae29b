from __future__ import annotations

from harness.trace.substitutions import SUBSTITUTIONS


def test_every_substitution_has_a_place_of_its_own_and_a_reason() -> None:
    places = [f"{each.module}.{each.name}" for each in SUBSTITUTIONS]
    assert len(places) == len(set(places))
    assert all(each.why.endswith(".") for each in SUBSTITUTIONS)
