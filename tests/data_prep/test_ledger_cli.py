"""`harness data ledger` and `harness data quarantine` on what a run left behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from harness import cli
from harness.channels.channels import open_channel, parts_digest
from harness.cli import root
from harness.config.load import load_config
from harness.data.order.cursor import Cursor
from harness.errors import DataError, UsageError
from harness.run.order_file import append_to_journal
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line
from harness.usage.ledger_verb import ledger
from harness.usage.quarantine_verb import quarantine

BATCH = 4
SEQ_LENGTH = 16


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What is left of a run of ten steps on two channels, whose steps 5 to 7 a rollback left behind."""
    for name in ("zh", "en"):
        (tmp_path / name).mkdir()
        for part in range(2):
            random = np.random.RandomState(part)  # its numbers never change, unlike those of numpy's newer generators
            writer = PartWriter(tmp_path / name, part, token_dtype(100))
            for _ in range(20):
                writer.add_document(random.randint(0, 100, size=random.randint(10, 40)).tolist())
            writer.finish()
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    run_dir.config.write_text(yaml.safe_dump(configuration(tmp_path)))
    channels = load_config(run_dir.config).data.channels
    opened = {name: open_channel(name, channel) for name, channel in channels.items()}
    begun = Cursor().adopt({name: (2, parts_digest(each.parts)) for name, each in opened.items()})
    append_to_journal(run_dir.order, begun.history)
    line = [*((0, step, BATCH * step) for step in range(1, 8)), *((1, step, BATCH * step) for step in range(5, 11))]
    run_dir.metrics.write_text("".join(to_json_line(record(*each)) for each in line))
    event = {"kind": "rollback", "attempt": 1, "step": 4, "skip_windows": [[16, 28]]}
    run_dir.events.write_text(json.dumps(event) + "\n")
    return run_dir.root


def record(attempt: int, step: int, consumed: int) -> StepRecord:
    return StepRecord(
        attempt=attempt,
        step=step,
        time=0.0,
        phase="main",
        consumed_samples=consumed,
        consumed_tokens=SEQ_LENGTH * consumed,
        batch_hash=1,
        values={},
    )


def configuration(folder: Path) -> dict[str, Any]:
    return {
        "run": {"name": "small"},
        "model": {
            "num_layers": 1,
            "hidden_size": 8,
            "num_attention_heads": 1,
            "ffn_hidden_size": 8,
            "vocab_size": 100,
        },
        "data": {"channels": {name: {"path": str(folder / name)} for name in ("zh", "en")}},
        "phases": [
            {
                "name": "main",
                "train_steps": 20,
                "seq_length": SEQ_LENGTH,
                "global_batch_size": BATCH,
                "blend": {"zh": 3, "en": 1},
            }
        ],
        "optimizer": {"learning_rate": 1e-3},
    }


def call(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_ledger_counts_what_was_kept_left_behind_and_skipped(run: Path) -> None:
    rows = json.loads(call(ledger, run, "--json").stdout)
    assert {row["phase"] for row in rows} == {"main"}

    def samples(**wanted: object) -> int:
        return sum(row["samples"] for row in rows if all(row[key] == value for key, value in wanted.items()))

    assert samples(is_kept=True, is_skipped=False) == 10 * BATCH
    assert samples(is_kept=False) == 3 * BATCH
    assert samples(is_skipped=True) == 12
    assert samples(attempt=1, is_skipped=False) == 6 * BATCH
    assert samples(channel="zh", attempt=0, is_kept=True, is_skipped=False) == 12
    table = call(ledger, run, "--parts").stdout
    assert table.count("zh") == 3
    assert "part-00000" in table


def test_ledger_of_documents(run: Path, tmp_path: Path) -> None:
    rows = json.loads(call(ledger, run, "--documents", "en/part-00000", "--json").stdout)
    assert [row["document"] for row in rows] == list(range(20))
    uses = json.loads(call(ledger, run, "--json").stdout)
    used = sum(
        use["tokens"]
        for use in uses
        if (use["channel"], use["part"], use["is_kept"], use["is_skipped"]) == ("en", "part-00000", True, False)
    )
    assert sum(row["tokens"] for row in rows) == used > 0
    assert " tokens, " in call(ledger, run, "--documents", "en/part-00000").stdout
    call(ledger, run, "--documents", "en/part-00000", "--parquet", tmp_path / "documents.parquet")
    call(ledger, run, "--parquet", tmp_path / "parts.parquet", "--json")
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "documents.parquet").to_pylist()[0] == rows[0]
    assert parquet.read_table(tmp_path / "parts.parquet").to_pylist() == uses


def test_ledger_says_what_is_wrong(run: Path, tmp_path: Path) -> None:
    assert "is not a run directory: there is no config.yaml in it" in str(call(ledger, tmp_path).exception)
    several = call(ledger, run, "--documents", "part-00000").exception
    assert isinstance(several, UsageError)
    assert "the channels en, zh have a part of that name. Give channel and part, such as zh/part-00007." in str(several)
    unknown = call(ledger, run, "--documents", "fr/part-00000").exception
    assert isinstance(unknown, DataError)
    assert "the run has no channel fr; its channels: en, zh." in str(unknown)
    unwritable = call(ledger, run, "--parquet", tmp_path / "no" / "x.parquet").exception
    assert "cannot write" in str(unwritable)


