"""What modules that predict further tokens read and predict, at the ends of samples and of documents."""

from __future__ import annotations

import numpy as np
import torch

from harness.data.batch import Batch, collate
from harness.model.further_tokens.targets import Targets, targets_ahead

ROWS = np.array([[10, 11, 12, 13, 14, 15, 16], [20, 21, 22, 23, 24, 25, 26]], dtype=np.int64)
DOCUMENTS = [[3, 4], [1, 2, 2]]  # the last row ends with two tokens of padding


def _batch(*, reset: bool) -> Batch:
    return collate(ROWS, DOCUMENTS, np.zeros(2, dtype=np.int64), reset_at_document_borders=reset)


def _targets(batch: Batch, distance: int) -> Targets:
    return targets_ahead(batch.tokens_BS, batch.labels_BS, batch.loss_mask_BS, distance, batch.document_starts)


def _counted(targets: Targets) -> list[list[int]]:
    """The labels that count."""
    pairs = zip(targets.labels_BS.tolist(), targets.loss_mask_BS.tolist(), strict=True)
    return [[label if weight else 0 for label, weight in zip(*pair, strict=True)] for pair in pairs]


def test_a_sample_is_read_and_predicted_to_its_end() -> None:
    first, second = (_targets(_batch(reset=False), distance) for distance in (1, 2))
    assert first.tokens_BS.tolist() == [[11, 12, 13, 14, 15, 0], [21, 22, 23, 24, 25, 0]]
    assert _counted(first) == [[12, 13, 14, 15, 16, 0], [22, 23, 24, 0, 0, 0]]  # padding is not predicted
    assert second.tokens_BS.tolist() == [[12, 13, 14, 15, 0, 0], [22, 23, 24, 25, 0, 0]]
    assert _counted(second) == [[13, 14, 15, 16, 0, 0], [23, 24, 0, 0, 0, 0]]


def test_documents_apart_know_nothing_of_each_other() -> None:
    first, second = (_targets(_batch(reset=True), distance) for distance in (1, 2))
    assert first.tokens_BS.tolist() == [[11, 12, 0, 14, 15, 0], [0, 22, 0, 24, 0, 0]]
    assert _counted(first) == [[12, 0, 0, 15, 16, 0], [0, 0, 0, 0, 0, 0]]
    assert second.tokens_BS.tolist() == [[12, 0, 0, 15, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert _counted(second) == [[0, 0, 0, 16, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_every_label_that_counts_is_one_of_the_next_token_too() -> None:
    for reset in (False, True):
        batch = _batch(reset=reset)
        for distance in (1, 2, 3):
            targets = _targets(batch, distance)
            moved = torch.roll(batch.loss_mask_BS, -distance, dims=1)
            moved[:, -distance:] = 0
            assert bool((targets.loss_mask_BS <= moved).all())
