"""Settings of windows, sinks, caps and positions: what they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config.load import load_config
from harness.config.model import ModelConfig
from harness.config.validate_attention import attention_problems
from harness.errors import ConfigError

SIZES: dict[str, Any] = {
    "num_layers": 6,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "ffn_hidden_size": 32,
    "vocab_size": 8,
}
LEARNED = {"position_embedding_type": "learned_absolute", "max_position_embeddings": 64}
MINIMAL = """\
run: {{name: windows}}
model: {{num_layers: 4, hidden_size: 32, num_attention_heads: 4, ffn_hidden_size: 32, vocab_size: 64{model}}}
data: {{channels: {{text: {{path: text}}}}}}
phases: [{{name: main, train_steps: 2, seq_length: 64, global_batch_size: 2, blend: {{text: 1}}{phase}}}]
optimizer: {{learning_rate: 1e-3}}
parallel: {{{parallel}}}
precision: {{dtype: bf16}}
"""


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (None, (1, 1, 1, 1, 1, 1)),
        (2, (1, 0, 1, 0, 1, 0)),
        (6, (1, 1, 1, 1, 1, 0)),
        (7, (1, 1, 1, 1, 1, 1)),
        ([0, 1, 1, 0, 0, 1], (0, 1, 1, 0, 0, 1)),
        ("[1]*5+[0]", (1, 1, 1, 1, 1, 0)),
        ("([1,0]*3)", (1, 0, 1, 0, 1, 0)),
    ],
)
def test_layers_with_a_window(given: object, layers: tuple[int, ...]) -> None:
    """As Megatron counts them: with n, every n-th layer sees all tokens."""
    model = ModelConfig(**SIZES, window_size=8, window_attn_skip_freq=given)
    assert model.windowed_layers == tuple(map(bool, layers))
    assert not any(ModelConfig(**SIZES).windowed_layers)
    assert ModelConfig.model_validate(model.model_dump(mode="json")) == model


def test_fewer_or_more_layers_keep_their_kinds() -> None:
    model = ModelConfig(**SIZES, window_size=8, window_attn_skip_freq=3)
    assert model.with_layers([0, 1, 2, 2]).windowed_layers == (True, True, False, False)
    assert model.with_layers([0, 1]) == model.model_copy(update={"num_layers": 2, "window_attn_skip_freq": None})
    assert ModelConfig(**SIZES).with_layers([0]) == ModelConfig(**SIZES | {"num_layers": 1})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"window_attn_skip_freq": 2}, "window_attn_skip_freq has no effect without window_size"),
        ({"window_rotary_base": 10.0}, "window_rotary_base has no effect without window_size"),
        (
            {"window_size": 8, "window_attn_skip_freq": [1, 0]},
            "has 2 entries for num_layers 6; give one for each layer",
        ),
        ({"window_size": 8, "window_attn_skip_freq": 1}, "leaves no layer with a window"),
        ({"max_position_embeddings": 8}, "has no effect with position_embedding_type rope"),
        ({"position_embedding_type": "learned_absolute"}, "learned_absolute needs max_position_embeddings"),
        ({**LEARNED, "rotary_percent": 0.5}, "rotary_percent has no effect with position_embedding_type learned"),
        ({**LEARNED, "rotary_base": 500.0}, "rotary_base has no effect with position_embedding_type learned"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], problem: str) -> None:
    (found,) = attention_problems(ModelConfig(**SIZES, **settings))
    assert problem in f"{found.location[-1]} {found.text}"


def errors(tmp_path: Path, **parts: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL.format(**{"model": "", "phase": "", "parallel": ""} | parts))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


LEARNED_TEXT = ", position_embedding_type: learned_absolute, max_position_embeddings: 64"


def test_the_smallest_configuration_is_legal(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL.format(model=LEARNED_TEXT, phase="", parallel=""))
    assert load_config(path).model.rotary_size == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"model": ", window_size: [127, 0]"},
            "model.window_size: must be the number of tokens that a token sees, itself among them: for "
            "Megatron's [127, 0] that is 128",
        ),
        ({"model": ", window_size: 0"}, "model.window_size: "),
        ({"model": ", softmax_type: sinks"}, "model.softmax_type: "),
        (
            {"model": LEARNED_TEXT.replace("64", "32")},
            "phases.0.seq_length: must be at most model.max_position_embeddings 32, given 64",
        ),
        (
            {"model": LEARNED_TEXT, "phase": ", rotary_base: 5e5"},
            "phases.0.rotary_base: has no effect with model.position_embedding_type learned_absolute",
        ),
        (
            {"model": ", window_size: 8", "parallel": "context_parallel_size: 2, cp_comm_type: p2p"},
            "parallel.cp_comm_type: p2p is Transformer Engine's ring, which cannot be combined with model.window_size",
        ),
        (
            {
                "model": ", softmax_type: learnable",
                "phase": ", parallel: {context_parallel_size: 2, cp_comm_type: p2p}",
            },
            "cp_comm_type: p2p is Transformer Engine's ring, which cannot be combined with model.window_size",
        ),
    ],
)
def test_configurations_that_are_refused(parts: dict[str, str], message: str, tmp_path: Path) -> None:
    assert message in errors(tmp_path, **parts)
