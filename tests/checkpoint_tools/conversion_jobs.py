"""Jobs for the pool: conversions, which need Megatron for their proof. What a user would be told is returned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


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


class Left(NamedTuple):
    """How a command left."""

    code: int
    out: str
    err: str


def command(rank: int, world_size: int, init_method: str, arguments: list[str], bug: str | None = None) -> Left:
    """`harness …`, as from a shell, by a converter that has a certain bug, if one is named."""
    import io
    from contextlib import nullcontext, redirect_stderr, redirect_stdout

    import conversion_bugs

    from harness.cli import run

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), conversion_bugs.BUGS[bug]() if bug else nullcontext():
        code = run(arguments)
    return Left(code, out.getvalue(), err.getvalue())


def warnings_of_transformers(rank: int, world_size: int, init_method: str, arguments: list[str]) -> list[str]:
    """What transformers says on its own during `harness …`, beside the command's own lines."""
    import logging

    import transformers

    transformers.utils.logging.warning_once.cache_clear()  # what another job has heard is said again
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(transformers.__name__)
    logger.addHandler(handler)
    try:
        assert command(rank, world_size, init_method, arguments).code == 0, f"{arguments} failed"
    finally:
        logger.removeHandler(handler)
    return said


def with_memory(rank: int, world_size: int, init_method: str, checkpoint: Path, out: Path, memory_bytes: int) -> str:
    """`to-hf` on a machine with so much free memory."""
    from unittest import mock

    with mock.patch("checkpoint_tools.proof.available_bytes", lambda: memory_bytes):
        return to_hf(rank, world_size, init_method, checkpoint, out, {"without_tokenizer": True})


def continued(rank: int, world_size: int, init_method: str, folder: Path, prompt: str, num_tokens: int) -> str:
    """What an exported model writes after a prompt, loaded with its tokenizer as any user of transformers does."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    settings = transformers.GenerationConfig.from_pretrained(folder)
    settings.max_new_tokens, settings.pad_token_id = num_tokens, 0
    settings.do_sample, settings.temperature, settings.top_p, settings.top_k = True, 0.8, 0.9, 0
    torch.manual_seed(1)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    written = model.generate(**ids, generation_config=settings)
    return str(tokenizer.decode(written[0], skip_special_tokens=True))


def mutated_from_hf(
    rank: int, world_size: int, init_method: str, folder: Path, out: Path, mutation: str, options: dict[str, Any]
) -> str:
    """`from-hf` by a converter that has a certain bug."""
    import conversion_bugs

    with conversion_bugs.BUGS[mutation]():
        return from_hf(rank, world_size, init_method, folder, out, options)


class HeldOut(NamedTuple):
    """Held-out samples of a run as arrays `[B, S]`, and what a rank of it computed."""

    tokens: Any
    labels: Any
    mask: Any
    logits: Any
    """This rank's columns `[B, S, V/tp]`; None on ranks that have none."""


def held_out(rank: int, world_size: int, init_method: str, config: Any, run_dir: Path) -> HeldOut:
    """The newest checkpoint of a run through the run's own schedule, on its held-out samples, one after the other."""
    import torch

    from harness.run.paths import RunDir
    from harness.train.start.opening import open_run
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    with open_run(config, RunDir(run_dir), "must", world) as (run, _):
        seen: list[torch.Tensor] = []
        for chunk in run.pipeline.chunks:
            if chunk.module.post_process:
                chunk.module.output_layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
        assert run.held_out is not None, "the run holds samples out"
        batches = [batch for held in run.held_out.sets for batch in held.micro_batches(0, 1, 1)]
        run.pipeline.forward(batches, flags=run.inbox.flags())
        return HeldOut(
            tokens=torch.cat([batch.tokens_BS for batch in batches]).numpy(),
            labels=torch.cat([batch.labels_BS for batch in batches]).numpy(),
            mask=torch.cat([batch.loss_mask_BS for batch in batches]).numpy(),
            logits=torch.cat(seen, dim=1).transpose(0, 1).float().numpy() if seen else None,
        )


class Exported(NamedTuple):
    """What an exported model computes on held-out samples, through transformers in fp32."""

    logits: Any
    loss: float
    """Mean over the tokens that count."""
    written: list[int]
    """The token that `generate` adds to each sample."""


def exported(rank: int, world_size: int, init_method: str, folder: Path, samples: HeldOut) -> Exported:
    """Loads a folder as any user of transformers does."""
    import torch
    import transformers
    from torch.nn import functional

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens_BS, labels_BS = (torch.from_numpy(array).long() for array in (samples.tokens, samples.labels))
    mask_BS = torch.from_numpy(samples.mask).double()
    with torch.no_grad():
        logits = model(input_ids=tokens_BS).logits
        written = model.generate(
            tokens_BS, attention_mask=torch.ones_like(tokens_BS), max_new_tokens=1, do_sample=False, pad_token_id=0
        )
    losses_BS = functional.cross_entropy(logits.transpose(1, 2), labels_BS, reduction="none").double()
    loss = float((losses_BS * mask_BS).sum() / mask_BS.sum())
    return Exported(logits=logits.numpy(), loss=loss, written=written[:, -1].tolist())


@contextmanager
def no_display(title: str, total_bytes: int) -> Iterator[Any]:
    yield lambda num_bytes: None


def _told(convert: Any) -> str:
    from harness.errors import HarnessError

    try:
        return f"proven: {convert().proof.summary()}"
    except HarnessError as error:
        return f"{type(error).__name__}: {error}"
