"""What a run forgets that goes on from other weights: measured before its first step, and at the end of each phase."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import worlds
from forgetting_run import BORDER, LAST_STEP, base_config, begin_with, events, two_phases
from pool import Pool
from process_runs import Command
from small_run import Grid, launch, records, small_config

from harness.config.load import load_config
from harness.errors import UsageError
from harness.launch.status import status_of, status_text
from harness.run.checkpoints.manifest import HeldOutLosses, read_manifest
from harness.run.paths import RunDir
from harness.train.steps.losses_compared import compared, summary
from harness.usage.ledger import RunLedger
from harness.usage.past_steps import find_step

CHANNELS = {"zh", "en", "code"}


def held_out(run_dir: Path) -> dict[int, dict[str, float]]:
    """The held-out loss of each channel, by step."""
    prefix = "valid/lm_loss/"
    return {
        record.step: found
        for record in records(run_dir)
        if (found := {name.removeprefix(prefix): v for name, v in record.values.items() if name.startswith(prefix)})
    }


def trained(run_dir: Path) -> dict[int, tuple[Any, ...]]:
    return {
        record.step: (record.batch_hash, record.values["train/lm_loss"], record.values["optim/grad_norm"])
        for record in records(run_dir)
        if record.step
    }


@pytest.fixture(scope="module")
def base(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("base") / "run"
    launch(pool, base_config(corpus), run_dir)
    return run_dir


@pytest.fixture(scope="module")
def whole(pool: Pool, corpus: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both phases in one launch, with no key about evaluation but the number of samples."""
    run_dir = begin_with(base, tmp_path_factory.mktemp("continued") / "whole")
    launch(pool, two_phases(corpus), run_dir)
    return run_dir


def test_every_channel_is_measured_before_at_the_border_and_at_the_end(whole: Path) -> None:
    found = held_out(whole)
    assert {step: set(losses) for step, losses in found.items()} == dict.fromkeys((0, BORDER, LAST_STEP), CHANNELS)
    (event,) = events(whole, "base-losses")
    assert (event["step"], event["losses"]) == (0, found[0])
    assert [record.step for record in records(whole)] == list(range(LAST_STEP + 1))


def test_the_end_of_a_phase_names_what_became_worse(whole: Path) -> None:
    found = held_out(whole)
    english, chinese = events(whole, "phase-losses")
    assert (english["phase"], english["step"], english.get("before")) == ("english", BORDER, None)
    assert (chinese["phase"], chinese["step"], chinese["before"]) == ("chinese", LAST_STEP, "english")
    for event, step in ((english, BORDER), (chinese, LAST_STEP)):
        assert event["losses"] == found[step]
        assert event["since_base"] == {name: found[step][name] - found[0][name] for name in found[step]}
    assert chinese["since_phase"] == {name: found[LAST_STEP][name] - found[BORDER][name] for name in CHANNELS}
    assert found[BORDER]["en"] < found[0]["en"]
    assert found[LAST_STEP]["en"] > found[BORDER]["en"] + 0.01
    assert "en" in chinese["worse_than_phase"]
    assert "zh" not in chinese["worse_than_phase"]


def test_the_configuration_of_the_run_stays_as_it_was_written(whole: Path) -> None:
    assert load_config(RunDir(whole).config).evaluation.measure_forgetting is None


@pytest.mark.parametrize("step", [1, 5, BORDER - 1, BORDER, BORDER + 1, LAST_STEP])
def test_a_run_that_is_stopped_goes_on_with_the_same_bits_and_the_same_summary(
    step: int, whole: Path, corpus: Path, base: Path, pool: Pool, tmp_path: Path
) -> None:
    run_dir = begin_with(base, tmp_path / "run")
    launch(pool, two_phases(corpus, {"run.stop_at_step": step}), run_dir)
    launch(pool, two_phases(corpus), run_dir, "must")
    assert trained(run_dir) == trained(whole)
    assert len(events(run_dir, "base-losses")) == 1
    assert sum(record.step == 0 for record in records(run_dir)) == 1
    same = ("phase", "losses", "since_base", "since_phase", "worse_than_base", "worse_than_phase")
    told, expected = (
        [{name: event.get(name) for name in same} for event in events(each, "phase-losses")]
        for each in (run_dir, whole)
    )
    assert told == expected
    last = (RunDir(each).checkpoint(LAST_STEP) for each in (run_dir, whole))
    assert pool.run(worlds.differing_tensors, 1, *last) == [{}]


def test_measuring_changes_no_step(whole: Path, corpus: Path, base: Path, pool: Pool, tmp_path: Path) -> None:
    run_dir = begin_with(base, tmp_path / "run")
    launch(
        pool, two_phases(corpus, {"evaluation.every_steps": LAST_STEP, "evaluation.measure_forgetting": False}), run_dir
    )
    assert trained(run_dir) == trained(whole)
    assert held_out(run_dir)[LAST_STEP] == {"zh": held_out(whole)[LAST_STEP]["zh"]}
    assert not events(run_dir, "base-losses")
    assert not events(run_dir, "phase-losses")


