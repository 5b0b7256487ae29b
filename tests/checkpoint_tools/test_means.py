"""Means: which checkpoints have none, and what the mean has of which of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conversion_jobs
import pytest
import xxhash
from hostile_indexes import Change, first_half_only, halves_that_overlap, of_place, rewrite_index
from hugging_face_models import VARIANTS, write_model, write_tokenizer
from pool import Pool

from checkpoint_tools.average import average
from harness.cli import run
from harness.errors import EXIT_BAD_DATA, CheckpointError
from harness.run.checkpoints.choice import newest_sound
from harness.run.checkpoints.manifest import FileRecord, read_manifest, write_manifest
from harness.run.files import replace_file
from harness.tokenizers.identity import OTHER_TOKENIZERS


@pytest.fixture(scope="module")
def checkpoint(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("means")
    given = write_model(folder / "given", VARIANTS[0]._replace(changes={"vocab_size": 420}))
    write_tokenizer(given)
    [told] = pool.run(conversion_jobs.from_hf, 1, given, folder / "run", {})
    assert told.startswith("proven"), told
    return folder / "run" / "checkpoints" / "step_0000000"


@pytest.fixture
def altered(checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """Gives a copy of the checkpoint with other fields in its manifest."""

    def alter(name: str, **fields: Any) -> Path:
        path = shutil.copytree(checkpoint, tmp_path / name)
        write_manifest(path, read_manifest(path).model_copy(update=fields))
        return path

    return alter


def with_file(path: Path, name: str, content: bytes) -> Path:
    """Puts other content into a file of a checkpoint."""
    replace_file(path / name, content)
    manifest = read_manifest(path)
    record = FileRecord(bytes=len(content), xxh3=xxhash.xxh3_64_hexdigest(content))
    files = {**manifest.files, name: record}
    write_manifest(path, manifest.model_copy(update={"files": files}))
    return path


def test_phases_that_rotate_otherwise_have_no_mean(checkpoint: Path, altered: Callable[..., Path]) -> None:
    """Their weights are made for different functions."""
    other, out = altered("other", rotation={"rotary_base": 500_000.0, "rope_scaling": None}), checkpoint.parent / "none"
    for paths in ([checkpoint, other], [other, checkpoint]):
        with pytest.raises(CheckpointError, match=r"rotation of the last phase: .*rotary_base [15]0.*, there rotary_b"):
            average(paths, out, conversion_jobs.no_display)
    assert not list(checkpoint.parent.glob("none*"))


def test_a_phase_that_rotates_as_the_model_does_is_none(
    checkpoint: Path, altered: Callable[..., Path], tmp_path: Path
) -> None:
    same = altered("same", rotation={"rotary_base": 10_000.0, "rope_scaling": None})
    assert average([checkpoint, same], tmp_path / "mean", conversion_jobs.no_display).warnings == ()


def test_abandoned_checkpoints_have_no_mean(
    checkpoint: Path, altered: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    abandoned = altered("abandoned", health="abandoned")
    assert run(["convert", "average", str(checkpoint), str(abandoned), str(tmp_path / "mean")]) == EXIT_BAD_DATA
    assert f"{abandoned} is abandoned: a rollback left it behind" in capsys.readouterr().err
    assert not list(tmp_path.glob("mean*"))


def test_the_mean_of_a_suspect_checkpoint_is_suspect_and_says_so(
    checkpoint: Path, altered: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suspect = altered("suspect", health="suspect")
    assert run(["convert", "average", str(suspect), str(checkpoint), str(tmp_path / "mean")]) == 0
    assert f"warning: the mean is suspect, because {suspect} may be spoilt" in capsys.readouterr().err
    assert read_manifest(tmp_path / "mean" / "checkpoints" / "step_0000000").health == "suspect"
    assert newest_sound(tmp_path / "mean" / "checkpoints", deep=True).entry is not None


def test_other_small_files_are_told_with_those_that_the_mean_has(
    checkpoint: Path, altered: Callable[..., Path], tmp_path: Path
) -> None:
    last = with_file(altered("last"), "origin/generation_config.json", b'{"eos_token_id": 7}')
    last = with_file(last, "tokenizer/tokenizer_config.json", b"{}")
    done = average([checkpoint, last], tmp_path / "mean", conversion_jobs.no_display)
    (warning,) = done.warnings
    assert warning == (
        f"origin/generation_config.json, tokenizer/tokenizer_config.json of {checkpoint} and {last} differ; the mean "
        f"has those of the last, {last}"
    )
    assert (done.checkpoint / "origin" / "generation_config.json").read_bytes() == b'{"eos_token_id": 7}'


def test_the_mean_knows_all_tokenizers_of_the_model(altered: Callable[..., Path], tmp_path: Path) -> None:
    fingerprint = read_manifest(altered("plain")).fingerprint
    others = [{"file": "tokenizer.model", "xxh3": "0" * 16, "vocab_size": 420}]
    both = [altered(name, fingerprint={**fingerprint, OTHER_TOKENIZERS: others}) for name in ("one", "two")]
    done = average(both, tmp_path / "mean", conversion_jobs.no_display)
    assert read_manifest(done.checkpoint).fingerprint == read_manifest(both[0]).fingerprint


@pytest.mark.parametrize("change", [halves_that_overlap, first_half_only, of_place(relative_path="../x.distcp")])
def test_tensors_that_are_not_whole_are_read_by_no_converter(
    checkpoint: Path, tmp_path: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hole would be filled with whatever is in the memory."""
    harmed, out = Path(shutil.copytree(checkpoint, tmp_path / "harmed")), tmp_path / "out"
    rewrite_index(harmed, change)
    for arguments in (
        ("average", checkpoint, harmed, out),
        ("to-hf", harmed, out),
        ("check", checkpoint, harmed),
        ("check", harmed, checkpoint),
    ):
        assert run(["convert", *map(str, arguments)]) == EXIT_BAD_DATA
        err = capsys.readouterr().err
        assert f"Checkpoint {harmed} cannot be read: " in err
        assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("out*"))
