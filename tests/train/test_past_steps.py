"""`harness data where` and `show --step`: the samples of a step, found again without the trainer, are the true ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pool import Pool
from small_run import CHANNELS, Grid, launch, small_config

from harness.cli import root
from harness.errors import DataError, UsageError
from harness.run.paths import RunDir
from harness.usage.past_steps import find_step

LAST = 10


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven steps, a rollback to step 4 that skips three of them, and evidence of steps on both sides of it."""
    folder = tmp_path_factory.mktemp("past")
    changes: dict[str, Any] = {"checkpoint.save_every_steps": 2}
    launch(pool, small_config(corpus, Grid(), {**changes, "run.stop_at_step": 7}), folder, "never")
    signals = RunDir(folder).signals
    (signals / "first.json").write_text(json.dumps({"kind": "evidence", "steps": [5, 7]}))
    launch(pool, small_config(corpus, Grid(), {**changes, "run.stop_at_step": 7}), folder, "must")
    (signals / "back.json").write_text(json.dumps({"kind": "rollback", "to_step": 4, "skip_steps": [5, 7]}))
    launch(pool, small_config(corpus, Grid(), {**changes, "run.stop_at_step": LAST}), folder, "must")
    (signals / "second.json").write_text(json.dumps({"kind": "evidence", "steps": [1, LAST]}))
    config = small_config(corpus, Grid(), {**changes, "run.stop_at_step": LAST})
    launch(pool, config, folder, "must")
    RunDir(folder).config.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return folder


def told_by_the_trainer(run: Path, order: str) -> dict[int, dict[int, tuple[str, str, tuple[int, ...]]]]:
    """By step and position: channel, part and documents."""
    (event,) = [
        event for event in lines_of(RunDir(run).events) if event["kind"] == "evidence" and event["order"] == order
    ]
    steps: dict[int, dict[int, tuple[str, str, tuple[int, ...]]]] = {}
    for line in lines_of(Path(event["path"])):
        found = (line["channel"], line["part"], tuple(line["documents"]))
        steps.setdefault(line["step"], {})[line["position"]] = found
    return steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "steps", "attempt"), [("first.json", range(5, 8), 0), ("second.json", range(1, LAST + 1), None)]
)
def test_they_are_those_of_the_trainer(run: Path, order: str, steps: range, attempt: int | None) -> None:
    expected = told_by_the_trainer(run, order)
    assert sorted(expected) == list(steps)
    for step in steps:
        found = find_step(RunDir(run), step, attempt)
        samples = {
            each.position: (each.address.channel, each.address.part, tuple(span.document for span in each.documents))
            for each in found.samples
        }
        assert samples == expected[step]


@pytest.mark.slow
def test_removed_checkpoints_do_not_hide_them(run: Path, tmp_path: Path) -> None:
    bare = RunDir(tmp_path)
    for name in ("config.yaml", "metrics.jsonl", "events.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    for step in range(1, LAST + 1):
        assert [each.position for each in find_step(bare, step).samples] == [
            each.position for each in find_step(RunDir(run), step).samples
        ]


@pytest.mark.slow
def test_recorded_positions_are_enough_and_without_them_the_rest_is(run: Path, tmp_path: Path) -> None:
    """The record alone says where a step's samples are; for lines of earlier versions it follows from the events."""
    of_now, of_before = RunDir(tmp_path / "now"), RunDir(tmp_path / "before")
    records = lines_of(RunDir(run).metrics)
    assert all(record["positions"] for record in records)
    for copy, keys in ((of_now, ()), (of_before, ("positions",))):
        copy.root.mkdir()
        copy.config.write_bytes((run / "config.yaml").read_bytes())
        kept = [{key: value for key, value in record.items() if key not in keys} for record in records]
        copy.metrics.write_text("".join(json.dumps(record) + "\n" for record in kept))
    of_before.events.write_bytes((run / "events.jsonl").read_bytes())
    for step in range(1, LAST + 1):
        expected = [each.position for each in find_step(RunDir(run), step).samples]
        assert [each.position for each in find_step(of_now, step).samples] == expected
        assert [each.position for each in find_step(of_before, step).samples] == expected


@pytest.mark.slow
def test_a_torn_record_is_refused_and_a_torn_copy_hides_nothing(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, copy := tmp_path / "run")
    metrics = RunDir(copy).metrics
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([*lines, lines[-1][:60] + "\n"]))
    assert find_step(RunDir(copy), LAST).record.step == LAST
    metrics.write_text("".join([*lines[:-1], lines[-1][:60] + "\n"]))
    for verb in ("where", "show"):
        refused = CliRunner().invoke(root, ["data", verb, str(copy), "--step", str(LAST)])
        assert isinstance(refused.exception, UsageError)
        assert f"has no record of step {LAST}; its records up to there end with step {LAST - 1}" in str(
            refused.exception
        )


@pytest.mark.slow
def test_what_cannot_be_told_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory: there is no config.yaml in it"):
        find_step(RunDir(tmp_path), 1)
    with pytest.raises(UsageError, match=f"no record of step 99; its records up to there end with step {LAST}"):
        find_step(RunDir(run), 99)
    with pytest.raises(UsageError, match=r"did step 9 in attempt 1, not in attempt 0\. Give --attempt 1, or leave"):
        find_step(RunDir(run), 9, 0)
    altered = RunDir(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["run"]["seed"] += 1
    altered.config.write_text(yaml.safe_dump(config))
    altered.metrics.write_bytes(RunDir(run).metrics.read_bytes())
    with pytest.raises(DataError, match="the samples of step 3 of .* cannot be found any more"):
        find_step(altered, 3)


@pytest.mark.slow
def test_commands(run: Path) -> None:
    told = CliRunner().invoke(root, ["data", "where", str(run), "--step", "6", "--json"])
    assert told.exit_code == 0, told.output
    where = json.loads(told.output)
    assert (where["step"], where["attempt"]) == (6, 1)
    assert {part["channel"] for part in where["parts"]} <= set(CHANNELS)
    words = CliRunner().invoke(root, ["data", "where", str(run), "--step", "6"]).output
    assert "step 6 of" in words
    assert "(attempt 1): 8 samples" in words

    shown = CliRunner().invoke(root, ["data", "show", str(run), "--step", "6", "--top", "3", "--json"])
    assert shown.exit_code == 0, shown.output
    samples = json.loads(shown.output)
    assert len(samples) == 3
    assert all(each["loss"] is not None and each["ids"] for each in samples)  # evidence, and no tokenizer
    words = CliRunner().invoke(root, ["data", "show", str(run), "--step", "6", "--attempt", "0"]).output
    assert "look suspicious" in words
    missing = CliRunner().invoke(root, ["data", "show", str(run)])
    assert "Missing option '--tokenizer'" in missing.output
