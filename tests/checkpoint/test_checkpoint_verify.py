"""Every kind of damage to every kind of file is found."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_samples import FILES, save, store_in

from harness.errors import CheckpointError
from harness.run.checkpoints.manifest import MANIFEST_NAME
from harness.run.checkpoints.verify import verify, verify_before_load

SMALL = [name for name in FILES if not name.endswith(".distcp")]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(store_in(tmp_path), 10)


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _zero(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    # The samples are shorter than a sector or have no 512 zero bytes in a row: zeroing changes them.
    start = chance.randrange(0, len(content), 512)
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


def _truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def _extend(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(bytes(1 + chance.randrange(4096)))


def _remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def _empty(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def _link(path: Path, chance: random.Random) -> None:
    target = path.parents[len(path.parents) - 1] / path.with_name(path.name + ".target")
    path.rename(target)
    path.symlink_to(target)
    target.rename(path.parents[2] / "target")


def _folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [_flip, _zero, _truncate, _extend, _remove, _empty, _link, _folder, _pipe]
KEEPS_SIZE = (_flip, _zero)


def test_a_sound_checkpoint_has_no_problems(checkpoint: Path) -> None:
    assert verify(checkpoint) == []
    assert verify(checkpoint, deep=True) == []
    assert verify_before_load(checkpoint, deep=True).step == 10


@pytest.mark.parametrize("name", [*FILES, MANIFEST_NAME])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__[1:])
def test_damage_is_found(tmp_path: Path, name: str, damage: Callable[[Path, random.Random], None]) -> None:
    checkpoint = save(store_in(tmp_path), 10)
    sound = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    damage(checkpoint / name, random.Random(name))
    deep = verify(checkpoint, deep=True)
    assert deep, "deep verification found nothing"
    assert name in deep[0]
    if damage not in KEEPS_SIZE:
        assert verify(checkpoint) == deep
    assert set(sound) >= {path for path in checkpoint.rglob("*") if path.is_file()}, "verifying writes nothing"


def test_every_flipped_bit_is_found(checkpoint: Path) -> None:
    chance = random.Random(0)
    for trial in range(300):
        name = chance.choice([*FILES, MANIFEST_NAME])
        path = checkpoint / name
        content = path.read_bytes()
        _flip(path, chance)
        if name != MANIFEST_NAME:
            assert verify(checkpoint, deep=True), (trial, name)
        path.write_bytes(content)
    assert verify(checkpoint, deep=True) == []


def test_swapped_shards_of_equal_size_are_found(checkpoint: Path) -> None:
    first, second = checkpoint / "__0_0.distcp", checkpoint / "__1_0.distcp"
    first.rename(checkpoint / "between")
    second.rename(first)
    (checkpoint / "between").rename(second)
    assert verify(checkpoint) == []
    assert [problem.split(" ")[0] for problem in verify(checkpoint, deep=True)] == ["'__0_0.distcp'", "'__1_0.distcp'"]


def test_a_shard_of_another_step_is_found(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    older, newer = save(store, 10), save(store, 11)
    (newer / "__0_0.distcp").write_bytes((older / "__0_0.distcp").read_bytes())
    assert verify(newer) == []
    assert "'__0_0.distcp' was altered: its hash is" in verify(newer, deep=True)[0]


def test_the_problems_read_like_this(checkpoint: Path) -> None:
    os.truncate(checkpoint / "__0_0.distcp", 5)
    (checkpoint / "common.pt").unlink()
    (checkpoint / "more/extra").touch()
    (checkpoint / "link").symlink_to("/")
    assert verify(checkpoint) == [
        "'__0_0.distcp' has 5 bytes, the manifest says 10,241",
        "'common.pt' is missing",
        "'link' is a symbolic link; a checkpoint has regular files only",
        "'more/extra' is not in the manifest",
    ]


def test_a_linked_folder_is_not_followed(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "more").rename(tmp_path / "more")
    (checkpoint / "more").symlink_to(tmp_path / "more")
    assert verify(checkpoint, deep=True) == [
        "'more' is a symbolic link; a checkpoint has regular files only",
        "'more/notes.txt' is missing",
    ]


@pytest.mark.parametrize("name", SMALL)
def test_what_is_unpickled_is_hashed_before(checkpoint: Path, name: str) -> None:
    _flip(checkpoint / name, random.Random(1))
    assert verify(checkpoint) == []
    with pytest.raises(CheckpointError) as caught:
        verify_before_load(checkpoint)
    text = str(caught.value)
    assert text.startswith(f"Checkpoint {checkpoint} cannot be used:\n  {name!r} was altered: its hash is ")
    assert text.endswith("\nNothing was loaded. Restore its files, or resume from another checkpoint.")


def test_shards_are_hashed_before_loading_when_asked(checkpoint: Path) -> None:
    _flip(checkpoint / "__1_0.distcp", random.Random(1))
    assert verify_before_load(checkpoint).step == 10
    with pytest.raises(CheckpointError, match=r"'__1_0\.distcp' was altered"):
        verify_before_load(checkpoint, deep=True)


def test_what_has_no_manifest_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be used:\n  manifest\.json is missing"):
        verify_before_load(tmp_path)


def test_progress_adds_up(checkpoint: Path) -> None:
    seen: list[int] = []
    assert verify(checkpoint, deep=True, progress=seen.append) == []
    assert sum(seen) == sum(len(content) + 1 for content in FILES.values())
    assert len(seen) == len(FILES)


def test_an_unreadable_folder_is_a_problem(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert verify(checkpoint) == ["the folder cannot be read: Input/output error"]


def test_a_file_that_cannot_be_read_is_a_problem(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Path, flags: int, *rest: int) -> int:
        if path.name == "common.pt":
            raise OSError(5, "Input/output error", str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    assert verify(checkpoint, deep=True) == ["'common.pt' cannot be read: Input/output error"]
