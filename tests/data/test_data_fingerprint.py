from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from harness.data.channels import Channel
from harness.data.fingerprint import as_recorded, data_differences, data_fingerprint, require_same_data
from harness.data.recipe import Recipe
from harness.errors import EXIT_BAD_DATA, CheckpointError

RECIPE = Recipe(
    seed=7,
    shares={"zh": Fraction(2, 3), "en": Fraction(1, 3)},
    seq_length=16,
    vocab_size=1000,
    held_out_share=0.01,
    reset_at_document_borders=False,
)


def recorded(channels: tuple[Channel, ...], recipe: Recipe = RECIPE) -> dict[str, Any]:
    """As it comes back from a file."""
    loaded: dict[str, Any] = json.loads(json.dumps(data_fingerprint(channels, recipe)))
    return loaded


def test_same_data_has_no_difference(channels: tuple[Channel, ...]) -> None:
    turned = replace(RECIPE, shares=dict(reversed(RECIPE.shares.items())))
    current = data_fingerprint(tuple(reversed(channels)), turned)
    assert data_differences(recorded(channels), current) == []
    require_same_data(recorded(channels), current)
    assert "code" not in current["channels"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": 8}, "seed: 7 -> 8"),
        ({"seq_length": 32}, "seq_length: 16 -> 32"),
        ({"vocab_size": 2000}, "vocab_size: 1000 -> 2000"),
        ({"held_out_share": 0.02}, "held_out_share: 0.01 -> 0.02"),
        ({"reset_at_document_borders": True}, "reset_at_document_borders: False -> True"),
        ({"shares": {"zh": Fraction(1, 3), "en": Fraction(2, 3)}}, "shares.zh: 2/3 -> 1/3"),
    ],
)
def test_changed_setting(channels: tuple[Channel, ...], change: dict[str, Any], line: str) -> None:
    assert data_differences(recorded(channels), data_fingerprint(channels, replace(RECIPE, **change)))[0] == line


def test_changed_parts(channels: tuple[Channel, ...]) -> None:
    zh, en, _ = channels
    first, second, third = zh.parts
    altered = replace(zh, parts=(first, replace(second, num_tokens=1, xxh3="f" * 16), third))
    assert data_differences(recorded(channels), data_fingerprint((altered, en), RECIPE)) == [
        f"channels.zh.parts.part-00001.tokens: {second.num_tokens} -> 1",
        f"channels.zh.parts.part-00001.xxh3: {second.xxh3} -> ffffffffffffffff",
    ]
    swapped = replace(zh, parts=(second, first, third))
    assert data_differences(recorded(channels), data_fingerprint((swapped, en), RECIPE)) == [
        "channels.zh.parts: part-00000, part-00001, part-00002 -> part-00001, part-00000, part-00002"
    ]
    own = replace(zh, validation_parts=zh.parts)
    assert data_differences(recorded(channels), data_fingerprint((own, en), RECIPE)) == [
        "channels.zh.has_validation_path: False -> True"
    ]


def test_refusal_lists_the_first_differences(channels: tuple[Channel, ...]) -> None:
    other = {"channels": {}, "seed": 8}
    with pytest.raises(CheckpointError) as caught:
        require_same_data(recorded(channels), other)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the checkpoint was trained on other data (checkpoint -> now):"
    assert lines[1:3] == ["  data.seed: 7 -> 8", "  data.seq_length: 16 -> (absent)"]
    assert lines[-2].startswith("  … and ")
    assert lines[-1] == "Restore the data and settings of the checkpoint, or start a new run from its weights."
    assert len(lines) == 23
    assert caught.value.exit_code == EXIT_BAD_DATA


def test_parts_finished_since_are_left_out_on_resume(channels: tuple[Channel, ...]) -> None:
    zh = channels[0]
    before = replace(zh, parts=zh.parts[:2])
    known = recorded((before, channels[1]))
    assert as_recorded(zh, known) == before
    require_same_data(known, data_fingerprint((as_recorded(zh, known), channels[1]), RECIPE))
    reordered = replace(zh, parts=tuple(reversed(zh.parts)))
    assert as_recorded(reordered, known) == reordered  # left as it is, for the comparison to refuse
    assert as_recorded(zh, {}) == zh
