"""Jobs for the pool: conversions, which need Megatron for their proof. What a user would be told is returned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def to_hf(rank: int, world_size: int, init_method: str, checkpoint: Path, out: Path, options: dict[str, Any]) -> str:
    """`harness convert to-hf`; the text of the error, or the proof."""
    from checkpoint_tools.to_hf import ToHf, convert

    job = ToHf(checkpoint=checkpoint, out=out, **options)
    return _told(lambda: convert(job, no_display))


def from_hf(rank: int, world_size: int, init_method: str, folder: Path, out: Path, options: dict[str, Any]) -> str:
    """`harness convert from-hf`; the text of the error, or the proof."""
    from checkpoint_tools.from_hf import convert

    return _told(lambda: convert(folder, out, no_display, **options))


def mutated_to_hf(
    rank: int,
    world_size: int,
    init_method: str,
    checkpoint: Path,
    out: Path,
    mutation: str,
    options: dict[str, Any] | None = None,
) -> str:
    """`to-hf` by a converter that has a certain bug."""
    import conversion_bugs

    with conversion_bugs.BUGS[mutation]():
        return to_hf(rank, world_size, init_method, checkpoint, out, options or {"without_tokenizer": True})


def loud_copy_from_hf(rank: int, world_size: int, init_method: str, folder: Path, out: Path) -> str:
    """`from-hf` by a converter that copies a block and forgets to silence it."""
    import re
    from unittest import mock

    from checkpoint_tools.growth import Growth

    with mock.patch("checkpoint_tools.growth._INTO_RESIDUAL", re.compile("nothing")):
        return from_hf(rank, world_size, init_method, folder, out, {"growth": Growth(copied_layers=(1,))})


def held_out_loss(rank: int, world_size: int, init_method: str, config: Any, folder: Path) -> dict[str, float]:
    """Loss of the exported model on the held-out samples of a run, by channel, through transformers."""
    import torch
    from torch.nn import functional

    from checkpoint_tools import transformers_model
    from checkpoint_tools.their_tensors import open_model
    from harness.parallel.ranks import Place, Ranks
    from harness.plan.plan import make_plan
    from harness.train.data import open_data

    alone = Place(rank=0, size=1)
    ranks = Ranks(world=alone, tp=alone, pp=alone, dp=alone, cp=alone)
    alike = config.model_copy(update={"parallel": config.parallel.model_validate({})})
    data = open_data(alike, make_plan(alike, 1), ranks, pin_memory=False, recorded=None)
    model = transformers_model.load(open_model(folder))
    losses = {}
    assert data.held_out is not None, "the run holds samples out"
    for held_out in data.held_out.sets:
        loss_sum = num_tokens = 0.0
        for batch in held_out.micro_batches(0, 1, 1):
            with torch.no_grad():
                logits = model(input_ids=batch.tokens_BS.long()).logits
            losses_BS = functional.cross_entropy(logits.transpose(1, 2), batch.labels_BS.long(), reduction="none")
            loss_sum += float((losses_BS * batch.loss_mask_BS).double().sum())
            num_tokens += float(batch.loss_mask_BS.double().sum())
        losses[held_out.channel_name] = loss_sum / num_tokens
    data.stream.close()
    return losses


@contextmanager
def no_display(title: str, total_bytes: int) -> Iterator[Any]:
    yield lambda num_bytes: None


def _told(convert: Any) -> str:
    from harness.errors import HarnessError

    try:
        return f"proven: {convert().proof.summary()}"
    except HarnessError as error:
        return f"{type(error).__name__}: {error}"
