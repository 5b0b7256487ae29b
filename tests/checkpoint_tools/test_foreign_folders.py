"""Folders as other tools leave them: caches full of links, two sets of weights, files that nothing names."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import conversion_jobs
import pytest
from hugging_face_models import VARIANTS, VOCAB_SIZE, weights_of, write_model, write_tokenizer
from pool import Pool
from safetensors.torch import save_file

from checkpoint_tools.compare_models import differences, open_either
from checkpoint_tools.foreign_files import read_start, read_whole
from checkpoint_tools.their_tensors import open_model
from harness.cli import run
from harness.errors import EXIT_BAD_DATA, CheckpointError, DataError
from harness.tokenizers.tokenizer import open_tokenizer

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in one file, with a tokenizer."""
    folder = write_model(
        tmp_path_factory.mktemp("plain") / "given",
        VARIANTS[0]._replace(changes={"vocab_size": VOCAB_SIZE}),
    )
    write_tokenizer(folder)
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "given")


def as_cache(folder: Path, root: Path) -> Path:
    """The same folder as the hub's cache holds it: links to files that are called by their hashes."""
    snapshot = root / "models--some--model" / "snapshots" / "0123abc"
    blobs = root / "models--some--model" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def write_index(folder: Path, *names: str, shift: float = 0.0) -> None:
    """Write shards with all tensors, each a little larger, and the index that names them."""
    weights = weights_of(folder)
    weight_map: dict[str, str] = {}
    for number, name in enumerate(names):
        part = {key: weights[key] + shift for key in sorted(weights)[number :: len(names)]}
        weight_map |= dict.fromkeys(part, name)
        save_file(part, folder / name, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        open_model(folder)
    return str(refused.value)


def test_a_folder_of_a_cache_is_read_through_its_links(pool: Pool, folder: Path, tmp_path: Path) -> None:
    write_index(folder, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    (folder / "model.safetensors").unlink()
    snapshot = as_cache(folder, tmp_path / "hub")
    (tmp_path / "linked").symlink_to(snapshot)
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(tmp_path / "linked"), str(tmp_path / "o")])
    assert (left.code, left.err) == (0, "")
    kept_in = {"config.json": "origin", "generation_config.json": "origin"}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        kept = tmp_path / "o" / "checkpoints" / "step_0000000" / kept_in.get(name, "tokenizer") / name
        assert not kept.is_symlink()
        assert kept.read_bytes() == (folder / name).read_bytes()
    assert differences(open_either(snapshot), open_either(folder)) == []
    assert run(["checkpoint", "inspect", str(snapshot)]) == 0
    assert open_tokenizer(snapshot).encode_documents(["fox"]) == open_tokenizer(folder).encode_documents(["fox"])


def test_a_repository_of_a_cache_is_told_from_its_snapshots(folder: Path, tmp_path: Path) -> None:
    snapshot = as_cache(folder, tmp_path / "hub")
    told = refusal(snapshot.parents[1])
    assert told.endswith(f"is a repository in a cache of Hugging Face. Name one of its snapshots: {snapshot}.")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"])
def test_a_link_that_leads_nowhere_is_named(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = as_cache(folder, tmp_path / "hub")
    target = (snapshot / name).readlink()
    (snapshot / name).resolve().unlink()
    assert run(["convert", "from-hf", str(snapshot), str(tmp_path / "out")]) == EXIT_BAD_DATA
    told = capsys.readouterr().err
    assert f"{snapshot / name} is a link to {target}, which cannot be read: No such file or directory." in told
    assert not list(tmp_path.glob("out*"))


def test_a_tokenizer_that_is_a_link_to_nowhere_is_named(folder: Path, tmp_path: Path) -> None:
    snapshot = as_cache(folder, tmp_path / "hub")
    (snapshot / "tokenizer.json").resolve().unlink()
    for path in (snapshot, snapshot / "tokenizer.json"):
        with pytest.raises(DataError, match=r"tokenizer\.json: a link that leads nowhere, to \.\./\.\./blobs/0"):
            open_tokenizer(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop"])
def test_a_link_leads_to_a_regular_file_or_is_refused(tmp_path: Path, kind: str) -> None:
    target = tmp_path / kind
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(target),
        "folder": target.mkdir,
        "device": lambda: target.symlink_to("/dev/zero"),
        "loop": lambda: target.symlink_to("config.json"),
    }
    make[kind]()
    (tmp_path / "config.json").symlink_to(target)
    with pytest.raises(
        CheckpointError, match=r"config\.json is a link to .*, which cannot be read: (not a regular|Too many)"
    ):
        read_whole(tmp_path / "config.json", 100)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b" " * (1024**2 + 1))
    with pytest.raises(CheckpointError, match=r"config\.json is larger than 1 MiB"):
        read_whole(tmp_path / "config.json", 1024**2)


def test_a_file_that_is_too_large_is_not_held_twice(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 42)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"large\.json is larger than 64 MiB"):
        read_whole(tmp_path / "large.json", 64 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 << 20
    assert len(read_start(tmp_path / "large.json", 7)) == 7


def test_two_sets_of_weights_are_refused(folder: Path) -> None:
    write_index(folder, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", shift=0.01)
    told = refusal(folder)
    assert "has two sets of weights: model.safetensors, and an index (model.safetensors.index.json) that names" in told
    assert "transformers reads model.safetensors, other programs the index. Take away the one that is not" in told
    (folder / INDEX).unlink()
    assert open_model(folder).beside == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_an_index_that_names_the_single_file_beside_another_is_two_sets_too(folder: Path) -> None:
    write_index(folder, "model-00001-of-00002.safetensors", "model.safetensors")
    assert "has two sets of weights" in refusal(folder)


def test_an_index_of_the_single_file_is_no_second_set(folder: Path) -> None:
    write_index(folder, "model.safetensors")
    assert set(open_model(folder).files.values()) == {"model.safetensors"}


def test_files_that_nothing_names_are_told(pool: Pool, folder: Path, tmp_path: Path) -> None:
    save_file(weights_of(folder), folder / "consolidated.safetensors")
    shutil.copy(folder / "model.safetensors", folder / "model.fp16.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(folder), str(tmp_path / "run")])
    assert (left.code, left.err) == (
        0,
        "warning: its folder has other files that may hold weights, which were not read: consolidated.safetensors, "
        "model.fp16.safetensors, pytorch_model.bin\n",
    )


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "consolidated.safetensors"])
def test_weights_under_another_name_alone_are_told(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    told = refusal(folder)
    assert "has neither model.safetensors nor model.safetensors.index.json; it has " in told
    assert f"{name}, which nothing names as the model's weights. Fetch the index, or rename the file to model." in told


def test_an_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "has an adapter_config.json: some readers would change the weights by the adapter" in refusal(folder)
