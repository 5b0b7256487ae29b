"""The loss of every channel: exact sums, whatever is masked, absent, or on another rank."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import worlds
from pool import Pool
from reference import hugging_face_model, token_losses, training_data
from small_run import CHANNELS, NUM_STEPS, Grid, launch, records, small_config, write_corpus, write_documents

from harness.config.schema import Config
from harness.data.batch import Batch
from harness.run.records import StepRecord

PRESENT = [f"train/lm_loss/{name}" for name in CHANNELS]
TOKENS = [f"train/tokens/{name}" for name in CHANNELS]


def of_channels(record: StepRecord) -> list[tuple[float, float]]:
    """(loss, tokens) of the channels that are in the record."""
    pairs = zip(PRESENT, TOKENS, strict=True)
    return [(record.values[loss], record.values[tokens]) for loss, tokens in pairs if loss in record.values]


def test_total_is_the_mean_of_the_channels_to_the_last_bit(base_run: Path) -> None:
    for record in records(base_run):
        channels = of_channels(record)
        total = math.fsum(loss * tokens for loss, tokens in channels) / math.fsum(tokens for _, tokens in channels)
        assert record.values["train/lm_loss"] == total


def test_a_channel_without_a_sample_is_absent(base_run: Path, corpus: Path) -> None:
    found = records(base_run)
    absences = 0
    for record, data in zip(found, training_data(small_config(corpus), NUM_STEPS), strict=True):
        (batch,) = data.micro_batches
        counts = np.bincount(batch.channel_ids_B.numpy(), minlength=len(CHANNELS)) * 32
        expected = {name: float(count) for name, count in zip(TOKENS, counts, strict=True) if count}
        assert {name: record.values[name] for name in TOKENS if name in record.values} == expected
        assert {name.replace("lm_loss", "tokens") for name in PRESENT if name in record.values} == set(expected)
        absences += len(expected) < len(CHANNELS)
    assert 0 < absences < NUM_STEPS


class Masked(NamedTuple):
    """Runs whose weights never move, over documents that are kept apart, so that few labels count."""

    config: Config
    run_dirs: dict[str, Path]


MASKED_STEPS = 8
MASKED_GRIDS = {"one-rank": Grid(), "dp2": Grid(dp=2), "tp2-pp2": Grid(tp=2, pp=2)}


@pytest.fixture(scope="module")
def masked(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Masked:
    """Documents of up to 12 tokens; in the code channel nearly all have one token, which foretells nothing."""
    folder = write_corpus(tmp_path_factory.mktemp("masked"), longest=12)
    random = np.random.RandomState(9)
    lengths = random.choice([1, 2], size=3000, p=[0.97, 0.03])
    write_documents(folder / "code", [random.randint(0, 1000, size=length).tolist() for length in lengths])
    changes: dict[str, Any] = {
        "data.reset_at_document_borders": True,
        "phases.train_steps": MASKED_STEPS,
        "phases.global_batch_size": 4,
        "phases.blend": {"zh": 1, "en": 1, "code": 1},
        "optimizer.learning_rate": 1e-30,
        "evaluation.held_out_share": 0.0,
    }
    run_dirs = {}
    for name, grid in MASKED_GRIDS.items():
        run_dirs[name] = folder / name
        launch(pool, small_config(folder, grid, changes), run_dirs[name])
    return Masked(config=small_config(folder, changes=changes), run_dirs=run_dirs)


@pytest.fixture(scope="module")
def expected(masked: Masked, pool: Pool) -> list[dict[str, float]]:
    """Loss, tokens and gradient norm of the steps from Hugging Face's model, every document computed alone."""
    weights = pool.run(worlds.initial_weights, 1, masked.config)[0]
    reference = hugging_face_model(masked.config.model, weights)
    return [step_alone(reference, data.micro_batches[0]) for data in training_data(masked.config, MASKED_STEPS)]


def step_alone(reference: torch.nn.Module, batch: Batch) -> dict[str, float]:
    """One step's numbers, document by document."""
    sums = dict.fromkeys(CHANNELS, 0.0)
    counts = dict.fromkeys(CHANNELS, 0)
    total = torch.zeros(())
    for channel, document in documents(batch):
        losses = token_losses(reference, document).sum()
        total = total + losses
        sums[CHANNELS[channel]] += float(losses.detach())
        counts[CHANNELS[channel]] += document.labels_BS.numel()
    reference.zero_grad()
    (total / sum(counts.values())).backward()
    norm = torch.stack([p.grad.norm() for p in reference.parameters() if p.grad is not None]).norm()
    present = [name for name in CHANNELS if counts[name]]
    return (
        {f"train/lm_loss/{name}": sums[name] / counts[name] for name in present}
        | {f"train/tokens/{name}": float(counts[name]) for name in present}
        | {"train/lm_loss": sum(sums.values()) / sum(counts.values()), "optim/grad_norm": float(norm)}
    )


def documents(batch: Batch) -> Iterator[tuple[int, Batch]]:
    """Every document of two tokens or more with its channel, as a batch of one sample."""
    assert batch.document_starts is not None, "documents are kept apart"
    length = batch.tokens_BS.size(1)
    for start, end in itertools.pairwise(batch.document_starts.tolist()):
        row, first = divmod(start, length)
        places = first + torch.where(batch.loss_mask_BS[row, first : first + end - start] > 0)[0]
        if len(places):
            tokens, labels = batch.tokens_BS[row, places][None], batch.labels_BS[row, places][None]
            channel = int(batch.channel_ids_B[row])
            alone = Batch(
                tokens_BS=tokens,
                labels_BS=labels,
                loss_mask_BS=torch.ones(labels.shape),
                channel_ids_B=torch.tensor([channel]),
                document_starts=None,
                position_ids_BS=places[None],
            )
            yield channel, alone


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKED_GRIDS)
def test_masked_tokens_count_for_nothing(name: str, masked: Masked, expected: list[dict[str, float]]) -> None:
    """Sums, counts, the total and the gradient, over uneven masks, are those of the documents computed alone."""
    for record, step in zip(records(masked.run_dirs[name]), expected, strict=True):
        found = {key: value for key, value in record.values.items() if key in (*PRESENT, *TOKENS)}
        found |= {key: record.values[key] for key in ("train/lm_loss", "optim/grad_norm")}
        norm, expected_norm = found.pop("optim/grad_norm"), step["optim/grad_norm"]
        assert found == pytest.approx({key: step[key] for key in found}, rel=2e-6)
        assert norm == pytest.approx(expected_norm, rel=4e-6), "of fp32 gradients, added up in another order"


def test_masked_runs_have_the_rare_cases(masked: Masked) -> None:
    """A step with one token of a channel, and one with a sample of which no token counts."""
    counts = [record.values.get("train/tokens/code") for record in records(masked.run_dirs["dp2"])]
    assert 1.0 in counts
    assert None in counts
