"""The manifest: what is written can be read, what is strange is refused."""

from __future__ import annotations

import json
import os
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import xxhash
from checkpoint_samples import published_manifest, sample_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.errors import CheckpointError
from harness.run.checkpoints.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileRecord,
    Manifest,
    manifest_bytes,
    manifest_or_problem,
    manifest_text,
    parse_manifest,
    read_manifest,
    write_manifest,
)

TEXT = """\
{
  "format_version": 1,
  "step": 10,
  "attempt": 0,
  "parent": {
    "step": 5,
    "attempt": 0
  },
  "health": "clean",
  "pinned": false,
  "fencing_token": null,
  "config_hash": "0123456789abcdef",
  "versions": {
    "harness": "0.1.0",
    "megatron_core": "0.16.1",
    "torch": "2.13.0",
    "python": "3.11.7"
  },
  "layout": {
    "tensor": 2,
    "pipeline": 1,
    "virtual_pipeline": 1,
    "context": 1,
    "data": 2,
    "expert": 1,
    "expert_tensor": 1
  },
  "consumed_samples": 80,
  "consumed_tokens": 10240,
  "learning_rate": 0.0003,
  "next_batch_hash": "00ff00ff00ff00ff",
  "saved_at": "2026-01-02T03:04:05Z",
  "save_seconds": 1.5,
  "cursor": {
    "samples": 80
  },
  "optimizer_norms": {
    "exp_avg": 0.25,
    "exp_avg_sq": 0.125
  },
  "last_losses": [
    [9, 2.5],
    [10, 2.375]
  ],
  "rollback": null,
  "adjustment": null,
  "rotation": null,
  "longest_seq_length": null,
  "fingerprint": {},
  "files": {
    "a": {"bytes": 1, "xxh3": "0000000000000000"},
    "b/c": {"bytes": 2, "xxh3": "0000000000000001"}
  }
}
"""


def golden() -> Manifest:
    files = {"b/c": FileRecord(bytes=2, xxh3="0" * 15 + "1"), "a": FileRecord(bytes=1, xxh3="0" * 16)}
    losses = ((9, 2.5), (10, 2.375))
    return sample_manifest(10, cursor={"samples": 80}, last_losses=losses, fingerprint={}, files=files)


def test_the_text_is_this() -> None:
    assert manifest_text(golden()) == TEXT


def test_the_text_can_be_read_back() -> None:
    assert parse_manifest(TEXT.encode()) == golden()
    for manifest in (published_manifest(7), published_manifest(7, parent=None, next_batch_hash=None, pinned=True)):
        assert parse_manifest(manifest_text(manifest).encode()) == manifest


def test_the_last_line_is_the_hash_of_the_others() -> None:
    content = manifest_bytes(golden())
    checksum = xxhash.xxh3_64_hexdigest(TEXT.encode())
    assert content.decode() == TEXT.removesuffix("\n}\n") + f',\n  "checksum": "{checksum}"\n}}\n'
    assert parse_manifest(content) == golden()


def test_every_flipped_bit_is_noticed() -> None:
    content = manifest_bytes(golden())
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        with pytest.raises(CheckpointError):
            parse_manifest(bytes(altered))


def test_an_altered_number_is_told() -> None:
    altered = manifest_bytes(golden()).replace(b'"consumed_samples": 80', b'"consumed_samples": 88')
    with pytest.raises(CheckpointError, match=r"was altered: the hash of its text is \w{16}, its last line"):
        parse_manifest(altered)


def test_written_and_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, published_manifest(1))
    write_manifest(tmp_path, published_manifest(2))
    assert read_manifest(tmp_path) == published_manifest(2)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]


def test_a_staging_file_of_a_crash_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "manifest.json.partial").write_text("half")
    write_manifest(tmp_path, published_manifest(1))
    assert read_manifest(tmp_path).step == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": float("nan")},
        {"learning_rate": -1.0},
        {"last_losses": ((1, float("inf")),)},
        {"last_losses": tuple((k, 1.0) for k in range(51))},
        {"optimizer_norms": {"exp_avg": float("nan")}},
        {"cursor": {"deep": [{"er": float("nan")}]}},
        {"fingerprint": {"model": {"x": float("inf")}}},
        {"health": "fine"},
        {"attempt": -1},
        {"attempt": True},
        {"attempt": "10"},
        {"config_hash": "xyz"},
        {"next_batch_hash": "0x12"},
        {"saved_at": datetime(2026, 1, 1)},
        {"unknown": 1},
        {"cursor": {"path": Path("x")}},
    ],
)
def test_wrong_values_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        sample_manifest(10, **changes)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\\b", "a\nb", "a\0b", "x" * 513, MANIFEST_NAME]
)
def test_file_names_stay_inside(name: str) -> None:
    with pytest.raises(ValidationError, match="a file name must be relative|cannot list itself"):
        sample_manifest(1, files={name: FileRecord(bytes=1, xxh3="0" * 16)})


