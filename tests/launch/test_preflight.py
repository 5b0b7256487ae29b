"""What is found wrong with a run before it is queued."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoint_samples import write_checkpoint
from small_tokenizers import byte_level

from harness.channels.index_file import index_header
from harness.config.load import load_config
from harness.launch import preflight
from harness.launch.preflight import Findings, Request, check_request
from harness.run.lock import RunLock
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line

CONFIG = """\
run: {name: small}
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}
data: {tokenizer: tokenizer.model, channels: {zh: {path: zh}, en: {path: en}}}
phases: [{name: main, train_steps: 10, seq_length: 32, global_batch_size: 64, blend: {zh: 1, en: 1}}]
optimizer: {learning_rate: 3e-4}
watch: {alert_command: [cat]}
"""
Check = Callable[..., Findings]


INDEX = index_header("uint16", 1) + struct.pack("<iqqq", 2, 0, 0, 1)
PART_LINE = json.dumps({"prefix": "part-00000", "tokens": 2, "documents": 1, "bin_bytes": 4, "xxh3": "0" * 16}) + "\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which nothing is wrong."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    byte_level().save(str(tmp_path / "tokenizer.model"))
    (tmp_path / "en").mkdir()
    for prefix in (tmp_path / "zh", tmp_path / "en" / "part-00000"):
        Path(f"{prefix}.bin").write_bytes(b"\1\0\2\0")
        Path(f"{prefix}.idx").write_bytes(INDEX)
    (tmp_path / "en" / "parts.jsonl").write_text(PART_LINE)
    return tmp_path


@pytest.fixture
def check(site: Path) -> Check:
    def look(*overrides: str, nodes: int = 2, **changes: Any) -> Findings:
        config = load_config(site / "config.yaml", overrides)
        request = Request(config=config, run_dir=RunDir(site / "run"), nodes=nodes, after_another=False)
        return check_request(replace(request, **changes))

    return look


def test_nothing_is_found_where_nothing_is_wrong(check: Check) -> None:
    assert check() == Findings(errors=(), warnings=())


def test_room_is_looked_for_where_checkpoints_go(check: Check, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be linked to another disk."""
    (site / "run").mkdir()
    (site / "scratch").mkdir()
    (site / "run" / "checkpoints").symlink_to(site / "scratch")
    is_full = {str(site / "run")}
    whole = shutil.disk_usage(site)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: whole._replace(free=0) if str(path) in is_full else whole)
    assert check() == Findings(errors=(), warnings=())
    is_full.add(str(site / "run" / "checkpoints"))
    assert f"only 0.0 GiB are free in {site / 'run' / 'checkpoints'}, but" in "".join(
        (*check().errors, *check().warnings)
    )


def test_the_layout_must_fit_the_nodes(check: Check) -> None:
    errors = check("parallel.tensor_model_parallel_size=3").errors
    assert all(error.startswith("the layout does not fit 2 nodes with 8 ranks each: ") for error in errors)
    assert any("tensor_model_parallel_size" in error for error in errors)
    errors = check("parallel.tensor_model_parallel_size=3", nodes=1).errors
    assert errors[0].startswith("the layout does not fit 1 node with 8 ranks each: ")


def test_phases_that_have_begun_stay_as_they_are_or_are_confirmed(check: Check, site: Path) -> None:
    write_checkpoint(site / "run/checkpoints/step_0000009", 9, learning_rate=2e-4, cursor={})
    write_checkpoint(site / "run/checkpoints/step_0000012", 12, learning_rate=3e-4, cursor={}, health="abandoned")
    (problem,) = check().errors
    assert problem.startswith("phases.0 (main): the learning rate of step 10 is 3.0e-05, that of the checkpoint's last")
    assert "confirm it with phases.0.schedule.changed_after_step: 9" in problem
    found = check("phases.0.schedule.changed_after_step=9")
    assert found.errors == ()
    assert any("(confirmed by phases.0.schedule.changed_after_step)" in warning for warning in found.warnings)


