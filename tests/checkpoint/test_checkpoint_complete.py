"""What was written is all there before its hashes are taken for the truth."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from harness.checkpoint.complete import incompleteness
from harness.run.checkpoints.contents import file_records
from harness.run.checkpoints.manifest import FileRecord
from harness.run.checkpoints.metadata_pickle import METADATA_NAME, write_records


@pytest.fixture(scope="module")
def index() -> Any:
    """An index of torch's own records: two tensors in the first file, one in the second."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

    places = {"a": ("__0_0.distcp", 0, 100), "b": ("__0_0.distcp", 100, 50), "c": ("__0_1.distcp", 0, 7)}
    storage = {MetadataIndex(name): _StorageInfo(*place) for name, place in places.items()}
    return Metadata(state_dict_metadata={}, storage_data=storage)


@pytest.fixture
def folder(tmp_path: Path, index: Any) -> Path:
    write_records(tmp_path / METADATA_NAME, index)
    (tmp_path / "__0_0.distcp").write_bytes(bytes(150))
    (tmp_path / "__0_1.distcp").write_bytes(bytes(7))
    (tmp_path / "metadata.json").write_text("{}")
    with zipfile.ZipFile(tmp_path / "common.pt", "w") as archive:
        archive.writestr("data.pkl", b"leaves")
    return tmp_path


def records_of(folder: Path) -> dict[str, FileRecord]:
    """What the writers say of their files."""
    return file_records(folder, [path.name for path in folder.glob("*.distcp")])


def test_all_is_there(folder: Path) -> None:
    assert incompleteness(folder, records_of(folder)) is None


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        ("__0_0.distcp", 149, "__0_0.distcp was written with 150 bytes and has 149 on disk"),
        ("__0_1.distcp", 8, "__0_1.distcp was written with 7 bytes and has 8 on disk"),
        ("common.pt", 0, "common.pt is not whole"),
        ("common.pt", 30, "common.pt is not whole"),
        ("metadata.json", 0, "metadata.json is not whole"),
        (METADATA_NAME, 0, "its .metadata is damaged: it ends too early"),
    ],
)
def test_something_is_lacking(folder: Path, name: str, size: int, problem: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:size] + bytes(max(0, size - len(content))))
    assert incompleteness(folder, records_of(folder)) == problem


def test_a_file_that_nobody_has_written_is_lacking(folder: Path) -> None:
    (folder / "__0_1.distcp").unlink()
    problem = "__0_1.distcp is in the index, and no rank has written it"
    assert incompleteness(folder, records_of(folder)) == problem
