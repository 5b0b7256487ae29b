"""Converters with a bug that leaves every shape right: the proof must catch each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from checkpoint_tools.families.family import Family, Rule
from checkpoint_tools.families.llama import LLAMA
from checkpoint_tools.families.minimind import MINIMIND
from checkpoint_tools.layout import (
    EXPERTS_GATE_UP,
    GATE_UP,
    QKV,
    VOCABULARY,
    Fusion,
    pad_vocabulary,
    split_experts_gate_up,
    split_gate_up,
    split_qkv,
)
from harness.config.model import ModelConfig
from harness.parameters.names import EMBEDDING, OUTPUT


@contextmanager
def _family(family: Family) -> Iterator[None]:
    with mock.patch("checkpoint_tools.to_hf.family_for_writing", lambda model, wanted: family):
        yield


def _with_split(
    fusion: Fusion, split: Callable[..., tuple[torch.Tensor, ...]], family: Family = LLAMA
) -> AbstractContextManager[None]:
    bug = Fusion(split=split, join=fusion.join)
    rules = tuple(replace(rule, fusion=bug) if rule.fusion is fusion else rule for rule in family.rules)
    return _family(replace(family, rules=rules))


def _with_names_swapped(one: str, other: str) -> AbstractContextManager[None]:
    def swapped(rule: Rule) -> Rule:
        def swap(name: str) -> str:
            return name.replace(one, "\0").replace(other, one).replace("\0", other)

        return replace(rule, theirs=tuple(map(swap, rule.theirs)))

    return _family(replace(LLAMA, rules=tuple(map(swapped, LLAMA.rules))))


def _swap_q_and_k(fused: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    q, k, v = split_qkv(fused, model)
    return k, q, v


def _without_groups(fused: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """As if the fused projection were all queries, then all keys, then all values."""
    size = model.head_size
    heads, groups = model.num_attention_heads * size, model.query_groups * size
    return torch.tensor_split(fused, [heads, heads + groups])


def _heads_by_turns(fused: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """As if Hugging Face rotated neighbouring pairs: the permutation of Meta's own Llama files."""
    q, k, v = split_qkv(fused, model)

    def permuted(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, model.head_size // 2, 2, x.size(1)).transpose(1, 2).reshape(x.shape)

    return permuted(q), permuted(k), v


def _swap_gate_and_up_of_experts(stacked: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    parts = split_experts_gate_up(stacked, model)
    return tuple(part for gate, up in zip(parts[::2], parts[1::2], strict=True) for part in (up, gate))


def _swap_gate_and_up(fused: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    gate, up = split_gate_up(fused, model)
    return up, gate


@contextmanager
def _with_field(key: str, factor: float) -> Iterator[None]:
    from checkpoint_tools.families.config_json import fields_for

    def wrong(model: ModelConfig, family: Family, extras: dict[str, object]) -> dict[str, object]:
        fields = fields_for(model, family, extras)
        return {**fields, key: fields[key] * factor}

    with mock.patch("checkpoint_tools.to_hf.fields_for", wrong):
        yield


@contextmanager
def _last_layer_twice() -> Iterator[None]:
    from checkpoint_tools.our_tensors import OurTensors

    read = OurTensors.read

    def wrong(self: OurTensors, name: str) -> torch.Tensor:
        return read(self, name.replace("layers.1.mlp", "layers.0.mlp"))

    with mock.patch.object(OurTensors, "read", wrong):
        yield


@contextmanager
def _nan_in_checkpoint() -> Iterator[None]:
    """A run that went wrong: one weight of the last layer is no number."""
    from checkpoint_tools.our_tensors import OurTensors

    read = OurTensors.read

    def wrong(self: OurTensors, name: str) -> torch.Tensor:
        tensor = read(self, name)
        if name == "decoder.layers.1.mlp.linear_fc2.weight":
            tensor[0, 0] = float("nan")
        return tensor

    with mock.patch.object(OurTensors, "read", wrong):
        yield


@contextmanager
def _power_cut() -> Iterator[None]:
    """Ends at the second file."""
    from checkpoint_tools import to_hf
    from harness.errors import CheckpointError

    write = to_hf._write_shard

    def cut(path: Path, *arguments: Any) -> None:
        if path.name.startswith("model-00001"):
            write(path, *arguments)
        else:
            raise CheckpointError("the power was cut")

    with mock.patch("checkpoint_tools.to_hf._write_shard", cut):
        yield


@contextmanager
def _value_changed(name: str, row: int) -> Iterator[None]:
    """One value of a written file is another one: by a writer, a disk, or a tool on the way."""
    from safetensors.torch import load_file, save_file

    from checkpoint_tools import to_hf

    write = to_hf.write_shards

    def wrong(folder: Path, *arguments: Any) -> int:
        kept_bytes = write(folder, *arguments)
        for path in folder.glob("*.safetensors"):
            weights = load_file(path)
            if name in weights:
                weights[name][row, 3] += 0.25
                save_file(weights, path, metadata={"format": "pt"})
        return kept_bytes

    with mock.patch("checkpoint_tools.to_hf.write_shards", wrong):
        yield


@contextmanager
def _row_lost(parameter: str, row: int) -> Iterator[None]:
    """A reader of Hugging Face's files leaves out one row of a table."""
    from checkpoint_tools.families.registry import FAMILIES

    def join(parts: Any, model: ModelConfig) -> torch.Tensor:
        joined = pad_vocabulary(parts, model)
        joined[row] = 0
        return joined

    bug = Fusion(split=VOCABULARY.split, join=join)
    rules = tuple(replace(rule, fusion=bug) if rule.ours == parameter else rule for rule in LLAMA.rules)
    with mock.patch.dict(FAMILIES, llama=replace(LLAMA, rules=rules)):
        yield


@contextmanager
def _new_row_of_its_own() -> Iterator[None]:
    from checkpoint_tools import growth

    grow = growth._more_rows

    def wrong(rows: torch.Tensor, model: ModelConfig, grown: ModelConfig) -> torch.Tensor:
        result = grow(rows, model, grown)
        result[grown.vocab_size - 1] += 0.01
        return result

    with mock.patch("checkpoint_tools.growth._more_rows", wrong):
        yield


@contextmanager
def _copy_of_the_first_layer() -> Iterator[None]:
    """Silent copies that are made of another layer than their own."""
    from checkpoint_tools.growth import Growth, Read

    give = Growth.reader

    def wrong(self: Growth, read: Read, model: ModelConfig) -> Read:
        read_grown = give(self, read, model)
        return lambda name: read_grown(name.replace("layers.2.mlp", "layers.0.mlp"))

    with mock.patch.object(Growth, "reader", wrong):
        yield


def _loud_copy() -> AbstractContextManager[object]:
    """A copy that nobody silenced."""
    from harness.parameters.parameter import Parameter
    from harness.parameters.table import find_parameter

    def never_into_residual(name: str, model: ModelConfig) -> Parameter:
        return replace(find_parameter(name, model), writes_to_residual=False)

    return mock.patch("checkpoint_tools.growth.find_parameter", never_into_residual)


def _look_away(*arguments: object) -> None:
    pass


UNSEEN_ROW = 2000
"""A row of a vocabulary that no prompt of the proof has."""
BUGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "q and k swapped": lambda: _with_split(QKV, _swap_q_and_k),
    "groups ignored": lambda: _with_split(QKV, _without_groups),
    "pairs rotated": lambda: _with_split(QKV, _heads_by_turns),
    "gate and up swapped": lambda: _with_split(GATE_UP, _swap_gate_and_up),
    "gate and up of experts swapped": lambda: _with_split(EXPERTS_GATE_UP, _swap_gate_and_up_of_experts, MINIMIND),
    "norms swapped": lambda: _with_names_swapped("input_layernorm", "post_attention_layernorm"),
    "wrong rope base": lambda: _with_field("rope_theta", 1.01),
    "wrong epsilon": lambda: _with_field("rms_norm_eps", 3.0),
    "a layer twice": _last_layer_twice,
    "power cut": _power_cut,
    "nan in the checkpoint": _nan_in_checkpoint,
    "a value of the last layer": lambda: _value_changed("model.layers.1.mlp.down_proj.weight", 7),
    "a row of the written embedding": lambda: _value_changed("model.embed_tokens.weight", UNSEEN_ROW),
    "a row of the written output layer": lambda: _value_changed("lm_head.weight", UNSEEN_ROW),
    "a row of the read embedding": lambda: _row_lost(EMBEDDING, UNSEEN_ROW),
    "a row of the read output layer": lambda: _row_lost(OUTPUT, UNSEEN_ROW),
    "a new row": _new_row_of_its_own,
    "a copy of another layer": _copy_of_the_first_layer,
    "a loud copy": _loud_copy,
    "a base that long texts see": lambda: _with_field("rope_theta", 1 + 4e-6),
    "a writer that looks at no losses": lambda: mock.patch("checkpoint_tools.to_hf.require_fits", _look_away),
    "no bug at all": nullcontext,
}
