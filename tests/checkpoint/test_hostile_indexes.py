"""What a checkpoint's index says is checked before anything is read by it, also if its manifest fits it."""

from __future__ import annotations

import os
import pickle
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from checkpoint_samples import sample_manifest, store_in
from hostile_indexes import CHANGES, Change, fit_manifest, rewrite_index

from harness import cli
from harness.checkpoint.objections import objection_to

TENSORS = {"a.weight": torch.arange(24.0).reshape(6, 4), "b.weight": torch.ones(4, 4)}


def checkpoint(folder: Path, step: int) -> Path:
    store = store_in(folder)
    partial = store.begin(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(dict(TENSORS), checkpoint_id=partial, no_dist=True)
    (partial / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    return store.publish(partial, sample_manifest(step))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("pristine"), 10)


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy of a sound checkpoint."""
    import shutil

    return Path(shutil.copytree(pristine, tmp_path / "run" / "checkpoints" / pristine.name))


def harness(*arguments: object) -> int:
    return cli.run(["checkpoint", *map(str, arguments)])


def require_refused(folder: Path, pristine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that reads tensors says no, in one line, and so does a start of training."""
    began = time.monotonic()
    for command in (("inspect", folder), ("diff", folder, pristine), ("diff", pristine, folder), ("verify", folder)):
        assert harness(*command) == 65, command
        out, err = capsys.readouterr()
        told = out if command[0] == "verify" else err
        assert len(told.splitlines()) == 1, told
        assert "Traceback" not in told
    assert objection_to(folder) is not None
    assert time.monotonic() - began < 20


def test_a_sound_one_is_not_refused(folder: Path, pristine: Path) -> None:
    assert [harness(*command) for command in (("inspect", folder), ("diff", folder, pristine))] == [0, 0]
    assert harness("verify", folder, "--deep") == 0
    assert objection_to(folder) is None
    rewrite_index(folder, lambda _: None)
    assert objection_to(folder) is None


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_index_that_says_what_no_index_says(
    folder: Path, pristine: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_index(folder, change)
    require_refused(folder, pristine, capsys)


PAIRS = b"".join(b"h%ch%c\x86q%c" % (number, number, number + 1) for number in range(60))
PICKLES = {
    "nine bytes for a gigabyte": b"\x80\x04\x8e" + (2**30).to_bytes(8, "little"),
    "a key of pairs of pairs": b"\x80\x02)q\x00"
    + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60))
    + b"}h<Ns.",
    "a number of many digits": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "the end": b"\x80\x02.",
    "one byte": b"\x80",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "an empty index": b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81.",
    "an index with a list": b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81]b.",
    "an index of an index": b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\nh\x00\x81.",
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_an_index_that_is_a_bomb(
    folder: Path, pristine: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".metadata").write_bytes(content)
    fit_manifest(folder)
    require_refused(folder, pristine, capsys)


def test_a_file_that_became_something_else(folder: Path, pristine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = folder / "__0_0.distcp"
    content = shard.read_bytes()
    outside = folder.parent / "outside.distcp"
    outside.write_bytes(content)
    for replace in (
        lambda: os.mkfifo(shard),
        shard.mkdir,
        lambda: shard.symlink_to(outside),
        lambda: shard.symlink_to(shard),
        lambda: shard.symlink_to("/dev/zero"),
    ):
        shard.rmdir() if shard.is_dir() and not shard.is_symlink() else shard.unlink()
        replace()
        for command in (("inspect", folder), ("diff", folder, pristine), ("verify", folder)):
            assert harness(*command) == 65
            out, err = capsys.readouterr()
            assert "Traceback" not in out + err
        assert objection_to(folder) is not None


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metadata.json", b"", "metadata.json is not valid JSON"),
        ("metadata.json", b"[" * 10_000, "metadata.json is not valid JSON"),
        (
            "metadata.json",
            b'{"sharded_backend": "zarr"}',
            "does not say that the checkpoint is of the format",
        ),
        ("metadata.json", b'{"sharded_backend": "torch_dist", "x": 1}', "metadata.json has 'x'"),
        ("metadata.json", b'{"sharded_backend": "torch_dist", "sharded_backend_version": "1"}', "metadata.json has"),
        ("common.pt", b"", "common.pt is not an archive of torch"),
        ("common.pt", pickle.dumps({}), "common.pt is not an archive of torch"),
    ],
)
def test_small_files_that_megatron_cannot_read(folder: Path, name: str, content: bytes, told: str) -> None:
    (folder / name).write_bytes(content)
    assert told in (objection_to(folder) or "")


def test_a_common_file_that_holds_more_than_settings(folder: Path) -> None:
    torch.save({"a": os.mkdir}, folder / "common.pt")
    assert "common.pt is damaged, or holds what is not part of a checkpoint" in (objection_to(folder) or "")
    torch.save([1], folder / "common.pt")
    assert "common.pt does not hold the common state" in (objection_to(folder) or "")
    torch.save({"optimizer": {"step": 3}}, folder / "common.pt")
    assert objection_to(folder) is None
