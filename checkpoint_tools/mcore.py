"""Our side of the proof: the model through megatron-core on one process, loaded by Megatron's own reader."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from checkpoint_tools.prompts import Prompts
from harness.config.model import ModelConfig
from harness.config.schema import (
    ChannelConfig,
    Config,
    DataConfig,
    OptimizerConfig,
    PhaseConfig,
    PrecisionConfig,
    RunConfig,
)
from harness.parallel import device as devices
from harness.parallel.silence import silence_libraries
from harness.parameters.names import MTP_MODULES
from harness.plan.layouts import Layout
from harness.plan.plan import make_plan

_ALONE = Layout(tensor=1, pipeline=1, virtual_pipeline=1, context=1, data=1)


def trace(directory: Path, model: ModelConfig, prompts: Prompts, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Return the trace of a checkpoint's model, computed in fp32 on the CPU, with weights rounded to `dtype` first."""
    with _world() as ranks:
        config = _config(model, prompts.tokens_BS.size(1))
        from harness.checkpoint.loading import mcore as checkpoint_files
        from harness.model.mcore import build_model

        chunks = build_model(config, make_plan(config, 1), ranks, devices.select(0))
        checkpoint_files.load_weights(directory, chunks, unused=None if model.num_mtp_modules else MTP_MODULES)
        built = chunks[0].module.eval()
        with torch.no_grad():
            for tensor in _weights(built) if dtype is not None else ():
                tensor.copy_(tensor.to(dtype))
            rows = zip(prompts.tokens_BS, prompts.positions_BS, strict=True)
            traces = [_trace(built, tokens[None], positions, model) for tokens, positions in rows]
        return {place: torch.cat([found[place] for found in traces]) for place in traces[0]}


def _weights(built: Any) -> Iterator[torch.Tensor]:  # noqa: ANN401
    """Yield all that is written of a model: parameters, and the biases by which experts are balanced."""
    yield from built.parameters()
    yield from (buffer for name, buffer in built.named_buffers() if name.endswith("expert_bias"))


def _trace(
    built: Any,  # noqa: ANN401
    tokens_BS: torch.Tensor,
    positions_S: torch.Tensor,
    model: ModelConfig,
) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    places = {"embedding": built.embedding}
    places |= {f"layer {number}": layer for number, layer in enumerate(built.decoder.layers)}
    places["final norm"] = built.decoder.final_layernorm
    hooks = [module.register_forward_hook(_keep(kept, name)) for name, module in places.items()]
    built.rotations.place(positions_S)
    device = next(built.parameters()).device
    logits_BSV = built(tokens_BS.to(device), positions_S[None].to(device), None)
    kept["logits"] = logits_BSV[..., : model.vocab_size].float().cpu()
    for hook in hooks:
        hook.remove()
    return {name: kept[name] for name in (*places, "logits")}


def _keep(kept: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def keep(_module: object, _inputs: object, output: Any) -> None:  # noqa: ANN401 (a tensor, or a tuple with it)
        hidden_SBH = output[0] if isinstance(output, tuple) else output
        kept[name] = hidden_SBH.detach().transpose(0, 1).float().cpu()

    return keep


def _config(model: ModelConfig, seq_length: int) -> Config:
    """Return a run of that model on one process; only its model matters."""
    phase = PhaseConfig(name="proof", train_steps=1, seq_length=seq_length, global_batch_size=1, blend={"none": 1.0})
    return Config(
        run=RunConfig(name="proof"),
        model=model,
        data=DataConfig(channels={"none": ChannelConfig(path=Path("none"))}),
        phases=(phase,),
        optimizer=OptimizerConfig(learning_rate=1.0),
        precision=PrecisionConfig(dtype="fp32"),
    )


@contextmanager
def _world() -> Iterator[Any]:
    """Create a world of this process alone, and destroy it at the end."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="harness-proof-") as folder:
        silence_libraries()
        from harness.parallel import mcore as parallel

        ranks = parallel.start(
            _ALONE, rank=0, device=devices.select(0), seed=0, init_method=f"file://{folder}/rendezvous"
        )
        try:
            yield ranks
        finally:
            parallel.end()
