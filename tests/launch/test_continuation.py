"""One `harness train` through phases with layouts of their own, with small workers in place of the trainer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from checkpoint_samples import write_checkpoint

from harness.config.load import load_config
from harness.launch import local
from harness.launch.local import phase_to_begin_with, size_of_events, train, wanted_phase
from harness.launch.requirements import require_installed
from harness.parallel.gpu_environment import settle_for
from harness.plan.layouts import needed_world_sizes
from harness.plan.plan import make_plan
from harness.run.paths import RunDir

EXAMPLE = Path(__file__).parents[2] / "model_configs" / "tiny_phases.yaml"
ALONE = ("parallel.data_parallel_size=1",)

# Saves at the end of the phases that share its layout, and leaves as the trainer would.
TRAINS = (
    f"sys_path = {str(Path(__file__).parents[1])!r}"
    + """
import json, os, sys
from pathlib import Path
sys.path.append(sys_path)
from checkpoint_samples import write_checkpoint
from harness.run.paths import RunDir
run = RunDir(Path(sys.argv[2]))
to, code, further = {"1": (153, 75, {"next_phase": "long"}), "2": (233, 0, {})}[os.environ["WORLD_SIZE"]]
if os.environ["RANK"] == "0":
    write_checkpoint(run.checkpoint(to), to)
    with run.events.open("a") as events:
        events.write(json.dumps({"kind": "exit", "attempt": 0, "step": to, "exit_code": code, **further}) + "\\n")
    with (run.root / "told").open("a") as told:
        told.write(" ".join([os.environ["WORLD_SIZE"], *sys.argv[3:]]) + "\\n")
sys.exit(code)
"""
)
STOPPED = "import sys; sys.exit(75)"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without ranks on a machine without GPUs."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(local, "count_gpus", lambda: 0)


def worker(body: str) -> tuple[str, ...]:
    return (sys.executable, "-c", body)


def test_workers_of_the_next_layout_are_started_by_the_same_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(EXAMPLE, tmp_path, ALONE, "never", worker(TRAINS)) == 0
    first, second = (RunDir(tmp_path).launch(number) / "config.yaml" for number in (1, 2))
    assert (tmp_path / "told").read_text().splitlines() == [
        f"1 --resume never --config {first}",
        f"2 --resume auto --config {second}",
    ]
    assert capfd.readouterr().err.splitlines() == [
        f"{tmp_path}: starting 1 process on the CPU",
        f"{tmp_path}: going on with phase long in its own layout",
        f"{tmp_path}: starting 2 processes on the CPU",
    ]
    facts = [json.loads((RunDir(tmp_path).launch(n) / "launch.json").read_text()) for n in (1, 2)]
    assert [(fact["phase"], fact["world_size"]) for fact in facts] == [("warmup", 1), ("long", 2)]


def test_a_run_that_was_stopped_otherwise_is_left_alone(tmp_path: Path) -> None:
    assert train(EXAMPLE, tmp_path, ALONE, "auto", worker(STOPPED)) == 75
    assert not RunDir(tmp_path).launch(2).exists()


def test_the_phase_is_that_behind_the_newest_checkpoint(tmp_path: Path) -> None:
    config = load_config(EXAMPLE)
    plan, run = make_plan(config, needed_world_sizes(config)), RunDir(tmp_path)
    assert phase_to_begin_with(run, plan, "auto").name == "warmup"
    for step, name in ((29, "warmup"), (30, "main"), (153, "long"), (233, "anneal")):
        write_checkpoint(run.checkpoint(step), step)
        assert phase_to_begin_with(run, plan, "auto").name == name
    assert phase_to_begin_with(run, plan, "never").name == "warmup"


def test_only_what_the_launch_itself_said_counts(tmp_path: Path) -> None:
    config = load_config(EXAMPLE)
    plan, run = make_plan(config, needed_world_sizes(config)), RunDir(tmp_path)
    assert wanted_phase(run, plan, size_of_events(run)) is None
    run.events.write_text('{"kind": "exit", "attempt": 0, "step": 1, "exit_code": 75, "next_phase": "long"}\n')
    known = size_of_events(run)
    found = wanted_phase(run, plan, 0)
    assert found is not None
    assert found.name == "long"
    assert wanted_phase(run, plan, known) is None
    with run.events.open("a") as events:
        events.write('{"kind": "exit", "next_ph\n{"kind": "exit", "attempt": 0, "step": 1, "exit_code": 75}\n')
    assert wanted_phase(run, plan, known) is None


def test_the_environment_and_the_requirements_are_those_of_all_phases() -> None:
    config = load_config(EXAMPLE)
    environ: dict[str, str] = {}
    settle_for(config, environ)
    assert environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    shares = load_config(
        EXAMPLE,
        (
            "phases.2.parallel={context_parallel_size: 2, cp_comm_type: p2p, micro_batch_size: 2}",
            "precision.dtype=bf16",
        ),
    )
    with pytest.raises(local.ConfigError, match=r"phases\.2\.parallel\.cp_comm_type: ranks are to share samples"):
        require_installed(shares, num_gpus=8, module="no_such_module")
