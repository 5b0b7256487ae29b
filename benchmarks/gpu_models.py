"""The runs that `benchmarks.gpu` measures: whole configurations, on a text made of chance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpus import write_channel
from harness.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model and how much of it is computed at once."""

    title: str
    model: dict[str, Any]
    seq_length: int
    micro_batch_size: int
    global_batch_size: int
    dtype: str = "bf16"


_LLAMA_1B: dict[str, Any] = {
    "num_layers": 16,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "ffn_hidden_size": 8192,
    "vocab_size": 128256,
    "untie_embeddings_and_output_weights": False,
    "rotary_base": 5e5,
    "rope_scaling": {"type": "llama3", "factor": 32, "original_max_position_embeddings": 8192},
}

MODELS = {
    "llama3.2-1b": Measured(
        title="Llama 3.2 1B (16 layers of 2048, 32 heads of 64)",
        model=_LLAMA_1B,
        seq_length=4096,
        micro_batch_size=4,
        global_batch_size=64,
    ),
    "llama3.2-1b-32k": Measured(
        title="Llama 3.2 1B with samples of 32,768 tokens",
        model=_LLAMA_1B,
        seq_length=32768,
        micro_batch_size=1,
        global_batch_size=4,
    ),
    "llama3-8b-8-layers": Measured(
        title="8 of the 32 layers of Llama 3 8B (8 layers of 4096, 32 heads of 128)",
        model={
            "num_layers": 8,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_query_groups": 8,
            "ffn_hidden_size": 14336,
            "vocab_size": 128256,
            "rotary_base": 5e5,
        },
        seq_length=4096,
        micro_batch_size=4,
        global_batch_size=64,
    ),
    "tiny": Measured(
        title="a toy model, to try the benchmark itself on a CPU",
        model={
            "num_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "ffn_hidden_size": 128,
            "vocab_size": 512,
        },
        seq_length=64,
        micro_batch_size=2,
        global_batch_size=4,
        dtype="fp32",
    ),
}
"""By the name that the command line takes."""

DEFAULTS = ("llama3.2-1b", "llama3-8b-8-layers", "llama3.2-1b-32k")
LEARNING_RATE = 5e-4


def config_of(measured: Measured, folder: Path, train_steps: int, learning_rate: float = LEARNING_RATE) -> Config:
    """Return a complete run of this many steps; its text is written into the folder.

    The text is longer than the run, so that no sample is seen twice.
    """
    vocab_size = measured.model["vocab_size"]
    num_tokens = (train_steps + 2) * measured.global_batch_size * (measured.seq_length + 1)
    write_channel(folder / "text", vocab_size=vocab_size, num_tokens=num_tokens, seed=0)
    return Config.model_validate(
        {
            "run": {"name": "benchmark"},
            "model": measured.model,
            "parallel": {"micro_batch_size": measured.micro_batch_size},
            "data": {"channels": {"text": {"path": folder / "text"}}},
            "phases": [
                {
                    "name": "main",
                    "train_steps": train_steps,
                    "seq_length": measured.seq_length,
                    "global_batch_size": measured.global_batch_size,
                    "blend": {"text": 1},
                    "schedule": {"style": "constant", "warmup_steps": min(4, train_steps)},
                }
            ],
            "optimizer": {"learning_rate": learning_rate},
            "precision": {"dtype": measured.dtype},
            "evaluation": {"held_out_share": 0.0},
            "logging": {"tensorboard": False},
        }
    )
