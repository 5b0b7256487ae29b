"""Conversions that are killed at any moment, and go on to the same result."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hugging_face_models import VARIANTS, write_model
from killed_conversions import Conversion, convert_from_hf, convert_to_hf, ended, run, take_mean

from checkpoint_tools import output_folder
from harness.errors import CheckpointError, UsageError
from harness.run.checkpoints.verify import verify
from harness.sole_writer import LOCK_FILE

OF_THE_MOMENT = ("saved_at", "save_seconds", "checksum")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "given", VARIANTS[0])


@pytest.fixture(scope="module")
def conversions(given: Path) -> dict[str, Conversion]:
    run(convert_from_hf(given), given.with_name("run"))
    checkpoint = given.with_name("run") / "checkpoints" / "step_0000000"
    return {
        "from-hf": convert_from_hf(given),
        "to-hf": convert_to_hf(checkpoint),
        "average": take_mean([checkpoint, checkpoint]),
    }


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    """Gives a name for the output in a folder of its own, as often as it is asked."""
    numbers = iter(range(100_000))
    return lambda: tmp_path / str(next(numbers)) / "out"


def contents(out: Path) -> dict[str, Any]:
    """All of a conversion's result but the moment at which it was made, and a lock that nobody holds any more."""
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    files.pop(LOCK_FILE, None)  # of one that was killed right after the last rename
    parsed: dict[str, Any] = dict(files)
    for name in files:
        if name.endswith("manifest.json"):
            manifest = json.loads(files[name])
            parsed[name] = {key: value for key, value in manifest.items() if key not in OF_THE_MOMENT}
    return parsed


@pytest.mark.parametrize("name", ["from-hf", "to-hf"])
def test_a_conversion_that_is_killed_anywhere_goes_on_to_the_same_result(
    conversions: dict[str, Conversion], name: str, fresh: Callable[[], Path]
) -> None:
    conversion, whole = conversions[name], fresh()
    run(conversion, fresh())  # a tokenizer that is new to this process is tried out in a child, which takes more calls
    num_calls = run(conversion, whole)
    expected = contents(whole)
    assert num_calls > 60, "the conversion does less than expected"
    for number in range(1, num_calls + 1, 2):  # every call would take twice the time
        out = fresh()
        assert not ended(conversion, out, kill_at=number)
        if not out.exists():  # else it was killed after the last rename
            run(conversion, out)
        assert contents(out) == expected, f"killed at {number}"
        assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("name", ["from-hf", "to-hf", "average"])
def test_a_conversion_that_is_killed_again_and_again_gets_there(
    conversions: dict[str, Conversion], name: str, fresh: Callable[[], Path]
) -> None:
    """Each start gets some calls further than the one before, in the same folder."""
    conversion, whole, out = conversions[name], fresh(), fresh()
    run(conversion, whole)
    starts = range(1, 1000, 4)
    ends = next(number for number in starts if ended(conversion, out, kill_at=number) or out.exists())
    assert ends > 20
    assert contents(out) == contents(whole)
    assert [verify(folder, deep=True) for folder in (out / "checkpoints").glob("*")] in ([], [[]])


def test_what_is_finished_is_not_written_again(given: Path, fresh: Callable[[], Path]) -> None:
    """Killed in the last file, the others keep their times."""
    out, times = fresh(), {}
    for number in range(30, 1000, 3):
        if ended(convert_from_hf(given), out, kill_at=number) or out.exists():
            break
        for record in out.with_name("out.partial").glob("finished/*.json"):
            (file,) = out.with_name("out.partial").rglob(record.name.removesuffix(".json"))
            assert times.setdefault(file.name, file.stat().st_mtime_ns) == file.stat().st_mtime_ns
    assert len(times) == 3


def test_other_weights_are_another_conversion(tmp_path: Path) -> None:
    """A model folder that changed meanwhile is converted from the beginning."""
    given = write_model(tmp_path / "given", VARIANTS[0])
    out = tmp_path / "out"
    assert not ended(convert_from_hf(given), out, kill_at=40)
    before = json.loads((tmp_path / "out.partial" / "conversion.json").read_text())
    os.utime(given / "model.safetensors", ns=(0, 0))
    run(convert_from_hf(given), out)
    after = json.loads((out / "conversion.json").read_text())
    assert before["weights_xxh3"] != after["weights_xxh3"]


def test_a_second_process_keeps_out(tmp_path: Path) -> None:
    out, record = tmp_path / "out", {"dtype": "bf16"}
    with (
        output_folder.begun(out, record),
        pytest.raises(UsageError, match=r"out\.partial is being written by another process\. Wait until it is done"),
        output_folder.begun(out, record),
    ):
        pass


def test_a_folder_that_is_no_conversion_is_left_alone(tmp_path: Path) -> None:
    strange = tmp_path / "out.partial"
    strange.mkdir()
    (strange / "thesis.tex").write_text("x")
    with (
        pytest.raises(
            UsageError, match=r"is not left over from a conversion: it holds 'thesis\.tex' and no conversion"
        ),
        output_folder.begun(tmp_path / "out", {}),
    ):
        pass
    assert (strange / "thesis.tex").read_text() == "x"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"out\.partial is a link"), output_folder.begun(tmp_path / "out", {}):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_full_disk_is_told_and_what_is_finished_stays(tmp_path: Path, given: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.partial/x")
    with (
        pytest.raises(CheckpointError, match=r"x cannot be written: No space left on device\. What is finished stays"),
        output_folder.begun(tmp_path / "out", {}) as held,
    ):
        (held.folder / "finished").write_text("x")
        raise full
    with output_folder.begun(tmp_path / "out", {}) as held:
        assert (held.folder / "finished").exists()


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path) -> None:
    without = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    with mock.patch("fcntl.flock", side_effect=without), output_folder.begun(tmp_path / "out", {}) as held:
        assert held.folder.is_dir()


def test_a_failure_after_an_interruption_names_what_may_be_damaged(tmp_path: Path) -> None:
    """What is left from before may have been damaged meanwhile, and would fail each time."""

    def fail() -> str:
        with (
            pytest.raises(CheckpointError) as refused,
            output_folder.begun(tmp_path / "out", {"dtype": "bf16"}) as held,
        ):
            (held.folder / "model.safetensors").write_bytes(b"damaged")
            raise CheckpointError("not the same model.")
        return str(refused.value)

    assert fail() == "not the same model."
    assert f"\nThis conversion went on from {tmp_path / 'out.partial'}, in which a file may be damaged" in fail()


def test_a_damaged_record_of_a_finished_file_is_written_again(given: Path, fresh: Callable[[], Path]) -> None:
    whole, out = fresh(), fresh()
    run(convert_from_hf(given), whole)
    records: list[Path] = []
    for number in range(30, 1000, 3):
        if ended(convert_from_hf(given), out, kill_at=number) or records:
            break
        records = list(out.with_name("out.partial").glob("finished/*.json"))
    assert records
    records[0].write_bytes(b"[{")
    run(convert_from_hf(given), out)
    assert contents(out) == contents(whole)
