from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.data.batch import collate

ROWS = np.array([[1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]])
COUNTS = [[2, 1, 4], [4], []]


def test_labels_are_the_tokens_moved_by_one() -> None:
    batch = collate(ROWS, COUNTS, np.array([2, 0, 1]), reset_at_document_borders=False)
    assert batch.tokens_BS.tolist() == ROWS[:, :-1].tolist()
    assert batch.labels_BS.tolist() == ROWS[:, 1:].tolist()
    assert batch.tokens_BS.is_contiguous()
    assert batch.labels_BS.is_contiguous()
    assert batch.loss_mask_BS.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0], [0] * 6]
    assert batch.channel_ids_B.tolist() == [2, 0, 1]
    assert batch.document_starts is None
    assert batch.position_ids_BS.tolist() == [list(range(6))] * 3


def test_reset_keeps_documents_apart() -> None:
    batch = collate(ROWS, COUNTS, np.array([2, 0, 1]), reset_at_document_borders=True)
    assert batch.document_starts is not None
    assert batch.document_starts.tolist() == [0, 2, 3, 6, 10, 12, 18], "samples are documents too, padding is one"
    assert batch.position_ids_BS.tolist() == [[0, 1, 0, 0, 1, 2], [0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5]]
    assert batch.loss_mask_BS.tolist() == [[1, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize(
    ("apart", "masked", "row"),
    [
        (False, None, [1, 1, 1, 1, 1, 1]),
        (False, True, [1, 0, 0, 1, 1, 1]),
        (True, None, [1, 0, 0, 1, 1, 1]),
        (True, False, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_first_tokens_of_documents_count_by_choice(apart: bool, masked: bool | None, row: list[int]) -> None:
    channels = np.array([2, 0, 1])
    batch = collate(ROWS, COUNTS, channels, reset_at_document_borders=apart, eod_mask_loss=masked)
    assert batch.loss_mask_BS.tolist() == [row, [1, 1, 1, 0, 0, 0], [0] * 6], "padding never counts"
    plain = collate(ROWS, COUNTS, channels, reset_at_document_borders=apart)
    assert torch.equal(batch.position_ids_BS, plain.position_ids_BS)
    assert (batch.document_starts is not None) == apart


def test_number_formats() -> None:
    batch = collate(ROWS, COUNTS, np.array([2, 0, 1]), reset_at_document_borders=True)
    assert batch.document_starts is not None
    assert [batch.tokens_BS.dtype, batch.labels_BS.dtype, batch.channel_ids_B.dtype] == [torch.int64] * 3
    assert [batch.loss_mask_BS.dtype, batch.document_starts.dtype] == [torch.float32, torch.int32]
    assert batch.position_ids_BS.dtype == torch.int64


def test_moving_a_batch_moves_every_tensor() -> None:
    batch = collate(ROWS, COUNTS, np.array([2, 0, 1]), reset_at_document_borders=True).to(torch.device("meta"))
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) == 6
