"""What is trained on is what was prepared: flipped bits and altered lists end a run, or are told; nothing is silent."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from process_runs import VOCAB_SIZE, Site

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from harness.channels.channels import PARTS_FILE

FIRST_STEPS, LAST_STEP = 4, 8


def flip(path: Path, seed: int) -> None:
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(8 * len(content))
    content[place // 8] ^= 1 << (place % 8)
    path.write_bytes(content)


def alter_tokens(path: Path) -> None:
    """Flips the lowest bit of many tokens: all stay in the vocabulary."""
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), 8):
        content[place] ^= 1
    path.write_bytes(content)


def train_to(site: Site, step: int, **changes: object) -> tuple[int, str]:
    site.config["run"]["stop_at_step"] = step
    site.config["data"] |= changes
    return site.train().finish()


def add_part(folder: Path, seed: int, number: int = 1) -> Path:
    """A further part of a channel, as `tokenize` makes it. Returns its `.bin`."""
    folder.mkdir(exist_ok=True)
    chance = random.Random(seed)
    writer = PartWriter(folder, number, token_dtype(VOCAB_SIZE))
    for _ in range(20):
        writer.add_document([chance.randrange(VOCAB_SIZE) for _ in range(chance.randrange(20, 60))])
    writer.finish()
    return folder / f"part-{number:05}.bin"


def refused(outcome: tuple[int, str], *named: str) -> None:
    """A run that ends with 65 and one message."""
    code, output = outcome
    assert code == 65, output
    assert "Traceback" not in output
    error = output.split("harness: error: ")
    assert len(error) == 2, output
    assert all(name in error[1] for name in named), error[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A run that was interrupted, and never touched."""
    site = Site(tmp_path_factory.mktemp("undisturbed"))
    assert train_to(site, FIRST_STEPS)[0] == 0
    assert train_to(site, LAST_STEP)[0] == 0
    return site


def swap_hash(folder: Path) -> None:
    line = json.loads((folder / PARTS_FILE).read_text())
    (folder / PARTS_FILE).write_text(json.dumps(line | {"xxh3": "0" * 16}) + "\n")


def lead_elsewhere(folder: Path) -> None:
    """Another part of equal size under the name that the list has: nothing but the tokens is different."""
    line = json.loads((folder / PARTS_FILE).read_text())
    for end in ("bin", "idx"):
        (folder / f"copy.{end}").write_bytes((folder / f"part-00000.{end}").read_bytes())
    flip(folder / "copy.bin", 1)
    (folder / PARTS_FILE).write_text(json.dumps(line | {"prefix": "copy"}) + "\n")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    **{f"bin {seed}": (lambda folder, seed=seed: flip(folder / "part-00000.bin", seed), ".bin") for seed in range(3)},
    **{f"idx {seed}": (lambda folder, seed=seed: flip(folder / "part-00000.idx", seed), ".idx") for seed in range(3)},
    # A border is a document's number: the lowest bit merges two documents, and leaves an empty one behind.
    "borders": (lambda folder: flip_border(folder / "part-00000.idx"), ".idx"),
    **{f"list {seed}": (lambda folder, seed=seed: flip(folder / PARTS_FILE, seed), "") for seed in range(3)},
    "hash": (swap_hash, ""),
    "another part": (lead_elsewhere, ""),
}


