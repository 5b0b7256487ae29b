"""A run trains on the parts of a channel that `harness data tokenize` is still making."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from pool import Pool
from small_run import VOCAB_SIZE, launch, records, small_config
from tokenizers import decoders, models, pre_tokenizers, trainers

import data_prep.demo
from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from harness.channels.source import Totals
from harness.config.load import dump_config
from harness.run.paths import RunDir
from harness.tokenizers.tokenizer import open_tokenizer
from harness.usage.ledger import RunLedger

NUM_STEPS = 14
PATIENCE_S = 120.0


@pytest.fixture
def poems() -> list[str]:
    with gzip.open(Path(data_prep.demo.__file__).parent / "zh.jsonl.gz") as lines:
        return [json.loads(next(lines))["text"] for _ in range(200)]


@pytest.fixture
def tokenizer(poems: list[str], tmp_path: Path) -> Path:
    """Of as many ids as the model of the small run has."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>"]
    made.train_from_iterator(
        poems,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


class Tokenizing:
    """Makes a channel in a thread; holds still behind its first part until the run says that it waits for more."""

    def __init__(self, job: ChannelJob, tokenizer: Path, run_dir: Path) -> None:
        self.has_part = threading.Event()
        self.parts_when_waited = 0
        self.error: BaseException | None = None
        self._job, self._tokenizer, self._run_dir = job, tokenizer, run_dir
        self.thread = threading.Thread(target=self._make)
        self.thread.start()

    def _make(self) -> None:
        try:
            tokenize_channel(self._job, open_tokenizer(self._tokenizer), self._hold)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.error = error
        self.has_part.set()

    def _hold(self, totals: Totals, bytes_read: int) -> None:
        if self.parts_when_waited or not self.num_parts():
            return
        self.has_part.set()
        deadline = time.monotonic() + PATIENCE_S
        while not events(self._run_dir, "waiting-for-parts"):
            assert time.monotonic() < deadline, "the run does not wait for parts"
            time.sleep(0.05)
        self.parts_when_waited = self.num_parts()

    def num_parts(self) -> int:
        file = self._job.folder / "parts.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    if not RunDir(run_dir).events.exists():
        return []
    found = [json.loads(line) for line in RunDir(run_dir).events.read_text().splitlines()]
    return [event for event in found if event["kind"] == kind]


@pytest.fixture
def tokenizing(
    poems: list[str], tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tokenizing]:
    monkeypatch.setattr("data_prep.text.reader.BATCH_DOCUMENTS", 5)
    text = tmp_path / "zh.jsonl"
    text.write_text("".join(json.dumps({"text": poem}) + "\n" for poem in poems))
    job = ChannelJob(inputs=[text], folder=tmp_path / "channels" / "zh", tokens_per_part=1500)
    running = Tokenizing(job, tokenizer, tmp_path / "run")
    yield running
    running.thread.join(PATIENCE_S)
    assert not running.thread.is_alive()


@pytest.mark.slow
def test_training_begins_on_the_first_part_and_adopts_the_others(
    tokenizing: Tokenizing, pool: Pool, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    assert tokenizing.has_part.wait(PATIENCE_S) and tokenizing.error is None
    assert tokenizing.num_parts() == 1
    changes: dict[str, Any] = {
        "data.channels": {"zh": {"path": tmp_path / "channels" / "zh", "when_low": "wait"}},
        "data.adopt_every_s": 0.0,
        "phases.blend": {"zh": 1},
        "phases.train_steps": NUM_STEPS,
        "run.stop_at_step": NUM_STEPS,
        "evaluation.held_out_share": 0.0,
    }
    config = small_config(tmp_path, None, changes)
    run_dir.mkdir()
    RunDir(run_dir).config.write_text(dump_config(config))
    launch(pool, config, run_dir)
    tokenizing.thread.join(PATIENCE_S)
    assert tokenizing.error is None
    # The channel was not finished when the run took its first steps, and is by now.
    assert tokenizing.parts_when_waited == 1 < tokenizing.num_parts()
    assert events(run_dir, "adopted")[0]["step"] == events(run_dir, "waiting-for-parts")[0]["step"] > 0
    assert len(records(run_dir)) == NUM_STEPS
    uses = RunLedger(run_dir).parts()
    assert {use.part for use in uses if use.samples} > {"part-00000"} and {use.epoch for use in uses} == {0}
