"""A manifest may say what no run says: the checkpoint is passed over, and every command says so in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_samples import save, store_in

from harness import cli

DATA = {"seed": 1, "channels": {"en": {"parts": [{"prefix": "part-00000"}]}}}

ABSURD: dict[str, tuple[dict[str, Any], str]] = {
    "a step of 81 digits": ({"step": 10**80}, "step: Input should be less than or equal to"),
    "an attempt": ({"attempt": 2**53}, "attempt: Input should be less than or equal to 1000000"),
    "samples": ({"consumed_samples": 2**70}, "consumed_samples: Input should be less than"),
    "tokens below zero": ({"consumed_tokens": -1}, "consumed_tokens: Input should be greater than"),
    "a parent": ({"parent": {"step": 2**70, "attempt": 0}}, "parent.step: Input should be less"),
    "betas": (
        {"adjustment": {"learning_rate_factor": 1.0, "adam_betas": [5.0, 0.9], "until_step": 3}},
        "adjustment.adam_betas.0: Input should be less than 1",
    ),
    "a factor": (
        {"adjustment": {"learning_rate_factor": 1e300, "adam_betas": None, "until_step": 3}},
        "adjustment.learning_rate_factor: Input should be less than or equal to 10",
    ),
    "data that is a list": ({"fingerprint": {"data": [1]}}, "data is no object"),
    "a model that is a number": ({"fingerprint": {"model": 1}}, "model is no object"),
    "channels": ({"fingerprint": {"data": {**DATA, "channels": [1]}}}, "data.channels is no object"),
    "a channel": ({"fingerprint": {"data": {**DATA, "channels": {"en": 1}}}}, "data.channels holds something else"),
    "parts": ({"fingerprint": {"data": {"channels": {"en": {"parts": 7}}}}}, "data.channels.en.parts is no list"),
    "a part": ({"fingerprint": {"data": {"channels": {"en": {"parts": [7]}}}}}, "data.channels.en.parts holds"),
    "phases": ({"fingerprint": {"data": {**DATA, "later_phases": {}}}}, "data.later_phases is no list"),
    "a file above": ({"files": {"../x": {"bytes": 1, "xxh3": "0" * 16}}}, "a file name must be relative"),
    "a file of its own": ({"files": {"manifest.json": {"bytes": 1, "xxh3": "0" * 16}}}, "cannot list itself"),
}


@pytest.mark.parametrize(("fields", "told"), ABSURD.values(), ids=ABSURD)
def test_a_manifest_that_says_what_no_run_says(
    tmp_path: Path, fields: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_in(tmp_path)
    older, newer = save(store, 10), save(store, 20)
    manifest = newer / "manifest.json"
    whole = json.loads(manifest.read_text())
    del whole["checksum"]
    manifest.write_text(json.dumps(whole | fields))
    assert cli.run(["checkpoint", "verify", str(newer)]) == 65
    assert told in capsys.readouterr().out
    for command in (["inspect", str(newer)], ["pin", str(newer)]):
        assert cli.run(["checkpoint", *command]) == 65
        err = capsys.readouterr().err
        assert told in err
        assert "Traceback" not in err
    choice = store.choose("auto")
    assert choice.entry is not None
    assert choice.entry.path == older
    assert told in choice.passed_over[0].reason
    assert cli.run(["checkpoint", "list", str(tmp_path / "run")]) == 0
