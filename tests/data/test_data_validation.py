from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from data_parts import VOCAB_SIZE, random_documents, write_channel

from harness.channels.channels import Channel
from harness.data.order.recipe import Recipe
from harness.data.validation import ValidationSet, open_validation
from harness.errors import DataError

RECIPE = Recipe(
    seed=7,
    shares={"zh": Fraction(1)},
    seq_length=16,
    vocab_size=VOCAB_SIZE,
    held_out_share=0.5,
    reset_at_document_borders=False,
)


def opened(channel: Channel, num_samples: int, recipe: Recipe = RECIPE) -> ValidationSet:
    held_out = open_validation(channel, 3, recipe, num_samples)
    assert held_out is not None
    return held_out


def targets(held_out: ValidationSet, dp_size: int, micro_batch_size: int) -> list[int]:
    """Labels that count, in the order of the samples."""
    ranks = [list(held_out.micro_batches(rank, dp_size, micro_batch_size)) for rank in range(dp_size)]
    assert {len(batches) for batches in ranks} == {-(-held_out.num_samples // (dp_size * micro_batch_size))}
    found: list[int] = []
    for turn in zip(*ranks, strict=True):
        for batch in turn:
            assert batch.tokens_BS.shape == (micro_batch_size, 16)
            assert batch.channel_ids_B.tolist() == [3] * micro_batch_size
            found += batch.labels_BS[batch.loss_mask_BS == 1].tolist()
    return found


@pytest.mark.parametrize(("dp_size", "micro_batch_size"), [(1, 1), (1, 5), (2, 2), (4, 1), (3, 8)])
def test_held_out_documents_end_to_end_each_token_once_under_any_layout(
    tmp_path: Path, dp_size: int, micro_batch_size: int
) -> None:
    documents = random_documents(30)
    held_out = opened(write_channel(tmp_path / "zh", [documents, random_documents(5)]), num_samples=1000)
    text = np.concatenate(documents[15:])
    assert targets(held_out, dp_size, micro_batch_size) == text[1:].tolist()
    assert held_out.num_samples == -(-(len(text) - 1) // 16)


def test_exactly_the_samples_asked_for(tmp_path: Path) -> None:
    documents = random_documents(30)
    held_out = opened(write_channel(tmp_path / "zh", [documents]), num_samples=5)
    assert held_out.num_samples == 5
    assert targets(held_out, 2, 2) == np.concatenate(documents[15:])[1 : 5 * 16 + 1].tolist()
    assert targets(held_out, 2, 2) == targets(held_out, 2, 2)


def test_own_path_is_used_part_after_part(tmp_path: Path) -> None:
    texts = [[np.arange(20)], [np.arange(1)], [np.arange(100, 140)]]
    own = write_channel(tmp_path / "valid", texts)
    channel = replace(write_channel(tmp_path / "zh", [random_documents(30)]), validation_parts=own.parts)
    assert targets(opened(channel, num_samples=100), 1, 2) == [*range(1, 20), *range(101, 140)]
    assert targets(opened(channel, num_samples=3), 1, 2) == [*range(1, 20), *range(101, 117)]


def test_reset_masks_the_first_token_of_a_document(tmp_path: Path) -> None:
    own = write_channel(tmp_path / "valid", [[np.arange(5), np.arange(100, 106)]])
    channel = replace(own, name="zh", validation_parts=own.parts)
    held_out = opened(channel, 9, replace(RECIPE, reset_at_document_borders=True))
    assert targets(held_out, 1, 1) == [1, 2, 3, 4, 101, 102, 103, 104, 105]


def test_nothing_held_out(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(30)])
    assert open_validation(channel, 0, replace(RECIPE, held_out_share=0.0), 4) is None


def test_damage_is_told_with_the_channel(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [[np.arange(20), np.full(20, 40)]])
    held_out = opened(channel, 4, replace(RECIPE, vocab_size=40))
    message = r"channel zh \(validation\): token 0 of document 1 in .*part-00000.bin has id 40; the vocabulary has ids"
    with pytest.raises(DataError, match=message):
        next(held_out.micro_batches(0, 1, 1))
    channel.parts[0].idx_path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"channel zh \(validation\): .*part-00000.idx is truncated"):
        opened(channel, 4)