def flip_border(index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[-8 * 10] ^= 2 if content[-8 * 10] % 2 else 1
    index.write_bytes(content)


def test_damage_between_launches_ends_the_run_before_it_is_used(undisturbed: Site, tmp_path: Path) -> None:
    site = Site(tmp_path)
    folder = tmp_path / "data" / "en"
    assert train_to(site, FIRST_STEPS)[0] == 0
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for kind, (damage, named) in DAMAGE.items():
        damage(folder)
        refused(train_to(site, LAST_STEP), named)
        assert site.last_step() == FIRST_STEPS, kind
        for path in folder.iterdir():
            path.unlink()
        for path, content in whole.items():
            path.write_bytes(content)
    code, output = train_to(site, LAST_STEP)  # as often as it was refused: no start is held against the checkpoint
    assert code == 0, output
    assert site.losses() == undisturbed.losses()


def test_damage_before_the_first_launch_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    flip(tmp_path / "data" / "code" / "part-00000.bin", 0)
    refused(train_to(site, LAST_STEP), "channel code", "part-00000.bin", "No checkpoint was saved")
    assert site.last_step() == 0


def test_steps_before_the_turn_of_a_damaged_part_are_saved(tmp_path: Path) -> None:
    site = Site(tmp_path)
    damaged = add_part(tmp_path / "data" / "code", 5)
    content = damaged.read_bytes()
    flip(damaged, 0)
    outcome = train_to(site, 199)
    refused(outcome, "part-00001.bin", "Nothing of it was trained on", "It goes on from")
    last = site.last_step()
    assert 0 < last < 199
    assert site.checkpoints() == [f"step_{last:07}"]
    (told,) = site.events("part-damaged")
    assert (told["channel"], told["part"]) == ("code", "part-00001")
    assert told["step"] < last  # people hear of it when it is seen, not when its turn comes
    damaged.write_bytes(content)
    code, output = train_to(site, last + 3)
    assert code == 0, output


def test_people_are_told_and_training_goes_on(tmp_path: Path) -> None:
    site = Site(tmp_path)
    alter_tokens(tmp_path / "data" / "en" / "part-00000.bin")
    code, output = train_to(site, 60, damaged_parts="alert")
    assert code == 0, output
    (told,) = site.events("part-damaged")
    assert told["used_since"] == 1
    assert "warning: channel en" in output


def test_nothing_is_read_where_damage_is_ignored(tmp_path: Path) -> None:
    site = Site(tmp_path)
    alter_tokens(tmp_path / "data" / "en" / "part-00000.bin")
    assert train_to(site, LAST_STEP, damaged_parts="ignore")[0] == 0
    assert not site.run_dir.checked_parts.exists()


def test_held_out_parts_are_checked_too(tmp_path: Path) -> None:
    site = Site(tmp_path)
    add_part(tmp_path / "held", 3, number=0)
    alter_tokens(tmp_path / "held" / "part-00000.bin")
    site.config["data"]["channels"]["en"]["validation_path"] = str(tmp_path / "held")
    site.config["evaluation"] = {"every_steps": 4, "num_samples_per_channel": 4}
    refused(train_to(site, LAST_STEP), "channel en (validation)", "part-00000.bin")


def test_a_pair_without_a_list_stays_what_it_was(tmp_path: Path) -> None:
    site = Site(tmp_path)
    folder = tmp_path / "data" / "en"
    site.config["data"]["channels"]["en"]["path"] = str(folder / "part-00000")
    assert train_to(site, FIRST_STEPS)[0] == 0
    flip(folder / "part-00000.bin", 0)
    refused(train_to(site, LAST_STEP), "part-00000.bin", "when this run first read it")


def test_ranks_end_together(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.config["parallel"] = {"data_parallel_size": 2}
    code, output = train_to(site, FIRST_STEPS)
    assert code == 0, output
    for channel in ("en", "code"):  # whichever rank reads which
        path = tmp_path / "data" / channel / "part-00000.bin"
        content = path.read_bytes()
        flip(path, 0)
        refused(train_to(site, LAST_STEP), f"channel {channel}", "part-00000.bin")
        path.write_bytes(content)
    logs = [log.read_text() for log in site.run_dir.launches.glob("*/node_0.log")]
    assert logs and not any("Traceback" in text or "lost" in text for text in logs)
    assert train_to(site, LAST_STEP)[0] == 0


def test_a_file_that_changes_under_a_running_trainer_is_noticed(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    site.config["phases"][0]["train_steps"] = 100_000
    path = tmp_path / "data" / "en" / "part-00000.bin"
    with site.train() as command:
        command.wait_until(lambda: site.last_step() > 3)
        content = bytearray(path.read_bytes())
        content[10] ^= 1
        with path.open("r+b") as file:
            file.write(content)
        outcome = command.finish()
    refused(outcome, "channel en", "Since step 1 it was trained on in this launch", "nothing was saved since")