@pytest.mark.parametrize("prefix", ["zh", "en/part-00000"])
def test_an_index_that_training_would_refuse_is_refused_here(check: Check, site: Path, prefix: str) -> None:
    name = prefix.partition("/")[0]
    index = site / f"{prefix}.idx"
    index.write_bytes(INDEX[:-8] + struct.pack("<q", 0))
    (problem,) = check().errors
    assert problem == (
        f"data.channels.{name}: {prefix}.idx is damaged: its document borders do not rise from 0 to its 1 sequences: "
        "the first is 0, the last is 0. Make the part again."
    )
    index.write_bytes(INDEX + b"\0")
    (problem,) = check().errors
    assert problem.startswith(f"data.channels.{name}: {prefix}.idx has modes: ")


def test_no_more_workers_than_gpus(check: Check) -> None:
    errors = check("launch.gpus_per_node=2", "launch.workers_per_node=4").errors
    assert errors == ("launch.workers_per_node is 4, but there are 2 GPUs on a node; at most one worker a GPU",)


def test_all_missing_files_are_named_together(check: Check, site: Path) -> None:
    (site / "tokenizer.model").unlink()
    (site / "zh.idx").unlink()
    (site / "en" / "part-00000.idx").unlink()
    assert check("launch.environment_file=env.sh", "launch.container_image=/images/a.sqsh").errors == (
        "data.tokenizer: tokenizer tokenizer.model: there is no such file or folder. Check the path.",
        "data.channels.zh: there is no zh/parts.jsonl, and zh.idx cannot be read; make them with `harness data`",
        "data.channels.en: en/part-00000.bin or en/part-00000.idx cannot be read, but en/parts.jsonl lists the part",
        "launch.environment_file: env.sh cannot be read",
        "launch.container_image: /images/a.sqsh cannot be read; give a .sqsh file or the name of an image in a "
        "registry",
    )


def test_an_image_in_a_registry_is_not_looked_for(check: Check) -> None:
    assert check("launch.container_image=nvcr.io#nvidia/pytorch:25.10-py3").errors == ()


def test_a_part_that_was_not_copied_whole_is_named(check: Check, site: Path) -> None:
    (site / "en" / "part-00000.bin").write_bytes(b"12")
    expected = "data.channels.en: en/part-00000.bin has 2 bytes, en/parts.jsonl says 4; was it copied whole?"
    assert check().errors == (expected,)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "en/parts.jsonl lists no part"),
        ("[]\n", "en/parts.jsonl cannot be read: "),
        (PART_LINE.replace('"bin_bytes": 4', '"bin_bytes": Infinity'), "en/parts.jsonl cannot be read: "),
        ("[" * 60_000 + "\n", "en/parts.jsonl cannot be read: "),
    ],
)
def test_a_list_of_parts_must_list_some(check: Check, site: Path, text: str, problem: str) -> None:
    (site / "en" / "parts.jsonl").write_text(text)
    assert check().errors[0].startswith(f"data.channels.en: {problem}")


def test_channels_that_are_not_used_are_not_looked_at(check: Check) -> None:
    assert check("data.channels.code.path=nowhere").errors == ()


def test_the_lead_time_must_be_shorter_than_the_time_limit(check: Check) -> None:
    assert check('launch.time_limit="10"').errors == (
        "launch.signal_lead_s is 600, but launch.time_limit 10 is only 600 s; the run would be stopped at once",
    )


def test_a_run_directory_that_cannot_be_made(check: Check, site: Path) -> None:
    (site / "run").touch()
    assert check().errors == (
        f"the run directory {site / 'run'} cannot be made: {site / 'run'} is not writable; choose another one with "
        "--run-dir",
    )


def test_a_run_that_is_training(check: Check, site: Path) -> None:
    (site / "run").mkdir()
    with RunLock(RunDir(site / "run")):
        (error,) = check().errors
        assert error.startswith(f"{site / 'run'} is in use: process {os.getpid()} on ")
        assert error.endswith(
            "wait for it, or queue behind it with --dependency=afterany:JOB, or choose another directory with --run-dir"
        )
        assert check(after_another=True).errors == ()


