"""Real processes: `harness train` meets garbled documents, `harness watch` finds them and rolls the run back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process_runs import Command, Site

from data_prep.indexed_writer import PartWriter, token_dtype
from harness.metrics import names
from harness.run_dir import RunDir

VOCAB_SIZE = 256
SEQ_LENGTH = 16
BATCH = 8
CODE_EVERY = 2
"""Every second sample is code."""
ONSET = 121
POISONED_STEPS = 60
TRAIN_STEPS = 260


def chain(random: np.random.RandomState, length: int) -> list[int]:
    """A document that can be learnt: a token follows from the one before, but for a little chance."""
    tokens = [int(random.randint(VOCAB_SIZE))]
    while len(tokens) < length:
        tokens.append((5 * tokens[-1] + 17 + int(random.randint(2))) % VOCAB_SIZE)
    return tokens


def noise(random: np.random.RandomState, length: int) -> list[int]:
    return [int(token) for token in random.randint(VOCAB_SIZE, size=length)]


def write_part(folder: Path, number: int, documents: list[list[int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    writer = PartWriter(folder, number, token_dtype(VOCAB_SIZE))
    for document in documents:
        writer.add_document(document)
    writer.finish()


def tokens_of_steps(num_steps: int) -> int:
    """Tokens that a part of the channel needs to feed so many steps."""
    return num_steps * BATCH // CODE_EVERY * SEQ_LENGTH + 1


def poisoned_site(root: Path, *, again_after: int | None = None) -> Site:
    """A run whose channel `code` has a part of random tokens from step `ONSET` on, and maybe another one later."""
    site = Site(root)
    random = np.random.RandomState(5)
    lengths = [(chain, ONSET - 1), (noise, POISONED_STEPS)]
    if again_after is not None:
        lengths += [(chain, again_after), (noise, POISONED_STEPS)]
    lengths.append((chain, 600))
    for name in ("en", "code"):
        folder = root / "learnt" / name
        parts = lengths if name == "code" else [(chain, 900)]
        for number, (make, num_steps) in enumerate(parts):
            wanted, documents = tokens_of_steps(num_steps), []
            while (missing := wanted - sum(map(len, documents))) > 0:
                documents.append(make(random, min(missing, 48)))
            write_part(folder, number, documents)
    site.config["data"]["channels"] = {name: {"path": str(root / "learnt" / name)} for name in ("en", "code")}
    phase = site.config["phases"][0]
    phase |= {"train_steps": TRAIN_STEPS, "global_batch_size": BATCH, "blend": {"en": 1, "code": 1}}
    site.config["optimizer"]["learning_rate"] = 5e-3
    site.config["checkpoint"] = {"save_every_steps": 50}
    site.config["watch"] = {
        "action": "rollback",
        "rollback_margin_steps": 10,
        "skip_lead_steps": 4,
        "skip_steps": POISONED_STEPS + 8,
        "most_skip_steps": POISONED_STEPS + 8,
        "cool_down_steps": 5,
        "verify_steps": 0,
        "poll_s": 0.05,
        "least_free_gib": 0,
    }
    return site


def train_and_watch(site: Site) -> tuple[tuple[int, str], tuple[int, str]]:
    """Exit code and output of the training and of the watcher, which ends by itself."""
    with site.train() as training:
        training.wait_until(lambda: site.run_dir.config.exists())
        with Command(["watch", str(site.run_dir.root)]) as watching:
            trained = training.finish()
            assert site.events("exit"), trained  # else the watcher waits for a restart
            return trained, watching.finish()


def alerts(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site.run_dir.watch / "alerts.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_garbled_documents_are_found_named_and_skipped(tmp_path: Path) -> None:
    site = poisoned_site(tmp_path)
    (code, output), (watch_code, watch_output) = train_and_watch(site)
    assert code == 0, output
    assert watch_code == 0, watch_output
    assert "training has ended" in watch_output

    spikes = [event for event in site.events("spike") if event["channel"] == "code"]
    assert spikes[0]["direction"] == "up"
    assert ONSET - 2 <= spikes[0]["start"] <= ONSET + 2  # some documents of the first part are held out
    attributed = [event for event in site.events("attributed") if event["dirty"]]
    assert attributed, site.events("attributed")
    assert {(found["channel"], found["part"]) for found in attributed[0]["documents"]} == {("code", "part-00001")}
    assert "is usual" in attributed[0]["reason"]

    (rolled_back,) = site.events("rollback")
    assert rolled_back["step"] == 100
    (window,) = rolled_back["skip_windows"]
    assert window[0] <= (ONSET - 1) * BATCH
    assert window[1] >= (ONSET - 1 + POISONED_STEPS) * BATCH
    assert [record.step for record in site.records()] == list(range(1, TRAIN_STEPS + 1))

    told = RunDir(tmp_path / "told")
    site.config["data"]["skip_windows"] = [window]
    told_code, told_output = site.train(run_dir=told.root).finish()
    assert told_code == 0, told_output
    assert site.losses() == site.losses(told)
    last = [record.values[names.lm_loss_of("code")] for record in site.records()[-20:]]
    assert max(last) < 2.0


@pytest.mark.slow
def test_when_the_budget_is_used_up_a_person_must_look(tmp_path: Path) -> None:
    site = poisoned_site(tmp_path, again_after=100)
    site.config["watch"]["max_rollbacks"] = 1
    (code, output), (watch_code, watch_output) = train_and_watch(site)
    assert code == 76, output
    assert "the budget of 1 rollbacks in 10000 steps is used up" in output
    assert watch_code == 0, watch_output
    assert len(site.events("rollback")) == 1
    (stop,) = site.events("stop-ordered")
    assert "the budget of 1 rollbacks in 10000 steps is used up" in stop["reason"]
    texts = [alert["text"] for alert in alerts(site)]
    assert any("ordered the run to stop; a person must look" in text for text in texts)
    assert any("training left with exit code 76" in text for text in texts)
