"""No text of a file, and no name, acts on the terminal of whoever looks at it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy
from small_tokenizers import byte_level

from harness import cli
from harness.run.event_types import SaveFailed
from harness.run.events import event_line
from harness.run.heartbeats import Activity, Beat, beat_to_json
from harness.run.paths import RunDir

ESCAPE = "\x1b]0;owned\x07\x9b31m\u202egnp"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def parquet_with_a_hostile_column(folder: Path) -> list[str]:
    pyarrow.parquet.write_table(pyarrow.table({f"a{ESCAPE}": ["x"]}), folder / "in.parquet")
    byte_level().save(str(folder / "tokenizer.json"))
    names = [str(folder / "in.parquet"), "--tokenizer", str(folder / "tokenizer.json")]
    return ["data", "tokenize", *names, "--channel", "zh", "--output", str(folder / "out")]


def folder_with_a_hostile_name(folder: Path) -> list[str]:
    (folder / f"zh{ESCAPE}").mkdir()
    return ["data", "verify", str(folder / f"zh{ESCAPE}")]


def list_of_parts_with_a_hostile_prefix(folder: Path) -> list[str]:
    line = {"prefix": f"part{ESCAPE}", "tokens": 1, "documents": 1, "bin_bytes": 2, "xxh3": "0" * 16}
    (folder / "parts.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n")
    return ["data", "count", str(folder)]


def text_with_a_hostile_name_among_others(folder: Path) -> list[str]:
    byte_level().save(str(folder / "tokenizer.json"))
    (folder / "in").mkdir()
    (folder / "in" / "a.jsonl").write_text('{"text": "a text"}\n')
    (folder / "in" / f"b{ESCAPE}.doc").touch()
    names = [str(folder / "in"), "--tokenizer", str(folder / "tokenizer.json")]
    return ["data", "tokenize", *names, "--channel", "zh", "--output", str(folder / "out")]


def tokenizer_with_hostile_pieces(folder: Path) -> list[str]:
    tokenizer = byte_level()
    tokenizer.add_tokens([f"piece{ESCAPE}"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "in.jsonl").write_text(json.dumps({"text": f"a piece{ESCAPE} {ESCAPE}"}) + "\n")
    return ["data", "inspect-tokenizer", str(folder / "tokenizer.json"), f"zh={folder / 'in.jsonl'}"]


def model_with_a_hostile_setting(folder: Path) -> list[str]:
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(safetensors.numpy.save({f"t{ESCAPE}": np.zeros(1)}))
    config = {"architectures": [f"Llama{ESCAPE}"], f"key{ESCAPE}": ESCAPE, "model_type": f"llama{ESCAPE}"}
    (folder / "model" / "config.json").write_text(json.dumps(config, ensure_ascii=False))
    return ["convert", "from-hf", str(folder / "model"), str(folder / "run")]


def run_whose_files_are_hostile(folder: Path) -> RunDir:
    run = RunDir(folder / "run")
    run.make_folders()
    run.config.write_text("run: {name: small}\n")
    run.events.write_text(event_line(SaveFailed(attempt=0, step=3, reason=ESCAPE), time.time()) + "\n")
    run.launch(1).mkdir()
    (run.launch(1) / "launch.json").write_text(json.dumps({"job_id": "42", "world_size": 2}))
    now = time.time() + 1
    for rank, step in ((0, 3), (1, 4)):
        beat = Beat(
            rank=rank, host=f"node{ESCAPE}", pid=1, step=step, activity=Activity.DATA, since=now, time=now, spent_s={}
        )
        run.heartbeat(rank).write_text(json.dumps(beat_to_json(beat), ensure_ascii=False))
    return run


def status_of_a_hostile_run(folder: Path) -> list[str]:
    return ["status", str(run_whose_files_are_hostile(folder).root), "--json"]


def diagnosis_of_a_hostile_run(folder: Path) -> list[str]:
    return ["diagnose", str(run_whose_files_are_hostile(folder).root)]


def checkpoints_of_a_hostile_run(folder: Path) -> list[str]:
    run = run_whose_files_are_hostile(folder)
    hostile = run.checkpoints / "step_0000001"
    hostile.mkdir(parents=True)
    (hostile / "manifest.json").write_text(json.dumps({"format_version": ESCAPE}, ensure_ascii=False))
    return ["checkpoint", "verify", str(hostile)]


def configuration_with_hostile_keys(folder: Path) -> list[str]:
    (folder / "run.yaml").write_text('run: {name: "a", "k\\u202eowned": 1}\n')
    return ["plan", str(folder / "run.yaml")]


@pytest.mark.parametrize(
    "prepare",
    [
        parquet_with_a_hostile_column,
        folder_with_a_hostile_name,
        list_of_parts_with_a_hostile_prefix,
        text_with_a_hostile_name_among_others,
        tokenizer_with_hostile_pieces,
        model_with_a_hostile_setting,
        status_of_a_hostile_run,
        diagnosis_of_a_hostile_run,
        checkpoints_of_a_hostile_run,
        configuration_with_hostile_keys,
    ],
)
def test_nothing_acts_on_the_terminal(
    prepare: Callable[[Path], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(prepare(tmp_path))
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert not ACTS.findall(out + err)
    assert "owned" in out + err, "what is hostile is shown"