@pytest.mark.parametrize("command", ["show", "where"])
def test_a_step_whose_record_is_cut_off_is_named(run: Path, command: str) -> None:
    lines = RunDir(run).metrics.read_text().splitlines(keepends=True)
    RunDir(run).metrics.write_text("".join(lines[:-1]) + lines[-1][:60] + "\n")
    found = call(root, "data", command, run, "--step", 10).exception
    assert isinstance(found, UsageError)
    assert "has no record of step 10; its records up to there end with step 9." in str(found)


@pytest.mark.parametrize("command", ["show", "where"])
def test_a_cut_off_copy_does_not_hide_the_record_of_a_step(run: Path, command: str) -> None:
    lines = RunDir(run).metrics.read_text().splitlines(keepends=True)
    RunDir(run).metrics.write_text("".join(lines) + lines[-1][:60] + "\n")
    found = call(root, "data", command, run, "--step", 10).exception
    assert isinstance(found, DataError)  # the hashes of this run are invented
    assert "do not have the batch hash 0000000000000001 of its record" in str(found)


def test_quarantine_drops_an_order(run: Path, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence.jsonl"
    sample = {"loss": 9.5, "channel": "en", "part": "part-00001", "documents": [3, 4]}
    evidence.write_text("".join(json.dumps(each) + "\n" for each in (sample, sample, {**sample, "documents": [9]})))
    chosen = ("--document", "zh/part-00000:7", "--evidence", evidence, "--top", 2, "--reason", "garbled")
    assert call(quarantine, run, *chosen).stdout.startswith("command given for 3 documents: ")
    (file,) = (run / "signals").glob("quarantine-*.json")
    assert json.loads(file.read_text()) == {
        "kind": "quarantine",
        "reason": "garbled",
        "documents": {"zh/part-00000": [7], "en/part-00001": [3, 4]},
    }
    file.unlink()
    call(quarantine, run, "--document", "zh/part-00000:7", "--undo")
    (file,) = (run / "signals").glob("quarantine-*.json")
    assert json.loads(file.read_text())["lift"] is True


def test_quarantine_lists_what_is_kept_out(run: Path) -> None:
    assert call(quarantine, run).stdout == "no documents are in quarantine\n"
    append_to_journal(RunDir(run).order, Cursor().quarantine("zh", "part-00000", {7: 30}).history)
    assert call(quarantine, run).stdout == "zh/part-00000:7  30 tokens\n"
    assert json.loads(call(quarantine, run, "--json").stdout) == {"zh/part-00000": [7]}


def test_quarantine_says_what_is_wrong(run: Path, tmp_path: Path) -> None:
    for text in ("zh:7", "zh/part-00000", "zh/part-00000:x", "a/b/c:1"):
        found = call(quarantine, run, "--document", text).exception
        assert isinstance(found, UsageError)
        assert (
            str(found) == f"--document {text}: no document; give channel, part and number, such as zh/part-00007:8812"
        )
    (tmp_path / "other").write_text('{"loss": 1}\n')
    found = call(quarantine, run, "--evidence", tmp_path / "other").exception
    assert "cannot be read as evidence (Field required). It has one JSON object per sample" in str(found)
    assert "is not a run directory" in str(call(quarantine, tmp_path, "--document", "zh/p:1").exception)
    assert "is not a run directory" in str(call(quarantine, tmp_path).exception)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"consumed_samples": 2**53}, "which no step can do"),
        ({"consumed_samples": 12}, "which no step can do"),
        ({"positions": [[28, 29]]}, "and names 1 positions, which no step can do"),
        ({"positions": [[2**52, 2**52 + BATCH]]}, "but by its consumed samples and the skip windows"),
        ({"phase": "elsewhere"}, "was trained in phase 'elsewhere', and config.yaml has the phases main"),
        ({"step": 2**53}, "has no record of step 9007199254740991"),
    ],
)
def test_records_that_do_not_fit_each_other_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], message: str
) -> None:
    path = RunDir(run).metrics
    lines = path.read_text().splitlines()
    lines[7] = json.dumps(json.loads(lines[7]) | changes)
    path.write_text("\n".join(lines) + "\n")
    for arguments in (["ledger", str(run)], ["ledger", str(run), "--json"]):
        assert cli.run(["data", *arguments]) == 65
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"kind": "parts", "position": 9007199254740993, "channel": "zh", "num_parts": 1, "digest": "a"}',
        b'{"kind": "rollback", "order": "a", "skip_windows": [[1e3, 2000]]}',
        b'{"kind": "rollback", "order": "\\ud800", "skip_windows": []}',
        b"7",
        b"\0" * 100,
        b"\xff",
        b"x" * (5 * 1024**2),
    ],
)
def test_every_command_names_the_damaged_line_of_a_journal(
    run: Path, capsys: pytest.CaptureFixture[str], line: bytes
) -> None:
    path = RunDir(run).order
    path.write_bytes(path.read_bytes() + line + b"\n")
    for arguments in (["ledger", str(run)], ["where", str(run), "--step", "3"], ["quarantine", str(run)]):
        assert cli.run(["data", *arguments]) == 65
        assert f"{path} is damaged: line 3: " in capsys.readouterr().err


def test_a_journal_that_is_no_file_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = RunDir(run).order
    path.unlink()
    os.mkfifo(path)
    assert cli.run(["data", "ledger", str(run)]) == 65
    assert "order.jsonl: not a regular file" in capsys.readouterr().err