@pytest.mark.parametrize("grid", [Grid(pp=2), Grid(dp=2), Grid(tp=2)], ids=str)
def test_other_layouts_measure_the_same(
    grid: Grid, whole: Path, corpus: Path, base: Path, pool: Pool, tmp_path: Path
) -> None:
    run_dir = begin_with(base, tmp_path / "run")
    launch(pool, two_phases(corpus, {"run.stop_at_step": BORDER}, grid), run_dir)
    found, expected = held_out(run_dir), held_out(whole)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[BORDER] == pytest.approx(expected[BORDER], rel=1e-4)


def test_a_launch_that_dies_before_a_save_measures_again(corpus: Path, base: Path, pool: Pool, tmp_path: Path) -> None:
    run_dir = begin_with(base, tmp_path / "run")
    (RunDir(run_dir).signals).mkdir()
    (RunDir(run_dir).signals / "stop").touch()
    config = two_phases(corpus)
    assert pool.run(worlds.train, 1, config, run_dir, "auto") != [0]
    assert not RunDir(run_dir).metrics.exists() or not records(run_dir)
    launch(pool, config, run_dir)
    assert len(events(run_dir, "base-losses")) == 1
    assert set(held_out(run_dir)[0]) == CHANNELS


def test_a_rollback_returns_to_what_was_measured(
    whole: Path, corpus: Path, base: Path, pool: Pool, tmp_path: Path
) -> None:
    run_dir = begin_with(base, tmp_path / "run")
    launch(pool, two_phases(corpus, {"run.stop_at_step": BORDER + 3}), run_dir)
    back = {"kind": "rollback", "to_step": 5}
    (RunDir(run_dir).signals / "back.json").write_text(json.dumps(back))
    launch(pool, two_phases(corpus), run_dir, "must")
    assert len(events(run_dir, "base-losses")) == 1
    told = events(run_dir, "phase-losses")
    assert [(event["phase"], event.get("before")) for event in told] == [
        ("english", None),
        ("english", None),
        ("chinese", "english"),
    ]
    assert told[2]["since_base"] == events(whole, "phase-losses")[1]["since_base"]


def test_a_run_from_initial_weights_measures_on_request_only(corpus: Path, pool: Pool, tmp_path: Path) -> None:
    plain = small_config(corpus, Grid(), {"run.stop_at_step": 2})
    launch(pool, plain, tmp_path / "plain")
    assert held_out(tmp_path / "plain") == {}
    manifest = read_manifest(RunDir(tmp_path / "plain").checkpoint(2))
    assert (manifest.base_losses, manifest.phase_losses) == (None, None)
    assert "base_losses" not in (RunDir(tmp_path / "plain").checkpoint(2) / "manifest.json").read_text()
    asked = {"run.stop_at_step": 2, "evaluation.measure_forgetting": True, "evaluation.num_samples_per_channel": 4}
    launch(pool, small_config(corpus, Grid(), asked), tmp_path / "asked")
    assert {step: set(losses) for step, losses in held_out(tmp_path / "asked").items()} == {0: CHANNELS, 2: CHANNELS}
    # Untrained: nearly the logarithm of the vocabulary.
    assert held_out(tmp_path / "asked")[0]["en"] == pytest.approx(6.9, abs=0.5)


def losses(phase: str, step: int, seq_length: int = 32, **by_channel: float) -> HeldOutLosses:
    return HeldOutLosses(step=step, phase=phase, seq_length=seq_length, losses=by_channel)


def test_a_comparison_in_numbers() -> None:
    base, english = losses("english", 0, en=3.0, zh=6.0, fr=2.0), losses("english", 10, en=2.5, zh=6.5)
    now = losses("chinese", 20, en=3.25, zh=4.0, code=1.0)
    since_base, since_phase = compared(now, base), compared(now, english)
    assert since_base is not None
    assert since_phase is not None
    assert (since_base.rises, since_phase.rises) == ({"en": 0.25, "zh": -2.0}, {"en": 0.75, "zh": -2.5})
    assert (since_base.worse, since_phase.worse) == (("en",), ("en",))
    assert summary(now, since_base, since_phase) == [
        "held-out losses at the end of phase chinese: en 3.2500 (+0.2500 since step 0, +0.7500 since phase english), "
        "zh 4.0000 (-2.0000 since step 0, -2.5000 since phase english), code 1.0000",
        "warning: worse than at step 0, in nats: en by 0.2500",
        "warning: worse than at the end of phase english, in nats: en by 0.7500",
    ]
    slight = compared(losses("chinese", 20, en=3.009, zh=6.2, fr=2.3), base)
    assert slight is not None
    assert slight.worse == ("fr", "zh")
    assert compared(now, None) is None
    assert summary(now, None, None) == [
        "held-out losses at the end of phase chinese: en 3.2500, zh 4.0000, code 1.0000"
    ]


