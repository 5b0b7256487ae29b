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
from hugging_face_models import VARIANTS, byte_level, write_model, write_tokenizer
from pool import Pool

from checkpoint_tools.average import average
from harness.cli import run
from harness.config.load import dump_values
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


def without_tokenizer(path: Path) -> Path:
    """Takes a tokenizer out of a checkpoint, with its record: as of a run without `data.tokenizer`."""
    shutil.rmtree(path / "tokenizer")
    manifest = read_manifest(path)
    files = {name: record for name, record in manifest.files.items() if not name.startswith("tokenizer/")}
    fingerprint = {**manifest.fingerprint, "tokenizer": None}
    write_manifest(path, manifest.model_copy(update={"files": files, "fingerprint": fingerprint}))
    return path


def tokenizer_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (path / "tokenizer").iterdir()}


def test_the_mean_keeps_the_tokenizer_of_the_last_that_has_one(
    pool: Pool, checkpoint: Path, altered: Callable[..., Path], tmp_path: Path
) -> None:
    bare = without_tokenizer(altered("bare"))
    chat = with_file(altered("chat"), "tokenizer/chat_template.jinja", b"{{ messages }}")
    for number, paths in enumerate(([chat, bare], [bare, chat, bare])):
        done = average(paths, tmp_path / f"mean{number}", conversion_jobs.no_display)
        assert tokenizer_of(done.checkpoint) == tokenizer_of(chat)
        made, kept = (read_manifest(path).fingerprint for path in (done.checkpoint, checkpoint))
        assert made["tokenizer"] == kept["tokenizer"]
        assert all(warning.endswith(f"the mean has those of {chat}") for warning in done.warnings)
        assert len(done.warnings) == 1 + number
        out = tmp_path / f"out{number}"
        [left] = pool.run(conversion_jobs.command, 1, ["convert", "to-hf", str(done.checkpoint), str(out)])
        assert (left.code, left.err) == (0, "")
        assert (out / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer" / "tokenizer.json").read_bytes()
        assert (out / "chat_template.jinja").read_bytes() == b"{{ messages }}"


def test_different_tokenizers_have_no_mean(
    checkpoint: Path, altered: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the first checkpoint has none, and the second and the third have two."""
    fingerprint = read_manifest(checkpoint).fingerprint
    record = {**fingerprint["tokenizer"], "xxh3": "0" * 16, "pieces": "1" * 16}
    other = altered("other", fingerprint={**fingerprint, "tokenizer": record})
    bare = without_tokenizer(altered("bare"))
    for paths in ([checkpoint, other], [bare, checkpoint, other], [checkpoint, bare, other]):
        assert run(["convert", "average", *map(str, paths), str(tmp_path / "mean")]) == EXIT_BAD_DATA
        told = capsys.readouterr().err
        assert f"{other} has another tokenizer than {checkpoint}: tokenizer.json with 420 ids (identity " in told
        assert "so they have no mean. Average checkpoints of one tokenizer." in told
    assert not list(tmp_path.glob("mean*"))


def test_tokenizers_without_a_record_are_told_apart_by_their_files(
    altered: Callable[..., Path], tmp_path: Path
) -> None:
    """As of a model whose tokenizer could not be opened."""
    one, other = (without_tokenizer(altered(name)) for name in ("one", "other"))
    for path in (one, other):
        (path / "tokenizer").mkdir()
        with_file(path, "tokenizer/tokenizer_config.json", f'{{"a": "{path.name}"}}'.encode())
        with_file(path, "tokenizer/merges.txt", b"a b")
    done = average([one, other], tmp_path / "mean", conversion_jobs.no_display)
    assert len(done.warnings) == 1, "settings may differ"
    with_file(other, "tokenizer/merges.txt", b"b a")
    with pytest.raises(CheckpointError, match=r"other has another tokenizer than .*one: merges\.txt differ\. "):
        average([one, other], tmp_path / "none", conversion_jobs.no_display)


def test_the_mean_of_checkpoints_of_an_earlier_version_has_the_tokenizer_of_their_run(
    altered: Callable[..., Path], tmp_path: Path
) -> None:
    """They hold no files; `data.tokenizer` of the run is where it was, or has become another one, or is gone."""
    given = altered("given")
    fingerprint = read_manifest(given).fingerprint
    runs = [without_tokenizer(altered(f"run/checkpoints/step_000000{number}")) for number in (1, 2)]
    for path in runs:
        write_manifest(path, read_manifest(path).model_copy(update={"fingerprint": fingerprint}))
    tokenizer = tmp_path / "own" / "tokenizer.json"
    tokenizer.parent.mkdir()
    shutil.copy(given / "tokenizer" / "tokenizer.json", tokenizer)
    model = dump_values({"model": fingerprint["model"], "data": {"tokenizer": str(tokenizer)}})
    channel = "  channels: {zh: {path: data/zh}}\n"
    phase = "phases: [{name: a, train_steps: 1, seq_length: 8, global_batch_size: 1, blend: {zh: 1}}]\n"
    text = f"run: {{name: a}}\n{model}{channel}{phase}optimizer: {{learning_rate: 1.0}}\n"
    (tmp_path / "run" / "config.yaml").write_text(text)
    done = average(runs, tmp_path / "mean", conversion_jobs.no_display)
    assert tokenizer_of(done.checkpoint) == {"tokenizer.json": tokenizer.read_bytes()}
    for number, change in enumerate((lambda: byte_level(300).save(str(tokenizer)), tokenizer.unlink)):
        change()
        done = average(runs, tmp_path / f"mean{number}", conversion_jobs.no_display)
        assert done.warnings == (
            "the tokenizer of the checkpoints was not found: name it to convert to-hf by --tokenizer",
        )


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