def test_there_must_be_room_for_checkpoints(check: Check, monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    monkeypatch.setattr(preflight, "NUM_CHECKPOINTS", 10**9)
    (error,) = check().errors
    assert f"are free in {site}, but 1000000000 checkpoints take about" in error
    assert error.endswith("make room, or choose another directory with --run-dir")


def record(step: int, seconds: float) -> str:
    values = {"train/lm_loss": 1.0, "perf/step_time_s": seconds}
    return to_json_line(
        StepRecord(
            attempt=0,
            step=step,
            time=float(step),
            phase="main",
            consumed_samples=step,
            consumed_tokens=step,
            batch_hash=step,
            values=values,
        )
    )


def test_the_lead_time_is_held_against_what_was_measured(check: Check, site: Path) -> None:
    (site / "run").mkdir()
    (site / "run" / "metrics.jsonl").write_text(record(1, 20.0) + record(2, 120.0))
    saved = {"kind": "saved", "attempt": 0, "step": 2, "path": "c", "seconds": 300.0}
    (site / "run" / "events.jsonl").write_text(json.dumps(saved) + '\n{"kind": "saved"\n')
    assert check().warnings == (
        "launch.signal_lead_s is 600, but the longest step took 120.0 s and the longest save 300.0 s; take at least "
        "630, or the time limit may come before the save is done",
    )
    assert check("launch.signal_lead_s=630").warnings == ()


def test_orders_that_wait_are_told(check: Check, site: Path) -> None:
    (site / "run" / "signals").mkdir(parents=True)
    for name in ("stop", "x.json.tmp", "y.json.partial", "slurm-1.json"):
        (site / "run" / "signals" / name).touch()
    assert check().warnings == (
        f"commands wait in {site / 'run' / 'signals'} and take effect at the start: stop; remove those you do not want",
    )


@pytest.mark.parametrize(
    ("nodes", "kind", "override", "warns"),
    [
        (64, "lustre", "run.seed=1", True),
        (63, "lustre", "run.seed=1", False),
        (64, "ext4", "run.seed=1", False),
        (64, None, "run.seed=1", False),
        (64, "nfs4", "launch.container_image=image.sqsh", False),
    ],
)
def test_packages_on_a_shared_disk_are_told_for_many_nodes(
    nodes: int, kind: str | None, override: str, warns: bool, monkeypatch: pytest.MonkeyPatch, site: Path
) -> None:
    monkeypatch.setattr(preflight, "file_system_of", lambda _: kind)
    config = load_config(site / "config.yaml", [override])
    request = preflight.Request(config=config, run_dir=RunDir(site / "run"), nodes=nodes, after_another=False)
    found = list(preflight._packages_of_many_nodes(request))
    assert len(found) == warns
    if warns:
        assert f"are on a disk that nodes share ({kind}): {nodes} nodes read thousands of files" in found[0]


def test_tensor_parallel_groups_that_span_nodes_are_told(check: Check) -> None:
    overrides = ("parallel.tensor_model_parallel_size=8", "launch.gpus_per_node=4")
    assert check(*overrides).warnings == (
        "parallel.tensor_model_parallel_size 8 spans nodes of 4 ranks: every layer then waits for the network between "
        "nodes",
    )


def test_alerts_that_could_not_be_sent_are_refused(
    check: Check, site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    addresses = tmp_path / "addresses"
    given = f"watch.alert_urls_file={addresses}"
    assert f"{addresses}" in "\n".join(check(given).errors)  # it is not there
    addresses.write_text("page mailto://me:secret@example.org\n")
    addresses.chmod(0o600)
    assert check(given) == Findings(errors=(), warnings=())
    monkeypatch.setitem(sys.modules, "apprise", None)  # as if it were not installed
    (error,) = check(given).errors
    assert "apprise" in error and "secret" not in error
    addresses.write_text("nonsense\n")
    (error,) = check(given).errors
    assert "not the address of a place for alerts" in error
    (error,) = check('watch.alert_command=["no-such-program"]').errors
    assert error == "watch.alert_command: there is no program 'no-such-program' that can be run here"


def test_alerts_are_looked_at_as_the_job_will_send_them(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = 'watch.alert_command=["no-such-program"]'
    (warning,) = check(missing, "launch.container_image=image").warnings
    assert warning.endswith("(here; the job runs in another environment)")
    (warning,) = check("watch.alert_command=[]").warnings
    assert warning.startswith("nobody is told when this run fails or hangs")
    monkeypatch.setenv("HARNESS_ALERT_URLS", "json://localhost")
    (warning,) = check().warnings
    assert warning.startswith("HARNESS_ALERT_URLS is set here, and a job does not get it")
