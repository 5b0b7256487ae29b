from __future__ import annotations

import pytest

from harness.run import metric_names as names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (names.lm_loss_of("zh"), "train/lm_loss/zh"),
        (names.tokens_of("zh"), "train/tokens/zh"),
        (names.epochs_of("zh"), "data/epochs/zh"),
        (names.valid_lm_loss_of("zh"), "valid/lm_loss/zh"),
        (names.valid_bits_per_byte_of("zh"), "valid/bits_per_byte/zh"),
    ],
)
def test_per_channel_names_are_the_contract_and_lead_back_to_the_channel(name: str, expected: str) -> None:
    assert name == expected
    assert names.channel_of(name) == "zh"


@pytest.mark.parametrize("name", [names.LM_LOSS, names.GRAD_NORM, names.BATCH_HASH, "train/lm_loss/", "zh"])
def test_names_without_a_channel_have_none(name: str) -> None:
    assert names.channel_of(name) is None
