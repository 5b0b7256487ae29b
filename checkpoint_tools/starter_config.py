"""The configuration that a converted model comes with: complete but for what only its user knows.

What is to be filled in holds a placeholder, which a configuration refuses by the name of its key.
"""

from __future__ import annotations

import re
import shlex
from itertools import groupby
from pathlib import Path

from checkpoint_tools.growth import Growth
from harness.config.identity import identity_of
from harness.config.load import dump_values
from harness.config.model import ModelConfig
from harness.config.scalars import PLACEHOLDER
from harness.text import is_unicode, listed, one_line

STARTER_NAME = "continued.yaml"
"""Its name in the run directory."""
_LAYER_FLAGS = ("moe_layer_freq", "window_attn_skip_freq")
_USUAL_LENGTH = 4096
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST_NAME = 50
"""Of a model, so that a run called after it has a name of at most 64 characters."""
_BALANCE = {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": 0.01}
"""Of experts that are copies of one MLP: without it the router might keep choosing the same ones."""


def starter_text(
    model: ModelConfig, *, origin: str, tokenizer: Path | None, longest: int | None, growth: Growth
) -> str:
    """Return the YAML. It says nothing of where it lies, so that the run directory may be moved.

    Args:
        model: The model of the checkpoint.
        origin: Name of the Hugging Face model.
        tokenizer: The tokenizer of the checkpoint; None if there is none that a run could open.
        longest: The most tokens of a sample that the model is made for, if its `config.json` says.
        growth: What the model has grown by; its comments say what is new.
    """
    return _TEMPLATE.format(
        origin=one_line(origin),
        name=_name(origin),
        notes="".join(f"# {note}\n" for note in _notes(model, growth)),
        model=_section("model", _model_values(model, growth)),
        tokenizer=_tokenizer_lines(tokenizer),
        length=min(longest or _USUAL_LENGTH, _USUAL_LENGTH),
        limit=f"; the model is made for at most {longest:,}" if longest else "",
        frozen=_frozen_line(model, growth),
        fill_in=PLACEHOLDER,
    )


def commands(out: Path) -> tuple[str, str]:
    """Return the commands that go on from a converted model: what it takes, and training."""
    config, run = shlex.quote(str(out / STARTER_NAME)), shlex.quote(str(out))
    return f"harness plan {config}", f"harness train {config} --run-dir {run} --resume must"


_TEMPLATE = """\
# Goes on with the training of {origin}, converted by `harness convert from-hf`.
# Write a value in place of every {fill_in}. `harness plan` of this file then says what fits, and `harness train` of it
# goes on from the checkpoint: with --resume must, and with --run-dir, the folder that this file lies in.

run:
  name: {name}

# The checkpoint's: what the weights mean cannot change.
{notes}{model}
parallel:  # `harness plan` says what fits
  data_parallel_size: 1
  micro_batch_size: 1

data:
{tokenizer}  channels:  # each under a name of yours, as `harness data tokenize` wrote it (docs/data.md)
    new: {{path: {fill_in}}}
    # A channel of what the model was trained on before keeps it from forgetting that:
    # before: {{path: data/before}}

phases:  # one after the other (model_configs/tiny_phases.yaml)
  - name: continued
    train_tokens: {fill_in}  # or train_steps
    seq_length: {length}  # tokens of a sample{limit}
    global_batch_size: {fill_in}  # samples of a step
    blend: {{new: 1}}  # weights of the channels, such as {{new: 19, before: 1}}
    # Moments begin at zero: the learning rate warms up again, and then decays (arXiv:2403.08763).
    schedule: {{style: cosine, warmup_steps: 100, min_learning_rate_share: 0.1}}
{frozen}
optimizer:
  learning_rate: {fill_in}  # the peak: the higher, up to that of the first training, the more is learnt, and forgotten

precision:
  dtype: bf16

checkpoint:
  save_every_steps: 500

evaluation:
  every_steps: 100
"""


def _name(origin: str) -> str:
    """Return a name for the run, from that of the model."""
    return f"{_NOT_IN_A_NAME.sub('-', origin)[:_LONGEST_NAME]}-continued".lstrip("_.-")


def _section(name: str, values: dict[str, object]) -> str:
    return dump_values({name: values})


def _model_values(model: ModelConfig, growth: Growth) -> dict[str, object]:
    """Return the keys that are required or not at their default, in the order of the schema."""
    values: dict[str, object] = identity_of(model)
    for key in _LAYER_FLAGS:
        if isinstance(flags := values.get(key), list | tuple):
            values[key] = _flags_text(flags)
    return values | (_BALANCE if growth.num_experts is not None else {})


def _flags_text(flags: list[int] | tuple[int, ...]) -> str:
    """Return the flags of layers as `[0]*3+[1]*58`."""
    return "+".join(f"[{flag}]*{len(list(run))}" for flag, run in groupby(flags))


def _notes(model: ModelConfig, growth: Growth) -> list[str]:
    notes = []
    if growth.copied_layers:
        notes.append(f"Layers that are copies, and add nothing yet: {listed(growth.places_of_copies(), 200)}.")
    if growth.vocab_size is not None:
        notes.append("Rows of the vocabulary that were added are the mean of the others.")
    if growth.num_experts is not None:
        notes.append(f"Each MLP became {growth.num_experts} copies of it; the router is new, so the experts balance.")
    elif _lacks_balance(model):
        notes.append("Nothing balances the experts. An auxiliary loss can, with a coefficient that you choose:")
        notes.append("  moe_router_load_balancing_type: aux_loss and moe_aux_loss_coeff.")
    return notes


def _lacks_balance(model: ModelConfig) -> bool:
    has_none = model.moe_router_load_balancing_type == "none" and not model.moe_router_enable_expert_bias
    return model.num_moe_experts is not None and has_none


def _tokenizer_lines(tokenizer: Path | None) -> str:
    path = None if tokenizer is None else str(tokenizer.absolute())
    if path is None or one_line(path) != path or not is_unicode(path):
        return ""  # the checkpoint knows its own
    return "".join(f"  {line}\n" for line in dump_values({"tokenizer": path}).splitlines())


def _frozen_line(model: ModelConfig, growth: Growth) -> str:
    """Return the frozen parameters of LLaMA Pro as a comment, for a model with copied layers."""
    if not growth.copied_layers:
        return ""
    copies = set(growth.places_of_copies())
    layers = [f"decoder.layers.{layer}.*" for layer in range(model.num_layers) if layer not in copies]
    outer = ["embedding.*", "decoder.final_layernorm.*"]
    if model.untie_embeddings_and_output_weights:
        outer.append("output_layer.*")
    return (
        "    # To train the copies alone, as LLaMA Pro does:\n"
        f"    # frozen_parameters: [{', '.join([*outer, *layers])}]\n"
    )
