"""Differences of fingerprints."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from checkpoint_samples import FINGERPRINT

from harness.errors import CheckpointError
from harness.run.checkpoints.compare import differences, require_same

ZH = FINGERPRINT["data"]["channels"]["zh"]["parts"]


def changed(**changes: object) -> dict[str, Any]:
    """The sample fingerprint with values set by path: `data__channels__en__weight=1`."""
    result = copy.deepcopy(FINGERPRINT)
    for path, value in changes.items():
        *folders, name = path.split("__")
        place = result
        for folder in folders:
            place = place[folder]
        place[name] = value
    return result


def parts(*prefixes: int) -> list[dict[str, Any]]:
    return [{"prefix": f"part-{k:05d}", "tokens": 100 + k, "xxh3": f"{k:016x}"} for k in prefixes]


def with_zh(parts: object) -> dict[str, Any]:
    return changed(data__channels__zh__parts=parts)


CHANGED_ZH = "data.channels.zh.parts"


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (changed(), []),
        (changed(model__rope_base=10000), []),
        (changed(model__num_layers=24), ["model.num_layers: checkpoint 32, now 24"]),
        (changed(model__qk_norm=0), ["model.qk_norm: checkpoint false, now 0"]),
        (changed(model__bias=True), ["model.bias: checkpoint absent, now true"]),
        (changed(tokenizer__xxh3="x" * 100), [f'tokenizer.xxh3: checkpoint "{"a" * 16}", now "{"x" * 78}…']),
        (
            changed(model={"num_layers": 24}),
            [
                "model.num_layers: checkpoint 32, now 24",
                "model.hidden_size: checkpoint 4096, now absent",
                "model.rope_base: checkpoint 10000.0, now absent",
                "model.qk_norm: checkpoint false, now absent",
            ],
        ),
        (
            changed(tokenizer=None),
            ['tokenizer: checkpoint {"vocab_size": 32000, "xxh3": "aaaaaaaaaaaaaaaa"}, now null'],
        ),
        (with_zh(parts(0, 1)), [f"{CHANGED_ZH}: 'part-00002' of the checkpoint is gone"]),
        (
            with_zh([ZH[0], ZH[1] | {"tokens": 9}, ZH[2]]),
            [f"{CHANGED_ZH}[part-00001].tokens: checkpoint 101, now 9"],
        ),
        (
            with_zh(parts(0, 2, 1)),
            [f"{CHANGED_ZH}: the order differs, first where the checkpoint has 'part-00001' and now is 'part-00002'"],
        ),
        (with_zh(parts(0, 7, 1, 2)), [f"{CHANGED_ZH}: 'part-00007' was added before parts of the checkpoint"]),
        (with_zh(parts(0, 1, 2, 3)), [f"{CHANGED_ZH}: 'part-00003' was added at the end"]),
        (
            with_zh("none"),
            [f'{CHANGED_ZH}: checkpoint {json.dumps(ZH)[:79]}…, now "none"'],
        ),
    ],
)
def test_each_difference_is_one_line(new: dict[str, Any], lines: list[str]) -> None:
    assert differences(FINGERPRINT, new) == lines


def test_lists_are_compared_item_by_item() -> None:
    assert differences({"a": [1, 2]}, {"a": (1, 2)}) == []
    assert differences({"a": [1, 2]}, {"a": [1, 3]}) == ["a[1]: checkpoint 2, now 3"]
    assert differences({"a": [1, 2]}, {"a": [1]}) == ["a: checkpoint [1, 2], now [1]"]


def test_parts_may_be_added_at_the_end_when_data_arrives() -> None:
    grown = changed(data__channels__zh__parts=parts(0, 1, 2, 3, 4))
    assert len(differences(FINGERPRINT, grown)) == 2
    assert differences(FINGERPRINT, grown, allow_added_parts=True) == []
    require_same(FINGERPRINT, grown, allow_added_parts=True)
    for prefixes in ((0, 1), (3, 0, 1, 2), (0, 2, 1, 3), (0, 1, 3)):
        other = changed(data__channels__zh__parts=parts(*prefixes))
        assert differences(FINGERPRINT, other, allow_added_parts=True) != []


def test_a_thousand_differences_are_counted() -> None:
    old = {"channels": {"en": {"parts": parts(*range(1000))}}}
    new = {"channels": {"en": {"parts": [part | {"tokens": 0} for part in parts(*range(1000))]}}}
    lines = differences(old, new)
    assert len(lines) == 11
    assert lines[-1] == "… and 990 more of this kind"
    assert len(differences({"a": list(range(1000))}, {"a": list(range(1, 1001))})) == 11


def test_a_different_model_is_refused() -> None:
    require_same(FINGERPRINT, changed())
    with pytest.raises(CheckpointError) as caught:
        require_same(FINGERPRINT, changed(model__num_layers=24, data__seed=1))
    assert str(caught.value) == (
        "The checkpoint does not belong to this configuration:\n"
        "  model.num_layers: checkpoint 32, now 24\n"
        "  data.seed: checkpoint 1234, now 1\n"
        "Give the configuration and the data with which it was saved, "
        "or another --run-dir to train this configuration from the start."
    )
