"""The small files of a checkpoint for an export, and the longest sequences that it was trained on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from checkpoint_samples import FILES, published_manifest, sample_manifest, store_in, write_files

from harness.errors import CheckpointError, SaveFailedError
from harness.run.checkpoints.for_export import belongings_of, in_folder, longest_seq_length, put_into
from harness.run.checkpoints.manifest import read_manifest
from harness.run.checkpoints.verify import verify

BELONGINGS = {
    "tokenizer/tokenizer.json": b"{}",
    "tokenizer/chat_templates/tools.jinja": b"{{ tools }}",
    "origin/config.json": b"{ }",
}


def publish(folder: Path, **changes: Any) -> Path:
    store = store_in(folder)
    partial = store.begin(10)
    write_files(partial)
    return store.publish(partial, sample_manifest(10, **changes), belongings=BELONGINGS)


def test_they_are_files_of_the_checkpoint_like_all_others(tmp_path: Path) -> None:
    path = publish(tmp_path, longest_seq_length=64)
    manifest = read_manifest(path)
    assert set(manifest.files) == {*FILES, *BELONGINGS}
    assert verify(path, deep=True) == []
    assert belongings_of(path, manifest) == BELONGINGS
    files = in_folder(BELONGINGS, "tokenizer")
    assert set(files) == {"tokenizer.json", "chat_templates/tools.jinja"}
    assert put_into("tokenizer", files).items() <= BELONGINGS.items()
    (path / "tokenizer/tokenizer.json").write_bytes(b"[]")
    (problem,) = verify(path, deep=True)
    assert problem.startswith("'tokenizer/tokenizer.json' was altered: ")


@pytest.mark.parametrize("name", ["a\nb.json", "a\x1b[2J.json", "../a.json", "chat_templates//a"])
def test_a_name_that_no_manifest_takes_is_refused_before_anything_is_saved(name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot go with a checkpoint: a file name must be relative, printable"):
        put_into("tokenizer", {"tokenizer.json": b"{}", name: b""})


def test_a_disk_that_refuses_them_fails_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(SaveFailedError, match="The checkpoint of step 10 was not saved: No space left on device"):
        publish(tmp_path)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_an_earlier_version_kept_them_in_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "step_0000010"
    (tmp_path / "run" / "source").mkdir(parents=True)
    for name, content in (("tokenizer.json", b"{}"), ("config.json", b"{ }")):
        (tmp_path / "run" / "source" / name).write_bytes(content)
    expected = {"tokenizer/tokenizer.json": b"{}", "origin/config.json": b"{ }"}
    assert belongings_of(path, published_manifest(10)) == expected
    assert belongings_of(path, published_manifest(10, longest_seq_length=0)) == {}
    moved = tmp_path / "scratch"
    path.mkdir(parents=True)
    path.parent.rename(moved)
    path.parent.symlink_to(moved)
    assert belongings_of(path, published_manifest(10)) == expected
    assert belongings_of(moved / path.name, published_manifest(10)) == {}
    (tmp_path / "source").mkdir()  # somebody's
    (tmp_path / "source" / "config.json").touch()
    assert belongings_of(moved / path.name, published_manifest(10)) == {}
    (tmp_path / "run" / "source" / "notes.txt").write_text("not of the tokenizer")
    assert belongings_of(path, published_manifest(10)) == expected
    (tmp_path / "run" / "source" / "tokenizer.model").symlink_to("tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is a link to tokenizer\.json, which cannot be read"):
        belongings_of(path, published_manifest(10))


DATA = {"seq_length": 64, "later_phases": [{"seq_length": 256}, {"seq_length": 128}]}
BEGUN = [
    {"kind": "phase", "position": 40, "phase": 1, "consumed_samples": 40},
    {"kind": "parts", "position": 50, "channel": "zh", "num_parts": 2, "digest": "0"},
    {"kind": "phase", "position": 60, "phase": 2, "consumed_samples": 60},
]


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        pytest.param({"longest_seq_length": 512, "fingerprint": {"data": DATA}}, 512, id="written down"),
        pytest.param({"longest_seq_length": 0}, 0, id="written down, none"),
        pytest.param({"consumed_samples": 30, "fingerprint": {"data": {"seq_length": 64}}}, 64, id="first phase"),
        pytest.param(
            {"consumed_samples": 40, "fingerprint": {"data": DATA}, "cursor": {"history": BEGUN[:1]}}, 64, id="border"
        ),
        pytest.param(
            {"consumed_samples": 41, "fingerprint": {"data": DATA}, "cursor": {"history": BEGUN[:1]}}, 256, id="second"
        ),
        pytest.param(
            {"consumed_samples": 90, "fingerprint": {"data": DATA}, "cursor": {"history": BEGUN}}, 256, id="third"
        ),
        pytest.param({"consumed_samples": 0, "fingerprint": {}}, 0, id="converted"),
        pytest.param({"consumed_samples": 90, "fingerprint": {}}, None, id="mean"),
        pytest.param({"consumed_samples": 90, "fingerprint": {"data": {"seq_length": "long"}}}, 0, id="nonsense"),
    ],
)
def test_longest_sequences(changes: dict[str, Any], longest: int | None) -> None:
    assert longest_seq_length(published_manifest(10, **changes)) == longest
