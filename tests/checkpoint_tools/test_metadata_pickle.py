"""The index of a checkpoint: nothing in it is ever run, and damage is told, not guessed."""

from __future__ import annotations

import datetime
import os
import pickle
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import WriteItemType

from checkpoint_tools import checkpoint_writer
from checkpoint_tools.checkpoint_writer import Weights, write_checkpoint
from checkpoint_tools.our_tensors import OurTensors, places_of
from checkpoint_tools.torch_dist import read_index, read_region
from harness.config.model import ModelConfig
from harness.errors import CheckpointError
from harness.run.checkpoints.metadata_pickle import read_records

MODEL = ModelConfig(num_layers=3, hidden_size=4, num_attention_heads=1, ffn_hidden_size=4, vocab_size=8)


class Runs:
    """Would make a file when it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def write_sample(folder: Path) -> dict[str, torch.Tensor]:
    weights = {f"decoder.layers.{layer}.mlp.linear_fc2.weight": torch.randn(4, 6) for layer in range(3)}
    weights["embedding.word_embeddings.weight"] = torch.randn(8, 4)
    write_checkpoint(folder, Weights(model=MODEL, names=list(weights), read=weights.__getitem__))
    return weights


def test_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    weights = write_sample(tmp_path)
    index = read_index(tmp_path)
    assert set(index) == {"decoder.layers.mlp.linear_fc2.weight", "embedding.word_embeddings.weight"}
    stacked = index["decoder.layers.mlp.linear_fc2.weight"]
    assert (stacked.shape, stacked.dtype, len(stacked.chunks)) == ((3, 4, 6), "float32", 3)
    middle = read_region(tmp_path, stacked, (1, 0, 0), (1, 4, 6))[0]
    assert torch.equal(middle, weights["decoder.layers.1.mlp.linear_fc2.weight"])
    across = read_region(tmp_path, stacked, (0, 1, 2), (3, 2, 3))
    whole = torch.stack([weights[f"decoder.layers.{layer}.mlp.linear_fc2.weight"] for layer in range(3)])
    assert torch.equal(across, whole[:, 1:3, 2:5])


def test_layers_that_have_tensors_of_their_own_are_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of Megatron may number the layers' tensors instead of stacking them."""
    monkeypatch.setattr(checkpoint_writer, "split_layer", lambda name: (None, name))
    weights = write_sample(tmp_path)
    index = read_index(tmp_path)
    assert set(index) == set(weights)
    places = places_of(index, MODEL, tmp_path)
    ours = OurTensors(path=tmp_path, manifest=Mock(), model=MODEL, places=places)
    assert set(ours.names) == set(weights)
    assert all(torch.equal(ours.read(name), weights[name]) for name in weights)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param((os.mkdir, "ran"), id="os.mkdir"),
        pytest.param((eval, "__import__('os').mkdir('ran')"), id="eval"),
        pytest.param((getattr, "x", "upper"), id="getattr"),
        pytest.param((getattr, WriteItemType, "__subclasses__"), id="getattr of an enumeration"),
        pytest.param((getattr, Metadata, "TENSOR"), id="getattr of a record"),
        pytest.param((torch.load, "x"), id="torch.load"),
        pytest.param((datetime.date, 1, 1, 1), id="harmless but not listed"),
    ],
)
def test_nothing_in_an_index_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[Any, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Runs(*call)))
    with pytest.raises(CheckpointError, match=r"its \.metadata names .*Nothing of it was run"):
        read_index(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"no pickle", pickle.dumps([1]), pickle.dumps({"a": 1})])
def test_what_is_no_index_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"its \.metadata is (damaged|not the index of a checkpoint)"):
        read_records(tmp_path / ".metadata")


def test_every_truncation_of_an_index_is_refused(tmp_path: Path) -> None:
    write_sample(tmp_path)
    content = (tmp_path / ".metadata").read_bytes()
    for length in range(0, len(content), 37):
        (tmp_path / ".metadata").write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_index(tmp_path)


def test_a_missing_or_linked_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_index(tmp_path)
    (tmp_path / ".metadata").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"its \.metadata cannot be read"):
        read_index(tmp_path)


def test_a_damaged_shard_is_told(tmp_path: Path) -> None:
    write_sample(tmp_path)
    (shard,) = tmp_path.glob("*.distcp")
    stored = read_index(tmp_path)["embedding.word_embeddings.weight"]
    content = shard.read_bytes()
    offset = stored.chunks[0].place.offset
    shard.write_bytes(content[: offset + 100])
    with pytest.raises(CheckpointError, match=r"is damaged: __0_0\.distcp at byte .* is not a tensor"):
        read_region(tmp_path, stored, (0, 0), (8, 4))
    shard.unlink()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_region(tmp_path, stored, (0, 0), (8, 4))


def test_members_of_enumerations_are_read_as_python_3_11_2_writes_them(tmp_path: Path) -> None:
    member = Runs(getattr, WriteItemType, "TENSOR")
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata(state_dict_metadata={}, planner_data=member)))
    assert read_records(tmp_path / ".metadata").state["planner_data"].arguments[1] == "TENSOR"