def test_other_lengths_of_samples_are_told() -> None:
    now = losses("long", 20, 64, en=3.0)
    found = compared(now, losses("main", 10, 32, en=3.1))
    assert found is not None
    assert found.is_of_other_length
    assert "samples have 64 tokens now and had another length then" in summary(now, None, found)[-1]


def test_status_names_what_became_worse(whole: Path) -> None:
    folder = RunDir(whole).launch(1)
    folder.mkdir(parents=True)
    (folder / "launch.json").write_text('{"world_size": 1}\n')
    found = status_of(RunDir(whole))
    (_, chinese) = events(whole, "phase-losses")
    assert found.held_out is not None
    assert found.held_out.startswith(f"end of phase chinese (step {LAST_STEP}): ")
    assert f"worse than at the end of phase english: en {chinese['since_phase']['en']:+.4f}" in found.held_out
    assert "\nheld out   end of phase chinese" in status_text(found)
    assert found.step == LAST_STEP


def test_what_reads_the_records_passes_over_the_evaluation_before_the_first_step(whole: Path) -> None:
    used = {place for place, passes in RunLedger(whole).epochs().items() if passes}
    assert used == {("en", "english"), ("zh", "chinese")}
    assert find_step(RunDir(whole), 1).record.step == 1
    with pytest.raises(UsageError, match="has no record of step 0"):
        find_step(RunDir(whole), 0)


def test_tensorboard_has_a_point_at_step_0(corpus: Path, base: Path, pool: Pool, tmp_path: Path) -> None:
    run_dir = begin_with(base, tmp_path / "run")
    launch(pool, two_phases(corpus, {"run.stop_at_step": 1, "logging.tensorboard": True}), run_dir)
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    opened = accumulator.EventAccumulator(str(RunDir(run_dir).tensorboard)).Reload()
    assert [event.step for event in opened.Scalars("valid/lm_loss/en")] == [0, 1]


def test_a_mean_of_checkpoints_is_measured_anew(whole: Path, corpus: Path, pool: Pool, tmp_path: Path) -> None:
    mean = tmp_path / "mean"
    source = [str(RunDir(whole).checkpoint(step)) for step in (15, LAST_STEP)]
    code, text = Command(["convert", "average", *source, str(mean)]).finish()
    assert code == 0, text
    (made,) = RunDir(mean).checkpoints.iterdir()
    manifest = read_manifest(made)
    assert (manifest.base_losses, manifest.phase_losses, manifest.step) == (None, None, LAST_STEP)
    longer = two_phases(corpus, of_phases=({}, {"train_steps": 12}))
    launch(pool, longer, mean, "must")
    (event,) = events(mean, "base-losses")
    assert event["step"] == LAST_STEP
    assert set(event["losses"]) == CHANNELS
    assert sorted(held_out(mean)) == [LAST_STEP, LAST_STEP + 2]


def test_the_channels_that_a_phase_names_are_what_it_evaluates(
    corpus: Path, base: Path, pool: Pool, tmp_path: Path
) -> None:
    run_dir = begin_with(base, tmp_path / "run")
    named = ({"train_steps": 2, "evaluation": {"channels": ["zh"]}}, {"train_steps": 2})
    launch(pool, two_phases(corpus, of_phases=named), run_dir)
    assert {step: set(found) for step, found in held_out(run_dir).items()} == {0: {"zh"}, 2: {"zh"}, 4: CHANNELS}
    english, chinese = events(run_dir, "phase-losses")
    assert set(english["since_base"]) == {"zh"}
    assert set(chinese["since_phase"]) == {"zh"}


def test_a_phase_in_another_layout_is_compared_with_the_one_before(
    whole: Path, corpus: Path, base: Path, pool: Pool, tmp_path: Path
) -> None:
    run_dir = begin_with(base, tmp_path / "run")
    two_ranks = {"parallel": {"tensor_model_parallel_size": 2, "sequence_parallel": True}}
    config = two_phases(corpus, {"checkpoint.async_save": True}, of_phases=({}, two_ranks))
    assert pool.run(worlds.train, 1, config, run_dir, "auto") == [75]
    assert pool.run(worlds.train, 2, config, run_dir, "auto") == [0, 0]
    assert len(events(run_dir, "base-losses")) == 1
    (_, found), (_, expected) = events(run_dir, "phase-losses"), events(whole, "phase-losses")
    assert found["before"] == "english"
    for name in ("since_base", "since_phase"):
        assert found[name] == pytest.approx(expected[name], abs=1e-3)


def test_a_replay_of_the_watcher_passes_over_step_0(whole: Path) -> None:
    code, text = Command(["replay", str(whole)]).finish()
    assert code == 0, text
    assert "Traceback" not in text