def edited(**changes: object) -> str:
    return json.dumps(json.loads(TEXT) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.json is not valid JSON: Expecting value"),
        (TEXT[:-30], "manifest.json is not valid JSON"),
        ("\ufeff" + TEXT, "manifest.json is damaged: top level: Invalid JSON"),
        (TEXT.replace("0.0003", "NaN"), "manifest.json is not valid JSON: NaN is not JSON"),
        (TEXT.replace("0.0003", "1e999"), "manifest.json is not valid JSON: 1e999 is larger than any float"),
        (TEXT.replace("0.0003", "9" * 5000), "manifest.json is not valid JSON"),
        (TEXT.replace('"attempt": 0,', '"attempt": 0, "attempt": 1,', 1), "attempt is there twice"),
        ("[" * 100_000, "manifest.json is not valid JSON"),
        ("[]", "manifest.json has format version None, and this harness reads version 1"),
        (edited(format_version=2), "has format version 2, and this harness reads version 1: use the version"),
        (edited(format_version=True), "has format version True, and this harness reads version 1"),
        (edited(step="10"), "manifest.json is damaged: step: Input should be a valid integer, got '10'"),
        (edited(health="fine"), "manifest.json is damaged: health: Input should be 'clean', 'suspect' or 'abandoned'"),
        (edited(files={}), "manifest.json is damaged: it lists no files"),
        (edited(files={"../x": {"bytes": 1, "xxh3": "0" * 16}}), "a file name must be relative, printable"),
        (edited(files={"x": {"bytes": 1, "xxh3": "0" * 8}}), "manifest.json is damaged: files.x.xxh3: String should"),
        (edited(surprise=1), "manifest.json is damaged: surprise: Extra inputs are not permitted, got 1"),
        (edited(layout={"tensor": 1}), "manifest.json is damaged: layout.pipeline"),
        (edited(parent={"step": "\x1b[31m"}), "parent.step: Input should be a valid integer, got '\\x1b[31m'"),
        (edited(a=1, b=2, c=3, d=4), "; 1 more"),
    ],
)
def test_damaged_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_manifest(text.encode())
    assert message in str(caught.value)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"manifest\.json is not valid JSON: not UTF-8 at byte 0"):
        parse_manifest(b"\xff" + TEXT.encode())


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    path.touch()
    os.truncate(path, 10 * MAX_MANIFEST_BYTES)
    assert manifest_or_problem(tmp_path) == "manifest.json is larger than 64 MiB"


def test_reading_takes_the_memory_of_the_file_and_not_of_the_largest_that_is_allowed(tmp_path: Path) -> None:
    write_manifest(tmp_path, golden())
    tracemalloc.start()
    try:
        manifest_or_problem(tmp_path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * 1024**2


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    assert manifest_or_problem(tmp_path) == "manifest.json is missing"
    path.mkdir()
    assert manifest_or_problem(tmp_path) == "manifest.json cannot be read: not a regular file"
    path.rmdir()
    os.mkfifo(path)
    assert manifest_or_problem(tmp_path) == "manifest.json cannot be read: not a regular file"
    path.unlink()
    (tmp_path / "elsewhere").write_text(TEXT)
    path.symlink_to("elsewhere")
    assert manifest_or_problem(tmp_path) == "manifest.json cannot be read: Too many levels of symbolic links"


def test_reading_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == f"{tmp_path} is not a usable checkpoint: manifest.json is missing."


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    strange = published_manifest(1).model_copy(update={"files": {"a\nb": FileRecord(bytes=1, xxh3="0" * 16)}})
    with pytest.raises(CheckpointError, match="a file name must be relative"):
        write_manifest(tmp_path, strange)
    assert list(tmp_path.iterdir()) == []


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no text in UTF-8.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values))
def test_every_cursor_survives(cursor: dict[str, Any]) -> None:
    manifest = published_manifest(1, cursor=cursor, saved_at=datetime(2026, 1, 1, 0, 0, 0, 5, tzinfo=UTC))
    assert parse_manifest(manifest_text(manifest).encode()) == manifest


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.integers(0, len(TEXT)))
def test_no_input_does_anything_but_refuse(inserted: bytes, place: int) -> None:
    content = TEXT.encode()
    try:
        parse_manifest(content[:place] + inserted + content[place:])
    except CheckpointError as error:
        assert str(error).isprintable() or "\n" in str(error)
