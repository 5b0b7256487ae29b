"""Real text, clean, dirty, and dirty with the watcher beside the run: that one ends like the clean one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.spike import RUNS, Trained, train
from benchmarks.spike_scene import BATCH, DIRTY, Scene, write_corpora

SCENE = Scene(
    code_onset=81,
    zh_onset=161,
    dirty_steps=30,
    skip_steps=40,
    train_steps=200,
    evaluate_every_steps=200,
)
NOISE_NATS = 0.06
"""Twice the spread of the held-out loss of clean runs of this length that differ in their seed (docs/benchmarks.md)."""
ONSETS = {"code": SCENE.code_onset, "zh": SCENE.zh_onset - SCENE.skip_steps}
"""Steps at which the watched run meets the dirt: the second stretch comes sooner, because samples were skipped."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    root = tmp_path_factory.mktemp("scene")
    write_corpora(root, SCENE)
    return {kind: train(root, SCENE, kind, seed=1) for kind in RUNS}


def events(run: Trained, kind: str) -> list[dict[str, Any]]:
    lines = run.run_dir.events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_rise_and_one_fall_are_confirmed_each_in_its_channel(runs: dict[str, Trained]) -> None:
    run = runs["watched"]
    assert run.exit_code == 0, run.log.read_text()
    confirmed = [event for event in events(run, "spike") if event["channel"] != "total"]
    assert [(event["channel"], event["direction"]) for event in confirmed] == [("code", "up"), ("zh", "down")]
    assert [event["start"] for event in confirmed] == [ONSETS["code"], ONSETS["zh"]]
    assert [event["step"] - event["start"] for event in confirmed] == [1, 1]  # at their second step
    assert "training has ended" in run.watch_log.read_text()


@pytest.mark.slow
def test_the_evidence_names_the_dirty_documents_and_no_others(runs: dict[str, Trained]) -> None:
    found = events(runs["watched"], "attributed")
    assert [event["dirty"] for event in found] == [True, True]
    for event, channel in zip(found, ("code", "zh"), strict=True):
        assert {(each["channel"], each["part"]) for each in event["documents"]} == {(channel, DIRTY[channel])}
        lines = [json.loads(line) for line in Path(event["evidence"]).read_text().splitlines()]
        read = {number for line in lines if line["part"] == DIRTY[channel] for number in line["documents"]}
        assert {number for each in event["documents"] for number in each["documents"]} == read
    assert "line breaks" in found[1]["reason"]


@pytest.mark.slow
def test_the_run_returns_in_place_and_skips_both_stretches(runs: dict[str, Trained]) -> None:
    run = runs["watched"]
    rolled_back = events(run, "rollback")
    assert [event["attempt"] for event in rolled_back] == [1, 2]
    assert len(events(run, "started") + events(run, "resumed")) == 1  # the same processes throughout
    for (start, stop), onset in zip(rolled_back[-1]["skip_windows"], (SCENE.code_onset, SCENE.zh_onset), strict=True):
        assert start <= (onset - 1) * BATCH
        assert stop >= (onset - 1 + SCENE.dirty_steps) * BATCH
    assert [record.step for record in run.records()] == list(range(1, SCENE.train_steps + 1))


@pytest.mark.slow
def test_held_out_loss_is_that_of_clean_text_and_without_the_watcher_it_is_not(runs: dict[str, Trained]) -> None:
    losses = {kind: run.held_out()["all"] for kind, run in runs.items()}
    assert abs(losses["watched"] - losses["clean"]) <= NOISE_NATS, losses
    assert losses["unwatched"] > losses["clean"] + 2 * NOISE_NATS, losses
