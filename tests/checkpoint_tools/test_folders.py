"""Folders that come in and folders that go out: damage, traps, interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_tools import output_folder
from checkpoint_tools.safetensors_file import Entry, safetensors_writer
from checkpoint_tools.their_tensors import open_model
from harness.errors import CheckpointError, UsageError

CONFIG = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}


def given_model(folder: Path, **files: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({"model.norm.weight": torch.ones(4)}, folder / "model.safetensors")
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def with_index(folder: Path, weight_map: Any) -> Path:
    given_model(folder)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_tensors_are_described_and_read(tmp_path: Path) -> None:
    theirs = open_model(given_model(tmp_path / "m"))
    assert theirs.described("model.norm.weight") == ((4,), torch.float32)
    assert torch.equal(theirs.read("model.norm.weight"), torch.ones(4))
    with pytest.raises(CheckpointError, match=r"has no tensor lm_head\.weight, which its config\.json promises"):
        theirs.read("lm_head.weight")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a.bin", "", "a/b.safetensors", 5])
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, name: Any) -> None:
    with pytest.raises(CheckpointError, match=r"names the file .*, which is not allowed"):
        open_model(with_index(tmp_path / "m", {"model.norm.weight": name}))


@pytest.mark.parametrize(
    ("weight_map", "problem"),
    [
        ({"model.norm.weight": "b.safetensors"}, r"b\.safetensors cannot be read: No such file"),
        ({"model.norm.weight": "a.safetensors", "x": "a.safetensors"}, "index and files differ on 1 tensors, first x"),
        ({}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_an_index_must_say_what_is_there(tmp_path: Path, weight_map: Any, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        open_model(with_index(tmp_path / "m", weight_map))


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = with_index(tmp_path / "m", {"model.norm.weight": "a.safetensors", "x": "b.safetensors"})
    save_file({"model.norm.weight": torch.ones(4), "x": torch.ones(1)}, folder / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is in a\.safetensors and in b\.safetensors"):
        open_model(folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer, not the file itself"),
        (b"", "is damaged or truncated"),
        (b"\xff" * 64, "is damaged or truncated"),
        ((2**62).to_bytes(8, "little") + b"{}", "is damaged or truncated"),
    ],
)
def test_damaged_weights_are_told(tmp_path: Path, content: bytes, problem: str) -> None:
    folder = given_model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=problem):
        open_model(folder)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    folder = given_model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle, which is never read"):
        open_model(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1, "a": 2}', "{" * 100_000, "\ud800"])
def test_a_config_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = given_model(tmp_path / "m")
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"config\.json (is not valid JSON|holds no JSON object)"):
        open_model(folder)


ENTRIES = (
    Entry(name="a", shape=(3, 5), dtype=torch.float32),
    Entry(name="b", shape=(7,), dtype=torch.bfloat16),
    Entry(name="c", shape=(), dtype=torch.float16),
)


def test_a_safetensors_file_is_what_the_library_reads(tmp_path: Path) -> None:
    weights = {entry.name: torch.randn(entry.shape).to(entry.dtype) for entry in ENTRIES}
    with safetensors_writer(tmp_path / "x.safetensors", ENTRIES) as write:
        for name in ("b", "c", "a"):  # any order
            write(name, weights[name])
    loaded = load_file(tmp_path / "x.safetensors")
    assert set(loaded) == set(weights)
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    save_file(weights, tmp_path / "y.safetensors", metadata={"format": "pt"})
    assert len((tmp_path / "y.safetensors").read_bytes()) == len((tmp_path / "x.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (["a", "b"], r"\['c'\] were not written"),
        (["a", "a"], "a is written twice"),
    ],
)
def test_every_tensor_is_written_exactly_once(tmp_path: Path, written: list[str], problem: str) -> None:
    weights = {entry.name: torch.zeros(entry.shape, dtype=entry.dtype) for entry in ENTRIES}
    with (
        pytest.raises(AssertionError, match=problem),
        safetensors_writer(tmp_path / "x.safetensors", ENTRIES) as write,
    ):
        for name in written:
            write(name, weights[name])
    assert not (tmp_path / "x.safetensors").exists()


def test_a_tensor_of_another_shape_is_not_written(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="a is not as announced"),
        safetensors_writer(tmp_path / "x.safetensors", ENTRIES) as write,
    ):
        write("a", torch.zeros(5, 3))


def test_an_interrupted_conversion_is_gone_on_with_only_if_it_is_the_same(tmp_path: Path) -> None:
    out = tmp_path / "out"
    partial = tmp_path / "out.partial"
    with output_folder.begun(out, {"dtype": "bf16"}) as held:
        assert held.folder == partial
        (partial / "done").write_text("x")
    with output_folder.begun(out, {"dtype": "bf16"}):
        assert (partial / "done").exists()
    with output_folder.begun(out, {"dtype": "fp32"}) as held:
        assert not (partial / "done").exists()
        output_folder.publish(held, out, {"dtype": "fp32", "proof": {}})
    assert json.loads((out / "conversion.json").read_text()) == {"dtype": "fp32", "proof": {}}
    assert [path.name for path in out.iterdir()] == ["conversion.json"]
    assert not partial.exists()
    with (
        pytest.raises(UsageError, match="out exists. Name another folder, or remove it: nothing is ever overwritten"),
        output_folder.begun(out, {}),
    ):
        pass
